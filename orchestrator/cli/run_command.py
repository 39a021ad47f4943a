"""``fragmesh run``: one experiment, once for each seed, or an interrupted run that goes on."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from node.core.errors import ConfigError
from orchestrator.cli.arguments import AsJson, DataRoot, InputRoot, Overrides, check_folder, read_plan
from orchestrator.cli.exit_codes import EXIT_OF_STATUS, FINISHED_CODES
from orchestrator.cli.guard import guard, print_error
from orchestrator.cli.printing import print_json, print_rows
from orchestrator.host.streams import let_lead_nowhere


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
    as_json: AsJson = False,
) -> None:
    """Run an experiment and write its results, for one seed or several, or go on with an interrupted run."""
    # Refuse what does not fit together, for all seeds, before anything slow is imported.
    if resume is not None:
        given = {"FILE": file, "--runtime": runtime, "--set": overrides, "--out": out_dir, "--seed": seeds}
        refused = ", ".join(name for name, value in given.items() if value is not None)
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
    if resume is None and len(plans) > 1:
        raise typer.Exit(_run_each(plans, out_dir, data_root, workers, as_json))
    plan = None if resume is not None else plans[0]
    _run_one(plan, resume, out_dir, data_root, workers, as_json, sys.argv[1:], input_root)


def _run_each(
    plans: "list[Any]", out_dir: Path | None, data_root: Path | None, workers: int | None, as_json: bool
) -> int:
    """Run plans one after the other, each in a process of its own. One that fails or is interrupted ends it."""
    from orchestrator.host.apart import run_apart

    worst = 0
    for plan in plans:
        arguments = _with_seed(sys.argv[1:], plan.config.seed)

        def task(plan: "Any" = plan, arguments: list[str] = arguments) -> int:
            return guard(lambda: _run_one(plan, None, out_dir, data_root, workers, as_json, arguments))

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
    input_root: Path | None = None,
) -> None:
    """Run a plan, or go on with a run, in this process, and leave with its exit code."""
    from orchestrator.host.signals import signals_held

    # Step 1: import what runs it.
    with signals_held():  # importing torch takes seconds
        from orchestrator.fidelity import exit_code, unfaithful_reasons
        from orchestrator.host.environment import usable_cores
        from orchestrator.results.files import first_line_of
        from orchestrator.runs.options import RunOptions
        from orchestrator.runtimes.registry import resume_run, start_run

    options = RunOptions(
        out=out_dir or Path("runs"),
        data_root=data_root,
        workers=usable_cores() if workers is None else workers,
        progress="json" if as_json else "auto",
        command=shlex.join(["fragmesh", *arguments]),
        input_root=input_root,
    )
    # Step 2: run. Errors of the user and of the run leave through the guard around all commands.
    if resume is not None:
        outcome = resume_run(resume, options)
    else:
        outcome = start_run(plan, options)
    # Step 3: tell the outcome. The exit code comes last: a run that failed has told its figures all the same.
    try:
        if as_json:
            print_json({"event": "end", "run": str(outcome.path), "summary": outcome.summary})
        else:
            print_outcome(outcome.summary, outcome.path)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:  # the results are safe, and how the run ended counts
        let_lead_nowhere(sys.stdout)
        print_error("not printed:", f"{first_line_of(error)}; the results are in {outcome.path}")
    if outcome.error is not None:
        print_error(f"{outcome.status}:", outcome.error)
    for reason in unfaithful_reasons(outcome.fidelity):
        print_error("unfaithful:", reason)
    if outcome.report_problem is not None:
        again = f"the results are complete; draw again with: fragmesh report {shlex.quote(str(outcome.path))}"
        print_error("report:", f"{outcome.report_problem}; {again}")
    code = exit_code(outcome.fidelity) if outcome.status == "done" else EXIT_OF_STATUS[outcome.status]
    raise typer.Exit(code)


def print_outcome(summary: dict[str, Any], path: Path) -> None:
    from orchestrator.results.checkpoint import CHECKPOINT

    final, best = summary["final"], summary["best"]

    def figure(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    messages = summary["messages"]
    last = "at the end" if summary["status"] == "done" else "last tested"
    key, headline, other = (
        ("loss", "RMSE", "accuracy") if summary["metric"] == "rmse" else ("accuracy", "accuracy", "loss")
    )
    rows = {
        "status": summary["status"],
        headline: f"{figure(final[key])} {last}, {figure(best[key])} at best; fragmesh compare smooths",
        other: f"{figure(final[other])} {last}, {figure(best[other])} when {headline} was best",
        "messages": f"{messages['queued']:,} queued, {messages['delivered']:,} delivered,"
        f" {messages['cancelled']:,} cancelled, {messages['lost']:,} lost"
        + f", {messages['rejected']:,} refused"
        * bool(messages["rejected"]),
        "sent": f"{summary['bytes_sent'] / 1e6:,.1f} MB",
        "wall clock": f"{summary['wall_s']:.1f} s for {summary['train_steps']:,} local steps",
        "fidelity": summary["fidelity"] or "not judged",
        "report": str(path / "report.html"),
    }
    if summary["values_saturated"]:
        rows["saturated"] = f"{summary['values_saturated']:,} values travelled as the largest of wire.dtype"
    unsaved = summary["checkpoint_error"]
    if unsaved is not None:
        rows["checkpoint"] = f"not written: {unsaved}"
    has_begun = summary["evaluations"] > 0
    if summary["status"] == "interrupted" and has_begun and (unsaved is None or (path / CHECKPOINT).exists()):
        rows["go on with"] = f"fragmesh run --resume {shlex.quote(str(path))}"
    print_rows(path.name, rows)
