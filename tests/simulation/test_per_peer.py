"""The sender policy ``per_peer`` in a whole simulation: what a comparison of algorithms rests on."""

import numpy as np
import pytest

from node.algorithms.registry import ALGORITHMS
from node.core.algorithm import NodeContext
from node.core.compute import ComputePlan
from node.core.links import NetworkPlan
from node.core.message_log import Column
from node.core.messages import MessageState
from node.core.sender_policy import PER_PEER, SERIAL, SenderPolicy
from node.core.topology import full
from node.core.training import NullTrainer
from node.core.types import NodeId
from node.core.units import NS_PER_S, ms_to_ns
from node.sim.world import World
from tests.simulation.build import network, world

NODES, RECIPIENTS, PARAMS, ROUND_MS = 16, 4, 1_000, 320.0


def staleness(kind: str, sender: SenderPolicy, seed: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Staleness of what was averaged, after warming up, without stragglers at an offered load of 0.6."""
    factors = np.random.default_rng(seed).uniform(0.97, 1.03, NODES)
    mbps = RECIPIENTS * (4 * PARAMS + 64) * 8 / (0.6 * ROUND_MS * 1e3)
    capacity = np.full(NODES, mbps)
    config = ALGORITHMS[kind].config.model_validate({"recipients": RECIPIENTS})
    w = World(
        algorithms=[
            ALGORITHMS[kind].make(NodeContext(NodeId(node), full(NODES), (PARAMS,), 16, seed), config)
            for node in range(NODES)
        ],
        trainer=NullTrainer((PARAMS,)),
        network=NetworkPlan("access", capacity, capacity, latency_ns=ms_to_ns(1.0), sender=sender),
        compute=ComputePlan(tuple(ms_to_ns(ROUND_MS / 16 * factor) for factor in factors)),
        seed=seed,
    )
    w.advance(60 * NS_PER_S)
    assert w.trace is not None
    table = w.trace.columns(w.now_ns)
    counted = (table["state"] == MessageState.AGGREGATED) & (table["aggregated_ns"] > 20 * NS_PER_S)
    assert counted.sum() > 1_000
    return np.asarray(table["staleness"][counted])


@pytest.mark.parametrize("kind", ["swift_divshare", "adpsgd_pingpong"])
def test_without_stragglers_nothing_grows_old_in_queues_that_are_never_flushed(kind: str) -> None:
    """A serial sender blocks all peers while one link is shared: a load of 0.6 is more than it can carry."""
    for seed in (1, 2, 3):
        assert np.median(staleness(kind, PER_PEER, seed)) == 1
    assert np.median(staleness(kind, SERIAL, 1)) > 3


def slow_receiver(flush: str) -> tuple[World, dict[str, Column]]:
    """Node 5 receives at a hundredth of the others' rate."""
    plan = network(6, [5.0] * 5 + [0.05], sender=PER_PEER)
    w = world("divshare", network_plan=plan, flush=flush, omega=0.25, recipients=3)
    w.advance(100_000_000)
    assert w.trace is not None
    return w, w.trace.columns(w.now_ns)


@pytest.mark.parametrize("flush", ["queued_only", "all", "none"])
def test_a_slow_peer_blocks_only_its_own_queue(flush: str) -> None:
    w, table = slow_receiver(flush)
    to_slow = table["receiver"] == 5
    fast = (table["sender"] != 5) & ~to_slow & (table["queued_ns"] < 90_000_000)
    assert np.mean(table["delivered_ns"][fast] >= 0) > 0.99
    assert np.mean(table["delivered_ns"][to_slow] >= 0) < 0.2
    if flush == "none":
        assert max(len(node.outbox) for node in w.nodes) > 30


def test_a_flush_of_all_gives_up_what_is_under_way_to_each_peer() -> None:
    """As the public code closes all its sockets: what arrives is of the sender's last round."""
    w, table = slow_receiver("all")
    aborted = table["state"] == MessageState.ABORTED
    assert np.mean(table["receiver"][aborted & (table["sender"] != 5)] == 5) > 0.9
    for node in w.nodes:
        own = table["sender"] == node.index
        flushes = np.unique(table["cancelled_ns"][own & (table["cancelled_ns"] >= 0)])
        for flush_ns in flushes:
            old = own & (table["queued_ns"] < flush_ns)
            assert not np.any(table["sent_ns"][old] > flush_ns)


def test_a_flush_of_the_queue_lets_one_message_to_each_peer_complete() -> None:
    w, table = slow_receiver("queued_only")
    assert w.totals.messages["aborted"] == 0
    flushes = 0
    for node in w.nodes:
        own = table["sender"] == node.index
        for flush_ns in np.unique(table["cancelled_ns"][own & (table["cancelled_ns"] >= 0)]):
            late = own & (table["queued_ns"] < flush_ns) & (table["started_ns"] >= 0) & (table["started_ns"] < flush_ns)
            late &= (table["sent_ns"] > flush_ns) | (table["sent_ns"] < 0)
            assert np.unique(table["receiver"][late], return_counts=True)[1].max(initial=1) == 1
            flushes += 1
    assert flushes > 100
