"""Analysis of curves: time and bytes to a target, ratios between runs, quantiles and histograms.

Pure: numpy only, no files. Everything here works on arrays, or on anything that looks like :class:`ComparableRun`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from node.core.errors import ConfigError
from node.core.types import Float64Vector

Numbers: TypeAlias = npt.NDArray[np.float64] | npt.NDArray[np.int64]
"""Shape (k,): seconds, bytes, rounds or a test metric."""


class ComparableRun(Protocol):
    """Input of a comparison: the curve and the figures of one run."""

    @property
    def label(self) -> str:
        """Name shown in tables and legends."""

    @property
    def metric(self) -> str:
        """Name of the headline figure, ``accuracy`` or ``rmse``."""

    @property
    def higher_is_better(self) -> bool:
        """Whether the headline figure should grow."""

    @property
    def times_s(self) -> Float64Vector:
        """Evaluation instants in seconds, shape (samples,), ascending."""

    @property
    def headline(self) -> Float64Vector:
        """The node average of the headline figure at these instants, shape (samples,)."""

    @property
    def bytes_sent(self) -> Float64Vector:
        """Bytes sent by all nodes so far at these instants, shape (samples,)."""


def time_to_accuracy(
    times: Numbers, values: Float64Vector, target: float, *, higher_is_better: bool = True
) -> float | None:
    """When a curve first reaches a target, linearly interpolated between evaluations.

    Args:
        times: Where the curve was evaluated, shape (k,), ascending. Seconds, or bytes: see
            :func:`bytes_to_accuracy`.
        values: The curve, shape (k,). Values that are not numbers are passed over.
        target: The value to reach; a curve that only touches it has reached it.
        higher_is_better: False for an error such as the RMSE, which reaches its target from above.

    Returns:
        The first crossing in the unit of ``times``; None if there is none.
    """
    usable = ~np.isnan(values)
    at = np.asarray(times, dtype=np.float64)[usable]
    curve = values[usable] if higher_is_better else -values[usable]
    goal = target if higher_is_better else -target
    reached = np.flatnonzero(curve >= goal)
    if reached.size == 0:
        return None
    first = int(reached[0])
    if first == 0:
        return float(at[0])
    before, after = float(curve[first - 1]), float(curve[first])
    if not (np.isfinite(before) and np.isfinite(after)):
        return float(at[first])  # nothing to interpolate between: the loss was infinite a sample ago
    share = (goal - before) / (after - before)
    return float(at[first - 1] + share * (at[first] - at[first - 1]))


def bytes_to_accuracy(
    bytes_sent: Numbers, values: Float64Vector, target: float, *, higher_is_better: bool = True
) -> float | None:
    """Bytes sent by all nodes when a curve first reaches a target, interpolated like the time."""
    return time_to_accuracy(bytes_sent, values, target, higher_is_better=higher_is_better)


def best_index(values: Float64Vector, *, higher_is_better: bool) -> int | None:
    """Index of the best value, the earliest of equals; None where no value is a number."""
    if np.isnan(values).all():
        return None
    return int(np.nanargmax(values) if higher_is_better else np.nanargmin(values))


def best_value(run: ComparableRun) -> float | None:
    """The best headline figure of a run; None if it was never evaluated."""
    index = best_index(run.headline, higher_is_better=run.higher_is_better)
    return None if index is None else float(run.headline[index])


def automatic_target(runs: Sequence[ComparableRun]) -> float | None:
    """The best figure that every run reaches, that is, the best of the worst run.

    None if a run was never evaluated.
    """
    bests: list[float] = []
    for run in runs:
        best = best_value(run)
        if best is None:
            return None
        bests.append(best)
    if not bests:
        return None
    return min(bests) if runs[0].higher_is_better else max(bests)


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run against the baseline, which is the first run given.

    A figure is None where the run or the baseline never reaches the target.

    Attributes:
        label: The run.
        final: Headline figure at the last evaluation.
        best: Best headline figure.
        time_to_target_s: Time to the target.
        bytes_to_target: Bytes sent by all nodes until then.
        times_faster: Baseline's time / this run's time. Above 1: this run is faster.
        time_ratio: This run's time / baseline's time. Below 1: this run is faster.
        times_fewer_bytes: Baseline's bytes / this run's bytes. Above 1: this run sends less.
        bytes_ratio: This run's bytes / baseline's bytes. Below 1: this run sends less.
        best_difference: This run's best minus the baseline's best, in the metric's own unit.
        best_gain_percent: How much better this run's best is, relative to the baseline's best; positive is
            better for either metric.
        at_common_time: Headline figure, interpolated, at the last instant that all runs reached.
    """

    label: str
    final: float | None
    best: float | None
    time_to_target_s: float | None
    bytes_to_target: float | None
    times_faster: float | None
    time_ratio: float | None
    times_fewer_bytes: float | None
    bytes_ratio: float | None
    best_difference: float | None
    best_gain_percent: float | None
    at_common_time: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        metric: ``accuracy`` or ``rmse``.
        target: What they are asked to reach; None if there is no such figure.
        target_is_automatic: Whether it was chosen by :func:`automatic_target`.
        baseline: Label of the first run, which every ratio refers to.
        common_time_s: The last instant that all runs reached; None if a run was never evaluated.
        runs: One entry a run, in the given order.
    """

    metric: str
    target: float | None
    target_is_automatic: bool
    baseline: str
    common_time_s: float | None
    runs: tuple[ComparedRun, ...]


def compare(runs: Sequence[ComparableRun], target: float | None = None) -> Comparison:
    """Compare runs by the time and the bytes to a target, against the first of them.

    Args:
        runs: At least one. The first is the baseline.
        target: What to reach. None: the best figure that every run reaches.

    Raises:
        ConfigError: No run was given, or they do not measure the same thing.
    """
    if not runs:
        raise ConfigError("compare: give at least one run")
    # Step 1: runs that measure different things have no ratio.
    baseline = runs[0]
    for run in runs[1:]:
        if run.metric != baseline.metric:
            raise ConfigError(
                f"compare: {run.label} measures {run.metric}, but {baseline.label} measures "
                f"{baseline.metric}: runs must share a metric"
            )
    # Step 2: what all are asked for: one target, and the last instant that all reached.
    automatic = target is None
    goal = automatic_target(runs) if target is None else target
    ends = [float(run.times_s[-1]) if run.times_s.size else None for run in runs]
    known = [end for end in ends if end is not None]
    common = min(known) if len(known) == len(runs) else None
    # Step 3: a row for each run against the baseline, which is a run like any other.
    base_time, base_bytes = _to_target(baseline, goal)
    base_best = best_value(baseline)
    rows: list[ComparedRun] = []
    for run in runs:
        time, sent = _to_target(run, goal)
        best = best_value(run)
        difference = None if best is None or base_best is None else best - base_best
        gain = None
        if difference is not None and base_best:
            gain = 100.0 * (difference if run.higher_is_better else -difference) / abs(base_best)
        rows.append(
            ComparedRun(
                label=run.label,
                final=float(run.headline[-1]) if run.headline.size else None,
                best=best,
                time_to_target_s=time,
                bytes_to_target=sent,
                times_faster=_ratio(base_time, time),
                time_ratio=_ratio(time, base_time),
                times_fewer_bytes=_ratio(base_bytes, sent),
                bytes_ratio=_ratio(sent, base_bytes),
                best_difference=difference,
                best_gain_percent=gain,
                at_common_time=None if common is None else float(np.interp(common, run.times_s, run.headline)),
            )
        )
    return Comparison(baseline.metric, goal, automatic, baseline.label, common, tuple(rows))


def _to_target(run: ComparableRun, target: float | None) -> tuple[float | None, float | None]:
    if target is None:
        return None, None
    better = run.higher_is_better
    return (
        time_to_accuracy(run.times_s, run.headline, target, higher_is_better=better),
        bytes_to_accuracy(run.bytes_sent, run.headline, target, higher_is_better=better),
    )


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    if numerator is None or denominator is None or denominator == 0:
        return None
    return numerator / denominator


def quantiles(values: Numbers) -> dict[str, float | int | None]:
    """Count, mean, median, 95th percentile and maximum of any numbers; None for each where there are none."""
    if values.size == 0:
        return {"count": 0, "mean": None, "p50": None, "p95": None, "max": None}
    p50, p95 = np.percentile(values, (50, 95))
    return {
        "count": int(values.size),
        "mean": float(values.mean()),
        "p50": float(p50),
        "p95": float(p95),
        "max": float(values.max()),
    }


@dataclass(frozen=True, slots=True)
class Histogram:
    """Several groups counted over the same bins.

    Attributes:
        edges: Bin edges, shape (bins + 1,).
        shares: Per group, the share of its values in each bin, shape (bins,). Sums to 1 with ``above``.
        above: Per group, the share of its values above the last edge.
    """

    edges: Float64Vector
    shares: dict[str, Float64Vector]
    above: dict[str, float]


def histogram(
    groups: dict[str, Numbers], *, whole_numbers: bool, max_bins: int = 40, cover: float = 0.995
) -> Histogram | None:
    """Count groups of values over shared bins.

    A few extreme values would squeeze everything else into one bin, so that the bins cover only the share
    ``cover`` of all values; what lies above is told apart.

    Args:
        groups: Values by group name.
        whole_numbers: Centre the bins on whole numbers and make them whole numbers wide.
        max_bins: At most so many bins.
        cover: Share of all values, in (0, 1], that the bins must cover.

    Returns:
        None if all groups are empty.
    """
    everything = np.concatenate([np.zeros(0), *(np.asarray(values, dtype=np.float64) for values in groups.values())])
    if everything.size == 0:
        return None
    low, high = float(everything.min()), float(np.quantile(everything, cover, method="higher"))
    if whole_numbers:
        width = max(1, int(np.ceil((high - low + 1) / max_bins)))
        count = int((high - low) // width) + 1
        edges = low - 0.5 + width * np.arange(count + 1, dtype=np.float64)
    else:
        low = min(low, 0.0)
        edges = np.linspace(low, high if high > low else low + 1.0, max_bins + 1)
    shares: dict[str, Float64Vector] = {}
    above: dict[str, float] = {}
    for name, values in groups.items():
        counts, _ = np.histogram(values, bins=edges)
        total = max(1, values.size)
        shares[name] = counts / total
        above[name] = float(np.count_nonzero(values > edges[-1]) / total)
    return Histogram(edges, shares, above)
