"""Mixing matrices on random graphs: GEN-4, DPS-1..3, SWI-1 and SWI-2 at the level of weights."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core import mixing
from node.core.errors import ConfigError
from node.core.mixing import MixingMatrix
from node.core.topology import Topology, from_edges, full, k_regular, ring, star

TOLERANCE = 1e-12


@st.composite
def connected_graphs(draw: st.DrawFn) -> Topology:
    """A random tree with random further edges."""
    n = draw(st.integers(1, 14))
    tree = [(node, draw(st.integers(0, node - 1))) for node in range(1, n)]
    node = st.integers(0, n - 1)
    more = draw(st.lists(st.tuples(node, node), max_size=30))
    return from_edges(n, tree + [(a, b) for a, b in more if a != b])


BUILDERS = [mixing.metropolis_hastings, mixing.ccw]


def check(matrix: MixingMatrix) -> None:
    dense = matrix.dense()
    n = matrix.topology.num_nodes
    assert np.array_equal(dense, dense.T)
    assert np.all(dense >= 0)
    assert np.all(matrix.own > 0)
    np.testing.assert_allclose(dense.sum(axis=1), 1, atol=TOLERANCE)
    np.testing.assert_allclose(dense.sum(axis=0), 1, atol=TOLERANCE)
    for i in range(n):
        row = matrix.row(i)
        assert tuple(neighbor for neighbor, _ in row.neighbors) == matrix.topology.neighbors(i)
        assert row.own + sum(weight for _, weight in row.neighbors) == pytest.approx(1)
        strangers = sorted(set(range(n)) - {i} - set(matrix.topology.neighbors(i)))
        assert not dense[i, strangers].any()


@pytest.mark.parametrize("build", BUILDERS)
@settings(max_examples=150, deadline=None)
@given(graph=connected_graphs(), seed=st.integers(0, 99))
def test_doubly_stochastic_and_mean_preserving(build: object, graph: Topology, seed: int) -> None:
    """DPS-1, SWI-1, and GEN-4 in float64."""
    matrix: MixingMatrix = build(graph)  # type: ignore[operator]
    check(matrix)
    x = np.random.default_rng(seed).standard_normal((graph.num_nodes, 5))
    np.testing.assert_allclose((matrix.dense() @ x).mean(axis=0), x.mean(axis=0), atol=TOLERANCE)


@pytest.mark.parametrize("build", BUILDERS)
@settings(max_examples=60, deadline=None)
@given(graph=connected_graphs(), seed=st.integers(0, 99))
def test_weighted_average_keeps_the_mean_and_the_hull(build: object, graph: Topology, seed: int) -> None:
    """GEN-3 and GEN-4 in float32, with the averaging that algorithms use."""
    matrix: MixingMatrix = build(graph)  # type: ignore[operator]
    x = np.random.default_rng(seed).standard_normal((graph.num_nodes, 7)).astype(np.float32)
    before = x.copy()
    mixed = np.stack(
        [
            mixing.weighted_average(x[i], matrix.weights[i].tolist(), [x[j] for j in graph.neighbors(i)])
            for i in range(graph.num_nodes)
        ]
    )
    assert mixed.dtype == np.float32
    assert np.array_equal(x, before)
    np.testing.assert_allclose(mixed, matrix.dense() @ x.astype(np.float64), atol=1e-5)
    np.testing.assert_allclose(mixed.mean(axis=0, dtype=float), x.mean(axis=0, dtype=float), atol=1e-5)
    assert np.all(mixed <= x.max(axis=0) + 1e-5)
    assert np.all(mixed >= x.min(axis=0) - 1e-5)


@pytest.mark.parametrize("build", [*BUILDERS, mixing.uniform])
def test_complete_graph_averages_in_one_step(build: object) -> None:
    """DPS-2."""
    x = np.random.default_rng(0).standard_normal((9, 4))
    mixed = build(full(9)).dense() @ x  # type: ignore[operator]
    np.testing.assert_allclose(mixed, np.tile(x.mean(axis=0), (9, 1)), atol=TOLERANCE)


@pytest.mark.parametrize("build", BUILDERS)
@settings(max_examples=60, deadline=None)
@given(graph=connected_graphs(), seed=st.integers(0, 99))
def test_consensus_distance_contracts(build: object, graph: Topology, seed: int) -> None:
    """DPS-3: by the square of the second largest absolute eigenvalue, at least."""
    matrix: MixingMatrix = build(graph)  # type: ignore[operator]
    x = np.random.default_rng(seed).standard_normal((graph.num_nodes, 3))
    spread = ((x - x.mean(axis=0)) ** 2).sum()
    mixed = matrix.dense() @ x
    after = ((mixed - mixed.mean(axis=0)) ** 2).sum()
    gap = mixing.spectral_gap(matrix)
    assert -TOLERANCE <= gap <= 1 + TOLERANCE
    assert after <= (1 - gap) ** 2 * spread + 1e-9


@pytest.mark.parametrize("build", [*BUILDERS, mixing.uniform])
@pytest.mark.parametrize("degree", [2, 4, 9])
def test_regular_graphs_have_equal_weights(build: object, degree: int) -> None:
    """SWI-2."""
    graph = k_regular(10, degree=degree, rng=np.random.default_rng(1))
    matrix: MixingMatrix = build(graph)  # type: ignore[operator]
    for row in matrix.weights:
        np.testing.assert_allclose(row, 1 / (degree + 1), atol=TOLERANCE)
    check(matrix)


def test_ccw_by_hand() -> None:
    """A path 0 - 1 - 2 - 3: the middle nodes offer 1/3, their ends take it."""
    matrix = mixing.ccw(from_edges(4, [(0, 1), (1, 2), (2, 3)]))
    expected = np.array([[2, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 2]]) / 3
    np.testing.assert_allclose(matrix.dense(), expected, atol=TOLERANCE)
    # The hub offers 1/5 to each; leaves 1 and 2, which are also joined, then split 4/5 with one edge left.
    matrix = mixing.ccw(from_edges(5, [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2)]))
    assert matrix.dense()[1, 2] == pytest.approx(0.4)
    assert matrix.own.tolist() == pytest.approx([0.2, 0.4, 0.4, 0.8, 0.8])
    # The hub 0 offers 1/4 to each. Of two neighbors of degree 2, node 3 then offers 3/8 and node 4 offers 1/3,
    # which is less and counts.
    matrix = mixing.ccw(from_edges(6, [(0, 1), (0, 2), (0, 3), (3, 4), (4, 5)]))
    assert matrix.dense()[3, 4] == pytest.approx(1 / 3)
    assert matrix.own.tolist() == pytest.approx([1 / 4, 3 / 4, 3 / 4, 5 / 12, 1 / 3, 2 / 3])


def test_ccw_counts_the_smaller_of_two_offers_for_their_edge_alone() -> None:
    """The departure from the public code, on SWIFT's ring of cliques of 3, 3 and 4 clients.

    Client 0 has 0.8 left for clients 1 and 2 and itself, and offers 4/15; client 2, as large, offers 1/4. So their edge
    weighs 1/4, and client 1, which is smaller, takes 4/15. The code gives it the 1/4 of the other edge.
    """
    cliques = [(0, 1, 2), (3, 4, 5), (6, 7, 8, 9)]
    inside = [pair for clique in cliques for pair in combinations(clique, 2)]
    matrix = mixing.ccw(from_edges(10, [*inside, (2, 3), (5, 6), (9, 0)]))
    check(matrix)
    assert matrix.dense()[0, [1, 2, 9]] == pytest.approx([4 / 15, 1 / 4, 1 / 5])


def test_ccw_never_gives_away_more_than_everything() -> None:
    """Three neighbors that each offer nearly one half: the published steps would leave -0.29 for node 0."""
    edges = []
    leaf = 13
    for hub_index in range(3):
        middle = 1 + hub_index
        edges.append((0, middle))
        for hub in (4 + 3 * hub_index, 5 + 3 * hub_index, 6 + 3 * hub_index):
            edges.append((middle, hub))
            edges += [(hub, leaf + k) for k in range(9)]
            leaf += 9
    graph = from_edges(leaf, edges)
    check(mixing.ccw(graph))
    assert mixing.ccw(graph).own[0] == pytest.approx(0.25)


def test_equal_vectors_stay_exactly_equal() -> None:
    """GEN-2 needs this: nothing changes where nothing differs."""
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert np.array_equal(mixing.weighted_average(x, [0.1, 0.3, 1 / 7], [x, x.copy(), x]), x)
    assert mixing.weighted_average(x, [], []) is not x


def test_uniform_refuses_irregular_graphs_and_gaps_are_known() -> None:
    with pytest.raises(ConfigError, match="weights=uniform: needs equal degrees, this topology has 1 to 3"):
        mixing.uniform(star(4))
    assert mixing.spectral_gap(mixing.uniform(ring(4))) == pytest.approx(2 / 3)
    assert mixing.spectral_gap(mixing.uniform(full(1))) == 1
    assert mixing.metropolis_hastings(ring(4)) is mixing.metropolis_hastings(ring(4))
