"""Arguments and options that several commands take, and the plan that most of them begin with."""

from pathlib import Path
from typing import Annotated, Any

import typer

from node.core.errors import ConfigError

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


def read_plan(
    file: Path,
    overrides: list[str] | None,
    runtime: str | None = None,
    seed: int | None = None,
    *,
    input_root: Path | None = None,
) -> "Any":
    """Read and check an experiment file; ``runtime`` and ``seed`` replace the file's."""
    from orchestrator.experiment.config import read_experiment
    from orchestrator.experiment.input_files import InputFiles
    from orchestrator.experiment.plan import make_plan

    check_folder("--input-root", input_root)
    items = list(overrides or [])
    items += [f"runtime={runtime}"] * (runtime is not None) + [f"seed={seed}"] * (seed is not None)
    inputs = InputFiles.of_experiment(file, input_root)
    return make_plan(read_experiment(file, items), file.parent, place=str(file), inputs=inputs)


def check_folder(option: str, folder: Path | None) -> None:
    """Refuse what an option names unless it is a folder."""
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"{option}={folder}: is not a directory")
