"""Is this Epidemic Learning? (arXiv:2310.01972; EL-1 to EL-5, each stated at its test.)"""

from collections import Counter

import numpy as np
import pytest

from node.algorithms.epidemic import Announce, EpidemicConfig, EpidemicTag, Graph
from node.core.errors import ConfigError
from node.core.topology import full
from tests.harness import Harness, build, quadratic, random_models, starting_at, zeros

LOCAL = [{"graph": "local", "announce": "notices"}, {"graph": "local", "announce": "seed"}]
ORACLE = [{"graph": "oracle"}, {"graph": "oracle", "redraw": False}]
ALL = LOCAL + ORACLE


def ids(parameters: dict) -> str:
    return "-".join(map(str, parameters.values()))


def models_sent(run: Harness) -> list:
    return [item for item in run.queued if item.message.tag is EpidemicTag.MODEL]


@pytest.mark.parametrize("parameters", ALL, ids=ids)
@pytest.mark.parametrize("recipients", [1, 2, 3, 6])
def test_el_1_every_node_sends_to_s_others(parameters: dict, recipients: int) -> None:
    """Out-degree s, no self; Oracle: undirected, so in-degree = out-degree = s."""
    run = Harness(build("epidemic", full(8), recipients=recipients, **parameters), zeros(8)).run(rounds=5)
    graphs = []
    for round_ in range(5):
        pairs = [(i.sender, i.receiver) for i in models_sent(run) if i.message.round == round_]
        assert len(pairs) == len(set(pairs))
        assert Counter(sender for sender, _ in pairs) == dict.fromkeys(range(8), recipients)
        assert all(a != b for a, b in pairs)
        if parameters in ORACLE:
            assert {(b, a) for a, b in pairs} == set(pairs)
        graphs.append(frozenset(pairs))
    assert len(set(graphs)) == (1 if parameters.get("redraw") is False else 5)


@pytest.mark.parametrize("parameters", LOCAL, ids=ids)
def test_el_1_notices_tell_everyone_else(parameters: dict) -> None:
    """EL-Local in the public code: n (n-1) messages a round; with shared draws only the models travel."""
    run = Harness(build("epidemic", full(8), recipients=3, **parameters), zeros(8)).run(rounds=4)
    notices = [item for item in run.queued if item.message.tag is EpidemicTag.NOTICE]
    assert len(models_sent(run)) == 4 * 8 * 3
    assert len(notices) == (4 * 8 * 4 if parameters["announce"] == "notices" else 0)
    assert all(item.message.body.values.size == 0 for item in notices)


def test_announce_is_refused_where_it_means_nothing() -> None:
    """An oracle's graph comes from the seed: nobody has to be told whom to expect."""
    assert EpidemicConfig().announce is Announce.NOTICES
    assert EpidemicConfig(graph=Graph.ORACLE).announce is None
    for announce in Announce:
        config = EpidemicConfig.model_validate({"graph": "oracle", "announce": announce.value, "recipients": 2})
        with pytest.raises(ConfigError, match=f"announce={announce.value}: must be left out with graph: oracle"):
            config.check(full(6), (10,))
    for config in (EpidemicConfig(recipients=2), EpidemicConfig(graph=Graph.ORACLE, recipients=2)):
        resolved = EpidemicConfig.model_validate(config.model_dump(mode="json"))
        assert resolved == config
        resolved.check(full(6), (10,))


def test_el_2_oracle_preserves_the_mean() -> None:
    """Oracle graphs are regular, so that equal weights are doubly stochastic."""
    models = random_models(8, 8)
    run = Harness(build("epidemic", full(8), recipients=3, graph="oracle"), models).run(rounds=10)
    np.testing.assert_allclose(run.models().mean(axis=0), np.mean(models, axis=0), atol=1e-6)


@pytest.mark.parametrize("parameters", LOCAL, ids=ids)
def test_el_2_local_preserves_the_mean_only_in_expectation(parameters: dict) -> None:
    """Seeds 0..299, one round."""
    models = random_models(8, 4)
    changes = np.array(
        [
            Harness(build("epidemic", full(8), (4,), recipients=3, seed=seed, **parameters), models)
            .run(rounds=1)
            .models()
            .mean(axis=0)
            for seed in range(300)
        ]
    ) - np.mean(models, axis=0)
    error = changes.std(axis=0) / np.sqrt(len(changes))
    assert np.all(changes.std(axis=0) > 0.01)
    assert np.all(np.abs(changes.mean(axis=0)) < 4.5 * error)


