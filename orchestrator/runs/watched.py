"""The state of every node of a real run, as its supervisor knows it, and as the display shows it. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from node.core.types import NodeId
from node.core.units import ns_to_s
from node.transport.control_values import NodeStatus, Phase
from orchestrator.progress import NodeRow, Snapshot
from orchestrator.results.schema import Sample
from orchestrator.runs.fleet import NodeEnd

NODES_NAMED = 5
"""Nodes whose state a message about a stalled run tells; of more than that, the number of the others."""


@dataclass(slots=True)
class WatchedNode:
    """One node.

    Attributes:
        status: Its last status; PREPARING before the first.
        before: The status before that one which was made at another time; rates are taken between the two.
        end: How it ended; None while it runs.
        died: Why it is left out of the run, in words that follow its name; empty while it takes part. A node that
            ends because the run is over has not died.
        silent_since_s: When its session ended, real time; None while it lasts.
    """

    status: NodeStatus
    before: NodeStatus
    end: NodeEnd | None = None
    died: str = ""
    silent_since_s: float | None = None

    @classmethod
    def new(cls, node: NodeId) -> "WatchedNode":
        """A node that has said nothing yet."""
        status = NodeStatus(node, Phase.PREPARING)
        return cls(status, status)

    def update(self, status: NodeStatus) -> None:
        """Take a status of the node."""
        if status.time_ns > self.status.time_ns:
            self.before = self.status
        self.status = status

    def row(self, stragglers: frozenset[int]) -> NodeRow:
        """Return the node's row of the display."""
        status, before = self.status, self.before
        seconds = ns_to_s(status.time_ns - before.time_ns)

        def mbps(now: int, then: int) -> float | None:
            return (now - then) * 8e-6 / seconds if seconds > 0 and before.time_ns >= 0 else None

        return NodeRow(
            node=status.node,
            state=self.died or status.phase.value,
            rounds=status.rounds,
            loss=status.training_loss,
            up_mbps=mbps(status.sent_bytes, before.sent_bytes),
            down_mbps=mbps(status.received_bytes, before.received_bytes),
            queued=status.outbox_messages,
            straggler=status.node in stragglers,
            failed=bool(self.died) or status.phase is Phase.FAILED,
        )


def progress_of(
    nodes: Mapping[NodeId, WatchedNode],
    now_ns: int,
    end_ns: int | None,
    wall_s: float,
    sample: Sample | None,
    stragglers: frozenset[int],
) -> Snapshot:
    """Return what the display shows of a run; ``now_ns`` may lie before its start or after its end."""
    statuses = [watched.status for watched in nodes.values()]
    return Snapshot(
        time_ns=max(0, min(now_ns, now_ns if end_ns is None else end_ns)),
        end_ns=end_ns,
        wall_s=wall_s,
        rounds_min=min(status.rounds for status in statuses),
        rounds_max=max(status.rounds for status in statuses),
        delivered=sum(status.messages_received for status in statuses),
        bytes_sent=sum(status.sent_bytes for status in statuses),
        sample=sample,
        nodes=tuple(watched.row(stragglers) for watched in nodes.values()),
    )


def living(nodes: Mapping[NodeId, WatchedNode]) -> list[NodeStatus]:
    """Return the last statuses of the nodes that take part."""
    return [watched.status for watched in nodes.values() if not watched.died]


def progress_made(statuses: Iterable[NodeStatus]) -> int:
    """Return a number that grows whenever a node trains, sends or receives."""
    return sum(status.local_steps + status.messages_sent + status.messages_received for status in statuses)


def doing(status: NodeStatus) -> str:
    """Describe what a node was last known to do, for a message to people."""
    queued = f", {status.outbox_messages} messages in its outbox" if status.outbox_messages else ""
    return f"node {status.node}: {status.phase.value}, round {status.rounds}{queued}"


def doing_all(statuses: list[NodeStatus]) -> str:
    """Describe what the first :data:`NODES_NAMED` nodes were last known to do, on one line."""
    named = [doing(status) for status in statuses[:NODES_NAMED]]
    others = len(statuses) - len(named)
    return "; ".join([*named, f"and {others} more"] if others else named)
