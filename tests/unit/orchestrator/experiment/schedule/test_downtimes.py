"""Crashes and restarts become the times in which nodes are down; two of one node at one time are refused."""

from typing import Any

import pytest

from node.core.errors import ConfigError
from node.core.schedule import NodeSpan
from orchestrator.experiment.schedule.downtimes import RESTART_NS
from tests.unit.orchestrator.experiment.schedule.entries import S, resolved

pytestmark = pytest.mark.usefixtures("able")


def crash(**fields: Any) -> dict[str, Any]:
    return {"action": "crash", "nodes": 3, **fields}


def restart(at_s: float, **fields: Any) -> dict[str, Any]:
    return {"action": "restart", "nodes": 3, "at_s": at_s, **fields}


def test_crashes() -> None:
    found = resolved(
        crash(at_s=1, for_s=2, every_s=8, model="peer"), crash(nodes="0-1", until_s=5), crash(nodes=4, at_s=9)
    ).schedule
    assert found.nodes == (
        NodeSpan(0, 5 * S, 0, "down"),
        NodeSpan(0, 5 * S, 1, "down"),
        NodeSpan(S, 3 * S, 3, "down", model="peer"),
        NodeSpan(9 * S, 11 * S, 3, "down", model="peer"),
        NodeSpan(17 * S, 19 * S, 3, "down", model="peer"),
        NodeSpan(9 * S, None, 4, "down"),
    )


def test_a_restart_is_the_shortest_time() -> None:
    """So it is among the states of the node."""
    found = resolved(restart(2, model="common", every_s=10)).schedule
    assert found.nodes == (
        NodeSpan(2 * S, 2 * S + RESTART_NS, 3, "down", model="common"),
        NodeSpan(12 * S, 12 * S + RESTART_NS, 3, "down", model="common"),
    )
    assert [state.is_down for _, state in found.node_states()[3]] == [True, False, True, False]


def test_a_restart_brings_back_whom_a_crash_has_taken_for_good() -> None:
    """Wherever the two stand in the file; the restart says from which model."""
    entries = [restart(6, model="peer"), crash(at_s=2), crash(at_s=8), restart(9)]
    expected = (NodeSpan(2 * S, 6 * S, 3, "down", model="peer"), NodeSpan(8 * S, 9 * S, 3, "down"))
    assert resolved(*entries).schedule.nodes == expected
    assert resolved(*entries[::-1]).schedule.nodes == expected


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [crash(at_s=1, for_s=4), crash(at_s=3, for_s=9)],
            "schedule[1].nodes: must not take down node 3 at 3 s: schedule[0] has it down from 1 s to 5 s",
        ),
        (
            [crash(at_s=3, for_s=9), crash(at_s=1, for_s=2, nodes="all")],
            "schedule[0].nodes: must not take down node 3 at 3 s: schedule[1] has it down from 1 s to 3 s",
        ),
        (
            [crash(at_s=1), crash(at_s=3)],
            "schedule[1].nodes: must not take down node 3 at 3 s: schedule[0] has it down from 1 s until a later",
        ),
        (
            [crash(at_s=1, for_s=4), restart(3)],
            "schedule[1].nodes: must not restart node 3 at 3 s: schedule[0] has it down from 1 s to 5 s",
        ),
        (
            [crash(at_s=1, for_s=4), restart(5)],
            "schedule[1].nodes: must not restart node 3 at 5 s: schedule[0] has it down from 1 s to 5 s",
        ),
        (
            [crash(at_s=1), restart(1)],
            "schedule[1].nodes: must not restart node 3 at 1 s: schedule[0] has it down from 1 s until a later restart",
        ),
        (
            [restart(2), crash(at_s=2, for_s=1)],
            "schedule[1].nodes: must not take down node 3 at 2 s: schedule[0] restarts it at 2 s",
        ),
        (
            [restart(4, every_s=3), restart(10)],
            "schedule[1].nodes: must not restart node 3 at 10 s: schedule[0] restarts",
        ),
        (
            [crash(at_s=1, for_s=2, every_s=5), restart(12, nodes="all")],
            "schedule[1].nodes: must not restart node 3 at 12 s: schedule[0] has it down from 11 s to 13 s",
        ),
    ],
    ids=lambda part: part[10:70] if isinstance(part, str) else "",
)
def test_two_at_one_time(entries: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(*entries)
    assert str(caught.value).startswith(message)


def test_nodes_apart_and_times_apart_go_together() -> None:
    resolved(crash(at_s=1, for_s=4), crash(at_s=3, for_s=9, nodes=2), restart(3, nodes=0), restart(6))
    resolved(crash(at_s=1, for_s=4), {"action": "pause", "nodes": 3, "at_s": 2, "for_s": 1})
