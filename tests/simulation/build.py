"""Small worlds for tests: any algorithm on any graph, with quadratic objectives."""

import numpy as np

from node.algorithms.registry import ALGORITHMS
from node.core.algorithm import Algorithm, NodeContext
from node.core.compute import ComputePlan
from node.core.links import NetworkPlan
from node.core.schedule import Schedule, speeds_of
from node.core.scheduled_network import scheduled
from node.core.sender_policy import PER_PEER, SERIAL, parallel
from node.core.topology import Topology
from node.core.training import QuadraticTrainer
from node.core.types import NodeId
from node.core.units import ms_to_ns
from node.sim.node_faults import NodeFates
from node.sim.world import World

NUM_PARAMS = 40
EVERY_ALGORITHM: dict[str, dict[str, object]] = {
    kind: dict(entry.config.small_run) for kind, entry in ALGORITHMS.items()
}
"""Each algorithm with parameters that fit the graph of :func:`graph_for`."""


SENDERS = (SERIAL, parallel(2), parallel(3), PER_PEER)
"""Of every kind of sender policy."""


def graph_for(kind: str, nodes: int) -> Topology:
    """A graph that the algorithm accepts."""
    return ALGORITHMS[kind].config.small_graph(nodes)


def network(nodes: int, mbps: float | list[float] = 1.0, **more: object) -> NetworkPlan:
    """Equal or given access links, up and down alike."""
    capacity = np.full(nodes, mbps, dtype=np.float64) if isinstance(mbps, float) else np.array(mbps)
    return NetworkPlan("access", capacity, capacity, **{"header_bytes": 40, **more})  # type: ignore[arg-type]


def world(
    kind: str,
    *,
    nodes: int = 6,
    network_plan: NetworkPlan | None = None,
    step_ms: list[float] | None = None,
    seed: int = 1,
    max_rounds: int | None = None,
    learning_rate: float = 0.1,
    topology: Topology | None = None,
    local_steps: int = 2,
    jitter: float = 0.0,
    schedule: Schedule | None = None,
    **parameters: object,
) -> World:
    """A traced world in which a schedule happens; ``parameters`` go to the algorithm."""
    topology = topology or graph_for(kind, nodes)
    entry = ALGORITHMS[kind]
    config = entry.config.model_validate({**EVERY_ALGORITHM[kind], **parameters})
    targets = np.random.default_rng(seed).standard_normal((nodes, NUM_PARAMS)).astype(np.float32)
    trainer = QuadraticTrainer(targets, learning_rate)
    schedule = schedule or Schedule()
    states = schedule.node_states()

    def make(node: NodeId, life: int) -> Algorithm:
        context = NodeContext(node, topology, trainer.tensor_sizes, local_steps, seed, stream_key=node + life * nodes)
        return entry.make(context, config)

    made = World(
        algorithms=[make(NodeId(node), 0) for node in range(nodes)],
        trainer=trainer,
        network=scheduled(network_plan or network(nodes), schedule),
        compute=ComputePlan(
            tuple(ms_to_ns(ms) for ms in step_ms or [1.0] * nodes), jitter=jitter, speeds=speeds_of(states)
        ),
        seed=seed,
        max_rounds=max_rounds,
    )
    if states:
        made.let_happen(NodeFates(states, make))
    return made
