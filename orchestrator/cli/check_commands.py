"""``fragmesh validate``, ``list`` and ``doctor``: looking before running."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from node.core.errors import ConfigError
from orchestrator.cli.arguments import (
    AsJson,
    DataRoot,
    ExperimentFile,
    InputRoot,
    Overrides,
    check_folder,
    read_plan,
)
from orchestrator.cli.printing import out, print_json, print_rows


def validate(
    file: ExperimentFile,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    input_root: InputRoot = None,
    with_data: Annotated[bool, typer.Option("--data/--no-data", help="Also load and split the data set.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check an experiment file and print what would run."""
    plan = read_plan(file, overrides, input_root=input_root)
    check_folder("--data-root", data_root)
    rows, load = plan.describe(), None
    if with_data:
        more, load = _rows_of_data(plan, data_root)
        rows |= more
    if as_json:
        schedule = [entry.to_json() for entry in plan.entries]
        figures = None if load is None else load.figures()
        print_json({"file": str(file), "plan": rows, "load": figures, "schedule": schedule})
        return
    print_rows(f"{plan.config.name}: valid", rows)
    if plan.entries:
        from orchestrator.experiment.schedule.timeline import timeline

        for line in timeline(plan.entries, plan.end_ns, out.width):
            out.print(escape(line))


def _rows_of_data(plan: "Any", data_root: Path | None) -> "tuple[dict[str, str], Any]":
    """Load the data, and return what follows from them: rows of the plan's table, and the load on the links."""
    from orchestrator.host.signals import signals_held

    with signals_held():
        from orchestrator.runs.prepare import NOTES_ROW, prepare

    prepared = prepare(plan, data_root=data_root, workers=0)
    prepared.trainer.close()
    samples = [len(indices) for indices in prepared.split.train_indices]
    rows = {
        "data": prepared.dataset.source,
        "samples a node": f"{min(samples)} to {max(samples)}",
        "parameters": f"{prepared.facts.num_params:,}",
    } | plan.sizes(prepared.facts.num_params)
    if plan.config.is_shaped_by_kernel:
        from orchestrator.host.lines import describe_lines, lines_of

        rows["rates in the kernel"] = describe_lines(lines_of(plan, prepared.trainer.tensor_sizes))
    if prepared.notes:
        rows[NOTES_ROW] = "; ".join(prepared.notes)
    return rows, plan.load(prepared.facts.num_params)


def list_(as_json: AsJson = False) -> None:
    """List everything that an experiment file can name: algorithms, topologies, data sets, models, networks."""
    from orchestrator.experiment.catalog import catalog

    content = catalog()
    if as_json:
        print_json(content)
        return
    for kind, entries in content.items():
        print_rows(kind, entries)


def doctor(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="An experiment: measure what it takes as real processes.")
    ] = None,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure anew what a message and a round's end take of this host.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what this host can do and what a run would use; of an experiment, how far it must be slowed down here."""
    if file is not None:
        _estimate(file, overrides, data_root, calibrate, as_json)
        return
    if overrides:
        raise ConfigError(f"--set {overrides[0]}: must come with an experiment file")
    if calibrate:
        from orchestrator.host.calibration import host_costs

        host_costs(renew=True)
    from node.learning.data_files import resolve_data_root
    from orchestrator.host.doctor import examine
    from orchestrator.runtimes.registry import examine_runtimes

    check_folder("--data-root", data_root)
    findings = [*examine(resolve_data_root(data_root)), *examine_runtimes()]
    if as_json:
        print_json([{"name": f.name, "value": f.value, "status": f.status, "note": f.note} for f in findings])
        return
    table = Table(title="doctor", title_justify="left")
    for column in ("what", "found", "", "note"):
        table.add_column(column)
    colors = {"ok": "green", "warn": "yellow", "missing": "red"}
    for finding in findings:
        color = colors[finding.status]
        table.add_row(finding.name, escape(finding.value), f"[{color}]{finding.status}[/{color}]", escape(finding.note))
    out.print(table)


def _estimate(file: Path, overrides: list[str] | None, data_root: Path | None, calibrate: bool, as_json: bool) -> None:
    """Measure and print what an experiment takes of this host."""
    plan = read_plan(file, overrides)
    check_folder("--data-root", data_root)
    from orchestrator.host.signals import signals_held

    with signals_held():
        from orchestrator.host.calibration import host_costs
        from orchestrator.host.doctor import estimate
        from orchestrator.host.environment import usable_cores
        from orchestrator.runs.prepare import prepare

    costs = host_costs(renew=calibrate)
    workers = min(usable_cores(), plan.config.nodes)
    prepared = prepare(plan, data_root=data_root, workers=workers)
    try:
        found = estimate(plan, prepared.trainer, costs=costs)
    finally:
        prepared.trainer.close()
    num_params = prepared.facts.num_params
    containers = _foresee_containers(plan, num_params) if plan.config.runtime == "docker" else {}
    load = plan.load(num_params)
    if as_json:
        figures = None if load is None else load.figures()
        more = {"containers": containers} if containers else {}
        print_json({"file": str(file), "experiment": found.to_json(), "load": figures, **more})
        return
    nodes = "containers" if containers else "real processes"
    print_rows(f"{plan.config.name}: as {nodes} on this host", found.rows(plan) | containers | plan.sizes(num_params))


def _foresee_containers(plan: "Any", num_params: int) -> dict[str, str]:
    """Ask the Docker engine whether an experiment could run in it, and what it would need."""
    from contextlib import closing

    from orchestrator.containers.engine import connect
    from orchestrator.experiment.plan import errors_naming
    from orchestrator.runtimes.docker_backend import foresee

    with closing(connect()) as engine, errors_naming(plan.place):
        return foresee(plan, engine, num_params)
