"""Groups of seeds, targets that are held, and ratios, on curves small enough to check by hand."""

from dataclasses import dataclass, replace
from math import log, sqrt
from typing import get_args

import numpy as np
import pytest

from node.core.errors import ConfigError
from node.core.types import Float64Vector
from orchestrator.comparison import (
    CUT_SHORT,
    ENDED_BADLY,
    Comparison,
    compare,
    is_smoothed,
    smoothed,
    time_held,
    without_repeats,
)
from orchestrator.intervals import MeanInterval
from orchestrator.results.schema import EndStatus

NAN, INF = float("nan"), float("inf")


def numbers(*values: float) -> Float64Vector:
    return np.array(values, dtype=np.float64)


@dataclass(frozen=True)
class Curve:
    label: str
    times_s: Float64Vector
    headline: Float64Vector
    bytes_sent: Float64Vector
    metric: str = "accuracy"
    seed: int = 1
    setting: str | None = None
    algorithm: str = "divshare"
    stated_targets: tuple[float, ...] = ()
    status: str = "done"

    @property
    def higher_is_better(self) -> bool:
        return self.metric == "accuracy"

    @property
    def worst_node(self) -> Float64Vector:
        return self.headline - 0.1

    @property
    def averaged_model(self) -> Float64Vector:
        return self.headline + 0.05


def curve(
    label: str,
    *values: float,
    step_s: float = 10.0,
    rate: float = 100.0,
    metric: str = "accuracy",
    seed: int = 1,
    stated_targets: tuple[float, ...] = (),
    algorithm: str = "divshare",
    status: str = "done",
) -> Curve:
    """A curve of up to four values, which smoothing leaves alone; runs of one label differ only in the seed."""
    times = step_s * np.arange(len(values))
    return Curve(label, times, numbers(*values), rate * times, metric, seed, label, algorithm, stated_targets, status)


class TestSmoothing:
    def test_short_curves_stay_as_they_are(self) -> None:
        assert smoothed(numbers(1, 5, 2, 8)).tolist() == [1, 5, 2, 8]
        assert smoothed(numbers()).tolist() == []

    @pytest.mark.parametrize("length", [0, 1, 4, 5, 9, 10])
    def test_which_curves_change(self, length: int) -> None:
        """A curve that turns at its end."""
        values = np.array([*np.zeros(max(0, length - 1)), *([1.0] if length else [])])
        assert is_smoothed(values) == (smoothed(values).tolist() != values.tolist())

    def test_a_window_of_three_from_five_values_on(self) -> None:
        assert smoothed(numbers(0, 3, 6, 0, 3)).tolist() == [0, 3, 3, 3, 1.5]

    def test_a_window_of_five_from_ten_values_on_narrow_at_the_start_and_cut_off_at_the_end(self) -> None:
        values = numbers(0, 1, 5, 0, 4, 10, 1, 0, 5, 9)
        expected = [0, 2, 2, 4, 4, 3, 4, 5, 15 / 4, 14 / 3]
        assert smoothed(values) == pytest.approx(expected)

    def test_a_straight_line_is_kept_until_shortly_before_its_end(self) -> None:
        line = np.arange(20.0)
        assert smoothed(line)[:-2] == pytest.approx(line[:-2])
        assert smoothed(line)[-2:] == pytest.approx([17.5, 18.0])

    def test_what_is_no_number_spoils_its_windows_only(self) -> None:
        found = smoothed(numbers(0, 0, 0, NAN, 0, 0, 0))
        assert np.isnan(found).tolist() == [False, False, True, True, True, False, False]
        assert np.isnan(smoothed(numbers(INF, -INF, 1, 1, 1))[1])


class TestTimeHeld:
    def test_is_the_last_crossing_and_not_the_first(self) -> None:
        times, values = numbers(0, 10, 20, 30), numbers(0.0, 0.4, 0.1, 0.9)
        assert time_held(times, values, 0.4) == pytest.approx(20 + 10 * 0.3 / 0.8)

    def test_a_curve_that_falls_back_does_not_hold(self) -> None:
        assert time_held(numbers(0, 10, 20), numbers(0.1, 0.9, 0.3), 0.5) is None

    def test_a_target_that_is_only_touched_is_held(self) -> None:
        assert time_held(numbers(0, 10, 20), numbers(0.1, 0.5, 0.5), 0.5) == 10.0

    def test_a_target_held_from_the_start(self) -> None:
        assert time_held(numbers(5, 10), numbers(0.5, 0.6), 0.3) == 5.0

    def test_nothing_holds_nothing(self) -> None:
        assert time_held(numbers(), numbers(), 0.3) is None

    def test_an_error_is_held_from_above(self) -> None:
        times, rmse = numbers(0, 10, 20), numbers(3.0, 1.4, 1.0)
        assert time_held(times, rmse, 1.2, higher_is_better=False) == pytest.approx(15.0)
        assert time_held(times, rmse, 0.9, higher_is_better=False) is None

    def test_what_is_no_number_does_not_hold(self) -> None:
        times = numbers(0, 10, 20)
        assert time_held(times, numbers(0.5, 0.5, NAN), 0.2) is None
        assert time_held(times, numbers(0.5, NAN, 0.5), 0.2) == 20.0
        assert time_held(times, numbers(INF, INF, 1.0), 1.5, higher_is_better=False) == 20.0


