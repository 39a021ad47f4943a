"""A node's row of the display, from what it said last."""

import pytest

from node.core.counters import NodeCounters
from node.core.types import NodeId
from node.transport.control_values import NodeStatus, Phase
from orchestrator.runs.watched import WatchedNode, peers_named


@pytest.mark.parametrize(
    ("words", "peers"),
    [
        ("", ()),
        ("models of round 4 from nodes 7", (7,)),
        ("messages of round 12 from nodes 3, 5, 59", (3, 5, 59)),
        ("node 5's reply to exchange 7; until then (form: blocking) it does not answer the requests of nodes 1", (5,)),
        ("something else", ()),
    ],
)
def test_whom_a_node_waits_for_is_what_it_names_first(words: str, peers: tuple[int, ...]) -> None:
    assert peers_named(words) == peers


def watched(phase: Phase, waiting_for: str = "models of round 1 from nodes 2") -> WatchedNode:
    node = WatchedNode.new(NodeId(1))
    node.update(NodeStatus(NodeId(1), phase, 1_000_000_000, NodeCounters(bytes_sent=10), waiting_for=waiting_for))
    return node


def test_a_node_waits_for_others_only_while_it_runs() -> None:
    assert watched(Phase.RUNNING).row(frozenset()).waits_for == (2,)
    assert watched(Phase.DONE).row(frozenset()).waits_for == ()
    for change in ("died", "away"):
        node = watched(Phase.RUNNING)
        setattr(node, change, "down")
        row = node.row(frozenset({1}))
        assert (row.waits_for, row.state, row.straggler, row.failed) == ((), "down", True, change == "died")
