"""Rows of a simulation's nodes: what they say, how often they are made, and that looking changes nothing."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.core.counters import NodeCounters
from node.core.schedule import NodeState
from node.core.types import NodeId
from node.sim.world import World
from orchestrator.runtimes.simulated_rows import LOOK_EVERY_S, LOOKS_AVERAGED, SimulatedRows


def node(index: int, **changes: Any) -> SimpleNamespace:
    fields: dict[str, Any] = {
        "index": index,
        "algorithm": SimpleNamespace(waits_on=tuple),
        "counters": NodeCounters(train_loss=0.5, rounds=3),
        "outbox": [1, 2],
        "state": NodeState(),
        "runs": True,
        "finished": False,
    }
    return SimpleNamespace(**(fields | changes))


def world(*nodes: SimpleNamespace, now_ns: int = 0) -> World:
    return cast(World, SimpleNamespace(now_ns=now_ns, nodes=list(nodes)))


def test_a_row_says_what_a_node_does() -> None:
    waits = SimpleNamespace(waits_on=lambda: (NodeId(1), NodeId(2)))
    rows = SimulatedRows(frozenset({1})).look(
        world(
            node(0, algorithm=waits),
            node(1, finished=True, counters=NodeCounters()),
            node(2, runs=False, state=NodeState(is_down=True), algorithm=waits),
            node(3, runs=False, state=NodeState(is_paused=True)),
        ),
        0.0,
    )
    assert [row.state for row in rows] == ["running", "done", "down", "paused"]
    assert [row.waits_for for row in rows] == [(1, 2), (), (), ()]
    assert [row.straggler for row in rows] == [False, True, False, False]
    assert [row.loss for row in rows] == [0.5, None, 0.5, 0.5]
    assert (rows[0].rounds, rows[0].queued_messages, rows[0].up_mbps, rows[0].failed) == (3, 2, None, False)


def test_rates_are_those_of_the_last_looks_in_virtual_time() -> None:
    one, looked = node(0), SimulatedRows(frozenset())
    assert looked.look(world(one), 0.0)[0].up_mbps is None
    assert looked.look(world(one), LOOK_EVERY_S)[0].up_mbps is None  # no time has passed
    one.counters.bytes_sent, one.counters.bytes_received = 1_000_000, 500_000
    for number in range(2, LOOKS_AVERAGED + 1):
        (row,) = looked.look(world(one, now_ns=4_000_000_000), number * LOOK_EVERY_S)
        assert (row.up_mbps, row.down_mbps) == (pytest.approx(2.0), pytest.approx(1.0))
    looked.look(world(one, now_ns=4_000_000_000), (LOOKS_AVERAGED + 1) * LOOK_EVERY_S)
    (row,) = looked.look(world(one, now_ns=8_000_000_000), (LOOKS_AVERAGED + 2) * LOOK_EVERY_S)
    assert row.up_mbps == 0  # nothing since then


def test_nodes_are_looked_at_once_a_second() -> None:
    one, looked = node(0), SimulatedRows(frozenset())
    first = looked.look(world(one), 0.0)
    assert looked.look(world(one), 0.9 * LOOK_EVERY_S) is first
    assert looked.look(world(one), LOOK_EVERY_S) is not first
