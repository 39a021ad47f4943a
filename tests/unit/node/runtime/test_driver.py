"""One real driver with a scripted algorithm: every effect, every callback, on a clock that tests move by hand."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from node.core.algorithm import Algorithm, NodeContext
from node.core.bodies import EMPTY
from node.core.compute import ComputePlan, StepTimer
from node.core.counters import NodeCounters
from node.core.effects import (
    Aggregated,
    CancelQueued,
    Effect,
    Enqueue,
    ReplaceQueued,
    StartLocalSteps,
    StartTimer,
)
from node.core.errors import DivergedError, ProtocolError
from node.core.events import Event, LocalStepsDone, MessageReceived, PeerDown, PeerUp, Started, TimerFired
from node.core.links import NetworkPlan
from node.core.message_log import NEVER
from node.core.messages import Message, MessageState, frozen
from node.core.sender_policy import PER_PEER, parallel
from node.core.steps import Steps
from node.core.topology import full
from node.core.training import TrainingResult
from node.core.types import NodeId, Vector
from node.core.wire_values import WireDtype
from node.host.clock import Clock
from node.runtime.accounting import Accounting
from node.runtime.driver import LATE_NS, Driver, Rounds
from node.runtime.emulated_path import EmulatedPath
from node.runtime.outgoing import RECEIPT_WITHIN_NS, OutgoingFrames
from node.runtime.story import EVENTS_KEPT
from node.transport import frames
from node.transport.frames import HEADER_BYTES, WireContext, decode
from tests.messages import CARRIES, Kind, make_message
from tests.simulation.build import network
from tests.virtual import EPOCH_NS, Host, Loop

MS = 1_000_000
SIZE = 10
FRAME_BYTES = HEADER_BYTES + 4 * SIZE
WIRE_BYTES = 40 + 4 * SIZE

Script = Callable[[Event, int], Sequence[Effect]]


def message(value: float = 0.0, size: int = SIZE, round_: int = 0) -> Message:
    return make_message(Kind.MODEL, round_, frozen(np.full(size, value, dtype=np.float32)))


def to(*receivers: int, what: Message | None = None) -> Enqueue:
    shared = what or message()
    return Enqueue([(NodeId(receiver), shared) for receiver in receivers])


class Scripted(Algorithm):
    """Does what a test says, and remembers what it was told."""

    carries = CARRIES

    def __init__(self) -> None:
        super().__init__(NodeContext(NodeId(0), full(4), (SIZE,), 1, 1))
        self.script: Script = lambda event, now_ns: []
        self.told: list[tuple[Event, int]] = []

    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        self.told.append((event, now_ns))
        return self.script(event, now_ns)


class FakeTrainer:
    """Is ready when a test says so."""

    ready_fd = None
    tensor_sizes = (SIZE,)

    def __init__(self, loop: Loop) -> None:
        self.begun: list[tuple[int, int]] = []  # first step, count
        self.is_ready = True
        self.step = np.float32(1)
        self.asked = 0

    def initial_params(self) -> Vector:
        return np.zeros(SIZE, dtype=np.float32)

    def begin(self, node: NodeId, params: Vector, first_step: int, count: int) -> None:
        self.begun.append((first_step, count))
        self._params = params

    def ready(self, node: NodeId) -> bool:
        self.asked += 1
        return self.is_ready

    def finish(self, node: NodeId) -> TrainingResult:
        return TrainingResult(frozen(self._params + self.step), loss=0.25)

    def momentum(self, node: NodeId) -> Vector | None:
        return None

    def set_momentum(self, node: NodeId, values: Vector) -> None: ...

    def reset_momentum(self, node: NodeId) -> None: ...

    def close(self) -> None: ...


@dataclass
class FakeUplink:
    started: list[tuple[int, int, int, int]] = field(default_factory=list)
    aborted: list[int] = field(default_factory=list)

    def start(self, number: int, receiver: int, wire_bytes: int, ready_ns: int) -> None:
        self.started.append((number, receiver, wire_bytes, ready_ns))

    def abort(self, number: int) -> None:
        self.aborted.append(number)


@dataclass
class FakeStreams:
    sent: list[tuple[int, bytes, int, int, int]] = field(default_factory=list)

    def send(self, peer: NodeId, frame: bytes, number: int, due_ns: int, deadline_ns: int) -> None:
        self.sent.append((peer, frame, number, due_ns, deadline_ns))

    def probe(self, peer: NodeId, sequence: int, sent_ns: int, padding_bytes: int, due_ns: int) -> None:
        raise AssertionError("nobody measures")


class Bench:
    """A driver on an emulated path, and all that surrounds them."""

    def __init__(
        self,
        plan: NetworkPlan | None = None,
        *,
        dilation: float = 1.0,
        dtype: WireDtype = WireDtype.FLOAT32,
        keep_messages: bool = True,
        rounds: Rounds | None = None,
        speeds: Mapping[int, Steps[float]] | None = None,
    ) -> None:
        self.host = Host()
        self.loop = Loop(self.host, 0)
        self.clock = Clock(EPOCH_NS, dilation)
        self.algorithm, self.uplink, self.streams = Scripted(), FakeUplink(), FakeStreams()
        self.trainer = FakeTrainer(self.loop)
        self.refused: list[int] = []
        self.times_done = 0
        self.diverged: list[DivergedError] = []
        plan = plan or network(4, 1.0, latency_ns=3 * MS)
        self.frames = OutgoingFrames(NodeId(0), 99, dtype, SIZE)
        self.path = EmulatedPath(
            node=NodeId(0),
            network=plan,
            seed=1,
            emulator_clock=self.clock,
            loop=self.loop.as_loop(),
            uplink=self.uplink,
            streams=self.streams,
            frames=self.frames,
        )
        self.driver = Driver(
            algorithm=self.algorithm,
            trainer=self.trainer,
            timer=StepTimer(ComputePlan((5 * MS,) * 4, speeds=speeds or {}), 0, 1),
            path=self.path,
            accounting=Accounting(plan.header_bytes, dtype, keep_messages),
            rounds=rounds or Rounds(),
            reject=self.refused.append,
            on_end=self._ended,
        )

    def _ended(self, diverged: DivergedError | None) -> None:
        if diverged is None:
            self.times_done += 1
        else:
            self.diverged.append(diverged)

    def start(self, *effects: Effect) -> None:
        self.script(*effects)
        self.driver.start(
            self.trainer.initial_params(),
            at_ns=0,
            clock=self.clock,
            loop=self.loop.as_loop(),
        )
        self.script()

    def script(self, *effects: Effect) -> None:
        self.algorithm.script = lambda event, now_ns: effects

    def do(self, *effects: Effect) -> None:
        """Let the algorithm ask for effects now, in answer to a message."""
        self.script(*effects)
        self.driver.received(NodeId(3), message(), 1_000 + len(self.algorithm.told), 0)
        self.script()

    def at(self, time_ns: int) -> None:
        """Let the host do what is planned until then; testbed time."""
        self.host.run_until(self.clock.monotonic_ns(time_ns))

    def end_transfer(self, time_ns: int, number: int | None = None) -> None:
        """The transfer that was started last, or another one, ends at a time."""
        self.at(time_ns)
        self.path.transfer_ended(self.uplink.started[-1][0] if number is None else number, time_ns)

    def row(self, number: int) -> dict[str, int]:
        assert self.driver.books.records is not None
        columns = self.driver.books.records.sent.columns(10**15)
        return {name: int(column[number]) for name, column in columns.items()}


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    with made.host.is_the_clock():
        yield made


# --- local steps ----------------------------------------------------------------------------------------------


def test_local_steps_last_as_long_as_declared(bench: Bench) -> None:
    bench.start(StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 3))
    bench.at(15 * MS - 1)
    assert [type(event) for event, _ in bench.algorithm.told] == [Started]
    bench.at(15 * MS)
    event, time_ns = bench.algorithm.told[-1]
    assert isinstance(event, LocalStepsDone)
    assert event.params.tolist() == [1] * SIZE
    assert time_ns == 15 * MS
    count = bench.driver.counters
    assert (count.rounds, count.local_steps, count.train_loss) == (1, 3, 0.25)
    assert (count.overruns, count.overrun_ns, count.declared_ns) == (0, 0, 15 * MS)


def test_training_that_is_not_ready_is_waited_for_and_counts_as_an_overrun(bench: Bench) -> None:
    bench.trainer.is_ready = False
    bench.start(StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1))
    bench.at(14 * MS)
    assert len(bench.algorithm.told) == 1
    bench.trainer.is_ready = True
    bench.driver.steps_may_be_done()  # the trainer has news
    assert bench.algorithm.told[-1][1] == 14 * MS
    count = bench.driver.counters
    assert (count.overruns, count.overrun_ns, count.declared_ns) == (1, 9 * MS, 5 * MS)


def test_the_trainer_is_watched_only_while_it_is_late(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """News before the time would wake the node for nothing."""
    watched: dict[int, Callable[[], None]] = {}
    monkeypatch.setattr(Loop, "add_reader", lambda self, fd, callback: watched.update({fd: callback}), raising=False)
    monkeypatch.setattr(Loop, "remove_reader", lambda self, fd: watched.pop(fd), raising=False)
    monkeypatch.setattr(FakeTrainer, "ready_fd", 7)
    again = StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1)
    bench.trainer.is_ready = False
    bench.start(again)
    bench.at(4 * MS)
    assert watched == {}
    bench.at(6 * MS)
    assert list(watched) == [7]
    bench.algorithm.script = lambda event, now_ns: [again]
    bench.trainer.is_ready = True
    watched[7]()
    assert watched == {}
    assert bench.driver.counters.rounds == 1
    bench.trainer.is_ready = False
    bench.at(12 * MS)
    assert list(watched) == [7]
    bench.driver.stop()
    assert watched == {}


def test_training_that_is_ready_early_is_held_back(bench: Bench) -> None:
    bench.start(StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1))
    bench.at(2 * MS)
    bench.driver.steps_may_be_done()
    bench.driver.steps_may_be_done()
    assert len(bench.algorithm.told) == 1
    assert bench.trainer.asked == 2  # or its news would come again and again


@pytest.mark.parametrize("dilation", [1.0, 4.0])
@pytest.mark.parametrize(("late_ns", "counts"), [(LATE_NS, False), (LATE_NS + 8, True)])
def test_a_small_delay_of_the_host_is_none(dilation: float, late_ns: int, counts: bool) -> None:
    """What may be late is testbed time, whatever the dilation."""
    bench = Bench(dilation=dilation)
    with bench.host.is_the_clock():
        bench.trainer.is_ready = False
        bench.start(StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1))
        bench.host.run_until(bench.clock.monotonic_ns(5 * MS + late_ns))
        bench.trainer.is_ready = True
        bench.driver.steps_may_be_done()
    late = late_ns if counts else 0
    assert bench.algorithm.told[-1][1] == 5 * MS + late
    assert (bench.driver.counters.overruns, bench.driver.counters.overrun_ns) == (int(counts), late)


def test_after_the_last_round_a_node_listens_and_sends() -> None:
    bench = Bench(rounds=Rounds(most=2))
    with bench.host.is_the_clock():
        bench.algorithm.script = lambda event, now_ns: (
            [] if isinstance(event, MessageReceived) else [StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1)]
        )
        bench.driver.start(
            bench.trainer.initial_params(),
            at_ns=0,
            clock=bench.clock,
            loop=bench.loop.as_loop(),
        )
        bench.at(100 * MS)
        assert (bench.driver.counters.rounds, bench.times_done, bench.driver.done) == (2, 1, True)
        bench.do(to(1))
        assert len(bench.uplink.started) == 1
        bench.do(StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1))
        assert bench.times_done == 1
        assert bench.trainer.begun == [(0, 1), (1, 1)]


def test_a_node_that_goes_on_counts_from_where_it_was() -> None:
    bench = Bench(rounds=Rounds(7, 21, 8))
    with bench.host.is_the_clock():
        bench.start(StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 3))
        assert bench.trainer.begun == [(21, 3)]
        bench.at(15 * MS)
        assert (bench.driver.counters.rounds, bench.driver.counters.local_steps) == (8, 24)


# --- sending --------------------------------------------------------------------------------------------------


def test_messages_leave_one_after_the_other_each_with_the_instant_at_which_it_is_due(bench: Bench) -> None:
    bench.start(to(1, 2))
    assert bench.uplink.started == [(0, 1, WIRE_BYTES, 0)]
    assert bench.streams.sent == []
    bench.end_transfer(8 * MS)
    assert bench.uplink.started[1] == (1, 2, WIRE_BYTES, 8 * MS)
    ((peer, frame, number, due_ns, deadline_ns),) = bench.streams.sent
    assert (peer, number) == (1, 0)
    assert due_ns == EPOCH_NS + 11 * MS
    assert deadline_ns == due_ns + RECEIPT_WITHIN_NS
    context = WireContext(99, SIZE, (), frozenset({NodeId(0)}), CARRIES)
    sender, received = decode(frame, expected=context)
    assert sender == 0
    assert received.body.values.tolist() == [0] * SIZE
    assert bench.row(0)["sent_ns"] == 8 * MS
    assert bench.row(0)["started_ns"] == 0
    count = bench.driver.counters
    assert (count.messages_queued, count.messages_sent, count.bytes_sent, count.bytes_payload) == (
        2,
        1,
        WIRE_BYTES,
        4 * SIZE,
    )


def test_the_next_transfer_begins_when_the_last_one_ended_however_late_that_is_told(bench: Bench) -> None:
    bench.start(to(1, 2))
    bench.at(9 * MS)
    bench.path.transfer_ended(0, 8 * MS)
    assert bench.uplink.started[1][3] == 8 * MS
    assert bench.streams.sent[0][3] == EPOCH_NS + 11 * MS


def test_a_transfer_never_begins_before_its_message_was_queued_or_the_one_before_ended(bench: Bench) -> None:
    bench.start(to(1))
    bench.end_transfer(8 * MS)
    bench.at(20 * MS)
    bench.do(to(2))
    assert bench.uplink.started[1][3] == 20 * MS
    # A message that was due at 27 ms is handled at 28 ms, after the end of a transfer at 27.5 ms was told.
    bench.end_transfer(27 * MS + MS // 2)
    bench.at(28 * MS)
    bench.script(to(3))
    bench.driver.received(NodeId(2), message(), 0, EPOCH_NS + 27 * MS)
    assert bench.row(2)["queued_ns"] == 27 * MS
    assert bench.uplink.started[2][3] == 27 * MS + MS // 2


def test_control_messages_are_counted_apart(bench: Bench) -> None:
    bench.start(to(1, what=Message(Kind.NOTICE, 0, EMPTY)))
    bench.end_transfer(MS)
    count = bench.driver.counters
    assert (count.messages_sent, count.messages_control, count.bytes_payload, count.bytes_sent) == (1, 1, 0, 40)


def test_a_message_is_encoded_once_for_all_its_recipients(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(*arguments: Any) -> bytes:
        calls.append(arguments[0])
        return frames.encode(*arguments)

    monkeypatch.setattr("node.runtime.outgoing.encode", counting)
    one, other = message(1.0), message(1.0)
    bench.start(to(1, 2, 3, what=one), to(1, 2, 3, what=other))
    for step in range(1, 7):
        bench.end_transfer(step * MS)
        bench.path.acknowledged(step - 1)
    assert [id(made) for made in calls] == [id(one), id(other)]
    assert len({id(frame) for _, frame, *_ in bench.streams.sent}) == 2


def test_kept_frames_are_bounded(bench: Bench) -> None:
    bench.start()
    for step in range(50):
        bench.do(to(1, what=message(float(step))))
        bench.end_transfer((step + 1) * MS)
        bench.path.acknowledged(step)
        kept = bench.frames._kept
        assert sum(len(frame) for _, frame in kept.values()) == bench.frames._kept_bytes
        assert bench.frames._kept_bytes <= 2 * 4 * SIZE + FRAME_BYTES
    assert len({frame for _, frame, *_ in bench.streams.sent}) == 50


@pytest.mark.parametrize("dtype", [WireDtype.FLOAT16, WireDtype.BFLOAT16])
def test_values_of_half_the_size(dtype: WireDtype) -> None:
    bench = Bench(dtype=dtype)
    with bench.host.is_the_clock():
        bench.start(to(1, what=message(0.5)))
        assert bench.uplink.started[0][2] == 40 + 2 * SIZE
        bench.end_transfer(MS)
        assert len(bench.streams.sent[0][1]) == HEADER_BYTES + 2 * SIZE
        assert bench.driver.counters.bytes_payload == 2 * SIZE
        assert bench.row(0)["payload_bytes"] == 2 * SIZE
        context = WireContext(99, SIZE, (), frozenset({NodeId(0)}), CARRIES, dtype=dtype)
        assert decode(bench.streams.sent[0][1], expected=context)[1].body.values.tolist() == [0.5] * SIZE


# --- cancelling and replacing ---------------------------------------------------------------------------------


def test_cancelling_empties_the_outbox_and_leaves_what_is_under_way(bench: Bench) -> None:
    bench.start(to(1, 2, 3))
    bench.at(MS)
    bench.do(CancelQueued(), to(3))
    assert bench.driver.counters.messages_cancelled == 2
    assert bench.uplink.aborted == []
    assert [bench.row(number)["cancelled_ns"] for number in range(4)] == [NEVER, MS, MS, NEVER]
    bench.end_transfer(8 * MS)
    assert bench.uplink.started[1][:2] == (3, 3)
    assert bench.row(1)["state"] == MessageState.CANCELLED


def test_aborting_counts_the_bytes_as_wasted_and_frees_the_uplink(bench: Bench) -> None:
    bench.start(to(1, 2))
    bench.at(3 * MS)
    bench.do(CancelQueued(abort_in_flight=True), to(3))
    bench.do(CancelQueued(abort_in_flight=True), to(3))  # the same transfer once more
    assert bench.uplink.aborted == [0]
    assert len(bench.uplink.started) == 1  # until the uplink has given it up
    bench.path.transfer_aborted(0, 30)
    count = bench.driver.counters
    assert (count.messages_aborted, count.bytes_wasted, count.bytes_sent, count.messages_sent) == (1, 30, 30, 0)
    assert (count.messages_queued, count.messages_cancelled) == (4, 2)
    assert bench.row(0)["state"] == MessageState.ABORTED
    assert bench.uplink.started[1] == (3, 3, WIRE_BYTES, 3 * MS)
    assert bench.path.window.bytes == FRAME_BYTES


def test_a_transfer_that_ends_before_it_could_be_aborted_was_sent(bench: Bench) -> None:
    bench.start(to(1))
    bench.at(8 * MS)
    bench.do(CancelQueued(abort_in_flight=True))
    bench.path.transfer_ended(0, 8 * MS)
    assert (bench.driver.counters.messages_sent, bench.driver.counters.messages_aborted) == (1, 0)
    assert len(bench.streams.sent) == 1


def test_replacing_goes_by_identity_and_spares_what_is_under_way(bench: Bench) -> None:
    old, twin, new = message(1.0), message(1.0), message(2.0, round_=1)
    bench.start(to(1, 2, what=old), to(3, what=twin))
    bench.do(ReplaceQueued(old, new))
    for step in range(1, 4):
        bench.end_transfer(step * MS)
        bench.path.acknowledged(step - 1)
    context = WireContext(99, SIZE, (), frozenset({NodeId(0)}), CARRIES)
    values = [decode(frame, expected=context)[1].body.values[0] for _, frame, *_ in bench.streams.sent]
    assert values == [1.0, 2.0, 1.0]
    assert [bench.row(number)["round"] for number in range(3)] == [0, 1, 0]


# --- bytes in flight ------------------------------------------------------------------------------------------


def test_the_window_holds_back_until_a_message_is_due() -> None:
    bench = Bench(network(4, 0.001, latency_ns=20 * MS))
    with bench.host.is_the_clock():
        bench.start(to(1, 2, 3))
        assert bench.path.window.bound_bytes == 2 * FRAME_BYTES
        bench.end_transfer(5 * MS)
        bench.end_transfer(10 * MS)
        bench.at(25 * MS - 1)
        assert len(bench.uplink.started) == 2  # two are on their way, and nothing else may be
        bench.at(25 * MS)  # no receipt has come
        assert bench.uplink.started[2] == (2, 3, WIRE_BYTES, 25 * MS)
        assert bench.path.window.bytes == bench.path.window.bytes_max == 2 * FRAME_BYTES


def test_the_window_lets_go_at_the_first_instant_of_any_message() -> None:
    """The message that left last may be due first."""
    latency_ns = np.full((4, 4), 20 * MS)
    latency_ns[0, 2] = 2 * MS
    bench = Bench(network(4, 0.001, latency_ns=latency_ns, sender=parallel(2)))
    with bench.host.is_the_clock():
        bench.start(to(1, 2, 1, 3))
        bench.end_transfer(5 * MS, number=0)
        bench.end_transfer(6 * MS, number=2)  # three in flight are the bound: the next one waits for 25 ms
        bench.end_transfer(8 * MS, number=1)
        bench.at(10 * MS)
        assert bench.uplink.started[3] == (3, 3, WIRE_BYTES, 10 * MS)


def test_a_path_that_stops_looks_for_room_no_longer() -> None:
    bench = Bench(network(4, 0.001, latency_ns=20 * MS))
    with bench.host.is_the_clock():
        bench.start(to(1, 2, 3))
        bench.end_transfer(5 * MS)
        bench.end_transfer(10 * MS)
        bench.driver.stop()
        bench.at(100 * MS)
        assert len(bench.uplink.started) == 2


def test_a_delivery_that_failed_is_lost_and_frees_the_window() -> None:
    bench = Bench(network(4, 0.001, latency_ns=20 * MS))
    with bench.host.is_the_clock():
        bench.start(to(1, 2, 3))
        bench.end_transfer(5 * MS)
        bench.end_transfer(10 * MS)
        bench.path.delivery_failed(0, FRAME_BYTES)
        assert len(bench.uplink.started) == 3
        count = bench.driver.counters
        assert (count.messages_lost, count.bytes_lost) == (1, WIRE_BYTES)
        assert bench.row(0)["state"] == MessageState.LOST
        assert bench.path.window.bytes == 2 * FRAME_BYTES


def test_a_datagram_that_is_lost_is_never_handed_to_a_stream() -> None:
    bench = Bench(network(4, 0.001, loss=0.999, transport="datagram"))
    with bench.host.is_the_clock():
        bench.start(to(1, 2, 3))
        for step in range(1, 4):
            bench.end_transfer(step * 5 * MS)
        assert bench.streams.sent == []
        assert bench.path.window.bytes == 0
        count = bench.driver.counters
        assert (count.messages_sent, count.messages_lost, count.bytes_sent, count.bytes_lost) == (
            3,
            3,
            3 * WIRE_BYTES,
            3 * WIRE_BYTES,
        )


def test_parallel_senders_have_as_many_transfers_as_they_may() -> None:
    bench = Bench(network(4, 1.0, sender=parallel(2)))
    with bench.host.is_the_clock():
        bench.start(to(1, 2, 3), to(1, 2, 3))
        assert [started[0] for started in bench.uplink.started] == [0, 1]
        bench.end_transfer(7 * MS, number=1)
        bench.path.acknowledged(1)
        assert bench.uplink.started[2] == (2, 3, WIRE_BYTES, 7 * MS)


def test_a_sender_with_a_queue_for_each_peer_has_a_transfer_to_each_and_a_window_for_each() -> None:
    bench = Bench(network(4, 0.001, latency_ns=3 * MS, sender=PER_PEER))
    with bench.host.is_the_clock():
        bench.start(to(1, 1, 2, 1, 1))
        assert [started[:2] for started in bench.uplink.started] == [(0, 1), (2, 2)]
        bench.end_transfer(5 * MS, number=0)
        assert bench.uplink.started[2] == (1, 1, WIRE_BYTES, 5 * MS)
        bench.end_transfer(6 * MS, number=1)
        assert len(bench.uplink.started) == 3  # two are on their way to node 1
        assert bench.path.window.bytes == bench.path.window.bound_bytes == 2 * FRAME_BYTES
        bench.do(to(3))  # which holds back nobody else
        assert bench.uplink.started[3][:2] == (5, 3)
        bench.end_transfer(7 * MS, number=2)
        bench.at(8 * MS - 1)
        assert len(bench.uplink.started) == 4
        bench.at(8 * MS)
        assert bench.uplink.started[4] == (3, 1, WIRE_BYTES, 8 * MS)
        count = bench.driver.current_counters()
        assert (count.in_flight_bytes_max, count.in_flight_bytes_bound) == (2 * FRAME_BYTES, 2 * FRAME_BYTES)


def test_nothing_begins_until_all_that_was_given_up_is_over() -> None:
    bench = Bench(network(4, 1.0, sender=PER_PEER))
    with bench.host.is_the_clock():
        bench.start(to(1, 2))
        bench.at(3 * MS)
        bench.do(CancelQueued(abort_in_flight=True), to(3, 2, 1))
        assert bench.uplink.aborted == [0, 1]
        bench.path.transfer_aborted(0, 30)
        assert len(bench.uplink.started) == 2
        bench.path.transfer_aborted(1, 30)
        assert [started[:2] for started in bench.uplink.started[2:]] == [(2, 3), (3, 2), (4, 1)]
        assert [started[3] for started in bench.uplink.started[2:]] == [3 * MS] * 3


# --- receiving ------------------------------------------------------------------------------------------------


def test_an_arrival_has_the_time_at_which_it_was_due(bench: Bench) -> None:
    bench.start()
    bench.at(6 * MS)
    bench.driver.received(NodeId(2), message(), 0, EPOCH_NS + 5 * MS)
    event, time_ns = bench.algorithm.told[-1]
    assert isinstance(event, MessageReceived)
    assert (event.sender, event.delivery, time_ns) == (2, 0, 5 * MS)
    bench.at(20 * MS)
    bench.driver.received(NodeId(2), message(), 1, EPOCH_NS + 10 * MS)  # far too late: it has the real time
    assert bench.algorithm.told[-1][1] == 20 * MS
    assert bench.driver.counters.messages_delivered == 2
    assert bench.driver.counters.bytes_received == 2 * WIRE_BYTES


def test_times_never_go_back(bench: Bench) -> None:
    bench.start()
    bench.at(6 * MS)
    bench.driver.received(NodeId(2), message(), 0, 0)
    bench.driver.received(NodeId(1), message(), 0, EPOCH_NS + 5 * MS)
    assert [time_ns for _, time_ns in bench.algorithm.told] == [0, 6 * MS, 6 * MS]


def test_a_message_that_the_algorithm_refuses_is_counted_against_its_sender(bench: Bench) -> None:
    def refuse(event: Event, now_ns: int) -> list[Effect]:
        raise ProtocolError("not now")

    bench.start()
    bench.algorithm.script = refuse
    bench.driver.received(NodeId(2), message(), 0, 0)
    assert bench.refused == [2]
    bench.do(to(1))
    assert len(bench.uplink.started) == 1  # the node lives


def test_aggregations_name_the_round_that_is_trained_or_has_just_ended(bench: Bench) -> None:
    steps = StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1)
    bench.start(steps)
    bench.driver.received(NodeId(2), message(), 0, 0)
    bench.do(Aggregated([0]))  # in the middle of round 0
    bench.script(Aggregated([1]), steps)  # as round 0 ends
    bench.at(5 * MS)
    assert bench.driver.books.records is not None
    with np.load(io.BytesIO(bench.driver.books.records.to_bytes(10**9))) as content:
        assert content["received.staleness"].tolist()[:2] == [0, 0]
        assert content["received.aggregated_ns"].tolist()[:2] == [0, 5 * MS]
    assert bench.driver.counters.messages_aggregated == 2


def test_timers_fire_once_at_their_time(bench: Bench) -> None:
    bench.start(StartTimer(7, 4 * MS), StartTimer(8, 0))
    bench.at(0)
    assert bench.algorithm.told[-1] == (TimerFired(8), 0)
    bench.at(50 * MS)
    assert bench.algorithm.told[-1] == (TimerFired(7), 4 * MS)
    assert len(bench.algorithm.told) == 3


# --- the end --------------------------------------------------------------------------------------------------


def test_nothing_happens_after_the_end(bench: Bench) -> None:
    bench.start(to(1, 2), StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1), StartTimer(1, MS))
    before = bench.driver.current_counters()
    bench.driver.stop()
    bench.at(100 * MS)
    bench.driver.steps_may_be_done()
    bench.path.transfer_ended(0, 8 * MS)
    bench.path.transfer_aborted(0, 3)
    bench.driver.received(NodeId(2), message(), 0, 0)
    bench.path.acknowledged(0)
    bench.path.delivery_failed(0, FRAME_BYTES)
    assert len(bench.algorithm.told) == 1
    assert len(bench.uplink.started) == 1
    assert bench.streams.sent == []
    after = bench.driver.current_counters()
    assert (after.rounds, after.local_steps, after.bytes_sent) == (before.rounds, before.local_steps, 0)


def test_the_model_is_that_after_aggregation_or_after_training(bench: Bench) -> None:
    bench.start(StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1))
    assert bench.driver.model(after_training=True).tolist() == [0] * SIZE  # not trained yet
    bench.script(to(1, 2, 3), StartLocalSteps(np.full(SIZE, 9, dtype=np.float32), 1))
    bench.at(6 * MS)
    assert bench.driver.model().tolist() == [9] * SIZE
    assert bench.driver.model(after_training=True).tolist() == [1] * SIZE
    count = bench.driver.current_counters()
    assert (count.rounds, count.local_steps, count.queued_messages) == (1, 2, 2)
    assert 0 < count.in_flight_bytes_max <= count.in_flight_bytes_bound


def spent(counted: NodeCounters) -> list[float]:
    """Computing, waiting, sending, idle; milliseconds."""
    return [ns / MS for ns in (counted.computing_ns, counted.waiting_ns, counted.sending_ns, counted.idle_ns)]


def test_the_times_of_a_node_add_up_to_its_clock(bench: Bench) -> None:
    assert spent(bench.driver.current_counters()) == [0, 0, 0, 0]  # before the start there is no clock
    bench.start(StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1))
    bench.script(to(1, 2))
    bench.at(7 * MS)
    bench.script()
    assert spent(bench.driver.current_counters()) == [5, 0, 2, 0]
    bench.end_transfer(9 * MS)
    bench.end_transfer(12 * MS)
    bench.at(20 * MS)
    assert spent(bench.driver.current_counters(18 * MS)) == [5, 0, 7, 6]
    bench.driver.stop(at_ns=19 * MS)
    bench.at(30 * MS)
    assert spent(bench.driver.current_counters()) == [5, 0, 7, 7]


def test_what_arrived_during_local_steps_arrived_while_the_node_computed(bench: Bench) -> None:
    """Though it is handed over when they have ended, with its own time."""
    bench.start(StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1))
    arrived = [EPOCH_NS + 2 * MS]

    def take(until_ns: int) -> None:
        while arrived and arrived[0] <= until_ns:
            due_ns = arrived.pop()
            bench.driver.received(NodeId(2), message(), 0, due_ns, due_ns)

    bench.driver.take_arrivals = take
    bench.at(8 * MS)
    assert [(type(event), time_ns) for event, time_ns in bench.algorithm.told[1:]] == [
        (MessageReceived, 2 * MS),
        (LocalStepsDone, 5 * MS),
    ]
    assert spent(bench.driver.current_counters()) == [5, 0, 0, 3]


def test_local_steps_that_are_late_are_computing(bench: Bench) -> None:
    bench.start(StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1))
    bench.trainer.is_ready = False
    bench.at(40 * MS)
    bench.trainer.is_ready = True
    bench.driver.steps_may_be_done()
    bench.at(41 * MS)
    assert spent(bench.driver.current_counters()) == [40, 0, 0, 1]


def test_without_records_only_counters_are_kept() -> None:
    bench = Bench(keep_messages=False)
    with bench.host.is_the_clock():
        bench.start(to(1, 2))
        bench.end_transfer(8 * MS)
        bench.do(CancelQueued(abort_in_flight=True), to(3, what=message(5.0)), Aggregated([0]))
        bench.path.transfer_aborted(1, 5)
        bench.path.delivery_failed(0, FRAME_BYTES)
        assert bench.driver.books.records is None
        count = bench.driver.counters
        assert (
            count.messages_queued,
            count.messages_sent,
            count.messages_aborted,
            count.messages_lost,
            count.messages_aggregated,
        ) == (3, 1, 1, 1, 1)


# --- the story ------------------------------------------------------------------------------------------------


def test_the_story_tells_the_last_events_and_no_more(bench: Bench) -> None:
    bench.start(to(1), StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1))
    bench.at(5 * MS)
    bench.end_transfer(8 * MS)
    bench.path.delivery_failed(0, FRAME_BYTES)
    assert bench.driver.story() == (
        "0.000000 s: started",
        "0.000000 s: queued 1 messages",
        "0.000000 s: began 1 local steps of round 0",
        "0.005000 s: ended the local steps of round 0",
        "0.008000 s: sent message 0 to node 1",
        "0.008000 s: lost message 0",
    )
    for number in range(1, 100):
        bench.do(to(1))
        bench.end_transfer((10 + number) * MS)
        bench.path.acknowledged(number)
    story = bench.driver.story()
    assert len(story) == EVENTS_KEPT
    assert story[-1] == "0.109000 s: sent message 99 to node 1"


# --- models that are not finite ---------------------------------------------------------------------------------

TRAIN = StartLocalSteps(np.zeros(SIZE, dtype=np.float32), 1)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_model_that_is_not_finite_after_training_stops_the_node_at_once(bench: Bench, value: float) -> None:
    """The algorithm is not told, so that nothing is mixed or sent, and the figures are those of the round."""
    bench.trainer.step = np.float32(value)
    bench.start(to(1), TRAIN)
    bench.at(20 * MS)
    (error,) = bench.diverged
    assert str(error) == "node 0: its model is not finite after round 0 (learning rate too high?)"
    assert (error.node, error.round, error.time_ns) == (0, 0, 5 * MS)
    assert bench.driver.diverged is error
    assert [type(event) for event, _ in bench.algorithm.told] == [Started]
    assert bench.driver.counters.rounds == 1
    assert not np.isfinite(bench.driver.model(after_training=True)).any()
    assert np.isfinite(bench.driver.model()).all()
    assert bench.driver.story()[-1] == "0.005000 s: found its model to be not finite"
    bench.do(to(1))
    bench.driver.stop()  # as the process will
    assert len(bench.algorithm.told) == 1
    assert (bench.times_done, len(bench.diverged)) == (0, 1)


def test_a_loss_that_is_no_number_ends_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    result = TrainingResult(frozen(np.ones(SIZE, dtype=np.float32)), loss=float("nan"))
    monkeypatch.setattr(bench.trainer, "finish", lambda node: result)
    bench.start(TRAIN)
    bench.at(5 * MS)
    assert isinstance(bench.algorithm.told[-1][0], LocalStepsDone)
    assert np.isnan(bench.driver.counters.train_loss)
    assert bench.diverged == []


def test_an_average_that_overflowed_is_not_sent(bench: Bench) -> None:
    """Between two trainings: messages are looked at as well, and the last round that was completed is named."""
    bench.start(TRAIN)
    bench.at(5 * MS)
    bench.do(to(1), to(2, what=message(np.inf)), to(3))
    assert [str(error) for error in bench.diverged] == [
        "node 0: its model is not finite after round 0 (learning rate too high?)"
    ]
    assert bench.driver.counters.messages_queued == 1


def test_before_its_first_round_a_node_names_no_round(bench: Bench) -> None:
    bench.start(to(1))
    bench.do(ReplaceQueued(message(), message(np.nan)))
    assert [str(error) for error in bench.diverged] == [
        "node 0: its model is not finite before its first round is over (learning rate too high?)"
    ]


@pytest.mark.parametrize(("dtype", "expected"), [(WireDtype.FLOAT32, 0), (WireDtype.FLOAT16, 3 * SIZE)])
def test_values_that_will_saturate_count_once_a_message(dtype: WireDtype, expected: int) -> None:
    bench = Bench(dtype=dtype)
    with bench.host.is_the_clock():
        large, larger = message(7e4), message(-1e38)
        bench.start(to(1, 2, what=large), to(3, what=larger), to(1, what=message(65_504.0)))
        bench.do(ReplaceQueued(larger, message(8e4)))
    assert bench.driver.counters.values_saturated == expected
    assert [count for _, count in bench.driver.saturated] == ([SIZE, SIZE, SIZE] if expected else [])
    assert bench.diverged == []


def test_when_values_saturated_is_remembered_also_of_the_messages_before_a_divergence() -> None:
    bench = Bench(dtype=WireDtype.FLOAT16)
    with bench.host.is_the_clock():
        bench.start(TRAIN)
        bench.at(5 * MS)
        bench.do(Enqueue([(NodeId(1), message(7e4)), (NodeId(2), message(np.inf))]))
    assert list(bench.driver.saturated) == [(5 * MS, SIZE)]
    assert len(bench.diverged) == 1


# --- rest -------------------------------------------------------------------------------------------------------


def test_a_node_is_at_rest_when_only_a_message_can_wake_it(bench: Bench) -> None:
    """Or the end of a transfer: it trains no more, no timer runs, and receipts cover what has left."""
    assert bench.driver.rest() is None  # it has not begun
    bench.start(to(1), TRAIN, StartTimer(1, 8 * MS))
    bench.end_transfer(MS)
    bench.path.acknowledged(0)
    bench.at(6 * MS)
    assert bench.driver.rest() is None  # the timer
    bench.at(8 * MS)
    assert bench.driver.rest() == ()
    bench.do(to(2, 3))
    assert bench.driver.rest() == (2,)  # the other one begins when this one ends
    bench.do(CancelQueued())
    bench.end_transfer(9 * MS)
    assert bench.driver.rest() is None  # no receipt yet
    bench.path.acknowledged(1)
    assert bench.driver.rest() == ()
    bench.do(TRAIN)
    assert bench.driver.rest() is None  # local steps
    bench.driver.stop()
    assert bench.driver.rest() is None  # as it was then


def test_with_a_queue_for_each_peer_all_count() -> None:
    bench = Bench(network(4, 1.0, sender=PER_PEER))
    with bench.host.is_the_clock():
        bench.start(to(1, 2, 1))
        assert bench.driver.rest() == (1, 2)
        bench.end_transfer(MS, 1)
        assert bench.driver.rest() is None
        bench.path.acknowledged(1)
        assert bench.driver.rest() == (1,)


def test_a_node_that_stopped_at_rest_was_so(bench: Bench) -> None:
    bench.start(to(1))
    bench.driver.stop()
    bench.driver.stop()
    bench.path.transfer_ended(0, 5 * MS)
    assert bench.driver.rest() == (1,)


# --- neighbors that go and come back, and a node that does ------------------------------------------------------


def test_what_is_for_a_neighbor_that_cannot_be_reached_is_lost_and_takes_no_uplink(bench: Bench) -> None:
    bench.start(to(1, 2, 1, 3))
    bench.at(MS)
    bench.driver.heard(PeerDown(NodeId(1)))
    assert bench.algorithm.told[-1] == (PeerDown(NodeId(1)), MS)
    assert bench.uplink.aborted == [0]  # what was under way to it
    bench.path.transfer_aborted(0, 30)
    assert [receiver for _, receiver, *_ in bench.uplink.started] == [1, 2]
    bench.end_transfer(9 * MS)
    assert [receiver for _, receiver, *_ in bench.uplink.started] == [1, 2, 3]  # the third is lost in between
    count = bench.driver.counters
    assert (count.messages_aborted, count.messages_lost, count.bytes_lost) == (1, 1, 0)
    assert bench.row(2)["state"] == MessageState.LOST
    bench.driver.heard(PeerUp(NodeId(1)))
    assert isinstance(bench.algorithm.told[-1][0], PeerUp)
    bench.end_transfer(17 * MS)
    bench.do(to(1))
    assert [receiver for _, receiver, *_ in bench.uplink.started] == [1, 2, 3, 1]


def test_a_node_that_crashes_loses_what_is_queued_and_under_way(bench: Bench) -> None:
    bench.start(to(1, 2, 3))
    bench.at(MS)
    bench.driver.stop(crashes=True)
    bench.driver.stop()
    count = bench.driver.counters
    assert (count.messages_queued, count.messages_aborted, count.messages_cancelled) == (3, 1, 2)
    assert [bench.row(number)["state"] for number in range(3)] == [
        MessageState.ABORTED,
        MessageState.CANCELLED,
        MessageState.CANCELLED,
    ]
    bench.driver.heard(PeerDown(NodeId(1)))
    assert not any(isinstance(event, PeerDown) for event, _ in bench.algorithm.told)


def test_no_transfer_begins_while_the_node_stands_still_on_purpose() -> None:
    """What it is told late begins when it goes on, as in a simulation, and not when it could have."""
    bench = Bench(speeds={0: Steps(1.0, (5 * MS, 20 * MS), (0.0, 1.0))})
    with bench.host.is_the_clock():
        bench.start(to(1, 2))
        bench.at(20 * MS)  # it is let go on, and hears now of what ended at 8 ms
        bench.path.transfer_ended(0, 8 * MS)
        assert bench.uplink.started[1][3] == 20 * MS


@pytest.mark.parametrize("pause_ns", [4 * MS, 5 * MS, 8 * MS])
def test_steps_that_end_as_the_node_is_paused_have_not_overrun(pause_ns: int) -> None:
    """The signal may come a moment before the node would have taken its own event."""
    bench = Bench(speeds={0: Steps(1.0, (pause_ns, 30 * MS), (0.0, 1.0))})
    with bench.host.is_the_clock():
        bench.start(StartLocalSteps(bench.trainer.initial_params(), 1))
        ends_ns = 31 * MS if pause_ns == 4 * MS else 30 * MS  # a fifth of the work was left, or none
        bench.host.now_ns = bench.clock.monotonic_ns(ends_ns)  # the node is let go on, and hears of all at once
        bench.at(ends_ns)
        assert bench.algorithm.told[-1][1] == ends_ns
        assert bench.driver.counters.overruns == 0
