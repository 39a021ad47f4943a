"""The real-time driver: executes the effects of one node's algorithm and tells it what happened.

The counterpart of :mod:`node.sim.world` for one node, on an asyncio loop. Sockets, processes, torch and the way in
which a link is made do not enter: training and the path to the peers are given.

What the caller does, in this order
===================================

1. Make the driver, with its path and its trainer. Nothing happens yet; counters and the model can be read.
2. Pass on every message that arrives (:meth:`Driver.received`). What arrives before the start is kept by the
   caller until then. Messages for an algorithm that is passive may wait until the driver
   asks for them (:attr:`Driver.take_arrivals`). The driver watches the trainer itself.
3. When the common instant has come, call :meth:`Driver.start`, once. It gives the path the driver's sending side as
   its listener, so that the path must be able to send from then on.
4. From then on call only from within the loop, one call at a time, and let each return: the driver is not
   re-entrant. A path that ends a transfer at once still tells so in a later turn of the loop.
5. Take the model at any time (:meth:`Driver.model`): it is shared with the driver, which never changes one.
6. Call :meth:`Driver.stop` before reading the records: nothing is sent, trained or received afterwards, and late
   news of path and trainer may still be passed on.

What time an event has
======================

The host wakes a node a little late, and without care these delays would add up round after round. So an event that
was planned, such as the end of local steps or of a transfer, has the time for which it was planned, and what follows
from it is planned from there. Where the host is late by more than it may be, the event has the time at which it
really happened and counts as an overrun. Times that an algorithm sees never go back.

States
======

=======  ====================================================  =======
node     event                                                 next
=======  ====================================================  =======
waiting  :meth:`Driver.start`                                  running
running  the algorithm asks for more rounds than there may be  done
running  its model is not finite any more                      stopped
running  :meth:`Driver.stop`                                   stopped
done     its model is not finite any more                      stopped
done     :meth:`Driver.stop`                                   stopped
=======  ====================================================  =======

A node that is done still receives, answers and sends; one that is stopped does nothing.

===========  ================================================  ===========
local steps  event                                             next
===========  ================================================  ===========
none         ``StartLocalSteps``, rounds are left              under way
none         ``StartLocalSteps``, no round is left             none: the node is done
under way    the declared end comes, the trainer is not ready  overdue
under way    the trainer is ready, the end has not come        early
overdue      the trainer is ready                              none: ``LocalStepsDone`` at the real time, an overrun
early        the declared end comes                            none: ``LocalStepsDone`` at the declared end
===========  ================================================  ===========

The states of a message are in :mod:`node.runtime.sending`, those of its transfer in :mod:`node.runtime.path`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np

from node.core.algorithm import Algorithm
from node.core.compute import StepTimer
from node.core.counters import NodeCounters
from node.core.divergence import IN_SILENCE, check_trained
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
from node.core.messages import Message
from node.core.recipients import distinct_messages
from node.core.training import RealTimeTrainer
from node.core.types import NodeId, Vector
from node.core.units import NS_PER_MS, s_to_ns
from node.host.clock import Clock
from node.metrics import SECONDS
from node.runtime.accounting import Accounting
from node.runtime.message_books import BucketCounts, MessageBooks
from node.runtime.outgoing_check import OutgoingCheck
from node.runtime.path import Path
from node.runtime.sending import Sending
from node.runtime.standstills import Standstills, standstills_of
from node.runtime.story import Story
from node.runtime.time_spent import TimeSpent
from node.runtime.timers import ReaderWatch, Timers

LATE_NS = 5 * NS_PER_MS
"""Testbed time by which the host may wake a node late before it counts, as arrivals may be late in a faithful run."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rounds:
    """Bounds of a node's rounds.

    Attributes:
        done: Rounds done before, in an earlier part of the run.
        steps_done: Local steps done before.
        most: Stop training after so many rounds in all; None for no limit.
    """

    done: int = 0
    steps_done: int = 0
    most: int | None = None


