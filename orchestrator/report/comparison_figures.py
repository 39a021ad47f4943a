"""The figures of a comparison: curves over time and bytes, instants at which runs hold the target, and ratios."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from node.core.types import Float64Vector
from orchestrator.comparison import CUT_SHORT, ComparedGroup, Comparison
from orchestrator.intervals import MeanInterval, mean_of
from orchestrator.report.comparison_text import NONE, group_labels
from orchestrator.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PERCENT,
    PURPLE,
    SKY,
    VERMILION,
    Axes,
    Figure,
    Plot,
    finish_axes,
    label_text,
    new_figure,
    new_figures,
    own_settings,
    point_marker,
    scale_measured,
    to_svg,
)
from orchestrator.report.fault_drawing import finish_time_axes, with_lanes_note
from orchestrator.report.fault_lanes import Lane, lanes
from orchestrator.report.schedule_text import shared_schedule
from orchestrator.report.text import byte_unit, bytes_label, headline_text, metric_name, sentence, time_label
from orchestrator.results.reader import Run

RUN_COLORS: Final = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK, GREY)
RUN_DASHES: Final = ("-", "--", "-.", ":")


def group_look(place: int) -> tuple[str, str]:
    """The color and the dashes of a group, by its place."""
    color = RUN_COLORS[place % len(RUN_COLORS)]
    return color, RUN_DASHES[(place + place // len(RUN_COLORS)) % len(RUN_DASHES)]


def comparison_plots(runs: Sequence[Run], comparison: Comparison) -> list[Plot]:
    """All figures, in the order of the page."""
    labels = group_labels(runs, comparison)
    name = metric_name(comparison.metric)
    lines = _lines_note(runs, comparison)
    with own_settings():
        figure, axes = new_figure()
        _overlay(axes, runs, labels, comparison, by_bytes=False)
        plots = [Plot(f"{sentence(name)} over time", to_svg(figure), with_lanes_note(lines, _lanes(runs)))]
        figure, axes = new_figure()
        _overlay(axes, runs, labels, comparison, by_bytes=True)
        plots.append(Plot(f"{sentence(name)} over bytes", to_svg(figure), lines))
        if comparison.target is not None:
            plots.append(_instants_plot(runs, labels, comparison, comparison.target))
        if _has_ratios(comparison):
            figure, axes = new_figure()
            _speed_up(axes, labels, comparison)
            note = (
                "How many times sooner than the baseline a run holds each target; bands: 95 % intervals over seeds."
                " Dotted: not all pairs of runs hold it."
            )
            plots.append(Plot("Times faster over a range of targets", to_svg(figure), note))
    return plots


def overlay_figure(runs: Sequence[Run], comparison: Comparison) -> Figure:
    """The curves and the ratios beside each other, as one picture."""
    labels = group_labels(runs, comparison)
    has_ratios = _has_ratios(comparison)
    figure, all_axes = new_figures(3 if has_ratios else 2, (17.0 if has_ratios else 11.5, 4.0))
    _overlay(all_axes[0], runs, labels, comparison, by_bytes=False)
    _overlay(all_axes[1], runs, labels, comparison, by_bytes=True)
    if has_ratios:
        _speed_up(all_axes[2], labels, comparison)
    return figure


def _has_ratios(comparison: Comparison) -> bool:
    return len(comparison.groups) > 1 and bool(comparison.curve)


# --- curves -------------------------------------------------------------------------------------------------


def _lanes(runs: Sequence[Run]) -> list[Lane]:
    """The schedule of all runs, up to the last evaluation of any; none where they differ."""
    end_s = max((float(run.times_s[-1]) for run in runs if run.times_s.size), default=0.0)
    return lanes(shared_schedule(runs) or (), end_s)


def _lines_note(runs: Sequence[Run], comparison: Comparison) -> str:
    """Say what lines and bands are, as far as there are such."""
    sizes = [len(group.members) for group in comparison.groups]
    words = []
    if max(sizes) > 1:
        words.append(
            "Of several seeds: each a thin line, their mean, and its 95 % interval as a band, cut off at the axes."
        )
    if min(sizes) == 1:
        words.append("Of one run: the mean over its nodes; the band reaches from the worst to the best node.")
    if any(run.status != "done" for run in runs):
        words.append("A cross: the run ended there, before its time.")
    return " ".join(words)


def _overlay(axes: Axes, runs: Sequence[Run], labels: Sequence[str], comparison: Comparison, *, by_bytes: bool) -> None:
    """A line a group, the mean over its seeds, and a thin one for each seed."""
    # Step 1: lines, and the nodes of a single run: these set the limits of the axes.
    column = "accuracy" if comparison.metric == "accuracy" else "loss"
    most = max((float(run.bytes_sent.max(initial=0)) for run in runs), default=0.0)
    divisor, unit = byte_unit(most) if by_bytes else (1.0, "")
    bands = []
    for place, (group, label) in enumerate(zip(comparison.groups, labels, strict=True)):
        color, dash = group_look(place)
        members = [runs[index] for index in group.members]
        for run in members:
            _draw_run(axes, _positions(run, by_bytes) / divisor, run, column, color, is_thin=len(members) > 1)
        # One that ended early would end the line of all.
        x, middle, low, high = _mean_line([run for run in members if run.status == "done"] or members, by_bytes)
        axes.plot(x / divisor, middle, color=color, linestyle=dash, label=label_text(label), marker=point_marker(x))
        bands.append((x / divisor, low, high, color))
    if comparison.target is not None:
        text = f"target {headline_text(comparison.metric, comparison.target)}"
        axes.axhline(comparison.target, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), label=text)
    # Step 2: intervals, which of two seeds are as wide as all axes; they are cut off.
    limits = axes.get_ylim()
    for x, low, high, color in bands:
        axes.fill_between(x, low, high, color=color, alpha=0.10, linewidth=0)
    axes.set_ylim(limits)
    # Step 3: names of the axes, and the schedule.
    y_label = f"test {metric_name(comparison.metric)}"
    if by_bytes:
        finish_axes(axes, bytes_label(unit), y_label)
    else:
        finish_time_axes(axes, time_label(runs[0].facts.runtime), y_label, _lanes(runs))
    scale_measured(axes, column)


def _positions(run: Run, by_bytes: bool) -> Float64Vector:
    return run.bytes_sent if by_bytes else run.times_s


def _draw_run(axes: Axes, x: Float64Vector, run: Run, column: str, color: str, *, is_thin: bool) -> None:
    """Draw one of several seeds thin, of a run that stands alone its nodes; mark the end of one that ended early."""
    if is_thin:
        axes.plot(x, run.headline, color=color, linewidth=0.7, alpha=0.55, marker=point_marker(x), markersize=2)
    else:
        low, high = run.curve[f"{column}_min"], run.curve[f"{column}_max"]
        axes.fill_between(x, low, high, color=color, alpha=0.10, linewidth=0)
    if run.status != "done" and x.size:
        axes.plot(x[-1:], run.headline[-1:], color=color, marker="x", markersize=6, linestyle="none")


def _mean_line(
    members: Sequence[Run], by_bytes: bool
) -> tuple[Float64Vector, Float64Vector, Float64Vector, Float64Vector]:
    """The points of the x axis, and there the mean and the ends of its interval, as far as all runs of the group go.

    The ends are no numbers where there is no interval.
    """
    evaluated = [(_positions(run, by_bytes), run.headline) for run in members if run.times_s.size]
    if len(evaluated) < 2:
        nothing = np.full(members[0].times_s.size, np.nan)
        return _positions(members[0], by_bytes), members[0].headline, nothing, nothing
    x = evaluated[0][0]
    x = x[x <= min(float(own[-1]) for own, _ in evaluated)]
    values = np.array([np.interp(x, own, headline) for own, headline in evaluated])
    found = [mean_of(column.tolist()) for column in values.T]
    return x, values.mean(axis=0), _ends(found, "low"), _ends(found, "high")


def _ends(found: Sequence[MeanInterval | None], which: str) -> Float64Vector:
    return np.array([np.nan if (end := getattr(one, which, None)) is None else end for one in found])


# --- instants and ratios ------------------------------------------------------------------------------------


def _instants_plot(runs: Sequence[Run], labels: Sequence[str], comparison: Comparison, target: float) -> Plot:
    """A row a group: a dot a run where it holds the target, and at the right edge those that never do."""
    # Step 1: the time axis, which ends where the runs end.
    figure, axes = new_figure((6.2, 1.3 + 0.5 * len(labels)))
    last = [float(run.times_s[-1]) for run in runs if run.times_s.size]
    held = [time for group in comparison.groups for time in group.times_held_s if time is not None]
    end_s = max([*last, *held, 1e-9])
    # Step 2: the runs of each group, seed above seed.
    for place, group in enumerate(comparison.groups):
        color, _ = group_look(place)
        heights = place + np.linspace(-0.18, 0.18, len(group.members)) if len(group.members) > 1 else [float(place)]
        for time, status, height in zip(group.times_held_s, group.statuses, heights, strict=True):
            if time is not None:
                axes.plot([time], [height], marker="o", markersize=4, color=color, alpha=0.75, linestyle="none")
            elif status not in CUT_SHORT:
                (never,) = axes.plot([end_s * 1.06], [height], marker=">", color=color, linestyle="none")
                never.set(markersize=7, markerfacecolor="white", clip_on=False)
        _draw_interval(axes, group.time_to_target_s, place, end_s, color)
    # Step 3: names of the rows, with what became of their runs.
    axes.set_yticks(
        range(len(labels)),
        [f"{label_text(label)}\n{_counted(group)}" for label, group in zip(labels, comparison.groups, strict=True)],
    )
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    finish_time_axes(axes, time_label(runs[0].facts.runtime), "", _lanes(runs))
    axes.set_xlim(0.0, end_s * 1.1)
    note = (
        f"The target: {headline_text(comparison.metric, target)} {metric_name(comparison.metric)}."
        " A dot a run: from then on it holds the target. A triangle at the right edge: it never does. Of several seeds:"
        " the mean of those that do, and its 95 % interval, cut off where the runs begin and end."
    )
    return Plot("Time to hold the target", to_svg(figure), with_lanes_note(note, _lanes(runs)))


def _draw_interval(axes: Axes, time: MeanInterval | None, place: int, end_s: float, color: str) -> None:
    if time is None or time.low is None or time.high is None:
        return
    ends = [max(0.0, time.low), min(end_s, time.high)]
    axes.plot(ends, [place, place], color=color, linewidth=6, alpha=0.22, solid_capstyle="butt")
    axes.plot([time.mean], [place], color=color, marker="|", markersize=16, markeredgewidth=2, linestyle="none")


def _counted(group: ComparedGroup) -> str:
    of = len(group.counted_seeds)
    return f"{group.reached} of {of} hold it" if of else NONE


def _speed_up(axes: Axes, labels: Sequence[str], comparison: Comparison) -> None:
    """A line a group: the ratio of times over the range of targets, on a scale on which twice and half are as far.

    Dotted where fewer pairs hold a target than at another one: the mean is of others then.
    """
    targets = np.array([row.target for row in comparison.curve])
    for place, label in enumerate(labels):
        color, dash = group_look(place)
        found = [row.times_faster[place] for row in comparison.curve]
        middle = np.array([np.nan if ratio is None or ratio.mean <= 0 else ratio.mean for ratio in found])
        if place and np.isfinite(middle).any():
            counts = np.array([0 if ratio is None else ratio.n for ratio in found])
            axes.fill_between(targets, _ends(found, "low"), _ends(found, "high"), color=color, alpha=0.10, linewidth=0)
            axes.plot(targets, middle, color=color, linewidth=1.2, linestyle=(0, (1, 1.5)))
            of_all = np.where(counts == counts.max(), middle, np.nan)
            axes.plot(targets, of_all, color=color, linestyle=dash, label=label_text(label))
    axes.axhline(1.0, color=group_look(0)[0], label=label_text(f"baseline: {labels[0]}"))
    if comparison.target is not None and min(targets) <= comparison.target <= max(targets):
        axes.axvline(comparison.target, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), label="target")
    axes.set_yscale("log", base=2)
    finish_axes(axes, f"{metric_name(comparison.metric)} to hold", "times faster", from_zero=False)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    if comparison.metric == "accuracy":
        axes.xaxis.set_major_formatter(PERCENT)
    if not comparison.higher_is_better:
        axes.invert_xaxis()  # harder targets to the right, as for accuracy
