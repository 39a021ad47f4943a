"""Durations of local steps, in testbed time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from node.core.rng import stream
from node.core.steps import Steps
from node.core.units import NEVER_NS

_BLOCK = 256


@dataclass(frozen=True)
class ComputePlan:
    """The declared compute speed of all nodes.

    Attributes:
        step_ns: Nanoseconds of one local step, per node.
        jitter: Standard deviation of a round's duration as a fraction of it, >= 0. A factor is drawn from a
            normal distribution around 1, cut off below 0.1, once a round.
        stragglers: Nodes slowed on purpose.
        speeds: Of nodes whose speed changes, at any time: 1 is the speed of ``step_ns``, 0 stands still.
    """

    step_ns: tuple[int, ...]
    jitter: float = 0.0
    stragglers: frozenset[int] = frozenset()
    speeds: Mapping[int, Steps[float]] = field(default_factory=dict)


class StepTimer:
    """Durations of one node's blocks of local steps.

    Attributes:
        speed: The node's speed at any time; None where it does not change.
    """

    def __init__(self, plan: ComputePlan, node: int, seed: int) -> None:
        self._step_ns = plan.step_ns[node]
        self._jitter = plan.jitter
        self.speed = plan.speeds.get(node)
        self._rng = stream(seed, "compute", node)
        self._factors: list[float] = []

    def duration_ns(self, count: int, at_ns: int) -> int:
        """Nanoseconds that the next ``count`` steps take, which begin at a time."""
        work_ns = self._step_ns * count
        if self._jitter != 0.0:
            if not self._factors:
                drawn = 1.0 + self._jitter * self._rng.standard_normal(_BLOCK)
                self._factors = np.maximum(drawn, 0.1).tolist()[::-1]
            work_ns = round(work_ns * self._factors.pop())
        return work_ns if self.speed is None else time_for(work_ns, self.speed, at_ns)


def time_for(work_ns: int, speed: Steps[float], at_ns: int) -> int:
    """Return the time that work takes which begins at a time and goes on at changing speed.

    Args:
        work_ns: Its duration at speed 1.
        speed: At any time, >= 0.
        at_ns: When it begins.

    Returns:
        Nanoseconds; :data:`~node.core.units.NEVER_NS` if it never ends.
    """
    left, now_ns, current = float(work_ns), at_ns, speed.at(at_ns)
    for time_ns, following in speed.after(at_ns):
        done = (time_ns - now_ns) * current
        if done >= left:
            break
        left, now_ns, current = left - done, time_ns, following
    if not current:
        return NEVER_NS
    return now_ns - at_ns + round(left / current)
