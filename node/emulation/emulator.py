"""The simulator's fluid network in real time, for processes that really send.

A node asks for a transfer over its socket and is told when the last byte has left. In between the emulator runs
:class:`~node.sim.fluid_network.FluidNetwork` on the run's clock, so that rates and shares are those of the simulator.

The host is late: a wake-up comes some 100 us after its instant, and so does a record. No bandwidth is lost by it,
because every call of the network carries the instant at which it should have been made. A transfer's end is told
as the exact instant, however late it is told; the sender says when its next transfer was ready, which is that
instant if a message waited; and the network lets the transfer begin then, in the past. What is too late to be made
up for (:data:`LATENESS_MAX_S`, :data:`LATENESS_MAX_NS`) is counted and begins that much before now.

What comes from a node is checked and, where it makes no sense, counted and ignored. A node may change its own
access link and the pairs that it sends on. A node that closes its socket, or does not read it, is forgotten.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count
from typing import NoReturn

from node.core.errors import ConfigError, RunnerError
from node.core.lateness import LatenessHistogram
from node.core.links import CapacityChange, NetworkPlan
from node.core.units import NS_PER_S
from node.emulation.protocol import (
    AT_ONCE,
    DATAGRAM_BYTES,
    RECORD_BYTES,
    Abort,
    Change,
    Notice,
    Request,
    Start,
    decode_requests,
    encode_notice,
)
from node.emulation.statistics import EmulatorStatistics
from node.host.clock import Clock
from node.host.forked import belong_to, close_all_but
from node.host.timed_poll import TimedPoll
from node.sim.fluid_network import UNLIMITED, Flow, FluidNetwork

LATENESS_MAX_S = 0.05
"""How late a record may be, in real seconds, and still take effect at its own time."""

LATENESS_MAX_NS = 10_000_000
"""The same in testbed time: whichever is more. Twice of what an arrival may be late in a run that is called faithful;
that it was late shows there."""

WIRE_BYTES_MAX = 1 << 40
"""No transfer is larger."""

TRANSFERS_MAX = 1_024
"""No node has more transfers under way."""

WAITING_MAX = 65_536
"""No node has more requests waiting for their time: changes of capacity that lie ahead."""

_UNREAD_RECORDS_MAX = 8 * TRANSFERS_MAX
_STATS, _STOP = b"stats", b"stop"


class _Node:
    """A node's side of the emulator.

    Attributes:
        socket: The emulator's end of its socket pair.
        flows: Its transfers under way, by its own numbers.
        unsent: Notices that the socket has not taken yet.
        blocked: Whether the socket was full and is watched for writing.
        waiting: How many of its requests have not taken effect.
        asked_ns: When its last start or abort took effect; they take effect in the order in which it sent them.
    """

    __slots__ = ("asked_ns", "blocked", "flows", "socket", "unsent", "waiting")

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.flows: dict[int, Flow] = {}
        self.unsent = bytearray()
        self.blocked = False
        self.waiting = 0
        self.asked_ns = AT_ONCE


class LinkEmulator:
    """Runs a network in real time.

    Args:
        plan: Capacities at the start. Its ``changes`` are not applied: nodes ask for them.
        clock: Testbed time, the same for all nodes.
        sockets: The emulator's end of each node's SOCK_SEQPACKET pair, by node.
        control: Its end of the owner's pair. ``stats`` is answered with :class:`EmulatorStatistics`; ``stop``
            too, and ends it; so does closing the other end.
    """

    def __init__(
        self, plan: NetworkPlan, clock: Clock, sockets: Sequence[socket.socket], control: socket.socket
    ) -> None:
        assert len(sockets) == plan.num_nodes, "one socket a node"
        self._clock = clock
        self._count = plan.num_nodes
        self._network = FluidNetwork(plan, self._schedule)
        self._nodes: dict[int, _Node] = {index: _Node(end) for index, end in enumerate(sockets)}
        self._control = control
        self._allowance_ns = max(LATENESS_MAX_NS, int(LATENESS_MAX_S * NS_PER_S / clock.dilation))
        # What is due when: (time, order, node, a flow whose end is near or a request).
        self._heap: list[tuple[int, int, int, Flow | Request]] = []
        self._order = count()
        self._talkative: dict[int, None] = {}  # nodes with notices to send
        self._now_ns = 0
        self._stopping = False
        self._starts = self._finishes = self._aborts = self._changes = 0
        self._ignored = self._excessive = self._gone = 0
        self._wakeup_lateness = LatenessHistogram()
        self._start_lateness = LatenessHistogram()
        self._change_lateness_ns_max = 0

    def run(self) -> None:
        """Emulate until the control socket closes or says stop."""
        poll = self._poll = TimedPoll()
        by_descriptor = {node.socket.fileno(): index for index, node in self._nodes.items()}
        control = self._control.fileno()
        for end in (self._control, *(node.socket for node in self._nodes.values())):
            end.setblocking(False)
            poll.watch(end.fileno())
        while not self._stopping:
            # A nanosecond later, because dilation rounds: at the instant it must be due.
            instant = self._clock.monotonic_ns(self._heap[0][0]) + 1 if self._heap else None
            ready = poll.wait(None if instant is None else max(1, instant))
            self._now_ns = self._clock.now_ns()
            for descriptor, mask in ready:
                if descriptor == control:
                    self._obey()
                else:
                    self._hear(by_descriptor[descriptor], mask)
            self._advance()
            self._speak()
        poll.close()

    def statistics(self) -> EmulatorStatistics:
        """All that was counted so far."""
        return EmulatorStatistics(
            starts=self._starts,
            finishes=self._finishes,
            aborts=self._aborts,
            changes=self._changes,
            ignored=self._ignored,
            excessive_delays=self._excessive,
            nodes_gone=self._gone,
            wakeup_lateness_ns=self._wakeup_lateness.summary(),
            start_lateness_ns=self._start_lateness.summary(),
            change_lateness_ns_max=self._change_lateness_ns_max,
            cpu_s=time.process_time(),
        )

    # --- what comes in ---

    def _obey(self) -> None:
        try:
            command = self._control.recv(DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            command = b""
        if command in (_STATS, _STOP):
            with contextlib.suppress(OSError):  # whoever does not read what it asked for goes without
                self._control.send(self.statistics().to_json())
        if command in (b"", _STOP):
            self._stopping = True

    def _hear(self, index: int, mask: int) -> None:
        """Take one datagram of a node; the poll reports those behind it again."""
        node = self._nodes.get(index)
        if node is None:
            return
        if mask & select.EPOLLOUT:
            self._talkative[index] = None
        if not mask & ~select.EPOLLOUT:
            return
        try:
            datagram = node.socket.recv(DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            datagram = b""
        if not datagram:
            self._forget(index)
            return
        for request in decode_requests(datagram):
            if request is None or node.waiting == WAITING_MAX or not self._allowed(index, request):
                self._ignored += 1
            else:
                node.waiting += 1
                heappush(self._heap, (self._effective_ns(node, request), next(self._order), index, request))

    def _allowed(self, index: int, request: Request) -> bool:
        """Whether a request makes sense and the node has a right to it, apart from its number."""
        match request:
            case Start(_, receiver, wire_bytes, _):
                return 0 <= receiver < self._count and receiver != index and 1 <= wire_bytes <= WIRE_BYTES_MAX
            case Abort():
                return True
            case Change(_, CapacityChange(kind, source, destination, mbps)):
                if not mbps >= 0:  # nor a number at all
                    return False
                if kind == "up":
                    return source == index
                if kind == "down":
                    return destination == index
                return source == index and 0 <= destination < self._count and destination != index

    def _effective_ns(self, node: _Node, request: Request) -> int:
        """The time at which a request takes effect: its own, if that is not too long ago."""
        now, earliest = self._now_ns, self._now_ns - self._allowance_ns
        match request:
            case Start(ready_ns=at_ns):
                self._start_lateness.add(now - at_ns)
            case Abort(at_ns=at_ns):
                if at_ns == AT_ONCE:
                    at_ns = now
            case Change(at_ns=at_ns):
                self._change_lateness_ns_max = max(self._change_lateness_ns_max, now - at_ns)
        if at_ns < earliest:
            self._excessive += 1
            at_ns = earliest
        if isinstance(request, Change):
            return at_ns
        node.asked_ns = max(node.asked_ns, min(at_ns, now))
        return node.asked_ns

    def _forget(self, index: int) -> None:
        """A node is gone: its transfers end here, those to it go on until their senders abort them."""
        node = self._nodes.pop(index)
        self._gone += 1
        for flow in node.flows.values():
            self._network.abort(flow, self._now_ns)
            self._aborts += 1
        self._talkative.pop(index, None)
        self._poll.forget(node.socket.fileno())
        node.socket.close()

    # --- what happens ---

    def _schedule(self, finish_ns: int, flow: Flow) -> None:
        heappush(self._heap, (finish_ns, next(self._order), flow.source, flow))

    def _advance(self) -> None:
        """Let everything happen that is due, in order of time as far as it is known."""
        heap = self._heap
        while heap and heap[0][0] <= self._now_ns:
            at_ns, _, index, what = heappop(heap)
            if isinstance(what, Flow):
                self._end(what, at_ns)
            elif (node := self._nodes.get(index)) is not None:
                node.waiting -= 1
                match what:
                    case Start():
                        self._start(index, node, what, at_ns)
                    case Abort(number, _):
                        self._abort(node, number, at_ns)
                    case Change(_, change):
                        self._change(change, at_ns)

    def _start(self, index: int, node: _Node, start: Start, at_ns: int) -> None:
        flows = node.flows
        if start.number in flows or len(flows) >= TRANSFERS_MAX:
            self._ignored += 1
            return
        self._starts += 1
        flow = self._network.start(at_ns, index, start.receiver, start.wire_bytes, None)
        flow.number = start.number
        flows[start.number] = flow

    def _end(self, flow: Flow, at_ns: int) -> None:
        unlimited = flow.rate == UNLIMITED
        if not self._network.finish(flow, at_ns):
            return
        self._finishes += 1
        # Without limits a transfer takes the time that the host takes; its successor is not late.
        told_ns = self._now_ns if unlimited else at_ns
        self._tell(flow, Notice(False, flow.number, told_ns, flow.size))

    def _abort(self, node: _Node, number: int, at_ns: int) -> None:
        flow = node.flows.get(number)
        if flow is None:  # it has ended and the node will hear of it
            return
        self._aborts += 1
        self._tell(flow, Notice(True, number, at_ns, self._network.abort(flow, at_ns)))

    def _change(self, change: CapacityChange, at_ns: int) -> None:
        self._changes += 1
        match change.kind:
            case "up":
                self._network.set_up(change.source, change.mbps, at_ns)
            case "down":
                self._network.set_down(change.destination, change.mbps, at_ns)
            case "pair":
                self._network.set_pair(change.source, change.destination, change.mbps, at_ns)

    # --- what goes out ---

    def _tell(self, flow: Flow, notice: Notice) -> None:
        node = self._nodes[flow.source]
        del node.flows[notice.number]
        node.unsent += encode_notice(notice)
        self._talkative[flow.source] = None
        if not notice.aborted:
            self._wakeup_lateness.add(self._clock.now_ns() - notice.at_ns)

    def _speak(self) -> None:
        """Send what the nodes should know, as far as their sockets take it."""
        talkative, self._talkative = self._talkative, {}
        for index in talkative:
            node = self._nodes[index]
            try:
                while node.unsent:
                    node.socket.send(node.unsent[:DATAGRAM_BYTES])
                    del node.unsent[:DATAGRAM_BYTES]
            except BlockingIOError:
                if len(node.unsent) > _UNREAD_RECORDS_MAX * RECORD_BYTES:
                    self._forget(index)
                    continue
            except OSError:
                self._forget(index)
                continue
            if node.blocked != bool(node.unsent):
                node.blocked = bool(node.unsent)
                self._poll.watch_writing(node.socket.fileno(), node.blocked)


class EmulatorHandle:
    """The owner's hold on an emulator's process.

    Attributes:
        pid: The process.
        node_ends: The nodes' ends of their sockets, by node.
    """

    def __init__(self, pid: int, node_ends: list[socket.socket], control: socket.socket) -> None:
        self.pid = pid
        self.node_ends = node_ends
        self._control = control
        self._exit_code: int | None = None

    def take(self, node: int) -> socket.socket:
        """Keep one node's end and close all else; for the process of that node, after its fork.

        Returns:
            The end, under the lowest descriptor that is free: ``select`` takes none above 1,023.
        """
        own = self.node_ends[node]
        for end in (*self.node_ends, self._control):
            if end is not own:
                end.close()
        low = own.dup()
        own.close()
        self.node_ends = []
        return low

    def release(self) -> None:
        """Close the nodes' ends; for the owner, once every node's process has its own."""
        for end in self.node_ends:
            end.close()
        self.node_ends = []

    def leave(self) -> None:
        """Close all ends; for a process that was forked and is no node."""
        self.release()
        self._control.close()

    def exit_code(self) -> int | None:
        """How the process ended, negative for a signal; None while it runs."""
        if self._exit_code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # someone else asked for its status first
                pid, status = self.pid, 0
            if pid:
                self._exit_code = os.waitstatus_to_exitcode(status)
        return self._exit_code

    def stats(self, timeout_s: float = 2.0) -> EmulatorStatistics:
        """What the emulator has measured so far.

        Raises:
            RunnerError: It has ended or does not answer in time.
        """
        return self._ask(_STATS, timeout_s)

    def stop(self, timeout_s: float = 2.0) -> EmulatorStatistics | None:
        """End the process: by asking, and when it does not end in time, by force. May be called again.

        Returns:
            The last statistics; None where the emulator could not say.
        """
        statistics = None
        deadline_s = time.monotonic() + timeout_s
        if self._control.fileno() >= 0:
            with contextlib.suppress(RunnerError):
                statistics = self._ask(_STOP, timeout_s)
        self.leave()
        while self.exit_code() is None and time.monotonic() < deadline_s:
            self._await_exit(deadline_s - time.monotonic())
        if self.exit_code() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                self._exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return statistics

    def _ask(self, command: bytes, timeout_s: float) -> EmulatorStatistics:
        try:
            self._control.settimeout(timeout_s)
            self._control.send(command)
            answer = self._control.recv(DATAGRAM_BYTES)
        except TimeoutError as error:
            raise RunnerError(f"the link emulator (process {self.pid}) did not answer in {timeout_s} s") from error
        except OSError as error:
            raise RunnerError(f"the link emulator (process {self.pid}) has ended: {error}") from error
        if not answer:
            raise RunnerError(f"the link emulator (process {self.pid}) has ended")
        return EmulatorStatistics.from_json(answer)

    def _await_exit(self, timeout_s: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                select.select([descriptor], [], [], timeout_s)
            finally:
                os.close(descriptor)


def start_emulator(plan: NetworkPlan, clock: Clock, num_nodes: int) -> EmulatorHandle:
    """Fork the emulator's process. It ends with the thread that calls this, at the latest.

    Args:
        plan: The network.
        clock: The run's clock; transfers begin when nodes ask for them, be its time negative.
        num_nodes: How many sockets to make: one a node of the plan.

    Raises:
        ConfigError: This system lacks what the emulator is made of.
        RunnerError: The sockets or the process cannot be made.
    """
    if not hasattr(os, "pidfd_open"):
        raise ConfigError("runtime=processes: links between processes are emulated on Linux only")
    assert num_nodes == plan.num_nodes, "one socket a node"
    owner = os.getpid()
    ends: list[socket.socket] = []
    try:
        for _ in range(num_nodes + 1):
            ends += socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
    except OSError as error:
        for end in ends:
            end.close()
        raise RunnerError(f"cannot start the link emulator for {num_nodes} nodes: {error}") from error
    ours, its = ends[0::2], ends[1::2]
    if pid == 0:
        _enter(plan, clock, its, owner)
    for end in its:
        end.close()
    return EmulatorHandle(pid, ours[1:], ours[0])


def _enter(plan: NetworkPlan, clock: Clock, ends: list[socket.socket], owner: int) -> NoReturn:
    """What the forked child does instead of returning; nothing may escape into the owner's code."""
    code = 1
    try:
        belong_to(owner)
        close_all_but({0, 1, 2, *(end.fileno() for end in ends)})
        gc.disable()  # nothing here makes cycles, and a collection would copy the owner's memory
        LinkEmulator(plan, clock, ends[1:], ends[0]).run()
        code = 0
    except BaseException:  # the last frame of this process: a mistake of our own
        traceback.print_exc()
    finally:
        os._exit(code)
