"""Calls of a network that are made late: for a time before that of an earlier call."""

from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.links import NetworkPlan
from node.sim.flows import Flow
from node.sim.fluid_network import FluidNetwork
from tests.property.test_network import KINDS, Kind, plan_of, reference_rates

Transfer = tuple[int, int, int, int]
"""When it is ready, source, destination, bytes."""


def finishes(kind: Kind, plan: NetworkPlan, calls: Iterable[tuple[int, Transfer]]) -> dict[Transfer, int]:
    """When the transfers end, if each start is told at the first entry of its call.

    Ends due by then have been taken from the network, as in an emulation.
    """
    heap: list[tuple[int, int, Any]] = []
    order = count()
    network = kind(plan, lambda time_ns, what: heappush(heap, (time_ns, next(order), what)))
    ended: dict[Transfer, int] = {}

    def advance(until: int) -> None:
        while heap and heap[0][0] <= until:
            at, _, what = heappop(heap)
            for flow in network.finish(what, at):
                ended[flow.token] = at

    for told, transfer in sorted(calls):
        advance(told)
        ready, source, destination, size = transfer
        network.start(ready, source, destination, size, transfer)
    advance(1 << 62)
    return ended


MBPS = st.sampled_from([5.0, 10.0, 12.0, 60.0])
SIZES = st.integers(50_000, 200_000)
"""The least takes 6.7 ms, so that none ends within the 6 ms of a scenario."""


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(
    up=st.lists(MBPS, min_size=8, max_size=8),
    down=st.lists(MBPS, min_size=8, max_size=8),
    before=st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 3), st.integers(0, 3), SIZES), max_size=6),
    late=st.tuples(st.just(4_000_000), st.integers(0, 3), st.integers(0, 3), SIZES),
    elsewhere=st.lists(
        st.tuples(st.integers(4_000_000, 6_000_000), st.integers(4, 7), st.integers(4, 7), SIZES), max_size=4
    ),
)
def test_a_late_start_equals_one_in_time_if_nothing_else_happened_to_those_it_concerns(
    kind: Kind,
    up: list[float],
    down: list[float],
    before: list[Transfer],
    late: Transfer,
    elsewhere: list[Transfer],
) -> None:
    plan = plan_of(8, up, down)
    known = [transfer for transfer in dict.fromkeys([*before, *elsewhere]) if transfer[1] != transfer[2]]
    if late[1] == late[2]:
        return
    in_time = finishes(kind, plan, [(transfer[0], transfer) for transfer in [*known, late]])
    afterwards = finishes(kind, plan, [*((transfer[0], transfer) for transfer in known), (6_000_000, late)])
    assert in_time.keys() == afterwards.keys()
    for transfer, finish in in_time.items():
        assert abs(finish - afterwards[transfer]) <= 2, transfer  # the order of a sum differs


def test_a_sender_that_goes_on_late_loses_nothing_and_takes_its_share() -> None:
    """Its first transfer ends and its next is told 1 ms later; meanwhile the other has the downlink alone."""
    plan = plan_of(3, [80.0] * 3, [80.0] * 3)
    heap: list[tuple[int, Flow]] = []
    network = FluidNetwork(plan, lambda finish_ns, flow: heap.append((finish_ns, flow)))
    other = network.start(0, 0, 2, 300_000, None)
    first = network.start(0, 1, 2, 100_000, None)
    assert first.finish_ns == 20_000_000
    network.finish(first, 20_000_000)
    assert other.finish_ns == 40_000_000  # alone from here on
    following = network.start(20_000_000, 1, 2, 100_000, None)  # told at 21 ms
    assert following.finish_ns == 40_000_000
    assert other.finish_ns == 60_000_000  # as far as is known at 21 ms
    # One that asks for a time before the other's last change: the other keeps what it has sent.
    network.start(10_000_000, 0, 2, 1_000, None)
    assert other.remaining == pytest.approx(200_000)
    assert network.transmitted(other, 5_000_000) == 100_000


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**9), pairs=st.booleans())
def test_rates_are_fair_and_no_transfer_beats_its_links_however_late_calls_come(
    kind: Kind, seed: int, pairs: bool
) -> None:
    rng = np.random.default_rng(seed)
    n = 5
    up, down = rng.choice([5.0, 10.0, 60.0], size=(2, n)).tolist()
    matrix = rng.choice([5.0, 30.0], size=(n, n)).tolist() if pairs else [[inf] * n] * n
    capacities = ([mbps / 8000 for mbps in up], [mbps / 8000 for mbps in down])
    shared = {(s, d): matrix[s][d] / 8000 for s in range(n) for d in range(n) if pairs}
    heap: list[tuple[int, int, Any]] = []
    order = count()
    network = kind(
        plan_of(n, up, down, matrix if pairs else None),
        lambda time_ns, what: heappush(heap, (time_ns, next(order), what)),
    )
    told = 0
    under_way: dict[int, Any] = {}
    for _ in range(60):
        told += int(rng.integers(0, 4_000_000))
        while heap and heap[0][0] <= told:
            at, _, what = heappop(heap)
            for flow in network.finish(what, at):
                assert at >= flow.token - 1
                del under_way[flow.sequence]
        source, destination = map(int, rng.choice(n, 2, replace=False))
        ready = told - int(rng.integers(0, 5_000_000))
        size = int(rng.integers(1, 60_000))
        at_best = ready + int(size / min(up[source], down[destination], matrix[source][destination]) * 8000)
        started = network.start(ready, source, destination, size, at_best)
        under_way[started.sequence] = started
        rates = network.rates()
        expected = reference_rates(list(under_way.values()), *capacities, shared)
        assert rates.keys() == expected.keys()
        for sequence, rate in expected.items():
            assert rates[sequence] == pytest.approx(rate, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_a_contended_workload_told_late_ends_as_one_told_in_time(kind: Kind) -> None:
    """2,000 transfers between 60 nodes of three speeds, and every start up to 0.2 ms late.

    The transfers do not wait for each other. With senders that go on when one has ended, the smallest delay changes
    who meets whom, and the ends differ after a while, as they do between two seeds.
    """
    rng = np.random.default_rng(0)
    count_, n = 2_000, 60
    plan = plan_of(n, rng.choice([10.0, 20.0, 60.0], n).tolist(), rng.choice([10.0, 20.0, 60.0], n).tolist())
    transfers = []
    for _ in range(count_):
        source = int(rng.integers(n))
        destination = int((source + rng.integers(1, n)) % n)
        transfers.append((int(rng.integers(500_000_000)), source, destination, int(rng.integers(10_000, 60_000))))
    in_time = finishes(kind, plan, [(transfer[0], transfer) for transfer in transfers])
    late = finishes(kind, plan, [(transfer[0] + int(rng.integers(200_000)), transfer) for transfer in transfers])
    off_ns = np.array([abs(late[transfer] - in_time[transfer]) for transfer in transfers])
    assert np.percentile(off_ns, 50) < 5_000
    assert np.percentile(off_ns, 99) < 200_000
    assert off_ns.max() < 1_000_000
