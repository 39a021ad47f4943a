"""The state that follows from a schedule, and the network in which it happens."""

from itertools import permutations
from math import hypot, inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.links import CapacityChange, NetworkPlan, PartitionChange, PathShape
from node.core.schedule import (
    IN_NONE,
    NOTHING,
    LinkSpan,
    NodeSpan,
    NodeState,
    Overlay,
    PartitionSpan,
    Place,
    Schedule,
    is_cut,
)
from node.core.scheduled_network import scheduled
from node.core.steps import Steps

UP_0, DOWN_1, PAIR = Place("up", 0, -1), Place("down", -1, 1), Place("pair", 0, 1)
OVERLAYS = (
    Overlay(bandwidth_factor=0.5, latency_ns=10, jitter_ns=3.0),
    Overlay(bandwidth_mbps_max=6.0, latency_factor=2.0, loss=0.5),
    Overlay(base_mbps=20.0, latency_ns=5, jitter_ns=4.0, loss=0.2),
)


def network(**fields: object) -> NetworkPlan:
    capacity = np.array([10.0, 10.0, 10.0])
    return NetworkPlan("access", capacity, capacity.copy(), latency_ns=100, **fields)  # type: ignore[arg-type]


def test_overlays_compose_as_elements_in_series() -> None:
    found = OVERLAYS[0].with_other(OVERLAYS[1]).with_other(OVERLAYS[2])
    assert found.base_mbps == 20.0
    assert (found.bandwidth_factor, found.bandwidth_mbps_max) == (0.5, 6.0)
    assert (found.latency_factor, found.latency_ns) == (2.0, 15)
    assert found.jitter_ns == pytest.approx(5.0)
    assert found.loss == pytest.approx(1 - 0.5 * 0.8)
    assert found.capacity_mbps(10.0) == 6.0


@pytest.mark.parametrize("order", list(permutations(OVERLAYS)))
def test_the_order_of_overlays_does_not_matter(order: tuple[Overlay, ...]) -> None:
    found = NOTHING
    for overlay in order:
        found = found.with_other(overlay)
    assert found.capacity_mbps(100.0) == 6.0
    assert (found.latency_ns, found.latency_factor) == (15, 2.0)
    assert found.jitter_ns == pytest.approx(5.0)
    assert found.loss == pytest.approx(0.6)


def test_no_limit_stays_none() -> None:
    assert NOTHING.capacity_mbps(inf) == inf
    assert Overlay(bandwidth_factor=0.5).capacity_mbps(inf) == inf
    assert Overlay(bandwidth_mbps_max=0.0).capacity_mbps(inf) == 0.0


def test_capacities_become_changes_over_those_of_the_network() -> None:
    own = ((5, CapacityChange("up", 0, -1, 8.0)), (5, CapacityChange("up", 2, -1, 1.0)))
    links = (
        LinkSpan(0, 20, UP_0, Overlay(bandwidth_factor=0.5)),
        LinkSpan(10, 30, UP_0, Overlay(bandwidth_mbps_max=2.0)),
        LinkSpan(10, None, PAIR, Overlay(bandwidth_mbps_max=3.0)),
    )
    plan = scheduled(network(changes=own), Schedule(links))
    assert plan.changes == (
        (0, CapacityChange("up", 0, -1, 5.0)),
        (5, CapacityChange("up", 2, -1, 1.0)),
        (5, CapacityChange("up", 0, -1, 4.0)),
        (10, CapacityChange("pair", 0, 1, 3.0)),
        (10, CapacityChange("up", 0, -1, 2.0)),
        (30, CapacityChange("up", 0, -1, 8.0)),
    )
    assert plan.overlays == {}
    assert plan.at_time(0).up_mbps.tolist() == [5.0, 10.0, 10.0]
    assert plan.at_time(25).up_mbps.tolist() == [2.0, 10.0, 1.0]


