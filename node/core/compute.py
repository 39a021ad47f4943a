"""Durations of local steps, in testbed time."""

from dataclasses import dataclass

import numpy as np

from node.core.rng import stream

_BLOCK = 256


@dataclass(frozen=True)
class ComputePlan:
    """The declared compute speed of all nodes.

    Attributes:
        step_ns: Nanoseconds of one local step, per node.
        jitter: Standard deviation of a round's duration as a fraction of it, >= 0. A factor is drawn from a
            normal distribution around 1, cut off below 0.1, once a round.
        stragglers: Nodes slowed on purpose.
    """

    step_ns: tuple[int, ...]
    jitter: float = 0.0
    stragglers: frozenset[int] = frozenset()


class StepTimer:
    """Durations of one node's blocks of local steps."""

    def __init__(self, plan: ComputePlan, node: int, seed: int) -> None:
        self._step_ns = plan.step_ns[node]
        self._jitter = plan.jitter
        self._rng = stream(seed, "compute", node)
        self._factors: list[float] = []

    def duration_ns(self, count: int) -> int:
        """Nanoseconds that the next ``count`` steps take."""
        nominal = self._step_ns * count
        if self._jitter == 0.0:
            return nominal
        if not self._factors:
            drawn = 1.0 + self._jitter * self._rng.standard_normal(_BLOCK)
            self._factors = np.maximum(drawn, 0.1).tolist()[::-1]
        return round(nominal * self._factors.pop())
