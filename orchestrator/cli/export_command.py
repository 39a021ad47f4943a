"""``fragmesh export``: a run's series for Prometheus."""

import dataclasses
import shlex
import sys
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from node.core.errors import ConfigError, DataError, RunnerError
from orchestrator.cli.arguments import AsJson, RunPath
from orchestrator.cli.printing import err, print_json, print_rows

YEARS: Final = (1971, 2199)
"""Years in which a run may be said to begin: what Prometheus and a run's nanoseconds both can tell."""


def export(
    run: RunPath,
    openmetrics: Annotated[bool, typer.Option("--openmetrics", help="As OpenMetrics text, for Prometheus.")] = False,
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Where it is written, - to print it. [default: RUN/openmetrics.txt]"
        ),
    ] = None,
    step_s: Annotated[
        float | None,
        typer.Option("--step-s", metavar="S", help="Testbed seconds between samples. [default: from the run's length]"),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Wall clock at testbed time 0: an ISO 8601 time, Unix seconds, or a run to begin with."
            " [default: when the run began]",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's series under the names of a live one, for promtool tsdb create-blocks-from openmetrics."""
    from orchestrator.observe.recorded_run import FILE_NAME, print_openmetrics, recorded_start_ms, write_openmetrics
    from orchestrator.observe.sampled_run import check_step, sampled
    from orchestrator.results.reader import load_run

    # Step 1: refuse what cannot be, before large files are read.
    if not openmetrics:
        raise ConfigError("must be given a form: --openmetrics")
    if step_s is not None and not (isfinite(step_s) and step_s > 0):
        raise ConfigError(f"--step-s={step_s}: must be a finite number above 0")
    start_ms = None if start is None else _start_ms(start)
    path = run / FILE_NAME if out_file is None else out_file
    if str(path) != "-" and not path.parent.is_dir():
        raise ConfigError(
            f"--out={path}: there is no directory {path.parent}" if run.is_dir() else f"{run}: no such run directory"
        )
    # Step 2: write.
    loaded = load_run(run)
    if step_s is not None:
        check_step(loaded, step_s)
    start_ms = recorded_start_ms(loaded) if start_ms is None else start_ms
    sampling = sampled(loaded, step_s=step_s, start_ms=start_ms, network=_network(loaded))
    if str(path) == "-":
        print_openmetrics(sampling, sys.stdout)
        return
    try:
        exported = write_openmetrics(sampling, path)
    except RunnerError as error:
        raise ConfigError(str(error)) from error
    # Step 3: tell, and say what is left out.
    _print_exported(path, sampling, exported, as_json)


def _network(run: Any) -> Any:
    """Plan the run's experiment again for the links that it had at the start; None where that cannot be done."""
    from orchestrator.runs.resume import recorded_plan

    try:
        return recorded_plan(run).network.at_time(0)
    except (ConfigError, DataError):
        return None


def _start_ms(text: str) -> int:
    """Read ``--start``, as Unix time in milliseconds."""
    from orchestrator.observe.recorded_run import recorded_start_ms
    from orchestrator.results.reader import load_run

    if Path(text).is_dir():
        return recorded_start_ms(load_run(Path(text), messages=False))
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            raise ConfigError(
                f"--start={text}: must be a time as 2026-03-01T12:00:00, Unix seconds or a run directory"
            ) from None
    first, last = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in YEARS)
    if not first <= seconds < last:
        raise ConfigError(f"--start={text}: must be between the years {YEARS[0]} and {YEARS[1]}")
    return round(seconds * 1000)


def _print_exported(path: Path, sampling: Any, exported: Any, as_json: bool) -> None:
    from orchestrator.report.text import format_bytes

    size, step_s = path.stat().st_size, float(sampling.instants_ns[1:2].sum()) / 1e9
    if as_json:
        figures = dataclasses.asdict(exported)
        span = {f"{name}_unix_s": figures.pop(f"{name}_ms") / 1000 for name in ("begin", "end")}
        print_json({"file": str(path), "bytes": size, "step_s": step_s} | span | figures)
        return
    begin, end = (datetime.fromtimestamp(ms / 1000).astimezone() for ms in (exported.begin_ms, exported.end_ms))
    rows = {
        "size": f"{format_bytes(size)}, {exported.samples:,} samples",
        "series": f"{exported.series:,} of {len(exported.families)} families",
        "step": f"{step_s:g} s of testbed time",
        "from": begin.isoformat(sep=" ", timespec="seconds"),
        "to": end.isoformat(sep=" ", timespec="seconds"),
    }
    print_rows(sampling.name, rows)
    reasons: dict[str, list[str]] = {}
    for name, reason in exported.left_out.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        err.print(f"[yellow]left out:[/yellow] {', '.join(names)}: {reason}")
    if end > datetime.now(UTC):
        err.print(
            "[yellow]note:[/yellow] it ends in the future, and Prometheus scrapes nothing until then: --start sooner"
        )
    print(f"import with: promtool tsdb create-blocks-from openmetrics {shlex.quote(str(path))} DATA_FOLDER")
