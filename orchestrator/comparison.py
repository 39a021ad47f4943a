"""Comparison of runs: groups of seeds, targets that a run holds, ratios between pairs of seeds.

Pure: no files. Works on anything that looks like :class:`ComparableRun`. ``docs/explanation/comparisons.md`` argues for
the definitions; they are, in short:

- Runs that differ only in the seed are one group. Figures of a group are means with a t interval.
- A curve is smoothed by the mean over up to five neighboring evaluations (:func:`smoothed`).
- A run *holds* a target from the first time on from which its smoothed curve stays at least as good
  (:func:`time_held`). A curve that touches a target and falls back does not hold it.
- Ratios are taken between runs of the same seed; their mean is the geometric one.
- A run that diverged or stalled counts as one that never holds a target, and has no end. One that was interrupted,
  failed or is under way is no measurement to the end: it is shown, and compared at the last instant that all reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, isfinite, log
from typing import Final, Literal, Protocol, TypeAlias, TypeVar

import numpy as np

from node.core.errors import ConfigError
from node.core.types import Float64Vector
from orchestrator.analysis import Numbers
from orchestrator.intervals import MeanInterval, mean_of, mean_ratio

TargetSource: TypeAlias = Literal["given", "stated", "automatic"]
"""``given`` by whoever compares, ``stated`` in the baseline's experiment, or ``automatic``."""

WINDOW_SIDE: Final = 2
"""Evaluations on either side of one that smoothing takes in, of a curve of ten or more."""

AUTOMATIC_SHARE: Final = 0.9
"""Share of the way from the baseline's first value to the one that it holds at the end, at the automatic target."""

TABLE_SHARES: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The same for the targets at which ratios are listed, where none are stated."""

CURVE_SHARES: Final = tuple(0.2 + 0.02 * step for step in range(41))
"""The same for the targets at which ratios are drawn."""

ENDED_BADLY: Final = ("diverged", "stalled")
"""Ways to end of runs that came to an end of their own before the experiment's: they hold nothing."""

CUT_SHORT: Final = ("interrupted", "failed", "partial")
"""Ways to end of runs of which nobody knows what they would have held; ``partial`` has not said how it ended."""

STATED_SHOWN: Final = 8
"""Stated targets that a table of ratios has room for."""


class ComparableRun(Protocol):
    """Input of a comparison: the curves and the figures of one run."""

    @property
    def label(self) -> str:
        """Name shown in tables and legends."""

    @property
    def algorithm(self) -> str:
        """Kind of the algorithm."""

    @property
    def seed(self) -> int:
        """Seed of all its randomness."""

    @property
    def status(self) -> str:
        """Its end: ``done``, or one of :data:`ENDED_BADLY` and :data:`CUT_SHORT`."""

    @property
    def setting(self) -> str | None:
        """Everything that decides its results but the seed, equal for equal settings; None if unknown."""

    @property
    def stated_targets(self) -> tuple[float, ...]:
        """Targets that its experiment states; empty if none."""

    @property
    def metric(self) -> str:
        """Name of the headline figure, ``accuracy`` or ``rmse``."""

    @property
    def higher_is_better(self) -> bool:
        """True where the headline figure should grow."""

    @property
    def times_s(self) -> Float64Vector:
        """Evaluation instants in seconds, shape (samples,), ascending."""

    @property
    def headline(self) -> Float64Vector:
        """Mean over nodes of the headline figure at these instants, shape (samples,)."""

    @property
    def worst_node(self) -> Float64Vector:
        """The worst node's headline figure at these instants, shape (samples,)."""

    @property
    def averaged_model(self) -> Float64Vector:
        """The averaged model's headline figure at these instants, shape (samples,); NaN where it was not tested."""

    @property
    def bytes_sent(self) -> Float64Vector:
        """Bytes sent by all nodes so far at these instants, shape (samples,)."""


# --- one curve ------------------------------------------------------------------------------------------------


