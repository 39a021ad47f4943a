"""The path over streams alone, with fake streams: every order in which transport and receipts can speak."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.algorithms.local import Local, LocalConfig
from node.core.algorithm import NodeContext
from node.core.counters import NodeCounters
from node.core.links import CapacityChange, NetworkPlan, PartitionChange
from node.core.messages import Message, MessageState, frozen
from node.core.schedule import LinkSpan, Overlay, Place, Schedule
from node.core.scheduled_network import scheduled
from node.core.sender_policy import PER_PEER, parallel
from node.core.topology import full
from node.core.types import NodeId
from node.core.wire_values import WireDtype
from node.host.clock import Clock
from node.runtime.accounting import Accounting
from node.runtime.direct_path import FOR_EVER_NS, RECEIPT_LATE_NS, DirectPath
from node.runtime.message_books import MessageBooks
from node.runtime.outgoing import RECEIPT_WITHIN_NS, OutgoingFrames
from node.runtime.sending import Sending
from node.runtime.standstills import Standstills
from node.runtime.story import Story
from node.runtime.time_spent import TimeSpent
from node.transport.frames import HEADER_BYTES
from tests.messages import Kind, make_message
from tests.simulation.build import network
from tests.virtual import EPOCH_NS, Host, Loop

MS = 1_000_000
SIZE = 10
FRAME_BYTES = HEADER_BYTES + 4 * SIZE
WIRE_BYTES = 40 + 4 * SIZE
UNLIMITED = float("inf")


def message(value: float = 0.0, size: int = SIZE) -> Message:
    return make_message(Kind.MODEL, 0, frozen(np.full(size, value, dtype=np.float32)))


class FakeStreams:
    """Keeps what it is given until a test says what becomes of it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.waiting: dict[int, int] = {}  # number -> receiver, not begun to be written
        self.deadlines_ns: list[int] = []
        self.probes: list[tuple[int, int, int, int, int]] = []

    def send(self, peer: NodeId, frame: bytes, number: int, due_ns: int, deadline_ns: int) -> None:
        assert due_ns == 0
        assert len(frame) == FRAME_BYTES
        self.waiting[number] = peer
        self.deadlines_ns.append(deadline_ns - self._host.now_ns)

    def withdraw(self, peer: NodeId, number: int) -> bool:
        return self.waiting.pop(number, None) is not None

    def probe(self, peer: NodeId, sequence: int, sent_ns: int, padding_bytes: int, due_ns: int, number: int) -> None:
        self.probes.append((peer, sequence, padding_bytes, due_ns, number))


