"""Memory of a simulation of 1,000 GN-LeNet nodes with real parameters, in all its processes.

Sums the proportional set sizes of the main process and its workers, which count shared pages once, at every
hundredth block of local steps, and prints the largest sum.
"""

import os
from pathlib import Path

import numpy as np

from node.algorithms.divshare import DivShare, DivShareConfig
from node.core.algorithm import NodeContext
from node.core.compute import ComputePlan
from node.core.links import NetworkPlan
from node.core.topology import full
from node.core.types import NodeId
from node.core.units import ms_to_ns
from node.learning.build import build_trainer, partition_dataset
from node.learning.config import Cifar10Config, GNLeNetConfig, KShardsConfig, LearningConfig
from node.sim.world import World
from tests.realdata import cifar10

NODES = 1_000
ROUNDS = 3
LEARNING = LearningConfig(
    dataset=Cifar10Config(), model=GNLeNetConfig(), partition=KShardsConfig(shards=2), batch_size=8
)


def family_pss_bytes() -> int:
    """Proportional set size of this process and its children, bytes."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return sum(_pss_bytes(pid) for pid in [str(os.getpid()), *children])


def _pss_bytes(pid: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Print the peak."""
    dataset = cifar10()
    if dataset is None:
        print("memory: skipped, no CIFAR-10 under $FRAGMESH_DATA")
        return
    split = partition_dataset(LEARNING, dataset, NODES, seed=1)
    trainer = build_trainer(LEARNING, dataset, split, 1, NODES, 2)
    peak, calls = 0, 0

    def look() -> None:
        nonlocal peak, calls
        calls += 1
        if calls % 100 == 0:
            peak = max(peak, family_pss_bytes())

    try:
        topology, config = full(NODES), DivShareConfig(omega=0.1, recipients=10)
        capacity = np.full(NODES, 60.0)
        rng = np.random.default_rng(1)
        world = World(
            algorithms=[
                DivShare(NodeContext(NodeId(i), topology, trainer.tensor_sizes, 1, seed=1), config)
                for i in range(NODES)
            ],
            trainer=trainer,
            network=NetworkPlan("access", capacity, capacity, latency_ns=ms_to_ns(1.0)),
            compute=ComputePlan(tuple(ms_to_ns(500 * f) for f in rng.uniform(0.9, 1.1, NODES))),
            seed=1,
            max_rounds=ROUNDS,
            after_steps=look,
        )
        world.advance(10**18)
        look()
    finally:
        trainer.close()
    delivered = world.counters.messages["delivered"]
    print(
        f"memory: {NODES} GN-LeNet nodes, {ROUNDS} rounds, {delivered:,} fragments delivered:"
        f" peak {max(peak, 0) / 2**30:.2f} GiB in all processes (asked: under 3)"
    )


if __name__ == "__main__":
    main()
