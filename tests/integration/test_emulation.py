"""The link emulator's process over its real sockets: what it does for a node, and what it does not put up with.

Ends of transfers are exact instants of testbed time, however late they are told, so these tests compare them to the
nanosecond on any host that wakes the emulator in time; see :mod:`tests.integration.host` for one that does not.
"""

import asyncio
import os
import random
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import numpy as np
import psutil
import pytest

from node.core.errors import RunnerError
from node.core.links import CapacityChange, NetworkPlan
from node.emulation import emulator
from node.emulation.door import STRANGERS_MAX, connect_to_emulator
from node.emulation.emulator import TRANSFERS_MAX, EmulatorHandle, start_emulator
from node.emulation.protocol import (
    AT_ONCE,
    DATAGRAM_BYTES,
    Abort,
    Answer,
    Notice,
    Request,
    Start,
    decode_notices,
    encode_request,
)
from node.emulation.statistics import EmulatorStatistics
from node.emulation.uplink import EmulatedUplink
from node.host.clock import Clock
from orchestrator.fidelity import Measured, judge, unfaithful_reasons
from tests.integration.host import Host

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll, timerfd")

MS = 1_000_000
WAIT_S = 60.0
"""For what takes milliseconds on an idle machine: whoever waits so long has found a fault, on whatever host."""


class Peer:
    """A node without an event loop."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        end.settimeout(WAIT_S)
        self._heard: list[Notice] = []

    def ask(self, *requests: Request) -> None:
        self.end.send(b"".join(map(encode_request, requests)))

    def hear(self) -> Notice:
        if not self._heard:
            self._heard = decode_notices(self.end.recv(DATAGRAM_BYTES))
        return self._heard.pop(0)


class Emulated:
    """An emulator and its nodes, all in this process."""

    def __init__(self, handle: EmulatorHandle, clock: Clock, nodes: int) -> None:
        self.handle = handle
        self.clock = clock
        self.peers = [Peer(self.connect(node)) for node in range(nodes)]

    def connect(self, node: int, timeout_s: float = WAIT_S) -> socket.socket:
        return connect_to_emulator(self.handle.address, node, timeout_s)

    def begin(self, testbed_ns: int, **rest: Any) -> None:
        """The experiment begins at an instant of the emulator's clock."""
        self.handle.begin(self.clock.monotonic_ns(testbed_ns), **rest)

    def soon(self) -> int:
        """An instant that has passed, but not long ago."""
        return self.clock.now_ns() - 1000

    def wait_until(self, testbed_ns: int) -> None:
        time.sleep(max(0, testbed_ns - self.clock.now_ns()) / 1e9 * self.clock.dilation)

    def settle(self, condition: Callable[[EmulatorStatistics], bool]) -> EmulatorStatistics:
        end = time.monotonic() + WAIT_S
        while not condition(statistics := self.handle.stats()):
            assert time.monotonic() < end, statistics
            time.sleep(0.002)
        return statistics


Emulate = Callable[..., Emulated]


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"waited {WAIT_S:.0f} s for {what}"
        time.sleep(0.002)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


Changes = tuple[tuple[int, CapacityChange], ...]


def plan_of(
    up: list[float],
    down: list[float] | None = None,
    pair: list[list[float]] | None = None,
    changes: Changes = (),
) -> NetworkPlan:
    return NetworkPlan(
        model="access",
        up_mbps=np.array(up),
        down_mbps=np.array(down or [inf] * len(up)),
        pair_mbps=None if pair is None else np.array(pair),
        changes=changes,
    )


@pytest.fixture
def emulate(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulate]:
    """Emulators to which no record is too late, however busy this host is; a test of lateness says what is."""
    monkeypatch.setattr(emulator, "LATENESS_MAX_S", WAIT_S)
    handles: list[EmulatorHandle] = []

    def begin(
        up: list[float],
        down: list[float] | None = None,
        pair: list[list[float]] | None = None,
        dilation: float = 1.0,
        changes: Changes = (),
    ) -> Emulated:
        clock = Clock(time.monotonic_ns(), dilation * host.dilation)
        handles.append(start_emulator(plan_of(up, down, pair, changes), clock))
        host.watch(handles[-1].pid)
        return Emulated(handles[-1], clock, len(up))

    yield begin
    for handle in handles:
        handle.stop()
        assert not psutil.pid_exists(handle.pid)


