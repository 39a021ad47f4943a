"""Several runs drawn over each other: a page with tables, or the figure alone."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from node.core.errors import ConfigError
from orchestrator.comparison import Comparison
from orchestrator.fidelity import is_unfaithful, unfaithful_reasons
from orchestrator.report.comparison_figures import comparison_plots, group_look, overlay_figure
from orchestrator.report.comparison_text import (
    comparison_table,
    group_labels,
    notes,
    ratio_text,
    ratios_table,
    run_labels,
    target_text,
)
from orchestrator.report.drawing import own_settings
from orchestrator.report.question import comparison_question
from orchestrator.report.templates import template
from orchestrator.report.text import headline_text
from orchestrator.results.files import write_file
from orchestrator.results.reader import Run


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
            figure = overlay_figure(runs, comparison)
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
    header, rows = comparison_table(comparison, labels)
    ratios_header, ratios = ratios_table(comparison, labels)
    return template("compare.html.j2").render(
        question=comparison_question(runs, comparison),
        target=target_text(comparison),
        baseline=labels[0],
        notes=notes(runs, comparison, repeats),
        header=header,
        rows=[(group_look(index)[0], row) for index, row in enumerate(rows)],
        ratios_header=ratios_header,
        ratios=[(group_look(index)[0], row) for index, row in enumerate(ratios)],
        intervals=_intervals(comparison, labels),
        runs=list(zip(run_labels(runs, comparison), runs, strict=True)),
        unfaithful=[
            (label, unfaithful_reasons(run.fidelity))
            for label, run in zip(run_labels(runs, comparison), runs, strict=True)
            if is_unfaithful(run.fidelity)
        ],
        plots=comparison_plots(runs, comparison),
    )


def _intervals(comparison: Comparison, labels: Sequence[str]) -> list[tuple[str, str, str]]:
    """Rows of group, target and ratio with its interval, where there is one."""
    rows = []
    for place, (label, group) in enumerate(zip(labels, comparison.groups, strict=True)):
        for row in comparison.table if place else ():
            ratio = row.times_faster[place]
            if ratio is not None and ratio.low is not None:
                target = headline_text(comparison.metric, row.target)
                rows.append((label, target, ratio_text(ratio, len(group.seeds))))
    return rows
