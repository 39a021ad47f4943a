"""Planned pauses of a node: nothing that is due meanwhile is late."""

import numpy as np
import pytest

from node.core.steps import Steps
from node.core.types import NodeId
from node.core.units import NEVER_NS
from node.host.clock import Clock
from node.runtime.standstills import Standstills, either_held, peers_standstills, standstills_of


def test_a_node_runs_from_the_end_of_its_pause() -> None:
    pauses = standstills_of(Steps(1.0, (10, 20, 30, 40), (0.0, 0.5, 0.0, 1.0)))
    assert [pauses.runs_from(time_ns) for time_ns in (9, 10, 19, 20, 30, 39, 40)] == [9, 20, 20, 20, 40, 40, 40]


def test_a_pause_from_the_beginning_and_one_without_an_end() -> None:
    assert standstills_of(Steps(0.0, (10,), (1.0,))).runs_from(0) == 10
    assert standstills_of(Steps(1.0, (10,), (0.0,))).runs_from(11) == NEVER_NS
    assert standstills_of(None).runs_from(11) == 11


@pytest.mark.parametrize(
    ("begin_ns", "end_ns", "parts"),
    [
        (0, 10, []),
        (0, 11, [(10, 11)]),
        (5, 50, [(10, 20), (30, 40)]),
        (12, 15, [(12, 15)]),
        (12, 31, [(12, 20), (30, 31)]),
        (20, 30, []),
        (40, 90, []),
        (15, 15, []),
    ],
)
def test_the_parts_of_a_time_in_which_a_node_stands_still(
    begin_ns: int, end_ns: int, parts: list[tuple[int, int]]
) -> None:
    assert list(Standstills([(10, 20), (30, 40)]).between(begin_ns, end_ns)) == parts
    assert list(Standstills().between(begin_ns, end_ns)) == []


def test_on_the_hosts_clock_once_the_experiment_has_one() -> None:
    pauses = Standstills([(10, 20)])
    assert (pauses.due_ns(1_030), pauses.held(1_030)) == (1_030, False)  # before the experiment nothing stands still
    pauses.begin(Clock(1_000, dilation=2.0))
    assert [pauses.due_ns(instant) for instant in (1_019, 1_020, 1_039, 1_040)] == [1_019, 1_040, 1_040, 1_040]
    assert [pauses.held(instant) for instant in (1_019, 1_020, 1_040)] == [False, True, False]


def test_those_of_others() -> None:
    rows = np.array([[3, 10, 20], [3, 30, 40], [5, 0, NEVER_NS]])
    of = peers_standstills(rows)
    assert sorted(of) == [3, 5]
    assert of[NodeId(3)].runs_from(35) == 40
    assert peers_standstills(np.zeros((0, 3), dtype=np.int64)) == {}


def test_a_message_waits_for_the_node_itself_and_for_its_sender() -> None:
    own, clock = Standstills([(10, 20)]), Clock(1_000, dilation=2.0)
    own.begin(clock)
    held = either_held(own, np.array([[0, 10, 20], [3, 30, 40]]), clock)
    instants = (1_019, 1_020, 1_040, 1_060, 1_079, 1_080)
    assert [held(NodeId(3), instant) for instant in instants] == [False, True, False, True, True, False]
    assert [held(NodeId(4), instant) for instant in instants] == [False, True, False, False, False, False]
