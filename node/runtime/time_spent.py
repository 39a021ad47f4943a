"""Time budget of a real node: the activities of its driver, its planned pauses, and the peers that it waits for. Pure.

Whoever uses it says what the time is. A host is late now and then: an event may come with a time that has been counted
already. It then counts from there on.
"""

from collections.abc import Sequence

from node.core.algorithm import Algorithm
from node.core.counters import NodeCounters
from node.core.time_budget import Activity, TimeBudget, without_computing
from node.core.types import NodeId
from node.runtime.standstills import Standstills


class TimeSpent:
    """Counts the time of one node's activities.

    Args:
        algorithm: Says for whom the node waits.
        counters: Where the time is counted.
        pauses: When the node stands still on purpose; what it did before goes on then.

    State:
        pauses: The same.
        waited_ns: Time in which the node could not go on without a peer, among others, by peer.
        _waits_on: The peers without whom it cannot go on now.
        _counts: Whether the node has begun, and has not ended.
        _has_begun: Whether it has begun.
    """

    def __init__(self, algorithm: Algorithm, counters: NodeCounters, pauses: Standstills) -> None:
        self.waited_ns: dict[NodeId, int] = {}
        self._algorithm = algorithm
        self._counters = counters
        self.pauses = pauses
        self._budget = TimeBudget(counters)
        self._waits_on: Sequence[NodeId] = ()
        self._counts = self._has_begun = False

    def begin(self, at_ns: int) -> None:
        """Begin to count."""
        self._counts = self._has_begun = True
        self._budget.since_ns = at_ns

    @property
    def until_ns(self) -> int | None:
        """Instant until which all time has been counted; None before :meth:`begin`."""
        return self._budget.since_ns if self._has_begun else None

    def settle(self, at_ns: int, *, computes: bool, sends: bool) -> None:
        """Look what the node does from now on, after something that may have changed it.

        Args:
            at_ns: Now.
            computes: Whether local steps are under way.
            sends: Whether a message is queued or under way.
        """
        if not computes:
            waits_on = self._algorithm.waits_on()
            self._turn_to(without_computing(waits_on, sends=sends), at_ns)
            self._waits_on = waits_on
        elif self._budget.activity != "computing":
            self._turn_to("computing", at_ns)
            self._waits_on = ()

    def sent_all(self, at_ns: int) -> None:
        """Take note that no message is queued or under way any more."""
        if self._budget.activity == "sending":
            self._turn_to("idle", at_ns)

    def count_until(self, at_ns: int) -> None:
        """Count the time until now; what the node does goes on."""
        self._turn_to(self._budget.activity, at_ns)

    def end(self, at_ns: int) -> None:
        """Count the time until now, the last."""
        self.count_until(at_ns)
        self._counts = False

    def _turn_to(self, activity: Activity, at_ns: int) -> None:
        if not self._counts:
            return
        budget, waited_ns = self._budget, self._counters.waiting_ns
        for begin_ns, end_ns in self.pauses.between(budget.since_ns, at_ns):
            before = budget.activity
            budget.turn_to("paused", begin_ns)
            budget.turn_to(before, end_ns)
        budget.turn_to(activity, at_ns)
        waited_ns = self._counters.waiting_ns - waited_ns
        if waited_ns:
            for peer in self._waits_on:
                self.waited_ns[peer] = self.waited_ns.get(peer, 0) + waited_ns
