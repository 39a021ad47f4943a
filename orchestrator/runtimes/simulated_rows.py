"""The rows that a display has for the nodes of a simulation."""

from collections import deque
from typing import Final

from node.core.units import ns_to_s
from node.sim.simulated_node import SimulatedNode
from node.sim.world import World
from orchestrator.progress.run_progress import NodeRow

LOOK_EVERY_S: Final = 1.0
"""Wall-clock time from one look at all nodes to the next: with a thousand, a look takes milliseconds."""


LOOKS_AVERAGED: Final = 5
"""Looks over which rates are taken: between two, a slow simulation moves less than a message."""


class SimulatedRows:
    """Looks at the nodes now and then. Rates are those of the virtual time since a few looks ago.

    State:
        rows: What was seen last; empty before the first look.
        _looked_s: When that was, wall-clock time of the run.
        _looks: Virtual time of each of the last looks, and the bytes that each node had sent and received by then.
    """

    def __init__(self, stragglers: frozenset[int]) -> None:
        """Store which nodes are slowed on purpose."""
        self.rows: tuple[NodeRow, ...] = ()
        self._stragglers = stragglers
        self._looked_s = -LOOK_EVERY_S
        self._looks: deque[tuple[int, list[tuple[int, int]]]] = deque(maxlen=LOOKS_AVERAGED)

    def look(self, world: World, wall_s: float) -> tuple[NodeRow, ...]:
        """Return the rows, new ones if it is time for that."""
        if wall_s - self._looked_s < LOOK_EVERY_S:
            return self.rows
        now = [(node.counters.bytes_sent, node.counters.bytes_received) for node in world.nodes]
        then_ns, earlier = self._looks[0] if self._looks else (world.now_ns, now)
        seconds = ns_to_s(world.now_ns - then_ns)
        moved = zip(now, earlier, strict=True) if seconds > 0 else ()
        rates = [tuple((a - b) * 8e-6 / seconds for a, b in zip(*pair, strict=True)) for pair in moved]
        rows = (self._row(node, *(rates[node.index] if rates else (None, None))) for node in world.nodes)
        self.rows, self._looked_s = tuple(rows), wall_s
        self._looks.append((world.now_ns, now))
        return self.rows

    def _row(self, node: SimulatedNode, up_mbps: float | None, down_mbps: float | None) -> NodeRow:
        loss = node.counters.train_loss
        return NodeRow(
            node=node.index,
            state=_state(node),
            rounds=node.counters.rounds,
            loss=None if loss != loss else loss,
            up_mbps=up_mbps,
            down_mbps=down_mbps,
            queued_messages=len(node.outbox),
            straggler=node.index in self._stragglers,
            waits_for=tuple(node.algorithm.waits_on()) if node.runs else (),
        )


def _state(node: SimulatedNode) -> str:
    """Name what it does, in the words of a real node's phases."""
    if node.state.is_down:
        return "down"
    if not node.runs:
        return "paused"
    return "done" if node.finished else "running"
