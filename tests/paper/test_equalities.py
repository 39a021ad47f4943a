"""When two algorithms are one: which settings make one algorithm equal to another."""

import numpy as np
import pytest

from node.algorithms.epidemic import EpidemicTag
from node.core.recipients import regular_graph
from node.core.rng import stream
from node.core.topology import Topology, complete_bipartite, from_edges, full, k_regular, ring
from tests.harness import Harness, build, quadratic, random_models, starting_at, zeros


@pytest.mark.parametrize("seed", range(3))
def test_divshare_whole_and_unflushed_is_swift_divshare(seed: int) -> None:
    """Omega = 1 and no flush: the same run, bit for bit, under one seed, whatever the network does."""
    runs = []
    for kind, parameters in [("divshare", {"omega": 1, "flush": "none"}), ("swift_divshare", {})]:
        rng = np.random.default_rng(seed)
        compute = rng.integers(300, 3000, size=(8, 40)).tolist()
        latency = rng.integers(0, 3000, size=(8, 8)).tolist()
        run = Harness(
            build(kind, full(8), recipients=3, seed=seed, **parameters),
            zeros(8),
            step=quadratic(8, 8),
            compute=lambda i, round_, table=compute: table[i][round_],
            latency=lambda i, j, table=latency: table[i][j],
            transfer=lambda i, _: 100 * (1 + i),
        ).run(rounds=30)
        runs.append(run)
    first, second = runs
    np.testing.assert_array_equal(first.models(), second.models())
    traffic = [[(i.time, i.sender, i.receiver, i.message.round) for i in run.delivered] for run in (first, second)]
    assert traffic[0] == traffic[1]


def test_divshare_in_lockstep_is_epidemic_learning_once() -> None:
    """Omega = 1, lockstep, instantaneous: one mixing is one round of EL-Local with s = J, bit for bit.

    Both draw recipients from the same streams in the same way. DivShare shares and averages in one event, so
    what was shared in a round is averaged at the end of the next one.
    """
    models = random_models(8, 8)
    shared = Harness(build("divshare", full(8), omega=1, recipients=3), zeros(8), step=starting_at(models))
    epidemic = Harness(build("epidemic", full(8), recipients=3), zeros(8), step=starting_at(models))
    np.testing.assert_array_equal(shared.run(rounds=2).models(), epidemic.run(rounds=1).models())


def test_divshare_in_lockstep_is_epidemic_learning_with_delay_one() -> None:
    """Over a whole run: EL-Local's draws and weights, applied to what the others shared one round before.

    x_i <- (y_i(t) + sum over j that drew i in round t-1 of y_j(t-1)) / (1 + their number).
    """
    nodes, rounds, step = 8, 15, quadratic(8, 8)
    epidemic = Harness(build("epidemic", full(nodes), recipients=3), zeros(8)).run(rounds=rounds)
    drawn = np.zeros((rounds, nodes, nodes))  # round, receiver, sender
    for item in epidemic.queued:
        if item.message.tag is EpidemicTag.MODEL:
            drawn[item.message.round, item.receiver, item.sender] = 1
    expected, before = np.zeros((nodes, 8)), None
    for round_ in range(rounds):
        trained = np.array([step(i, round_, expected[i]) for i in range(nodes)])
        expected = trained
        if before is not None:
            heard = drawn[round_ - 1]
            expected = (trained + heard @ before) / (1 + heard.sum(axis=1, keepdims=True))
        before = trained
    run = Harness(build("divshare", full(nodes), omega=1, recipients=3), zeros(8), step=step)
    np.testing.assert_allclose(run.run(rounds=rounds).models(), expected, atol=1e-5)


@pytest.mark.parametrize("omega", [1.0, 0.25])
def test_divshare_to_everyone_in_lockstep_is_complete_averaging(omega: float) -> None:
    """J = n-1, lockstep: what D-PSGD does on the full graph, for any number of fragments."""
    models = random_models(6, 8)
    run = Harness(build("divshare", full(6), omega=omega, recipients=5), zeros(8), step=starting_at(models))
    complete = Harness(build("dpsgd", full(6)), zeros(8), step=starting_at(models)).run(rounds=1)
    np.testing.assert_allclose(run.run(rounds=2).models(), complete.models(), atol=1e-6)


@pytest.mark.parametrize("form", ["delta", "naive"])
def test_adpsgd_on_a_matching_in_lockstep_averages_with_one_half(form: str) -> None:
    """A perfect matching in lockstep: one active matching with alpha = 1/2, W = 1/2 on the matching."""
    matching = from_edges(6, [(0, 3), (1, 2), (4, 5)])
    weights = np.eye(6) / 2
    for a, b in matching.edges():
        weights[a, b] = weights[b, a] = 0.5
    step, expected = quadratic(6, 8), np.zeros((6, 8))
    for _ in range(12):
        expected = weights @ expected + np.array([step(i, 0, expected[i]) for i in range(6)]) - expected
    run = Harness(build("adpsgd", matching, form=form), zeros(8), step=step).run(rounds=12)
    np.testing.assert_allclose(run.models(), expected, atol=1e-5)


@pytest.mark.parametrize(
    "topology",
    [ring(6), full(5), complete_bipartite(6), k_regular(10, degree=4, rng=stream(0, "test"))],
    ids=["ring", "full", "bipartite", "regular"],
)
def test_swift_in_lockstep_on_a_regular_graph_is_dpsgd(topology: Topology) -> None:
    """Lockstep, regular graph: D-PSGD (``combine_then_adapt``) with w = 1/(deg+1)."""
    step = quadratic(topology.num_nodes, 8)
    swift = Harness(build("swift", topology), zeros(8), step=step).run(rounds=15)
    dpsgd = Harness(build("dpsgd", topology, order="combine_then_adapt"), zeros(8), step=step)
    np.testing.assert_allclose(swift.models(), dpsgd.run(rounds=15).models(), atol=1e-6)


@pytest.mark.parametrize("recipients", [1, 2, 3, 7])
def test_oracle_with_a_fixed_graph_is_dpsgd_on_it(recipients: int) -> None:
    """One graph for all rounds: D-PSGD on a static s-regular graph, weights 1/(s+1)."""
    step = quadratic(8, 8)
    parameters = {"graph": "oracle", "redraw": False, "recipients": recipients}
    oracle = Harness(build("epidemic", full(8), seed=4, **parameters), zeros(8), step=step)
    dpsgd = Harness(build("dpsgd", regular_graph(8, recipients, 4, 0)), zeros(8), step=step)
    np.testing.assert_allclose(oracle.run(rounds=15).models(), dpsgd.run(rounds=15).models(), atol=1e-6)
