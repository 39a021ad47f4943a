"""``fragmesh ps``: the runs in progress, and what runs have in the Docker engine."""

import os
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from node.core.errors import ConfigError, TestbedError
from orchestrator.cli.arguments import AsJson
from orchestrator.cli.printing import out, print_json

if TYPE_CHECKING:
    from orchestrator.containers.cleanup import EngineRun
    from orchestrator.host.run_registry import RegisteredRun
    from orchestrator.progress.live_record import LiveRecord
    from orchestrator.progress.run_progress import RunProgress


@dataclass(frozen=True)
class _Standing:
    """A run in progress, and how it stands: its record, or why that cannot be read."""

    run: "RegisteredRun"
    record: "LiveRecord | None"
    problem: str = ""


def ps(as_json: AsJson = False) -> None:
    """List the runs in progress and how they stand, and what runs have in the Docker engine."""
    from orchestrator.host.run_registry import runs_in_progress

    found = [_look_at(run) for run in runs_in_progress()]
    standing = [one for one in found if one.record is not None or one.problem]  # the others have just ended
    containers, problem = _in_the_engine()
    if as_json:
        runs = [asdict(run) for run in containers]
        print_json({"runs": [_to_json(one) for one in standing], "containers": runs, "containers_problem": problem})
        return
    if standing:
        out.print(_table_of_runs(standing))
    else:
        print("no run is in progress")
    if containers:
        out.print(_table_of_containers(containers))
    else:
        print(f"containers are not listed: {problem}" if problem else "no run has anything in the engine")


def _look_at(run: "RegisteredRun") -> _Standing:
    from orchestrator.progress.live_file import read_live

    try:
        return _Standing(run, read_live(run.path))
    except ConfigError as error:
        return _Standing(run, None, str(error))


def _to_json(one: _Standing) -> dict[str, Any]:
    from node.core.units import ns_to_s

    told: dict[str, Any] = {"path": str(one.run.path), "process": one.run.words, "state": _state(one)}
    if (record := one.record) is None:
        return told
    told |= {name: getattr(record, name) for name in ("name", "runtime", "algorithm", "nodes")}
    if (progress := record.progress) is not None:
        told["time_s"] = ns_to_s(progress.time_ns)
        told["end_s"] = None if progress.end_ns is None else ns_to_s(progress.end_ns)
        told["wall_s"] = progress.wall_s
        told["warnings"] = progress.warnings
        figures = progress.point.figures if progress.point else {}
        told |= {f"{name}_mean": row["mean"] for name, row in figures.items()}
    return told


def _state(one: _Standing) -> str:
    """Say what a run does, and what is to be known of it."""
    if one.record is None:
        return one.problem
    parts = [one.record.doing or "running"]
    parts += [one.run.words] * (one.run.fate == "foreign")
    if one.record.progress is not None and one.record.progress.warnings:
        parts.append("may be unfaithful")
    return "; ".join(parts)


def _table_of_runs(standing: list[_Standing]) -> Table:
    from orchestrator.progress.displays import position_text

    table = Table(title="runs in progress", title_justify="left")
    for column in ("run", "runtime", "algorithm", "nodes", "time", "accuracy", "state"):
        table.add_column(column, justify="right" if column in ("nodes", "accuracy") else "left", overflow="fold")
    for one in standing:
        record = one.record
        progress = None if record is None else record.progress
        path = one.run.path
        about = (record.runtime, record.algorithm, f"{record.nodes:,}") if record else ("", "", "")
        table.add_row(
            escape(os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)),
            *map(escape, about),
            position_text(progress) if progress else "",
            _accuracy(progress) if progress else "",
            escape(_state(one)),
        )
    return table


def _accuracy(progress: "RunProgress") -> str:
    """The mean accuracy; where models have none, as of ratings, their loss."""
    figures = progress.point.figures if progress.point else {}
    means = {name: row["mean"] for name, row in figures.items() if isfinite(row["mean"])}
    if "accuracy" in means:
        return f"{means['accuracy']:.4f}"
    return f"loss {means['loss']:.4f}" if "loss" in means else ""


def _in_the_engine() -> tuple[list["EngineRun"], str | None]:
    """Find what runs have in the Docker engine; with the reason where it cannot be asked."""
    from orchestrator.containers.cleanup import find_runs
    from orchestrator.containers.engine import connect
    from orchestrator.containers.ownership import Owner

    try:
        with closing(connect()) as engine:
            return find_runs(engine, Owner.of_this_process()), None
    except TestbedError as error:
        return [], str(error)


def _table_of_containers(runs: list["EngineRun"]) -> Table:
    from orchestrator.containers.cleanup import describe

    table = Table(title="in the Docker engine", title_justify="left")
    for column in ("run", "has", "containers", "orchestrator"):
        table.add_column(column)
    for run in runs:
        states = Counter(resource.status for resource in run.resources if resource.kind == "container")
        shown = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        color = {"alive": "green", "gone": "red", "foreign": "yellow"}[run.fate]
        table.add_row(escape(run.run), describe(run.resources), shown, f"[{color}]{escape(run.owner)}[/{color}]")
    return table
