"""One node of a simulated run: its algorithm, its outbox, what is under way to it and from it, and its figures."""

from array import array
from bisect import bisect_right
from dataclasses import replace
from typing import Any, cast

from node.core.algorithm import Algorithm
from node.core.compute import StepTimer
from node.core.counters import NodeCounters
from node.core.events import MessageReceived
from node.core.messages import Message
from node.core.outbox import Outbox
from node.core.schedule import RUNNING
from node.core.time_budget import TimeBudget, without_computing
from node.core.types import NodeId, Vector


class Arrivals:
    """Messages on their way to one node, in order of arrival; compact, since there are many and most are cold.

    State:
        messages: What arrives.
        details: Four numbers each: time of arrival, sender, row in the trace, bytes on the wire.
    """

    __slots__ = ("details", "messages")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.details = array("q")

    def __len__(self) -> int:
        return len(self.messages)

    def count_until(self, now_ns: int) -> int:
        """Return how many have arrived by a time."""
        details = self.details
        if not details or details[0] > now_ns:
            return 0
        return len(self.messages) if details[-4] <= now_ns else bisect_right(details[::4], now_ns)

    def take(self, count: int) -> tuple[list[tuple[Message, int, NodeId, int]], int]:
        """Remove the first ``count``: message, time of arrival, sender, row of each, and the bytes of all."""
        details = self.details[: 4 * count].tolist()
        senders = cast("list[NodeId]", details[1::4])
        taken = list(zip(self.messages[:count], details[::4], senders, details[2::4], strict=True))
        wire_bytes = sum(details[3::4])
        del self.messages[:count], self.details[: 4 * count]
        return taken, wire_bytes


class SimulatedNode:
    """One node's driver state.

    State:
        outbox: Messages queued and not yet started, numbered by their rows in the trace.
        arrivals: Messages sent to the node and not yet handed over; see :meth:`hand_over_arrivals`.
        params: The model of the last ``StartLocalSteps``: what the node is right after aggregation.
        trained: The model of the last ``LocalStepsDone``; None before the first.
        counters: Figures so far; the states among them only in :meth:`current_counters`.
        budget: Counts where its time goes; up to date between two calls of :meth:`World.advance`.
        training: Local steps are outstanding.
        block: How many local steps were asked for last; the counters hold them from then on.
        finished: Asked for more local steps than the stop rule allows; it only listens and sends.
        state: What has happened to it.
        runs: It is neither down nor standing still.
        life: How often it has come back. What was planned in an earlier life does not happen.
        held: Events, class and payload, that have happened to it while it stands still.
        gone: Neighbors of which it knows that they have ended.
        heard_of: When the last thing happened to each neighbor of which it knows.
        handed_over: The model that it handed over last for evaluation.
    """

    __slots__ = (
        "algorithm",
        "arrivals",
        "block",
        "budget",
        "counters",
        "finished",
        "gone",
        "handed_over",
        "heard_of",
        "held",
        "index",
        "life",
        "outbox",
        "params",
        "runs",
        "state",
        "timer",
        "trained",
        "training",
    )

    def __init__(self, index: NodeId, algorithm: Algorithm, timer: StepTimer, params: Vector, outbox: Outbox) -> None:
        self.index = index
        self.algorithm = algorithm
        self.timer = timer
        self.params = params
        self.trained: Vector | None = None
        self.outbox = outbox
        self.arrivals = Arrivals()
        self.counters = NodeCounters()
        self.budget = TimeBudget(self.counters)
        self.block = 0
        self.training = False
        self.finished = False
        self.state = RUNNING
        self.runs = True
        self.life = 0
        self.held: list[tuple[int, Any]] = []
        self.gone: dict[NodeId, None] = {}
        self.heard_of: dict[NodeId, int] = {}
        self.handed_over = params

    def current_counters(self) -> NodeCounters:
        """Return a copy of the figures as they are now."""
        return replace(self.counters, queued_messages=len(self.outbox))

    def settle(self, now_ns: int) -> None:
        """Look what the node does from now on, after something that may have changed it."""
        if self.state.is_down:
            self.budget.turn_to("down", now_ns)
        elif self.state.is_paused:
            self.budget.turn_to("paused", now_ns)
        elif self.training:
            self.budget.turn_to("computing", now_ns)
        else:
            self.budget.turn_to(without_computing(self.algorithm.waits_on(), sends=self.outbox.is_busy), now_ns)

    def hand_over_arrivals(self, now_ns: int) -> None:
        """Tell a passive algorithm what has arrived by now.

        Its handling of messages has no effects, so that it is enough to do it before the node's next event. This
        spares an event a delivery, and what it touches is in the processor's cache but for the first.
        """
        count = self.arrivals.count_until(now_ns)
        if not count:
            return
        handle = self.algorithm.handle
        taken, wire_bytes = self.arrivals.take(count)
        for message, time_ns, sender, row in taken:
            effects = handle(MessageReceived(sender, message, row), time_ns)
            assert not effects, "a passive algorithm asks for nothing when a message arrives"
        self.counters.bytes_received += wire_bytes
        self.counters.messages_delivered += count
