"""``fragmesh watch``: a run in progress, from another terminal."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from node.core.errors import ConfigError, RunnerError
from orchestrator.cli.arguments import AsJson
from orchestrator.cli.outcome import exit_code_of, tell_outcome
from orchestrator.cli.printing import err


def watch(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="A run directory, or its name. [default: the only run in progress]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a run in progress until it ends, and leave with its exit code. It goes on when this is closed."""
    from orchestrator.containers.ownership import Owner
    from orchestrator.progress.live_file import read_live
    from orchestrator.progress.progress import Progress
    from orchestrator.results.reader import load_run
    from orchestrator.runs.watching import Follower

    path = _find(run)
    found = load_run(path, messages=False)
    if read_live(path) is None:
        raise typer.Exit(_tell_end(path, died=None, in_a_line=True, as_json=as_json))
    progress = Progress("json" if as_json else "auto", sys.stdout)
    progress.expect(found.facts.schedule)
    try:
        with progress:
            died = Follower(path, progress, Owner.of_this_process()).follow()
    except KeyboardInterrupt:
        err.print(f"no longer watched: {path} goes on", markup=False)
        raise typer.Exit(130) from None
    raise typer.Exit(_tell_end(path, died=died, in_a_line=False, as_json=as_json))


def _find(name: str | None) -> Path:
    """Find a run by its directory, or of those in progress by its name; None for the only one."""
    from orchestrator.host.run_registry import runs_in_progress

    if name is not None and Path(name).is_dir():
        return Path(name)
    runs = runs_in_progress()
    fitting = [each.path for each in runs if name in (None, each.path.name)]
    fitting = fitting or [each.path for each in runs if _experiment_of(each.path) == name]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        among = ", ".join(str(path) for path in fitting)
        raise ConfigError(f"{name or 'RUN'}: must name one of the {len(fitting)} runs in progress: {among}")
    if name is None:
        raise ConfigError("no run is in progress; name a run directory to see how a run ended")
    raise ConfigError(f"{name}: no such run directory, and no run in progress of this name; fragmesh ps lists them")


def _experiment_of(path: Path) -> str | None:
    from orchestrator.progress.live_file import read_live

    try:
        record = read_live(path)
    except ConfigError:  # of another version; its directory still names it
        return None
    return None if record is None else record.name


def _tell_end(path: Path, *, died: str | None, in_a_line: bool, as_json: bool) -> int:
    """Tell how a run ended, and return the exit code that says the same.

    Args:
        path: Its directory.
        died: Why it will say no more, if it has not ended in good order.
        in_a_line: Tell no more than how; else all that the command tells that ran it.
        as_json: Print JSON for machines.
    """
    from orchestrator.fidelity import stamp
    from orchestrator.results.checkpoint import CHECKPOINT, SNAPSHOTS
    from orchestrator.results.reader import load_run
    from orchestrator.runs.options import RunOutcome

    found = load_run(path, messages=False)
    if found.status == "partial" or found.summary is None:
        can_go_on = any((path / name).exists() for name in (CHECKPOINT, SNAPSHOTS))
        more = f"; fragmesh run --resume {shlex.quote(str(path))} goes on with it" if can_go_on else ""
        raise RunnerError(f"{path}: the run did not come to an end: {died or 'it was killed'}{more}")
    outcome = RunOutcome(path, found.status, found.summary, found.summary.get("error"), found.fidelity)
    if as_json or not in_a_line:
        return tell_outcome(outcome, as_json=as_json)
    words = [found.status, outcome.error, stamp(found.fidelity)]
    print(f"{path}: the run is over: {', '.join(word for word in words if word)}")
    return exit_code_of(found.status, found.fidelity)
