"""The simulator's fluid network in real time, for processes that really send.

A node asks for a transfer over its socket and is told when the last byte has left. In between the emulator runs
:mod:`node.sim.network` on the run's clock, so that rates and shares are those of the simulator.

The host is late: a wake-up comes some 100 us after its instant, and so does a record. No bandwidth is lost by it,
because every call of the network carries the instant at which it should have been made. A transfer's end is told
as the exact instant, however late it is told; the sender says when its next transfer was ready, which is that
instant if a message waited; and the network lets the transfer begin then, in the past. What is too late to be made
up for (:data:`LATENESS_MAX_S`, :data:`LATENESS_MAX_NS`) is counted and begins that much before now.

The plan's changes of capacity belong to the emulator, so that a link changes at its instant whatever becomes of its
nodes. They begin when the owner says when the experiment does (:meth:`EmulatorHandle.begin`). Only the next one is
looked at, so that any number of them costs nothing until its time has come.

Nodes come by its address, see :mod:`node.emulation.door`. What comes from a node is checked and, where it makes no
sense, counted and ignored; a run in which that happened is not faithful. A node that closes its socket, or does not
read it, is forgotten; it may come back.
"""

import contextlib
import errno
import gc
import os
import resource
import select
import signal
import socket
import time
import traceback
from heapq import heappop, heappush
from itertools import count
from typing import NoReturn

from node.core.errors import ConfigError, RunnerError
from node.core.lateness import LatenessHistogram
from node.core.links import NetworkPlan
from node.core.units import NS_PER_S
from node.emulation.door import STRANGERS_MAX, Door, open_door
from node.emulation.protocol import (
    AT_ONCE,
    DATAGRAM_BYTES,
    RECORD_BYTES,
    Abort,
    Answer,
    Notice,
    Request,
    Start,
    decode_requests,
    encode_answer,
    encode_notice,
)
from node.emulation.statistics import EmulatorStatistics
from node.host.clock import Clock
from node.host.forked import belong_to, close_all_but
from node.host.timed_poll import TimedPoll
from node.sim.network import Due, NetworkFlow, change_links, make_network

LATENESS_MAX_S = 0.05
"""Lateness with which a record still takes effect at its own time, in real seconds."""

LATENESS_MAX_NS = 10_000_000
"""The same in testbed time: whichever is more. Twice of what an arrival may be late in a run that is called faithful;
that it was late shows there."""

WIRE_BYTES_MAX = 1 << 40
"""No transfer is larger."""

TRANSFERS_MAX = 1_024
"""No node has more transfers under way, or as many as two to each node of the network, whichever is more."""

ANSWER_S = 20.0
"""Longest time that the emulator may take to answer its owner, real seconds. It takes less than one where it gets a
core at all."""

_SPARE_DESCRIPTORS = STRANGERS_MAX + 16
_UNREAD_TRANSFERS = 8
"""A node that has not read so many records a transfer that it may have under way does not read."""
_STATS, _STOP, _BEGIN = b"stats", b"stop", b"begin"
_NEVER = (1 << 63) - 1


class EmulatedNode:
    """A node's side of the emulator.

    Attributes:
        index: Which node.
        socket: The emulator's end of its connection.
        flows: Its transfers under way, by its own numbers.
        unsent: Notices that the socket has not taken yet.
        blocked: Whether the socket was full and is watched for writing.
        asked_ns: When its last start or abort took effect; they take effect in the order in which it sent them.
    """

    __slots__ = ("asked_ns", "blocked", "flows", "index", "socket", "unsent")

    def __init__(self, index: int, end: socket.socket) -> None:
        self.index = index
        self.socket = end
        self.flows: dict[int, NetworkFlow] = {}
        self.unsent = bytearray()
        self.blocked = False
        self.asked_ns = AT_ONCE


