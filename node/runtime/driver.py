"""The real-time driver: executes the effects of one node's algorithm and tells it what happened.

The counterpart of :mod:`node.sim.world` for one node, on an asyncio loop. Nothing here knows sockets, processes or
torch: training, the uplink and the streams to peers are given.

What time an event has. The host wakes a node a little late, and without care these delays would add up round after
round. So an event that was planned, such as the end of local steps or of a transfer, has the time for which it was
planned, and what follows from it is planned from there. Where the host is late by more than it may be, the event has
the time at which it really happened and counts as an overrun. Times that an algorithm sees never go back.

States of a node: waiting (before :meth:`Driver.start`), running, done (its rounds are over; it still listens and
sends), stopped (nothing happens any more). Local steps: declared to end at a time, and over when that time has come
*and* the trainer is ready.
"""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol, assert_never

import numpy as np

from node.core.algorithm import Algorithm
from node.core.compute import StepTimer
from node.core.delivery import DeliveryModel
from node.core.effects import (
    Addressed,
    Aggregated,
    CancelQueued,
    Effect,
    Enqueue,
    ReplaceQueued,
    StartLocalSteps,
    StartTimer,
)
from node.core.errors import ProtocolError
from node.core.events import Event, LocalStepsDone, MessageReceived, Started, TimerFired
from node.core.links import NetworkPlan
from node.core.messages import Message
from node.core.outbox import Outbox
from node.core.training import RealTimeTrainer
from node.core.types import NodeId, Vector
from node.core.units import NS_PER_MS, NS_PER_S
from node.host.clock import Clock
from node.runtime.message_records import Records
from node.transport.frames import HEADER_BYTES, WireDtype, encode
from node.transport.window import Window, bound_bytes

LATE_NS = 5 * NS_PER_MS
"""Testbed time by which the host may wake a node late before it counts, as arrivals may be late in a faithful run."""

RECEIPT_WITHIN_NS = 20 * NS_PER_S
"""Real time that a receipt may take after its message was due: nothing of it is transmission, which is over by then."""

UNLIMITED_MBPS = 10_000.0
"""Stands for a link without limit where the bytes in flight are bounded."""

log = logging.getLogger(__name__)


class Uplink(Protocol):
    """The way out of a node, shaped. Calls back when a message's last byte has left."""

    def start(self, number: int, receiver: int, wire_bytes: int, ready_ns: int) -> None:
        """Begin a transfer that could have begun at ``ready_ns``."""

    def abort(self, number: int) -> None:
        """Give a transfer up."""


class Streams(Protocol):
    """The streams to the peers."""

    def send(self, peer: NodeId, frame: bytes, number: int, due_ns: int, deadline_ns: int) -> None:
        """Hand over a frame that arrives at ``due_ns`` of the host's monotonic clock; never blocks.

        Without a receipt by ``deadline_ns`` it is lost.
        """


@dataclass(slots=True)
class Counters:
    """What a node did so far; counts and bytes as in :class:`node.sim.world.SimulatedNode`."""

    rounds: int = 0
    local_steps: int = 0
    train_loss: float = float("nan")
    queued: int = 0
    sent: int = 0
    sent_control: int = 0
    delivered: int = 0
    aggregated: int = 0
    cancelled: int = 0
    aborted: int = 0
    lost: int = 0
    bytes_sent: int = 0
    payload_sent: int = 0
    bytes_wasted: int = 0
    bytes_lost: int = 0
    bytes_received: int = 0
    overruns: int = 0
    """Blocks of local steps that took longer than declared."""
    overrun_ns: int = 0
    """By how much, testbed time."""
    declared_ns: int = 0
    """ConfigModel time of all blocks, testbed time."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A node at one instant, for evaluation: its model and its counters then."""

    time_ns: int
    params: Vector
    rounds: int
    local_steps: int
    train_loss: float
    bytes_sent: int
    queued_messages: int


