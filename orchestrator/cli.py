"""The command line: ``fragmesh run``, ``validate``, ``compare`` and others.

Every command ends with one of :data:`EXIT_CODES`. torch is imported only by commands that train.
"""

import dataclasses
import json
import os
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import typer
import typer.core
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if __name__ == "__main__":  # python -m orchestrator.cli: before anything that a folder of the user's may stand in for
    from fragmesh import refuse_shadow

    refuse_shadow()

from node.core.errors import ConfigError, DataError, RunnerError, TestbedError
from node.host.forked import ending_signals
from orchestrator.host.streams import is_of_printing, let_lead_nowhere, open_standard_streams

EXIT_CODES: Final = {
    0: "done",
    1: "the output could not be written, or whoever read it stopped reading",
    2: "the input is wrong: one line says what and where",
    3: "the run failed or stalled: a deadlock, a dead node or worker, refused messages, a full disk, a bug of ours",
    4: "the run finished but is unfaithful: its host could not keep up",
    5: "the run diverged: a node's model was not finite any more; what was measured until then is kept",
    130: "interrupted: what was measured is kept",
}
"""Meaning of each exit code; scripts can rely on them."""

EXIT_OF_STATUS: Final = {"failed": 3, "stalled": 3, "diverged": 5, "interrupted": 130}
"""Exit codes of runs that did not end as they should."""

FINISHED_CODES: Final = (0, 4, EXIT_OF_STATUS["diverged"])
"""Exit codes of runs that came to an end of their own, after which runs of other seeds go on."""

# emoji: the line number in "edges.txt:100: ..." would become one.
out = Console(soft_wrap=True, emoji=False, highlight=False)
err = Console(stderr=True, soft_wrap=True, emoji=False, highlight=False)


class _Commands(typer.core.TyperGroup):
    """Says that it was interrupted: typer makes an exit code of it and tells nobody."""

    def invoke(self, ctx: Any) -> Any:
        """See click."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            with suppress(OSError):
                err.print("interrupted")
            raise


def _print_version(asked: bool) -> None:
    if asked:
        from orchestrator.host.environment import versions

        print(f"fragmesh {versions()['fragmesh'] or 'of a source tree that is not installed'}")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A testbed for decentralized learning under bad networks.",
)


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A testbed for decentralized learning under bad networks."""


