"""``fragmesh compare``: read the runs, print their table, draw them. The arithmetic is in ``analysis``."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.analysis import Comparison, compare
from orchestrator.results import Run, format_bytes, headline_text, load_run, metric_name, unique_labels


def compare_runs(
    paths: Sequence[Path], *, target: float | None, figure: Path | None, as_json: bool, console: Console
) -> Comparison:
    """Compare run directories and show the result.

    Args:
        paths: Run directories; the first is the baseline.
        target: What to reach; None for the best that every run reaches.
        figure: Where to draw them (.html, .png or .svg); None for nowhere.
        as_json: Print one JSON object instead of a table.
        console: Where the table goes.

    Raises:
        ConfigError: A path is no run directory, the runs measure different things, or the figure's ending is
            unknown.
        RunnerError: The figure could not be written.
    """
    runs = [load_run(path, messages=False) for path in paths]
    result = compare(runs, target)
    if figure is not None:
        # Imported here: a table alone should not wait for matplotlib.
        from orchestrator.report import write_comparison

        write_comparison(runs, result, figure)
    if as_json:
        rows = [asdict(row) | {"run": str(run.path)} for row, run in zip(result.runs, runs, strict=True)]
        print(json.dumps(asdict(result) | {"runs": rows, "figure": None if figure is None else str(figure)}))
        return result
    console.print(_table(runs, result))
    console.print(
        "Times faster, times fewer bytes: the first run's figure / this run's, so that above 1x beats it.",
        style="dim",
    )
    for run in runs:
        if run.status != "done":
            console.print(f"[yellow]{escape(run.path.name)} is {run.status}[/yellow]")
    if figure is not None:
        console.print(str(figure), markup=False, highlight=False, soft_wrap=True)
    return result


def _table(runs: Sequence[Run], result: Comparison) -> Table:
    metric = result.metric
    if result.target is None:
        title = "no target: a run was never evaluated"
    else:
        why = ", the best that every run reaches" if result.target_is_automatic else ""
        title = f"target: {metric_name(metric)} {headline_text(metric, result.target)}{why}"
    table = Table(title=title, title_justify="left")
    table.add_column("run", overflow="fold")
    for column in ("final", "best", "time", "times faster", "bytes", "times fewer bytes"):
        table.add_column(column, justify="right")
    for label, row in zip(unique_labels(runs), result.runs, strict=True):
        table.add_row(
            escape(label),
            _cell(row.final, lambda value: headline_text(metric, value)),
            _cell(row.best, lambda value: headline_text(metric, value)),
            _cell(row.time_to_target_s, lambda value: f"{value:,.1f} s"),
            _cell(row.times_faster, lambda value: f"{value:.2f}x"),
            _cell(row.bytes_to_target, format_bytes),
            _cell(row.times_fewer_bytes, lambda value: f"{value:.2f}x"),
        )
    return table


def _cell(value: float | None, text: Callable[[float], str]) -> str:
    return "-" if value is None else text(value)
