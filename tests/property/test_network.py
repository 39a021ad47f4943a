"""Both networks against an obvious slow reference: progressive filling over all transfers after every step."""

from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.delivery import DeliveryModel
from node.core.links import NetworkPlan
from node.sim.flows import Flow
from node.sim.fluid_network import FluidNetwork
from node.sim.level_network import LevelNetwork
from node.sim.network import set_partitions
from node.sim.rates import NEVER, UNLIMITED


def reference_rates(
    flows: list[Flow], up: list[float], down: list[float], pair: dict[tuple[int, int], float]
) -> dict[int, float]:
    """Raise all rates together; when a link is full its transfers stop. Capacities in bytes/ns."""
    links: dict[object, tuple[float, list[Flow]]] = {}
    for flow in flows:
        for key, capacity in (
            (("up", flow.source), up[flow.source]),
            (("down", flow.destination), down[flow.destination]),
            ((flow.source, flow.destination), pair.get((flow.source, flow.destination), UNLIMITED)),
        ):
            if capacity < UNLIMITED:
                links.setdefault(key, (capacity, []))[1].append(flow)
    rates: dict[int, float] = {}
    while True:
        shares = []
        for capacity, members in links.values():
            open_ = [flow for flow in members if flow.sequence not in rates]
            used = sum(rates.get(flow.sequence, 0.0) for flow in members)
            if open_:
                shares.append((max(0.0, capacity - used) / len(open_), open_))
        if not shares:
            return rates | {flow.sequence: UNLIMITED for flow in flows if flow.sequence not in rates}
        share, open_ = min(shares, key=lambda entry: entry[0])
        for flow in open_:
            rates[flow.sequence] = share


Kind = type[FluidNetwork] | type[LevelNetwork]
KINDS: tuple[Kind, ...] = (FluidNetwork, LevelNetwork)


class Harness:
    """A network, its event heap and the same capacities as plain numbers."""

    def __init__(self, plan: NetworkPlan, kind: Kind = FluidNetwork) -> None:
        self.heap: list[tuple[int, int, Any]] = []
        self.order = count()
        self.pushes = 0
        self.network = kind(plan, self.push)
        self.up = [min(mbps / 8000, UNLIMITED) for mbps in plan.up_mbps.tolist()]
        self.down = [min(mbps / 8000, UNLIMITED) for mbps in plan.down_mbps.tolist()]
        self.pair: dict[tuple[int, int], float] = {}
        self.partitions = plan.partitions
        if plan.pair_mbps is not None:
            for s in range(plan.num_nodes):
                for d in range(plan.num_nodes):
                    self.pair[s, d] = min(float(plan.pair_mbps[s, d]) / 8000, UNLIMITED)
        self.now = 0
        self.flows: list[Any] = []
        self.moved: dict[int, float] = {}
        self.done: list[tuple[int, int]] = []

    def push(self, time_ns: int, what: Any) -> None:
        assert time_ns >= self.now
        assert time_ns < NEVER
        self.pushes += 1
        heappush(self.heap, (time_ns, next(self.order), what))

    def advance(self, until: int) -> None:
        while self.heap and self.heap[0][0] <= until:
            at, _, what = heappop(self.heap)
            self.move(at)
            ended = self.network.finish(what, at)
            for flow in ended:
                # An end is rounded up to a whole nanosecond and nothing else is lost.
                assert self.moved[flow.sequence] >= flow.size * (1 - 1e-9) - 1e-6
                self.flows.remove(flow)
                self.done.append((flow.sequence, at))
            if ended:
                self.check()
        self.move(until)

    def expected(self) -> dict[int, float]:
        pair = dict(self.pair)
        for flow in self.flows:
            if any(groups[flow.source] != groups[flow.destination] for groups in self.partitions):
                pair[flow.source, flow.destination] = 0.0
        return reference_rates(self.flows, self.up, self.down, pair)

    def move(self, at: int) -> None:
        """Integrate the reference's rates."""
        for sequence, rate in self.expected().items():
            self.moved[sequence] = self.moved.get(sequence, 0.0) + rate * (at - self.now)
        self.now = at

    def check(self) -> None:
        expected = self.expected()
        rates = self.network.rates()
        assert rates.keys() == expected.keys()
        for sequence, rate in expected.items():
            assert rates[sequence] == pytest.approx(rate, rel=1e-9, abs=1e-15)
        for flow in self.flows:
            sent = min(self.moved.get(flow.sequence, 0.0), flow.size)
            assert abs(self.network.transmitted(flow, self.now) - sent) <= 1.0 + 1e-9 * flow.size
            assert self.network.is_parked(flow) == (rates[flow.sequence] == 0.0)
            assert self.network.is_unlimited(flow) == (rates[flow.sequence] == UNLIMITED)
            if isinstance(flow, Flow):
                assert flow.scheduled_ns <= flow.finish_ns
                assert (flow.finish_ns == NEVER) == (flow.rate == 0)


