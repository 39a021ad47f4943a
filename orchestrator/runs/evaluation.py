"""Figures that all runners compute alike from what their nodes counted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from node.core.links import NetworkPlan
from node.core.messages import MessageState
from node.core.training import Evaluation
from node.core.types import Float64Vector, NodeId, Vector
from node.core.units import ns_to_s
from orchestrator.results.schema import RunTotals, Sample


def consensus_distance(models: Mapping[NodeId, Vector]) -> float:
    """D(x) = (1/n) sum of ||x_i - mean||^2 over the nodes' models; summed in float64, in node order."""
    first = next(iter(models.values()))
    mean = np.zeros(first.shape, dtype=np.float64)
    for params in models.values():
        mean += params
    mean /= len(models)
    return float(sum(np.square(params - mean).sum() for params in models.values()) / len(models))


def mean_capacity_mbps(network: NetworkPlan, direction: str, end_ns: int) -> Float64Vector:
    """Access capacity of every node averaged over ``[0, end_ns]``, Mbit/s; inf where unlimited."""
    capacity = (network.up_mbps if direction == "up" else network.down_mbps).copy()
    total = capacity * end_ns
    for time_ns, change in network.changes:
        if change.kind != direction or time_ns >= end_ns:
            continue
        node = change.source if direction == "up" else change.destination
        total[node] += (change.mbps - capacity[node]) * (end_ns - time_ns)
        capacity[node] = change.mbps
    return total / end_ns


def utilization(
    network: NetworkPlan, sent_bytes: Sequence[int], received_bytes: Sequence[int], end_ns: int
) -> tuple[Float64Vector | None, Float64Vector | None]:
    """Share of each node's uplink and downlink that was in use until ``end_ns``; None where links are unlimited."""
    seconds = ns_to_s(end_ns)
    if seconds == 0:
        return None, None
    shares = []
    for direction, counted in (("up", sent_bytes), ("down", received_bytes)):
        mbps = mean_capacity_mbps(network, direction, end_ns)
        used = np.array(counted) * 8e-6 / seconds
        if not np.isfinite(mbps).all():
            return None, None
        shares.append(np.divide(used, mbps, out=np.zeros_like(used), where=mbps > 0))
    return shares[0], shares[1]


def with_results(sample: Sample, evaluations: Mapping[NodeId, Evaluation]) -> Sample:
    """A sample with what testing its models gave."""
    nodes = tuple(
        replace(node, accuracy=evaluations[NodeId(node.node)].accuracy, loss=evaluations[NodeId(node.node)].loss)
        for node in sample.nodes
    )
    return replace(sample, nodes=nodes)


def count_replaced(totals: RunTotals, messages: Mapping[str, npt.NDArray[np.int64]]) -> RunTotals:
    """Totals with the number of messages that were replaced before they were averaged."""
    replaced = int((messages["state"] == MessageState.REPLACED).sum())
    return replace(totals, messages={**totals.messages, "replaced": replaced})
