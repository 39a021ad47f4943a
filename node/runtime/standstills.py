"""Times in which a node stands still on purpose, so that nothing that waits for it then counts as late. Pure."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

from node.core.steps import Steps
from node.core.types import IndexVector, NodeId
from node.core.units import NEVER_NS
from node.host.clock import Clock


class Standstills:
    """The planned pauses of one node.

    Args:
        spans: Their begins and ends, testbed time, in order.
    """

    def __init__(self, spans: Sequence[tuple[int, int]] = ()) -> None:
        self._begins_ns = [begin_ns for begin_ns, _ in spans]
        self._ends_ns = [end_ns for _, end_ns in spans]
        self._clock: Clock | None = None

    def begin(self, clock: Clock) -> None:
        """Take the experiment's clock; before that nothing stands still."""
        self._clock = clock

    def runs_from(self, time_ns: int) -> int:
        """Return the first testbed time from ``time_ns`` on at which the node runs."""
        index = bisect_right(self._begins_ns, time_ns) - 1
        return max(time_ns, self._ends_ns[index]) if index >= 0 else time_ns

    def between(self, begin_ns: int, end_ns: int) -> Iterator[tuple[int, int]]:
        """Iterate over the parts of a time in which the node stands still, in order: begin and end of each."""
        index = max(0, bisect_right(self._begins_ns, begin_ns) - 1)
        while index < len(self._begins_ns) and self._begins_ns[index] < end_ns:
            still_ns, runs_ns = max(begin_ns, self._begins_ns[index]), min(end_ns, self._ends_ns[index])
            if still_ns < runs_ns:
                yield still_ns, runs_ns
            index += 1

    def held(self, monotonic_ns: int) -> bool:
        """Return whether the node stood still at an instant of the host's monotonic clock."""
        return self.due_ns(monotonic_ns) != monotonic_ns

    def due_ns(self, monotonic_ns: int) -> int:
        """Return when something that is due can happen at the earliest, both on the host's monotonic clock."""
        if self._clock is None or not self._begins_ns:
            return monotonic_ns
        time_ns = self._clock.at_ns(monotonic_ns)
        runs_ns = self.runs_from(time_ns)
        return monotonic_ns if runs_ns == time_ns else self._clock.monotonic_ns(runs_ns)


def standstills_of(speed: Steps[float] | None) -> Standstills:
    """Return the times in which a node does nothing, from its speed at any time; None: it always does."""
    return Standstills([] if speed is None else list(_spans(speed)))


def peers_standstills(pauses: IndexVector) -> dict[NodeId, Standstills]:
    """Return the planned pauses of each node that has any, from rows of node, begin and end."""
    spans: dict[NodeId, list[tuple[int, int]]] = {}
    for node, begin_ns, end_ns in pauses.tolist():
        spans.setdefault(NodeId(node), []).append((begin_ns, end_ns))
    return {node: Standstills(those) for node, those in spans.items()}


def either_held(own: Standstills, pauses: IndexVector, clock: Clock) -> Callable[[NodeId, int], bool]:
    """Return what tells of a peer and an instant of the host's clock whether the node or that peer stood still then.

    A message that leaves while its sender stands still is handed over when that goes on.

    Args:
        own: The node's own pauses, which begin by themselves.
        pauses: Those of all nodes, as of :func:`peers_standstills`.
        clock: The experiment's.
    """
    peers = peers_standstills(pauses)
    for those in peers.values():
        those.begin(clock)
    nothing = Standstills()
    return lambda peer, monotonic_ns: own.held(monotonic_ns) or peers.get(peer, nothing).held(monotonic_ns)


def _spans(speed: Steps[float]) -> Iterator[tuple[int, int]]:
    begin_ns = 0 if speed.first == 0.0 else None
    for time_ns, value in speed:
        if value == 0.0 and begin_ns is None:
            begin_ns = time_ns
        elif value != 0.0 and begin_ns is not None:
            yield begin_ns, time_ns
            begin_ns = None
    if begin_ns is not None:
        yield begin_ns, NEVER_NS