def plan_of(n: int, up: list[float], down: list[float], pair: list[list[float]] | None = None) -> NetworkPlan:
    return NetworkPlan(
        model="access" if pair is None else "pairwise",
        up_mbps=np.array(up[:n], dtype=float),
        down_mbps=np.array(down[:n], dtype=float),
        pair_mbps=None if pair is None else np.array(pair, dtype=float),
    )


MBPS = st.sampled_from([0.0, 1.0, 7.0, 10.0, 12.0, 60.0, 60.0, 100.0, inf])


@st.composite
def scenarios(draw: st.DrawFn) -> tuple[NetworkPlan, bool, list[tuple[Any, ...]]]:
    n = draw(st.integers(2, 6))
    serial = draw(st.booleans())
    pairs = draw(st.booleans())
    matrix = [[draw(MBPS) for _ in range(n)] for _ in range(n)] if pairs else None
    plan = plan_of(n, [draw(MBPS) for _ in range(n)], [draw(MBPS) for _ in range(n)], matrix)
    small = st.integers(0, n - 1)
    step = st.one_of(
        st.tuples(st.just(0), small, small, st.integers(1, 200_000)),  # start
        st.tuples(st.just(0), small, small, st.integers(1, 200_000)),
        st.tuples(st.just(1), st.integers(0, 50)),  # abort
        st.tuples(st.just(2), st.integers(0, 50_000_000)),  # time passes
        st.tuples(st.just(3), small, st.integers(0, 5)),  # uplink
        st.tuples(st.just(4), small, st.integers(0, 5)),  # downlink
        st.tuples(st.just(5), small, small, st.integers(0, 5)),  # pair
        st.lists(st.tuples(*[st.integers(0, 1)] * n), max_size=2).map(lambda these: (6, *these)),  # partitions
    )
    return plan, serial, draw(st.lists(step, min_size=1, max_size=40))


CHANGED = (0.0, 3.0, 10.0, 25.0, 60.0, inf)


