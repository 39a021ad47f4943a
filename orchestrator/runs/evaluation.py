"""From models to the lines of the curve, for all runtimes alike; and the figures that need no node to be asked.

A runtime submits the models of one instant; :class:`ModelTests` has them tested and hands on one complete sample after
the other, in the order in which they were submitted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import fsum, nan

import numpy as np
import numpy.typing as npt

from node.core.links import NetworkPlan
from node.core.messages import MessageState
from node.core.training import Evaluation, Evaluator
from node.core.types import Float64Vector, NodeId, Vector
from node.core.units import ns_to_s
from orchestrator.results.schema import RunTotals, Sample


class ModelTests:
    """Tests that are under way.

    State:
        pending: Samples without results, by the ticket under which they were submitted, with the models that are
            tested; in order.
        last: The last complete sample; None before the first.
    """

    def __init__(self, evaluator: Evaluator, on_sample: Callable[[Sample], None]) -> None:
        """Store the evaluator, and what is given each complete sample."""
        self._evaluator = evaluator
        self._on_sample = on_sample
        self.pending: dict[int, tuple[Sample, Mapping[NodeId, Vector]]] = {}
        self.last: Sample | None = None

    def submit(self, ticket: int, sample: Sample, models: Mapping[NodeId, Vector]) -> None:
        """Have an instant's models tested; may block while the evaluator has no room.

        Args:
            ticket: Its number, larger than those before.
            sample: Everything but the results.
            models: The models by node, each of shape (num_params,), float32.
        """
        self.pending[ticket] = sample, models
        self._evaluator.submit(ticket, {**models, **averaged_models(models, self._evaluator.num_test_sets)})

    def submit_again(self, pending: Mapping[int, tuple[Sample, Mapping[NodeId, Vector]]]) -> None:
        """Begin all tests that an interrupted run had under way once more."""
        for ticket, (sample, models) in pending.items():
            self.submit(ticket, sample, models)

    def collect(self, *, wait: bool = False) -> None:
        """Complete the samples whose results are there, or, with ``wait``, all of them.

        Raises:
            RunnerError: A worker died, or the curve cannot be written.
        """
        for ticket, evaluations in self._evaluator.collect(wait=wait):
            sample = with_results(self.pending[ticket][0], evaluations)
            self._on_sample(sample)
            # Only now: a sample that could not be written is still to be tested by a continuation.
            del self.pending[ticket]
            self.last = sample


def averaged_models(models: Mapping[NodeId, Vector], num_test_sets: int) -> dict[NodeId, Vector]:
    """The averaged model, under a number beyond the nodes' for each test set that it is tested on.

    Args:
        models: The nodes' models, each of shape (num_params,), float32; at least one.
        num_test_sets: See :class:`~node.core.training.Evaluator`. Where each node has its own set, only the sets of the
            nodes in ``models`` are used, as for their own models.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of a run that diverges
        averaged = mean_model(models).astype(np.float32)
    beyond = num_test_sets * (max(models) // num_test_sets + 1)
    sets = sorted({node % num_test_sets for node in models})
    return {NodeId(beyond + index): averaged for index in sets}


def mean_model(models: Mapping[NodeId, Vector]) -> Float64Vector:
    """The mean of models, shape (num_params,), summed in float64 and in the mapping's order."""
    first = next(iter(models.values()))
    mean = np.zeros(first.shape, dtype=np.float64)
    for params in models.values():
        mean += params
    mean /= len(models)
    return mean


def consensus_distance(models: Mapping[NodeId, Vector]) -> float:
    """D(x) = (1/n) sum of ||x_i - mean||^2 over the nodes' models; summed in float64, in node order."""
    mean = mean_model(models)
    return float(sum(np.square(params - mean).sum() for params in models.values()) / len(models))


def mean_capacity_mbps(network: NetworkPlan, direction: str, end_ns: int) -> Float64Vector:
    """Access capacity of every node averaged over ``[0, end_ns]``, Mbit/s; inf where unlimited."""
    capacity = (network.up_mbps if direction == "up" else network.down_mbps).copy()
    total = capacity * end_ns
    for time_ns, change in network.capacity_changes():
        if change.kind != direction or time_ns >= end_ns:
            continue
        node = change.source if direction == "up" else change.destination
        total[node] += (change.mbps - capacity[node]) * (end_ns - time_ns)
        capacity[node] = change.mbps
    return total / end_ns


def utilization(
    network: NetworkPlan, bytes_sent: Sequence[int], bytes_received: Sequence[int], end_ns: int
) -> tuple[Float64Vector | None, Float64Vector | None]:
    """Share of each node's uplink and downlink that was in use until ``end_ns``; None where links are unlimited."""
    seconds = ns_to_s(end_ns)
    if seconds == 0:
        return None, None
    shares = []
    for direction, counted in (("up", bytes_sent), ("down", bytes_received)):
        mbps = mean_capacity_mbps(network, direction, end_ns)
        used = np.array(counted) * 8e-6 / seconds
        if not np.isfinite(mbps).all():
            return None, None
        shares.append(np.divide(used, mbps, out=np.zeros_like(used), where=mbps > 0))
    return shares[0], shares[1]


def with_results(sample: Sample, evaluations: Mapping[NodeId, Evaluation]) -> Sample:
    """A sample with what testing its models gave; results of numbers beyond the nodes' are the averaged model's."""
    nodes = []
    for node in sample.nodes:
        found = evaluations[NodeId(node.node)]
        loss_seen = nan if found.loss_seen is None else found.loss_seen
        nodes.append(replace(node, accuracy=found.accuracy, loss=found.loss, loss_seen=loss_seen))
    own = {node.node for node in sample.nodes}
    averaged = [found for node, found in evaluations.items() if node not in own and found.samples]
    if not averaged:
        return replace(sample, nodes=tuple(nodes))
    return replace(
        sample,
        nodes=tuple(nodes),
        averaged_accuracy=fsum(found.accuracy for found in averaged) / len(averaged),
        averaged_loss=fsum(found.loss for found in averaged) / len(averaged),
    )


def count_replaced(totals: RunTotals, messages: Mapping[str, npt.NDArray[np.int64]]) -> RunTotals:
    """Totals with the number of messages that were replaced before they were averaged."""
    replaced = int((messages["state"] == MessageState.REPLACED).sum())
    return replace(totals, messages={**totals.messages, "replaced": replaced})
