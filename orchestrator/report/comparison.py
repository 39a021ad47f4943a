"""A comparison of runs as text: a row a run. Draws nothing, so that a table on the terminal needs no matplotlib."""

from collections.abc import Callable, Sequence
from typing import Final

from orchestrator.analysis import ComparedRun, Comparison
from orchestrator.fidelity import is_unfaithful
from orchestrator.report.text import format_bytes, headline_text
from orchestrator.results.reader import Run

UNFAITHFUL_MARK: Final = "UNFAITHFUL "
"""Before the name of a run that its host could not keep up with, wherever it is compared."""


def unique_labels(runs: Sequence[Run]) -> list[str]:
    """A label a run: its name, with its directory's name where two share one, and a mark where it is unfaithful."""
    names = [run.label for run in runs]
    labels = []
    for index, (name, run) in enumerate(zip(names, runs, strict=True), start=1):
        detail = run.path.name.removeprefix(name).strip("-") or index
        mark = UNFAITHFUL_MARK if is_unfaithful(run.fidelity) else ""
        labels.append(mark + (name if names.count(name) == 1 else f"{name} ({detail})"))
    return labels


def comparison_table(comparison: Comparison, labels: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """A comparison as text: the header, and one row a run, whose first cell is its label."""
    common = comparison.common_time_s
    header = [
        "run",
        "final",
        "best",
        "best, gain",
        "at the same time" if common is None else f"at {common:,.1f} s",
        "time to target",
        "times faster",
        "bytes to target",
        "times fewer bytes",
    ]
    rows = [
        [label, *_compared_cells(comparison.metric, row)] for label, row in zip(labels, comparison.runs, strict=True)
    ]
    return header, rows


def _compared_cells(metric: str, row: ComparedRun) -> list[str]:
    def shown(value: float | None, text: Callable[[float], str]) -> str:
        return "–" if value is None else text(value)

    return [
        shown(row.final, lambda v: headline_text(metric, v)),
        shown(row.best, lambda v: headline_text(metric, v)),
        shown(row.best_gain_percent, lambda v: f"{v:+.1f} %"),
        shown(row.at_common_time, lambda v: headline_text(metric, v)),
        shown(row.time_to_target_s, lambda v: f"{v:,.1f} s"),
        shown(row.times_faster, lambda v: f"{v:.2f}×"),
        shown(row.bytes_to_target, format_bytes),
        shown(row.times_fewer_bytes, lambda v: f"{v:.2f}×"),
    ]
