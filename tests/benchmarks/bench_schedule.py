"""What a schedule costs a simulation: 1,000 nodes whose uplinks change 100,000 times, against the same run without.

Every uplink loses a tenth of its bandwidth half of the time, 50 times, each at a phase of its own. DivShare as in
``bench_events``, without training, which would hide the cost. The two are run in turn, and their processor time is
compared; it includes the making of the world, which reads the whole schedule.
"""

import gc
import statistics
import time

import numpy as np

from node.core.schedule import LinkSpan, Overlay, Place, Schedule
from node.core.training import NullTrainer
from node.core.units import ms_to_ns
from tests.benchmarks.bench_events import LOCAL_STEPS, STEP_MS, TENSOR_SIZES
from tests.benchmarks.worlds import divshare_world

NODES = 1_000
TIMES = 50
ROUNDS = 20
LENGTH_NS = ms_to_ns(ROUNDS * STEP_MS * LOCAL_STEPS)
REPEATS = 3


def dips(length_ns: int) -> Schedule:
    """Dips of all uplinks over so long a run."""
    period_ns = length_ns // TIMES
    phases = np.random.default_rng(1).integers(period_ns // 2, size=NODES).tolist()
    overlay = Overlay(bandwidth_factor=0.9)
    return Schedule(
        links=tuple(
            LinkSpan(begin_ns, begin_ns + period_ns // 2, Place("up", node, -1), overlay)
            for node, phase in enumerate(phases)
            for begin_ns in range(phase, phase + TIMES * period_ns, period_ns)
        )
    )


def seconds(schedule: Schedule | None) -> tuple[float, int]:
    """Processor time of a run, and its deliveries."""
    round_bytes = 10 * (4 * sum(TENSOR_SIZES) + 10 * 64)
    factors = np.random.default_rng(1).uniform(0.5, 1.5, NODES)
    gc.collect()
    began = time.process_time()
    world = divshare_world(
        NullTrainer(TENSOR_SIZES),
        tuple(ms_to_ns(STEP_MS * factor) for factor in factors),
        recipients=10,
        local_steps=LOCAL_STEPS,
        mbps=round_bytes * 8 / (STEP_MS * LOCAL_STEPS * 1e3) / 0.3,
        rounds=10**6,
        keep_messages=False,
        schedule=schedule,
    )
    world.advance(LENGTH_NS)
    return time.process_time() - began, world.totals.messages["delivered"]


def main() -> None:
    """Print the ratio: the median of REPEATS pairs."""
    schedule = dips(LENGTH_NS)
    changes = 2 * len(schedule.links)
    ratios, costs, delivered = [], [], 0
    for _ in range(REPEATS):
        plain, delivered = seconds(None)
        costs.append(seconds(schedule)[0])
        ratios.append(costs[-1] / plain)
    print(
        f"schedule: {NODES:,} nodes, {delivered:,} deliveries, {changes:,} changes of capacity:"
        f" {statistics.median(costs):.1f} s, {statistics.median(ratios):.2f}x of a run without"
        f" ({min(ratios):.2f} to {max(ratios):.2f}; asked: at most 1.2)"
    )


if __name__ == "__main__":
    main()