def test_a_transfer_takes_its_bytes_over_its_rate(emulate: Emulate) -> None:
    """8 Mbit/s are a byte a microsecond. Told late, it begins when it was ready."""
    world = emulate([8.0, 8.0])
    ready = world.clock.now_ns() - 5 * MS
    world.peers[0].ask(Start(7, 1, 20_000, ready))
    assert world.peers[0].hear() == Notice(False, 7, ready + 20 * MS, 20_000)
    assert world.clock.now_ns() >= ready + 20 * MS
    world.peers[0].ask(Start(7, 1, 1_000, ready + 20 * MS))  # the number is free again
    assert world.peers[0].hear() == Notice(False, 7, ready + 21 * MS, 1_000)
    statistics = world.handle.stats()
    assert (statistics.starts, statistics.finishes, statistics.excessive_delays) == (2, 2, 0)
    assert statistics.start_lateness_ns.max >= 5 * MS


def test_dilation_slows_real_time_and_no_figure(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0], dilation=4.0)
    ready, real = world.soon(), time.monotonic_ns()
    world.peers[0].ask(Start(0, 1, 20_000, ready))
    assert world.peers[0].hear().at_ns == ready + 20 * MS
    assert time.monotonic_ns() - real >= world.clock.dilation * (20 * MS - 2_000)


def test_two_senders_share_a_downlink(emulate: Emulate) -> None:
    world = emulate([80.0, 80.0, 80.0], [80.0, 80.0, 8.0])
    ready = world.soon()
    world.peers[0].ask(Start(0, 2, 10_000, ready))
    world.peers[1].ask(Start(0, 2, 20_000, ready))
    assert world.peers[0].hear().at_ns == ready + 20 * MS
    assert world.peers[1].hear().at_ns == ready + 30 * MS


def test_parallel_transfers_share_an_uplink_and_an_abort_frees_it(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0, 8.0])
    ready = world.soon()
    world.peers[0].ask(Start(1, 1, 20_000, ready), Start(2, 2, 20_000, ready))
    world.wait_until(ready + 10 * MS)
    world.peers[0].ask(Abort(2, ready + 10 * MS))
    assert world.peers[0].hear() == Notice(True, 2, ready + 10 * MS, 5_000)
    assert world.peers[0].hear() == Notice(False, 1, ready + 25 * MS, 20_000)


def test_an_abort_at_once_and_one_too_late(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0])
    ready = world.soon()
    world.peers[0].ask(Start(1, 1, 1 << 30, ready), Abort(1, AT_ONCE), Start(2, 1, 1_000, ready))
    notice = world.peers[0].hear()
    assert (notice.aborted, notice.number) == (True, 1)
    assert notice.sent_bytes == (notice.at_ns - ready) // 1_000
    # Asked for behind the abort, the next one begins behind it.
    assert world.peers[0].hear() == Notice(False, 2, notice.at_ns + MS, 1_000)
    world.peers[0].ask(Abort(2, AT_ONCE), Abort(99, AT_ONCE), Start(3, 1, 1_000, world.soon()))
    assert world.peers[0].hear().number == 3
    assert world.handle.stats().ignored == 0


def test_capacities_change_at_their_time(emulate: Emulate) -> None:
    """Down to nothing and up again, at the sender, the receiver and between them; no node has a part in it."""
    changes = (
        (10 * MS, CapacityChange("up", 0, -1, 0.0)),
        (20 * MS, CapacityChange("up", 0, -1, 80.0)),
        (21 * MS, CapacityChange("down", -1, 1, 40.0)),
        (25 * MS, CapacityChange("pair", 0, 1, 16.0)),
    )
    world = emulate([8.0, 8.0], [80.0, 80.0], dilation=8.0, changes=changes)
    ready = world.soon()
    sender = world.peers[0]
    world.begin(ready)
    sender.ask(Start(0, 1, 30_000, ready))
    # 10 ms at 1 byte/us, 10 ms parked, 1 ms at 10, the rest at 5.
    assert sender.hear().at_ns == ready + 23 * MS
    sender.ask(Start(1, 1, 100_000, ready + 23 * MS))
    # 2 ms at 5, then at 2.
    assert sender.hear().at_ns == ready + 70 * MS
    statistics = world.handle.stats()
    assert (statistics.changes, statistics.change_lateness_ns.count, statistics.ignored) == (4, 4, 0)


