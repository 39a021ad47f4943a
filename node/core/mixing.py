"""Mixing weights and weighted averages.

A mixing matrix W has one row per receiver: ``w_ij`` is the weight that i gives to j's value. Rows are
non-negative, sum to one and are zero off the graph. A :class:`MixingMatrix` keeps the weights as one array
per row, parallel to the topology's neighbors, so the full graph on 1,000 nodes takes 8 MB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from node.core.errors import ConfigError
from node.core.topology import Topology
from node.core.types import Float64Vector, NodeId, Vector


@dataclass(frozen=True, slots=True)
class MixingRow:
    """One node's row of W.

    Attributes:
        own: The weight of the node's own value, in (0, 1].
        neighbors: (neighbor, weight) in increasing order of the neighbor; with ``own`` they sum to 1.
    """

    own: float
    neighbors: tuple[tuple[NodeId, float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class MixingMatrix:
    """A whole W, sparse.

    Attributes:
        topology: The graph the weights belong to.
        own: The diagonal, shape (num_nodes,), float64. Read-only.
        weights: Per node its neighbors' weights, shape (degree,), float64, in the topology's order.
            Read-only.
    """

    topology: Topology
    own: Float64Vector
    weights: tuple[Float64Vector, ...]

    def row(self, node: int) -> MixingRow:
        """Row ``node`` as plain numbers."""
        pairs = zip(self.topology.neighbors(node), self.weights[node].tolist(), strict=True)
        return MixingRow(own=float(self.own[node]), neighbors=tuple(pairs))

    def dense(self) -> npt.NDArray[np.float64]:
        """W as an array, shape (num_nodes, num_nodes), float64. A new array."""
        matrix = np.diag(self.own)
        for node, weights in enumerate(self.weights):
            matrix[node, list(self.topology.neighbors(node))] = weights
        return matrix


@lru_cache(maxsize=8)
def metropolis_hastings(topology: Topology) -> MixingMatrix:
    """Metropolis-Hastings weights: ``w_ij = 1 / (1 + max(deg(i), deg(j)))``, the rest for the node itself.

    Symmetric and doubly stochastic on every graph.
    """
    degrees = _degrees(topology)
    rows = [
        1.0 / (1.0 + np.maximum(degrees[node], degrees[list(neighbors)]))
        for node, neighbors in enumerate(topology.adjacency)
    ]
    return _matrix(topology, rows)


@lru_cache(maxsize=8)
def uniform(topology: Topology) -> MixingMatrix:
    """Every node gives itself and each neighbor the same weight ``1 / (degree + 1)``.

    Doubly stochastic on regular graphs only, so others are refused.

    Raises:
        ConfigError: The graph is not regular.
    """
    degrees = _degrees(topology)
    if degrees.min() != degrees.max():
        raise ConfigError(
            f"weights=uniform: needs equal degrees, this topology has {degrees.min()} to {degrees.max()};"
            " use metropolis_hastings"
        )
    return _matrix(topology, [np.full(degree, 1.0 / (degree + 1)) for degree in degrees.tolist()])


@lru_cache(maxsize=8)
def ccw(topology: Topology) -> MixingMatrix:
    """SWIFT's client communication weights for equal activity rates.

    Degrees are handled from large to small. A node knows the weights that its larger-degree neighbors
    chose; it offers an equal share of the mass that is left to each of its other edges and to itself. A
    smaller-degree neighbor takes the offer, between equal degrees the smaller of both offers counts. So
    ``w_ij = w_ji``, and a regular graph has ``1 / (degree + 1)`` everywhere.

    Source: the steps of the public code of SWIFT (umd-huang-lab/SWIFT), for arXiv:2210.14026. We depart from it
    twice:

    - The code takes the smallest offer of a node's equal-degree neighbors for *all* edges that the node has left;
      here the smaller of two offers counts for their edge alone. On SWIFT's ring of cliques some weights are 0.2667
      here and 0.25 there, and on some irregular graphs the code's matrix is not symmetric, as ours always is.
    - On some irregular graphs these steps hand a node more than its whole mass (three neighbors that each offer
      nearly one half to a node of degree three), which would give it a negative weight. Where the received sum
      leaves less than ``1 / (degree + 1)``, we scale it down to leave that much; the neighbors keep the difference.
    """
    degrees = _degrees(topology).tolist()
    chosen: list[dict[int, float]] = [{} for _ in degrees]
    by_degree: dict[int, list[int]] = {}
    for node, degree in enumerate(degrees):
        by_degree.setdefault(degree, []).append(node)
    for degree in sorted(by_degree, reverse=True):
        level = by_degree[degree]
        offers: dict[int, float] = {}
        for node in level:
            received = sum(chosen[node].values())
            allowed = degree / (degree + 1)
            if received > allowed:
                for neighbor in chosen[node]:
                    scaled = chosen[node][neighbor] * allowed / received
                    chosen[node][neighbor] = chosen[neighbor][node] = scaled
                received = allowed
            offers[node] = (1.0 - received) / (degree - len(chosen[node]) + 1)
        for node in level:
            for neighbor in topology.neighbors(node):
                if degrees[neighbor] <= degree and neighbor not in chosen[node]:
                    weight = min(offers[node], offers.get(neighbor, offers[node]))
                    chosen[node][neighbor] = chosen[neighbor][node] = weight
    rows = [
        np.array([chosen[node][neighbor] for neighbor in neighbors], dtype=np.float64)
        for node, neighbors in enumerate(topology.adjacency)
    ]
    return _matrix(topology, rows)


def weighted_average(own: Vector, weights: Sequence[float], vectors: Sequence[Vector]) -> Vector:
    """Average the own vector with received ones; the own weight is what the others leave of one.

    Computed as ``own + sum_j w_j (x_j - own)``, so that equal vectors stay exactly equal, in float32 and
    in the order given. The rounding error of a coordinate is at most about ``(k + 3) * 2^-24 * (|own| +
    sum_j w_j |x_j - own|)`` for k vectors.

    Args:
        own: Shape (num_params,), float32. Not modified.
        weights: The weight of each received vector, non-negative, together at most 1.
        vectors: The received vectors in sender order, each of the same shape. Not modified.

    Returns:
        A new vector, shape (num_params,), float32.
    """
    assert len(weights) == len(vectors)
    result = own.copy()
    scratch = np.empty_like(own)
    for weight, vector in zip(weights, vectors, strict=True):
        np.subtract(vector, own, out=scratch)
        scratch *= np.float32(weight)
        result += scratch
    return result


def spectral_gap(matrix: MixingMatrix) -> float:
    """One minus the second largest absolute eigenvalue of a symmetric W: how fast repeated mixing forgets.

    Takes a dense eigenvalue decomposition, O(num_nodes^3); 1 for a single node.
    """
    magnitudes = np.sort(np.abs(np.linalg.eigvalsh(matrix.dense())))
    return 1.0 - float(magnitudes[-2]) if magnitudes.size > 1 else 1.0


def _degrees(topology: Topology) -> npt.NDArray[np.int64]:
    return np.array([topology.degree(node) for node in range(topology.num_nodes)], dtype=np.int64)


def _matrix(topology: Topology, rows: list[Float64Vector]) -> MixingMatrix:
    own = np.array([1.0 - float(row.sum()) for row in rows])
    for array in (own, *rows):
        array.flags.writeable = False
    return MixingMatrix(topology=topology, own=own, weights=tuple(rows))
