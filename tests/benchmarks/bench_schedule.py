"""What a schedule costs a simulation: 1,000 nodes whose uplinks change 100,000 times, against the same run without.

Every uplink loses a tenth of its bandwidth half of the time, 50 times, each at a phase of its own. DivShare as in
``bench_events``, without training, which would hide the cost. The two are run in turn; the time includes the making of
the world, which reads the whole schedule.
"""

import gc
import statistics
import time

import numpy as np

from node.core.schedule import LinkSpan, Overlay, Place, Schedule
from node.core.sender_policy import PER_PEER, SERIAL, SenderPolicy
from node.core.training import NullTrainer
from node.core.units import ms_to_ns
from tests.benchmarks.bench_events import LOCAL_STEPS, STEP_MS, TENSOR_SIZES
from tests.benchmarks.worlds import divshare_world

NODES = 1_000
TIMES = 50
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


def seconds(rounds: int, sender: SenderPolicy, schedule: Schedule | None) -> tuple[float, int, int]:
    """Wall time of a run, its deliveries, and the changes of links that it had."""
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
        sender=sender,
        schedule=schedule,
    )
    world.advance(ms_to_ns(rounds * STEP_MS * LOCAL_STEPS))
    changes = 0 if schedule is None else len(schedule.links) * 2
    return time.process_time() - began, world.totals.messages["delivered"], changes


def main() -> None:
    """Print the ratio for either sender: the median of REPEATS pairs."""
    for sender, rounds, label in ((SERIAL, 20, "serial"), (PER_PEER, 20, "per_peer")):
        schedule = dips(ms_to_ns(rounds * STEP_MS * LOCAL_STEPS))
        ratios, walls = [], []
        for _ in range(REPEATS):
            plain, delivered, _ = seconds(rounds, sender, None)
            wall, _, changes = seconds(rounds, sender, schedule)
            walls.append(wall)
            ratios.append(wall / plain)
        print(
            f"schedule: {label}, {NODES:,} nodes, {delivered:,} deliveries, {changes:,} changes of capacity:"
            f" {statistics.median(walls):.1f} s, {statistics.median(ratios):.2f}x of a run without"
            f" ({min(ratios):.2f} to {max(ratios):.2f}; asked: at most 1.2)",
            flush=True,
        )


if __name__ == "__main__":
    main()
