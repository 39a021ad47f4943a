"""The order of events in virtual time.

An entry is ``(time_ns, class, node, sequence, payload)``. Ties in time break by class, then by node, then by
the order of scheduling, so that the order is total and the same in every run.
"""

from heapq import heappop, heappush
from typing import Any, TypeAlias

Entry: TypeAlias = tuple[int, int, int, int, Any]

CAPACITY_CHANGE = 0
"""A link's bandwidth changes."""
TRANSFER_ENDED = 1
"""The last byte of a message left its sender."""
DELIVERY = 2
"""The last byte of a message arrived. Before STEPS_DONE: what arrives at this instant is averaged at once."""
TIMER = 3
"""A timer of an algorithm ran out."""
STEPS_DONE = 4
"""A node's local steps ended."""


class EventQueue:
    """A heap of events with a total order."""

    __slots__ = ("_heap", "_sequence")

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, time_ns: int, event_class: int, node: int, payload: Any) -> None:
        """Schedule an event."""
        self._sequence = sequence = self._sequence + 1
        heappush(self._heap, (time_ns, event_class, node, sequence, payload))

    def pop_until(self, time_ns: int) -> Entry | None:
        """Take the earliest event out, or None when it lies after ``time_ns`` or there is none."""
        heap = self._heap
        if not heap or heap[0][0] > time_ns:
            return None
        return heappop(heap)
