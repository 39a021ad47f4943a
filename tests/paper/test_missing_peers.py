"""Do synchronous algorithms go on without nodes that have ended, by the rule that their docstrings give?

The rule is ours and of no paper: with ``on_missing_peer: skip`` the weight of a neighbor that is missing goes to a
node's own model, and one that comes back takes part again from a round that its neighbors tell it.
"""

from collections.abc import Sequence

import numpy as np
import pytest

from node.algorithms.adpsgd import AdPsgdTag
from node.algorithms.dpsgd import DPsgdTag
from node.algorithms.epidemic import EpidemicTag
from node.core.bodies import EMPTY, Whole
from node.core.effects import Enqueue
from node.core.errors import ProtocolError
from node.core.events import LocalStepsDone, MessageReceived, PeerDown, PeerUp, Started
from node.core.messages import Message
from node.core.mixing import metropolis_hastings
from node.core.recipients import regular_graph
from node.core.topology import Topology, complete_bipartite, from_edges, full, ring
from node.core.types import NodeId
from tests.harness import ROUND, Harness, build, quadratic, random_models, spread, zeros

ORDERS = ["adapt_then_combine", "combine_then_adapt"]
GRAPH = from_edges(5, [(0, 1), (1, 2), (2, 3), (3, 1), (3, 4), (0, 4)])
GONE = 3


def without(topology: Topology, missing: int) -> np.ndarray:
    """Metropolis-Hastings weights of the whole graph, where those of a missing node went to the receivers' own."""
    weights = metropolis_hastings(topology).dense().copy()
    weights[np.diag_indices_from(weights)] += weights[:, missing]
    weights[:, missing] = weights[missing, :] = 0
    weights[missing, missing] = 1
    return weights


def after(models: np.ndarray, weights: np.ndarray, trained: np.ndarray, order: str) -> np.ndarray:
    return weights @ trained if order == "adapt_then_combine" else weights @ models + trained - models


def in_the_midst_of(round_: int) -> int:
    return round_ * ROUND + ROUND // 2


