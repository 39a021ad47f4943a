"""Is this AD-PSGD? (arXiv:1710.06952; ADP-1 to ADP-6, each stated at its test.)"""

import numpy as np
import pytest

from node.algorithms.adpsgd import AdPsgdTag
from node.algorithms.adpsgd_pingpong import AdPsgdPingPongTag
from node.core.bodies import Whole
from node.core.effects import Aggregated, Enqueue, StartLocalSteps
from node.core.errors import ProtocolError
from node.core.events import LocalStepsDone, MessageReceived, Started
from node.core.messages import Message
from node.core.topology import complete_bipartite, from_edges, full, ring
from node.core.types import NodeId, Vector
from tests.harness import (
    ROUND,
    Harness,
    build,
    quadratic,
    random_models,
    spread,
    zeros,
)

LATENCIES = [0, 1, 700, 20_000]
FORMS = ["delta", "naive", "blocking"]


def current(run: Harness) -> np.ndarray:
    """All current models, with nothing of running local steps in them."""
    return np.array([state.algorithm.model for state in run.nodes], dtype=np.float64)


def settled(run: Harness) -> np.ndarray:
    """Current models as they will be once the replies on the wire have arrived (bipartite, no learning)."""
    models = current(run)
    for _, receiver, message in run.in_flight.values():
        if message.tag is AdPsgdTag.AVERAGE_REPLY:
            models[receiver] += (message.body.values - models[receiver]) / 2
    return models


def random_times(seed: int, longest: int = 2 * ROUND) -> dict:
    """Compute and latency at random, comparable to each other."""
    rng = np.random.default_rng(seed)
    return {
        "compute": lambda node, round_: int(rng.integers(1, longest)),
        "latency": lambda sender, receiver: int(rng.integers(0, longest)),
    }


def exchanges(run: Harness) -> int:
    return sum(item.message.tag is AdPsgdTag.AVERAGE_REPLY for item in run.delivered)


@pytest.mark.parametrize("form", FORMS)
def test_adp_1_an_exchange_preserves_the_sum(form: str) -> None:
    """eta = 0: x_i, x_j <- (x_i + x_j) / 2 for both. Whole numbers, so that float32 is exact."""
    models = [np.round(100 * model).astype(np.float32) for model in random_models(2, 16)]
    run = Harness(build("adpsgd", ring(2), (16,), form=form), models).run(rounds=1)
    assert exchanges(run) == 1
    np.testing.assert_array_equal(current(run), np.tile((models[0] + models[1]) / 2, (2, 1)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("form", "parameters"),
    [
        ("delta", {}),
        ("delta", {"exchange": "continuous"}),
        ("delta", {"roles": "everyone"}),
        ("blocking", {}),
    ],
    ids=str,
)
def test_adp_1_the_sum_is_preserved_whatever_happens_between(form: str, parameters: dict, seed: int) -> None:
    """Local steps during exchanges are added and nothing else changes the network's sum."""
    run = Harness(
        build("adpsgd", complete_bipartite(6), form=form, **parameters),
        random_models(6, 8),
        step=lambda node, round_, params: params + np.float32(node + 1),
        **random_times(seed),
    )
    total = np.sum(run.initial, axis=0, dtype=np.float64)

    def at_rest() -> bool:
        replies = [m for _, _, m in run.in_flight.values() if m.tag is AdPsgdTag.AVERAGE_REPLY]
        return not replies and all(state.halted for state in run.nodes)

    run.run(rounds=30, stop=at_rest)
    assert exchanges(run) > 30
    assert run.waiting() == {}
    trained = sum(30 * (node + 1) for node in range(6))
    np.testing.assert_allclose(current(run).sum(axis=0), total + trained, rtol=1e-5)


def test_adp_1_naive_loses_concurrent_steps() -> None:
    """The naive form preserves the pair's sum only without concurrent steps: why ``delta`` is the default."""
    run = Harness(
        build("adpsgd", ring(2), form="naive"),
        zeros(8),
        step=lambda node, round_, params: params + np.float32(node + 1),
        latency=lambda *_: ROUND + ROUND // 2,
    ).run(rounds=8)
    assert abs(current(run).sum(axis=0)[0] - 8 * 3) > 0.5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(2))
