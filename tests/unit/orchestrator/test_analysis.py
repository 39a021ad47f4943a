"""Time to a target, targets, ratios and histograms, on curves small enough to check by hand."""

from dataclasses import dataclass

import numpy as np
import pytest

from node.core.errors import ConfigError
from node.core.types import Float64Vector
from orchestrator.analysis import (
    automatic_target,
    bytes_to_accuracy,
    compare,
    histogram,
    quantiles,
    time_to_accuracy,
)


def numbers(*values: float) -> Float64Vector:
    return np.array(values, dtype=np.float64)


@dataclass(frozen=True)
class Curve:
    label: str
    times_s: Float64Vector
    headline: Float64Vector
    bytes_sent: Float64Vector
    metric: str = "accuracy"

    @property
    def higher_is_better(self) -> bool:
        return self.metric == "accuracy"


def curve(label: str, *values: float, step_s: float = 10.0, metric: str = "accuracy", rate: float = 100.0) -> Curve:
    times = step_s * np.arange(len(values))
    return Curve(label, times, numbers(*values), rate * times, metric)


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


class TestAutomaticTarget:
    def test_is_the_best_of_the_worse_run(self) -> None:
        runs = [curve("a", 0.1, 0.5, 0.4), curve("b", 0.1, 0.7, 0.8)]
        assert automatic_target(runs) == 0.5

    def test_for_an_error_it_is_the_higher_of_the_lowest(self) -> None:
        runs = [curve("a", 3.0, 1.1, 1.2, metric="rmse"), curve("b", 3.0, 0.9, metric="rmse")]
        assert automatic_target(runs) == 1.1

    def test_a_run_without_an_evaluation_has_none(self) -> None:
        assert automatic_target([curve("a", 0.5), curve("b")]) is None
        assert automatic_target([curve("a", float("nan"))]) is None


class TestCompare:
    def test_both_directions_of_both_ratios(self) -> None:
        slow = curve("baseline", 0.0, 0.1, 0.2, 0.3, 0.4, rate=100.0)
        fast = curve("ours", 0.0, 0.2, 0.4, 0.5, 0.6, rate=300.0)
        result = compare([slow, fast], target=0.4)
        base, ours = result.runs
        assert (base.time_to_target_s, ours.time_to_target_s) == (40.0, 20.0)
        assert ours.times_faster == 2.0  # above 1: faster than the baseline
        assert ours.time_ratio == 0.5
        assert (base.bytes_to_target, ours.bytes_to_target) == (4000.0, 6000.0)
        assert ours.bytes_ratio == 1.5  # it sends more
        assert ours.times_fewer_bytes == pytest.approx(2 / 3)
        assert base.times_faster == base.time_ratio == base.bytes_ratio == base.times_fewer_bytes == 1.0
        assert ours.best_difference == pytest.approx(0.2)
        assert ours.best_gain_percent == pytest.approx(50.0)
        assert not result.target_is_automatic

    def test_a_lower_error_is_a_gain(self) -> None:
        runs = [curve("a", 3.0, 1.0, metric="rmse"), curve("b", 3.0, 0.9, metric="rmse")]
        result = compare(runs)
        assert result.target == 1.0
        assert result.target_is_automatic
        assert result.runs[1].best_gain_percent == pytest.approx(10.0)
        assert result.runs[1].best_difference == pytest.approx(-0.1)
        assert result.runs[1].times_faster is not None
        assert result.runs[1].times_faster > 1.0

    def test_a_target_that_one_run_misses_gives_no_ratio(self) -> None:
        result = compare([curve("a", 0.1, 0.5), curve("b", 0.1, 0.3)], target=0.4)
        assert result.runs[1].time_to_target_s is None
        assert result.runs[1].times_faster is None
        assert result.runs[1].bytes_ratio is None

    def test_a_baseline_that_starts_at_the_target_divides_by_nothing(self) -> None:
        result = compare([curve("a", 0.5, 0.5), curve("b", 0.1, 0.5)], target=0.5)
        assert result.runs[1].times_faster == 0.0
        assert result.runs[1].time_ratio is None

    def test_values_at_the_last_common_instant(self) -> None:
        result = compare([curve("a", 0.0, 0.2, 0.4), curve("b", 0.0, 0.6, step_s=15.0)])
        assert result.common_time_s == 15.0
        assert [run.at_common_time for run in result.runs] == pytest.approx([0.3, 0.6])

    def test_runs_that_measure_different_things_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="share a metric"):
            compare([curve("a", 0.1), curve("b", 1.0, metric="rmse")])
        with pytest.raises(ConfigError, match="at least one"):
            compare([])

    def test_runs_that_were_never_evaluated_compare_to_nothing(self) -> None:
        result = compare([curve("a"), curve("b", 0.4)])
        assert result.target is None
        assert result.common_time_s is None
        assert result.runs[0].final is None


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
