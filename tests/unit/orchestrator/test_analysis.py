"""Time to a target, quantiles and histograms, on curves small enough to check by hand."""

import numpy as np
import pytest

from node.core.types import Float64Vector
from orchestrator.analysis import bytes_to_accuracy, histogram, quantiles, time_to_accuracy


def numbers(*values: float) -> Float64Vector:
    return np.array(values, dtype=np.float64)


class TestTimeToAccuracy:
    def test_interpolates_between_evaluations(self) -> None:
        assert time_to_accuracy(numbers(0, 10, 20), numbers(0.1, 0.2, 0.6), 0.3) == pytest.approx(12.5)

    def test_takes_the_first_crossing_of_a_curve_that_falls_back(self) -> None:
        assert time_to_accuracy(numbers(0, 10, 20, 30), numbers(0.0, 0.4, 0.1, 0.9), 0.4) == 10.0

    def test_a_target_met_from_the_start_takes_no_interpolation(self) -> None:
        assert time_to_accuracy(numbers(5, 10), numbers(0.5, 0.6), 0.3) == 5.0

    def test_a_target_never_met_is_none(self) -> None:
        assert time_to_accuracy(numbers(0, 10), numbers(0.1, 0.2), 0.3) is None
        assert time_to_accuracy(numbers(), numbers(), 0.3) is None

    def test_an_error_reaches_its_target_from_above(self) -> None:
        times, rmse = numbers(0, 10, 20), numbers(3.0, 1.4, 1.0)
        assert time_to_accuracy(times, rmse, 1.2, higher_is_better=False) == pytest.approx(15.0)
        assert time_to_accuracy(times, rmse, 0.9, higher_is_better=False) is None

    def test_passes_over_what_is_not_a_number(self) -> None:
        times = numbers(0, 10, 20)
        assert time_to_accuracy(times, numbers(0.0, np.nan, 0.4), 0.2) == pytest.approx(10.0)
        assert time_to_accuracy(times, numbers(np.inf, np.inf, 1.0), 1.5, higher_is_better=False) == 20.0

    def test_bytes_are_interpolated_likewise(self) -> None:
        assert bytes_to_accuracy(numbers(0, 1000, 4000), numbers(0.1, 0.2, 0.6), 0.4) == pytest.approx(2500.0)


class TestHistogram:
    def test_whole_numbers_are_centred_and_nothing_is_lost(self) -> None:
        bins = histogram({"a": np.array([-1, 0, 0, 3])}, whole_numbers=True, cover=1.0)
        assert bins is not None
        assert bins.edges.tolist() == [-1.5, -0.5, 0.5, 1.5, 2.5, 3.5]
        assert bins.shares["a"].tolist() == [0.25, 0.5, 0.0, 0.0, 0.25]

    def test_extreme_values_are_told_apart(self) -> None:
        values = np.concatenate([np.arange(1000) % 10, [10_000]])
        bins = histogram({"a": values, "none": np.zeros(0)}, whole_numbers=True, cover=0.99)
        assert bins is not None
        assert bins.edges[-1] < 20
        assert bins.above["a"] == pytest.approx(1 / 1001)
        assert bins.shares["a"].sum() + bins.above["a"] == pytest.approx(1.0)
        assert bins.shares["none"].sum() == 0.0

    def test_many_whole_numbers_share_bins(self) -> None:
        bins = histogram({"a": np.arange(1000)}, whole_numbers=True, max_bins=40, cover=1.0)
        assert bins is not None
        assert len(bins.edges) <= 41
        assert bins.shares["a"].sum() == pytest.approx(1.0)

    def test_nothing_has_no_histogram(self) -> None:
        assert histogram({}, whole_numbers=True) is None
        assert histogram({"a": np.zeros(0)}, whole_numbers=False) is None

    def test_equal_values_have_a_bin(self) -> None:
        bins = histogram({"a": np.zeros(5)}, whole_numbers=False)
        assert bins is not None
        assert bins.shares["a"].sum() == 1.0


def test_quantiles() -> None:
    assert quantiles(np.arange(101)) == {"count": 101, "mean": 50.0, "p50": 50.0, "p95": 95.0, "max": 100.0}
    assert quantiles(np.zeros(0)) == {"count": 0, "mean": None, "p50": None, "p95": None, "max": None}