ExperimentFile = Annotated[Path, typer.Argument(metavar="FILE", help="The experiment file (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, for example a.b=c.")
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Folder with data sets [env: FRAGMESH_DATA].")
]
InputRoot = Annotated[
    Path | None,
    typer.Option("--input-root", metavar="DIR", help="Where edge lists, traces and regions are looked for first."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


@app.command()
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
        plans = [_read_plan(file, overrides, runtime, seed, input_root=input_root) for seed in chosen]
        again = {seed for seed in seeds or () if (seeds or []).count(seed) > 1}
        if again:
            raise ConfigError(f"--seed={min(again)}: must be given once")
    _check_folder("--input-root", input_root)
    _check_folder("--data-root", data_root)
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
            return _guard(lambda: _run_one(plan, None, out_dir, data_root, workers, as_json, arguments))

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
            _print_json({"event": "end", "run": str(outcome.path), "summary": outcome.summary})
        else:
            _print_outcome(outcome.summary, outcome.path)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:  # the results are safe, and how the run ended counts
        let_lead_nowhere(sys.stdout)
        _print_error("not printed:", f"{first_line_of(error)}; the results are in {outcome.path}")
    if outcome.error is not None:
        _print_error(f"{outcome.status}:", outcome.error)
    for reason in unfaithful_reasons(outcome.fidelity):
        _print_error("unfaithful:", reason)
    if outcome.report_problem is not None:
        again = f"the results are complete; draw again with: fragmesh report {shlex.quote(str(outcome.path))}"
        _print_error("report:", f"{outcome.report_problem}; {again}")
    code = exit_code(outcome.fidelity) if outcome.status == "done" else EXIT_OF_STATUS[outcome.status]
    raise typer.Exit(code)


@app.command()
def validate(
    file: ExperimentFile,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    input_root: InputRoot = None,
    with_data: Annotated[bool, typer.Option("--data/--no-data", help="Also load and split the data set.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check an experiment file and print what would run."""
    plan = _read_plan(file, overrides, input_root=input_root)
    _check_folder("--data-root", data_root)
    rows, load = plan.describe(), None
    if with_data:
        more, load = _rows_of_data(plan, data_root)
        rows |= more
    if as_json:
        schedule = [entry.to_json() for entry in plan.entries]
        figures = None if load is None else load.figures()
        _print_json({"file": str(file), "plan": rows, "load": figures, "schedule": schedule})
        return
    _print_rows(f"{plan.config.name}: valid", rows)
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


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; the first is the baseline.")],
    target: Annotated[
        float | None,
        typer.Option(help="Accuracy (or RMSE) to hold. [default: as the experiment states, else from the baseline]"),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also draw the runs (.html, .png or .svg).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: time and bytes until they hold a target, and ratios; runs that differ in the seed are one group."""
    from orchestrator.comparison import compare as compare_measured
    from orchestrator.comparison import without_repeats
    from orchestrator.fidelity import is_unfaithful
    from orchestrator.report.comparison_text import check_comparable, notes
    from orchestrator.results.reader import load_run

    # Step 1: refuse what cannot be, before large files are read.
    if target is not None and not isfinite(target):
        raise ConfigError(f"--target={target}: must be a finite number")
    if figure is not None:
        _check_figure(figure)
    # Step 2: compare.
    loaded, repeats = without_repeats([load_run(path, messages=False) for path in runs])
    check_comparable(loaded)
    comparison = compare_measured(loaded, target)
    # Step 3: tell. The figure comes last: if it cannot be drawn, the tables are there.
    if as_json:
        unfaithful = [str(run.path) for run in loaded if is_unfaithful(run.fidelity)]
        content = dataclasses.asdict(comparison)
        content["runs"] = content.pop("groups")
        for row in content["runs"]:
            row["paths"] = [str(loaded[index].path) for index in row.pop("members")]
        content["left_out"] = [str(run.path) for run, _ in repeats]
        _print_json(content | {"notes": notes(loaded, comparison, repeats), "unfaithful": unfaithful})
    else:
        _print_comparison(loaded, comparison, repeats, figure)
    if figure is not None:
        _draw_comparison(loaded, comparison, repeats, figure)
        if not as_json:
            print(figure)


def _print_comparison(runs: "list[Any]", comparison: "Any", repeats: "list[Any]", figure: Path | None) -> None:
    """Print the tables and the notes; ``figure`` is the file in which the comparison is drawn as well."""
    from orchestrator.comparison import CUT_SHORT, is_smoothed
    from orchestrator.report.comparison_text import comparison_table, group_labels, notes, ratios_table, target_text

    labels = group_labels(runs, comparison)
    title = f"{target_text(comparison)}; baseline: {labels[0]}"
    is_cut_short = any(status in CUT_SHORT for group in comparison.groups for status in group.statuses)
    # Of a run that was cut short the value at a common instant is all that there is.
    leave_out = [*LEAVE_OUT[1:], LEAVE_OUT[0]] if is_cut_short else LEAVE_OUT
    _print_groups(title, *comparison_table(comparison, labels), leave_out, figure)
    if any(is_smoothed(run.times_s) for run in runs):
        out.print("end: the mean of a run's last evaluations, which it holds; fragmesh run prints the very last one")
    if len(labels) > 1 and comparison.table:
        header, rows = ratios_table(comparison, labels)
        # Where there is no room, every other target goes first, and the easiest ones then.
        _print_groups("", header, rows, [*header[2:-1:2], *header[1:-2:2]], figure)
    for remark in notes(runs, comparison, repeats):
        out.print(f"[yellow]note:[/yellow] {escape(remark)}")


def _check_figure(path: Path) -> None:
    """Refuse a place where no comparison can be drawn."""
    if path.suffix.lower() not in (".html", ".png", ".svg"):
        raise ConfigError(f"--out={path}: must end in .html, .png or .svg")
    if path.is_dir():
        raise ConfigError(f"--out={path}: is a directory")
    if not path.parent.is_dir():
        raise ConfigError(f"--out={path}: there is no folder {path.parent}")


def _draw_comparison(runs: "list[Any]", comparison: "Any", repeats: "list[Any]", path: Path) -> None:
    try:
        from orchestrator.report.overlay import write_comparison

        write_comparison(runs, comparison, path, repeats)
    except TestbedError:
        raise
    except Exception as error:  # a library that draws, its fonts or backends: nothing of it is wrong with the runs
        raise RunnerError(f"{path}: cannot be drawn: {type(error).__name__}: {error}") from error


@app.command()
def report(run: RunPath) -> None:
    """Write a run's report.html anew and print where it is."""
    from orchestrator.report.page import write_report
    from orchestrator.results.reader import load_run

    problems: list[str] = []
    print(write_report(load_run(run), problems.append))
    for problem in problems:
        raise RunnerError(f"figures are missing: {problem}")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List everything that an experiment file can name: algorithms, topologies, data sets, models, networks."""
    from orchestrator.experiment.catalog import catalog

    content = catalog()
    if as_json:
        _print_json(content)
        return
    for kind, entries in content.items():
        _print_rows(kind, entries)


@app.command()
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

    _check_folder("--data-root", data_root)
    findings = [*examine(resolve_data_root(data_root)), *examine_runtimes()]
    if as_json:
        _print_json([{"name": f.name, "value": f.value, "status": f.status, "note": f.note} for f in findings])
        return
    table = Table(title="doctor", title_justify="left")
    for column in ("what", "found", "", "note"):
        table.add_column(column)
    colors = {"ok": "green", "warn": "yellow", "missing": "red"}
    for finding in findings:
        color = colors[finding.status]
        table.add_row(finding.name, escape(finding.value), f"[{color}]{finding.status}[/{color}]", escape(finding.note))
    out.print(table)


BaseImage = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Base of both images; else FRAGMESH_BASE_IMAGE, else Python's own image and a small one."
    ),
]
FindLinks = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PLACE",
        help="A folder or page with wheels that pip takes first; may be repeated; else PIP_FIND_LINKS.",
    ),
]
PipOptions = Annotated[
    list[str] | None,
    typer.Option("--pip", metavar="OPTION", help="An option for pip, as in --pip=--index-url=URL; may be repeated."),
]


@app.command()
def image(
    base_image: BaseImage = None, find_links: FindLinks = None, pip: PipOptions = None, as_json: AsJson = False
) -> None:
    """Build the images of containers from the fragmesh that is installed, unless they are there."""
    from orchestrator.containers.engine import connect
    from orchestrator.containers.image_builds import BuildOptions, have_image
    from orchestrator.containers.image_recipes import BASE_LABEL, node_recipe, shaper_recipe
    from orchestrator.report.text import format_bytes, format_duration

    options = BuildOptions.from_environment(os.environ)
    options = dataclasses.replace(
        options,
        base=base_image or options.base,
        find_links=find_links or options.find_links,
        pip=[*options.pip, *(pip or ())],
    )

    def tell(line: str) -> None:
        if line.startswith(("Step", "Fetching")):
            err.print(escape(line[: out.width]))

    with closing(connect()) as engine:
        images = [have_image(engine, recipe, options, tell) for recipe in (shaper_recipe(), node_recipe())]
    if as_json:
        _print_json([dataclasses.asdict(built) for built in images])
        return
    rows = {}
    for built in images:
        how = "already there" if built.build_s is None else f"built in {format_duration(built.build_s)}"
        base = built.facts.labels[BASE_LABEL].split()[0]
        rows[built.name] = f"{format_bytes(built.facts.size_bytes)}, {how}, on {base}"
    _print_rows("images", rows)


@app.command()
def ps(as_json: AsJson = False) -> None:
    """List what runs have in the Docker engine, and whether their orchestrators live."""
    from orchestrator.containers.cleanup import describe, find_runs
    from orchestrator.containers.engine import connect
    from orchestrator.containers.ownership import Owner

    with closing(connect()) as engine:
        runs = find_runs(engine, Owner.of_this_process())
    if as_json:
        _print_json([dataclasses.asdict(run) for run in runs])
        return
    if not runs:
        print("no run has anything in the engine")
        return
    table = Table()
    for column in ("run", "has", "containers", "orchestrator"):
        table.add_column(column)
    for run in runs:
        states = Counter(resource.status for resource in run.resources if resource.kind == "container")
        shown = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        color = {"alive": "green", "gone": "red", "foreign": "yellow"}[run.fate]
        table.add_row(escape(run.run), describe(run.resources), shown, f"[{color}]{escape(run.owner)}[/{color}]")
    out.print(table)


@app.command()
def down(
    run: Annotated[
        str | None, typer.Option(metavar="ID", help="Remove all of this run, also if its orchestrator lives.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Remove all of all runs of this user, also of those that are under way.")
    ] = False,
) -> None:
    """Remove what runs left in the Docker engine, by label. Without an option, of those whose orchestrator is gone."""
    from orchestrator.containers.cleanup import describe, find_runs, remove
    from orchestrator.containers.engine import connect
    from orchestrator.containers.ownership import Owner

    if run is not None and all_:
        raise ConfigError(f"--run={run}: must be without --all")
    with closing(connect()) as engine:
        found = [each for each in find_runs(engine, Owner.of_this_process()) if run in (None, each.run)]
        if run is not None and not found:
            raise ConfigError(f"--run={run}: there is no such run in the engine; fragmesh ps lists them")
        fates = ("gone",) if run is None and not all_ else ("alive", "gone")
        chosen = [each for each in found if each.fate in fates]
        if run is not None and not chosen:
            raise ConfigError(f"--run={run}: must be of this user and machine, is {found[0].owner}")
        problems = remove(engine, (resource for each in chosen for resource in each.resources))
    if problems:
        raise RunnerError("; ".join(problems))
    for each in found:
        word = "removed" if each in chosen else "left alone"
        print(f"{word}: {each.run}: {describe(each.resources)}; {each.owner}")
    if not found:
        print("no run has anything in the engine")


def _estimate(file: Path, overrides: list[str] | None, data_root: Path | None, calibrate: bool, as_json: bool) -> None:
    """Measure and print what an experiment takes of this host."""
    plan = _read_plan(file, overrides)
    _check_folder("--data-root", data_root)
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
        _print_json({"file": str(file), "experiment": found.to_json(), "load": figures, **more})
        return
    nodes = "containers" if containers else "real processes"
    _print_rows(f"{plan.config.name}: as {nodes} on this host", found.rows(plan) | containers | plan.sizes(num_params))


def _foresee_containers(plan: "Any", num_params: int) -> dict[str, str]:
    """Ask the Docker engine whether an experiment could run in it, and what it would need."""
    from contextlib import closing

    from orchestrator.containers.engine import connect
    from orchestrator.experiment.plan import errors_naming
    from orchestrator.runtimes.docker_backend import foresee

    with closing(connect()) as engine, errors_naming(plan.place):
        return foresee(plan, engine, num_params)


def _read_plan(
    file: Path,
    overrides: list[str] | None,
    runtime: str | None = None,
    seed: int | None = None,
    *,
    input_root: Path | None = None,
) -> "Any":
    from orchestrator.experiment.config import read_experiment
    from orchestrator.experiment.input_files import InputFiles
    from orchestrator.experiment.plan import make_plan

    _check_folder("--input-root", input_root)
    items = list(overrides or [])
    items += [f"runtime={runtime}"] * (runtime is not None) + [f"seed={seed}"] * (seed is not None)
    inputs = InputFiles.of_experiment(file, input_root)
    return make_plan(read_experiment(file, items), file.parent, place=str(file), inputs=inputs)


def _check_folder(option: str, folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"{option}={folder}: is not a directory")


def _print_json(value: object) -> None:
    """One line of JSON; the figures of a model that has diverged, which JSON cannot say, become null."""
    from orchestrator.results.files import to_json_values

    print(json.dumps(to_json_values(value), allow_nan=False))


def _print_error(what: str, message: str) -> None:
    """Always one line, whatever the message quotes."""
    try:
        if _is_interrupted():
            err.print("interrupted")  # the message is a consequence
        else:
            err.print(f"[red]{what}[/red] {escape(' '.join(message.split()))}")
    except OSError:  # nobody can be told
        let_lead_nowhere(sys.stderr)


WrongUsage: Any = typer.BadParameter.__mro__[2]
"""Click's base of all complaints about a command line; which click, typer's own or the package, varies."""

LEAVE_OUT = ("at ", "times fewer", "bytes", "gain", "seeds", "averaged", "worst")
"""Beginnings of the columns that a narrow terminal does without, in this order; ``--json`` and a page have them all."""

NAME_WIDTH = 24
"""Letters that a run's name has in a comparison before it is folded."""


def _print_groups(
    title: str, header: list[str], rows: list[list[str]], leave_out: Sequence[str], figure: Path | None
) -> None:
    """A row a group. Where there is no room for names, columns go that begin as ``leave_out`` says, in its order.

    ``figure`` is the file in which the comparison is drawn as well, None if there is none.
    """
    shown = list(range(len(header)))
    name_width = min(NAME_WIDTH, max(len(row[0]) for row in rows))

    def figure_width(i: int) -> int:
        return max(len(word) for word in [*header[i].split(), *(row[i] for row in rows)])

    def room_for_names() -> int:
        return out.width - sum(figure_width(i) for i in shown[1:]) - 3 * len(shown) - 1

    for beginning in leave_out:
        if room_for_names() < name_width:
            shown = [i for i in shown if not header[i].startswith(beginning)]
    left_out = [name for i, name in enumerate(header) if i not in shown]
    name_width = max(1, min(name_width, room_for_names()))
    table = Table(title=title, title_justify="left")
    for i in shown:
        if i == 0:
            table.add_column(header[i], overflow="fold", min_width=name_width)
        else:
            table.add_column(header[i], overflow="fold", justify="right", max_width=figure_width(i))
    for row in rows:
        # Figures do not break at their units.
        table.add_row(escape(row[0]), *(escape(row[i].replace(" ", "\u00a0")) for i in shown[1:]))
    out.print(table)
    if left_out:
        places = ["a wider terminal"] * out.is_terminal
        places.append(str(figure) if figure is not None and figure.suffix.lower() == ".html" else "--out FILE.html")
        where = ", ".join(places)
        out.print(f"not shown for want of room ({escape(where)} or --json has them): {escape(', '.join(left_out))}")


def _print_rows(title: str, rows: dict[str, str]) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, text in rows.items():
        table.add_row(name, escape(text))
    out.print(table)


def _print_outcome(summary: dict[str, Any], path: Path) -> None:
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
    _print_rows(path.name, rows)


class _Interrupt:
    """The handler of the signals that end a run while no runner has its own.

    It remembers that it was called: a module that is interrupted while it is imported may raise something else.
    """

    def __init__(self) -> None:
        self.received = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        raise KeyboardInterrupt


def _is_interrupted() -> bool:
    handler = signal.getsignal(signal.SIGTERM)
    return isinstance(handler, _Interrupt) and handler.received


def main() -> None:
    """Run the command line to its end; what ``fragmesh.py`` calls."""
    open_standard_streams()
    interrupt = _Interrupt()
    # Also where a shell started this in the background with SIGINT ignored. Runners replace them while they run.
    numbers = ending_signals()
    for number in numbers:
        signal.signal(number, interrupt)
    code = _guard(lambda: app(standalone_mode=False))
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)  # nothing is left to interrupt but the interpreter's own end
    if interrupt.received or code == 130:
        # Python itself would end by SIGINT after an interrupt that passed through exec(), caught or not.
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(130)
    sys.exit(code)


def _guard(command: Callable[[], Any]) -> int:
    """Run a command and turn its errors into one line and an exit code."""
    try:
        code = _run_command(command)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # whoever read the output has seen enough
        let_lead_nowhere(sys.stdout)
        code = 1  # as rich does in the middle of a table
    except MemoryError:
        _print_error("failed:", "not enough memory; take fewer nodes, a smaller model or less data")
        code = 3
    except Exception as error:
        if is_of_printing(error):
            let_lead_nowhere(sys.stdout)
            _print_error("not printed:", str(getattr(error, "strerror", error)))
            return 1
        # A bug of ours: the last frame of the program.
        if os.environ.get("FRAGMESH_TRACEBACK"):
            raise
        _print_error("failed:", f"{type(error).__name__}: {error}; a bug: FRAGMESH_TRACEBACK=1 shows where it happened")
        code = 3
    return code


def _run_command(command: Callable[[], Any]) -> int:
    try:
        code = command()
        return code if isinstance(code, int) else 0
    except typer.Exit as leave:
        return leave.exit_code
    except typer.Abort:
        return 130
    except WrongUsage as error:
        message = error.format_message()
        if message:  # else the help has been printed instead
            _print_error("error:", message)
        return 2
    except (ConfigError, DataError) as error:
        _print_error("error:", str(error))
        return 2
    except TestbedError as error:
        _print_error("failed:", str(error))
        return 3


if __name__ == "__main__":
    main()