class Driver:
    """One node's driver.

    Args:
        algorithm: What it drives; knows which node this is.
        trainer: Does the local steps.
        timer: The declared duration of local steps.
        path: The way to the peers.
        accounting: How messages are counted and recorded.
        rounds: Where the node's rounds begin and end.
        reject: Told of a message that the algorithm refused: sender.
        on_end: Called when the node has done all its rounds, with None, and when its model is not finite any more, with
            the error that says so.

    Attributes:
        counters: Figures so far; the states and times among them only in :meth:`current_counters`.
        books: What became of messages.
        steps_ns: From the begin to the end of each block of local steps.
        done: Whether all rounds are over.
        diverged: Why the node stands still, whose model is not finite any more; else None.
        pauses: When the node stands still on purpose; begins with the driver.
        time_spent: Where its time goes, and for whom it waits; read :meth:`current_counters` first.
        saturated: When values were beyond the wire's type, and how many, last.
        take_arrivals: Called with an instant of the host's monotonic clock: to pass on the messages due by then that
            wait. Asked before each event of the node's own and before its figures are read. Set by the owner.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        trainer: RealTimeTrainer,
        timer: StepTimer,
        path: Path,
        accounting: Accounting,
        rounds: Rounds,
        reject: Callable[[NodeId], None],
        on_end: Callable[[DivergedError | None], None],
    ) -> None:
        # Step 1: what the owner may read or set, and is shared with the parts below.
        self.counters = NodeCounters(rounds=rounds.done, local_steps=rounds.steps_done)
        self.books = MessageBooks(accounting, self.counters)
        self.steps_ns = BucketCounts(s_to_ns(bound) for bound in SECONDS)
        self.done = False
        self.diverged: DivergedError | None = None
        self.take_arrivals: Callable[[int], None] = lambda monotonic_ns: None
        self.pauses = standstills_of(timer.speed)
        self.time_spent = TimeSpent(algorithm, self.counters, self.pauses)
        # Step 2: what it is given, and the sending side, which counts and records as well.
        self._node = algorithm.context.node
        self._algorithm = algorithm
        self._trainer = trainer
        self._timer = timer
        self._path = path
        self._accounting = accounting
        self._rounds_most = rounds.most
        self._reject = reject
        self._on_end = on_end
        self._story = Story()
        self._outgoing = OutgoingCheck(self._node, accounting.dtype, self.counters)
        self.saturated = self._outgoing.saturated
        self._sending = Sending(self._node, path, self.books, self._story, self.time_spent)
        # Step 3: its state before the start.
        self._clock = Clock(0)  # the experiment's, from start() on
        self._loop: asyncio.AbstractEventLoop | None = None
        self._params: Vector = np.zeros(0, dtype=np.float32)
        self._trained: Vector | None = None
        self._steps: tuple[int, int] | None = None  # declared begin and end of the steps under way
        self._watch = ReaderWatch()  # of the trainer, while steps take longer than declared
        self._now_ns = 0
        self._stopped = False
        self._rested: tuple[NodeId, ...] | None = None  # when it stopped
        self._timers = Timers()

    # -- life ------------------------------------------------------------------------------------------------

    def start(self, params: Vector, *, at_ns: int, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the experiment with a model, at a testbed time that has just come."""
        self._clock, self._loop = clock, loop
        self._path.begin(self._sending, clock)
        self.pauses.begin(clock)
        self._timers.begin(loop, clock)
        self.time_spent.begin(at_ns)
        self._now_ns = at_ns
        self._params = params
        self._story.tell(at_ns, "started")
        self._handle(Started(params), at_ns)

    def stop(self, *, crashes: bool = False, at_ns: int | None = None) -> None:
        """Freeze: nothing is sent, trained or received from here on. May be called again.

        Args:
            crashes: What is queued or under way is lost, as when a process ends.
            at_ns: The instant that has just come for which this was planned, if it was.
        """
        self.take_arrivals(time.monotonic_ns())
        self.time_spent.end(self._clock.now_ns() if at_ns is None else at_ns)
        if crashes and not self._stopped:
            at_ns = max(self._now_ns, self._clock.now_ns())
            self._story.tell(at_ns, "went down as planned")
            self._sending.crash(at_ns)
        self._rested = self.rest()
        self._stopped = True
        self._sending.stop()
        self._path.stop()
        self._timers.cancel()
        self._watch.end()

    def model(self, *, after_training: bool = False) -> Vector:
        """Return the node's model as it is now: after its last aggregation, or after its last training."""
        return self._params if self._trained is None or not after_training else self._trained

    def current_counters(self, at_ns: int | None = None) -> NodeCounters:
        """Return a copy of the figures as they are now, or as of an instant that has just come."""
        self.take_arrivals(time.monotonic_ns())
        self.time_spent.count_until(self._clock.now_ns() if at_ns is None else at_ns)
        window = self._path.window
        return replace(
            self.counters,
            queued_messages=len(self._sending),
            in_flight_bytes_max=window.bytes_max,
            in_flight_bytes_bound=window.bound_bytes_max,
        )

    def rest(self) -> tuple[NodeId, ...] | None:
        """Tell whether nothing will happen here unless a message arrives; once the node has stopped, as it was then.

        Returns:
            None if something will; else the receivers of transfers that have begun and not ended, which only the links
            decide about. Messages that are queued begin when one of these ends.
        """
        if self._stopped:
            return self._rested
        begun, training = self._loop is not None, self._steps is not None
        return self._path.receivers() if begun and not training and not self._timers else None

    def waits_on(self) -> Sequence[NodeId]:
        """See :meth:`Algorithm.waits_on`."""
        return self._algorithm.waits_on()

    def waiting_for(self) -> str | None:
        """See :meth:`Algorithm.waiting_for`."""
        return self._algorithm.waiting_for()

    def story(self) -> tuple[str, ...]:
        """The node's last events, oldest first, a line each."""
        return self._story.lines()

    # -- events ----------------------------------------------------------------------------------------------

    def _handle(self, event: Event, at_ns: int) -> None:
        if not isinstance(event, MessageReceived):
            self.take_arrivals(self._clock.monotonic_ns(at_ns))  # they arrived before it
        self._now_ns = now_ns = max(self._now_ns, at_ns)
        try:
            if isinstance(event, LocalStepsDone):
                check_trained(event.params, self._node, self.counters, now_ns)
            with np.errstate(**IN_SILENCE):
                effects = self._algorithm.handle(event, now_ns)
            self._execute(effects, now_ns, at_ns)
            self.time_spent.settle(now_ns, computes=self._steps is not None, sends=self._sending.is_busy)
        except DivergedError as error:
            self.diverged = error
            self._story.tell(now_ns, "found its model to be not finite")
            self.stop()
            self._on_end(error)

    def received(self, sender: NodeId, message: Message, number: int, due_ns: int, seen_ns: int = 0) -> None:
        """A message has arrived.

        Args:
            sender: Who sent it.
            message: What.
            number: The sender's number of it.
            due_ns: When it was due, on the host's monotonic clock; 0 for now.
            seen_ns: When the node had it and it was due, same clock; 0 for now.
        """
        if self._stopped:
            return
        at_ns = self._clock.at_ns(seen_ns) if seen_ns else self._clock.now_ns()
        if due_ns:
            at_ns = _planned_or_late(self._clock.at_ns(due_ns), at_ns)
        at_ns = max(self._now_ns, at_ns)
        delivery = self.books.delivered(sender, number, message, at_ns)
        self._story.tell(at_ns, "received message {} of node {}, round {}", number, sender, message.round)
        try:
            self._handle(MessageReceived(sender, message, delivery), at_ns)
        except ProtocolError as error:
            log.debug("message of node %d refused: %s", sender, error)
            self._reject(sender)

    def heard(self, news: PeerDown | PeerUp) -> None:
        """A neighbor cannot be reached any more, or can be again."""
        if self._stopped:
            return
        at_ns = max(self._now_ns, self._clock.now_ns())
        is_there = isinstance(news, PeerUp)
        self._story.tell(at_ns, "reached node {} again" if is_there else "lost node {}", news.peer)
        self._sending.peer_changed(news.peer, is_there=is_there)
        self._handle(news, at_ns)

    # -- local steps -----------------------------------------------------------------------------------------

    def _start_steps(self, params: Vector, count: int, at_ns: int) -> None:
        assert self._steps is None, "local steps are outstanding already"
        self._params = params
        if self._rounds_most is not None and self.counters.rounds >= self._rounds_most:
            if not self.done:
                self.done = True
                self._story.tell(at_ns, "did all its rounds")
                self._on_end(None)
            return
        end_ns = at_ns + self._timer.duration_ns(count, at_ns)
        self._steps = (at_ns, end_ns)
        self._story.tell(at_ns, "began {} local steps of round {}", count, self.counters.rounds)
        self._trainer.begin(self._node, params, self.counters.local_steps, count)
        self.counters.local_steps += count
        self._timers.call_at(end_ns, self._steps_should_be_done)

    def _steps_should_be_done(self) -> None:
        """The declared time of the local steps is over: go on, or watch the trainer until it is ready.

        It is not watched before: a trainer that keeps to the time would wake the node once more in every round.
        """
        self.steps_may_be_done()
        descriptor = self._trainer.ready_fd
        if self._steps is not None and not self._stopped and descriptor is not None:
            assert self._loop is not None
            self._watch.begin(self._loop, descriptor, self.steps_may_be_done)

    def steps_may_be_done(self) -> None:
        """Look whether the local steps are over; called when their time has come, then when the trainer has news."""
        if self._steps is None:
            return
        begin_ns, end_ns = self._steps
        # Asked in any case: the trainer's news are taken in, or the loop would be told of them over and over.
        ready = self._trainer.ready(self._node)
        if self._stopped or not ready or self._clock.monotonic_ns(end_ns) > time.monotonic_ns():
            return
        self._watch.end()
        result = self._trainer.finish(self._node)
        now_ns = self._clock.now_ns()
        end_ns = _due_ns(self.pauses, end_ns, now_ns)
        at_ns = _planned_or_late(end_ns, now_ns)
        self.take_arrivals(self._clock.monotonic_ns(at_ns))  # they arrived while local steps were under way
        self._steps = None
        count = self.counters
        count.declared_ns += end_ns - begin_ns
        if at_ns > end_ns:
            count.overruns += 1
            count.overrun_ns += at_ns - end_ns
        count.rounds += 1
        count.train_loss = result.loss
        self.steps_ns.add(at_ns - begin_ns)
        self._trained = result.params
        self._story.tell(at_ns, "ended the local steps of round {}", count.rounds - 1)
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
                    self._outgoing.check(distinct_messages(items), at_ns)
                    self._sending.enqueue(items, at_ns)
                case StartLocalSteps(params=params, count=count):
                    self._start_steps(params, count, planned_ns)
                case Aggregated(deliveries=deliveries):
                    # In the round being trained, or the one that has just ended.
                    round_ = self.counters.rounds if self._steps is not None else self.counters.rounds - 1
                    self.books.aggregated(deliveries, at_ns, round_)
                case CancelQueued(abort_in_flight=abort):
                    self._sending.cancel(abort, at_ns)
                case ReplaceQueued(old=old, new=new):
                    self._outgoing.check([new], at_ns)
                    self._sending.replace(old, new)
                case StartTimer(timer=timer, delay_ns=delay_ns):
                    self._start_timer(timer, planned_ns + delay_ns)
                case _:
                    assert_never(effect)
        self._sending.pull()

    def _start_timer(self, timer: int, time_ns: int) -> None:
        def fire() -> None:
            if not self._stopped:
                now_ns = self._clock.now_ns()
                self._handle(TimerFired(timer), _planned_or_late(_due_ns(self.pauses, time_ns, now_ns), now_ns))

        self._timers.call_at(time_ns, fire)


def _due_ns(pauses: Standstills, planned_ns: int, now_ns: int) -> int:
    """The time at which a planned event could happen: the end of a pause that came before the host had to be done."""
    resumed_ns = pauses.runs_from(planned_ns + LATE_NS)
    return resumed_ns if planned_ns + LATE_NS < resumed_ns <= now_ns else planned_ns


def _planned_or_late(planned_ns: int, happened_ns: int) -> int:
    """The time of an event: the planned one, unless the host was later than it may be."""
    return planned_ns if happened_ns - planned_ns <= LATE_NS else happened_ns