def play(kind: Kind, plan: NetworkPlan, serial: bool, steps: list[tuple[Any, ...]]) -> Harness:
    h = Harness(plan, kind)
    for step in steps:
        match step:
            case (0, source, destination, size):
                busy = serial and any(flow.source == source for flow in h.flows)
                if source == destination or busy:
                    continue
                h.flows.append(h.network.start(h.now, source, destination, size, None))
            case (1, which):
                if not h.flows:
                    continue
                flow = h.flows.pop(which % len(h.flows))
                wasted = h.network.abort(flow, h.now)
                assert abs(wasted - min(h.moved.get(flow.sequence, 0.0), flow.size)) <= 1.0 + 1e-9 * flow.size
                if isinstance(flow, Flow):
                    assert not h.network.finish(flow, h.now)
            case (2, duration):
                h.advance(h.now + duration)
            case (3, node, value):
                h.up[node] = min(CHANGED[value] / 8000, UNLIMITED)
                h.network.set_up(node, CHANGED[value], h.now)
            case (4, node, value):
                h.down[node] = min(CHANGED[value] / 8000, UNLIMITED)
                h.network.set_down(node, CHANGED[value], h.now)
            case (5, source, destination, value):
                h.pair[source, destination] = min(CHANGED[value] / 8000, UNLIMITED)
                h.network.set_pair(source, destination, CHANGED[value], h.now)
            case (6, *partitions):
                h.partitions = tuple(partitions)
                set_partitions(h.network, h.partitions, h.now)
        h.check()
    return h


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(scenario=scenarios())
def test_rates_equal_progressive_filling_after_every_step(
    kind: Kind, scenario: tuple[NetworkPlan, bool, list[tuple[Any, ...]]]
) -> None:
    first = play(kind, *scenario)
    second = play(kind, *scenario)
    assert first.done == second.done
    # Undo every blockage: then all transfers end, none is forgotten.
    n = len(first.up)
    for node in range(n):
        first.up[node] = first.down[node] = 10 / 8000
        first.network.set_up(node, 10, first.now)
        first.network.set_down(node, 10, first.now)
    first.partitions = ()
    set_partitions(first.network, (), first.now)
    for source, destination in first.pair:
        first.pair[source, destination] = UNLIMITED
        first.network.set_pair(source, destination, inf, first.now)
    first.check()
    first.advance(first.now + 10**12)
    assert not first.flows
    assert not first.network.active()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "parallel", "pairs"), [(12, 1, False), (12, 3, True), (30, 4, False)])
