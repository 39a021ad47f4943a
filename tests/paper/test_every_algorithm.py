"""What holds for every averaging algorithm: GEN-1 to GEN-4 and GEN-6, each stated at its test."""

from dataclasses import dataclass

import numpy as np
import pytest

from node.algorithms.registry import ALGORITHMS
from node.core.errors import ConfigError
from node.core.mixing import ccw
from node.core.topology import Topology, from_edges, full, ring
from node.core.types import NodeId
from tests.harness import ROUND, Harness, build, quadratic, random_models, zeros

VARIANTS: list[tuple[str, dict]] = [
    *((kind, dict(entry.config.small_run)) for kind, entry in ALGORITHMS.items()),
    ("adpsgd", {"form": "naive"}),
    ("adpsgd", {"form": "blocking"}),
    ("adpsgd", {"roles": "parity"}),
    ("adpsgd", {"on_missing_peer": "skip"}),
    ("divshare", {"recipients": 2, "omega": 0.4, "rounding": "ceil", "layout": "strided", "flush": "all"}),
    ("dpsgd", {"order": "combine_then_adapt"}),
    ("dpsgd", {"on_missing_peer": "skip"}),
    ("epidemic", {"recipients": 2, "announce": "seed"}),
    ("epidemic", {"recipients": 2, "graph": "oracle"}),
    ("epidemic", {"recipients": 2, "on_missing_peer": "skip"}),
    ("swift", {"broadcast": "after_gradient"}),
    ("swift", {"memory": "fresh_only"}),
    ("swift", {"memory": "fresh_only", "missing_weight": "rescale", "flush": "queued_only"}),
]
"""Every algorithm that is registered, and more parameters of some."""


def name(value: object) -> str:
    return "-".join(map(str, value.values())) if isinstance(value, dict) else str(value)


every_algorithm = pytest.mark.parametrize(("kind", "parameters"), VARIANTS, ids=name)


def graph_for(kind: str, nodes: int = 6) -> Topology:
    """A ring where a full graph is not needed, else the algorithm's own."""
    config = ALGORITHMS[kind].config
    own = config.small_graph(nodes)
    try:
        config.model_validate(config.small_run).check(ring(nodes), (8,))
    except ConfigError:
        return own
    return ring(nodes) if own == full(nodes) else own


def disorder(seed: int) -> dict:
    """Random compute times and delays, and a slow uplink at node 0."""
    rng = np.random.default_rng(seed)
    return {
        "compute": lambda *_: int(rng.integers(100, 3000)),
        "latency": lambda *_: int(rng.choice([0, 50, 5000])),
        "transfer": lambda sender, _: 900 if sender == 0 else 10,
    }


@every_algorithm
def test_messages_are_those_that_the_algorithm_carries(kind: str, parameters: dict) -> None:
    """Real nodes would drop others."""
    algorithms = build(kind, graph_for(kind), **parameters)
    run = Harness(algorithms, zeros(8), step=quadratic(6, 8)).run(rounds=10)
    carries = algorithms[0].carries
    assert all(type(item.message.body) is carries[item.message.tag] for item in run.queued)
    assert len({tag.value for tag in carries}) == len(carries)
    assert all(1 <= tag.value <= 255 for tag in carries)
    assert {*algorithms[0].answers, *algorithms[0].answers.values()} <= set(carries)


@every_algorithm
def test_gen_1_one_node_is_plain_sgd(kind: str, parameters: dict) -> None:
    """One node, no peers: the run equals plain SGD bit for bit."""
    step, expected = quadratic(1, 8), zeros(8)
    for round_ in range(10):
        expected = step(0, round_, expected)
    algorithms = build(kind, full(1), check=False, **parameters)
    run = Harness(algorithms, zeros(8), step=step).run(rounds=10)
    assert run.nodes[0].rounds == 10
    np.testing.assert_array_equal(run.model(0), expected)
    assert run.queued == []


@every_algorithm
def test_gen_2_equal_models_and_no_learning_change_nothing(kind: str, parameters: dict) -> None:
    """eta = 0 and all nodes equal at start: nothing ever changes (but for rounding in (x + x + x) / 3)."""
    start = random_models(1, 8)[0]
    run = Harness(build(kind, graph_for(kind), **parameters), start, **disorder(2)).run(rounds=12)
    for state in run.nodes:
        for model in state.starts:
            np.testing.assert_allclose(model, start, rtol=1e-6)


@every_algorithm
@pytest.mark.parametrize("seed", range(2))
def test_gen_3_models_stay_between_the_initial_ones(kind: str, parameters: dict, seed: int) -> None:
    """Convexity: with eta = 0 every coordinate stays inside [min_i, max_i] of the initial values."""
    models = random_models(6, 8, seed)
    run = Harness(build(kind, graph_for(kind), seed=seed, **parameters), models, **disorder(seed))
    run.run(rounds=20)
    low, high = np.min(models, axis=0) - 1e-5, np.max(models, axis=0) + 1e-5
    for state in run.nodes:
        assert len(state.starts) == 21
        for model in state.starts:
            assert np.all((model >= low) & (model <= high))


