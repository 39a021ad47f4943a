"""The virtual-time driver: when things happen, who waits for whom, and that a seed replays a run."""

import numpy as np
import pytest

from node.algorithms.registry import ALGORITHMS
from node.core.errors import RunnerError
from node.core.framing import Framing
from node.core.links import CapacityChange
from node.core.messages import MessageState
from node.core.sender_policy import SERIAL, parallel
from node.core.topology import full, ring
from node.core.types import NodeId
from node.sim.world import World
from tests.simulation.build import EVERY_ALGORITHM, NUM_PARAMS, network, world

HEADER = 40
MODEL_BYTES = 4 * NUM_PARAMS + HEADER


def table_of(w: World) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    assert w.trace is not None
    return w.trace.columns(w.now_ns)


def test_a_transfer_takes_size_over_rate_and_then_the_latency() -> None:
    # 200 bytes at 1.6 Mbit/s = 0.2 bytes/us: 1,000 us, then 500 us of latency.
    plan = network(2, 1.6, latency_ns=500_000)
    w = world("swift_divshare", nodes=2, recipients=1, network_plan=plan)
    w.advance(3_600_000)
    table = table_of(w)
    assert table["queued_ns"][0] == table["started_ns"][0] == 2_000_000  # two local steps of 1 ms
    assert table["sent_ns"][0] == 3_000_000
    assert table["delivered_ns"][0] == 3_500_000


@pytest.mark.parametrize(("nodes", "loss"), [(2, 0.0), (2, 0.3)])
def test_a_framed_transfer_takes_its_bytes_on_the_line_and_counts_as_any_other(nodes: int, loss: float) -> None:
    framing = Framing(tls=True, mtu=600)
    plan = network(nodes, 1.6, latency_ns=500_000, framing=framing, loss=loss)
    w = world("swift_divshare", nodes=nodes, recipients=1, network_plan=plan)
    w.advance(40_000_000)
    table, on_line = table_of(w), framing.link_bytes(4 * NUM_PARAMS)
    sent = table["sent_ns"] >= 0
    assert np.count_nonzero(sent) > 20
    took_ns = (table["sent_ns"] - table["started_ns"])[sent]
    times = took_ns / (on_line / 0.2e-3)
    if not loss:
        assert set(took_ns.tolist()) == {round(on_line / 0.2e-3)}
        assert set(table["wire_bytes"][sent].tolist()) == {MODEL_BYTES}
    else:  # one packet, which is sent again as a whole
        assert framing.packets(4 * NUM_PARAMS) == 1
        np.testing.assert_allclose(times, np.rint(times), rtol=1e-5)
        assert set(np.rint(times)) >= {1, 2}
        np.testing.assert_array_equal(table["wire_bytes"][sent], MODEL_BYTES * np.rint(times))
    counted = w.totals.bytes
    assert counted["payload"] == 4 * NUM_PARAMS * np.count_nonzero(sent)
    assert sum(counted.values()) == table["wire_bytes"][sent].sum()
    assert (
        sum(node.counters.bytes_received for node in w.nodes) == table["wire_bytes"][table["delivered_ns"] >= 0].sum()
    )


def test_a_framed_transfer_that_is_given_up_counts_the_part_that_was_sent() -> None:
    """Once 5 ms of some 20 have passed."""
    framing = Framing()
    plan = network(2, 0.2, framing=framing)
    w = world("divshare", nodes=2, network_plan=plan, recipients=1, flush="all", step_ms=[2.5, 500.0])
    w.advance(10_000_000)
    (row,) = np.flatnonzero(table_of(w)["state"] == MessageState.ABORTED)
    body = int(table_of(w)["payload_bytes"][row])
    share = 5e6 * 0.025e-3 / framing.link_bytes(body)
    assert 0 < share < 1
    assert w.nodes[0].counters.bytes_wasted == pytest.approx(share * (body + HEADER), abs=1)


def test_a_serial_sender_sends_in_order_and_a_parallel_one_shares_the_uplink() -> None:
    for sender, expected in ((SERIAL, [3_000_000, 4_000_000]), (parallel(2), [4_000_000, 4_000_000])):
        plan = network(3, 1.6, sender=sender)
        w = world("swift_divshare", nodes=3, network_plan=plan, step_ms=[1.0, 50.0, 50.0])
        w.advance(5_000_000)
        table = table_of(w)
        assert table["sent_ns"][table["sender"] == 0][:2].tolist() == expected


