"""``fragmesh run``: one experiment, once for each seed, or an interrupted run that goes on."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from node.core.errors import ConfigError
from orchestrator.cli.arguments import AsJson, DataRoot, InputRoot, Overrides, check_folder, read_plan
from orchestrator.cli.exit_codes import FINISHED_CODES
from orchestrator.cli.guard import guard
from orchestrator.cli.observing import (
    GRAFANA_PORT,
    PROMETHEUS_PORT,
    GrafanaPort,
    Observation,
    Observe,
    ObserveWith,
    PrometheusPort,
)
from orchestrator.cli.outcome import tell_outcome


def run(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="The experiment file (YAML).")] = None,
    runtime: Annotated[str | None, typer.Option(help="Where the nodes run.")] = None,
    overrides: Overrides = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the run's folder is made. [default: runs]")
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Replaces the file's seed; given several times, a run for each.")
    ] = None,
    data_root: DataRoot = None,
    input_root: InputRoot = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Training processes; 0 trains in the main one. [default: all cores]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted run, in its directory.")
    ] = None,
    observe: Observe = False,
    observe_with: ObserveWith = None,
    prometheus_port: PrometheusPort = PROMETHEUS_PORT,
    grafana_port: GrafanaPort = GRAFANA_PORT,
    as_json: AsJson = False,
) -> None:
    """Run an experiment and write its results, for one seed or several, or go on with an interrupted run."""
    # Step 1: refuse what does not fit together, for all seeds, before anything slow is imported.
    observation = Observation.asked_for(observe, observe_with, prometheus_port, grafana_port)
    if resume is not None:
        given = {"FILE": file, "--runtime": runtime, "--set": overrides, "--out": out_dir, "--seed": seeds}
        refused = ", ".join([name for name, value in given.items() if value is not None] + ["--observe"] * observe)
        if refused:
            raise ConfigError(f"--resume={resume}: goes on with the experiment as it was; must be without {refused}")
    elif file is None:
        raise ConfigError("Missing argument 'FILE' (or --resume RUN)")
    else:
        chosen: list[int | None] = [*seeds] if seeds else [None]
        plans = [read_plan(file, overrides, runtime, seed, input_root=input_root) for seed in chosen]
        again = {seed for seed in seeds or () if (seeds or []).count(seed) > 1}
        if again:
            raise ConfigError(f"--seed={min(again)}: must be given once")
    check_folder("--input-root", input_root)
    check_folder("--data-root", data_root)
    # Step 2: bring up what is to see the run from its beginning.
    grafana = None
    if resume is None and observation is not None:
        observation.check(plans[0])
        grafana = observation.bring_up(plans[0].config.runtime)
    # Step 3: run.
    if resume is None and len(plans) > 1:
        raise typer.Exit(_run_each(plans, out_dir, data_root, workers, as_json, grafana))
    plan = None if resume is not None else plans[0]
    _run_one(plan, resume, out_dir, data_root, workers, as_json, sys.argv[1:], grafana, input_root)


def _run_each(
    plans: "list[Any]",
    out_dir: Path | None,
    data_root: Path | None,
    workers: int | None,
    as_json: bool,
    grafana: str | None,
) -> int:
    """Run plans one after the other, each in a process of its own. One that fails or is interrupted ends it."""
    from orchestrator.host.apart import run_apart

    worst = 0
    for plan in plans:
        arguments = _with_seed(sys.argv[1:], plan.config.seed)

        def task(plan: "Any" = plan, arguments: list[str] = arguments) -> int:
            return guard(lambda: _run_one(plan, None, out_dir, data_root, workers, as_json, arguments, grafana))

        code = run_apart(task)
        if code not in FINISHED_CODES:
            return code
        worst = max(worst, code)
    return worst


def _with_seed(arguments: list[str], seed: int) -> list[str]:
    """The arguments of a command with one seed in place of all."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--seed":
            next(rest, None)
        elif not argument.startswith("--seed="):
            kept.append(argument)
    return [*kept, "--seed", str(seed)]


def _run_one(
    plan: "Any",
    resume: Path | None,
    out_dir: Path | None,
    data_root: Path | None,
    workers: int | None,
    as_json: bool,
    arguments: list[str],
    grafana: str | None,
    input_root: Path | None = None,
) -> None:
    """Run a plan, or go on with a run, in this process, and leave with its exit code."""
    from orchestrator.host.signals import signals_held

    # Step 1: import what runs it.
    with signals_held():  # importing torch takes seconds
        from orchestrator.host.environment import usable_cores
        from orchestrator.runs.options import RunOptions
        from orchestrator.runtimes.registry import resume_run, start_run

    options = RunOptions(
        out=out_dir or Path("runs"),
        data_root=data_root,
        workers=usable_cores() if workers is None else workers,
        progress="json" if as_json else "auto",
        command=shlex.join(["fragmesh", *arguments]),
        input_root=input_root,
        grafana=grafana,
    )
    # Step 2: run. Errors of the user and of the run leave through the guard around all commands.
    if resume is not None:
        outcome = resume_run(resume, options)
    else:
        outcome = start_run(plan, options)
    # Step 3: tell the outcome. The exit code comes last: a run that failed has told its figures all the same.
    raise typer.Exit(tell_outcome(outcome, as_json=as_json))
