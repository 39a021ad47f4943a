"""Figures that the simulation's runner computes itself."""

import numpy as np
import pytest

from node.core.links import CapacityChange, NetworkPlan
from node.core.types import NodeId
from orchestrator.runs.evaluation import consensus_distance, mean_capacity_mbps


def test_consensus_distance_is_the_mean_squared_distance_to_the_mean_model() -> None:
    """D(x) by hand: the mean is (1, 2), the squared distances are 5, 1 and 2."""
    models = [(0.0, 0.0), (1.0, 3.0), (2.0, 3.0)]
    by_node = {NodeId(node): np.array(model, dtype=np.float32) for node, model in enumerate(models)}
    assert consensus_distance(by_node) == pytest.approx((5 + 1 + 2) / 3)


def test_mean_capacity_follows_the_changes_until_the_end() -> None:
    """8 Mbit/s for a quarter of the time, then 4; a change at the end or of the other direction does not count."""
    capacity = np.array([8.0, 2.0])
    changes = (
        (25, CapacityChange("up", 0, -1, 4.0)),
        (50, CapacityChange("down", -1, 0, 1.0)),
        (100, CapacityChange("up", 1, -1, 9.0)),
    )
    plan = NetworkPlan("access", capacity, capacity, changes=changes)
    assert mean_capacity_mbps(plan, "up", 100).tolist() == [5.0, 2.0]
    assert mean_capacity_mbps(plan, "down", 100).tolist() == [4.5, 2.0]
