"""What nodes do as planned."""

from node.core.schedule import NodeSpan, Schedule
from node.core.types import NodeId
from orchestrator.experiment.schedule.fates import FateChange, fates_of, first_down_ns, is_down_at, longest_pause_ns


def schedule(*spans: NodeSpan) -> Schedule:
    return Schedule(nodes=spans)


def test_what_a_node_does_and_when_that_changes() -> None:
    planned = schedule(
        NodeSpan(10, 20, 3, "down", model="peer"),
        NodeSpan(15, 30, 3, "paused"),
        NodeSpan(0, 40, 3, "slowed", slowdown=2.0),
        NodeSpan(5, None, 1, "slowed", slowdown=2.0),
    )
    fates = fates_of(planned, 0, 100)
    assert list(fates) == [3]  # the speed of a node is its own matter
    assert fates[NodeId(3)] == [FateChange(10, "down"), FateChange(20, "paused", "peer"), FateChange(30, "runs")]


def test_a_part_that_begins_in_the_middle_and_an_end_before_the_last_change() -> None:
    planned = schedule(NodeSpan(10, 20, 3, "down"), NodeSpan(25, 30, 3, "down"))
    assert fates_of(planned, 15, 25)[NodeId(3)] == [FateChange(15, "down"), FateChange(20, "runs")]
    assert fates_of(planned, 20, 25) == {}
    assert fates_of(planned, 0, 10) == {}


def test_the_next_crash() -> None:
    fate = [FateChange(10, "down"), FateChange(20, "runs"), FateChange(25, "down")]
    assert [first_down_ns(fate, after_ns) for after_ns in (-1, 9, 10, 20, 25)] == [10, 10, 25, 25, None]
    assert first_down_ns([FateChange(0, "down")]) == 0


def test_down_at_a_time() -> None:
    fates = {NodeId(3): [FateChange(10, "down"), FateChange(20, "paused"), FateChange(25, "runs")]}
    assert [is_down_at(fates, NodeId(3), time_ns) for time_ns in (9, 10, 19, 20, 99)] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert not is_down_at(fates, NodeId(4), 15)


def test_the_longest_pause() -> None:
    fates = [[FateChange(10, "paused"), FateChange(20, "down")], [FateChange(60, "paused")]]
    assert longest_pause_ns(fates, 100) == 40
    assert longest_pause_ns(fates, None) == 10
    assert longest_pause_ns([], 100) == 0