def test_a_path_meets_what_is_laid_over_its_ends_and_itself() -> None:
    links = (
        LinkSpan(10, 20, UP_0, Overlay(latency_ns=7, jitter_ns=3.0)),
        LinkSpan(15, 30, DOWN_1, Overlay(latency_factor=3.0, loss=0.1)),
        LinkSpan(15, 30, PAIR, Overlay(jitter_ns=4.0)),
    )
    plan = scheduled(network(loss=0.2, jitter_ns=12), Schedule(links))
    assert plan.changes == ()
    assert plan.path(0, 1, 9) == PathShape(100, 12.0, 0.2)
    assert plan.path(0, 1, 10) == PathShape(107, hypot(12.0, 3.0), 0.2)
    assert plan.path(0, 1, 15) == PathShape(307, hypot(12.0, hypot(3.0, 4.0)), 0.2 + 0.1 * 0.8)
    assert plan.path(0, 2, 15) == PathShape(107, hypot(12.0, 3.0), 0.2)
    assert plan.path(2, 1, 20) == PathShape(300, 12.0, 0.2 + 0.1 * 0.8)
    assert plan.path(1, 0, 15) == PathShape(100, 12.0, 0.2)
    assert plan.path(0, 1, 30) == PathShape(100, 12.0, 0.2)
    assert plan.pair(0, 1, 10).latency_ms == 107 / 1e6


def test_a_plan_knows_what_it_may_ever_do() -> None:
    plain = network()
    assert not plain.may_lose
    assert not plain.may_jitter
    later = scheduled(plain, Schedule((LinkSpan(10, 20, PAIR, Overlay(jitter_ns=1.0, loss=0.1)),)))
    assert later.may_lose
    assert later.may_jitter


def test_partitions_come_and_go() -> None:
    halves, alone = (0, 0, 1), (IN_NONE, 1, 2)
    schedule = Schedule(partitions=(PartitionSpan(10, 30, halves), PartitionSpan(20, 40, alone)))
    plan = scheduled(network(), schedule)
    assert plan.changes == (
        (10, PartitionChange((halves,))),
        (20, PartitionChange((halves, alone))),
        (30, PartitionChange((alone,))),
        (40, PartitionChange(())),
    )
    assert not plan.is_parked(0, 2)
    assert plan.at_time(25).is_parked(0, 2)
    assert plan.at_time(25).is_parked(1, 2)
    assert not plan.at_time(35).is_parked(0, 2)
    assert not plan.at_time(45).is_parked(1, 2)
    assert plan.at_time(25).at_time(45).partitions == ()


def test_who_is_in_no_group_reaches_all() -> None:
    assert not is_cut([(0, 1, IN_NONE)], 0, 2)
    assert not is_cut([(0, 1, IN_NONE)], 2, 1)
    assert is_cut([(0, 1, IN_NONE)], 0, 1)
    assert is_cut([(0, 0, 0), (0, 1, 1)], 0, 2)
    assert not is_cut([], 0, 1)


def test_a_node_is_what_all_that_happens_to_it_makes_of_it() -> None:
    schedule = Schedule(
        nodes=(
            NodeSpan(10, 40, 1, "slowed", 2.0),
            NodeSpan(20, 30, 1, "slowed", 3.0),
            NodeSpan(25, 50, 1, "paused"),
            NodeSpan(60, None, 2, "down"),
        )
    )
    states = schedule.node_states()
    assert states.keys() == {1, 2}
    assert states[1].at(9) == NodeState()
    assert states[1].at(20) == NodeState(slowdown=6.0)
    assert states[1].at(26) == NodeState(is_paused=True, slowdown=6.0)
    assert [state.speed for _, state in states[1]] == [0.5, 1 / 6, 0.0, 0.0, 0.0, 1.0]
    assert states[2] == Steps(NodeState(), (60,), (NodeState(is_down=True),))


SPANS = st.builds(
    LinkSpan,
    begin_ns=st.integers(0, 50),
    end_ns=st.none() | st.integers(51, 100),
    place=st.sampled_from([UP_0, DOWN_1, PAIR]),
    overlay=st.sampled_from(OVERLAYS[:2]),
)


@given(st.lists(SPANS, max_size=8), st.integers(0, 110), st.integers(0, 110))
def test_the_state_at_a_time_does_not_depend_on_what_was_looked_at_before(
    links: list[LinkSpan], early_ns: int, late_ns: int
) -> None:
    plan = scheduled(network(changes=((30, CapacityChange("up", 0, -1, 4.0)),)), Schedule(tuple(links)))
    early_ns, late_ns = sorted((early_ns, late_ns))
    at_once, in_steps = plan.at_time(late_ns), plan.at_time(early_ns).at_time(late_ns)
    base = 4.0 if late_ns >= 30 else 10.0
    overlay = NOTHING
    for span in links:
        if span.place == UP_0 and span.begin_ns <= late_ns and (span.end_ns is None or late_ns < span.end_ns):
            overlay = overlay.with_other(span.overlay)
    for found in (at_once, in_steps):
        assert found.up_mbps[0] == overlay.capacity_mbps(base)
        assert found.path(0, 1, late_ns) == plan.path(0, 1, late_ns)
