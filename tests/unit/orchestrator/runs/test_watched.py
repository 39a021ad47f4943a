"""A node's row of the display, from what it said last."""

from node.core.counters import NodeCounters
from node.core.types import NodeId
from node.transport.control_values import NodeStatus, Phase
from orchestrator.runs.watched import WatchedNode


def watched(phase: Phase) -> WatchedNode:
    node = WatchedNode.new(NodeId(1))
    node.update(NodeStatus(NodeId(1), phase, 1_000_000_000, NodeCounters(bytes_sent=10), waits_on=(NodeId(2),)))
    return node


def test_a_node_waits_for_others_only_while_it_runs() -> None:
    assert watched(Phase.RUNNING).row(frozenset()).waits_for == (2,)
    assert watched(Phase.DONE).row(frozenset()).waits_for == ()
    for change in ("died", "away"):
        node = watched(Phase.RUNNING)
        setattr(node, change, "down")
        row = node.row(frozenset({1}))
        assert (row.waits_for, row.state, row.straggler, row.failed) == ((), "down", True, change == "died")