def only(figure: MeanInterval | None) -> float:
    """The mean of a figure, which must be there."""
    assert figure is not None
    return figure.mean


class TestOneSeed:
    def test_both_ratios(self) -> None:
        slow = curve("baseline", 0.0, 0.2, 0.3, 0.4, rate=100.0)
        fast = curve("ours", 0.0, 0.4, 0.5, 0.6, rate=300.0)
        result = compare([slow, fast], target=0.4)
        base, ours = result.groups
        assert (only(base.time_to_target_s), only(ours.time_to_target_s)) == (30.0, 10.0)
        assert only(ours.times_faster) == pytest.approx(3.0)  # above 1: faster than the baseline
        assert (only(base.bytes_to_target), only(ours.bytes_to_target)) == (3000.0, 3000.0)
        assert only(ours.times_fewer_bytes) == pytest.approx(1.0)
        assert only(base.times_faster) == only(base.times_fewer_bytes) == pytest.approx(1.0)
        assert ours.gain_percent == pytest.approx(50.0)
        assert (only(ours.end), only(ours.worst_node), only(ours.averaged_model)) == pytest.approx((0.6, 0.5, 0.65))
        assert result.target_source == "given"
        assert ours.end is not None
        assert (ours.end.low, ours.end.n) == (None, 1)

    def test_a_lower_error_is_a_gain(self) -> None:
        runs = [curve("a", 3.0, 1.0, metric="rmse"), curve("b", 3.0, 0.9, metric="rmse")]
        result = compare(runs)
        assert result.target == pytest.approx(1.2)  # 90 % of the way from 3 to 1
        assert result.groups[1].gain_percent == pytest.approx(10.0)
        assert f"{result.groups[0].gain_percent:+.1f}" == "+0.0"
        assert only(result.groups[1].times_faster) > 1.0
        assert [row.target for row in result.table] == pytest.approx([2.0, 1.8, 1.6, 1.4, 1.2, 1.0])

    def test_a_target_that_one_run_misses_gives_no_ratio(self) -> None:
        result = compare([curve("a", 0.1, 0.5), curve("b", 0.1, 0.3)], target=0.4)
        missing = result.groups[1]
        assert (missing.reached, missing.time_to_target_s, missing.times_faster) == (0, None, None)
        assert only(missing.end) == 0.3  # it is shown all the same

    def test_a_target_held_from_the_start_has_no_ratio(self) -> None:
        result = compare([curve("a", 0.5, 0.5), curve("b", 0.1, 0.5)], target=0.5)
        assert only(result.groups[0].time_to_target_s) == 0.0
        assert result.groups[1].times_faster is None

    def test_values_at_the_last_common_instant(self) -> None:
        result = compare([curve("a", 0.0, 0.2, 0.4), curve("b", 0.0, 0.6, step_s=15.0)])
        assert result.common_time_s == 15.0
        assert [only(group.at_common_time) for group in result.groups] == pytest.approx([0.3, 0.6])

    def test_runs_that_measure_different_things_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="share a metric"):
            compare([curve("a", 0.1), curve("b", 1.0, metric="rmse")])
        with pytest.raises(ConfigError, match="at least one"):
            compare([])

    def test_runs_that_were_never_evaluated_compare_to_nothing(self) -> None:
        result = compare([curve("a"), curve("b", 0.4)])
        assert (result.target, result.common_time_s, result.groups[0].end) == (None, None, None)
        assert compare([curve("a", 0.1, 0.4), curve("b")]).groups[1].reached == 0

    def test_diverged_runs_are_shown(self) -> None:
        result = compare([curve("a", 0.1, NAN, NAN), curve("b", 0.1, 0.4)])
        assert result.target is None
        assert compare([curve("b", 0.1, 0.4), curve("a", 0.1, NAN)]).groups[1].end is None


