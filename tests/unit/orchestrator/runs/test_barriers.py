"""Points that all nodes must reach: who is missing, and what releases whom."""

import asyncio

from node.core.types import NodeId
from orchestrator.runs.barriers import Barriers

A, B, C = map(NodeId, range(3))


def test_a_point_is_reached_when_all_have_come() -> None:
    barriers = Barriers(3)
    first, second = object(), object()
    barrier = barriers.arrive("ready", B, first)
    assert barriers.missing(barrier) == [A, C]
    barriers.arrive("ready", A, second)
    assert not barrier.released
    barriers.arrive("ready", C, object())
    assert barrier.released
    barriers.leave(barrier, A, second)
    assert barrier.released


def test_a_node_that_leaves_is_missing_again_unless_it_came_anew() -> None:
    """A call that is cut off late must not take away the node's next one."""
    barriers = Barriers(2)
    old, new = object(), object()
    barrier = barriers.arrive("ready", A, old)
    barriers.leave(barrier, A, old)
    assert barriers.missing(barrier) == [A, B]
    barriers.arrive("ready", A, old)
    barriers.arrive("ready", A, new)
    barriers.leave(barrier, A, old)
    assert barriers.missing(barrier) == [B]


def test_nodes_that_are_forgotten_are_not_waited_for() -> None:
    barriers = Barriers(3)
    barrier = barriers.arrive("ready", A, object())
    barriers.forget(B)
    assert barriers.missing(barrier) == [C]
    barriers.remember(B)
    assert barriers.missing(barrier) == [B, C]
    barriers.forget(B)
    barriers.forget(C)
    assert barrier.released


def test_only_those_that_are_expected_are_waited_for() -> None:
    barriers = Barriers(3)
    barrier = barriers.expect("swap", frozenset({C}))
    assert barriers.missing(barrier) == [C]
    barriers.arrive("swap", A, object())
    assert not barrier.released
    barriers.arrive("swap", C, object())
    assert barrier.released


def test_whoever_waits_is_woken_by_the_last_to_come() -> None:
    async def scenario() -> None:
        barriers = Barriers(2)
        barrier = barriers.expect("ready", None)
        waiting = asyncio.create_task(barriers.released(barrier))
        await asyncio.sleep(0)
        barriers.arrive("ready", A, object())
        await asyncio.sleep(0)
        assert not waiting.done()
        barriers.arrive("ready", B, object())
        await waiting

    asyncio.run(scenario())


def test_the_point_that_misses_most_is_told() -> None:
    barriers = Barriers(3)
    assert barriers.num_missing == 0
    barriers.arrive("ready", A, object())
    assert barriers.num_missing == 2
    barriers.arrive("connected", A, object())
    barriers.arrive("connected", B, object())
    assert barriers.num_missing == 2
    for node in (B, C):
        barriers.arrive("ready", node, object())
    assert barriers.num_missing == 1
