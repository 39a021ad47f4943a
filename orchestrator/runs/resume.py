"""Going on with a run that was interrupted or killed: what its directory tells of how it began and how far it came."""

from dataclasses import replace
from functools import reduce
from pathlib import Path

from node.core.counters import NodeCounters, add_counters, subtract_counters
from node.core.errors import ConfigError
from orchestrator.experiment.config import read_experiment
from orchestrator.experiment.input_files import InputFiles, moved
from orchestrator.experiment.plan import Plan, make_plan
from orchestrator.results.reader import Run, load_run
from orchestrator.runs.options import RunOptions
from orchestrator.runs.snapshots import Earlier, Part


def recorded_path(run: Run, name: str) -> Path | None:
    """A path that :func:`~orchestrator.runs.prepare.environment_of` recorded."""
    value = (run.environment or {}).get(name)
    return Path(value) if isinstance(value, str) else None


def interrupted_run(path: Path, options: RunOptions) -> tuple[Run, RunOptions]:
    """A run to go on with, and the options with what it was started with in the place of what is not given.

    Raises:
        ConfigError: There is no run, or it is complete.
    """
    found = load_run(path, messages=False)
    if found.status == "done":
        raise ConfigError(f"{path}: the run is complete")
    if found.status == "diverged":
        raise ConfigError(f"{path}: the run is complete: {(found.summary or {}).get('error')}")
    data_root = options.data_root or _recorded_data_root(found)
    return found, replace(options, data_root=data_root, command=found.facts.command)


def _recorded_data_root(run: Run) -> Path | None:
    """The folder in which a run found its data: where it was, or at the same place as seen from the run's directory.

    None where neither is there: the data are then looked for as in a new run.
    """
    recorded = recorded_path(run, "data_root")
    if recorded is None:
        return None
    places = [recorded, *moved(run.path, run.environment or {}, str(recorded))]
    return next((place for place in places if place.is_dir()), None)


def recorded_plan(run: Run, input_root: Path | None = None) -> Plan:
    """The plan of a run, from its own directory.

    Args:
        run: The run.
        input_root: Folder in which files that the experiment names are looked for first.

    Raises:
        ConfigError: Its experiment is damaged, or a file that it names is gone or was changed.
    """
    experiment = run.path / "experiment.yaml"
    inputs = InputFiles.of_run(run.path, run.environment or {}, input_root)
    return make_plan(read_experiment(experiment), run.path, place=str(experiment), inputs=inputs)


def killed_part(earlier: Earlier) -> Part | None:
    """Return the part of a real run that was killed before it could tell its counts; None if all parts are known.

    Its last models tell what each node had counted by then.
    """
    known_ns = max((part.end_ns for part in earlier.parts), default=0)
    if earlier.time_ns <= known_ns:
        return None
    counters = []
    for node, (stored, _) in enumerate(earlier.models):
        before = reduce(add_counters, (part.counters[node] for part in earlier.parts), NodeCounters())
        counters.append(subtract_counters(before, stored.counters))
    return Part(known_ns, earlier.time_ns, 0.0, counters)
