"""Topologies: undirected graphs of who may exchange with whom, as immutable, hashable values.

Only numpy and the standard library; nothing here reads a configuration model (see
``orchestrator/experiment/topologies.py``) and only :func:`parse_edge_list` knows about text. Every random builder
takes a seeded generator, so one seed gives one graph.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from itertools import chain
from typing import ClassVar, overload

import numpy as np
import numpy.typing as npt

from node.core.bounds import EDGE_LINES_MAX, EDGES_MAX, SHOWN_LETTERS_MAX
from node.core.errors import ConfigError
from node.core.types import NodeId

MAX_ATTEMPTS = 200
"""Attempts of a random builder before it gives up."""

ISOLATED_MAX = 14.0
"""Expected nodes without a neighbor from which on no random graph is drawn: one in a million would be connected."""


class _AllOthers(Sequence[tuple[NodeId, ...]]):
    """The neighbors of each node in the full graph. A row is made when it is first asked for.

    10,000 nodes have a hundred million neighbors, which most algorithms never look at.
    """

    def __init__(self, num_nodes: int) -> None:
        """Begin without rows."""
        self._everyone = tuple(NodeId(node) for node in range(num_nodes))
        self._rows: dict[int, tuple[NodeId, ...]] = {}

    def __len__(self) -> int:
        return len(self._everyone)

    @overload
    def __getitem__(self, index: int) -> tuple[NodeId, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[NodeId, ...], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[NodeId, ...] | tuple[tuple[NodeId, ...], ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        node = self._everyone[index]
        if node not in self._rows:
            self._rows[node] = self._everyone[:node] + self._everyone[node + 1 :]
        return self._rows[node]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _AllOthers):
            return len(self) == len(other)
        return tuple(self) == other

    __hash__ = None  # type: ignore[assignment]  # as of a list: the graph has one of its own

    def __repr__(self) -> str:
        return f"all others of {len(self)}"


@dataclass(frozen=True)
class Topology:
    """An undirected simple graph on nodes ``0..num_nodes-1``.

    Attributes:
        adjacency: Per node its neighbors in increasing order. Symmetric, no loops. The rows of the full
            graph share their integers: those of 1,000 nodes take about 8 MB, once all have been asked for.
    """

    rebuilt_attributes: ClassVar[frozenset[str]] = frozenset({"adjacency", "_hash"})

    adjacency: Sequence[tuple[NodeId, ...]]

    def __post_init__(self) -> None:
        count = len(self.adjacency)
        if count < 1:
            raise ConfigError("num_nodes=0: must be at least 1")
        if self.is_full:
            return
        degrees = np.fromiter(map(len, self.adjacency), np.int64, count)
        # The full graph has count^2 pairs, and so many codes.
        narrow: npt.DTypeLike = np.int32 if count < 46_341 else np.int64
        rows = np.repeat(np.arange(count, dtype=narrow), degrees)
        columns = np.fromiter(chain.from_iterable(self.adjacency), narrow, int(degrees.sum()))
        assert np.all((columns >= 0) & (columns < count) & (columns != rows)), "a neighbor is out of range"
        codes = rows * count + columns
        assert np.all(np.diff(codes) > 0), "neighbors must be sorted and distinct"
        assert np.array_equal(np.sort(columns * count + rows), codes), "the graph must be undirected"

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(map(self.degree, range(self.num_nodes))))

    def __hash__(self) -> int:
        return self._hash  # hashing all degrees on each cache look-up would show

    @property
    def is_full(self) -> bool:
        """True if this is known to be the full graph, whose edges nobody should walk along."""
        return isinstance(self.adjacency, _AllOthers)

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return len(self.adjacency)

    @property
    def num_edges(self) -> int:
        """Number of undirected edges."""
        return sum(map(self.degree, range(self.num_nodes))) // 2

    def neighbors(self, node: int) -> tuple[NodeId, ...]:
        """The neighbors of ``node`` in increasing order."""
        return self.adjacency[node]

    def degree(self, node: int) -> int:
        """Return the number of neighbors of ``node``."""
        return self.num_nodes - 1 if self.is_full else len(self.adjacency[node])

    def edges(self) -> Iterator[tuple[NodeId, NodeId]]:
        """Each edge once, as (smaller, larger), in increasing order."""
        for node, neighbors in enumerate(self.adjacency):
            for neighbor in neighbors:
                if neighbor > node:
                    yield NodeId(node), neighbor

    def components(self) -> tuple[tuple[NodeId, ...], ...]:
        """The connected components, each sorted, in order of their smallest node."""
        if self.is_full:
            return (tuple(map(NodeId, range(self.num_nodes))),)
        seen = [False] * self.num_nodes
        found = []
        for root in range(self.num_nodes):
            if seen[root]:
                continue
            seen[root] = True
            members = [NodeId(root)]
            for node in members:  # grows while it is read
                for neighbor in self.adjacency[node]:
                    if not seen[neighbor]:
                        seen[neighbor] = True
                        members.append(neighbor)
            found.append(tuple(sorted(members)))
        return tuple(found)

    def is_connected(self) -> bool:
        """Return whether every node reaches every other one."""
        return len(self.components()) == 1

    def two_coloring(self) -> tuple[int, ...] | None:
        """A colour 0 or 1 per node such that every edge joins both colours, or None where there is none.

        The smallest node of each component has colour 0.
        """
        colors = [-1] * self.num_nodes
        for root in range(self.num_nodes):
            if colors[root] >= 0:
                continue
            colors[root] = 0
            queue = deque([root])
            while queue:
                node = queue.popleft()
                for neighbor in self.adjacency[node]:
                    if colors[neighbor] < 0:
                        colors[neighbor] = 1 - colors[node]
                        queue.append(neighbor)
                    elif colors[neighbor] == colors[node]:
                        return None
        return tuple(colors)

    def is_bipartite(self) -> bool:
        """Return whether the graph has a two-colouring."""
        return self.two_coloring() is not None


def from_edges(num_nodes: int, edges: Iterable[tuple[int, int]]) -> Topology:
    """The graph with these undirected edges; an edge may be given in either direction and more than once.

    Raises:
        ConfigError: An end is out of range or an edge is a loop.
    """
    neighbors: list[set[int]] = [set() for _ in range(num_nodes)]
    for a, b in edges:
        if not (0 <= a < num_nodes and 0 <= b < num_nodes):
            raise ConfigError(f"edge={a} {b}: both ends must be between 0 and {num_nodes - 1}")
        if a == b:
            raise ConfigError(f"edge={a} {b}: must join two different nodes")
        neighbors[a].add(b)
        neighbors[b].add(a)
    return Topology(tuple(tuple(NodeId(other) for other in sorted(row)) for row in neighbors))


def full(num_nodes: int) -> Topology:
    """Everyone is everyone's neighbor."""
    return Topology(_AllOthers(num_nodes))


