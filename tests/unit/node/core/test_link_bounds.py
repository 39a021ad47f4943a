"""Bounds of all that a network ever is."""

from dataclasses import replace
from math import inf

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from node.core.link_bounds import RateBounds, at_its_worst, loss_max, rate_bounds, round_trip_ns_max
from node.core.links import CapacityChange, NetworkPlan, PartitionChange
from node.core.schedule import LinkSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.scheduled_network import scheduled

NODES = 4
GROUPS = (0, 0, 1, 1)


def network(up: float = 8.0, **others: object) -> NetworkPlan:
    return NetworkPlan("access", np.full(NODES, up), np.full(NODES, inf), **others)  # type: ignore[arg-type]


def test_a_network_that_never_changes() -> None:
    assert rate_bounds(network(), 0) == RateBounds(8.0, 8.0, 8.0, None, False, 0)
    assert rate_bounds(network(inf), 0) == RateBounds(None, None, None, None, False, 0)


def test_the_least_that_moves_and_the_most_of_an_uplink() -> None:
    changes = (
        (1, CapacityChange("up", 0, -1, 3.0)),
        (2, CapacityChange("up", 0, -1, 0.0)),
        (3, CapacityChange("up", 0, -1, 20.0)),
        (4, CapacityChange("down", -1, 1, 0.5)),
        (5, CapacityChange("up", 2, -1, 50.0)),
    )
    found = rate_bounds(network(changes=changes), 0)
    assert (found.slowest_mbps, found.fastest_mbps, found.up_mbps_max, found.standstill_ns) == (0.5, 50.0, 20.0, 1)
    assert rate_bounds(network(changes=changes), 1).up_mbps_max == 8.0


def test_pairs_count_where_one_of_the_nodes_own_changes() -> None:
    pairs = np.full((NODES, NODES), 5.0)
    np.fill_diagonal(pairs, 0.0)
    changes = ((1, CapacityChange("pair", 0, 2, 7.0)),)
    changing = network(pair_mbps=pairs, changes=changes)
    assert (rate_bounds(changing, 0).pairs_change, rate_bounds(changing, 0).pair_mbps_max) == (True, 7.0)
    assert (rate_bounds(changing, 1).pairs_change, rate_bounds(changing, 1).pair_mbps_max) == (False, None)
    unlimited = rate_bounds(network(changes=changes), 0)
    assert (unlimited.pairs_change, unlimited.pair_mbps_max) == (True, None), "the others have no limit"


def test_standstills_count_once_where_they_overlap_and_until_the_end() -> None:
    changes = (
        (10, CapacityChange("up", 0, -1, 0.0)),
        (15, CapacityChange("down", -1, 3, 0.0)),
        (20, CapacityChange("up", 0, -1, 0.0)),
        (25, CapacityChange("up", 0, -1, 8.0)),
        (30, CapacityChange("down", -1, 3, inf)),
        (40, PartitionChange((GROUPS,))),
        (60, PartitionChange(())),
    )
    assert rate_bounds(network(changes=changes), 0).standstill_ns == 20 + 20
    assert rate_bounds(network(changes=changes), 0, end_ns=50).standstill_ns == 20 + 10
    assert rate_bounds(network(changes=changes[:-1]), 0).standstill_ns is None
    assert rate_bounds(network(changes=changes[:-1]), 0, end_ns=100).standstill_ns == 20 + 60
    assert rate_bounds(network(0.0), 0).standstill_ns is None
    assert rate_bounds(network(partitions=(GROUPS,)), 0, end_ns=7).standstill_ns == 7
    pairs = np.full((NODES, NODES), 5.0)
    np.fill_diagonal(pairs, 0.0)
    assert rate_bounds(network(pair_mbps=pairs), 0).standstill_ns == 0, "nobody sends to itself"


OVERLAYS = st.builds(
    Overlay,
    latency_factor=st.floats(0.0, 4.0),
    latency_ns=st.integers(0, 1_000),
    jitter_ns=st.floats(0.0, 100.0),
    loss=st.floats(0.0, 0.9),
)
PLACES = st.sampled_from([Place("up", 0, -1), Place("up", 1, -1), Place("down", -1, 1), Place("pair", 0, 1)])
SPANS = st.lists(
    st.builds(
        lambda begin, length, place, overlay: LinkSpan(begin, begin + length, place, overlay),
        st.integers(0, 20), st.integers(1, 20), PLACES, OVERLAYS,
    ),
    max_size=8,
)  # fmt: skip


@given(spans=SPANS, matrix=st.booleans())
def test_nothing_ever_exceeds_the_bounds(spans: list[LinkSpan], matrix: bool) -> None:
    rng = np.random.default_rng(1)
    latency = rng.integers(0, 500, (NODES, NODES)) if matrix else 300
    loss = rng.random((NODES, NODES)) / 4 if matrix else 0.1
    plan = scheduled(network(latency_ns=latency, jitter_ns=7, loss=loss), Schedule(links=tuple(spans)))
    worst, longest = at_its_worst(plan), np.broadcast_to(round_trip_ns_max(plan), (NODES, NODES))
    for source, destination in np.argwhere(~np.eye(NODES, dtype=bool)).tolist():
        bound = worst.path(source, destination)
        for at_ns in range(41):
            path, back = plan.path(source, destination, at_ns), plan.path(destination, source, at_ns)
            assert path.latency_ns <= bound.latency_ns
            assert path.jitter_ns <= bound.jitter_ns
            assert path.loss <= bound.loss + 1e-12 and path.loss <= loss_max(plan) + 1e-12  # noqa: PT018
            assert path.latency_ns + back.latency_ns <= longest[source, destination]


def test_bounds_of_a_single_span_are_its_own() -> None:
    span = LinkSpan(5, 6, Place("up", 0, -1), Overlay(latency_factor=2.0, latency_ns=7, loss=0.5))
    plan = scheduled(network(latency_ns=100, loss=0.2), Schedule(links=(span,)))
    found = round_trip_ns_max(plan)
    assert isinstance(found, np.ndarray)
    assert found[0, 1] == found[1, 0] == 307
    assert found[1, 2] == 200
    assert loss_max(plan) == 1 - 0.8 * 0.5
    assert round_trip_ns_max(network(latency_ns=100)) == 200
    assert loss_max(network(loss=0.25)) == 0.25


def test_a_network_with_a_schedule_is_bounded_as_one_with_its_changes() -> None:
    overlay = Overlay(bandwidth_factor=0.25)
    schedule = Schedule(links=(LinkSpan(1, 2, Place("up", 0, -1), overlay),), partitions=(PartitionSpan(5, 9, GROUPS),))
    found = rate_bounds(scheduled(network(), schedule), 1)
    assert (found.slowest_mbps, found.standstill_ns) == (2.0, 4)
    resumed = scheduled(network(), schedule).at_time(6)
    assert rate_bounds(replace(resumed), 1).slowest_mbps == 8.0
    assert rate_bounds(resumed, 1).standstill_ns == 9
