import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.lateness import Lateness, LatenessHistogram


@pytest.mark.parametrize("scale", [1, 1_000, 200_000_000])
def test_percentiles_are_exact_within_an_eighth(scale: int) -> None:
    values = (np.random.default_rng(0).exponential(scale, 5_000)).astype(int)
    histogram = LatenessHistogram()
    for value in values.tolist():
        histogram.add(value)
    summary = histogram.summary()
    assert summary.count == 5_000
    assert summary.max == values.max()
    for share, found in ((0.5, summary.p50), (0.99, summary.p99)):
        exact = np.quantile(values, share, method="inverted_cdf")
        assert exact <= found <= exact * 1.125


def test_extremes_are_counted() -> None:
    histogram = LatenessHistogram()
    assert histogram.summary() == Lateness(0, 0, 0, 0)
    histogram.add(-3)
    assert histogram.summary() == Lateness(1, 0, 0, 0)
    histogram.add(1 << 80)
    assert histogram.summary().max == 1 << 80
    histogram = LatenessHistogram()
    histogram.add((1 << 63) - 1)
    assert histogram.summary() == Lateness(1, (1 << 63) - 1, (1 << 63) - 1, (1 << 63) - 1)


def test_each_value_lies_in_its_bucket() -> None:
    for value in [*range(300), 2**40 - 1, 2**40, 2**40 + 1]:
        histogram = LatenessHistogram()
        histogram.add(value)
        histogram.add(1 << 50)
        assert value <= histogram.summary().p50 <= max(value, value * 1.125)


@given(st.lists(st.integers(-5, 10**9)), st.sets(st.integers(0, 10**9)))
def test_within_bounds_an_eighth_may_be_missing_and_none_is_too_many(values: list[int], bounds: set[int]) -> None:
    histogram, ordered = LatenessHistogram(), sorted(bounds)
    for value in values:
        histogram.add(value)
    assert histogram.total == sum(max(0, value) for value in values)
    within = histogram.within(ordered)
    assert sum(within) == len(values)
    for index, bound in enumerate(ordered):
        found = sum(within[: index + 1])
        assert sum(value * 9 / 8 <= bound for value in values) <= found <= sum(value <= bound for value in values)
