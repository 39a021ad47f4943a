"""Fragment plans: how a flat parameter vector is cut into fragments and put together again.

A plan partitions ``[0, d)`` into index sets that are the same on all nodes and in all rounds. Nodes derive it
from the seed, so no indices travel. Internally a plan is one permutation of the vector after which every
fragment is a contiguous range: cutting a model is one gather, a fragment is a view of the result, and adding
a received fragment is one addition over a range.
"""

import math
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np

from node.core.errors import ConfigError
from node.core.messages import frozen
from node.core.rng import stream
from node.core.types import IndexVector, Vector


class FragmentLayout(Enum):
    """Rule for which scalars share a fragment."""

    RANDOM = "random"
    """Random positions of every tensor, as in DivShare: each fragment holds a sample of every layer."""
    CONTIGUOUS = "contiguous"
    """Neighboring positions of the flat vector; sizes differ by at most one."""
    STRIDED = "strided"
    """Every C-th position of the flat vector; sizes differ by at most one."""


class FragmentRounding(Enum):
    """Rule by which 1/Omega becomes a number of fragments."""

    FLOOR = "floor"
    """max(1, floor(1/Omega)), as DivShare's public code computes it."""
    CEIL = "ceil"
    """ceil(1/Omega), so that no fragment is larger than Omega * d by more than rounding."""


@dataclass(frozen=True, eq=False, slots=True)
class FragmentPlan:
    """A partition of ``[0, d)`` into fragments.

    Attributes:
        order: Shape (d,), int64: fragment 0's indices, then fragment 1's, and so on.
        bounds: Length C + 1, increasing: fragment f is ``order[bounds[f]:bounds[f + 1]]``.
    """

    order: IndexVector
    bounds: tuple[int, ...]

    @property
    def num_fragments(self) -> int:
        """C."""
        return len(self.bounds) - 1

    @property
    def num_params(self) -> int:
        """d."""
        return self.bounds[-1]

    def indices(self, fragment: int) -> IndexVector:
        """Positions of one fragment in the flat vector, shape (k,)."""
        return self.order[self.bounds[fragment] : self.bounds[fragment + 1]]

    def cut(self, params: Vector) -> tuple[Vector, list[Vector]]:
        """Snapshot a model and cut it.

        Args:
            params: Shape (d,), float32. Not modified.

        Returns:
            The model in plan order (a copy), and one read-only view of it a fragment.
        """
        ordered = frozen(params[self.order])
        bounds = self.bounds
        return ordered, [ordered[bounds[f] : bounds[f + 1]] for f in range(len(bounds) - 1)]

    def restore(self, ordered: Vector) -> Vector:
        """Undo the plan's order: the inverse of the first result of :meth:`cut`. A new vector, shape (d,)."""
        params = np.empty_like(ordered)
        params[self.order] = ordered
        return params


def num_fragments(omega: float, rounding: FragmentRounding) -> int:
    """C for a fragment fraction.

    Args:
        omega: Fraction of the model in one fragment, in (0, 1].
        rounding: Which formula.

    Source: arXiv:2410.12918 (Omega); ``floor`` is the rule of the public code. A hair is added before rounding, so
        that 1/0.1 and the like do not suffer from binary fractions.
    """
    inverse = 1.0 / omega
    if rounding is FragmentRounding.FLOOR:
        return max(1, math.floor(inverse * (1 + 1e-12)))
    return max(1, math.ceil(inverse * (1 - 1e-12)))


@lru_cache(maxsize=16)
def fragment_plan(tensor_sizes: tuple[int, ...], count: int, layout: FragmentLayout, seed: int) -> FragmentPlan:
    """The plan that all nodes share. Cached, so that a thousand nodes in one process hold it once.

    Args:
        tensor_sizes: Scalars in each tensor, in state-dict order.
        count: C, number of fragments, 1 <= C <= d.
        layout: Rule for which scalars share a fragment.
        seed: The experiment's seed; used by the random layout only.

    Raises:
        ConfigError: More fragments than parameters.

    Source: arXiv:2410.12918; the random layout follows its public code: a permutation of every tensor
        separately, fragment f < C-1 takes the next floor(d_l / C) positions, the last takes the rest.
    """
    num_params = sum(tensor_sizes)
    if not 1 <= count <= num_params:
        raise ConfigError(f"number of fragments={count}: must be between 1 and the number of parameters, {num_params}")
    match layout:
        case FragmentLayout.RANDOM:
            fragments = _random_fragments(tensor_sizes, count, stream(seed, "fragment-plan"))
        case FragmentLayout.CONTIGUOUS:
            fragments = np.array_split(np.arange(num_params), count)
        case FragmentLayout.STRIDED:
            fragments = [np.arange(first, num_params, count) for first in range(count)]
    order = np.concatenate(fragments).astype(np.int64)
    order.setflags(write=False)
    bounds = np.cumsum([0, *(len(f) for f in fragments)])
    return FragmentPlan(order=order, bounds=tuple(int(b) for b in bounds))


def _random_fragments(tensor_sizes: tuple[int, ...], count: int, rng: np.random.Generator) -> list[IndexVector]:
    pieces: list[list[IndexVector]] = [[] for _ in range(count)]
    offset = 0
    for size in tensor_sizes:
        positions = rng.permutation(size) + offset
        share = size // count
        for fragment in range(count - 1):
            pieces[fragment].append(positions[fragment * share : (fragment + 1) * share])
        pieces[count - 1].append(positions[(count - 1) * share :])
        offset += size
    return [np.concatenate(p) for p in pieces]