@pytest.mark.parametrize("parameters", ALL, ids=ids)
def test_el_3_everyone_as_recipient_is_complete_averaging(parameters: dict) -> None:
    """s = n-1 equals complete averaging."""
    models = random_models(6, 8)
    step = starting_at(models)
    run = Harness(build("epidemic", full(6), recipients=5, **parameters), zeros(8), step=step).run(rounds=1)
    np.testing.assert_allclose(run.models(), np.tile(np.mean(models, axis=0), (6, 1)), atol=1e-6)


@pytest.mark.parametrize("parameters", LOCAL, ids=ids)
def test_el_4_a_node_that_receives_nothing_keeps_its_model(parameters: dict) -> None:
    """And the others take the plain mean of what they received and their own."""
    models = random_models(6, 8)
    lonely = 0
    for seed in range(5):
        algorithms = build("epidemic", full(6), recipients=1, seed=seed, **parameters)
        run = Harness(algorithms, models).run(rounds=1)
        for node in range(6):
            senders = sorted(i.sender for i in models_sent(run) if i.receiver == node)
            if not senders:
                lonely += 1
                np.testing.assert_array_equal(run.model(node), models[node])
            mean = np.mean([models[i] for i in (node, *senders)], axis=0)
            np.testing.assert_allclose(run.model(node), mean, atol=1e-6)
    assert lonely > 0


@pytest.mark.parametrize("parameters", LOCAL, ids=ids)
def test_el_5_in_degree_is_binomial(parameters: dict) -> None:
    """In-degree under Local is Binomial(n-1, s/(n-1)): mean s and variance s (1 - s/(n-1)). Seed 0."""
    nodes, recipients, rounds = 9, 3, 400
    algorithms = build("epidemic", full(nodes), (1,), recipients=recipients, **parameters)
    run = Harness(algorithms, zeros(1)).run(rounds=rounds)
    degrees = np.zeros((rounds, nodes))
    for item in models_sent(run):
        degrees[item.message.round, item.receiver] += 1
    variance = recipients * (1 - recipients / (nodes - 1))
    error = np.sqrt(variance / rounds)
    assert degrees.mean() == recipients
    assert np.all(np.abs(degrees.mean(axis=0) - recipients) < 4.5 * error)
    assert abs(degrees.var() - variance) < 0.15 * variance


@pytest.mark.parametrize("parameters", ALL, ids=ids)
def test_timing_does_not_change_the_result(parameters: dict) -> None:
    """Synchronous: whatever arrives early waits for its round, so delays change no model."""
    rng, step = np.random.default_rng(0), quadratic(8, 8)
    delayed = Harness(
        build("epidemic", full(8), recipients=2, **parameters),
        zeros(8),
        step=step,
        compute=lambda node, _: int(rng.integers(1, 2000)) * (1 + 9 * (node == 3)),
        latency=lambda *_: int(rng.choice([0, 10, 9000])),
    ).run(rounds=12)
    lockstep = Harness(build("epidemic", full(8), recipients=2, **parameters), zeros(8), step=step)
    np.testing.assert_array_equal(delayed.models(), lockstep.run(rounds=12).models())


@pytest.mark.parametrize("parameters", ALL, ids=ids)
def test_waiting_for_names_the_silent_nodes(parameters: dict) -> None:
    """A lost message stops everyone; the explanation says who was not heard."""
    algorithms = build("epidemic", full(6), recipients=5, **parameters)
    run = Harness(algorithms, zeros(8), lose=lambda item: item.sender == 4).run(rounds=5)
    expected = dict.fromkeys((0, 1, 2, 3, 5), "messages of round 0 from nodes 4")
    waiting = run.waiting()
    assert {node: waiting[node] for node in expected} == expected
    assert [run.nodes[node].algorithm.waits_on() for node in expected] == [[4]] * 5
