"""Deliveries a second of the simulator, without training: DivShare, Omega 0.1, J 10, 20 rounds.

Prints the rate on one core at 100 and at 1,000 nodes, and how much more a delivery costs in the larger network.
"""

import gc
import statistics
import time

import numpy as np

from node.core.training import NullTrainer
from node.core.units import ms_to_ns
from node.sim.world import World
from tests.benchmarks.worlds import divshare_world

TENSOR_SIZES = (1_000,)
ROUNDS = 20
REPEATS = 3
STEP_MS = 20.0
LOCAL_STEPS = 16


def make_world(nodes: int, rounds: int, *, traced: bool, busy: float = 0.3) -> World:
    """A network of equal links that is busy ``busy`` of the time, with a null trainer."""
    header_bytes = 64
    round_bytes = 10 * (4 * sum(TENSOR_SIZES) + 10 * header_bytes)
    factors = np.random.default_rng(1).uniform(0.95, 1.05, nodes)
    return divshare_world(
        NullTrainer(TENSOR_SIZES),
        tuple(ms_to_ns(STEP_MS * factor) for factor in factors),
        recipients=10,
        local_steps=LOCAL_STEPS,
        mbps=round_bytes * 8 / (STEP_MS * LOCAL_STEPS * 1e3) / busy,
        rounds=rounds,
        keep_messages=traced,
    )


def deliveries_per_second(nodes: int, rounds: int, *, traced: bool) -> tuple[float, int]:
    """Deliveries a wall-clock second, and their number."""
    world = make_world(nodes, rounds, traced=traced)
    gc.collect()
    began = time.perf_counter()
    world.advance(10**15)
    wall = time.perf_counter() - began
    delivered = world.totals.messages["delivered"]
    return delivered / wall, delivered


def main() -> None:
    """Print the table: medians of REPEATS runs each."""
    for traced in (True, False):
        rates: dict[int, list[float]] = {100: [], 1_000: []}
        counts: dict[int, int] = {}
        for _ in range(REPEATS):
            for nodes, measured in rates.items():
                rate, counts[nodes] = deliveries_per_second(nodes, ROUNDS, traced=traced)
                measured.append(rate)
        ratios = sorted(small / large for small, large in zip(rates[100], rates[1_000], strict=True))
        label = "with the message table" if traced else "counters only"
        for nodes, measured in rates.items():
            rate = statistics.median(measured)
            print(f"events: {label}, {nodes:,} nodes: {rate:,.0f} deliveries/s ({counts[nodes]:,} deliveries)")
        print(
            f"events: {label}: a delivery costs {statistics.median(ratios):.2f}x as much with 1,000 nodes as with 100"
            f" ({ratios[0]:.2f} to {ratios[-1]:.2f}; asked: below 1.5)",
            flush=True,
        )


if __name__ == "__main__":
    main()
