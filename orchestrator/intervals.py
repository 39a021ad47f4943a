"""Means of a few independent values, and how far they can be trusted: Student's t intervals.

Pure: numpy only. scipy is no dependency of ours, so the quantiles are computed here from the closed form of the
distribution, and a test holds them against published tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import atan, cos, exp, isfinite, log, pi, sin, sqrt
from typing import Final

import numpy as np

CONFIDENCE: Final = 0.95
"""Probability with which an interval holds the mean, of all intervals that are shown."""


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """A mean of independent values.

    Attributes:
        mean: Their mean; the geometric one of ratios.
        low: Lower end of the interval of :data:`CONFIDENCE`; None of a single value, which says nothing about others.
        high: Upper end.
        n: How many values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


def mean_of(values: Sequence[float]) -> MeanInterval | None:
    """The arithmetic mean with its t interval; None without values or where one is no finite number."""
    if not values or not all(map(isfinite, values)):
        return None
    n = len(values)
    mean = float(np.mean(values))
    if n == 1:
        return MeanInterval(mean, None, None, 1)
    half = t_quantile(n - 1) * float(np.std(values, ddof=1)) / sqrt(n)
    return MeanInterval(mean, mean - half, mean + half, n)


def mean_ratio(ratios: Sequence[float]) -> MeanInterval | None:
    """The geometric mean of ratios with its t interval, which is taken on their logarithms.

    So that a run that is twice as fast once and half as fast another time is, on the mean, equally fast.

    Args:
        ratios: Each above 0.

    Returns:
        None without ratios or where one is no finite number above 0.
    """
    if not all(isfinite(ratio) and ratio > 0 for ratio in ratios):
        return None
    logs = mean_of([log(ratio) for ratio in ratios])
    if logs is None:
        return None
    low, high = (None if end is None else exp(min(end, 700.0)) for end in (logs.low, logs.high))
    return MeanInterval(exp(logs.mean), low, high, logs.n)


@lru_cache(maxsize=256)
def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t for which a variable of Student's distribution lies in [-t, t] with a probability.

    Args:
        degrees: Degrees of freedom, >= 1.
        confidence: The probability, in (0, 1).
    """
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < confidence:
        high *= 2
    for _ in range(80):  # halves the interval to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, degrees) < confidence else (low, middle)
    return high


def t_probability(t: float, degrees: int) -> float:
    """The probability that a variable of Student's distribution lies in [-t, t]; t >= 0, degrees >= 1.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 (odd) and 26.7.4 (even degrees).
    """
    theta = atan(t / sqrt(degrees))
    square = cos(theta) ** 2
    is_odd = degrees % 2 == 1
    # Each term is the one before it times cos^2 and 2k / (2k + 1), or (2k - 1) / (2k).
    term = cos(theta) if is_odd else 1.0
    total = 0.0
    for k in range(1, (degrees - 1) // 2 + 1 if is_odd else degrees // 2 + 1):
        total += term
        term *= square * (2 * k / (2 * k + 1) if is_odd else (2 * k - 1) / (2 * k))
    if is_odd:
        return 2 / pi * (theta + sin(theta) * total)
    return sin(theta) * total