@dataclass(slots=True)
class _Transfer:
    receiver: NodeId
    message: Message
    wire_bytes: int
    aborted: bool = False


class Driver:
    """One node's driver.

    Args:
        node: Which node.
        algorithm: Its algorithm.
        trainer: Does the local steps; :meth:`steps_may_be_done` is to be called when it has news.
        timer: The declared duration of local steps.
        network: Sender policy, latency, jitter and loss; rates are the uplink's matter.
        seed: The experiment's seed.
        plan_id: Of the run, for frames.
        dtype: How values travel.
        first_round: Rounds done before, in an earlier part of the run; and ``first_step`` local steps.
        max_rounds: Stop training after so many rounds in all; None for no limit.
        keep_messages: Record the life of every message.
        reject: Told of a message that the algorithm refused: sender.
        on_done: Called once, when the node has done all its rounds.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        algorithm: Algorithm,
        trainer: RealTimeTrainer,
        timer: StepTimer,
        network: NetworkPlan,
        seed: int,
        plan_id: int,
        dtype: WireDtype = WireDtype.FLOAT32,
        first_round: int = 0,
        first_step: int = 0,
        max_rounds: int | None = None,
        keep_messages: bool = True,
        reject: Callable[[NodeId], None],
        on_done: Callable[[], None],
    ) -> None:
        self.counters = Counters(rounds=first_round, local_steps=first_step)
        self.records = Records(network.header_bytes, dtype.value_bytes) if keep_messages else None
        self.window = Window(0)
        self.done = False
        self._node = node
        self._algorithm = algorithm
        self._trainer = trainer
        self._timer = timer
        self._max_transfers = network.sender
        self._header_bytes = network.header_bytes
        self._value_bytes = dtype.value_bytes
        self._deliveries = DeliveryModel(network, seed)
        self._bandwidth_mbps = _bandwidth_mbps(network, node)
        self._round_trip_ms = _longest_round_trip_ms(network, node)
        self._plan_id = plan_id
        self._dtype = dtype
        self._max_rounds = max_rounds
        self._reject = reject
        self._on_done = on_done
        self._outbox = Outbox()
        self._next_number = 0
        self._batches: deque[tuple[int, int]] = deque()  # first number and time of each batch in the outbox
        self._transfers: dict[int, _Transfer] = {}
        self._free_since_ns = [0] * network.sender  # a heap: since when each transfer that may be begun could be
        self._frames: OrderedDict[int, tuple[Message, bytes]] = OrderedDict()
        self._frames_bytes = 0
        # All fragments of a round and some of the one before: what further recipients may still get.
        self._frames_bytes_max = 2 * algorithm.context.num_params * dtype.value_bytes
        self._largest_bytes = 0
        self._params: Vector = np.zeros(0, dtype=np.float32)
        self._trained: Vector | None = None
        self._steps: tuple[int, int] | None = None  # declared begin and end of the steps under way
        self._now_ns = 0
        self._stopped = False
        self._timers: set[asyncio.TimerHandle] = set()

    # -- life ------------------------------------------------------------------------------------------------

    def start(
        self,
        params: Vector,
        *,
        at_ns: int,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        uplink: Uplink,
        streams: Streams,
    ) -> None:
        """Begin the experiment with a model, at a testbed time that has just come."""
        self._clock, self._loop, self._uplink, self._streams = clock, loop, uplink, streams
        self._now_ns = at_ns
        self._params = params
        self._handle(Started(params), at_ns)

    def stop(self) -> None:
        """Freeze: nothing is sent, trained or received from here on."""
        self._stopped = True
        for handle in self._timers:
            handle.cancel()
        self._timers.clear()

    def picture(self, time_ns: int, *, after_training: bool = False) -> Picture:
        """The node now, to be evaluated as of ``time_ns``."""
        params = self._params if self._trained is None or not after_training else self._trained
        count = self.counters
        return Picture(
            time_ns,
            params,
            count.rounds,
            count.local_steps,
            count.train_loss,
            count.bytes_sent,
            len(self._outbox),
        )

    @property
    def queued_messages(self) -> int:
        """Messages in the outbox."""
        return len(self._outbox)

    def waiting_for(self) -> str | None:
        """See :meth:`Algorithm.waiting_for`."""
        return self._algorithm.waiting_for()

    # -- events ----------------------------------------------------------------------------------------------

    def _handle(self, event: Event, at_ns: int) -> None:
        self._now_ns = now_ns = max(self._now_ns, at_ns)
        self._execute(self._algorithm.handle(event, now_ns), now_ns, at_ns)

    def _planned(self, planned_ns: int) -> int:
        """The time of an event that was planned for ``planned_ns`` and comes now."""
        now_ns = self._clock.now_ns()
        return planned_ns if now_ns - planned_ns <= LATE_NS else now_ns

    def _call_at(self, time_ns: int, callback: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(handle)
            callback()

        handle = self._loop.call_at(self._clock.monotonic_ns(time_ns) / NS_PER_S, fire)
        self._timers.add(handle)

    def received(self, sender: NodeId, message: Message, number: int, due_ns: int) -> None:
        """A message has arrived.

        Args:
            sender: Who sent it.
            message: What.
            number: The sender's number of it.
            due_ns: When it was due, on the host's monotonic clock; 0 for now.
        """
        if self._stopped:
            return
        planned_ns = self._clock.at_ns(due_ns) if due_ns else self._clock.now_ns()
        at_ns = max(self._now_ns, self._planned(planned_ns))
        count = self.counters
        count.delivered += 1
        count.bytes_received += len(message.values) * self._value_bytes + self._header_bytes
        delivery = 0
        if self.records is not None:
            delivery = self.records.delivered(sender, number, message.round, at_ns)
        try:
            self._handle(MessageReceived(sender, message, delivery), at_ns)
        except ProtocolError as error:
            log.debug("message of node %d refused: %s", sender, error)
            self._reject(sender)

    # -- local steps -----------------------------------------------------------------------------------------

    def _start_steps(self, params: Vector, count: int, at_ns: int) -> None:
        assert self._steps is None, "local steps are outstanding already"
        self._params = params
        if self._max_rounds is not None and self.counters.rounds >= self._max_rounds:
            if not self.done:
                self.done = True
                self._on_done()
            return
        end_ns = at_ns + self._timer.duration_ns(count)
        self._steps = (at_ns, end_ns)
        self._trainer.begin(self._node, params, self.counters.local_steps, count)
        self.counters.local_steps += count
        self._call_at(end_ns, self.steps_may_be_done)

    def steps_may_be_done(self) -> None:
        """Look whether the local steps are over; called when their time has come and when the trainer has news."""
        if self._steps is None:
            return
        begin_ns, end_ns = self._steps
        # Asked in any case: the trainer's news are taken in, or the loop would be told of them over and over.
        ready = self._trainer.ready(self._node)
        if self._stopped or not ready or self._clock.monotonic_ns(end_ns) > time.monotonic_ns():
            return
        self._steps = None
        result = self._trainer.finish(self._node)
        at_ns = self._planned(end_ns)
        count = self.counters
        count.declared_ns += end_ns - begin_ns
        if at_ns > end_ns:
            count.overruns += 1
            count.overrun_ns += at_ns - end_ns
        count.rounds += 1
        count.train_loss = result.loss
        self._trained = result.params
        self._handle(LocalStepsDone(result.params), at_ns)

    # -- effects ---------------------------------------------------------------------------------------------

    def _execute(self, effects: Sequence[Effect], at_ns: int, planned_ns: int) -> None:
        """Do what an event at ``at_ns`` led to.

        Something else may have happened between ``planned_ns``, the event's own time, and now. What takes time goes
        on from there all the same, or such delays would add up.
        """
        for effect in effects:
            match effect:
                case Enqueue(items=items):
                    self._enqueue(items, at_ns)
                case StartLocalSteps(params=params, count=count):
                    self._start_steps(params, count, planned_ns)
                case Aggregated(deliveries=deliveries):
                    self._aggregated(deliveries, at_ns)
                case CancelQueued(abort_in_flight=abort):
                    self._cancel(abort, at_ns)
                case ReplaceQueued(old=old, new=new):
                    rows = self._outbox.replace(old, new)
                    if self.records is not None:
                        self.records.sent.replaced(rows, new)
                case StartTimer(timer=timer, delay_ns=delay_ns):
                    self._start_timer(timer, planned_ns + delay_ns)
                case _:
                    assert_never(effect)
        self._pull()

    def _enqueue(self, items: Sequence[Addressed], at_ns: int) -> None:
        if not items:
            return
        self.counters.queued += len(items)
        if self.records is not None:
            self.records.sent.queued(at_ns, self._node, items)
        self._outbox.append(items, self._next_number)
        self._batches.append((self._next_number, at_ns))
        self._next_number += len(items)

    def _aggregated(self, deliveries: Sequence[int], at_ns: int) -> None:
        self.counters.aggregated += len(deliveries)
        if self.records is not None:
            # The round being trained, or the one that has just ended.
            current = self.counters.rounds if self._steps is not None else self.counters.rounds - 1
            self.records.aggregated(deliveries, at_ns, current)

    def _cancel(self, abort_in_flight: bool, at_ns: int) -> None:
        self.counters.cancelled += len(self._outbox)
        if self.records is not None:
            for numbers in self._outbox.numbers():
                self.records.sent.cancelled(numbers, at_ns)
        self._outbox.clear()
        self._batches.clear()
        if abort_in_flight:
            for number, transfer in self._transfers.items():
                if not transfer.aborted:
                    transfer.aborted = True
                    self._uplink.abort(number)

    def _start_timer(self, timer: int, time_ns: int) -> None:
        def fire() -> None:
            if not self._stopped:
                self._handle(TimerFired(timer), self._planned(time_ns))

        self._call_at(time_ns, fire)

    # -- sending ---------------------------------------------------------------------------------------------

    def _pull(self, not_before_ns: int = 0) -> None:
        """Start transfers from the head of the outbox while the uplink takes more and not too much is in flight.

        Each has begun when the message was queued and the uplink was free, which may be a moment ago.
        """
        while self._outbox and len(self._transfers) < self._max_transfers and not self._stopped:
            payload_bytes = len(self._outbox.head().values) * self._value_bytes
            frame_bytes = HEADER_BYTES + payload_bytes
            if frame_bytes > self._largest_bytes:
                self._largest_bytes = frame_bytes
                self.window.bound_bytes = bound_bytes(
                    frame_bytes,
                    transfers=self._max_transfers,
                    bandwidth_mbps=self._bandwidth_mbps,
                    round_trip_ms=self._round_trip_ms,
                )
            if not self.window.fits(frame_bytes):
                return  # acknowledged() looks again
            (receiver, message), number = self._outbox.pop()
            wire_bytes = self._deliveries.wire_bytes(payload_bytes, self._node, receiver)
            ready_ns = max(not_before_ns, heappop(self._free_since_ns), self._queued_ns(number))
            self.window.add(number, frame_bytes)
            self._transfers[number] = _Transfer(receiver, message, wire_bytes)
            if self.records is not None:
                self.records.sent.started.extend((number, ready_ns))
                if wire_bytes != payload_bytes + self._header_bytes:
                    self.records.sent.resent[number] = wire_bytes
            self._uplink.start(number, receiver, wire_bytes, ready_ns)

    def _queued_ns(self, number: int) -> int:
        """When a message that leaves the outbox was queued; numbers leave it in increasing order."""
        batches = self._batches
        while len(batches) > 1 and batches[1][0] <= number:
            batches.popleft()
        return batches[0][1]

    def transfer_ended(self, number: int, finish_ns: int) -> None:
        """The uplink says that a message's last byte has left at a testbed time, which has just passed."""
        if self._stopped:
            return
        transfer = self._transfers.pop(number)
        heappush(self._free_since_ns, finish_ns)
        message, receiver = transfer.message, transfer.receiver
        payload_bytes = len(message.values) * self._value_bytes
        count = self.counters
        count.sent += 1
        count.bytes_sent += transfer.wire_bytes
        if payload_bytes:
            count.payload_sent += payload_bytes
        else:
            count.sent_control += 1
        arrival_ns = finish_ns + self._deliveries.latency_ns(self._node, receiver)
        if self.records is not None:
            self.records.sent.sent.extend((number, finish_ns, arrival_ns))
        if self._deliveries.is_lost(payload_bytes, self._node, receiver):
            self.window.remove(number)
            self._lost(number, transfer.wire_bytes)
        else:
            due_ns = self._clock.monotonic_ns(arrival_ns)
            self._streams.send(receiver, self._frame(message), number, due_ns, due_ns + RECEIPT_WITHIN_NS)
        self._pull()

    def transfer_aborted(self, number: int, sent_bytes: int) -> None:
        """The uplink has given a transfer up, after so many bytes."""
        if self._stopped:
            return
        del self._transfers[number]
        now_ns = self._clock.now_ns()
        heappush(self._free_since_ns, now_ns)
        self.window.remove(number)
        count = self.counters
        count.aborted += 1
        count.bytes_wasted += sent_bytes
        count.bytes_sent += sent_bytes
        if self.records is not None:
            self.records.sent.aborted(number, now_ns)
        self._pull()

    def acknowledged(self, number: int) -> None:
        """A receipt covers a message."""
        self.window.remove(number)
        if not self._stopped:
            self._pull(self._clock.now_ns())

    def delivery_failed(self, number: int, frame_bytes: int) -> None:
        """A message was handed to a stream that broke, or its receiver cannot be reached."""
        self.window.remove(number)
        if self._stopped:
            return
        self._lost(number, frame_bytes - HEADER_BYTES + self._header_bytes)
        self._pull(self._clock.now_ns())

    def _lost(self, number: int, wire_bytes: int) -> None:
        self.counters.lost += 1
        self.counters.bytes_lost += wire_bytes
        if self.records is not None:
            self.records.sent.lost(number)

    def _frame(self, message: Message) -> bytes:
        """The message's frame, made once for all its recipients."""
        kept = self._frames.get(id(message))
        if kept is not None:
            return kept[1]
        frame = encode(message, self._node, self._plan_id, self._dtype)
        self._frames[id(message)] = (message, frame)  # holds the message, so that its id stays its own
        self._frames_bytes += len(frame)
        while self._frames_bytes > self._frames_bytes_max and len(self._frames) > 1:
            _, (_, oldest) = self._frames.popitem(last=False)
            self._frames_bytes -= len(oldest)
        return frame


def _bandwidth_mbps(network: NetworkPlan, node: int) -> float:
    """At most so much leaves a node at once."""
    mbps = float(network.up_mbps[node])
    if network.pair_mbps is not None:
        others = np.delete(network.pair_mbps[node], node)
        mbps = min(mbps, network.sender * float(others.max(initial=0.0)))
    return min(mbps, UNLIMITED_MBPS)


def _longest_round_trip_ms(network: NetworkPlan, node: int) -> float:
    """Of a node to any other and back, without transmission and jitter."""
    round_trip_ns = network.round_trip_ns
    return float(np.max(round_trip_ns if isinstance(round_trip_ns, int) else round_trip_ns[node])) / NS_PER_MS
