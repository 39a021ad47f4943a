"""``fragmesh image`` and ``down``: what runs need and leave in the Docker engine."""

import dataclasses
import os
from contextlib import closing
from typing import Annotated

import typer
from rich.markup import escape

from node.core.errors import ConfigError, RunnerError
from orchestrator.cli.arguments import AsJson
from orchestrator.cli.observing import take_down_observers
from orchestrator.cli.printing import err, out, print_json, print_rows

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
        print_json([dataclasses.asdict(built) for built in images])
        return
    rows = {}
    for built in images:
        how = "already there" if built.build_s is None else f"built in {format_duration(built.build_s)}"
        base = built.facts.labels[BASE_LABEL].split()[0]
        rows[built.name] = f"{format_bytes(built.facts.size_bytes)}, {how}, on {base}"
    print_rows("images", rows)


def down(
    run: Annotated[
        str | None, typer.Option(metavar="ID", help="Remove all of this run, also if its orchestrator lives.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Remove all of all runs of this user, also of those that are under way.")
    ] = False,
    observe: Annotated[
        bool, typer.Option("--observe", help="End the Prometheus and the Grafana that `run --observe` brought up.")
    ] = False,
) -> None:
    """Remove what runs left in the Docker engine, by label. Without an option, of those whose orchestrator is gone."""
    from orchestrator.containers.cleanup import describe, find_runs, remove
    from orchestrator.containers.engine import connect
    from orchestrator.containers.ownership import Owner

    if run is not None and all_:
        raise ConfigError(f"--run={run}: must be without --all")
    if observe or all_:
        lines = take_down_observers()
        print("\n".join(lines) if lines else "neither Prometheus nor Grafana was brought up by a run")
    if observe and not all_ and run is None:
        return
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