def test_a_capacity_change_stretches_what_is_under_way() -> None:
    # Half of the message has left after 0.5 ms; the rest takes four times as long.
    plan = network(2, 1.6, changes=((2_500_000, CapacityChange("up", 0, -1, 0.4)),))
    w = world("swift_divshare", nodes=2, recipients=1, network_plan=plan, step_ms=[1.0, 99.0])
    w.advance(10_000_000)
    assert table_of(w)["sent_ns"][0] == 2_500_000 + 2_000_000


def test_evaluation_instants_change_nothing() -> None:
    often, once = world("divshare"), world("divshare")
    for instant in range(0, 60_000_000, 700_000):
        often.advance(instant)
    often.advance(60_000_000)
    once.advance(60_000_000)
    for name, column in table_of(once).items():
        np.testing.assert_array_equal(table_of(often)[name], column)


@pytest.mark.parametrize("kind", ["divshare", "swift_divshare", "swift", "adpsgd_pingpong"])
def test_what_arrives_as_a_round_ends_is_averaged_in_it(kind: str) -> None:
    """Also where messages are handed over late: a matrix of equal latencies, which rules that out, changes nothing."""
    # 200 bytes at 1.6 Mbit/s take 1 ms, as long as a local step: nearly everything happens at the same instants.
    delays = (1_000_000, np.full((6, 6), 1_000_000, dtype=np.int64))
    worlds = [world(kind, network_plan=network(6, 1.6, latency_ns=delay)) for delay in delays]
    for w in worlds:
        w.advance(60_000_000)
    late, at_once = map(table_of, worlds)
    for name in late:
        np.testing.assert_array_equal(late[name], at_once[name])
    if kind == "swift_divshare":
        assert np.any(late["aggregated_ns"] == late["delivered_ns"])
    for first, second in zip(worlds[0].nodes, worlds[1].nodes, strict=True):
        np.testing.assert_array_equal(first.params, second.params)


@pytest.mark.parametrize("kind", EVERY_ALGORITHM)
def test_a_seed_replays_a_run_and_another_one_does_not(kind: str) -> None:
    runs = [world(kind, seed=seed, jitter=0.05) for seed in (3, 3, 4)]
    for w in runs:
        w.advance(60_000_000)
    first, again, other = ([node.params for node in w.nodes] for w in runs)
    np.testing.assert_array_equal(first, again)
    for name, column in table_of(runs[0]).items():
        np.testing.assert_array_equal(table_of(runs[1])[name], column)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", EVERY_ALGORITHM)
def test_gen_1_one_node_follows_plain_sgd_bit_for_bit(kind: str) -> None:
    w = world(kind, nodes=1, topology=full(1), max_rounds=7)
    w.advance(10**12)
    expected = w.steps._trainer.initial_params()
    for block in range(7):
        w.steps._trainer.begin(NodeId(0), expected, 2 * block, 2)
        expected = w.steps._trainer.finish(NodeId(0)).params
    np.testing.assert_array_equal(w.nodes[0].params, expected)


