"""Is this SWIFT? (arXiv:2210.14026; SWI-3 to SWI-6, each stated at its test; 1 and 2 are about weights.)"""

import numpy as np
import pytest

from node.algorithms.swift import SwiftTag
from node.core.bodies import Whole
from node.core.effects import Aggregated
from node.core.errors import ProtocolError
from node.core.events import LocalStepsDone, MessageReceived, Started
from node.core.messages import Message
from node.core.mixing import ccw
from node.core.rng import stream
from node.core.topology import Topology, erdos_renyi, from_edges, k_regular, ring, star
from node.core.types import NodeId
from tests.harness import ROUND, Harness, build, quadratic, random_models, spread, zeros

BROADCASTS = ["before_gradient", "after_gradient"]
MEMORIES = [
    {"memory": "mailbox"},
    {"memory": "fresh_only", "missing_weight": "to_self"},
    {"memory": "fresh_only", "missing_weight": "rescale"},
]


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda m: "-".join(m.values()))
@pytest.mark.parametrize("broadcast", BROADCASTS)
def test_swi_3_models_converge_to_a_common_value(memory: dict[str, str], broadcast: str) -> None:
    """eta = 0, equal speeds: x_i converge to a common value, also over links of random delay."""
    rng = np.random.default_rng(0)
    run = Harness(
        build("swift", ring(6), broadcast=broadcast, **memory),
        random_models(6, 8),
        latency=lambda *_: int(rng.integers(0, 2 * ROUND)),
    ).run(rounds=200)
    assert spread(run.models()) < 1e-6 * spread(np.array(run.initial))


def test_swi_3_random_activation_preserves_the_mean_in_expectation() -> None:
    """E[W] is symmetric and doubly stochastic when clients are activated uniformly. Seeds 0..399.

    Single activations do change the mean. Client clocks are exponential, messages instantaneous; the weights
    differ on this graph.
    """
    topology, models = from_edges(4, [(0, 1), (1, 2), (2, 0), (2, 3)]), random_models(4, 3)
    changes = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        run = Harness(
            build("swift", topology, (3,)),
            models,
            compute=lambda *_, rng=rng: 1 + int(rng.exponential(1_000_000)),
        ).run(until=1_500_000)
        changes.append(run.models().mean(axis=0) - np.mean(models, axis=0))
    values = np.array(changes)
    error = values.std(axis=0) / np.sqrt(len(values))
    assert np.all(values.std(axis=0) > 0.01)
    assert np.all(np.abs(values.mean(axis=0)) < 4.5 * error)


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda m: "-".join(m.values()))
@pytest.mark.parametrize("broadcast", BROADCASTS)
def test_swi_4_a_client_with_silent_neighbors_still_advances(memory: dict[str, str], broadcast: str) -> None:
    """Wait-free: the step count depends only on the client's own compute time."""
    run = Harness(
        build("swift", ring(5), broadcast=broadcast, **memory),
        zeros(8),
        step=quadratic(5, 8),
        compute=lambda node, _: 100 * (node + 1),
        lose=lambda queued: True,
    ).run(until=6000)
    assert [state.rounds for state in run.nodes] == [60, 30, 20, 15, 12]


@pytest.mark.parametrize(
    "topology",
    [
        ring(6),
        star(5),
        k_regular(8, degree=3, rng=stream(0, "test")),
        erdos_renyi(9, edge_probability=0.4, rng=stream(1, "test")),
    ],
    ids=["ring", "star", "regular", "random"],
)
def test_swi_5_lockstep_is_combine_then_adapt(topology: Topology) -> None:
    """Lockstep, instantaneous: one iteration is x_i <- sum_j w_ij x_j - eta g_i(x_i) with W = CCW.

    With the broadcast after the gradient, the neighbors' models are one iteration older.
    """
    nodes = topology.num_nodes
    step, weights = quadratic(nodes, 8), ccw(topology).dense()
    own = np.diag(np.diag(weights))
    expected = {broadcast: np.zeros((nodes, 8)) for broadcast in BROADCASTS}
    older = np.zeros((nodes, 8))
    for _ in range(10):
        change = {b: np.array([step(i, 0, x[i]) for i in range(nodes)]) - x for b, x in expected.items()}
        late = own @ expected["after_gradient"] + (weights - own) @ older + change["after_gradient"]
        older = expected["after_gradient"]
        expected["before_gradient"] = weights @ expected["before_gradient"] + change["before_gradient"]
        expected["after_gradient"] = late
    for broadcast in BROADCASTS:
        run = Harness(build("swift", topology, broadcast=broadcast), zeros(8), step=step).run(rounds=10)
        np.testing.assert_allclose(run.models(), expected[broadcast], atol=1e-5)


