"""Memory of a simulation of 1,000 GN-LeNet nodes with real parameters, in all its processes.

Sums the proportional set sizes of the main process and its workers, which count shared pages once, at every
hundredth block of local steps, and prints the largest sum.
"""

import os
from pathlib import Path

import numpy as np

from node.core.units import ms_to_ns
from node.learning.build import build_trainer, partition_dataset
from node.learning.config import Cifar10Config, GNLeNetConfig, KShardsConfig, LearningConfig
from tests.benchmarks.worlds import divshare_world
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
        factors = np.random.default_rng(1).uniform(0.9, 1.1, NODES)
        world = divshare_world(
            trainer,
            tuple(ms_to_ns(500 * factor) for factor in factors),
            recipients=10,
            local_steps=1,
            mbps=60.0,
            rounds=ROUNDS,
            after_steps=look,
        )
        world.advance(10**18)
        look()
    finally:
        trainer.close()
    delivered = world.totals.messages["delivered"]
    print(
        f"memory: {NODES} GN-LeNet nodes, {ROUNDS} rounds, {delivered:,} fragments delivered:"
        f" peak {peak / 2**30:.2f} GiB in all processes (asked: under 3)"
    )


if __name__ == "__main__":
    main()
