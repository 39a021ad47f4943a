"""The simulation that the benchmarks share: DivShare on a full graph with equal links."""

from collections.abc import Callable

import numpy as np

from node.algorithms.divshare import DivShare, DivShareConfig
from node.core.algorithm import NodeContext
from node.core.compute import ComputePlan
from node.core.links import NetworkPlan
from node.core.schedule import Schedule
from node.core.scheduled_network import scheduled
from node.core.sender_policy import SERIAL, SenderPolicy
from node.core.topology import full
from node.core.training import Trainer
from node.core.types import NodeId
from node.core.units import ms_to_ns
from node.sim.world import World


def divshare_world(
    trainer: Trainer,
    step_ns: tuple[int, ...],
    *,
    recipients: int,
    local_steps: int,
    mbps: float,
    rounds: int,
    keep_messages: bool = True,
    sender: SenderPolicy = SERIAL,
    after_steps: Callable[[], None] | None = None,
    schedule: Schedule | None = None,
) -> World:
    """Omega 0.1, a latency of 1 ms, one node for each step time; with a schedule of links laid over it."""
    nodes = len(step_ns)
    topology, config = full(nodes), DivShareConfig(omega=0.1, recipients=recipients)
    capacity = np.full(nodes, mbps)
    network = NetworkPlan("access", capacity, capacity, latency_ns=ms_to_ns(1.0), sender=sender)
    return World(
        algorithms=[
            DivShare(NodeContext(NodeId(i), topology, trainer.tensor_sizes, local_steps, seed=1), config)
            for i in range(nodes)
        ],
        trainer=trainer,
        network=network if schedule is None else scheduled(network, schedule),
        compute=ComputePlan(step_ns),
        seed=1,
        max_rounds=rounds,
        keep_messages=keep_messages,
        after_steps=after_steps,
    )
