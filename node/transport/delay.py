"""The delay line: what has arrived too early waits until it is due. Pure; the caller owns clock and timer."""

from heapq import heappop, heappush
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Lateness:
    """How long after its due instant each item was handed over.

    Attributes:
        count: Items that had a due instant.
        arrived_late: How many of them came from the network after it, so that no timer could have saved them.
        max_ns: The worst, nanoseconds.
        histogram: Entry k counts latenesses below 2^k microseconds that no earlier entry counts; the last one
            also everything beyond.
    """

    BUCKETS = 26
    """The last begins at about half a minute."""

    __slots__ = ("arrived_late", "count", "histogram", "max_ns")

    def __init__(self) -> None:
        self.count = 0
        self.arrived_late = 0
        self.max_ns = 0
        self.histogram = [0] * self.BUCKETS

    def add(self, late_ns: int) -> None:
        """Count one; below 0 is 0."""
        self.count += 1
        if late_ns > self.max_ns:
            self.max_ns = late_ns
        self.histogram[min((max(late_ns, 0) // 1_000).bit_length(), self.BUCKETS - 1)] += 1

    def percentile_ns(self, share: float) -> int:
        """What at least this share in [0, 1] does not exceed; a bound at most twice too large, or 1 us; 0 if none came.

        Beyond the last bucket it is the maximum.
        """
        wanted, seen = share * self.count - 1e-6, 0  # the product may be rounded up
        for exponent, count in enumerate(self.histogram):
            seen += count
            if seen >= wanted and seen:
                last = exponent == self.BUCKETS - 1
                return self.max_ns if last else min(self.max_ns, 1_000 << exponent)
        return 0


class DelayLine(Generic[Item]):
    """Items in order of (due, arrival).

    State:
        _heap: (due_ns, running number, item); emptied by :meth:`pop_due`.
        _number: Of the next item; makes ties keep their order.
    """

    __slots__ = ("_heap", "_number")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Item]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_due_ns(self) -> int | None:
        """When the first item is due; None when there is none."""
        return self._heap[0][0] if self._heap else None

    def put(self, due_ns: int, item: Item) -> None:
        """Hold an item until ``due_ns``."""
        heappush(self._heap, (due_ns, self._number, item))
        self._number += 1

    def pop_due(self, now_ns: int) -> Item | None:
        """Take out the first item if it is due."""
        if self._heap and self._heap[0][0] <= now_ns:
            return heappop(self._heap)[2]
        return None