class LinkEmulator:
    """Runs a network in real time.

    Args:
        plan: Capacities at the start, and their changes in the experiment's time, which counts from ``begin``.
        clock: Testbed time, the same for all nodes.
        listener: Listens for the nodes.
        control: Its end of the owner's pair. ``stats`` and ``begin`` (see :meth:`EmulatorHandle.begin`) are answered
            with :class:`EmulatorStatistics`; ``stop`` too, and ends it; so does closing the other end.
    """

    def __init__(self, plan: NetworkPlan, clock: Clock, listener: socket.socket, control: socket.socket) -> None:
        self._clock = clock
        self._count = plan.num_nodes
        self._transfers_max = max(TRANSFERS_MAX, 2 * plan.num_nodes)
        self._network = make_network(plan, self._schedule)
        self._nodes: dict[int, EmulatedNode] = {}  # those that are connected
        self._by_descriptor: dict[int, EmulatedNode] = {}  # the same
        self._poll = TimedPoll()
        self._door = Door(listener, self._poll)
        self._control = control
        for end in (listener, control):
            end.setblocking(False)
            self._poll.watch(end.fileno())
        self._allowance_ns = max(LATENESS_MAX_NS, int(LATENESS_MAX_S * NS_PER_S / clock.dilation))
        # What is due when: (time, order, what the network is to be reminded of or a request and whose it is).
        self._heap: list[tuple[int, int, Due | tuple[EmulatedNode, Request]]] = []
        self._order = count()
        self._talkative: dict[int, None] = {}  # nodes with notices to send
        self._now_ns = 0
        self._stopping = False
        self._changes = plan.changes
        self._changes_made = 0  # index of the next one
        self._offset_ns = 0  # this clock's time minus the experiment's
        self._next_change_ns = _NEVER  # by this clock
        self._end_ns = _NEVER  # of the experiment, by this clock
        self._starts = self._finishes = self._aborts = 0
        self._ignored = self._excessive = self._gone = 0
        self._wakeup_lateness = LatenessHistogram()
        self._start_lateness = LatenessHistogram()
        self._change_lateness = LatenessHistogram()

    def run(self) -> None:
        """Emulate until the control socket closes or says stop."""
        control, door = self._control.fileno(), self._door.fileno()
        while not self._stopping:
            due_ns = min(self._heap[0][0] if self._heap else _NEVER, self._next_change_ns)
            # A nanosecond later, because dilation rounds: at the instant it must be due.
            ready = self._poll.wait(None if due_ns == _NEVER else max(1, self._clock.monotonic_ns(due_ns) + 1))
            self._now_ns = self._clock.now_ns()
            for descriptor, mask in ready:
                if (node := self._by_descriptor.get(descriptor)) is not None:
                    self._on_requests(node, mask)
                elif descriptor == control:
                    self._on_control()
                elif descriptor == door:
                    self._door.accept()
                elif (stranger := self._door.hear(descriptor)) is not None:
                    self._admit(*stranger)
            self._advance()
            self._flush_notices()
        self._poll.close()

    def statistics(self) -> EmulatorStatistics:
        """All that was counted so far."""
        return EmulatorStatistics(
            starts=self._starts,
            finishes=self._finishes,
            aborts=self._aborts,
            changes=self._changes_made,
            ignored=self._ignored,
            excessive_delays=self._excessive,
            nodes_gone=self._gone,
            wakeup_lateness_ns=self._wakeup_lateness.summary(),
            start_lateness_ns=self._start_lateness.summary(),
            change_lateness_ns=self._change_lateness.summary(),
            cpu_s=time.process_time(),
        )

    # --- what comes in ---

    def _on_control(self) -> None:
        try:
            command = self._control.recv(DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            command = b""
        if command.startswith(_BEGIN):
            self._begin(*map(int, command.split()[1:]))
        if command.startswith((_STATS, _STOP, _BEGIN)):
            with contextlib.suppress(OSError):  # whoever does not read what it asked for goes without
                self._control.send(self.statistics().to_json())
        if command in (b"", _STOP):
            self._stopping = True

    def _admit(self, end: socket.socket, index: int | None) -> None:
        """Take a connection as a node's, or turn it away."""
        if index is None or not 0 <= index < self._count:
            answer = Answer.NO_NODE
        elif index in self._nodes:
            answer = Answer.TAKEN
        else:
            answer = Answer.ADMITTED
            self._nodes[index] = self._by_descriptor[end.fileno()] = EmulatedNode(index, end)
        with contextlib.suppress(OSError):  # it has left, which the next read will tell
            end.send(encode_answer(answer))
        if answer is not Answer.ADMITTED:
            self._door.turn_away(end)

    def _on_requests(self, node: EmulatedNode, mask: int) -> None:
        """Take one datagram of a node; the poll reports those behind it again."""
        if mask & select.EPOLLOUT:
            self._talkative[node.index] = None
        if not mask & ~select.EPOLLOUT:
            return
        try:
            datagram = node.socket.recv(DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            datagram = b""
        if not datagram:
            self._forget(node.index)
            return
        for request in decode_requests(datagram):
            if request is None or not self._allowed(node.index, request):
                self._ignored += 1
            else:
                heappush(self._heap, (self._effective_ns(node, request), next(self._order), (node, request)))

    def _allowed(self, index: int, request: Request) -> bool:
        """Return whether a request makes sense and the node has a right to it, apart from its number."""
        match request:
            case Start(_, receiver, wire_bytes, _):
                return 0 <= receiver < self._count and receiver != index and 1 <= wire_bytes <= WIRE_BYTES_MAX
            case Abort():
                return True

    def _effective_ns(self, node: EmulatedNode, request: Request) -> int:
        """The time at which a request takes effect: its own, if that is not too long ago."""
        now, earliest = self._now_ns, self._now_ns - self._allowance_ns
        match request:
            case Start(ready_ns=at_ns):
                self._start_lateness.add(now - at_ns)
            case Abort(at_ns=at_ns):
                if at_ns == AT_ONCE:
                    at_ns = now
        if at_ns < earliest:
            self._excessive += 1
            at_ns = earliest
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
        del self._by_descriptor[node.socket.fileno()]
        self._poll.forget(node.socket.fileno())
        node.socket.close()

    # --- what happens ---

    def _schedule(self, time_ns: int, what: Due) -> None:
        heappush(self._heap, (time_ns, next(self._order), what))

    def _advance(self) -> None:
        """Let everything happen that is due, in order of time as far as it is known."""
        heap = self._heap
        while True:
            first_ns = heap[0][0] if heap else _NEVER
            # At the same instant a capacity changes before all else happens, as in a simulation.
            if self._next_change_ns <= min(first_ns, self._now_ns):
                self._make_change()
                continue
            if first_ns > self._now_ns:
                return
            at_ns, _, what = heappop(heap)
            if not isinstance(what, tuple):
                self._end(what, at_ns)
                continue
            node, request = what
            if self._nodes.get(node.index) is not node:  # it has gone since; another one may have come in its place
                continue
            match request:
                case Start():
                    self._start(node, request, at_ns)
                case Abort(number, _):
                    self._abort(node, number, at_ns)

    def _start(self, node: EmulatedNode, start: Start, at_ns: int) -> None:
        flows = node.flows
        if start.number in flows or len(flows) >= self._transfers_max:
            self._ignored += 1
            return
        self._starts += 1
        flow = self._network.start(at_ns, node.index, start.receiver, start.wire_bytes, None)
        flow.number = start.number
        flows[start.number] = flow

    def _end(self, what: Due, at_ns: int) -> None:
        for flow in self._network.finish(what, at_ns):
            self._finishes += 1
            # Without limits a transfer takes the time that the host takes; its successor is not late.
            told_ns = self._now_ns if self._network.is_unlimited(flow) else at_ns
            self._queue_notice(flow, Notice(False, flow.number, told_ns, flow.size))

    def _abort(self, node: EmulatedNode, number: int, at_ns: int) -> None:
        flow = node.flows.get(number)
        if flow is None:  # it has ended and the node will hear of it
            return
        self._aborts += 1
        self._queue_notice(flow, Notice(True, number, at_ns, self._network.abort(flow, at_ns)))

    # --- capacities ---

    def _begin(self, start_monotonic_ns: int, begin_ns: int, end_ns: int) -> None:
        """Take the plan's changes up; see :meth:`EmulatorHandle.begin`."""
        self._offset_ns = self._clock.at_ns(start_monotonic_ns) - begin_ns
        self._end_ns = min(_NEVER, end_ns + self._offset_ns)
        self._look_for_change()

    def _look_for_change(self) -> None:
        self._next_change_ns = _NEVER
        if self._changes_made < len(self._changes):
            at_ns = self._changes[self._changes_made][0] + self._offset_ns
            if at_ns < self._end_ns:
                self._next_change_ns = at_ns

    def _make_change(self) -> None:
        """Make the change that is due, as of its own instant, however late this is."""
        change, at_ns = self._changes[self._changes_made][1], self._next_change_ns
        self._changes_made += 1
        self._change_lateness.add(self._now_ns - at_ns)
        change_links(self._network, change, at_ns)
        self._look_for_change()

    # --- what goes out ---

    def _queue_notice(self, flow: NetworkFlow, notice: Notice) -> None:
        node = self._nodes[flow.source]
        del node.flows[notice.number]
        node.unsent += encode_notice(notice)
        self._talkative[flow.source] = None
        if not notice.aborted:
            self._wakeup_lateness.add(self._clock.now_ns() - notice.at_ns)

    def _flush_notices(self) -> None:
        """Send what the nodes should know, as far as their sockets take it."""
        talkative, self._talkative = self._talkative, {}
        for index in talkative:
            node = self._nodes[index]
            try:
                while node.unsent:
                    node.socket.send(node.unsent[:DATAGRAM_BYTES])
                    del node.unsent[:DATAGRAM_BYTES]
            except BlockingIOError:
                if len(node.unsent) > _UNREAD_TRANSFERS * self._transfers_max * RECORD_BYTES:
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
        address: Where nodes connect, see :func:`node.emulation.door.connect_to_emulator`.
    """

    def __init__(self, pid: int, address: str, control: socket.socket) -> None:
        self.pid = pid
        self.address = address
        self._control = control
        self._exit_code: int | None = None

    def leave(self) -> None:
        """Let go of the process, which then ends; in a process that was forked from its owner, do so first."""
        self._control.close()

    def exit_code(self) -> int | None:
        """Return the process's exit code, negative for a signal; None while it runs."""
        if self._exit_code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # someone else asked for its status first
                pid, status = self.pid, 0
            if pid:
                self._exit_code = os.waitstatus_to_exitcode(status)
        return self._exit_code

    def begin(
        self, start_monotonic_ns: int, *, begin_ns: int = 0, end_ns: int | None = None, timeout_s: float = ANSWER_S
    ) -> None:
        """Say when the experiment begins: from then on the plan's capacities change at their instants.

        To be called once, as soon as the instant is fixed, so that no change is late.

        Args:
            start_monotonic_ns: The host's monotonic clock when the experiment begins.
            begin_ns: The experiment's time then, testbed nanoseconds; not 0 in a run that goes on. The plan's
                capacities are those of this time, and all its changes come later.
            end_ns: Changes at this time or later are not made; None: the experiment has no planned end.
            timeout_s: How long the emulator may take to confirm it, real time.

        Raises:
            RunnerError: It has ended or does not answer in time.
        """
        numbers = (start_monotonic_ns, begin_ns, _NEVER if end_ns is None else end_ns)
        self._ask(b" ".join([_BEGIN, *(b"%d" % number for number in numbers)]), timeout_s)

    def stats(self, timeout_s: float = ANSWER_S) -> EmulatorStatistics:
        """Ask the emulator for its statistics so far.

        Raises:
            RunnerError: It has ended or does not answer in time.
        """
        return self._ask(_STATS, timeout_s)

    def stop(self, timeout_s: float = ANSWER_S) -> EmulatorStatistics | None:
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


def start_emulator(plan: NetworkPlan, clock: Clock) -> EmulatorHandle:
    """Fork the emulator's process. It ends with the thread that calls this, at the latest.

    Args:
        plan: The network. Its changes are made from :meth:`EmulatorHandle.begin` on.
        clock: The run's clock; transfers begin when nodes ask for them, be its time negative.

    Raises:
        ConfigError: This system lacks what the emulator is made of.
        RunnerError: The sockets or the process cannot be made.
    """
    if not hasattr(os, "pidfd_open"):
        raise ConfigError("runtime=processes: links between processes are emulated on Linux only")
    owner, num_nodes = os.getpid(), plan.num_nodes
    ends: list[socket.socket] = []
    try:
        # The emulator will have a descriptor a node: better to refuse now than when the last of them comes.
        if num_nodes + _SPARE_DESCRIPTORS > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        listener, address = open_door(num_nodes)
        ends.append(listener)
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ends += [ours, its]
        pid = os.fork()
    except OSError as error:
        for end in ends:
            end.close()
        raise RunnerError(f"cannot start the link emulator for {num_nodes} nodes: {error}") from error
    if pid == 0:
        _enter(plan, clock, listener, its, owner)
    listener.close()
    its.close()
    return EmulatorHandle(pid, address, ours)


def _enter(plan: NetworkPlan, clock: Clock, listener: socket.socket, control: socket.socket, owner: int) -> NoReturn:
    """Run the forked child to its end and never return: nothing may escape into the owner's code."""
    code = 1
    try:
        belong_to(owner)
        close_all_but({0, 1, 2, listener.fileno(), control.fileno()})
        gc.disable()  # nothing here makes cycles, and a collection would copy the owner's memory
        LinkEmulator(plan, clock, listener, control).run()
        code = 0
    except BaseException:  # the last frame of this process: a mistake of our own
        traceback.print_exc()
    finally:
        os._exit(code)
