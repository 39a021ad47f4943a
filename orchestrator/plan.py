"""From an experiment file to what runs: pure, without data, torch or a network.

A :class:`Plan` holds every decision that does not need the data set: the graph, the links, the compute speed
and the algorithm of each node. All runtimes start from it.
"""

from dataclasses import dataclass
from pathlib import Path

from node.algorithms.config import AlgorithmConfig
from node.algorithms.registry import ALGORITHMS
from node.core.algorithm import Algorithm, NodeContext
from node.core.compute import ComputePlan
from node.core.errors import ConfigError
from node.core.links import NetworkPlan
from node.core.rng import stream
from node.core.topology import Topology
from node.core.types import NodeId
from node.core.units import ms_to_ns, s_to_ns
from node.learning.config import check_compatible
from orchestrator.config import ComputeConfig, ExperimentConfig
from orchestrator.networks import build_network
from orchestrator.topologies import build_topology


@dataclass(frozen=True)
class Plan:
    """One experiment, resolved as far as it can be without data."""

    config: ExperimentConfig
    topology: Topology
    network: NetworkPlan
    compute: ComputePlan

    @property
    def algorithm(self) -> AlgorithmConfig:
        """Parameters of the algorithm that runs."""
        return self.config.algorithm.selected

    @property
    def stragglers(self) -> frozenset[int]:
        """Nodes slowed on purpose, in communication or in compute."""
        return self.network.stragglers | self.compute.stragglers

    @property
    def end_ns(self) -> int | None:
        """When the run ends at the latest; None when only rounds end it."""
        return None if self.config.stop.time_s is None else s_to_ns(self.config.stop.time_s)

    def algorithms(self, tensor_sizes: tuple[int, ...]) -> list[Algorithm]:
        """One state machine a node.

        Raises:
            ConfigError: The algorithm's parameters do not fit the network or the model.
        """
        kind = self.config.algorithm.kind
        try:
            self.algorithm.check(self.topology, tensor_sizes)
        except ConfigError as error:
            raise ConfigError(f"algorithm.{kind}.{error}") from None
        return [
            ALGORITHMS[kind].make(
                NodeContext(
                    node=NodeId(node),
                    topology=self.topology,
                    tensor_sizes=tensor_sizes,
                    local_steps=self.config.algorithm.local_steps,
                    seed=self.config.seed,
                ),
                self.algorithm,
            )
            for node in range(self.config.nodes)
        ]


def make_plan(config: ExperimentConfig, base_dir: Path) -> Plan:
    """Resolve an experiment.

    Args:
        config: The experiment.
        base_dir: Folder of the experiment file; relative paths in the file start there.

    Raises:
        ConfigError: Parts of the experiment do not fit together.
    """
    topology = build_topology(config.topology, config.nodes, config.seed, base_dir)
    network = build_network(config.network, config.nodes, config.seed, base_dir)
    compute = _compute_plan(config.compute, config.nodes, config.seed, network.stragglers)
    check_compatible(config.learning)
    algorithm = config.algorithm.selected
    loses_messages = network.transport == "datagram" and bool((network.loss > 0) if isinstance(network.loss, float) else (network.loss > 0).any())
    if algorithm.needs_every_message and loses_messages:
        raise ConfigError(
            f"network.transport=datagram: {config.algorithm.kind} stops for good when a message is lost;"
            " must be reliable, or without loss"
        )
    return Plan(config=config, topology=topology, network=network, compute=compute)


def _compute_plan(
    config: ComputeConfig, num_nodes: int, seed: int, network_stragglers: frozenset[int]
) -> ComputePlan:
    slow = config.stragglers
    if slow.count > num_nodes:
        raise ConfigError(f"compute.stragglers.count={slow.count}: must be at most nodes={num_nodes}")
    match slow.placement:
        case "random":
            drawn = stream(seed, "compute-stragglers").permutation(num_nodes)[: slow.count]
            nodes = frozenset(int(node) for node in drawn)
        case "lowest_ids":
            nodes = frozenset(range(slow.count))
        case "same_as_network":
            nodes = network_stragglers
    factors = [slow.factor if node in nodes else 1.0 for node in range(num_nodes)]
    for node, factor in config.slowdown.items():
        if not 0 <= node < num_nodes:
            raise ConfigError(f"compute.slowdown.{node}: must be a node between 0 and {num_nodes - 1}")
        if factor < 1:
            raise ConfigError(f"compute.slowdown.{node}={factor}: must be at least 1")
        factors[node] *= factor
    return ComputePlan(
        step_ns=tuple(ms_to_ns(config.step_time_ms * factor) for factor in factors),
        jitter=config.jitter_percent / 100.0,
        stragglers=frozenset(node for node, factor in enumerate(factors) if factor > 1),
    )