def test_adp_2_exchanges_contract_the_consensus_distance(form: str, seed: int) -> None:
    """eta = 0: D(x) never increases and tends to 0 on a connected graph.

    Taken when a half-done exchange is counted as done: one side alone can raise D(x).
    """
    run = Harness(build("adpsgd", ring(6), form=form), random_models(6, 8), **random_times(seed))
    distances = [spread(np.array(run.initial))]

    def check() -> None:
        distances.append(spread(settled(run)))
        assert distances[-1] <= distances[-2] * (1 + 1e-6) + 1e-8  # float32

    run.run(rounds=150, after_event=check)
    assert distances[-1] < 1e-6 * distances[0]


def test_adp_3_no_deadlock_on_a_bipartite_graph() -> None:
    """10^4 random exchanges, adversarial latencies: active nodes only initiate, passive nodes only answer."""
    rng = np.random.default_rng(3)
    run = Harness(
        build("adpsgd", complete_bipartite(7), (1,), form="blocking"),
        zeros(1),
        compute=lambda node, round_: 700 if node % 3 else 3000,
        latency=lambda sender, receiver: LATENCIES[int(rng.integers(4))],
    )
    run.run(stop=lambda: run.delivered[-1:] != [] and len(run.delivered) >= 20_000)
    assert exchanges(run) >= 9_900
    assert len(run.delivered) >= 20_000


@pytest.mark.parametrize("seed", range(5))
def test_adp_3_everybody_active_and_blocking_deadlocks(seed: int) -> None:
    """A ring of 3: i waits for j, j for k, k for i. All ask at once, so it happens whomever they ask."""
    algorithms = build("adpsgd", ring(3), form="blocking", roles="everyone", seed=seed)
    run = Harness(algorithms, zeros(8), latency=lambda *_: 5).run(rounds=10)
    assert [state.rounds for state in run.nodes] == [1, 1, 1]
    waiting = run.waiting()
    assert sorted(waiting) == [0, 1, 2]
    asked = {item.sender: item.receiver for item in run.queued}
    for node, reason in waiting.items():
        assert f"node {asked[node]}'s reply" in reason
        assert algorithms[node].waits_on() == (asked[node],)
        for asker in (i for i in range(3) if asked[i] == node):
            assert str(asker) in reason.split("requests of nodes")[1]


@pytest.mark.parametrize("form", ["delta", "naive"])
def test_adp_3_without_blocking_everybody_may_be_active(form: str) -> None:
    """Only waiting makes cycles of waiting."""
    run = Harness(build("adpsgd", ring(3), form=form, roles="everyone"), zeros(8), latency=lambda *_: 5)
    run.run(rounds=10)
    assert exchanges(run) == 30
    assert run.waiting() == {}


def test_adp_3_postponed_requests_are_answered_in_order_of_arrival() -> None:
    """everyone, blocking: after its own reply a node serves what it held, first come first served."""
    [algorithm, *_] = build("adpsgd", full(4), (1,), form="blocking", roles="everyone")
    algorithm.handle(Started(zeros(1)), 0)
    [request] = algorithm.handle(LocalStepsDone(zeros(1)), 1)
    assert isinstance(request, Enqueue)
    [(peer, asked)] = request.items
    others = [NodeId(node) for node in (3, 2, 1) if node != peer]
    value = np.full(1, 4, dtype=np.float32)
    for number, other in enumerate(others):
        message = Message(AdPsgdTag.AVERAGE_REQUEST, 0, Whole(value), exchange=7)
        assert algorithm.handle(MessageReceived(other, message, number), 2) == []
    reply = Message(AdPsgdTag.AVERAGE_REPLY, 0, Whole(value), exchange=asked.exchange)
    effects = algorithm.handle(MessageReceived(peer, reply, 9), 3)
    answers = [effect.items[0] for effect in effects if isinstance(effect, Enqueue)]
    assert [to for to, _ in answers] == others
    assert [message.body.values[0] for _, message in answers] == [2.0, 3.0]  # each sees the averages before it
    assert [e.deliveries for e in effects if isinstance(e, Aggregated)] == [[9], [0], [1]]
    assert isinstance(effects[-1], StartLocalSteps)
    np.testing.assert_array_equal(effects[-1].params, [3.5])