def test_a_change_of_which_the_emulator_learns_late_is_made_as_of_its_instant_and_counted(emulate: Emulate) -> None:
    world = emulate([40.0, 8.0], dilation=8.0, changes=((2 * MS, CapacityChange("pair", 0, 1, 16.0)),))
    ready = world.clock.now_ns()
    world.peers[0].ask(Start(1, 1, 100_000, ready))
    world.wait_until(ready + 6 * MS)
    world.begin(ready)
    # 2 ms at 5, then at 2.
    assert world.peers[0].hear().at_ns == ready + 47 * MS
    statistics = world.handle.stats()
    assert statistics.changes == 1
    assert statistics.change_lateness_ns.max >= 4 * MS


def test_no_change_is_made_before_the_experiment_begins_nor_after_its_end(emulate: Emulate) -> None:
    changes = tuple((at * MS, CapacityChange("up", 0, -1, mbps)) for at, mbps in ((1, 16.0), (5, 32.0), (7, 1.0)))
    world = emulate([8.0, 8.0], changes=changes)
    ready = world.soon()
    world.peers[0].ask(Start(0, 1, 10_000, ready))
    assert world.peers[0].hear().at_ns == ready + 10 * MS
    assert world.handle.stats().changes == 0
    ready = world.soon()
    world.begin(ready, end_ns=7 * MS)
    world.peers[0].ask(Start(0, 1, 41_000, ready))
    # 1 ms at 1, 4 ms at 2, the rest at 4.
    assert world.peers[0].hear().at_ns == ready + 13 * MS
    assert world.handle.stats().changes == 2


def test_a_run_that_goes_on_begins_in_the_middle_of_its_plan(emulate: Emulate) -> None:
    changes = tuple((at * MS, CapacityChange("up", 0, -1, mbps)) for at, mbps in ((1_000, 16.0), (2_005, 32.0)))
    begin_ns = 2_000 * MS
    plan = plan_of([8.0, 8.0], changes=changes).at_time(begin_ns)
    world = emulate(plan.up_mbps.tolist(), changes=plan.changes)
    ready = world.soon()
    world.begin(ready, begin_ns=begin_ns)
    world.peers[0].ask(Start(0, 1, 30_000, ready))
    # 5 ms at 2, the rest at 4.
    assert world.peers[0].hear().at_ns == ready + 10 * MS
    assert world.handle.stats().changes == 1


def test_links_change_whatever_becomes_of_their_nodes(emulate: Emulate) -> None:
    """One is gone, one does not look at its socket; the links of both change at their instants."""
    changes = (
        (10 * MS, CapacityChange("down", -1, 1, 4.0)),
        (10 * MS, CapacityChange("down", -1, 2, 16.0)),
        (20 * MS, CapacityChange("up", 3, -1, 0.0)),
    )
    world = emulate([80.0] * 4, [8.0] * 4, changes=changes)
    world.peers[1].end.close()
    world.settle(lambda statistics: statistics.nodes_gone == 1)
    ready = world.soon()
    world.begin(ready)
    world.peers[0].ask(Start(0, 1, 20_000, ready))
    world.peers[3].ask(Start(0, 2, 42_000, ready))  # and does not look at its socket until the end
    # 10 ms at 1, the rest at a half.
    assert world.peers[0].hear().at_ns == ready + 30 * MS
    statistics = world.settle(lambda statistics: statistics.changes == 3)
    assert (statistics.finishes, statistics.ignored) == (1, 0)
    world.peers[3].ask(Abort(0, AT_ONCE))
    # 10 ms at 1, 10 ms at 2, parked since.
    assert world.peers[3].hear()[3] == 30_000


