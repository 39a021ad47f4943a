"""Is this DivShare? (arXiv:2410.12918; DIV-1 to DIV-9, each stated at its test.)"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.algorithms.divshare import DivShareTag
from node.core.bodies import FragmentOf
from node.core.effects import Enqueue
from node.core.events import LocalStepsDone, MessageReceived, Started
from node.core.fragments import FragmentLayout, fragment_plan
from node.core.messages import Message
from node.core.topology import full
from node.core.types import NodeId
from tests.harness import ROUND, Harness, build, identity, random_models, starting_at, zeros

GN_LENET = (2400, 32, 32, 32, 25600, 32, 32, 32, 51200, 64, 64, 64, 10240, 10)
FLUSHES = ["queued_only", "all", "none"]


def divshare(nodes: int, sizes: tuple[int, ...] = (8,), **parameters: object) -> list:
    return build("divshare", full(nodes), sizes, **parameters)


def mixed_once(algorithms: list, models: list) -> np.ndarray:
    """Lockstep, no learning: every node shares its model in round 0 and averages in round 1."""
    return Harness(algorithms, zeros(len(models[0])), step=starting_at(models)).run(rounds=2).models()


def test_div_1_whole_models_to_everyone_is_complete_averaging() -> None:
    """Omega = 1, J = n-1, instantaneous, lockstep: after aggregation all nodes equal the mean."""
    models = random_models(6, 8)
    mixed = mixed_once(divshare(6, omega=1, recipients=5), models)
    np.testing.assert_allclose(mixed, np.tile(np.mean(models, axis=0), (6, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("omega", [0.5, 0.3, 0.1])
@pytest.mark.parametrize("layout", ["random", "contiguous", "strided"])
def test_div_2_fragments_to_everyone_is_complete_averaging(omega: float, layout: str) -> None:
    """Any C, J = n-1, everything delivered before aggregation: the same result."""
    models = random_models(5, 40)
    mixed = mixed_once(divshare(5, (27, 13), omega=omega, recipients=4, layout=layout), models)
    np.testing.assert_allclose(mixed, np.tile(np.mean(models, axis=0), (5, 1)), rtol=1e-5, atol=1e-6)


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5).map(tuple),
    count=st.integers(1, 20),
    layout=st.sampled_from(FragmentLayout),
    seed=st.integers(0, 5),
)
def test_div_3_fragments_partition_the_model(
    sizes: tuple[int, ...], count: int, layout: FragmentLayout, seed: int
) -> None:
    """Disjoint, their union complete; random: floor(d_l / C) of each tensor, the last takes the rest."""
    count = min(count, sum(sizes))
    plan = fragment_plan(sizes, count, layout, seed)
    together = np.concatenate([plan.indices(f) for f in range(plan.num_fragments)])
    np.testing.assert_array_equal(np.sort(together), np.arange(sum(sizes)))
    if layout is FragmentLayout.RANDOM:
        share = sum(size // count for size in sizes)
        assert [len(plan.indices(f)) for f in range(count)][:-1] == [share] * (count - 1)
        edges = np.cumsum([0, *sizes])
        for f in range(count - 1):
            held = np.histogram(plan.indices(f), bins=edges)[0]
            assert held.tolist() == [size // count for size in sizes]


def test_div_3_sizes_of_gn_lenet() -> None:
    """d = 89834 and C = 10: nine fragments of 8981 and one of 9005 scalars."""
    plan = fragment_plan(GN_LENET, 10, FragmentLayout.RANDOM, 0)
    assert [len(plan.indices(f)) for f in range(10)] == [8981] * 9 + [9005]


def test_div_3_fragments_are_the_same_on_every_node_and_in_every_round() -> None:
    """All nodes and rounds cut alike; only another seed cuts differently."""
    positions = np.arange(40, dtype=np.float32)
    sent: dict[int, set[bytes]] = {}
    for algorithm in divshare(3, (40,), omega=0.25, recipients=2):
        algorithm.handle(Started(positions), 0)
        for round_ in range(2):
            for effect in algorithm.handle(LocalStepsDone(positions), round_):
                if isinstance(effect, Enqueue):
                    for _, message in effect.items:
                        sent.setdefault(message.body.fragment, set()).add(message.body.values.tobytes())
    assert sorted(sent) == [0, 1, 2, 3]
    assert all(len(variants) == 1 for variants in sent.values())
    other = fragment_plan((40,), 4, FragmentLayout.RANDOM, 1).indices(0)
    assert sent[0] != {positions[other].tobytes()}


@given(
    nodes=st.integers(2, 12),
    omega=st.sampled_from([1.0, 0.5, 0.25]),
    data=st.data(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_div_4_each_fragment_has_distinct_recipients(nodes: int, omega: float, data: st.DataObject, seed: int) -> None:
    """After enqueueing: C*J entries, J distinct destinations for each fragment, never the node itself."""
    recipients = data.draw(st.integers(1, nodes - 1))
    run = Harness(divshare(nodes, omega=omega, recipients=recipients, seed=seed), zeros(8)).run(rounds=1)
    for sender in range(nodes):
        sent = [item for item in run.queued if item.sender == sender]
        assert len(sent) == round(1 / omega) * recipients
        for fragment in range(round(1 / omega)):
            to = [item.receiver for item in sent if item.message.body.fragment == fragment]
            assert len(to) == len(set(to)) == recipients
            assert sender not in to


def test_div_4_fragments_draw_independently_and_are_shuffled() -> None:
    """Each fragment has its own sample of nodes, anew in each round; the queue is not in order of fragments."""
    run = Harness(divshare(9, (40,), omega=0.1, recipients=3), zeros(40)).run(rounds=2)
    for sender in range(9):
        sent = [item for item in run.queued if item.sender == sender]
        samples = {
            (round_, fragment): frozenset(
                i.receiver for i in sent if (i.message.round, i.message.body.fragment) == (round_, fragment)
            )
            for round_ in range(2)
            for fragment in range(10)
        }
        assert len(set(samples.values())) > 10  # of 20 samples among 56 possible ones
        order = [item.message.body.fragment for item in sent]
        assert order not in (sorted(order), sorted(order[:30]) + sorted(order[30:]))


@pytest.mark.parametrize("flush", FLUSHES)
@pytest.mark.parametrize("transfer", [0, 15, 333, 5000])
def test_div_5_every_message_is_somewhere(flush: str, transfer: int) -> None:
    """Enqueued = completed + aborted + flushed + still queued + in flight, for each node, at all times."""
    algorithms = divshare(5, omega=0.25, recipients=3, flush=flush)
    run = Harness(algorithms, zeros(8), transfer=lambda sender, _: transfer * (1 + sender), latency=lambda *_: 77)
    run.run(rounds=12, after_event=run.check_conservation)
    counters = [state.counters for state in run.nodes]
    assert sum(c.completed for c in counters) == len(run.delivered)
    slow = transfer * 5 * 12 > ROUND  # the slowest node has 12 messages a round
    assert (sum(c.cancelled for c in counters) > 0) == (slow and flush != "none")
    assert (sum(c.aborted for c in counters) > 0) == (slow and flush == "all")


def fragment(round_: int, value: float, size: int = 4, index: int = 0) -> Message:
    values = np.full(size, value, dtype=np.float32)
    values.setflags(write=False)
    return Message(DivShareTag.FRAGMENT, round_, FragmentOf(index, values))


@pytest.mark.parametrize(
    ("replacement", "counted"), [("newest_round", 5.0), ("last_arrival", 2.0)], ids=lambda v: str(v)
)
def test_div_6_a_later_copy_replaces_and_senders_count_each(replacement: str, counted: float) -> None:
    """Two copies of a fragment of one sender count once, two senders count twice.

    The public code keeps the last to arrive; with reordering the newer round is the better reading.
    """
    [algorithm, *_] = divshare(3, (4,), omega=1, recipients=1, replacement=replacement)
    algorithm.handle(Started(zeros(4)), 0)
    algorithm.handle(MessageReceived(NodeId(1), fragment(0, 8.0), 0), 1)
    algorithm.handle(MessageReceived(NodeId(1), fragment(3, 5.0), 1), 2)
    algorithm.handle(MessageReceived(NodeId(1), fragment(2, 2.0), 2), 3)
    algorithm.handle(MessageReceived(NodeId(2), fragment(1, 1.0), 3), 4)
    *_, start = algorithm.handle(LocalStepsDone(zeros(4)), 5)
    np.testing.assert_allclose(start.params, (0 + counted + 1.0) / 3, rtol=1e-6)


def test_div_6_of_the_same_round_the_last_to_arrive_stays() -> None:
    """The tie of the rule above."""
    [algorithm, *_] = divshare(3, (4,), omega=1, recipients=1)
    algorithm.handle(Started(zeros(4)), 0)
    for value in (8.0, 2.0):
        algorithm.handle(MessageReceived(NodeId(1), fragment(3, value), 0), 1)
    *_, start = algorithm.handle(LocalStepsDone(zeros(4)), 5)
    np.testing.assert_array_equal(start.params, np.full(4, 1, dtype=np.float32))


def test_div_7_an_uncovered_coordinate_keeps_its_value() -> None:
    """x[k] <- (x[k] + sum) / (1 + |R(k)|): with nothing received, exactly x; no NaN."""
    sizes, own = (20,), random_models(1, 20)[0]
    [algorithm, *_] = divshare(3, sizes, omega=0.25, recipients=1)
    algorithm.handle(Started(own), 0)
    *_, start = algorithm.handle(LocalStepsDone(own), 1)
    np.testing.assert_array_equal(start.params, own)
    algorithm.handle(MessageReceived(NodeId(1), fragment(0, 7.0, size=5, index=2), 0), 2)
    *_, start = algorithm.handle(LocalStepsDone(own), 3)
    covered = np.zeros(20, dtype=bool)
    covered[fragment_plan(sizes, 4, FragmentLayout.RANDOM, 0).indices(2)] = True
    np.testing.assert_array_equal(start.params[~covered], own[~covered])
    np.testing.assert_allclose(start.params[covered], (own[covered] + 7) / 2, rtol=1e-6)


def test_div_8_the_mean_is_preserved_in_expectation_only() -> None:
    """The mixing matrix is doubly stochastic in expectation, not per realisation. Seeds 0..299."""
    models = random_models(8, 6, seed=1)
    changes = np.array(
        [mixed_once(divshare(8, (6,), omega=0.5, recipients=3, seed=seed), models).mean(axis=0) for seed in range(300)]
    ) - np.mean(models, axis=0)
    error = changes.std(axis=0) / np.sqrt(len(changes))
    assert np.all(changes.std(axis=0) > 0.01)
    assert np.all(np.abs(changes.mean(axis=0)) < 4.5 * error)


@pytest.mark.parametrize("flush", ["queued_only", "all"])
@given(durations=st.lists(st.integers(1, 3000), min_size=4, max_size=4))
@settings(max_examples=25, deadline=None)
def test_div_9_a_round_sends_at_most_j_models(flush: str, durations: list[int]) -> None:
    """With the flush on, at most 4*d*J bytes a round (one fragment more when the one on the wire completes).

    And with ``all``, nothing is delivered that is older than the sender's current round (subtle point i).
    """
    size, recipients = 10, 2
    algorithms = divshare(4, (size,), omega=0.3, recipients=recipients, flush=flush)
    run = Harness(algorithms, zeros(size), step=identity, transfer=lambda sender, _: durations[sender])
    run.run(rounds=6)
    sent: dict[tuple[int, int], int] = {}
    for item in run.delivered:
        key = (item.sender, item.sender_round)
        sent[key] = sent.get(key, 0) + item.message.body.values.nbytes
        if flush == "all":
            assert item.message.round == item.sender_round - 1
    carried_over = 4 * 4 if flush == "queued_only" else 0  # 4 scalars: the largest fragment of 3, 3, 4
    assert max(sent.values(), default=0) <= 4 * size * recipients + carried_over
