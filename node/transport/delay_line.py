"""The delay line: what has arrived too early waits until it is due. Pure; the caller owns clock and timer."""

from heapq import heappop, heappush
from typing import Generic, TypeVar

Item = TypeVar("Item")


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
        """Instant at which the first item is due; None when there is none."""
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