def test_an_hour_of_changes_every_50_ms_leaves_none_out(emulate: Emulate) -> None:
    """72,000 changes, in an hour that takes seconds; a transfer that lasts almost as long meets all of them."""
    step, count = 50 * MS, 72_000
    changes = tuple((index * step, CapacityChange("up", 0, -1, (8.0, 16.0)[index % 2])) for index in range(count))
    world = emulate([0.0, 8.0], dilation=1e-3, changes=changes)
    # 1 and 2 bytes a us in turn, but for the last ms. Parked until the first change, which comes half a real second on.
    hour = count // 2 * (50_000 + 100_000)
    world.peers[0].ask(Start(0, 1, hour - 2_000, world.soon()))
    begin_ns = world.clock.now_ns() + 500_000 * MS
    world.begin(begin_ns)
    ended_ns = world.peers[0].hear().at_ns
    assert abs(ended_ns - (begin_ns + count * step - MS)) <= count  # each change may round up
    statistics = world.handle.stats()
    assert (statistics.changes, statistics.ignored) == (count, 0)


def test_a_parked_transfer_can_be_aborted(emulate: Emulate) -> None:
    world = emulate([0.0, 8.0])
    world.peers[0].ask(Start(0, 1, 100, world.soon()), Abort(0, AT_ONCE))
    assert world.peers[0].hear()[:2] == (True, 0)


def test_without_limits_a_transfer_ends_when_it_is_heard_of(emulate: Emulate) -> None:
    world = emulate([inf, inf])
    ready = world.soon()
    for number in range(300):
        world.peers[0].ask(Start(number, 1, 1 << 30, ready))
        told = world.peers[0].hear()
        assert ready < told.at_ns <= world.clock.now_ns()
        ready = told.at_ns
    assert world.handle.stats().excessive_delays == 0


def test_what_is_too_late_begins_a_bounded_time_ago_and_is_counted(
    emulate: Emulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator, "LATENESS_MAX_S", 0.05)
    world = emulate([8.0, 8.0])
    world.wait_until(200 * MS)
    before = world.clock.now_ns()
    world.peers[0].ask(Start(0, 1, 60_000, before - 150 * MS))
    assert before + 10 * MS <= world.peers[0].hear().at_ns <= world.clock.now_ns()
    assert world.handle.stats().excessive_delays == 1


def test_a_start_in_the_future_begins_now(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0])
    world.peers[0].ask(Start(0, 1, 1_000, world.clock.now_ns() + 10**12))
    assert world.peers[0].hear().number == 0


def test_nonsense_is_ignored_and_counted(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0, 8.0])
    ready = world.soon()
    world.peers[1].ask(Start(0, 2, 40_000, ready))
    bad: list[Request] = [
        Start(1, 0, 100, ready),  # to itself
        Start(1, 3, 100, ready),
        Start(1, -1, 100, ready),
        Start(1, 1, 0, ready),
        Start(1, 1, (1 << 40) + 1, ready),
    ]
    world.peers[0].ask(*bad)
    world.peers[0].ask(Start(1, 1, 1 << 30, ready), Start(1, 1, 100, ready))  # a number in use
    statistics = world.settle(lambda statistics: statistics.ignored == len(bad) + 1)
    fidelity = judge(Measured("processes", 1.0, None, (), emulator=statistics))
    assert "requests that the link emulator ignored: 6 records, requested 0 records (tolerance: none)" in (
        unfaithful_reasons(fidelity)
    )
    noise = random.Random(0)
    for size in (0, 1, 31, 32, 33, 1_000, DATAGRAM_BYTES, 3 * DATAGRAM_BYTES):
        # No byte 1 or 2 at the start of a record, which would be a start or an abort by chance; an empty datagram
        # would be an end of the stream.
        world.peers[0].end.send(bytes(noise.randrange(4, 256) for _ in range(size)) or b"\0")
    assert world.peers[1].hear() == Notice(False, 0, ready + 40 * MS, 40_000)
    assert world.handle.exit_code() is None


