"""Since when a transfer could have begun: when its place became free, and when its message was queued.

A host tells a node late that a transfer has ended. The next one begins at the end of the one before all the same, if it
was queued by then, so that no bandwidth is lost.
"""

from bisect import bisect_right
from collections.abc import Callable
from heapq import heappop, heappush

from node.core.types import NodeId

BATCHES_KEPT_MIN = 64
"""So many batches may be kept without a look at which of them are over."""


class SharedSlots:
    """A number of places for transfers, whoever receives them.

    Args:
        count: How many, >= 1.
    """

    def __init__(self, count: int) -> None:
        self._free_since_ns = [0] * count  # a heap

    def take(self, receiver: NodeId) -> int:
        """Take the place that has been free for longest; returns since when, ns. One must be free."""
        return heappop(self._free_since_ns)

    def give_back(self, receiver: NodeId, at_ns: int) -> None:
        """Give a place back, which is free from ``at_ns`` on."""
        heappush(self._free_since_ns, at_ns)


class PeerSlots:
    """One place for each peer."""

    def __init__(self) -> None:
        self._free_since_ns: dict[NodeId, int] = {}

    def take(self, receiver: NodeId) -> int:
        """Take a peer's place, which must be free; returns since when it is, ns."""
        return self._free_since_ns.pop(receiver, 0)

    def give_back(self, receiver: NodeId, at_ns: int) -> None:
        """Give a peer's place back, which is free from ``at_ns`` on."""
        self._free_since_ns[receiver] = at_ns


class QueueTimes:
    """Instants at which messages were queued, batch by batch.

    State:
        _firsts, _times: Number of the first message and time of each batch, in the order of both.
        _kept_max: So many batches are kept before those without a queued message are looked for.
    """

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._times: list[int] = []
        self._kept_max = BATCHES_KEPT_MIN

    def __len__(self) -> int:
        """Return how many batches are kept."""
        return len(self._firsts)

    def append(self, first: int, at_ns: int, oldest: Callable[[], int]) -> None:
        """Note a batch.

        Args:
            first: Number of its first message, above all before.
            at_ns: When it was queued.
            oldest: Asked now and then for the least number that is still queued.
        """
        if len(self._firsts) >= self._kept_max:
            gone = max(0, bisect_right(self._firsts, oldest()) - 1)
            del self._firsts[:gone], self._times[:gone]
            self._kept_max = max(BATCHES_KEPT_MIN, 2 * len(self._firsts))
        self._firsts.append(first)
        self._times.append(at_ns)

    def of(self, number: int) -> int:
        """Return when a queued message was queued, ns."""
        return self._times[bisect_right(self._firsts, number) - 1]

    def clear(self) -> None:
        """Forget all batches: nothing is queued."""
        self._firsts.clear()
        self._times.clear()
        self._kept_max = BATCHES_KEPT_MIN
