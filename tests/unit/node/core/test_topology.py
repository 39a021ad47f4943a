"""Each builder gives the graph it names, and refuses what cannot be."""

from collections.abc import Callable

import numpy as np
import pytest

from node.core import topology as graphs
from node.core.errors import ConfigError
from node.core.types import NodeId


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def degrees(graph: graphs.Topology) -> list[int]:
    return [graph.degree(node) for node in range(graph.num_nodes)]


def test_ring() -> None:
    graph = graphs.ring(5)
    assert graph.adjacency == ((1, 4), (0, 2), (1, 3), (2, 4), (0, 3))
    assert graphs.ring(2).adjacency == ((1,), (0,))
    assert list(graph.edges()) == [(0, 1), (0, 4), (1, 2), (2, 3), (3, 4)]
    assert graph.num_edges == 5


def test_full_on_a_thousand_nodes() -> None:
    graph = graphs.full(1000)
    assert graph.num_edges == 499_500
    assert graph.neighbors(0)[:2] == (1, 2)
    assert graph == graphs.full(1000)
    assert hash(graph) == hash(graphs.full(1000))
    assert graphs.full(1).adjacency == ((),)


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_full_is_the_graph_of_all_edges(nodes: int) -> None:
    """Whichever way it was made: both are one key of a cache."""
    graph = graphs.full(nodes)
    walked = graphs.from_edges(nodes, [(a, b) for a in range(nodes) for b in range(a)])
    assert graph == walked
    assert walked == graph
    assert hash(graph) == hash(walked)
    assert tuple(graph.adjacency) == walked.adjacency
    assert graph.adjacency[:2] == walked.adjacency[:2]
    assert list(graph.edges()) == list(walked.edges())
    assert (graph.components(), graph.two_coloring()) == (walked.components(), walked.two_coloring())
    assert degrees(graph) == degrees(walked)
    assert graph != graphs.full(nodes + 1)


def test_full_on_ten_thousand_nodes_makes_no_row_that_nobody_asks_for() -> None:
    """A hundred million neighbors take ten seconds and gigabytes."""
    graph = graphs.full(10_000)
    assert graph.num_edges == 49_995_000
    assert degrees(graph) == [9_999] * 10_000
    assert graph.is_connected()
    assert hash(graph) == hash(graphs.full(10_000))
    assert graph == graphs.full(10_000)
    assert vars(graph.adjacency)["_rows"] == {}
    assert graph.neighbors(9_999) is graph.neighbors(9_999)
    assert list(vars(graph.adjacency)["_rows"]) == [9_999]


def test_star_and_complete_bipartite() -> None:
    assert degrees(graphs.star(5)) == [4, 1, 1, 1, 1]
    graph = graphs.complete_bipartite(5)
    assert graph.adjacency == ((1, 3), (0, 2, 4), (1, 3), (0, 2, 4), (1, 3))
    assert graph.two_coloring() == (0, 1, 0, 1, 0)


@pytest.mark.parametrize(("nodes", "degree"), [(2, 1), (8, 3), (10, 6), (10, 8), (7, 6), (60, 29), (200, 4)])
def test_k_regular(nodes: int, degree: int) -> None:
    for seed in range(5):
        graph = graphs.k_regular(nodes, degree=degree, rng=rng(seed))
        assert degrees(graph) == [degree] * nodes
        assert graph.is_connected()
    assert graph == graphs.k_regular(nodes, degree=degree, rng=rng(4))


def test_seeds_give_different_graphs() -> None:
    assert graphs.k_regular(30, degree=4, rng=rng(0)) != graphs.k_regular(30, degree=4, rng=rng(1))


