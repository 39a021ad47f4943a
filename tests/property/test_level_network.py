"""LevelNetwork against FluidNetwork: the same calls in both lead to the same ends, aborted bytes and rates.

Both are driven to the same instants, and what has ended in between may differ by the rounding of sums only.
"""

from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.links import NetworkPlan
from node.sim.fluid_network import FluidNetwork
from node.sim.level_network import LevelNetwork
from node.sim.levels import few_digits
from tests.property.test_network import Kind, plan_of

Plan = dict[str, Any]
ROUNDING_NS = 200
"""A difference of one nanosecond changes when the next transfer begins, and so on."""


class Player:
    """Nodes that send round after round, each message under a name, with one transfer to each peer at a time."""

    def __init__(self, kind: Kind, plan: NetworkPlan) -> None:
        self.network = kind(plan, lambda time_ns, what: heappush(self.heap, (time_ns, next(self.order), what)))
        self.heap: list[tuple[int, int, Any]] = []
        self.order = count()
        self.under_way: dict[tuple[int, int], Any] = {}
        self.waiting: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self.ends: dict[int, int] = {}
        self.aborted: dict[int, int] = {}

    def send(self, now: int, source: int, destination: int, size: int, name: int) -> None:
        pair = (source, destination)
        if pair in self.under_way:
            self.waiting.setdefault(pair, []).append((size, name))
        else:
            self.under_way[pair] = self.network.start(now, source, destination, size, name)

    def flush(self, now: int, source: int, abort: bool) -> None:
        for pair in [pair for pair in self.waiting if pair[0] == source]:
            del self.waiting[pair]
        if abort:
            for pair in [pair for pair in self.under_way if pair[0] == source]:
                flow = self.under_way.pop(pair)
                self.aborted[flow.token] = self.network.abort(flow, now)

    def advance(self, until: int) -> None:
        while self.heap and self.heap[0][0] <= until:
            at, _, what = heappop(self.heap)
            for flow in self.network.finish(what, at):
                self.ends[flow.token] = at
                pair = (flow.source, flow.destination)
                del self.under_way[pair]
                if queue := self.waiting.get(pair):
                    size, name = queue.pop(0)
                    self.under_way[pair] = self.network.start(at, *pair, size, name)

    def rates(self) -> dict[int, float]:
        rates = self.network.rates()
        return {flow.token: rates[flow.sequence] for flow in self.under_way.values()}


def check_alike(fluid: Player, level: Player) -> None:
    assert fluid.aborted.keys() == level.aborted.keys()
    for name, sent in fluid.aborted.items():
        assert abs(sent - level.aborted[name]) <= 1 + ROUNDING_NS * 100 / 8000, name  # at most 100 Mbit/s
    for name in fluid.ends.keys() & level.ends.keys():
        assert abs(fluid.ends[name] - level.ends[name]) <= ROUNDING_NS, name
    if fluid.ends.keys() == level.ends.keys():
        rates = level.rates()
        for name, rate in fluid.rates().items():
            assert rates[name] == pytest.approx(rate, rel=1e-9, abs=1e-15), name


def run_alike(seed: int, nodes: int, fan_out: int, shape: str, steps: int) -> tuple[Player, Player]:
    rng = np.random.default_rng(seed)
    capacities = {
        "equal": [60.0],
        "stragglers": [60.0, 60.0, 12.0],
        "unlimited": [inf, 60.0, 12.0, inf],
        "parked": [60.0, 12.0, 0.0],
    }.get(shape, [10.0, 12.0, 60.0, 100.0])
    up, down = (rng.choice(capacities, nodes) for _ in range(2))
    if shape in ("equal", "stragglers"):
        down = up
    matrix = rng.choice([5.0, 30.0, inf], size=(nodes, nodes)).tolist() if shape == "pairs" else None
    plan = plan_of(nodes, up.tolist(), down.tolist(), matrix)
    players = Player(FluidNetwork, plan), Player(LevelNetwork, plan)
    now = name = 0
    for _ in range(steps):
        source = int(rng.integers(nodes))
        what = int(rng.integers(20))
        mbps = float(rng.choice([*capacities, 30.0]))
        node, other = map(int, rng.choice(nodes, 2, replace=False))
        peers = [int(peer) for peer in rng.choice(nodes, fan_out) if peer != source]
        sizes = (
            rng.choice([9_000, 9_200], len(peers)).tolist() if shape != "sizes" else rng.integers(1, 40_000, len(peers))
        )
        for player in players:
            if what >= 4:
                player.flush(now, source, abort=what % 3 == 0)
                for at, (peer, size) in enumerate(zip(peers, sizes, strict=True)):
                    player.send(now, source, peer, int(size), name + at)
            elif what == 0:
                player.network.set_up(node, mbps, now)
            elif what == 1:
                player.network.set_down(node, mbps, now)
            elif what == 2 and shape == "pairs":
                player.network.set_pair(node, other, mbps, now)
        name += len(peers)
        now += int(rng.integers(0, 4_000_000))
        for player in players:
            player.advance(now)
        check_alike(*players)
    for player in players:
        for node in range(nodes):
            player.network.set_up(node, 60.0, now)
            player.network.set_down(node, 60.0, now)
        player.advance(now + 10**13)
    assert not players[1].under_way
    assert not players[1].network.active()
    check_alike(*players)
    return players


SHAPES = ("equal", "stragglers", "mixed", "sizes", "unlimited", "parked", "pairs")


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**9), nodes=st.integers(2, 9), fan_out=st.integers(1, 12))
def test_the_same_calls_lead_to_the_same_ends(shape: str, seed: int, nodes: int, fan_out: int) -> None:
    print(f"seed {seed}, {nodes} nodes, {fan_out} messages, {shape}")
    run_alike(seed, nodes, fan_out, shape, steps=40)


@pytest.mark.parametrize("shape", SHAPES)
def test_larger_networks_agree(shape: str) -> None:
    fluid, level = run_alike(1, 30, 20, shape, steps=120)
    assert len(level.ends) > 500
    off = [abs(fluid.ends[name] - level.ends[name]) for name in fluid.ends]
    assert np.median(off) <= 1


@given(st.floats(1e-12, 1e9))
def test_few_digits_are_little_above(rate: float) -> None:
    above = few_digits(rate)
    assert rate <= above <= 1.125 * rate
    assert few_digits(above) == above
    assert few_digits(0.0) == 0.0


def test_a_round_of_messages_at_once_is_filled_once() -> None:
    events = []
    network = LevelNetwork(plan_of(100, [60.0] * 100, [60.0] * 100), lambda time_ns, what: events.append(time_ns))
    for peer in range(1, 96):
        network.start(0, 0, peer, 1_000, None)
    assert events == [0]
    network.finish(network.filling, 0)
    assert len(events) == 2  # the one end of all