@pytest.mark.parametrize("order", ORDERS)
def test_the_weight_of_the_missing_goes_to_the_own_model(order: str) -> None:
    """x <- W y or x <- W x + y - x with W of the whole graph, but for the weights of those that are missing.

    Node 3 ends in its round 2, while all compute. If x is sent first, its model of that round has arrived and takes
    part.
    """
    step, expected, living = quadratic(5, 8), np.zeros((5, 8)), [0, 1, 2, 4]
    run = Harness(build("dpsgd", GRAPH, order=order, on_missing_peer="skip"), zeros(8), step=step)
    run.run(until=in_the_midst_of(2))
    run.end(GONE)
    for round_ in range(8):
        has_come = round_ < 2 or (round_ == 2 and order == "combine_then_adapt")
        weights = metropolis_hastings(GRAPH).dense() if has_come else without(GRAPH, GONE)
        np.testing.assert_allclose(weights.sum(axis=1), 1)
        trained = np.array([step(node, 0, expected[node]) for node in range(5)])
        expected = after(expected, weights, trained, order)
        run.run(until=in_the_midst_of(round_ + 1))
        starts = np.array([run.nodes[node].starts[round_ + 1] for node in living])
        np.testing.assert_allclose(starts, expected[living], atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_one_that_comes_back_begins_in_the_round_of_its_neighbors(order: str) -> None:
    """It leaves out the rounds between: it sends models of rounds 0, 1, 2, and from the one that is proposed on."""
    run = Harness(build("dpsgd", GRAPH, order=order, on_missing_peer="skip"), zeros(8))
    run.run(until=in_the_midst_of(2))
    run.end(GONE)
    run.run(until=in_the_midst_of(9))
    run.come_back(GONE, build("dpsgd", GRAPH, order=order, on_missing_peer="skip")[GONE], zeros(8))
    run.run(until=in_the_midst_of(14))
    sent = [item.message for item in run.queued if item.sender == GONE and item.message.tag is DPsgdTag.MODEL]
    rounds = sorted({message.round for message in sent})
    # In the midst of round 9 its model is still to be sent, or has been sent when the round began.
    first = 9 if order == "adapt_then_combine" else 10
    assert rounds[: rounds.index(first)] == ([0, 1] if order == "adapt_then_combine" else [0, 1, 2])
    assert rounds[rounds.index(first) :] == list(range(first, rounds[-1] + 1))
    assert rounds[-1] >= 13


def test_one_that_comes_back_takes_part_with_its_whole_weight() -> None:
    """From the round that is proposed to it on: x <- W y with the W of the whole graph, for all."""
    models = random_models(5, 8)
    run = Harness(build("dpsgd", GRAPH, on_missing_peer="skip"), models)
    run.run(until=2 * ROUND + ROUND // 2)
    run.end(GONE)
    run.run(until=4 * ROUND + ROUND // 2)
    before = run.models()
    run.come_back(GONE, build("dpsgd", GRAPH, on_missing_peer="skip")[GONE], zeros(8))
    before[GONE] = 0
    run.run(until=5 * ROUND + ROUND // 2)
    weights = metropolis_hastings(GRAPH).dense()
    np.testing.assert_allclose(run.models(), weights @ before, atol=1e-6)
    run.run(until=6 * ROUND + ROUND // 2)
    np.testing.assert_allclose(run.models(), weights @ weights @ before, atol=1e-6)


def test_the_mean_of_the_living_is_kept_while_pairs_have_both_models_or_neither() -> None:
    """The weights among the living are symmetric then, hence doubly stochastic."""
    models = random_models(5, 8)
    living = [node for node in range(5) if node != GONE]
    run = Harness(build("dpsgd", GRAPH, on_missing_peer="skip"), models)
    run.run(until=ROUND // 2)
    run.end(GONE)
    mean, spreads = np.mean([models[node] for node in living], axis=0), []
    for round_ in range(1, 12):
        run.run(until=in_the_midst_of(round_))
        np.testing.assert_allclose(run.models()[living].mean(axis=0), mean, atol=1e-6)
        spreads.append(spread(run.models()[living]))
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 0.1 * spreads[0]


def test_a_model_that_reached_some_takes_part_with_them_alone() -> None:
    """Node 0 of a ring sends to node 1 and ends before it sends to node 4: node 1 has its model, node 4 has not."""
    models, third = random_models(5, 8), np.float64(1 / 3)
    run = Harness(
        build("dpsgd", ring(5), on_missing_peer="skip"),
        models,
        transfer=lambda sender, _: 100 if sender == 0 else 0,
    )
    run.run(until=ROUND + 150)
    run.end(0)
    run.run(until=ROUND + ROUND // 2)
    x = np.array(models, dtype=np.float64)
    np.testing.assert_allclose(run.model(1), third * (x[0] + x[1] + x[2]), atol=1e-6)
    np.testing.assert_allclose(run.model(4), third * (2 * x[4] + x[3]), atol=1e-6)
    moved = run.models()[1:].mean(axis=0) - x[1:].mean(axis=0)
    np.testing.assert_allclose(moved, third * (x[0] - x[1]) / 4, atol=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_rounds_are_left_out_and_models_of_rounds_that_are_over_are_not_used(order: str) -> None:
    """A fresh node is told round 40; models of rounds before it stay out, that of round 40 takes part."""
    algorithm = build("dpsgd", ring(4), (1,), order=order, on_missing_peer="skip")[0]
    algorithm.handle(Started(zeros(1)), 0)

    def arrives(sender: int, message: Message) -> Sequence[object]:
        return algorithm.handle(MessageReceived(NodeId(sender), message, 10 * message.round + sender), 1)

    def model(round_: int, value: float) -> Message:
        return Message(DPsgdTag.MODEL, round_, Whole(np.full(1, value, np.float32)))

    arrives(1, model(39, 7))
    told = arrives(1, Message(DPsgdTag.FIRST_ROUND, 40, EMPTY))
    assert isinstance(told[0], Enqueue)
    assert [(to, item.round) for to, item in told[0].items] == [(1, 40), (3, 40)]
    arrives(1, model(39, 7))
    arrives(1, model(40, 3))
    algorithm.handle(LocalStepsDone(zeros(1)), 2)
    assert algorithm.waiting_for() == "models of round 40 from nodes 3"
    effects = arrives(3, model(40, 6))
    assert effects[0].deliveries == [401, 403]  # type: ignore[attr-defined]
    np.testing.assert_allclose(algorithm._model, 3)  # type: ignore[attr-defined]
    assert not arrives(3, Message(DPsgdTag.FIRST_ROUND, 40, EMPTY))


def test_a_proposal_is_answered_until_both_know_the_later_round() -> None:
    algorithm = build("dpsgd", ring(4), (1,), on_missing_peer="skip")[0]
    algorithm.handle(Started(zeros(1)), 0)

    def propose(round_: int) -> list[tuple[int, int]]:
        message = Message(DPsgdTag.FIRST_ROUND, round_, EMPTY)
        effects = algorithm.handle(MessageReceived(NodeId(1), message, 0), 1)
        return [(to, item.round) for effect in effects if isinstance(effect, Enqueue) for to, item in effect.items]

    assert propose(1) == [(1, 1)]
    assert propose(1) == []
    assert propose(0) == [(1, 1)]
    algorithm.handle(PeerDown(NodeId(1)), 1)
    assert propose(5) == []  # of a life of which it has not heard
    effects = algorithm.handle(PeerUp(NodeId(1)), 1)
    assert [(to, item.round) for to, item in effects[0].items] == [(1, 0)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "tag"), [("dpsgd", DPsgdTag.FIRST_ROUND), ("epidemic", EpidemicTag.FIRST_ROUND)])
def test_nobody_proposes_a_round_where_nodes_must_not_end(kind: str, tag: DPsgdTag | EpidemicTag) -> None:
    parameters = {"recipients": 2} if kind == "epidemic" else {}
    algorithm = build(kind, full(5), (1,), **parameters)[0]
    algorithm.handle(Started(zeros(1)), 0)
    with pytest.raises(ProtocolError, match="first_round from node 1"):
        algorithm.handle(MessageReceived(NodeId(1), Message(tag, 3, EMPTY), 0), 1)
    assert not algorithm.handle(PeerDown(NodeId(1)), 1)
    assert not algorithm.handle(PeerUp(NodeId(1)), 1)


@pytest.mark.parametrize("parameters", [{"announce": "notices"}, {"announce": "seed"}, {"graph": "oracle"}], ids=str)
def test_epidemic_averages_with_those_that_are_there(parameters: dict) -> None:
    """The draws are those of a run without ends; the mean is over those of them that are there."""
    models, step = random_models(6, 8), quadratic(6, 8)
    drawn = Harness(build("epidemic", full(6), recipients=3, **parameters), models, step=step).run(rounds=6)
    run = Harness(build("epidemic", full(6), recipients=3, on_missing_peer="skip", **parameters), models, step=step)
    run.run(until=2 * ROUND + ROUND // 2)
    run.end(GONE)
    for round_ in range(2, 6):
        before = run.models()
        run.run(until=(round_ + 1) * ROUND + ROUND // 2)
        for node in (0, 1, 2, 4, 5):
            senders = [
                item.sender
                for item in drawn.queued
                if (item.receiver, item.message.round, item.message.tag) == (node, round_, EpidemicTag.MODEL)
            ]
            heard = [node, *(sender for sender in sorted(senders) if sender != GONE)]
            mean = np.mean([step(i, 0, before[i].astype(np.float32)) for i in heard], axis=0)
            np.testing.assert_allclose(run.model(node), mean, atol=1e-5)
    assert not any(item.receiver == GONE for item in run.queued if item.time > 2 * ROUND + ROUND // 2)


def test_epidemic_takes_in_one_that_comes_back() -> None:
    """It hears the round of the others, draws for it, and takes part: on an oracle's graph, which tells with whom."""
    algorithms = build("epidemic", full(6), recipients=3, graph="oracle", on_missing_peer="skip")
    run = Harness(algorithms, random_models(6, 8))
    run.run(until=2 * ROUND + ROUND // 2)
    run.end(GONE)
    run.run(until=4 * ROUND + ROUND // 2)
    fresh = build("epidemic", full(6), recipients=3, graph="oracle", on_missing_peer="skip")[GONE]
    run.come_back(GONE, fresh, zeros(8))
    before = run.models()
    run.run(until=5 * ROUND + ROUND // 2)
    for node in range(6):
        heard = [node, *regular_graph(6, 3, 0, 4).neighbors(NodeId(node))]
        np.testing.assert_allclose(run.model(node), np.mean(before[heard], axis=0), atol=1e-6)


@pytest.mark.parametrize("form", ["delta", "blocking"])
def test_adpsgd_gives_up_the_exchange_with_one_that_has_ended(form: str) -> None:
    """It asks others meanwhile, asks nobody when there is nobody, and drops a reply that comes too late."""
    algorithm = build("adpsgd", complete_bipartite(4), (1,), form=form, on_missing_peer="skip")[0]
    peers = list(algorithm.context.neighbors)
    algorithm.handle(Started(zeros(1)), 0)

    def asked(now_ns: int) -> int | None:
        effects = algorithm.handle(LocalStepsDone(zeros(1)), now_ns)
        return next((int(effect.items[0][0]) for effect in effects if isinstance(effect, Enqueue)), None)

    first = asked(1)
    assert first in peers
    for peer in sorted(peers, key=lambda peer: peer == first):
        effects = algorithm.handle(PeerDown(peer), 2)
    algorithm.check_invariants()
    assert len(effects) == (form == "blocking")  # it computes again
    reply = Message(AdPsgdTag.AVERAGE_REPLY, 1, Whole(np.full(1, 8, np.float32)), exchange=1)
    assert not algorithm.handle(MessageReceived(NodeId(first), reply, 0), 3)
    assert algorithm.model == 0  # type: ignore[attr-defined]
    assert asked(4) is None
    assert algorithm.waiting_for() is None
    algorithm.handle(PeerUp(peers[1]), 5)
    assert asked(6) == peers[1]
    algorithm.check_invariants()


def test_adpsgd_answers_nobody_that_has_ended() -> None:
    """A request that waits for the own reply is dropped with its sender."""
    algorithm = build("adpsgd", ring(4), (1,), form="blocking", roles="everyone", on_missing_peer="skip")[0]
    algorithm.handle(Started(zeros(1)), 0)
    effects = algorithm.handle(LocalStepsDone(zeros(1)), 1)
    asked = next(effect.items[0][0] for effect in effects if isinstance(effect, Enqueue))
    other = next(peer for peer in algorithm.context.neighbors if peer != asked)
    request = Message(AdPsgdTag.AVERAGE_REQUEST, 1, Whole(zeros(1)), exchange=1)
    assert not algorithm.handle(MessageReceived(other, request, 0), 2)
    assert not algorithm.handle(PeerDown(other), 3)
    effects = algorithm.handle(PeerDown(asked), 4)
    assert not any(isinstance(effect, Enqueue) for effect in effects)