def ring(num_nodes: int) -> Topology:
    """A cycle; two nodes share a single edge.

    Raises:
        ConfigError: Fewer than two nodes.
    """
    _require(num_nodes >= 2, f"num_nodes={num_nodes}: a ring needs at least 2")
    return from_edges(num_nodes, ((node, (node + 1) % num_nodes) for node in range(num_nodes)))


def star(num_nodes: int) -> Topology:
    """Node 0 in the centre, everyone else its neighbor only.

    Raises:
        ConfigError: Fewer than two nodes.
    """
    _require(num_nodes >= 2, f"num_nodes={num_nodes}: a star needs at least 2")
    return from_edges(num_nodes, ((0, node) for node in range(1, num_nodes)))


def complete_bipartite(num_nodes: int) -> Topology:
    """Even nodes against odd nodes, every pair joined; as balanced as the count allows.

    Raises:
        ConfigError: Fewer than two nodes.
    """
    _require(num_nodes >= 2, f"num_nodes={num_nodes}: a bipartite graph needs at least 2")
    _require_few_edges(f"num_nodes={num_nodes}", num_nodes**2 // 4)
    sides = tuple(tuple(NodeId(node) for node in range(side, num_nodes, 2)) for side in (0, 1))
    return Topology(tuple(sides[1 - node % 2] for node in range(num_nodes)))


def exponential(num_nodes: int) -> Topology:
    """Node i is joined to i +- 2^k modulo n, for every 2^k < n; made undirected.

    Source: the (static) exponential graph of Stochastic Gradient Push, arXiv:1811.10792, whose edges are
    directed.

    Raises:
        ConfigError: Fewer than two nodes.
    """
    _require(num_nodes >= 2, f"num_nodes={num_nodes}: an exponential graph needs at least 2")
    hops = [1 << power for power in range((num_nodes - 1).bit_length())]
    return from_edges(num_nodes, ((node, (node + hop) % num_nodes) for node in range(num_nodes) for hop in hops))


def torus(num_nodes: int, *, rows: int | None = None, columns: int | None = None) -> Topology:
    """A grid that wraps around in both directions; node = row * columns + column.

    With neither side given, the most nearly square one with at least two rows is taken. A side of length
    two has one edge, not two, between its ends.

    Raises:
        ConfigError: The sides do not multiply to num_nodes, or a side is shorter than 2 (always so for a
            prime).
    """
    if rows is None and columns is None:
        rows = int(np.sqrt(num_nodes))
        while rows > 1 and num_nodes % rows:
            rows -= 1
        _require(
            rows >= 2,
            f"num_nodes={num_nodes}: must be a product of two numbers >= 2 to form a torus; use kind: ring",
        )
    if rows is None:
        assert columns is not None
        rows = num_nodes // columns
    if columns is None:
        columns = num_nodes // rows
    _require(
        rows * columns == num_nodes and min(rows, columns) >= 2,
        f"rows x columns={rows} x {columns}: must both be >= 2 and multiply to num_nodes={num_nodes}",
    )
    right = ((r * columns + c, r * columns + (c + 1) % columns) for r in range(rows) for c in range(columns))
    below = ((r * columns + c, (r + 1) % rows * columns + c) for r in range(rows) for c in range(columns))
    return from_edges(num_nodes, chain(right, below))


def k_regular(num_nodes: int, *, degree: int, rng: np.random.Generator) -> Topology:
    """A random connected simple graph in which every node has ``degree`` neighbors.

    Stubs are paired at random and pairs that would be a loop or a double edge go back into the pot, as in
    Steger and Wormald (1999): close to uniform among the regular graphs, and fast for large degrees too.

    Raises:
        ConfigError: degree is not in [1, n-1], n * degree is odd, or no connected graph was found.
    """
    _require(1 <= degree < num_nodes, f"degree={degree}: must be between 1 and num_nodes-1={num_nodes - 1}")
    _require(
        num_nodes * degree % 2 == 0,
        f"degree={degree}: num_nodes x degree = {num_nodes * degree} must be even",
    )
    _require(degree > 1 or num_nodes == 2, f"degree=1: must be at least 2 to connect {num_nodes} nodes")
    if degree == num_nodes - 1:
        return full(num_nodes)
    _require_few_edges(f"degree={degree}", num_nodes * degree / 2)
    if 2 * degree >= num_nodes:
        # A dense graph is found as the complement of a sparse one; pairing stubs would nearly always get
        # stuck.
        complement_degree = num_nodes - 1 - degree
        for _ in range(MAX_ATTEMPTS):
            sparse = _pair_stubs(num_nodes, complement_degree, rng)
            if sparse is not None:
                return _complement(num_nodes, sparse)  # degree >= n/2 is connected (Dirac)
    else:
        for _ in range(MAX_ATTEMPTS):
            edges = _pair_stubs(num_nodes, degree, rng)
            if edges is not None:
                graph = from_edges(num_nodes, edges)
                if graph.is_connected():
                    return graph
    raise ConfigError(f"degree={degree}: no connected graph found in {MAX_ATTEMPTS} tries; choose a larger degree")


def small_world(num_nodes: int, *, degree: int, rewire_probability: float, rng: np.random.Generator) -> Topology:
    """A Watts-Strogatz graph: a ring of ``degree`` nearest neighbors with edges rewired at random.

    Each lattice edge (i, i+h) moves its far end, with the given probability, to a node drawn uniformly
    among those that are neither i nor its neighbors. The mean degree is kept. Drawn again until connected.

    Raises:
        ConfigError: degree is odd or not in [2, n-1], or no connected graph was found.

    Source: Watts and Strogatz, Nature 393 (1998).
    """
    _require(2 <= degree < num_nodes, f"degree={degree}: must be between 2 and num_nodes-1={num_nodes - 1}")
    _require(degree % 2 == 0, f"degree={degree}: must be even, half of it on each side of the ring")
    _require(0 <= rewire_probability <= 1, f"rewire_probability={rewire_probability}: must be between 0 and 1")
    _require_few_edges(f"degree={degree}", num_nodes * degree / 2)
    if 8 * (num_nodes - degree) < num_nodes:
        return _dense_small_world(num_nodes, degree, rewire_probability, rng)
    for _ in range(MAX_ATTEMPTS):
        neighbors: list[set[int]] = [set() for _ in range(num_nodes)]
        for node in range(num_nodes):
            for hop in range(1, degree // 2 + 1):
                neighbors[node].add((node + hop) % num_nodes)
                neighbors[(node + hop) % num_nodes].add(node)
        for hop in range(1, degree // 2 + 1):
            for node in range(num_nodes):
                old = (node + hop) % num_nodes
                taken = neighbors[node]
                if rng.random() >= rewire_probability or len(taken) >= num_nodes - 1 or old not in taken:
                    continue
                new = node
                while new == node or new in taken:
                    new = int(rng.integers(num_nodes))
                neighbors[node].remove(old)
                neighbors[old].remove(node)
                neighbors[node].add(new)
                neighbors[new].add(node)
        graph = Topology(tuple(tuple(NodeId(other) for other in sorted(row)) for row in neighbors))
        if graph.is_connected():
            return graph
    raise ConfigError(
        f"rewire_probability={rewire_probability}: no connected graph found in {MAX_ATTEMPTS} tries;"
        " choose a larger degree"
    )


def _dense_small_world(num_nodes: int, degree: int, rewire_probability: float, rng: np.random.Generator) -> Topology:
    """A Watts-Strogatz graph in which each node has few others that it is not joined to.

    These are what is kept: among the neighbors' complement, drawing until a free node turns up would take as many draws
    as there are nodes. With more than seven eighths of the nodes as neighbors every graph is connected.
    """
    half = degree // 2
    strangers = [[(node + hop) % num_nodes for hop in range(half + 1, num_nodes - half)] for node in range(num_nodes)]
    for hop in range(1, half + 1):
        moves = rng.random(num_nodes) < rewire_probability
        for node in np.flatnonzero(moves).tolist():
            old, free = (node + hop) % num_nodes, strangers[node]
            if not free or old in free:
                continue
            place = int(rng.integers(len(free)))
            new, free[place] = free[place], old
            strangers[new].remove(node)
            strangers[old].append(node)
    joined = np.ones((num_nodes, num_nodes), dtype=bool)
    np.fill_diagonal(joined, False)
    for node, others in enumerate(strangers):
        joined[node, others] = False
    return Topology(tuple(tuple(map(NodeId, np.flatnonzero(row).tolist())) for row in joined))


def erdos_renyi(num_nodes: int, *, edge_probability: float, rng: np.random.Generator) -> Topology:
    """Every pair is joined independently with the same probability; drawn again until connected.

    Raises:
        ConfigError: The probability is out of range or too small for a connected graph to turn up.
    """
    _require(0 < edge_probability <= 1, f"edge_probability={edge_probability}: must be above 0 and at most 1")
    threshold = np.log(num_nodes) / num_nodes
    place, advice = (
        f"edge_probability={edge_probability}",
        f"for {num_nodes} nodes use clearly more than {threshold:.3g}",
    )
    if edge_probability == 1:
        return full(num_nodes)
    _require_few_edges(place, edge_probability * num_nodes * (num_nodes - 1) / 2)
    isolated = num_nodes * (1 - edge_probability) ** (num_nodes - 1)
    _require(isolated < ISOLATED_MAX, f"{place}: no connected graph is to be expected; {advice}")
    first, second = np.triu_indices(num_nodes, k=1)
    for _ in range(MAX_ATTEMPTS):
        kept = rng.random(first.size) < edge_probability
        graph = from_edges(num_nodes, zip(first[kept].tolist(), second[kept].tolist(), strict=True))
        if graph.is_connected():
            return graph
    raise ConfigError(f"{place}: no connected graph found in {MAX_ATTEMPTS} tries; {advice}")


def parse_edge_list(text: str, num_nodes: int, *, place: str) -> Topology:
    """Read a graph from lines of two node numbers; ``#`` starts a comment.

    Args:
        text: The file's content.
        num_nodes: How many nodes the experiment has.
        place: The file's name, for messages.

    Raises:
        ConfigError: A line is not an edge of this many nodes; the message names file and line.
    """
    most = min(EDGE_LINES_MAX, max(1_000, num_nodes * (num_nodes - 1)))
    digits = len(str(num_nodes))
    edges = []
    for number, line in enumerate(StringIO(text, newline="\n"), start=1):
        words = line.partition("#")[0].strip().split(maxsplit=2)
        if not words:
            continue
        if len(words) != 2 or not all(word.isascii() and word.isdigit() for word in words):
            raise ConfigError(f"{place}:{number}: edge={_shown(words)}: must be two node numbers")
        # A number of thousands of digits is refused by its length, zeros before it aside.
        a, b = (int(word) if len(word) <= digits else int(word.lstrip("0")[: digits + 1] or "0") for word in words)
        if a >= num_nodes or b >= num_nodes:
            bound = f"both ends must be between 0 and {num_nodes - 1}"
            raise ConfigError(f"{place}:{number}: edge={_shown(words)}: {bound}")
        if a == b:
            raise ConfigError(f"{place}:{number}: edge={_shown(words)}: must join two different nodes")
        edges.append((a, b))
        if len(edges) > most:
            raise ConfigError(f"{place}:{number}: edges={len(edges):,}: must be at most {most:,}")
    return from_edges(num_nodes, edges)


def _shown(words: list[str]) -> str:
    """The words of a line, cut where they are long."""
    text = " ".join(words)
    return text if len(text) <= SHOWN_LETTERS_MAX else f"{text[: SHOWN_LETTERS_MAX - 3]}..."


def _require_few_edges(key: str, edges: float) -> None:
    _require(edges <= EDGES_MAX, f"{key}: gives {edges:,.0f} edges, must be at most {EDGES_MAX:,}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _pair_stubs(num_nodes: int, degree: int, rng: np.random.Generator) -> list[tuple[int, int]] | None:
    """One try at a random regular edge list; None when the last stubs cannot be paired."""
    stubs = np.repeat(np.arange(num_nodes), degree)
    edges: list[tuple[int, int]] = []
    known: set[tuple[int, int]] = set()
    while stubs.size:
        shuffled = rng.permutation(stubs).tolist()
        left = []
        for a, b in zip(shuffled[::2], shuffled[1::2], strict=True):
            edge = (a, b) if a < b else (b, a)
            if a == b or edge in known:
                left += [a, b]
            else:
                known.add(edge)
                edges.append(edge)
        if len(left) == stubs.size and not _can_pair(left, known):
            return None
        stubs = np.array(left, dtype=np.int64)
    return edges


def _can_pair(stubs: list[int], known: set[tuple[int, int]]) -> bool:
    nodes = sorted(set(stubs))
    return any((a, b) not in known for i, a in enumerate(nodes) for b in nodes[i + 1 :])


def _complement(num_nodes: int, edges: list[tuple[int, int]]) -> Topology:
    present = np.ones((num_nodes, num_nodes), dtype=bool)
    np.fill_diagonal(present, False)
    for a, b in edges:
        present[a, b] = present[b, a] = False
    return Topology(tuple(tuple(map(NodeId, np.flatnonzero(row).tolist())) for row in present))