def test_any_bytes_at_all_leave_it_running(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0, inf])
    noise = random.Random(1)
    for _ in range(3_000):
        datagram = b"".join(bytes([noise.randrange(5)]) + noise.randbytes(31) for _ in range(noise.randrange(1, 4)))
        world.peers[0].end.send(datagram[: noise.randrange(1, len(datagram) + 1)])
    ready = world.clock.now_ns()
    world.peers[1].ask(Start(0, 2, 10_000, ready))
    assert world.peers[1].hear() == Notice(False, 0, ready + 10 * MS, 10_000)
    assert world.handle.stats().ignored > 1_000


def test_requests_are_bounded(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0, 8.0])
    ready = world.soon()
    per_datagram = 256
    for first in range(0, TRANSFERS_MAX + per_datagram, per_datagram):
        world.peers[0].ask(*(Start(first + k, 1, 1 << 40, ready) for k in range(per_datagram)))
    statistics = world.settle(lambda statistics: statistics.starts + statistics.ignored >= TRANSFERS_MAX + per_datagram)
    assert (statistics.starts, statistics.ignored) == (TRANSFERS_MAX, per_datagram)


def test_a_node_that_leaves_frees_what_it_used(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0, 8.0], [8.0, 8.0, 8.0])
    ready = world.soon()
    world.peers[0].ask(Start(0, 2, 1 << 30, ready))
    world.peers[1].ask(Start(0, 2, 20_000, ready))
    world.peers[2].ask(Start(0, 0, 30_000, ready))
    world.settle(lambda statistics: statistics.starts == 3)  # what came later would not share the link with it
    before = world.clock.now_ns()
    world.peers[0].end.close()
    # Half the rate until then, all of it afterwards.
    ended = world.peers[1].hear().at_ns
    assert ready + 20 * MS + (before - ready) // 2 <= ended < ready + 40 * MS
    assert world.peers[2].hear().at_ns == ready + 30 * MS  # to the one that left
    statistics = world.handle.stats()
    assert (statistics.nodes_gone, statistics.aborts, statistics.finishes) == (1, 1, 2)


def talk_without_end(peer: Peer, ready_ns: int) -> None:
    for _ in range(10_000):
        peer.ask(*(Start(number, 1, 1, ready_ns) for number in range(100)))


def test_a_node_that_does_not_read_is_forgotten_in_the_end(emulate: Emulate) -> None:
    world = emulate([inf, 8.0, 8.0])
    with pytest.raises(ConnectionError):
        talk_without_end(world.peers[0], world.soon())
    assert world.handle.stats().nodes_gone == 1
    ready = world.soon()
    world.peers[1].ask(Start(0, 0, 1_000, ready))
    assert world.peers[1].hear().at_ns == ready + MS


# --- the owner's side -------------------------------------------------------------------


def test_too_few_descriptors_are_one_clear_error() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = os.listdir("/proc/self/fd")
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + 100, hard))
    try:
        with pytest.raises(RunnerError, match=r"link emulator for 1000 nodes: .*[Tt]oo many open files"):
            start_emulator(plan_of([8.0] * 1_000), Clock(time.monotonic_ns()))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_it_stops_when_told_and_says_what_it_measured(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0])
    world.peers[0].ask(Start(0, 1, 1_000, world.soon()))
    world.peers[0].hear()
    statistics = world.handle.stop()
    assert statistics is not None
    assert (statistics.finishes, statistics.nodes_gone) == (1, 0)
    assert statistics.cpu_s > 0
    assert world.handle.exit_code() == 0
    assert world.handle.stop() is None
    with pytest.raises(RunnerError, match="has ended"):
        world.handle.stats()


def test_it_stops_when_its_owner_closes_the_control_socket(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0])
    world.handle.leave()
    until(lambda: world.handle.exit_code() is not None, "the end of the emulator")
    assert world.handle.exit_code() == 0


def test_ctrl_c_is_its_owners_business_and_a_stuck_one_is_killed(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0])
    world.handle.stats()
    os.kill(world.handle.pid, signal.SIGINT)
    assert world.handle.stats().starts == 0
    os.kill(world.handle.pid, signal.SIGSTOP)
    with pytest.raises(RunnerError, match="did not answer"):
        world.handle.stats(timeout_s=0.05)
    assert world.handle.stop(timeout_s=0.1) is None
    assert world.handle.exit_code() == -signal.SIGKILL


