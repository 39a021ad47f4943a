"""Several runs drawn over each other: a page with tables, or the figure alone."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from node.core.errors import ConfigError
from node.core.types import Float64Vector
from orchestrator.comparison import Comparison
from orchestrator.fidelity import is_unfaithful, unfaithful_reasons
from orchestrator.report.comparison_text import (
    comparison_table,
    group_labels,
    notes,
    ratio_text,
    ratios_table,
    run_labels,
    target_text,
)
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
from orchestrator.report.templates import template
from orchestrator.report.text import byte_unit, bytes_label, headline_text, metric_name, sentence, time_label
from orchestrator.results.files import write_file
from orchestrator.results.reader import Run

RUN_COLORS: Final = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK, GREY)
RUN_DASHES: Final = ("-", "--", "-.", ":")


def write_comparison(
    runs: Sequence[Run], comparison: Comparison, path: Path, repeats: Sequence[tuple[Run, Run]] = ()
) -> Path:
    """Draw several runs over each other.

    Args:
        runs: The runs that were compared, in their order.
        comparison: The figures of their groups.
        path: Where to: ``.html`` for a page with tables, ``.png`` or ``.svg`` for the figure alone.
        repeats: Runs that were left out, each with the one that counts in its place.

    Raises:
        ConfigError: The file's ending is none of these.
        RunnerError: It could not be written.
    """
    kind = path.suffix.lower()
    if kind == ".html":
        data = render_comparison(runs, comparison, repeats).encode(errors="replace")
    elif kind in (".png", ".svg"):
        with own_settings():
            figure = _overlay_figure(runs, comparison)
            buffer = io.BytesIO()
            metadata: dict[str, Any] = {"Date": None} if kind == ".svg" else {"Software": None}
            figure.savefig(buffer, format=kind[1:], dpi=160, metadata=metadata)
        data = buffer.getvalue()
    else:
        raise ConfigError(f"--out {path}: must end in .html, .png or .svg")
    write_file(path, data)
    return path


def render_comparison(runs: Sequence[Run], comparison: Comparison, repeats: Sequence[tuple[Run, Run]] = ()) -> str:
    """Several runs side by side as one self-contained HTML page."""
    labels = group_labels(runs, comparison)
    name = metric_name(comparison.metric)
    with own_settings():
        plots = [
            _plot(f"{sentence(name)} over time", runs, labels, comparison, by_bytes=False),
            _plot(f"{sentence(name)} over bytes", runs, labels, comparison, by_bytes=True),
        ]
        if len(comparison.groups) > 1 and comparison.curve:
            figure, axes = new_figure()
            _speed_up(axes, labels, comparison)
            note = "How many times sooner than the baseline a run holds each target; bands: 95 % intervals over seeds."
            plots.append(Plot("Times faster over a range of targets", to_svg(figure), note))
    header, rows = comparison_table(comparison, labels)
    ratios_header, ratios = ratios_table(comparison, labels)
    return template("compare.html.j2").render(
        target=target_text(comparison),
        baseline=labels[0],
        notes=notes(runs, comparison, repeats),
        header=header,
        rows=[(_look(index)[0], row) for index, row in enumerate(rows)],
        ratios_header=ratios_header,
        ratios=[(_look(index)[0], row) for index, row in enumerate(ratios)],
        intervals=_intervals(comparison, labels),
        runs=list(zip(run_labels(runs, comparison), runs, strict=True)),
        unfaithful=[
            (label, unfaithful_reasons(run.fidelity))
            for label, run in zip(run_labels(runs, comparison), runs, strict=True)
            if is_unfaithful(run.fidelity)
        ],
        plots=plots,
    )


def _intervals(comparison: Comparison, labels: Sequence[str]) -> list[tuple[str, str, str]]:
    """Rows of group, target and ratio with its interval, where there is one."""
    rows = []
    for place, label in enumerate(labels):
        for row in comparison.table if place else ():
            ratio = row.times_faster[place]
            if ratio is not None and ratio.low is not None:
                rows.append(
                    (label, headline_text(comparison.metric, row.target), f"{ratio_text(ratio)}, n = {ratio.n}")
                )
    return rows


def _plot(title: str, runs: Sequence[Run], labels: Sequence[str], comparison: Comparison, *, by_bytes: bool) -> Plot:
    figure, axes = new_figure()
    _overlay(axes, runs, labels, comparison, by_bytes=by_bytes)
    return Plot(title, to_svg(figure), "" if by_bytes else with_lanes_note("", _lanes(runs)))


def _lanes(runs: Sequence[Run]) -> list[Lane]:
    """The schedule of all runs, up to the last evaluation of any; none where they differ."""
    end_s = max((float(run.times_s[-1]) for run in runs if run.times_s.size), default=0.0)
    return lanes(shared_schedule(runs) or (), end_s)


def _overlay_figure(runs: Sequence[Run], comparison: Comparison) -> Figure:
    labels = group_labels(runs, comparison)
    has_ratios = len(comparison.groups) > 1 and bool(comparison.curve)
    figure, all_axes = new_figures(3 if has_ratios else 2, (17.0 if has_ratios else 11.5, 4.0))
    _overlay(all_axes[0], runs, labels, comparison, by_bytes=False)
    _overlay(all_axes[1], runs, labels, comparison, by_bytes=True)
    if has_ratios:
        _speed_up(all_axes[2], labels, comparison)
    return figure


def _overlay(axes: Axes, runs: Sequence[Run], labels: Sequence[str], comparison: Comparison, *, by_bytes: bool) -> None:
    """A line a group: the mean over its seeds. The band: from the worst to the best node, or, of several seeds, run."""
    column = "accuracy" if comparison.metric == "accuracy" else "loss"
    most = max((float(run.bytes_sent.max(initial=0)) for run in runs), default=0.0)
    divisor, unit = byte_unit(most)
    for place, (group, label) in enumerate(zip(comparison.groups, labels, strict=True)):
        color, dash = _look(place)
        members = [runs[index] for index in group.members]
        # One that ended early would end the line of all.
        members = [run for run in members if run.status == "done"] or members
        x, middle, low, high = _band(members, column, by_bytes=by_bytes)
        x = x / divisor if by_bytes else x
        axes.fill_between(x, low, high, color=color, alpha=0.10, linewidth=0)
        axes.plot(x, middle, color=color, linestyle=dash, label=label_text(label), marker=point_marker(x))
    if comparison.target is not None:
        text = f"target {headline_text(comparison.metric, comparison.target)}"
        axes.axhline(comparison.target, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), label=text)
    y_label = f"test {metric_name(comparison.metric)}"
    if by_bytes:
        finish_axes(axes, bytes_label(unit), y_label)
    else:
        finish_time_axes(axes, time_label(runs[0].facts.runtime), y_label, _lanes(runs))
    scale_measured(axes, column)


def _band(
    members: Sequence[Run], column: str, *, by_bytes: bool
) -> tuple[Float64Vector, Float64Vector, Float64Vector, Float64Vector]:
    """The points of the x axis, and middle, lower and upper line there; as far as all runs of the group go."""
    first = members[0]
    x = first.bytes_sent if by_bytes else first.times_s
    evaluated = [run for run in members if run.times_s.size]
    if len(evaluated) < 2:
        return x, first.headline, first.curve[f"{column}_min"], first.curve[f"{column}_max"]
    shared = [(run.bytes_sent if by_bytes else run.times_s, run.headline) for run in evaluated]
    x = x[x <= min(float(own[-1]) for own, _ in shared)]
    values = np.array([np.interp(x, own, headline) for own, headline in shared])
    return x, values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def _speed_up(axes: Axes, labels: Sequence[str], comparison: Comparison) -> None:
    """A line a group: the ratio of times over the range of targets, on a scale on which twice and half are as far."""
    targets = np.array([row.target for row in comparison.curve])
    for place, label in enumerate(labels):
        color, dash = _look(place)
        found = [row.times_faster[place] for row in comparison.curve]
        middle = np.array([np.nan if ratio is None or ratio.mean <= 0 else ratio.mean for ratio in found])
        if place and np.isfinite(middle).any():
            low, high = (
                np.array([np.nan if (end := getattr(ratio, which, None)) is None else end for ratio in found])
                for which in ("low", "high")
            )
            axes.fill_between(targets, low, high, color=color, alpha=0.10, linewidth=0)
            axes.plot(targets, middle, color=color, linestyle=dash, label=label_text(label))
    axes.axhline(1.0, color=_look(0)[0], label=label_text(f"baseline: {labels[0]}"))
    if comparison.target is not None and min(targets) <= comparison.target <= max(targets):
        axes.axvline(comparison.target, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), label="target")
    axes.set_yscale("log", base=2)
    finish_axes(axes, f"{metric_name(comparison.metric)} to hold", "times faster", from_zero=False)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    if comparison.metric == "accuracy":
        axes.xaxis.set_major_formatter(PERCENT)
    if not comparison.higher_is_better:
        axes.invert_xaxis()  # harder targets to the right, as for accuracy


def _look(index: int) -> tuple[str, str]:
    color = RUN_COLORS[index % len(RUN_COLORS)]
    return color, RUN_DASHES[(index + index // len(RUN_COLORS)) % len(RUN_DASHES)]
