"""Is this D-PSGD? (arXiv:1705.09056; DPS-2 and DPS-4, each stated at its test; 1 and 3 are about weights.)"""

import numpy as np
import pytest

from node.algorithms.dpsgd import DPsgdTag
from node.core.bodies import Whole
from node.core.effects import Aggregated, StartLocalSteps
from node.core.errors import ProtocolError
from node.core.events import MessageReceived, Started
from node.core.messages import Message
from node.core.mixing import metropolis_hastings
from node.core.topology import Topology, from_edges, full, ring, star
from node.core.types import NodeId
from tests.harness import Delivered, Harness, build, quadratic, random_models, starting_at, zeros

ORDERS = ["adapt_then_combine", "combine_then_adapt"]


@pytest.mark.parametrize("order", ORDERS)
def test_dps_2_one_mixing_on_a_complete_graph_gives_the_mean(order: str) -> None:
    """Complete graph: one mixing step gives the mean everywhere."""
    models = random_models(7, 8)
    run = Harness(build("dpsgd", full(7), order=order), models).run(rounds=1)
    np.testing.assert_allclose(run.models(), np.tile(np.mean(models, axis=0), (7, 1)), atol=1e-6)


@pytest.mark.parametrize("topology", [ring(6), star(6), from_edges(5, [(0, 1), (1, 2), (2, 3), (3, 1), (3, 4)])])
@pytest.mark.parametrize("order", ORDERS)
def test_both_orders_are_their_formulas(topology: Topology, order: str) -> None:
    """x <- W y with y after local steps; or x_i <- sum_j w_ij x_j - eta g_i(x_i). W: Metropolis-Hastings."""
    nodes = topology.num_nodes
    step, weights, expected = quadratic(nodes, 8), metropolis_hastings(topology).dense(), np.zeros((nodes, 8))
    for _ in range(8):
        trained = np.array([step(i, 0, expected[i]) for i in range(nodes)])
        if order == "adapt_then_combine":
            expected = weights @ trained
        else:
            expected = weights @ expected + trained - expected
    run = Harness(build("dpsgd", topology, order=order), zeros(8), step=step).run(rounds=8)
    np.testing.assert_allclose(run.models(), expected, atol=1e-5)


@pytest.mark.parametrize(("compute", "latency"), [(5000, 10), (1000, 6000), (5000, 6000)])
@pytest.mark.parametrize("order", ORDERS)
def test_dps_4_one_straggler_slows_all(order: str, compute: int, latency: int) -> None:
    """Round time = max over nodes of (compute + slowest transfer); the larger of both if x is sent first."""
    expected = compute + latency if order == "adapt_then_combine" else max(compute, latency)
    run = Harness(
        build("dpsgd", full(4), order=order),
        zeros(8),
        compute=lambda node, _: compute,
        latency=lambda sender, receiver: latency if 2 in (sender, receiver) else 10,
    ).run(rounds=20)
    for node in range(4):
        started = [t for t, i, effect in run.effects if i == node and isinstance(effect, StartLocalSteps)]
        assert started == [round_ * expected for round_ in range(21)]


@pytest.mark.parametrize("order", ORDERS)
def test_dps_4_one_slow_computer_slows_all(order: str) -> None:
    """Over a complete graph every node takes the slowest node's pace, at most a round ahead of it."""
    run = Harness(
        build("dpsgd", full(4), order=order),
        zeros(8),
        compute=lambda node, _: 5000 if node == 2 else 1000,
    ).run(rounds=20)
    for node in range(4):
        started = [t for t, i, effect in run.effects if i == node and isinstance(effect, StartLocalSteps)]
        assert started[20] - started[10] == 10 * 5000


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(3))
def test_timing_does_not_change_the_result(order: str, seed: int) -> None:
    """Synchronous: a neighbor one round ahead is kept waiting in the inbox, so delays change no model."""
    rng, topology = np.random.default_rng(seed), from_edges(5, [(0, 1), (1, 2), (2, 3), (3, 1), (3, 4)])
    step = quadratic(5, 8)
    delayed = Harness(
        build("dpsgd", topology, order=order),
        zeros(8),
        step=step,
        compute=lambda *_: int(rng.integers(1, 3000)),
        latency=lambda *_: int(rng.choice([0, 10, 9000])),
    ).run(rounds=15)
    lockstep = Harness(build("dpsgd", topology, order=order), zeros(8), step=step).run(rounds=15)
    np.testing.assert_array_equal(delayed.models(), lockstep.models())
    assert any(i.message.round > run_round(delayed, i) for i in delayed.delivered)


def run_round(run: Harness, item: Delivered) -> int:
    """Averages the receiver had made when a message arrived."""
    made = [t for t, i, effect in run.effects if i == item.receiver and isinstance(effect, Aggregated)]
    return sum(t < item.time for t in made)


def test_waiting_for_names_the_missing_neighbors() -> None:
    """A lost message stops the neighbors; the explanation says whose model is missing."""
    run = Harness(
        build("dpsgd", ring(4)), zeros(8), lose=lambda item: item.sender == 2 and item.message.round == 1
    ).run(rounds=5)
    assert run.waiting() == {
        0: "models of round 2 from nodes 1, 3",
        1: "models of round 1 from nodes 2",
        2: "models of round 2 from nodes 1, 3",
        3: "models of round 1 from nodes 2",
    }
    assert [state.algorithm.waits_on() for state in run.nodes] == [[1, 3], [2], [1, 3], [2]]
    assert [state.rounds for state in run.nodes] == [3, 2, 3, 2]


@pytest.mark.parametrize(("sender", "round_"), [(2, 0), (1, 2), (1, -1)], ids=["stranger", "far ahead", "old"])
def test_messages_out_of_turn_are_refused(sender: int, round_: int) -> None:
    """Nobody but a neighbor, and nobody two rounds ahead, can have sent this."""
    algorithm = build("dpsgd", ring(5), (1,))[0]
    algorithm.handle(Started(zeros(1)), 0)
    with pytest.raises(ProtocolError):
        algorithm.handle(MessageReceived(NodeId(sender), Message(DPsgdTag.MODEL, round_, Whole(zeros(1))), 0), 1)


def test_a_second_message_of_a_round_is_refused() -> None:
    """Every model of a round takes part exactly once."""
    algorithm = build("dpsgd", ring(5), (1,))[0]
    algorithm.handle(Started(zeros(1)), 0)
    event = MessageReceived(NodeId(1), Message(DPsgdTag.MODEL, 0, Whole(zeros(1))), 0)
    algorithm.handle(event, 1)
    with pytest.raises(ProtocolError, match="second message"):
        algorithm.handle(event, 2)


def test_combine_then_adapt_sends_before_training() -> None:
    """x is sent when the local steps start, so that communication overlaps with them."""
    run = Harness(
        build("dpsgd", ring(4), order="combine_then_adapt"), zeros(8), step=starting_at(random_models(4, 8))
    ).run(rounds=1)
    first = [item for item in run.queued if item.message.round == 0]
    assert len(first) == 8
    assert all(item.time == 0 and not item.message.body.values.any() for item in first)
