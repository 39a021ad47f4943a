"""Figures that the runners compute themselves, and the test of the averaged model."""

from collections.abc import Mapping

import numpy as np
import pytest

from node.core.counters import NodeCounters
from node.core.links import CapacityChange, NetworkPlan
from node.core.training import Evaluation
from node.core.types import NodeId, Vector
from orchestrator.results.schema import NodeSample, Sample
from orchestrator.runs.evaluation import ModelTests, averaged_models, consensus_distance, mean_capacity_mbps


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


class Sums:
    """Tests a model by its sum, as accuracy, and the number of the test set, as loss. One set is empty."""

    def __init__(self, num_test_sets: int, empty: int | None = None) -> None:
        self.num_test_sets = num_test_sets
        self._empty = empty
        self._done: list[tuple[int, dict[NodeId, Evaluation]]] = []

    def submit(self, ticket: int, models: Mapping[NodeId, Vector]) -> None:
        found = {}
        for node, model in models.items():
            index = node % self.num_test_sets
            samples = 0 if index == self._empty else 5
            found[node] = Evaluation(float(model.sum()) if samples else float("nan"), float(index), samples)
        self._done.append((ticket, found))

    def collect(self, *, wait: bool) -> list[tuple[int, dict[NodeId, Evaluation]]]:
        done, self._done = self._done, []
        return done


def models_of(*nodes: int) -> dict[NodeId, Vector]:
    """Node i's model is (i, 1)."""
    return {NodeId(node): np.array([node, 1], dtype=np.float32) for node in nodes}


def outcome_of(evaluator: Sums, models: Mapping[NodeId, Vector]) -> Sample:
    """What becomes of one instant's models."""
    done: list[Sample] = []
    tests = ModelTests(evaluator, done.append)
    nodes = tuple(NodeSample.untested(node, NodeCounters()) for node in models)
    tests.submit(0, Sample(0, nodes, 0, 0.0), models)
    tests.collect(wait=True)
    (sample,) = done
    return sample


def test_the_averaged_model_is_tested_with_the_nodes_models() -> None:
    sample = outcome_of(Sums(1), models_of(0, 1, 5))
    assert [node.accuracy for node in sample.nodes] == [1, 2, 6]
    assert (sample.averaged_accuracy, sample.averaged_loss) == (3.0, 0.0)


def test_where_each_node_has_its_own_test_set_the_averaged_model_is_tested_on_those_of_the_living() -> None:
    sample = outcome_of(Sums(6), models_of(0, 1, 5))
    assert [node.loss for node in sample.nodes] == [0, 1, 5]
    assert (sample.averaged_accuracy, sample.averaged_loss) == (3.0, 2.0)  # the mean of sets 0, 1 and 5


def test_an_empty_test_set_does_not_count_for_the_averaged_model() -> None:
    sample = outcome_of(Sums(6, empty=5), models_of(0, 1, 5))
    assert (sample.averaged_accuracy, sample.averaged_loss) == (3.0, 0.5)


def test_the_averaged_model_of_a_run_that_diverges_is_no_error() -> None:
    infinite = {NodeId(0): np.full(2, np.inf, dtype=np.float32), NodeId(1): np.full(2, -np.inf, dtype=np.float32)}
    (averaged,) = averaged_models(infinite, 1).values()
    assert np.isnan(averaged).all()