@pytest.mark.parametrize(
    ("nodes", "degree", "message"),
    [
        (5, 3, "degree=3: num_nodes x degree = 15 must be even"),
        (4, 4, "degree=4: must be between 1 and num_nodes-1=3"),
        (4, 1, "degree=1: must be at least 2 to connect 4 nodes"),
    ],
)
def test_k_regular_refuses(nodes: int, degree: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        graphs.k_regular(nodes, degree=degree, rng=rng())
    assert str(caught.value) == message


def test_small_world() -> None:
    lattice = graphs.small_world(10, degree=4, rewire_probability=0, rng=rng())
    assert lattice.neighbors(0) == (1, 2, 8, 9)
    rewired = graphs.small_world(60, degree=4, rewire_probability=0.5, rng=rng())
    assert rewired.num_edges == 120
    assert rewired.is_connected()
    assert graphs.small_world(5, degree=4, rewire_probability=1, rng=rng()) == graphs.full(5)
    with pytest.raises(ConfigError, match="degree=3: must be even"):
        graphs.small_world(10, degree=3, rewire_probability=0, rng=rng())


@pytest.mark.parametrize(
    ("nodes", "degree", "probability"), [(11, 10, 1), (17, 16, 0.5), (301, 298, 1), (300, 270, 0.3)]
)
def test_small_world_with_nearly_all_neighbors(nodes: int, degree: int, probability: float) -> None:
    """Edges move although a node has next to nobody to move them to; the mean degree is kept."""
    lattice = graphs.small_world(nodes, degree=degree, rewire_probability=0, rng=rng())
    graph = graphs.small_world(nodes, degree=degree, rewire_probability=probability, rng=rng())
    assert degrees(lattice) == [degree] * nodes
    assert lattice.neighbors(0)[: degree // 2] == tuple(range(1, degree // 2 + 1))
    assert graph.num_edges == lattice.num_edges
    assert graph.is_connected()
    assert (graph == lattice) == (lattice == graphs.full(nodes))
    assert graph == graphs.small_world(nodes, degree=degree, rewire_probability=probability, rng=rng())


@pytest.mark.parametrize(
    "build",
    [
        lambda: graphs.small_world(10_000, degree=9_998, rewire_probability=0.1, rng=rng()),
        lambda: graphs.k_regular(10_000, degree=5_000, rng=rng()),
        lambda: graphs.k_regular(10_000, degree=9_000, rng=rng()),
        lambda: graphs.erdos_renyi(10_000, edge_probability=0.5, rng=rng()),
        lambda: graphs.complete_bipartite(10_000),
    ],
)
def test_graphs_that_would_take_minutes_are_refused(build: Callable[[], graphs.Topology]) -> None:
    with pytest.raises(ConfigError, match="00 edges, must be at most 5,000,000"):
        build()


def test_graphs_that_are_full_are_not() -> None:
    assert graphs.k_regular(10_000, degree=9_999, rng=rng()) == graphs.full(10_000)
    assert graphs.erdos_renyi(10_000, edge_probability=1, rng=rng()) == graphs.full(10_000)


def test_torus() -> None:
    graph = graphs.torus(12)
    assert graph == graphs.torus(12, rows=3, columns=4) == graphs.torus(12, rows=3)
    assert graph.neighbors(0) == (1, 3, 4, 8)
    assert graphs.torus(4).adjacency == ((1, 2), (0, 3), (0, 3), (1, 2))
    assert degrees(graphs.torus(60, columns=10)) == [4] * 60
    with pytest.raises(ConfigError, match="num_nodes=13: must be a product of two numbers"):
        graphs.torus(13)
    with pytest.raises(ConfigError, match="rows x columns=5 x 2: must both be >= 2 and multiply to num_nodes=12"):
        graphs.torus(12, rows=5)


def test_exponential() -> None:
    graph = graphs.exponential(16)
    assert graph.neighbors(0) == (1, 2, 4, 8, 12, 14, 15)
    assert graphs.exponential(2) == graphs.full(2)


def test_erdos_renyi() -> None:
    graph = graphs.erdos_renyi(50, edge_probability=0.2, rng=rng())
    assert graph.is_connected()
    assert 150 < graph.num_edges < 340
    assert graphs.erdos_renyi(6, edge_probability=1, rng=rng()) == graphs.full(6)
    with pytest.raises(ConfigError, match=r"edge_probability=0.03: no connected graph found in 200 tries"):
        graphs.erdos_renyi(50, edge_probability=0.03, rng=rng())
    with pytest.raises(ConfigError, match=r"edge_probability=0.0001: no connected graph is to be expected"):
        graphs.erdos_renyi(10_000, edge_probability=0.0001, rng=rng())


@pytest.mark.parametrize(
    "build",
    [graphs.ring, graphs.star, graphs.complete_bipartite, graphs.exponential],
    ids=lambda f: f.__name__,
)
def test_one_node_is_refused(build: object) -> None:
    with pytest.raises(ConfigError, match="num_nodes=1: "):
        build(1)  # type: ignore[operator]


def test_edge_list() -> None:
    text = "# a path\n0 1\n\n2\t1  # backwards\n1 0\n"
    assert graphs.parse_edge_list(text, 3, place="g.txt").adjacency == ((1,), (0, 2), (1,))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("0", "edge=0: must be two node numbers"),
        ("0 x", "edge=0 x: must be two node numbers"),
        ("0 1 2", "edge=0 1 2: must be two node numbers"),
        ("-1 1", "edge=-1 1: must be two node numbers"),
        ("0 3", "edge=0 3: both ends must be between 0 and 2"),
        ("1 1", "edge=1 1: must join two different nodes"),
    ],
)
def test_edge_list_names_file_and_line(line: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        graphs.parse_edge_list(f"0 1\n{line}\n", 3, place="g.txt")
    assert str(caught.value) == f"g.txt:2: {problem}"


def test_components_and_coloring() -> None:
    graph = graphs.from_edges(5, [(0, 3), (1, 2)])
    assert graph.components() == ((0, 3), (1, 2), (4,))
    assert not graph.is_connected()
    assert graph.two_coloring() == (0, 0, 1, 1, 0)
    assert graphs.ring(6).is_bipartite()
    assert graphs.ring(5).two_coloring() is None


def test_a_lopsided_adjacency_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="undirected"):
        graphs.Topology(((NodeId(1),), ()))


def test_luck_that_runs_out_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse graphs are drawn again until they are connected, but not for ever."""
    monkeypatch.setattr(graphs.Topology, "is_connected", lambda self: False)
    with pytest.raises(ConfigError, match=r"degree=2: no connected graph found in \d+ tries"):
        graphs.k_regular(8, degree=2, rng=rng())
    with pytest.raises(ConfigError, match=r"rewire_probability=0.5: no connected graph found in \d+ tries"):
        graphs.small_world(8, degree=2, rewire_probability=0.5, rng=rng())


def test_a_graph_without_nodes_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_nodes=0: must be at least 1"):
        graphs.from_edges(0, [])
    with pytest.raises(ConfigError, match="edge=0 3: both ends must be between 0 and 2"):
        graphs.from_edges(3, [(0, 3)])