def smoothed(values: Float64Vector) -> Float64Vector:
    """The mean of each value and its neighbors: up to two on either side, one of a curve of less than ten.

    At the beginning, where curves are steep, the window narrows so that it stays centred. At the end it is cut off, so
    that a single last value does not decide what a run holds. A curve of less than five values stays as it is.

    Args:
        values: A curve, shape (k,). A value that is no number spoils the windows that it is in.

    Returns:
        Shape (k,).
    """
    if not is_smoothed(values):
        return values.copy()
    side = min(WINDOW_SIDE, values.size // 5)
    with np.errstate(invalid="ignore"):  # of a loss that is infinite
        return np.array([values[i - min(side, i) : i + min(side, i) + 1].mean() for i in range(values.size)])


def is_smoothed(values: Float64Vector) -> bool:
    """True if :func:`smoothed` changes curves of this length, shape (k,)."""
    return values.size >= 5


def time_held(times: Numbers, values: Float64Vector, target: float, *, higher_is_better: bool = True) -> float | None:
    """Find the time from which a curve stays at a target or better, interpolated between evaluations.

    Args:
        times: Where the curve was evaluated, shape (k,), ascending: seconds, or bytes.
        values: The curve, shape (k,), smoothed by :func:`smoothed`. What is no number does not hold anything.
        target: The value to hold.
        higher_is_better: False for an error such as the RMSE, which is to stay below its target.

    Returns:
        In the unit of ``times``; None if the curve's last value does not hold the target.
    """
    sign = 1.0 if higher_is_better else -1.0
    curve, goal = sign * values, sign * target
    short = np.flatnonzero(~(curve >= goal))
    if values.size == 0 or (short.size and short[-1] == values.size - 1):
        return None
    if short.size == 0:
        return float(times[0])
    last = int(short[-1])
    before, after = float(curve[last]), float(curve[last + 1])
    if not (isfinite(before) and isfinite(after)):
        return float(times[last + 1])  # nothing to interpolate between
    share = (goal - before) / (after - before)
    return float(times[last] + share * (times[last + 1] - times[last]))


# --- a group --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ComparedGroup:
    """Runs that differ only in the seed, against the baseline, which is the group of the first run given.

    A figure is None where there is none: of a target that no run holds, or of runs that were never evaluated. Figures
    of the end are over the runs that are done, and so are times, bytes and ratios.

    Attributes:
        label: Name of the first of them.
        algorithm: Their algorithm.
        members: Their places among all runs that were given, in order of the seeds.
        seeds: Their seeds.
        statuses: Their ends, as runs say them.
        end: Headline figure of the mean node at the end, smoothed: the best that the runs hold.
        worst_node: The worst node's, likewise.
        averaged_model: The averaged model's, likewise.
        at_common_time: The mean node's at the last instant that all runs of all groups reached, those of
            :data:`ENDED_BADLY` aside.
        gain_percent: How much better ``end`` is than the baseline's, relative to it; positive is better.
        reached: How many of the runs hold the target.
        times_held_s: A run each: from when on it holds the target; None where it does not, or is not done.
        time_to_target_s: From when on, mean over those that do.
        bytes_to_target: Bytes sent by all nodes until then.
        times_faster: Baseline's time / this group's, over pairs of runs that both hold the target. Above 1: faster.
        times_fewer_bytes: Baseline's bytes / this group's.
    """

    label: str
    algorithm: str
    members: tuple[int, ...]
    seeds: tuple[int, ...]
    statuses: tuple[str, ...]
    end: MeanInterval | None
    worst_node: MeanInterval | None
    averaged_model: MeanInterval | None
    at_common_time: MeanInterval | None
    gain_percent: float | None
    reached: int
    times_held_s: tuple[float | None, ...]
    time_to_target_s: MeanInterval | None
    bytes_to_target: MeanInterval | None
    times_faster: MeanInterval | None
    times_fewer_bytes: MeanInterval | None

    @property
    def counted_seeds(self) -> tuple[int, ...]:
        """Seeds of the runs that count where it is asked how many hold a target: all but those cut short."""
        return tuple(seed for seed, status in zip(self.seeds, self.statuses, strict=True) if status not in CUT_SHORT)

    @property
    def done(self) -> int:
        """Number of runs that came to the experiment's end."""
        return self.statuses.count("done")


@dataclass(frozen=True, slots=True)
class RatiosAtTarget:
    """Ratios of all groups to the baseline at one of a range of targets.

    Attributes:
        target: The target.
        times_faster: A group each, in order: baseline's time / the group's.
        reached: A group each: how many of its runs hold the target.
    """

    target: float
    times_faster: tuple[MeanInterval | None, ...]
    reached: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several groups of runs side by side.

    Attributes:
        metric: ``accuracy`` or ``rmse``.
        higher_is_better: Whether the headline figure should grow.
        target: What they are asked to hold; None if no run of the baseline is done and was evaluated.
        target_source: Where it is from.
        common_time_s: The last instant that all runs reached that did not end badly; None if one was never evaluated.
        groups: In order of their first runs; the first is the baseline.
        table: Ratios at a few targets, from the easiest on.
        curve: Ratios at many targets, from the easiest on, up to what the baseline holds at the end.
    """

    metric: str
    higher_is_better: bool
    target: float | None
    target_source: TargetSource
    common_time_s: float | None
    groups: tuple[ComparedGroup, ...]
    table: tuple[RatiosAtTarget, ...]
    curve: tuple[RatiosAtTarget, ...]

    @property
    def baseline(self) -> ComparedGroup:
        """The group that every ratio refers to."""
        return self.groups[0]

    @property
    def floor(self) -> ComparedGroup | None:
        """Training without communication, which any exchange of models has to beat; None if it was not given."""
        return next((group for group in self.groups if group.algorithm == "local"), None)


@dataclass(frozen=True, eq=False)
class _Curves:
    """A run's curves, smoothed."""

    seed: int
    status: str
    times_s: Float64Vector
    bytes_sent: Float64Vector
    mean_node: Float64Vector
    worst_node: Float64Vector
    averaged_model: Float64Vector


def compare(runs: Sequence[ComparableRun], target: float | None = None) -> Comparison:
    """Compare runs by the time and the bytes until they hold a target, against the group of the first of them.

    Args:
        runs: At least one.
        target: What to hold. None: the hardest target stated in the baseline's experiment that all of its runs hold
            (the easiest if there is none), or, if none are stated, the value at :data:`AUTOMATIC_SHARE` of the way from
            the baseline's first evaluation to the value that it holds at the end.

    Raises:
        ConfigError: No run was given, they do not measure the same thing, or no run can have the target.
    """
    if not runs:
        raise ConfigError("compare: give at least one run")
    # Step 1: runs that measure different things have no ratio, and a target must be on their scale.
    first = runs[0]
    for run in runs[1:]:
        if run.metric != first.metric:
            raise ConfigError(
                f"compare: {run.label} measures {run.metric}, but {first.label} measures {first.metric}:"
                " runs must share a metric"
            )
    if target is not None:
        _check_scale(target, first.metric)
    better = first.higher_is_better
    # Step 2: the groups. All that follows is of smoothed curves.
    groups = _groups(runs)
    curves = [[_curves(runs[index]) for index in members] for members in groups]
    # Step 3: what all are asked for: targets, which follow from the baseline, and the last instant that all reached.
    goal, source, listed, drawn = _targets(curves[0], target, first.stated_targets, better)
    last = [one.times_s[-1:] for group in curves for one in group if one.status not in ENDED_BADLY]
    common = float(min(last)[0]) if last and all(instant.size for instant in last) else None
    # Step 4: each group against the baseline, which is a group like any other.
    base_end = _at_end(curves[0], "mean_node")
    compared = [
        _compared(runs, members, group, curves[0], base_end, goal, common, better)
        for members, group in zip(groups, curves, strict=True)
    ]
    return Comparison(
        metric=first.metric,
        higher_is_better=better,
        target=goal,
        target_source=source,
        common_time_s=common,
        groups=tuple(compared),
        table=tuple(_ratios(curves, one, better) for one in listed),
        curve=tuple(_ratios(curves, one, better) for one in drawn),
    )


RunT = TypeVar("RunT", bound=ComparableRun)


def without_repeats(runs: Sequence[RunT]) -> tuple[list[RunT], list[tuple[RunT, RunT]]]:
    """Leave out all but one of the runs of one setting and seed, which are no further samples.

    Of them the last one given counts that is done, or the last one if none is.

    Returns:
        The runs that count, each in the place of the first of its kind, so that a baseline stays one; and the others,
        each with the one that counts in its place.
    """
    kinds: dict[tuple[str | int, int], list[RunT]] = {}
    for place, run in enumerate(runs):
        kinds.setdefault((place if run.setting is None else run.setting, run.seed), []).append(run)
    kept, repeats = [], []
    for same in kinds.values():
        done = [place for place, run in enumerate(same) if run.status == "done"]
        one = same.pop(done[-1] if done else -1)
        kept.append(one)
        repeats += [(run, one) for run in same]
    return kept, repeats


def _check_scale(target: float, metric: str) -> None:
    if metric == "accuracy" and not 0 <= target <= 1:
        hint = f"; {target:g} % is {target / 100:g}" if 1 < target <= 100 else ""
        raise ConfigError(f"target={target:g}: must be an accuracy between 0 and 1{hint}")
    if metric == "rmse" and not target > 0:
        raise ConfigError(f"target={target:g}: must be an RMSE above 0")


def _groups(runs: Sequence[ComparableRun]) -> list[tuple[int, ...]]:
    """Places of the runs of each group, in order of the seeds; groups in order of their first runs.

    A second run of a setting with the same seed is no further sample: it opens another group.
    """
    found: list[tuple[str | None, list[int]]] = []
    for index, run in enumerate(runs):
        for setting, members in found:
            is_new_seed = all(runs[member].seed != run.seed for member in members)
            if setting is not None and setting == run.setting and is_new_seed:
                members.append(index)
                break
        else:
            found.append((run.setting, [index]))
    return [tuple(sorted(members, key=lambda index: runs[index].seed)) for _, members in found]


def _curves(run: ComparableRun) -> _Curves:
    return _Curves(
        run.seed,
        run.status,
        run.times_s,
        run.bytes_sent,
        smoothed(run.headline),
        smoothed(run.worst_node),
        smoothed(run.averaged_model),
    )


def _targets(
    base: Sequence[_Curves], given: float | None, stated: tuple[float, ...], better: bool
) -> tuple[float | None, TargetSource, list[float], list[float]]:
    """The target, where it is from, the targets of the table, and those of the curve."""
    start, end = _first(base), _at_end(base, "mean_node")
    along: list[float] = []
    if start is not None and end is not None and (end.mean > start) == better and end.mean != start:
        way, shares = end.mean - start, (*TABLE_SHARES, *CURVE_SHARES, AUTOMATIC_SHARE)
        along = [start + share * way if share < 1 else end.mean for share in shares]
    listed, drawn = along[: len(TABLE_SHARES)], along[len(TABLE_SHARES) : -1]
    source: TargetSource = "automatic"
    goal = along[-1] if along else None if end is None else end.mean  # of a baseline that never got better
    if given is not None:
        goal, source = given, "given"
    elif stated:
        from_easiest = sorted(stated, reverse=not better)
        counted = [run for run in base if run.status not in CUT_SHORT]
        held = [one for one in from_easiest if counted and all(_held(run, one, better) is not None for run in counted)]
        goal, source = (held or from_easiest[:1])[-1], "stated"
        few = np.linspace(0, len(from_easiest) - 1, min(STATED_SHOWN, len(from_easiest)))
        listed = [from_easiest[round(place)] for place in few.tolist()]
    if goal is not None and goal not in listed:
        listed.append(goal)
    return goal, source, sorted(listed, reverse=not better), drawn


def _done(group: Sequence[_Curves]) -> list[_Curves]:
    """The runs that came to the experiment's end, as far as they were evaluated."""
    return [run for run in group if run.status == "done" and run.times_s.size]


def _first(base: Sequence[_Curves]) -> float | None:
    found = mean_of([float(run.mean_node[0]) for run in _done(base)])
    return None if found is None else found.mean


def _at_end(
    group: Sequence[_Curves], which: Literal["mean_node", "worst_node", "averaged_model"]
) -> MeanInterval | None:
    """Mean over the runs that are done; None if one of them ends with no number."""
    return mean_of([float(getattr(run, which)[-1]) for run in _done(group)])


def _held(run: _Curves, target: float, better: bool) -> float | None:
    if run.status != "done":
        return None
    return time_held(run.times_s, run.mean_node, target, higher_is_better=better)


def _held_bytes(run: _Curves, target: float, better: bool) -> float | None:
    if run.status != "done":
        return None
    return time_held(run.bytes_sent, run.mean_node, target, higher_is_better=better)


def _compared(
    runs: Sequence[ComparableRun],
    members: tuple[int, ...],
    group: Sequence[_Curves],
    base: Sequence[_Curves],
    base_end: MeanInterval | None,
    goal: float | None,
    common: float | None,
    better: bool,
) -> ComparedGroup:
    end = _at_end(group, "mean_node")
    held: list[float | None] = [None] * len(group)
    sent = []
    if goal is not None:
        held = [_held(run, goal, better) for run in group]
        sent = [amount for amount in (_held_bytes(run, goal, better) for run in group) if amount is not None]
    times = [time for time in held if time is not None]
    first = runs[members[0]]
    return ComparedGroup(
        label=first.label,
        algorithm=first.algorithm,
        members=members,
        seeds=tuple(runs[index].seed for index in members),
        statuses=tuple(runs[index].status for index in members),
        end=end,
        worst_node=_at_end(group, "worst_node"),
        averaged_model=_at_end(group, "averaged_model"),
        at_common_time=_at_common_time(group, common),
        gain_percent=_gain_percent(end, base_end, better),
        reached=len(times),
        times_held_s=tuple(held),
        time_to_target_s=mean_of(times),
        bytes_to_target=mean_of(sent),
        times_faster=None if goal is None else _ratio(base, group, goal, better, by_bytes=False),
        times_fewer_bytes=None if goal is None else _ratio(base, group, goal, better, by_bytes=True),
    )


def _at_common_time(group: Sequence[_Curves], common: float | None) -> MeanInterval | None:
    if common is None:
        return None
    there = [run for run in group if run.status not in ENDED_BADLY]
    return mean_of([float(np.interp(common, run.times_s, run.mean_node)) for run in there])


def _gain_percent(end: MeanInterval | None, base_end: MeanInterval | None, better: bool) -> float | None:
    if end is None or base_end is None or not base_end.mean:
        return None
    gained = end.mean - base_end.mean if better else base_end.mean - end.mean
    return 100.0 * gained / abs(base_end.mean)


def _ratios(curves: Sequence[Sequence[_Curves]], target: float, better: bool) -> RatiosAtTarget:
    return RatiosAtTarget(
        target,
        tuple(_ratio(curves[0], group, target, better, by_bytes=False) for group in curves),
        tuple(sum(_held(run, target, better) is not None for run in group) for group in curves),
    )


def _ratio(
    base: Sequence[_Curves], group: Sequence[_Curves], target: float, better: bool, *, by_bytes: bool
) -> MeanInterval | None:
    """The baseline's time, or bytes, over the group's.

    Over pairs of one seed: what a seed decides, for example which data a straggler has, then cancels out. Groups
    without a common seed have the ratio of their geometric means, and no interval.
    """
    held = _held_bytes if by_bytes else _held
    base_times, times = (
        {run.seed: held(run, target, better) for run in runs if run.status not in CUT_SHORT} for runs in (base, group)
    )
    pairs = [(base_times[seed], time) for seed, time in times.items() if seed in base_times]
    if pairs:
        # A time of 0, of a target that is no target, has no ratio.
        return mean_ratio([before / after for before, after in pairs if before and after])
    before, after = ([log(time) for time in found.values() if time] for found in (base_times, times))
    if not before or not after:
        return None
    return MeanInterval(exp(float(np.mean(before)) - float(np.mean(after))), None, None, min(len(before), len(after)))