def test_it_ends_with_its_owner() -> None:
    """Even where someone else still holds the control socket."""
    read, write = os.pipe()
    held, holding = os.pipe()
    owner = os.fork()
    if owner == 0:
        try:
            handle = start_emulator(plan_of([8.0, 8.0]), Clock(time.monotonic_ns()))
            if os.fork() == 0:  # keeps every other descriptor until this test is over
                os.close(holding)
                os.read(held, 1)
                os._exit(0)
            handle.stats()
            os.write(write, handle.pid.to_bytes(8, "little"))
        finally:
            os._exit(0)
    os.close(write)
    pid = int.from_bytes(os.read(read, 8), "little")
    os.waitpid(owner, 0)
    os.close(read)
    assert pid, "the owner has failed"
    until(lambda: not is_alive(pid), "the end of the emulator")
    os.close(holding)
    os.close(held)


def test_a_node_in_a_process_of_its_own(emulate: Emulate) -> None:
    """As in a run: it comes by the address, after others were there in its place, and its death is noticed."""
    world = emulate([8.0, 8.0])
    for peer in world.peers:
        peer.end.close()
    ready = world.soon()
    pid = os.fork()
    if pid == 0:
        try:
            peer = Peer(world.connect(0))
            peer.ask(Start(5, 1, 1_000, ready))
            os._exit(0 if peer.hear().at_ns == ready + MS else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    statistics = world.settle(lambda statistics: statistics.nodes_gone == 3)  # this process's own ends too
    assert statistics.finishes == 1


def test_a_thousand_nodes(emulate: Emulate) -> None:
    world = emulate([8.0] * 1_000)
    ready = world.soon()
    for index in (0, 499, 999):
        world.peers[index].ask(Start(index, (index + 1) % 1_000, 10_000, ready))
    for index in (0, 499, 999):
        assert world.peers[index].hear() == Notice(False, index, ready + 10 * MS, 10_000)


# --- the node's side on asyncio ---------------------------------------------------------


class Listener:
    """Callbacks that note what they were told."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.finished: list[tuple[int, int]] = []
        self.aborted: list[tuple[int, int]] = []
        self.gone = 0

    def uplink(self, end: socket.socket) -> EmulatedUplink:
        uplink = EmulatedUplink(
            end,
            self.loop,
            lambda number, finish_ns: self.finished.append((number, finish_ns)),
            lambda number, sent_bytes: self.aborted.append((number, sent_bytes)),
            self.on_gone,
        )
        uplink.open()
        return uplink

    def on_gone(self) -> None:
        self.gone += 1

    def until(self, condition: Callable[[], object]) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(wait(), WAIT_S))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    yield loop
    loop.close()


def test_an_uplink_starts_and_aborts(emulate: Emulate, loop: asyncio.AbstractEventLoop) -> None:
    world, listener = emulate([8.0, 8.0], changes=((40 * MS, CapacityChange("up", 0, -1, 16.0)),)), Listener(loop)
    uplink = listener.uplink(world.peers[0].end)
    ready = world.soon()
    world.begin(ready)
    uplink.start(1, 1, 48_000, ready)
    listener.until(lambda: listener.finished)
    assert listener.finished == [(1, ready + 44 * MS)]
    uplink.start(2, 1, 1 << 30, ready + 44 * MS)
    world.wait_until(ready + 49 * MS)
    uplink.abort(2, ready + 49 * MS)
    uplink.start(3, 1, 1 << 30, ready + 49 * MS)
    uplink.abort(3)
    listener.until(lambda: len(listener.aborted) == 2)
    assert listener.aborted[0] == (2, 10_000)
    assert listener.gone == 0
    uplink.close()
    uplink.close()
    uplink.start(4, 1, 1, 0)
    world.settle(lambda statistics: statistics.nodes_gone == 1)


def test_an_uplink_loses_nothing_when_the_socket_is_full(emulate: Emulate, loop: asyncio.AbstractEventLoop) -> None:
    world, listener = emulate([inf, 8.0]), Listener(loop)
    uplink = listener.uplink(world.peers[0].end)
    os.kill(world.handle.pid, signal.SIGSTOP)
    until(lambda: psutil.Process(world.handle.pid).status() == psutil.STATUS_STOPPED, "the emulator to stand still")
    count = 1_000
    for number in range(count):
        uplink.start(number, 1, 100, world.soon())
    assert uplink._unsent, "the socket was meant to be full"
    os.kill(world.handle.pid, signal.SIGCONT)
    listener.until(lambda: len(listener.finished) == count)
    assert [number for number, _ in listener.finished] == list(range(count))
    uplink.close()


def test_an_uplink_says_once_that_the_emulator_is_gone(emulate: Emulate, loop: asyncio.AbstractEventLoop) -> None:
    world, listener = emulate([8.0, 8.0]), Listener(loop)
    uplink = listener.uplink(world.peers[0].end)
    uplink.start(0, 1, 1 << 30, world.soon())
    os.kill(world.handle.pid, signal.SIGKILL)
    until(lambda: world.handle.exit_code() is not None, "the end of the emulator")
    uplink.start(1, 1, 1 << 30, world.soon())
    listener.until(lambda: listener.gone)
    uplink.start(2, 1, 1 << 30, world.soon())
    uplink.close()
    loop.run_until_complete(asyncio.sleep(0.01))
    assert (listener.gone, listener.finished, listener.aborted) == (1, [], [])


# --- the door ---------------------------------------------------------------------------


def raw(world: Emulated) -> socket.socket:
    """A connection that has not said which node it is."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.settimeout(WAIT_S)
    end.connect("\0" + world.handle.address.removeprefix("@"))
    return end


def test_a_node_has_one_connection_at_a_time(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0])
    with pytest.raises(RunnerError, match=r"the link emulator at @fragmesh-links-\w+ has a connection of node 1"):
        world.connect(1, timeout_s=0.1)
    world.peers[1].end.close()
    again = Peer(world.connect(1))
    again.ask(Start(0, 0, 1_000, world.soon()))
    assert world.settle(lambda statistics: statistics.starts == 1).nodes_gone == 1


