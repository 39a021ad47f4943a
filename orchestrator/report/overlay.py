"""Several runs drawn over each other: a page with tables, or the figure alone."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from node.core.errors import ConfigError
from orchestrator.analysis import Comparison
from orchestrator.fidelity import is_unfaithful, unfaithful_reasons
from orchestrator.report.comparison import comparison_table, unique_labels
from orchestrator.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Axes,
    Figure,
    Plot,
    finish_axes,
    label_text,
    new_figure,
    own_settings,
    point_marker,
    scale_measured,
    to_svg,
)
from orchestrator.report.templates import template
from orchestrator.report.text import byte_unit, bytes_label, headline_text, metric_name, sentence, time_label
from orchestrator.results.files import write_file
from orchestrator.results.reader import Run

RUN_COLORS: Final = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK, GREY)
RUN_DASHES: Final = ("-", "--", "-.", ":")


def write_comparison(runs: Sequence[Run], comparison: Comparison, path: Path) -> Path:
    """Draw several runs over each other.

    Args:
        runs: The runs, in the order of ``comparison.runs``.
        comparison: What they were found to be.
        path: Where to: ``.html`` for a page with tables, ``.png`` or ``.svg`` for the figure alone.

    Raises:
        ConfigError: The file's ending is none of these.
        RunnerError: It could not be written.
    """
    kind = path.suffix.lower()
    if kind == ".html":
        data = render_comparison(runs, comparison).encode()
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


def render_comparison(runs: Sequence[Run], comparison: Comparison) -> str:
    """Several runs side by side as one self-contained HTML page."""
    labels = unique_labels(runs)
    with own_settings():
        plots = (
            _overlay_plot(runs, labels, comparison, by_bytes=False),
            _overlay_plot(runs, labels, comparison, by_bytes=True),
        )
    metric = comparison.metric
    header, rows = comparison_table(comparison, labels)
    return template("compare.html.j2").render(
        metric=metric_name(metric),
        target=None if comparison.target is None else headline_text(metric, comparison.target),
        automatic=comparison.target_is_automatic,
        baseline=labels[0],
        header=header,
        rows=[(_look(index)[0], row) for index, row in enumerate(rows)],
        runs=list(zip(labels, runs, strict=True)),
        unfaithful=[
            (label, unfaithful_reasons(run.fidelity))
            for label, run in zip(labels, runs, strict=True)
            if is_unfaithful(run.fidelity)
        ],
        plots=plots,
    )


def _overlay_plot(runs: Sequence[Run], labels: Sequence[str], comparison: Comparison, *, by_bytes: bool) -> Plot:
    figure, axes = new_figure()
    _overlay(axes, runs, labels, comparison, by_bytes=by_bytes)
    name = metric_name(comparison.metric)
    return Plot(f"{sentence(name)} over {'bytes' if by_bytes else 'time'}", to_svg(figure), "")


def _overlay_figure(runs: Sequence[Run], comparison: Comparison) -> Figure:
    figure = Figure(figsize=(11.5, 4.0))
    left, right = figure.subplots(1, 2)
    labels = unique_labels(runs)
    _overlay(left, runs, labels, comparison, by_bytes=False)
    _overlay(right, runs, labels, comparison, by_bytes=True)
    return figure


def _overlay(axes: Axes, runs: Sequence[Run], labels: Sequence[str], comparison: Comparison, *, by_bytes: bool) -> None:
    column = "accuracy" if comparison.metric == "accuracy" else "loss"
    most = max((float(run.bytes_sent.max(initial=0)) for run in runs), default=0.0)
    divisor, unit = byte_unit(most)
    for index, (run, label) in enumerate(zip(runs, labels, strict=True)):
        color, dash = _look(index)
        x = run.bytes_sent / divisor if by_bytes else run.times_s
        axes.fill_between(
            x, run.curve[f"{column}_min"], run.curve[f"{column}_max"], color=color, alpha=0.10, linewidth=0
        )
        axes.plot(x, run.headline, color=color, linestyle=dash, label=label_text(label), marker=point_marker(x))
    if comparison.target is not None:
        text = f"target {headline_text(comparison.metric, comparison.target)}"
        axes.axhline(comparison.target, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), label=text)
    x_label = bytes_label(unit) if by_bytes else time_label(runs[0].facts.runtime)
    finish_axes(axes, x_label, f"test {metric_name(comparison.metric)}")
    scale_measured(axes, column)


def _look(index: int) -> tuple[str, str]:
    color = RUN_COLORS[index % len(RUN_COLORS)]
    return color, RUN_DASHES[(index + index // len(RUN_COLORS)) % len(RUN_DASHES)]