class TestTargets:
    NOISY = (0.10, 0.15, 0.18, 0.19, 0.185, 0.192, 0.188, 0.20, 0.187, 0.193, 0.186, 0.194)

    def test_the_default_is_on_the_slope_and_not_at_a_noisy_maximum(self) -> None:
        result = compare([curve("a", *self.NOISY)])
        end = smoothed(numbers(*self.NOISY))[-1]
        assert result.target == pytest.approx(0.1 + 0.9 * (end - 0.1))
        assert only(result.groups[0].time_to_target_s) < 40  # not the 70 s of the maximum

    def test_one_lucky_evaluation_changes_a_ratio_little(self) -> None:
        """Its first crossing of the baseline's maximum moves it from 2.5x to 5x."""
        ours = curve("ours", *(min(0.4, 0.1 + 0.03 * i) for i in range(12)))
        ratios = []
        for lucky in (0.192, 0.23):
            values = [*self.NOISY[:7], lucky, *self.NOISY[8:]]
            ratios.append(only(compare([curve("a", *values), ours]).groups[1].times_faster))
        assert ratios[1] == pytest.approx(ratios[0], rel=0.1)

    def test_what_the_baseline_holds_at_the_end_can_be_held(self) -> None:
        for values in ((0.1, 0.3), (0.07, 0.111, 0.3333, 0.7771), self.NOISY):
            result = compare([curve("a", *values)])
            assert result.table[-1].reached == (1,)
            assert result.curve[-1].reached == (1,)

    def test_a_baseline_that_never_got_better_has_its_end_for_a_target(self) -> None:
        result = compare([curve("a", 0.4, 0.2), curve("b", 0.1, 0.5)])
        assert (result.target, result.groups[0].reached, result.curve) == (0.2, 1, ())
        assert [row.target for row in result.table] == [0.2]

    def test_stated_targets_come_first_the_hardest_that_the_baseline_holds(self) -> None:
        stated = (0.5, 0.2, 0.35)
        result = compare([curve("a", 0.0, 0.4, stated_targets=stated), curve("b", 0.0, 0.6)])
        assert (result.target, result.target_source) == (0.35, "stated")
        assert [row.target for row in result.table] == [0.2, 0.35, 0.5]
        assert [row.reached for row in result.table] == [(1, 1), (1, 1), (0, 1)]
        none_held = compare([curve("a", 0.0, 0.1, stated_targets=stated), curve("b", 0.0, 0.6)])
        assert none_held.target == 0.2
        rmse = compare([curve("a", 3.0, 1.1, metric="rmse", stated_targets=(1.0, 1.2, 2.0))])
        assert (rmse.target, [row.target for row in rmse.table]) == (1.2, [2.0, 1.2, 1.0])

    def test_of_many_stated_targets_a_few_are_listed(self) -> None:
        stated = tuple(0.01 * step for step in range(1, 41))
        result = compare([curve("a", 0.0, 0.305, stated_targets=stated)])
        assert result.target == pytest.approx(0.3)
        assert len(result.table) <= 9
        assert result.target in [row.target for row in result.table]

    @pytest.mark.parametrize(
        ("metric", "target", "message"),
        [
            ("accuracy", 80, "target=80: must be an accuracy between 0 and 1; 80 % is 0.8"),
            ("accuracy", 1.2, "target=1.2: must be an accuracy between 0 and 1"),
            ("accuracy", -0.1, "target=-0.1: must be an accuracy between 0 and 1"),
            ("accuracy", 800, "target=800: must be an accuracy between 0 and 1"),
            ("rmse", 0, "target=0: must be an RMSE above 0"),
            ("rmse", -1, "target=-1: must be an RMSE above 0"),
        ],
    )
    def test_a_target_on_another_scale_is_refused(self, metric: str, target: float, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            compare([curve("a", 0.1, 0.5, metric=metric)], target)
        assert str(caught.value).startswith(message)


def three_seeds() -> Comparison:
    """A baseline that needs 40, 60 and 50 s for 0.4, and runs that are 2, 3 and 4 times as fast."""
    runs = []
    for seed, (base_s, ratio) in enumerate(((40.0, 2.0), (60.0, 3.0), (50.0, 4.0)), start=1):
        runs.append(curve("base", 0.0, 0.4, step_s=base_s, seed=seed))
        runs.append(curve("ours", 0.0, 0.4, step_s=base_s / ratio, seed=seed))
    return compare(runs, target=0.4)


class TestSeeds:
    def test_runs_that_differ_only_in_the_seed_are_one_group(self) -> None:
        result = three_seeds()
        assert [(group.label, group.seeds, group.members) for group in result.groups] == [
            ("base", (1, 2, 3), (0, 2, 4)),
            ("ours", (1, 2, 3), (1, 3, 5)),
        ]

    def test_times_have_a_mean_and_a_t_interval(self) -> None:
        """40, 60 and 50 s: mean 50, standard deviation 10."""
        time = three_seeds().groups[0].time_to_target_s
        assert time is not None
        assert (time.mean, time.n) == (50.0, 3)
        assert time.high == pytest.approx(50 + 4.303 * 10 / sqrt(3), abs=0.01)

    def test_ratios_are_of_pairs_with_a_geometric_mean(self) -> None:
        ratio = three_seeds().groups[1].times_faster
        assert ratio is not None
        assert ratio.mean == pytest.approx(24 ** (1 / 3))
        assert ratio.high is not None
        logs = np.log([2.0, 3.0, 4.0])
        assert log(ratio.high) == pytest.approx(logs.mean() + 4.3027 * logs.std(ddof=1) / sqrt(3), abs=1e-4)
        assert ratio.n == 3

    def test_pairs_are_by_seed_and_not_by_order(self) -> None:
        base = [curve("base", 0.0, 0.4, step_s=10.0 * seed, seed=seed) for seed in (1, 2, 3)]
        ours = [curve("ours", 0.0, 0.4, step_s=5.0 * seed, seed=seed) for seed in (3, 1, 2)]
        ratio = compare([*base, *ours], target=0.4).groups[1].times_faster
        assert ratio is not None
        assert (ratio.low, ratio.mean, ratio.high) == pytest.approx((2.0, 2.0, 2.0))

    def test_runs_that_never_reach_it_are_counted_and_not_dropped(self) -> None:
        base = [curve("base", 0.0, 0.4, seed=seed) for seed in (1, 2, 3)]
        ours = [curve("ours", 0.0, end, step_s=5.0, seed=seed) for seed, end in ((1, 0.4), (2, 0.2), (3, 0.4))]
        group = compare([*base, *ours], target=0.4).groups[1]
        assert (group.reached, len(group.seeds)) == (2, 3)
        assert group.times_held_s == (5.0, None, 5.0)
        assert group.times_faster is not None
        assert (group.times_faster.mean, group.times_faster.n) == pytest.approx((2.0, 2))
        assert group.end is not None
        assert group.end.n == 3  # the mean at the end is of all

    def test_only_common_seeds_make_pairs(self) -> None:
        base = [curve("base", 0.0, 0.4, step_s=10.0, seed=seed) for seed in (1, 2)]
        ours = [curve("ours", 0.0, 0.4, step_s=step, seed=seed) for seed, step in ((2, 5.0), (9, 1.0))]
        ratio = compare([*base, *ours], target=0.4).groups[1].times_faster
        assert ratio is not None
        assert (ratio.mean, ratio.n) == pytest.approx((2.0, 1))

    def test_without_a_common_seed_there_is_a_ratio_and_no_interval(self) -> None:
        base = [curve("base", 0.0, 0.4, step_s=10.0, seed=seed) for seed in (1, 2)]
        ours = [curve("ours", 0.0, 0.4, step_s=5.0, seed=seed) for seed in (3, 4)]
        ratio = compare([*base, *ours], target=0.4).groups[1].times_faster
        assert ratio is not None
        assert (ratio.mean, ratio.low, ratio.n) == (pytest.approx(2.0), None, 2)

    def test_of_the_same_seed_the_last_run_that_is_done_counts(self) -> None:
        """In the place of the first, so that a baseline stays one."""
        first, other, last = curve("a", 0.0, 0.4), curve("b", 0.0, 0.5), curve("a", 0.0, 0.6)
        cut, seed_2 = curve("a", 0.0, 0.1, status="interrupted"), curve("a", 0.0, 0.7, seed=2)
        kept, repeats = without_repeats([first, other, last, cut, seed_2])
        assert [run.headline[-1] for run in kept] == [0.6, 0.5, 0.7]
        assert kept[0] is last
        assert [(left_out is first, one is last) for left_out, one in repeats] == [(True, True), (False, True)]
        assert without_repeats([cut, cut])[0] == [cut]
        unknown = [replace(first, setting=None)] * 2
        assert without_repeats(unknown) == (unknown, [])

    def test_the_same_seed_twice_is_no_second_sample(self) -> None:
        result = compare([curve("a", 0.0, 0.4), curve("a", 0.0, 0.4)])
        assert [group.members for group in result.groups] == [(0,), (1,)]

    def test_runs_of_unknown_settings_stand_alone(self) -> None:
        runs = [Curve("a", numbers(0, 1), numbers(0, 0.4), numbers(0, 9), seed=seed) for seed in (1, 2)]
        assert len(compare(runs).groups) == 2

    def test_local_is_the_floor(self) -> None:
        runs = [curve("a", 0.0, 0.4), curve("alone", 0.0, 0.3, algorithm="local")]
        floor = compare(runs).floor
        assert floor is not None
        assert floor.label == "alone"
        assert compare(runs[:1]).floor is None


class TestEndings:
    """Runs that did not come to the experiment's end."""

    def test_every_way_to_end_has_a_rule(self) -> None:
        assert {"done", *ENDED_BADLY, *CUT_SHORT} == {*get_args(EndStatus), "partial"}

    @pytest.mark.parametrize("status", ENDED_BADLY)
    def test_one_that_ended_badly_never_holds_a_target_and_has_no_end(self, status: str) -> None:
        """Its curve ends at 10 s, at the best value of all."""
        base = [curve("base", 0.0, 0.4, step_s=20.0, seed=seed) for seed in (1, 2)]
        ours = [curve("ours", 0.0, 0.4, seed=1), curve("ours", 0.0, 0.9, seed=2, status=status)]
        result = compare([*base, *ours], target=0.4)
        group = result.groups[1]
        assert (group.reached, group.counted_seeds, group.done) == (1, (1, 2), 1)
        assert group.statuses == ("done", status)
        assert (only(group.end), only(group.worst_node)) == pytest.approx((0.4, 0.3))
        assert group.times_faster is not None
        assert (group.times_faster.mean, group.times_faster.n) == pytest.approx((2.0, 1))
        assert [row.reached for row in result.table if row.target == 0.4] == [(2, 1)]

    @pytest.mark.parametrize("status", ENDED_BADLY)
    def test_its_end_is_no_common_instant(self, status: str) -> None:
        runs = [curve("a", 0.0, 0.2, 0.4), curve("b", 0.0, status=status), curve("c", 0.0, 0.3, 0.5)]
        result = compare(runs)
        assert result.common_time_s == 20.0
        assert [group.at_common_time is None for group in result.groups] == [False, True, False]

    @pytest.mark.parametrize("status", CUT_SHORT)
    def test_one_that_was_cut_short_counts_only_where_all_are(self, status: str) -> None:
        """Nobody knows whether it would have gone on to hold what it reached."""
        base = [curve("base", 0.0, 0.2, 0.4, seed=seed) for seed in (1, 2)]
        ours = [curve("ours", 0.0, 0.3, 0.4, seed=1), curve("ours", 0.0, 0.9, seed=2, status=status)]
        result = compare([*base, *ours], target=0.4)
        group = result.groups[1]
        assert (group.reached, group.counted_seeds, group.done) == (1, (1,), 1)
        assert group.end is not None
        assert (group.end.mean, group.end.n) == (0.4, 1)
        assert result.common_time_s == 10.0
        assert only(group.at_common_time) == pytest.approx(0.6)

    @pytest.mark.parametrize("status", [*ENDED_BADLY, *CUT_SHORT])
    def test_a_baseline_that_is_not_done_gives_no_target(self, status: str) -> None:
        """Not the value of its first evaluation, which all hold from the start."""
        runs = [curve("a", 0.1, status=status), curve("b", 0.1, 0.4)]
        result = compare(runs)
        assert (result.target, result.table, result.curve) == (None, (), ())
        assert all(group.gain_percent is None for group in result.groups)
        given = compare(runs, target=0.2)
        assert [group.reached for group in given.groups] == [0, 1]
        assert given.groups[1].times_faster is None

    def test_stated_targets_are_those_that_all_runs_hold_which_count(self) -> None:
        stated = (0.2, 0.3)
        done = curve("a", 0.0, 0.4, stated_targets=stated)
        cut, bad = (replace(done, seed=2, status=status) for status in ("interrupted", "diverged"))
        assert compare([done, cut]).target == 0.3
        assert compare([done, bad]).target == 0.2
        assert compare([cut]).target == 0.2

    def test_seeds_of_runs_cut_short_make_no_pairs(self) -> None:
        """The ratio is that of groups without a common seed."""
        base = [curve("base", 0.0, 0.4, seed=1), curve("base", 0.0, 0.4, seed=2, status="failed")]
        ours = [curve("ours", 0.0, 0.4, seed=2, step_s=5.0), curve("ours", 0.0, seed=1, status="failed")]
        ratio = compare([*base, *ours], target=0.4).groups[1].times_faster
        assert ratio is not None
        assert (ratio.mean, ratio.low, ratio.n) == (pytest.approx(2.0), None, 1)
