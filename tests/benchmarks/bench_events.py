"""Deliveries a second of the simulator, without training: DivShare, Omega 0.1, J 10, 20 rounds.

Prints the rate on one core at 100 and at 1,000 nodes, and how much more a delivery costs in the larger network. Then it
prints how much more a delivery costs with a queue for each peer than with a serial sender:

- *apart*: nodes of different speeds, whose rounds do not end together, so that links are busy 30 % of the time.
- *together*: nodes of nearly the same speed, whose first rounds end together, so that all links are full then. The
  rates of all transfers hang together, and a delivery changes many. It is measured in the small network only.
"""

import gc
import statistics
import time

import numpy as np

from node.core.sender_policy import PER_PEER, SERIAL, SenderPolicy
from node.core.training import NullTrainer
from node.core.units import ms_to_ns
from node.sim.world import World
from tests.benchmarks.worlds import divshare_world

TENSOR_SIZES = (1_000,)
ROUNDS = 20
REPEATS = 3
STEP_MS = 20.0
LOCAL_STEPS = 16


def make_world(
    nodes: int, rounds: int, *, traced: bool, busy: float = 0.3, spread: float = 0.05, sender: SenderPolicy = SERIAL
) -> World:
    """A network of equal links that is busy ``busy`` of the time, with a null trainer."""
    header_bytes = 64
    round_bytes = 10 * (4 * sum(TENSOR_SIZES) + 10 * header_bytes)
    factors = np.random.default_rng(1).uniform(1 - spread, 1 + spread, nodes)
    return divshare_world(
        NullTrainer(TENSOR_SIZES),
        tuple(ms_to_ns(STEP_MS * factor) for factor in factors),
        recipients=10,
        local_steps=LOCAL_STEPS,
        mbps=round_bytes * 8 / (STEP_MS * LOCAL_STEPS * 1e3) / busy,
        rounds=rounds,
        keep_messages=traced,
        sender=sender,
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


def microseconds(nodes: int, sender: SenderPolicy, *, spread: float, rounds: float) -> float:
    """Mean cost of a delivery in so many rounds of the mean node."""
    world = make_world(nodes, 10**6, traced=False, spread=spread, sender=sender)
    gc.collect()
    began = time.perf_counter()
    world.advance(ms_to_ns(rounds * STEP_MS * LOCAL_STEPS))
    return (time.perf_counter() - began) / world.totals.messages["delivered"] * 1e6


def compare_senders() -> None:
    """Print how much more a delivery costs with a queue for each peer; the two are measured in turn."""
    for nodes, rounds, spread, label in (
        (100, 8, 0.5, "apart"),
        (1_000, 2.5, 0.5, "apart"),
        (100, 2, 0.05, "together"),
    ):
        ratios, costs = [], []
        for _ in range(REPEATS):
            serial = microseconds(nodes, SERIAL, spread=spread, rounds=rounds)
            costs.append(microseconds(nodes, PER_PEER, spread=spread, rounds=rounds))
            ratios.append(costs[-1] / serial)
        asked = "; asked: below 3" if label == "apart" else ""
        print(
            f"events: per_peer, {nodes:,} nodes, rounds {label}: {statistics.median(costs):,.1f} us a delivery,"
            f" {statistics.median(ratios):.2f}x of a serial sender's ({min(ratios):.2f} to {max(ratios):.2f}{asked})",
            flush=True,
        )


def main() -> None:
    """Print the table: medians of REPEATS runs each."""
    compare_senders()
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