@pytest.mark.parametrize("kind", [k for k, entry in ALGORITHMS.items() if not entry.config.needs_every_message])
def test_swi_4_wait_free_nodes_advance_by_their_own_compute_time_alone(kind: str) -> None:
    """arXiv:2210.14026: a client never waits; here no message ever arrives."""
    w = world(kind, network_plan=network(6, 1e-6), step_ms=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    w.advance(60_000_000)
    assert [node.counters.rounds for node in w.nodes] == [30, 15, 10, 7, 6, 5]
    assert w.totals.messages["delivered"] == 0


def test_dps_4_one_straggler_slows_every_round_of_dpsgd() -> None:
    """A round takes the longest of compute plus the slowest neighbor's transfer."""
    fast = world("dpsgd", nodes=4, network_plan=network(4, 100.0), topology=ring(4))
    slow = world("dpsgd", nodes=4, network_plan=network(4, 100.0), topology=ring(4), step_ms=[1, 1, 9, 1])
    for w in (fast, slow):
        w.advance(200_000_000)
    assert {node.counters.rounds for node in fast.nodes} == {98}  # 2 ms of compute and 0.032 ms for two models
    assert {node.counters.rounds for node in slow.nodes} <= {10, 11, 12}
    link = world("dpsgd", nodes=4, network_plan=network(4, [100.0, 100.0, 0.1, 100.0]), topology=ring(4))
    link.advance(200_000_000)
    # Two models of 200 bytes through a link of 0.1 Mbit/s: 32 ms a round.
    assert max(node.counters.rounds for node in link.nodes) <= 200 // 32 + 2


def test_div_9_a_round_sends_at_most_j_models_whatever_the_uplink() -> None:
    for mbps in (0.05, 1.0, 1e4):
        w = world("divshare", network_plan=network(6, mbps), max_rounds=20)
        w.advance(10**10)
        table = table_of(w)
        for node in w.nodes:
            sent = (table["sender"] == node.index) & (table["sent_ns"] >= 0)
            # Rounds begin every 2 ms; one fragment may be carried over into the next.
            of_round = np.bincount(table["sent_ns"][sent] // 2_000_000, table["payload_bytes"][sent])
            assert of_round.max(initial=0) <= 4 * NUM_PARAMS * 2 + 40


def test_flush_all_delivers_nothing_of_an_earlier_round() -> None:
    """With everything flushed, a delivered fragment is of its sender's current round."""
    plan = network(6, [0.2, 0.2, 1.0, 1.0, 3.0, 3.0])
    w = world("divshare", network_plan=plan, flush="all", step_ms=[1.0, 1.3, 0.7, 1.9, 1.1, 1.0])
    w.advance(100_000_000)
    table = table_of(w)
    delivered = table["delivered_ns"] >= 0
    assert delivered.sum() > 100
    for node in w.nodes:
        own = delivered & (table["sender"] == node.index)
        shared_ns = np.unique(table["queued_ns"][table["sender"] == node.index])
        current = np.searchsorted(shared_ns, table["delivered_ns"][own], side="right") - 1
        np.testing.assert_array_equal(current, table["round"][own])


def test_staleness_counts_from_the_round_being_averaged_into() -> None:
    w = world("divshare", network_plan=network(6, 1000.0), max_rounds=10)
    w.advance(10**10)
    table = table_of(w)
    assert set(table["staleness"][table["state"] == MessageState.AGGREGATED].tolist()) == {1}
    synchronous = world("dpsgd", max_rounds=10)
    synchronous.advance(10**10)
    table = table_of(synchronous)
    assert set(table["staleness"][table["state"] == MessageState.AGGREGATED].tolist()) == {0}


def test_replaced_messages_are_found() -> None:
    # Node 1 averages rarely, so that newer models of node 0 replace older ones.
    w = world("swift_divshare", nodes=2, recipients=1, network_plan=network(2, 50.0), step_ms=[1.0, 20.0])
    w.advance(85_000_000)
    table = table_of(w)
    to_slow = table["receiver"] == 1
    assert (table["state"][to_slow] == MessageState.REPLACED).sum() > 10
    assert (table["state"][to_slow] == MessageState.AGGREGATED).sum() == 2
    assert (table["state"][~to_slow] == MessageState.REPLACED).sum() == 0


@pytest.mark.parametrize("kind", ["dpsgd", "epidemic"])
def test_a_message_that_waits_for_its_round_is_not_replaced(kind: str) -> None:
    w = world(kind, network_plan=network(6, 50.0), step_ms=[1.0, 1.3, 4.0, 1.0, 2.0, 1.0])
    waited = 0
    for instant in range(0, 60_000_000, 700_000):
        w.advance(instant)
        state = table_of(w)["state"]
        waited += int((state == MessageState.DELIVERED).sum())
        assert not np.any(state == MessageState.REPLACED)
    assert waited > 0


def test_adp_3_a_ring_of_blocking_initiators_deadlocks_and_says_why() -> None:
    w = world("adpsgd", nodes=3, topology=ring(3), form="blocking", roles="everyone")
    with pytest.raises(RunnerError, match=r"deadlock at .* node 0 waits for .*; node 1 waits for"):
        w.advance(10**10)


def test_a_link_that_never_comes_back_is_a_deadlock_and_one_that_does_is_not() -> None:
    gone = (5_000_000, CapacityChange("up", 1, -1, 0.0))
    back = (900_000_000, CapacityChange("up", 1, -1, 1.0))
    w = world("dpsgd", network_plan=network(6, 1.0, changes=(gone, back)), max_rounds=30)
    assert not w.advance(10**12)
    assert w.finished
    w = world("dpsgd", network_plan=network(6, 1.0, changes=(gone,)), max_rounds=30)
    with pytest.raises(RunnerError, match=r"deadlock at .* waits for models of round"):
        w.advance(10**12)


def test_rounds_end_a_run_and_later_ones_do_not_train() -> None:
    w = world("divshare", max_rounds=5, step_ms=[1.0, 1.0, 1.0, 4.0, 1.0, 1.0])
    assert not w.advance(10**12)
    assert w.finished
    assert [node.counters.rounds for node in w.nodes] == [5] * 6
    assert [node.counters.local_steps for node in w.nodes] == [10] * 6


def test_a_stop_request_ends_the_run_at_once() -> None:
    w = world("divshare")
    w.advance(5_000_000)
    w.stop_requested = True
    assert not w.advance(10**10)
    assert w.now_ns == 5_000_000