@pytest.mark.parametrize("broadcast", BROADCASTS)
@pytest.mark.parametrize("sgd_steps", [1, 2, 3])
def test_swi_6_averages_every_s_th_iteration_and_broadcasts_at_each(broadcast: str, sgd_steps: int) -> None:
    """Averagings = floor(iterations / s); broadcasts = iterations (begun or ended, as they are placed)."""
    iterations, topology = 11, ring(5)
    algorithms = build("swift", topology, broadcast=broadcast, sgd_steps=sgd_steps)
    run = Harness(algorithms, zeros(8), step=quadratic(5, 8), latency=lambda *_: 1).run(rounds=iterations)
    begun = 1 if broadcast == "before_gradient" else 0
    for node in range(5):
        averaged = [time for time, i, effect in run.effects if i == node and isinstance(effect, Aggregated)]
        expected = [ROUND * sgd_steps * (k + 1) for k in range(iterations // sgd_steps)]
        if broadcast == "after_gradient" and sgd_steps == 1:
            expected = expected[1:]  # nothing has arrived yet at the first
        assert averaged == expected
        sent = [item for item in run.queued if item.sender == node]
        assert len(sent) == topology.degree(node) * (iterations + begun)
        assert sorted({item.message.round for item in sent}) == list(range(iterations + begun))


def one_iteration(**parameters: object) -> tuple[np.ndarray, np.ndarray]:
    """Node 2 of an irregular graph hears of neighbor 3 only: (its model after one iteration, its weights)."""
    topology = from_edges(5, [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4)])
    algorithm = build("swift", topology, (1,), **parameters)[2]
    algorithm.handle(Started(np.full(1, 1, np.float32)), 0)
    for round_, value in [(0, 100), (1, 5)]:
        message = Message(SwiftTag.MODEL, round_, Whole(np.full(1, value, np.float32)))
        algorithm.handle(MessageReceived(NodeId(3), message, round_), 1)
    *_, start = algorithm.handle(LocalStepsDone(np.full(1, 1.5, np.float32)), 2)
    return start.params, ccw(topology).dense()[2]


def test_mailbox_keeps_the_initial_model_and_the_newest_one() -> None:
    """Mailbox: missing neighbors are represented by their last model, at first the initial one."""
    model, weights = one_iteration(memory="mailbox")
    np.testing.assert_allclose(model, (1 - weights[3]) * 1 + weights[3] * 5 + 0.5, rtol=1e-6)


def test_fresh_only_gives_missing_weight_to_the_node_itself() -> None:
    """No memory: the weight of a missing neighbor goes to the node itself."""
    model, weights = one_iteration(memory="fresh_only", missing_weight="to_self")
    np.testing.assert_allclose(model, (1 - weights[3]) * 1 + weights[3] * 5 + 0.5, rtol=1e-6)


def test_fresh_only_rescales_by_the_actual_sum() -> None:
    """No memory, rescaled by the actual sum: remaining weights sum to one on irregular graphs too."""
    model, weights = one_iteration(memory="fresh_only", missing_weight="rescale")
    remaining = weights[2] + weights[3]
    assert remaining < 0.99
    np.testing.assert_allclose(model, (weights[2] * 1 + weights[3] * 5) / remaining + 0.5, rtol=1e-6)


def test_fresh_only_forgets_after_an_average_and_the_mailbox_does_not() -> None:
    """What arrived once is used again in the mailbox mode only."""
    for memory, expected in [("mailbox", [2, 2.5]), ("fresh_only", [2, 2])]:
        algorithm, _ = build("swift", ring(2), (1,), memory=memory)
        algorithm.handle(Started(np.full(1, 1, np.float32)), 0)
        message = Message(SwiftTag.MODEL, 0, Whole(np.full(1, 3, np.float32)))
        algorithm.handle(MessageReceived(NodeId(1), message, 0), 0)
        seen, model = [], np.full(1, 1, np.float32)
        for _ in range(2):
            *_, start = algorithm.handle(LocalStepsDone(model), 1)
            model = start.params
            seen.append(float(model[0]))
        assert seen == expected


@pytest.mark.parametrize("flush", ["none", "queued_only"])
def test_flush_bounds_the_queue_of_a_slow_node(flush: str) -> None:
    """Without it, as in the public code, a slow node's queue grows by a broadcast an iteration."""
    run = Harness(build("swift", ring(5), flush=flush), zeros(8), transfer=lambda *_: 3 * ROUND).run(
        until=30 * ROUND + 1
    )
    queued = [len(state.outbox) for state in run.nodes]
    assert all(length <= 2 if flush == "queued_only" else length > 40 for length in queued)


def test_a_model_of_a_stranger_is_refused() -> None:
    """Only neighbors have weights."""
    algorithm = build("swift", ring(5), (1,))[0]
    algorithm.handle(Started(zeros(1)), 0)
    with pytest.raises(ProtocolError):
        algorithm.handle(MessageReceived(NodeId(2), Message(SwiftTag.MODEL, 0, Whole(zeros(1))), 0), 1)
