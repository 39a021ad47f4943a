"""The command line: ``fragmesh run``, ``validate``, ``compare``, ``report``, ``list``, ``doctor``.

Exit codes: 0 done; 2 the user's input is wrong (one clear line); 3 the run failed; 4 the run finished but is
unfaithful; 130 interrupted, with a valid partial result. torch is imported only by commands that train.
"""

import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from node.core.errors import ConfigError, DataError, TestbedError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A testbed for decentralized learning under bad networks.",
)
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

ExperimentFile = Annotated[Path, typer.Argument(metavar="FILE", help="The experiment file (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, for example a.b=c.")
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Folder with data sets [env: FRAGMESH_DATA].")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


@app.command()
def run(
    file: ExperimentFile,
    runtime: Annotated[str | None, typer.Option(help="Where the nodes run.")] = None,
    overrides: Overrides = None,
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the run's folder is made.")] = Path(
        "runs"
    ),
    seed: Annotated[int | None, typer.Option(help="Replaces the file's seed.")] = None,
    data_root: DataRoot = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Training processes; 0 trains in the main one. [default: all cores]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run an experiment and write its results."""
    plan = _read_plan(file, overrides, runtime, seed)
    from orchestrator.runners.base import RunOptions
    from orchestrator.runners.simulation import run_simulation

    outcome = run_simulation(
        plan,
        RunOptions(
            out=out_dir,
            data_root=data_root,
            workers=len(os.sched_getaffinity(0)) if workers is None else workers,
            progress="json" if as_json else "auto",
            command=shlex.join(["fragmesh", *sys.argv[1:]]),
        ),
    )
    if as_json:
        print(json.dumps({"event": "end", "run": str(outcome.path), "summary": outcome.summary}))
    else:
        _print_outcome(outcome.summary, outcome.path)
    if outcome.error is not None:
        err.print(f"[red]failed:[/red] {escape(outcome.error)}")
    raise typer.Exit({"done": 0, "interrupted": 130, "failed": 3}[outcome.status])


@app.command()
def validate(
    file: ExperimentFile,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    with_data: Annotated[bool, typer.Option("--data/--no-data", help="Also load and split the data set.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check an experiment file and print what would run."""
    plan = _read_plan(file, overrides)
    rows = plan.describe()
    if with_data:
        from orchestrator.prepare import prepare

        prepared = prepare(plan, data_root=data_root, workers=0)
        prepared.trainer.close()
        samples = [len(indices) for indices in prepared.split.train_indices]
        rows |= {
            "data": prepared.dataset.source,
            "samples a node": f"{min(samples)} to {max(samples)}",
            "parameters": f"{prepared.facts.num_params:,}",
        } | plan.sizes(prepared.facts.num_params)
    if as_json:
        print(json.dumps({"file": str(file), "plan": rows}))
        return
    _print_rows(f"{plan.config.name}: valid", rows)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; the first is the baseline.")],
    target: Annotated[
        float | None, typer.Option(help="Accuracy (or RMSE) to reach. [default: what all runs reach]")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also draw the runs (.png or .html).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: time and bytes to a target, and the ratios between them."""
    from orchestrator.analysis import compare as compare_measured
    from orchestrator.report import comparison_table, unique_labels, write_comparison
    from orchestrator.results import load_run

    loaded = [load_run(path, messages=False) for path in runs]
    comparison = compare_measured(loaded, target)
    if figure is not None:
        write_comparison(loaded, comparison, figure)
    if as_json:
        print(json.dumps(dataclasses.asdict(comparison)))
        return
    header, rows = comparison_table(comparison, unique_labels(loaded))
    goal = "nothing that all runs reach" if comparison.target is None else f"{comparison.target:.4f}"
    chosen = " (the best that every run reaches)" if comparison.target_is_automatic else ""
    table = Table(title=f"{comparison.metric} to reach: {goal}{chosen}; baseline: the first run", title_justify="left")
    for column in header:
        table.add_column(column, justify="left" if column == header[0] else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)
    if figure is not None:
        out.print(str(figure))


@app.command()
def report(run: RunPath) -> None:
    """Write a run's report.html anew and print where it is."""
    from orchestrator.report import write_report
    from orchestrator.results import load_run

    out.print(str(write_report(load_run(run))))


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """What an experiment file can name: algorithms, topologies, data sets, models, partitions, networks."""
    from orchestrator.catalog import catalog

    content = catalog()
    if as_json:
        print(json.dumps(content))
        return
    for kind, entries in content.items():
        _print_rows(kind, entries)


@app.command()
def doctor(data_root: DataRoot = None, as_json: AsJson = False) -> None:
    """What this host can do, and what a run would use."""
    from node.learning.datasets import resolve_data_root
    from orchestrator.doctor import examine

    findings = examine(resolve_data_root(data_root))
    if as_json:
        print(json.dumps([{"name": f.name, "value": f.value, "status": f.status, "note": f.note} for f in findings]))
        return
    table = Table(title="doctor", title_justify="left")
    for column in ("what", "found", "", "note"):
        table.add_column(column)
    colors = {"ok": "green", "warn": "yellow", "missing": "red"}
    for finding in findings:
        color = colors[finding.status]
        table.add_row(finding.name, escape(finding.value), f"[{color}]{finding.status}[/{color}]", escape(finding.note))
    out.print(table)


def _read_plan(file: Path, overrides: list[str] | None, runtime: str | None = None, seed: int | None = None) -> "Any":
    from orchestrator.config import read_experiment
    from orchestrator.plan import make_plan

    items = list(overrides or [])
    items += [f"runtime={runtime}"] * (runtime is not None) + [f"seed={seed}"] * (seed is not None)
    config = read_experiment(file, items)
    try:
        return make_plan(config, file.parent)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _print_rows(title: str, rows: dict[str, str]) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, text in rows.items():
        table.add_row(name, escape(text))
    out.print(table)


def _print_outcome(summary: dict[str, Any], path: Path) -> None:
    final, best = summary["final"], summary["best"]

    def figure(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    messages = summary["messages"]
    rows = {
        "status": summary["status"],
        "accuracy": f"{figure(final['accuracy'])} at the end, {figure(best['accuracy'])} at best",
        "loss": f"{figure(final['loss'])} at the end, {figure(best['loss'])} at best",
        "messages": f"{messages['queued']:,} queued, {messages['delivered']:,} delivered,"
        f" {messages['cancelled']:,} cancelled, {messages['lost']:,} lost",
        "sent": f"{summary['bytes_sent'] / 1e6:,.1f} MB",
        "wall clock": f"{summary['wall_s']:.1f} s for {summary['train_steps']:,} local steps",
        "report": str(path / "report.html"),
    }
    _print_rows(path.name, rows)


def main() -> None:
    """Entry point of the console script."""
    _guard(lambda: app(standalone_mode=False))


def _guard(command: Callable[[], Any]) -> None:
    """Run a command and turn its errors into one line and an exit code."""
    import click

    try:
        code = command()
    except typer.Exit as leave:
        code = leave.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except click.Abort:
        code = 130
    except (ConfigError, DataError) as error:
        err.print(f"[red]error:[/red] {escape(str(error))}")
        code = 2
    except TestbedError as error:
        err.print(f"[red]failed:[/red] {escape(str(error))}")
        code = 3
    except KeyboardInterrupt:
        err.print("interrupted")
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