@pytest.mark.parametrize(
    ("kind", "topology", "parameters"),
    [
        ("adpsgd", from_edges(6, [(0, 1), (2, 3), (4, 5)]), {}),
        ("adpsgd", ring(6), {"form": "blocking"}),
        ("dpsgd", from_edges(5, [(0, 1), (1, 2), (2, 3), (3, 1), (3, 4)]), {}),
        ("dpsgd", from_edges(5, [(0, 1), (1, 2), (2, 3), (3, 1), (3, 4)]), {"order": "combine_then_adapt"}),
        ("epidemic", full(6), {"graph": "oracle", "recipients": 3}),
        ("swift", from_edges(5, [(0, 1), (1, 2), (2, 3), (3, 1), (3, 4)]), {}),
        ("divshare", full(4), {"recipients": 3, "omega": 0.5}),
    ],
    ids=name,
)
def test_gen_4_lockstep_mixing_preserves_the_mean(kind: str, topology: Topology, parameters: dict) -> None:
    """For doubly stochastic lockstep mixing the mean is preserved, to 1e-5 in float32."""
    models = random_models(topology.num_nodes, 8)
    run = Harness(build(kind, topology, **parameters), models)
    for rounds in range(1, 8):
        run.run(rounds=rounds)
        now = run.models()
        if kind == "adpsgd":  # exchanges go on while local steps run
            now = np.array([state.algorithm.model for state in run.nodes])
        np.testing.assert_allclose(now.mean(axis=0), np.mean(models, axis=0), rtol=1e-5, atol=1e-6)
        if kind == "divshare" and rounds == 2:
            break  # one mixing; from then on, own and received models differ in age


NEW_NAMES = [2, 5, 0, 3, 4, 1]  # keeps even nodes even, and so the roles of AD-PSGD


@dataclass(frozen=True)
class Relabelled(Topology):
    """A topology under new names whose neighbors keep the old order, so that equal draws mean equal peers."""

    def __post_init__(self) -> None:
        pass  # the order of neighbors is what is being changed


def relabelled(topology: Topology) -> Relabelled:
    rows: list[tuple[NodeId, ...]] = [()] * topology.num_nodes
    for node in range(topology.num_nodes):
        rows[NEW_NAMES[node]] = tuple(NodeId(NEW_NAMES[peer]) for peer in topology.neighbors(node))
    return Relabelled(tuple(rows))


RELABELLED = [
    (kind, parameters)
    for kind, parameters in VARIANTS
    # Draws that all nodes derive from the shared seed are a function of the names.
    if parameters.get("announce") != "seed" and parameters.get("graph") != "oracle"
]


@pytest.mark.parametrize(("kind", "parameters"), RELABELLED, ids=name)
def test_gen_6_names_do_not_matter(kind: str, parameters: dict) -> None:
    """Relabelling nodes with their data, seeds and links permutes the results and changes nothing else."""
    topology = Topology(ring(6).adjacency) if kind == "adpsgd" else graph_for(kind)
    if parameters.get("roles") == "parity":
        topology = full(6)
    old_names = np.argsort(NEW_NAMES).tolist()
    step = quadratic(6, 8)
    rng = np.random.default_rng(6)
    compute = rng.integers(500, 2000, size=(6, 40)).tolist()
    latency = rng.integers(0, 5000, size=(6, 6)).tolist()
    transfer = rng.integers(1, 400, size=6).tolist()

    first = Harness(
        build(kind, topology, seed=3, **parameters),
        zeros(8),
        step=step,
        compute=lambda i, round_: compute[i][round_],
        latency=lambda i, j: latency[i][j],
        transfer=lambda i, _: transfer[i],
    ).run(rounds=25)
    second = Harness(
        build(kind, relabelled(topology), seed=3, stream_keys=old_names, **parameters),
        zeros(8),
        step=lambda i, round_, params: step(old_names[i], round_, params),
        compute=lambda i, round_: compute[old_names[i]][round_],
        latency=lambda i, j: latency[old_names[i]][old_names[j]],
        transfer=lambda i, _: transfer[old_names[i]],
    ).run(rounds=25)
    assert first.nodes[0].rounds * ROUND > 0
    np.testing.assert_allclose(second.models()[NEW_NAMES], first.models(), atol=2e-5)
    assert len(first.delivered) == len(second.delivered)


def test_weights_do_not_depend_on_names() -> None:
    """The relabelling above reaches the weights too."""
    topology = from_edges(6, [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 5)])
    weights = ccw(relabelled(topology)).dense()
    np.testing.assert_allclose(weights[np.ix_(NEW_NAMES, NEW_NAMES)], ccw(topology).dense(), atol=1e-12)
