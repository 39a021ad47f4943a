"""Two looks at the nodes, and what they find."""

from dataclasses import replace

import pytest

from node.core.errors import RunnerError
from node.core.types import NodeId
from orchestrator.containers.cpu_use import CpuCounters
from orchestrator.kernel_fidelity import KernelLinks
from orchestrator.runtimes.docker_watch import KernelWatch, Looks, NodeLook, findings
from orchestrator.shaping.reading import QueueCounters, QueuesCounters
from orchestrator.shaping.tree import peer_minor
from tests.unit.orchestrator.shaping.networks import network, tree

TREE = tree(network())
ONE, TWO = NodeId(1), NodeId(2)
FIRST = NodeLook(
    1_000_000_000,
    TREE,
    QueuesCounters({peer_minor(1): QueueCounters(0, 100, 5, 0)}, {}),
    CpuCounters(10, 1, 1_000_000, 7_000_000),
)
LAST = NodeLook(
    3_000_000_000,
    TREE,
    QueuesCounters({peer_minor(1): QueueCounters(0, 1_100, 8, 0)}, {}),
    CpuCounters(30, 3, 41_000_000, 107_000_000),
)


def test_what_came_between_the_looks() -> None:
    found = findings({ONE: FIRST}, {ONE: LAST}, {ONE})
    (queue,) = found.queues
    assert (queue.place, queue.packets, queue.unasked) == ("node 1, eth1 queue of fa01:101", 1_003, 3)
    assert found.throttled_percent == {1: pytest.approx(2.0)}
    assert found.waited_percent == {1: pytest.approx(5.0)}
    assert found.unread == {}


def test_what_could_not_be_read_is_told_but_for_nodes_that_had_ended() -> None:
    last: Looks = {ONE: LAST, TWO: "node 2: gone"}
    found = findings({ONE: FIRST, TWO: FIRST}, last, {ONE, TWO, NodeId(3)})
    assert found.unread == {2: "node 2: gone", 3: "node 3: nobody could look"}
    assert findings({}, last, {ONE}).unread == {}


def test_without_a_first_look_a_node_counts_from_its_beginning_and_its_processors_not_at_all() -> None:
    for first in ({}, {ONE: "node 1: gone"}):
        found = findings(first, {ONE: LAST}, {ONE})
        assert found.queues[0].packets == 1_108
        assert found.throttled_percent == {}


def test_a_node_without_a_quota_is_not_throttled() -> None:
    def unlimited(look: NodeLook) -> NodeLook:
        return replace(look, cpu=CpuCounters(0, 0, 0, None))

    found = findings({ONE: unlimited(FIRST)}, {ONE: unlimited(LAST)}, {ONE})
    assert (found.throttled_percent, found.waited_percent) == ({}, {})


def test_looks_are_made_in_their_order_and_without_the_caller() -> None:
    watch, asked = KernelWatch(), list[bool]()

    def look(*, compare: bool) -> Looks:
        asked.append(compare)
        return {ONE: LAST if compare else FIRST}

    watch.begin(look)
    watch.end(look).result(60)
    watch.close()
    assert asked == [False, True]
    assert watch.findings({ONE}).queues[0].packets == 1_003


def test_a_run_that_did_not_begin_finds_nothing_and_a_look_that_failed_is_told() -> None:
    never, failed = KernelWatch(), KernelWatch()
    never.close()

    def look(*, compare: bool) -> Looks:
        raise RunnerError("the helper has ended")

    failed.begin(look)
    failed.end(look)
    failed.close()
    assert never.findings({ONE}) == KernelLinks(0)
    assert failed.findings({ONE}).unread == {1: "node 1: nobody could look"}