def test_requests_of_a_connection_that_is_gone_are_not_its_successors(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0])
    ready = world.soon()
    world.peers[0].ask(Start(1, 1, 1 << 30, ready), Start(2, 1, 1 << 30, ready))
    world.settle(lambda statistics: statistics.starts == 2)
    world.peers[0].end.close()
    again = Peer(world.connect(0))
    ready = world.soon()
    again.ask(Start(1, 1, 1_000, ready))  # alone on its link, under a number that was in use
    assert again.hear() == Notice(False, 1, ready + MS, 1_000)
    statistics = world.handle.stats()
    assert (statistics.aborts, statistics.ignored) == (2, 0)


@pytest.mark.parametrize("node", [-1, 2, 1 << 62])
def test_no_such_node(emulate: Emulate, node: int) -> None:
    with pytest.raises(RunnerError, match=rf"has no node {node}$"):
        emulate([8.0, 8.0]).connect(node)


@pytest.mark.parametrize("said", [b"", b"\x01", b"\x03" * 33, bytes(32), encode_request(Start(0, 1, 1, 0))])
def test_who_says_no_sense_is_turned_away(emulate: Emulate, said: bytes) -> None:
    world = emulate([8.0, 8.0])
    end = raw(world)
    end.send(said) if said else end.close()
    if said:
        assert end.recv(100)[8] == Answer.NO_NODE
        assert end.recv(100) == b""
    assert world.handle.stats().nodes_gone == 0


def test_who_says_nothing_makes_way(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0])
    world.peers[0].end.close()
    silent = [raw(world) for _ in range(STRANGERS_MAX + 2)]
    node = world.connect(0)
    for end in silent[:3]:
        assert end.recv(100) == b""
    silent[3].setblocking(False)
    with pytest.raises(BlockingIOError):
        silent[3].recv(100)
    node.close()
    for end in silent:
        end.close()


def test_an_emulator_that_is_gone_is_one_clear_line(emulate: Emulate) -> None:
    world = emulate([8.0, 8.0])
    world.handle.stop()
    with pytest.raises(RunnerError, match=r"the link emulator at @\S+ cannot be reached: .*Connection refused"):
        world.connect(0)