@pytest.mark.parametrize("node", [0, 1], ids=["active", "passive"])
def test_adp_4_a_stale_gradient_is_applied_as_it_is(node: int) -> None:
    """A gradient computed at xhat and applied after an exchange changes x_i by exactly -eta*g."""
    algorithm = build("adpsgd", ring(2), (4,))[node]
    start, theirs = np.full(4, 2, np.float32), np.full(4, 10, np.float32)
    change = np.array([1, -2, 0.5, 4], dtype=np.float32)
    algorithm.handle(Started(start), 0)
    effects = algorithm.handle(LocalStepsDone(start), 1)
    peer = NodeId(1 - node)
    if node == 0:
        [(_, request)] = effects[0].items
        message = Message(AdPsgdTag.AVERAGE_REPLY, 0, Whole(theirs), exchange=request.exchange)
    else:
        message = Message(AdPsgdTag.AVERAGE_REQUEST, 0, Whole(theirs), exchange=1)
    algorithm.handle(MessageReceived(peer, message, 0), 2)
    np.testing.assert_array_equal(algorithm.model, np.full(4, 6))
    algorithm.handle(LocalStepsDone(start + change), 3)
    np.testing.assert_array_equal(algorithm.model, 6 + change)


def test_adp_5_as_many_pongs_as_pings() -> None:
    """Ping-pong: a node sends one pong for each ping that it receives, with its latest model."""
    rng = np.random.default_rng(5)
    run = Harness(
        build("adpsgd_pingpong", full(6), recipients=5),
        zeros(8),
        step=quadratic(6, 8),
        compute=lambda node, round_: int(rng.integers(500, 1500)),
        transfer=lambda sender, message: 300 * (sender + 1),
        latency=lambda *_: 100,
    ).run(rounds=10)
    for node in range(6):
        received = [i for i in run.delivered if i.receiver == node and i.message.tag is AdPsgdPingPongTag.PING]
        sent = [i for i in run.queued if i.sender == node]
        pings = [i for i in sent if i.message.tag is AdPsgdPingPongTag.PING]
        pongs = [i for i in sent if i.message.tag is AdPsgdPingPongTag.PONG]
        assert [i.sender for i in received] == [i.receiver for i in pongs]
        assert len(pings) == 10 * (5 // 2)
        assert len(pings) + len(pongs) == len(sent)
    assert run.nodes[5].counters.cancelled == 0  # never flushed


def test_adp_5_pings_go_to_neighbors_drawn_with_replacement() -> None:
    """J // 2 pings a round, uniform, and one neighbor may get several. Seed 0."""
    run = Harness(build("adpsgd_pingpong", full(6), recipients=5), zeros(8)).run(rounds=200)
    pings = [item for item in run.queued if item.message.tag is AdPsgdPingPongTag.PING and item.sender == 0]
    rounds = [{i.receiver for i in pings if i.message.round == round_} for round_ in range(200)]
    repeated = sum(len(receivers) == 1 for receivers in rounds)
    assert 20 <= repeated <= 60  # 40 expected: both pings of a round to one of five
    counts = [sum(item.receiver == node for item in pings) for node in range(1, 6)]
    assert all(50 <= count <= 110 for count in counts)  # 80 expected of each


def test_adp_5_a_pong_carries_the_model_before_averaging() -> None:
    """``latest`` is the trained, not yet averaged model; in the first round the initial one."""
    [algorithm, *_] = build("adpsgd_pingpong", full(3), (1,), recipients=2)

    def ask(delivery: int) -> Vector:
        ping = Message(AdPsgdPingPongTag.PING, 0, Whole(np.full(1, 8, np.float32)))
        [pong] = algorithm.handle(MessageReceived(NodeId(1), ping, delivery), delivery)
        [(to, message)] = pong.items
        assert (to, message.tag) == (1, AdPsgdPingPongTag.PONG)
        return message.body.values

    algorithm.handle(Started(np.full(1, 2, np.float32)), 0)
    assert ask(0) == [2.0]
    *_, start = algorithm.handle(LocalStepsDone(np.full(1, 4, np.float32)), 1)
    assert start.params == [6.0]
    assert ask(1) == [4.0]


@pytest.mark.parametrize("alias_bug", [False, True])
def test_adp_5_alias_bug_turns_queued_pings_into_plain_models(alias_bug: bool) -> None:
    """In the public code a pong clears the ping flag of the pings that still wait: they share a record."""
    run = Harness(
        build("adpsgd_pingpong", full(4), recipients=3, alias_bug=alias_bug, seed=1),
        zeros(8),
        transfer=lambda sender, message: 100 if sender else 1500,
    ).run(rounds=6)
    slow = [item.message.tag for item in run.delivered if item.sender == 0]
    assert (AdPsgdPingPongTag.MODEL in slow) == alias_bug
    assert all(item.message.tag is not AdPsgdPingPongTag.MODEL for item in run.delivered if item.sender)
    pings = sum(i.message.tag is AdPsgdPingPongTag.PING for i in run.delivered)
    pongs = sum(i.message.tag is AdPsgdPingPongTag.PONG for i in run.queued)
    assert pings == pongs
    run.check_conservation()


def test_adp_5_the_newest_message_of_a_sender_replaces_older_ones() -> None:
    """x_i <- (x_i + sum over senders) / (1 + number of senders), whether ping or pong."""
    [algorithm, *_] = build("adpsgd_pingpong", full(3), (1,), recipients=2)
    algorithm.handle(Started(zeros(1)), 0)
    for delivery, (sender, kind, value) in enumerate(
        [(1, AdPsgdPingPongTag.PING, 8), (2, AdPsgdPingPongTag.PONG, 6), (1, AdPsgdPingPongTag.PONG, 3)]
    ):
        message = Message(kind, delivery, Whole(np.full(1, value, np.float32)))
        algorithm.handle(MessageReceived(NodeId(sender), message, delivery), 1)
    *_, start = algorithm.handle(LocalStepsDone(zeros(1)), 2)
    assert start.params == [(0 + 6 + 3) / 3]


def test_adp_6_perfect_matching_in_lockstep_is_dpsgd() -> None:
    """Zero latency, lockstep pairs: equals D-PSGD with w_ij = 1/2 on the matching.

    The equal order is ``combine_then_adapt``: x is exchanged while the gradient at x is computed.
    """
    matching, step = from_edges(6, [(0, 1), (2, 5), (3, 4)]), quadratic(6, 8)
    pairs = Harness(build("adpsgd", matching), zeros(8), step=step).run(rounds=20)
    lockstep = Harness(build("dpsgd", matching, order="combine_then_adapt"), zeros(8), step=step)
    lockstep.run(rounds=20)
    np.testing.assert_allclose(pairs.models(), lockstep.models(), atol=1e-6)
    assert spread(pairs.models()) > 0.01  # the pairs do differ from each other


def test_continuous_starts_the_next_exchange_with_the_reply() -> None:
    """Continuous mode: an exchange that takes no time is not repeated at once."""
    for latency, at_least, at_most in [(10, 40, 51), (0, 1, 1)]:
        run = Harness(build("adpsgd", ring(2), exchange="continuous"), zeros(8), latency=lambda *_, ms=latency: ms).run(
            until=2 * ROUND - 1
        )
        assert at_least <= exchanges(run) <= at_most
    per_step = Harness(build("adpsgd", ring(2)), zeros(8), latency=lambda *_: 10).run(until=2 * ROUND - 1)
    assert exchanges(per_step) == 1


def test_parity_uses_only_edges_between_even_and_odd() -> None:
    """Roles by parity on a full graph: even nodes initiate, odd nodes answer."""
    run = Harness(build("adpsgd", full(5), roles="parity"), zeros(8)).run(rounds=20)
    asked = [i for i in run.queued if i.message.tag is AdPsgdTag.AVERAGE_REQUEST]
    assert {(i.sender % 2, i.receiver % 2) for i in asked} == {(0, 1)}
    assert {(i.sender, i.receiver) for i in asked} == {(a, b) for a in (0, 2, 4) for b in (1, 3)}


def test_unasked_messages_are_refused() -> None:
    """A reply nobody asked for, a request to an active node, a foreign kind: the peer's fault, no change."""
    active, passive = build("adpsgd", ring(2), (1,))
    for algorithm in (active, passive):
        algorithm.handle(Started(zeros(1)), 0)
    value = np.ones(1, np.float32)
    for algorithm, kind in [
        (active, AdPsgdTag.AVERAGE_REPLY),
        (active, AdPsgdTag.AVERAGE_REQUEST),
        (passive, AdPsgdTag.AVERAGE_REPLY),
        (passive, AdPsgdPingPongTag.MODEL),
    ]:
        with pytest.raises(ProtocolError):
            algorithm.handle(MessageReceived(NodeId(1), Message(kind, 0, Whole(value)), 0), 1)
        assert algorithm.model == [0.0]