@pytest.mark.parametrize("choices", [(60.0,), (10.0, 12.0, 60.0, 100.0)], ids=["equal", "mixed"])
def test_long_random_runs_agree(kind: Kind, n: int, parallel: int, pairs: bool, choices: tuple[float, ...]) -> None:
    """More transfers than hypothesis tries, so that a change reaches only a part of them."""
    rng = np.random.default_rng(parallel)
    capacities = rng.choice(choices, size=(2, n)).tolist()
    matrix = rng.choice([5.0, 30.0, inf], size=(n, n)).tolist() if pairs else None
    up, down = capacities
    h = Harness(plan_of(n, up, down, matrix), kind)
    for _ in range(200):
        source, destination = map(int, rng.choice(n, 2, replace=False))
        if sum(flow.source == source for flow in h.flows) < parallel:
            h.flows.append(h.network.start(h.now, source, destination, int(rng.integers(1, 400_000)), None))
            h.check()
        h.advance(h.now + int(rng.integers(0, 150_000_000 // (n * parallel))))
    assert h.flows
    h.advance(h.now + 10**12)
    assert not h.flows


def test_one_transfer_takes_size_over_rate() -> None:
    h = Harness(plan_of(2, [8.0, 8.0], [80.0, 80.0]))
    h.flows.append(h.network.start(0, 0, 1, 1_000_000, "token"))
    h.advance(10**10)
    assert h.done == [(0, 10**9)]


def test_two_senders_share_a_downlink_and_the_slow_one_leaves_its_share() -> None:
    h = Harness(plan_of(3, [80.0, 20.0, 80.0], [80.0] * 3))
    h.network.start(0, 0, 2, 1_000_000, None)
    h.network.start(0, 1, 2, 1_000_000, None)
    assert h.network.rates() == {0: 60 / 8000, 1: 20 / 8000}


def test_a_parked_transfer_resumes() -> None:
    h = Harness(plan_of(2, [8.0, 8.0], [80.0, 80.0]))
    flow = h.network.start(0, 0, 1, 1_000_000, None)
    h.flows.append(flow)
    h.move(500_000_000)
    h.up[0] = 0.0
    h.network.set_up(0, 0.0, h.now)
    assert flow.finish_ns == NEVER
    h.advance(10**10)
    assert h.flows
    assert not h.heap
    h.up[0] = 1e-3
    h.network.set_up(0, 8.0, h.now)
    h.advance(2 * 10**10)
    assert h.done == [(0, 10**10 + 500_000_000)]


def test_a_slower_rate_pushes_no_event_until_the_old_one_comes_up() -> None:
    h = Harness(plan_of(3, [80.0] * 3, [80.0] * 3))
    h.flows.append(h.network.start(0, 0, 2, 1_000_000, None))
    assert h.pushes == 1
    h.flows.append(h.network.start(0, 1, 2, 1_000_000, None))
    assert h.pushes == 2
    h.advance(10**9)
    assert sorted(h.done) == [(0, 200_000_000), (1, 200_000_000)]
    assert h.pushes == 3  # only the first transfer's event was repeated


def test_transfers_of_a_pair_share_its_capacity() -> None:
    h = Harness(plan_of(3, [inf] * 3, [inf] * 3, [[inf, 8.0, 4.0], [8.0, inf, 4.0], [4.0, 4.0, inf]]))
    for destination in (1, 1, 2):
        h.network.start(0, 0, destination, 1_000_000, None)
    assert h.network.rates() == {0: 0.0005, 1: 0.0005, 2: 0.0005}


def delivery(**fields: object) -> NetworkPlan:
    return NetworkPlan(
        model="access",
        up_mbps=np.full(4, 8.0),
        down_mbps=np.full(4, 8.0),
        **fields,  # type: ignore[arg-type]
    )


def test_delays_without_jitter_and_loss_draw_nothing() -> None:
    model = DeliveryModel(delivery(latency_ns=5), seed=1)
    assert model.latency_ns(0, 1, 0) == 5
    assert model.link_bytes(100, 0, 1, 0) == 164
    assert not model.is_lost(10**9, 0, 1, 0)
    matrix = np.arange(16, dtype=np.int64).reshape(4, 4)
    assert DeliveryModel(delivery(latency_ns=matrix), seed=1).latency_ns(2, 3, 0) == 11


def test_jitter_has_the_stated_spread_and_never_goes_below_zero() -> None:
    model = DeliveryModel(delivery(latency_ns=1_000_000, jitter_ns=100_000), seed=1)
    drawn = np.array([model.latency_ns(0, 1, 0) for _ in range(4000)])
    assert drawn.mean() == pytest.approx(1_000_000, rel=0.01)
    assert drawn.std() == pytest.approx(100_000, rel=0.05)
    again = DeliveryModel(delivery(latency_ns=1_000_000, jitter_ns=100_000), seed=1)
    again.latency_ns(2, 1, 0)  # another sender's draws do not matter
    assert [again.latency_ns(0, 1, 0) for _ in range(5)] == drawn[:5].tolist()
    wild = DeliveryModel(delivery(latency_ns=1000, jitter_ns=100_000), seed=1)
    assert min(wild.latency_ns(0, 1, 0) for _ in range(200)) == 0


def test_reliable_loss_is_paid_in_bytes_and_datagram_loss_in_messages() -> None:
    size = 15_000 - 64
    reliable = DeliveryModel(delivery(loss=0.2), seed=3)
    wire = np.array([reliable.link_bytes(size, 0, 1, 0) for _ in range(4000)])
    assert wire.min() >= 15_000
    assert wire.mean() == pytest.approx(15_000 / 0.8, rel=0.02)  # each packet is sent 1 / (1 - p) times
    assert not reliable.is_lost(size, 0, 1, 0)
    datagram = DeliveryModel(delivery(loss=0.02, transport="datagram"), seed=3)
    assert datagram.link_bytes(size, 0, 1, 0) == 15_000
    lost = np.mean([datagram.is_lost(size, 0, 1, 0) for _ in range(4000)])
    assert lost == pytest.approx(1 - 0.98**10, abs=0.02)
    matrix = np.zeros((4, 4))
    matrix[0, 1] = 0.5
    some = DeliveryModel(delivery(loss=matrix), seed=3)
    assert some.link_bytes(size, 1, 0, 0) == 15_000
    assert not DeliveryModel(delivery(loss=matrix, transport="datagram"), seed=3).is_lost(size, 1, 0, 0)
