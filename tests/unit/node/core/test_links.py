"""Link shapes refuse impossible figures in one line, and a plan answers for its nodes and pairs."""

from math import inf, nan

import numpy as np
import pytest

from node.core.errors import ConfigError
from node.core.links import CapacityChange, LinkShape, NetworkPlan


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bandwidth_mbps": -1.0}, "bandwidth_mbps=-1.0: must be a number >= 0, or left out for no limit"),
        ({"bandwidth_mbps": inf}, "bandwidth_mbps=inf: must be a number >= 0, or left out for no limit"),
        ({"latency_ms": nan}, "latency_ms=nan: must be a number >= 0"),
        ({"jitter_ms": -2.0}, "jitter_ms=-2.0: must be a number >= 0"),
        ({"loss_percent": 140.0}, "loss_percent=140.0: must be at least 0 and below 100"),
        ({"loss_percent": nan}, "loss_percent=nan: must be at least 0 and below 100"),
    ],
)
def test_impossible_figures_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LinkShape(**fields)
    assert str(caught.value) == message


def test_a_plan_answers_for_nodes_and_pairs() -> None:
    latency = np.array([[0, 2_500_000], [1_000_000, 0]])
    plan = NetworkPlan(
        model="access",
        up_mbps=np.array([10.0, inf]),
        down_mbps=np.array([20.0, 30.0]),
        pair_mbps=np.array([[inf, 5.0], [inf, inf]]),
        latency_ns=latency,
        jitter_ns=500_000,
        loss=0.02,
    )
    assert plan.num_nodes == 2
    assert plan.pair(0, 1) == LinkShape(5.0, latency_ms=2.5, jitter_ms=0.5, loss_percent=2.0)
    assert plan.pair(1, 0) == LinkShape(None, latency_ms=1.0, jitter_ms=0.5, loss_percent=2.0)


def test_a_plan_at_a_time_has_the_changes_before_it_behind_it() -> None:
    """A run that goes on begins with the links as they are by then."""
    changes = (
        (10, CapacityChange("up", 0, -1, 1.0)),
        (10, CapacityChange("pair", 1, 0, 3.0)),
        (20, CapacityChange("down", -1, 1, 2.0)),
        (30, CapacityChange("up", 0, -1, 4.0)),
    )
    capacity = np.array([8.0, 8.0])
    plan = NetworkPlan("access", capacity, capacity, changes=changes)
    assert plan.at_time(9) is plan
    later = plan.at_time(20)
    assert later.up_mbps.tolist() == [1.0, 8.0]
    assert later.down_mbps.tolist() == [8.0, 2.0]
    assert later.pair_mbps is not None
    assert later.pair_mbps.tolist() == [[inf, inf], [3.0, inf]]
    assert later.changes == changes[3:]
    assert plan.at_time(30).up_mbps.tolist() == [4.0, 8.0]
    assert capacity.tolist() == [8.0, 8.0]  # nobody else's plan has changed


def test_a_plan_at_a_time_keeps_the_pairs_that_no_change_concerns() -> None:
    pairs = np.array([[inf, 5.0], [6.0, inf]])
    capacity = np.array([8.0, 8.0])
    plan = NetworkPlan("access", capacity, capacity, pair_mbps=pairs, changes=((1, CapacityChange("pair", 0, 1, 7.0)),))
    found = plan.at_time(1).pair_mbps
    assert found is not None
    assert found.tolist() == [[inf, 7.0], [6.0, inf]]
    assert pairs[0, 1] == 5.0
