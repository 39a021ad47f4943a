"""Points that all nodes of a run must reach before any of them goes on.

Nodes that are forgotten are not waited for. A point that was reached stays so: a node that comes later does not wait.
Used from one event loop only.
"""

import asyncio
from collections.abc import Set
from dataclasses import dataclass, field

from node.core.types import NodeId


@dataclass(eq=False)
class Barrier:
    """One point.

    Attributes:
        expected: Nodes that must come; None is every node of the run.
        arrived: Nodes that are there; the value tells two calls of one node apart.
        released: All had come.
    """

    expected: frozenset[NodeId] | None = None
    arrived: dict[NodeId, object] = field(default_factory=dict)
    released: bool = False


class Barriers:
    """All points of one run.

    State:
        _points: The points that somebody has named.
        _forgotten: Nodes that no point waits for.
        changed: Replaced whenever something happened that a point depends on: whoever waits takes it before looking.
    """

    def __init__(self, num_nodes: int) -> None:
        """Begin without points, for a run of so many nodes."""
        self._num_nodes = num_nodes
        self._points: dict[str, Barrier] = {}
        self._forgotten: set[NodeId] = set()
        self.changed = asyncio.Event()

    def expect(self, point: str, expected: Set[NodeId] | None) -> Barrier:
        """Return a point, and say who must come to it; None leaves that as it is."""
        barrier = self._points.setdefault(point, Barrier())
        if expected is not None:
            barrier.expected = frozenset(expected)
        self.look()
        return barrier

    def arrive(self, point: str, node: NodeId, call: object) -> Barrier:
        """Let a node come to a point, by a call that no other equals."""
        barrier = self._points.setdefault(point, Barrier())
        barrier.arrived[node] = call
        self.look()
        return barrier

    def leave(self, barrier: Barrier, node: NodeId, call: object) -> None:
        """End a call of a node. It is missing again if the point was not reached and it did not come anew."""
        if not barrier.released and barrier.arrived.get(node) is call:
            del barrier.arrived[node]
            self.look()

    def forget(self, node: NodeId) -> None:
        """Wait for a node no more."""
        self._forgotten.add(node)
        self.look()

    def remember(self, node: NodeId) -> None:
        """Wait for a node again: it has registered anew."""
        self._forgotten.discard(node)
        self.look()

    def missing(self, barrier: Barrier) -> list[NodeId]:
        """Return the expected nodes that have not arrived, in increasing order."""
        everyone = map(NodeId, range(self._num_nodes))
        expected = sorted(everyone if barrier.expected is None else barrier.expected)
        return [node for node in expected if node not in barrier.arrived and node not in self._forgotten]

    @property
    def num_missing(self) -> int:
        """Nodes that the points wait for that somebody has come to."""
        return max((len(self.missing(each)) for each in self._points.values() if not each.released), default=0)

    async def released(self, barrier: Barrier) -> None:
        """Wait until all have come."""
        while not barrier.released:
            await self.changed.wait()

    def look(self) -> None:
        """Release the points where nobody is missing, and wake whoever waits."""
        for barrier in self._points.values():
            barrier.released = barrier.released or not self.missing(barrier)
        self.changed.set()
        self.changed = asyncio.Event()