class Recorder:
    """A listener that notes what it is told, with the bytes that are in flight then."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def sent(self, number: int, at_ns: int) -> None:
        self.told.append(("sent", number, at_ns))

    def arrived(self, number: int, at_ns: int) -> None:
        self.told.append(("arrived", number, at_ns))

    def lost(self, number: int, wire_bytes: int, at_ns: int) -> None:
        self.told.append(("lost", number, wire_bytes, at_ns))

    def aborted(self, number: int, sent_bytes: int, at_ns: int) -> None:
        self.told.append(("aborted", number, sent_bytes, at_ns))

    def room(self, at_ns: int) -> None:
        self.told.append(("room", at_ns))

    def probe_sent(self, number: int, at_ns: int) -> None:
        self.told.append(("probe_sent", number, at_ns))


class Bench:
    """A path and what surrounds it; the clock moves by hand."""

    def __init__(self, plan: NetworkPlan | None = None, dilation: float = 1.0) -> None:
        self.host = Host()
        self.clock = Clock(EPOCH_NS, dilation)
        self.streams = FakeStreams(self.host)
        self.path = DirectPath(
            node=NodeId(0),
            network=plan or network(4, UNLIMITED),
            clock=Clock(0),
            loop=Loop(self.host, 0).as_loop(),
            streams=self.streams,
            frames=OutgoingFrames(NodeId(0), 99, WireDtype.FLOAT32, SIZE),
        )

    def at(self, time_ns: int) -> None:
        self.host.run_until(self.clock.monotonic_ns(time_ns))


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    with made.host.is_the_clock():
        yield made


@pytest.fixture
def recorder(bench: Bench) -> Recorder:
    listener = Recorder()
    bench.path.begin(listener, bench.clock)
    return listener


# --- every order of one message -------------------------------------------------------------------------------


def act(bench: Bench, what: str, number: int = 0) -> None:
    match what:
        case "begin writing":
            bench.streams.waiting.pop(number)
        case "written":
            bench.path.written(number)
        case "receipt":
            bench.path.acknowledged(number)
        case "broken":
            bench.path.delivery_failed(number, FRAME_BYTES)
        case "abort":
            bench.path.abort(number)


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        (["begin writing", "written", "receipt"], [("sent", 0, 2 * MS), ("arrived", 0, 3 * MS)]),
        # The reader of receipts may run before the writer goes on.
        (["begin writing", "receipt", "written"], [("sent", 0, 2 * MS), ("arrived", 0, 2 * MS)]),
        (["begin writing", "written", "broken"], [("sent", 0, 2 * MS), ("lost", 0, WIRE_BYTES, 3 * MS)]),
        (["begin writing", "broken", "written"], [("lost", 0, 0, 2 * MS)]),
        (["broken"], [("lost", 0, 0, 1 * MS)]),
        (["abort"], [("aborted", 0, 0, 1 * MS)]),
        (
            ["begin writing", "abort", "written", "receipt"],
            [("sent", 0, 3 * MS), ("arrived", 0, 4 * MS)],
        ),
        (["begin writing", "abort", "broken"], [("lost", 0, 0, 3 * MS)]),
        (["begin writing", "written", "abort", "broken"], [("sent", 0, 2 * MS), ("lost", 0, WIRE_BYTES, 4 * MS)]),
    ],
)
def test_what_is_told_of_one_message(
    bench: Bench, recorder: Recorder, happens: list[str], told: list[tuple[Any, ...]]
) -> None:
    assert bench.path.send(0, NodeId(2), message(), 0) == WIRE_BYTES
    assert bench.path.window.bytes == FRAME_BYTES
    for step, what in enumerate(happens, start=1):
        bench.at(step * MS)
        before = len(recorder.told)
        act(bench, what)
        if what == "abort":
            assert len(recorder.told) == before  # never from within
        bench.at(step * MS)
    assert recorder.told == told
    assert bench.path.window.bytes == 0


def test_times_are_the_experiments() -> None:
    bench, recorder = Bench(dilation=4.0), Recorder()
    with bench.host.is_the_clock():
        bench.path.begin(recorder, bench.clock)
        bench.path.send(0, NodeId(1), message(), 0)
        bench.at(3 * MS)
        bench.path.written(0)
        assert recorder.told == [("sent", 0, 3 * MS)]


def test_nothing_is_told_after_the_end_but_receipts_free_the_window(bench: Bench, recorder: Recorder) -> None:
    for number in range(3):
        bench.path.send(number, NodeId(1), message(), 0)
    bench.path.abort(2)
    bench.path.stop()
    bench.at(MS)
    bench.path.written(0)
    bench.path.acknowledged(0)
    bench.path.delivery_failed(1, FRAME_BYTES)
    assert recorder.told == []
    assert bench.path.window.bytes == 0


# --- the bound in flight, and how long a receipt may take -----------------------------------------------------


@pytest.mark.parametrize("transfers", [1, 3])
def test_links_without_limit_and_latency_have_one_message_more_than_transfers_in_flight(transfers: int) -> None:
    bench = Bench(network(4, UNLIMITED, sender=parallel(transfers)))
    with bench.host.is_the_clock():
        bench.path.begin(Recorder(), bench.clock)
        sent = 0
        while bench.path.has_room(NodeId(1), message()):
            bench.path.send(sent, NodeId(1), message(), 0)
            sent += 1
        assert sent == transfers + 1
        bench.path.written(0)
        assert not bench.path.has_room(NodeId(1), message())  # in a buffer, and in flight all the same
        bench.path.acknowledged(0)
        assert bench.path.has_room(NodeId(1), message())
        assert bench.path.window.bytes_max == bench.path.window.bound_bytes == (transfers + 1) * FRAME_BYTES


def test_links_with_rate_and_latency_may_be_filled() -> None:
    bench = Bench(network(4, 8.0, latency_ns=50 * MS))
    bench.path.has_room(NodeId(1), message())
    assert bench.path.window.bound_bytes == 1.5 * 1e6 * 0.1


def deadline_of(plan: NetworkPlan, dilation: float = 1.0) -> int:
    bench = Bench(plan, dilation)
    with bench.host.is_the_clock():
        bench.path.begin(Recorder(), bench.clock)
        assert bench.path.has_room(NodeId(1), message())
        bench.path.send(0, NodeId(1), message(), 0)
    return bench.streams.deadlines_ns[0]


def test_a_receipt_may_take_longer_on_slow_links() -> None:
    assert deadline_of(network(4, UNLIMITED)) == RECEIPT_WITHIN_NS
    # Four nodes with two frames each at 1 byte a millisecond, and four times that as links are not shared evenly.
    slow = 4 * 4 * 2 * FRAME_BYTES * MS
    assert deadline_of(network(4, 0.008)) == RECEIPT_WITHIN_NS + slow
    assert deadline_of(network(4, 0.008), dilation=3.0) == RECEIPT_WITHIN_NS + 3 * slow
    assert deadline_of(replace(network(4, 8.0), changes=((MS, CapacityChange("up", 2, -1, 0.008)),))) > slow
    parked = replace(network(4, 8.0), changes=((MS, CapacityChange("up", 2, -1, 0.0)),))
    assert deadline_of(parked) == RECEIPT_WITHIN_NS + FOR_EVER_NS
    pairs = np.full((4, 4), 8.0)
    np.fill_diagonal(pairs, 0.0)
    assert deadline_of(network(4, UNLIMITED, pair_mbps=pairs)) < RECEIPT_WITHIN_NS + 4 * MS


@pytest.mark.parametrize(
    ("mbps", "dilation", "expected_ns"),
    [(UNLIMITED, 1.0, 0), (0.0, 1.0, FOR_EVER_NS), (0.008, 3.0, 3 * 4 * 4 * 2 * FRAME_BYTES * MS)],
)
def test_a_handshake_may_wait_behind_what_is_under_way(mbps: float, dilation: float, expected_ns: int) -> None:
    bench = Bench(network(4, mbps), dilation)
    bench.path.begin(Recorder(), bench.clock)
    assert bench.path.has_room(NodeId(1), message())
    assert bench.path.queues_ns() == expected_ns


# --- one transfer at a time, on links with a rate ---------------------------------------------------------------

SLOW = network(4, [0.08, 0.08, 0.008, 0.08], latency_ns=MS)
"""A message takes 8 ms to node 1 and 80 ms to node 2."""


@pytest.fixture
def slow() -> Iterator[tuple[Bench, Recorder]]:
    bench, listener = Bench(SLOW), Recorder()
    with bench.host.is_the_clock():
        bench.path.begin(listener, bench.clock)
        yield bench, listener


def write(bench: Bench, number: int, receiver: int, ready_ns: int) -> None:
    bench.path.send(number, NodeId(receiver), message(), ready_ns)
    act(bench, "begin writing", number)
    act(bench, "written", number)


@pytest.mark.parametrize(("receiver", "end_ns"), [(1, 8 * MS), (2, 80 * MS)])
def test_a_message_has_left_when_its_links_can_have_carried_it(
    slow: tuple[Bench, Recorder], receiver: int, end_ns: int
) -> None:
    bench, recorder = slow
    write(bench, 0, receiver, 0)
    bench.at(end_ns - 1)
    assert recorder.told == []
    bench.at(end_ns)
    assert recorder.told == [("sent", 0, end_ns)]
    act(bench, "receipt")
    assert recorder.told[1:] == [("arrived", 0, end_ns)]


def test_a_receipt_that_comes_before_ends_the_transfer(slow: tuple[Bench, Recorder]) -> None:
    bench, recorder = slow
    write(bench, 0, 2, 0)
    bench.at(5 * MS)
    act(bench, "receipt")
    bench.at(200 * MS)
    assert recorder.told == [("sent", 0, 5 * MS), ("arrived", 0, 5 * MS)]


def test_a_transfer_counts_from_when_it_could_begin(slow: tuple[Bench, Recorder]) -> None:
    bench, recorder = slow
    bench.at(3 * MS)
    write(bench, 0, 1, 1 * MS)
    bench.at(9 * MS)
    assert recorder.told == [("sent", 0, 9 * MS)]


def test_an_overdue_message_holds_back_the_others(slow: tuple[Bench, Recorder]) -> None:
    """Somebody else sends to node 1 as well."""
    bench, _ = slow
    write(bench, 0, 1, 0)
    overdue_ns = 8 * MS + 3 * MS + RECEIPT_LATE_NS
    bench.at(overdue_ns - 1)
    assert bench.path.has_room(NodeId(3), message())
    bench.at(overdue_ns)
    assert not bench.path.has_room(NodeId(3), message())
    act(bench, "receipt")
    assert bench.path.has_room(NodeId(3), message())


def test_of_a_link_that_others_use_as_well_only_receipts_tell(slow: tuple[Bench, Recorder]) -> None:
    bench, recorder = slow
    # A message takes 8 ms alone, and its receipt 2 ms on the way. The first takes three times as long, the others do
    # not, so that their ends are foretold again when enough of them did not.
    receipts_ms = [26, 10, 10, 10, 10]
    left_ms = [8, 10, 10, 10, 8]
    for number, (receipt, left) in enumerate(zip(receipts_ms, left_ms, strict=True)):
        begin_ns = 100 * MS * number
        bench.at(begin_ns)
        write(bench, number, 1, begin_ns)
        bench.at(begin_ns + receipt * MS)
        act(bench, "receipt", number)
        told = [("sent", number, begin_ns + left * MS), ("arrived", number, begin_ns + receipt * MS)]
        assert recorder.told[2 * number :] == told


def test_a_receipt_is_not_waited_for_where_that_costs_more_than_the_message() -> None:
    bench, recorder = Bench(replace(SLOW, latency_ns=10 * MS)), Recorder()
    with bench.host.is_the_clock():
        bench.path.begin(recorder, bench.clock)
        for number in range(2):
            begin_ns = 200 * MS * number
            bench.at(begin_ns)
            write(bench, number, 1, begin_ns)
            bench.at(begin_ns + 8 * MS)
            assert recorder.told[-1] == ("sent", number, begin_ns + 8 * MS)
            bench.at(begin_ns + 60 * MS)  # five times as long as alone, and the way there and back
            act(bench, "receipt", number)


def test_a_message_that_is_lost_holds_back_nobody(slow: tuple[Bench, Recorder]) -> None:
    bench, recorder = slow
    write(bench, 0, 1, 0)
    act(bench, "broken")
    bench.at(200 * MS)
    assert bench.path.has_room(NodeId(3), message())
    assert [told[0] for told in recorder.told] == ["lost"]


@pytest.mark.parametrize("order", [["written", "abort"], ["abort", "written"]])
def test_what_is_written_cannot_be_given_up_and_has_left_at_once(
    slow: tuple[Bench, Recorder], order: list[str]
) -> None:
    bench, recorder = slow
    bench.path.send(0, NodeId(2), message(), 0)
    act(bench, "begin writing")
    bench.at(2 * MS)
    for what in order:
        act(bench, what)
    bench.at(2 * MS)
    assert recorder.told == [("sent", 0, 2 * MS)]


def test_a_queue_for_each_peer_waits_for_nobody() -> None:
    bench, recorder = Bench(replace(SLOW, sender=PER_PEER)), Recorder()
    with bench.host.is_the_clock():
        bench.path.begin(recorder, bench.clock)
        write(bench, 0, 2, 0)
        assert [told[0] for told in recorder.told] == ["sent"]
        bench.at(200 * MS)
        assert bench.path.has_room(NodeId(1), message())


def test_a_receipt_may_take_as_long_as_all_standstills_and_partitions_together() -> None:
    second, usual = 1_000 * MS, deadline_of(network(4, 8.0))
    parked = ((MS, CapacityChange("up", 2, -1, 0.0)), (MS + 60 * second, CapacityChange("up", 2, -1, 8.0)))
    assert deadline_of(replace(network(4, 8.0), changes=parked)) == usual + 60 * second
    groups = (0, 0, 1, 1)
    cut = ((100 * second, PartitionChange((groups,))), (7_300 * second, PartitionChange(())))
    assert deadline_of(replace(network(4, 8.0), changes=(*parked, *cut))) == usual + 7_260 * second
    assert deadline_of(replace(network(4, 8.0), changes=(*parked, *cut)), 2.0) > usual + 2 * 7_260 * second
    assert deadline_of(replace(network(4, 8.0), partitions=(groups,))) == RECEIPT_WITHIN_NS + FOR_EVER_NS


def test_a_receipt_may_take_the_longest_way_there_and_back() -> None:
    usual = deadline_of(network(4, 8.0))
    span = LinkSpan(5 * MS, 6 * MS, Place("down", -1, 3), Overlay(latency_ns=700 * MS, jitter_ns=30 * MS))
    slow = scheduled(network(4, 8.0, latency_ns=10 * MS), Schedule(links=(span,)))
    more = deadline_of(slow) - usual
    assert 720 * MS + 5 * 30 * MS <= more <= 2 * (720 * MS + 5 * 30 * MS) + 10 * MS


def test_the_bound_follows_the_round_trip_of_the_time_and_the_most_that_the_rate_ever_is() -> None:
    """At the rate that the uplink has in the end, with 100 ms there and back at first and 500 for a second."""
    spans = (LinkSpan(1_000 * MS, 2_000 * MS, Place("up", 0, -1), Overlay(latency_ns=400 * MS)),)
    plan = network(4, 8.0, latency_ns=50 * MS, changes=((5_000 * MS, CapacityChange("up", 0, -1, 16.0)),))
    bench = Bench(scheduled(plan, Schedule(links=spans)))
    bounds = {}
    with bench.host.is_the_clock():
        bench.path.begin(Recorder(), bench.clock)
        for at_ms in (0, 999, 1_000, 1_999, 2_000, 9_000):
            bench.at(at_ms * MS)
            bench.path.has_room(NodeId(1), message())
            bounds[at_ms] = bench.path.window.bound_bytes
    short, long = 1.5 * 2e6 * 0.1, 1.5 * 2e6 * 0.5
    assert bounds == {0: short, 999: short, 1_000: long, 1_999: long, 2_000: short, 9_000: short}
    assert bench.path.window.bound_bytes_max == long


# --- probes ---------------------------------------------------------------------------------------------------


def test_a_probe_is_told_when_it_is_written_and_only_before_the_start(bench: Bench) -> None:
    recorder = Recorder()
    bench.path.measure(recorder)
    bench.path.probe(1 << 62, NodeId(3), 5, 0, 0)
    bench.path.probe((1 << 62) + 1, NodeId(3), 0, 1_000, 0)
    assert bench.streams.probes == [(3, 5, 0, 0, 1 << 62), (3, 0, 1_000, 0, (1 << 62) + 1)]
    bench.path.written(1 << 62)
    assert recorder.told == [("probe_sent", 1 << 62, EPOCH_NS)]
    bench.path.begin(Recorder(), bench.clock)
    bench.path.written((1 << 62) + 1)
    assert len(recorder.told) == 1


# --- with the driver's sending side ---------------------------------------------------------------------------


class Transport:
    """Streams to three peers that write, acknowledge and break in whatever order a test draws."""

    def __init__(self, bench: Bench, choose: Callable[[int], int]) -> None:
        self._bench, self._choose = bench, choose
        self._writing: list[int] = []
        self._unacknowledged: list[int] = []
        self.delivered_ns: dict[int, int] = {}

    def step(self) -> bool:
        """Let one of the things happen that can; False when there is none."""
        bench, path = self._bench, self._bench.path
        bench.at(bench.clock.now_ns())  # what an abort has planned
        can: list[Callable[[], None]] = []
        for number in bench.streams.waiting:
            can.append(lambda number=number: self._begin(number))  # type: ignore[misc]
            can.append(lambda number=number: self._fail_waiting(number))  # type: ignore[misc]
        for number in self._writing:
            can.append(lambda number=number: self._end_writing(number))  # type: ignore[misc]
        for number in self._unacknowledged:
            can.append(lambda number=number: self._acknowledge(number))  # type: ignore[misc]
            can.append(lambda number=number: self._break(number))  # type: ignore[misc]
        if not can:
            return False
        bench.host.now_ns += 1
        can[self._choose(len(can))]()
        assert path.window.bytes_max <= max(1, path.window.bound_bytes)
        return True

    def _begin(self, number: int) -> None:
        del self._bench.streams.waiting[number]
        self._writing.append(number)
        self._unacknowledged.append(number)

    def _fail_waiting(self, number: int) -> None:
        del self._bench.streams.waiting[number]
        self._bench.path.delivery_failed(number, FRAME_BYTES)

    def _end_writing(self, number: int) -> None:
        self._writing.remove(number)
        self._bench.path.written(number)

    def _acknowledge(self, number: int) -> None:
        self._unacknowledged.remove(number)
        self.delivered_ns[number] = self._bench.clock.now_ns()
        self._bench.path.acknowledged(number)

    def _break(self, number: int) -> None:
        self._unacknowledged.remove(number)
        self._bench.path.delivery_failed(number, FRAME_BYTES)


@settings(max_examples=40, deadline=None)
@given(
    transfers=st.integers(1, 3),
    mbps=st.sampled_from([UNLIMITED, 0.08, 1e5]),
    data=st.data(),
    abort_every=st.integers(3, 9),
)
def test_in_any_order_every_message_ends_once_and_the_bound_holds(
    transfers: int, mbps: float, data: st.DataObject, abort_every: int
) -> None:
    bench = Bench(network(4, mbps, sender=parallel(transfers)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    with bench.host.is_the_clock():
        counters = NodeCounters()
        books = MessageBooks(Accounting(40), counters)
        spent = TimeSpent(Local(NodeContext(NodeId(0), full(4), (10,), 1, 1), LocalConfig()), counters, Standstills())
        spent.begin(0)
        sending = Sending(NodeId(0), bench.path, books, Story(), spent)
        transport = Transport(bench, lambda count: int(rng.integers(count)))
        bench.path.begin(sending, bench.clock)
        for step in itertools.count():
            if step < 30:
                sending.enqueue([(NodeId(1 + step % 3), message(float(step)))] * 2, bench.clock.now_ns())
                sending.pull()
                spent.settle(bench.clock.now_ns(), computes=False, sends=True)
            if step < 30 and step % abort_every == 0:
                sending.cancel(True, bench.clock.now_ns())
                sending.pull()
            if not transport.step() and step >= 30:
                break
    assert books.records is not None
    table = books.records.sent.columns(bench.clock.at_ns(bench.host.now_ns))
    queued, started, sent = (table[f"{name}_ns"] for name in ("queued", "started", "sent"))
    assert np.all((started >= queued)[started >= 0])
    assert np.all((sent >= started)[sent >= 0])
    for number, delivered_ns in transport.delivered_ns.items():
        assert 0 <= sent[number] <= delivered_ns
    begin, end = np.sort(started[sent >= 0]), np.sort(sent[sent >= 0])
    assert np.all(begin[transfers:] >= end[:-transfers]), "more transfers at a time than the sender may have"
    fates = {fate: int((table["state"] == fate).sum()) for fate in MessageState}
    assert counters.messages_queued == len(queued) == 60
    assert fates[MessageState.QUEUED] == fates[MessageState.SENDING] == len(sending) == 0
    assert (fates[MessageState.CANCELLED], fates[MessageState.ABORTED]) == (
        counters.messages_cancelled,
        counters.messages_aborted,
    )
    assert fates[MessageState.LOST] == counters.messages_lost
    assert fates[MessageState.IN_FLIGHT] == len(transport.delivered_ns)  # arrived, which the receiver records
    assert counters.messages_sent == int((sent >= 0).sum())
    assert counters.bytes_sent == counters.messages_sent * WIRE_BYTES
    assert counters.bytes_lost == WIRE_BYTES * int(((table["state"] == MessageState.LOST) & (sent >= 0)).sum())
    assert bench.path.window.bytes == 0
    assert not sending.is_busy
    ended_ns = bench.clock.at_ns(bench.host.now_ns)
    spent.count_until(ended_ns + 1)
    idle_ns = counters.idle_ns
    spent.count_until(ended_ns + 8)
    assert (counters.idle_ns - idle_ns, counters.sending_ns > 0) == (7, True)  # it was told of the last end


def test_what_a_receiver_that_stands_still_holds_keeps_nobody_waiting() -> None:
    """No receipt comes before it goes on, but its links carry what is sent all the same."""
    plan = replace(network(3, 1.0, latency_ns=MS), sender=parallel(1))
    bench, recorder = Bench(plan), Recorder()
    bench.path.standstills = {NodeId(1): Standstills([(0, 500 * MS)])}
    with bench.host.is_the_clock():
        bench.path.begin(recorder, bench.clock)
        assert bench.path.has_room(NodeId(1), message())
        bench.path.send(0, NodeId(1), message(), 0)
        act(bench, "written")
        bench.at(400 * MS)
        kinds = [told[0] for told in recorder.told]
        assert kinds.count("sent") == 1
        assert "arrived" not in kinds
        assert len(bench.path.in_flight) == 0
        assert bench.path.has_room(NodeId(2), message())  # it is not overdue
        act(bench, "receipt")
        assert recorder.told[-1][0] == "arrived"
