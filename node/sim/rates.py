"""Rates as the networks of the simulator count them: bytes a nanosecond, with a number that stands for no limit."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from node.core.links import NetworkPlan
from node.core.schedule import Groups, is_cut
from node.core.units import mbps_to_bytes_per_ns

UNLIMITED = 1e9
"""Bytes a nanosecond that stand for no limit. A transfer without limits ends one nanosecond after its start."""

NEVER = (1 << 63) - 1
"""The time of what is not planned; the end of a transfer whose rate is zero."""

TOLERANCE = 1e-12
"""Relative difference below which two rates count as equal, and a link as full."""


def capacity_of(mbps: float) -> float:
    """Megabits a second to bytes a nanosecond, with :data:`UNLIMITED` for what is more or infinite."""
    return min(mbps_to_bytes_per_ns(mbps), UNLIMITED)


class PairLimits:
    """The limits of pairs of nodes, as they are now.

    Args:
        plan: Those at the start.

    State:
        _changed: Capacities that were changed, by source * n + destination; they override the plan's.
        _partitions: Who does not reach each other: the capacity of such a pair is 0, whatever else it would be.
    """

    rebuilt_attributes: ClassVar[frozenset[str]] = frozenset({"_mbps"})

    def __init__(self, plan: NetworkPlan) -> None:
        self._count = plan.num_nodes
        self._mbps = plan.pair_mbps
        self._changed: dict[int, float] = {}
        self._partitions = plan.partitions

    def __bool__(self) -> bool:
        """Tell whether any pair may be limited."""
        return self._mbps is not None or bool(self._changed) or bool(self._partitions)

    def of(self, source: int, destination: int) -> float:
        """Return the capacity of a pair, bytes a nanosecond."""
        if self._partitions and is_cut(self._partitions, source, destination):
            return 0.0
        known = self._changed.get(source * self._count + destination)
        if known is not None:
            return known
        return UNLIMITED if self._mbps is None else capacity_of(float(self._mbps[source, destination]))

    def change(self, source: int, destination: int, mbps: float) -> None:
        """Give a pair another capacity."""
        self._changed[source * self._count + destination] = capacity_of(mbps)

    def set_partitions(self, partitions: Sequence[Groups], pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Change who does not reach each other; returns those of some pairs of which this changes the capacity."""
        before, self._partitions = self._partitions, tuple(partitions)
        return [pair for pair in dict.fromkeys(pairs) if is_cut(before, *pair) != is_cut(partitions, *pair)]
