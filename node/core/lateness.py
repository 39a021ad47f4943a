"""Lateness of the host: counted in bounded memory, told as percentiles."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = 8
"""Buckets for each doubling, so that a percentile is exact within an eighth."""


@dataclass(frozen=True, slots=True)
class Lateness:
    """Lateness that was measured, in nanoseconds.

    Attributes:
        count: How many times it was measured.
        p50: The median, up to an eighth too high.
        p99: As exact.
        max: Exact.
    """

    count: int
    p50: int
    p99: int
    max: int


class LatenessHistogram:
    """Whole nanoseconds in buckets that grow by an eighth: bounded memory, whatever is added."""

    def __init__(self) -> None:
        self._counts = [0] * (64 * _STEPS)
        self._max = 0
        self._total = 0

    def add(self, ns: int) -> None:
        """Count one; less than nothing counts as 0."""
        ns = max(0, ns)
        self._max = max(self._max, ns)
        self._total += ns
        self._counts[_bucket(ns)] += 1

    @property
    def total(self) -> int:
        """The sum of all."""
        return self._total

    def within(self, bounds_ns: Sequence[float]) -> list[int]:
        """Return how many are between two bounds, which increase; first those up to the first, last those beyond.

        One that is less than a bound by up to an eighth may count as beyond it.
        """
        counts = [0] * (len(bounds_ns) + 1)
        for bucket, members in enumerate(self._counts[: _bucket(self._max) + 1]):
            if members:
                counts[bisect_left(bounds_ns, min(_upper(bucket), self._max))] += members
        return counts

    def summary(self) -> Lateness:
        """Return the percentiles as they are now."""
        count = sum(self._counts)
        return Lateness(count=count, p50=self._percentile(0.5, count), p99=self._percentile(0.99, count), max=self._max)

    def _percentile(self, share: float, count: int) -> int:
        """The upper end of the bucket with the value of this rank, and not more than the greatest."""
        seen = 0
        for bucket, members in enumerate(self._counts):
            seen += members
            if seen and seen >= share * count:
                return min(_upper(bucket), self._max)
        return 0


def _bucket(ns: int) -> int:
    """0 to 15 have buckets of their own; then eight for each doubling."""
    shift = max(0, ns.bit_length() - 4)
    return min(shift * _STEPS + (ns >> shift), 64 * _STEPS - 1)


def _upper(bucket: int) -> int:
    shift = max(0, bucket // _STEPS - 1)
    return ((bucket - shift * _STEPS + 1) << shift) - 1
