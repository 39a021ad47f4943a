"""``fragmesh compare`` and ``report``: what runs have given."""

import dataclasses
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from node.core.errors import ConfigError, RunnerError, TestbedError
from orchestrator.cli.arguments import AsJson, RunPath
from orchestrator.cli.printing import out, print_groups, print_json

LEAVE_OUT = ("at ", "times fewer", "bytes", "gain", "seeds", "averaged", "worst")
"""Beginnings of the columns that a narrow terminal does without, in this order; ``--json`` and a page have them all."""


Figures = Annotated[
    Path | None, typer.Option("--figures", metavar="DIR", help="Also write each figure into a folder, as SVG.")
]
TableFile = Annotated[
    Path | None, typer.Option("--table", metavar="FILE", help="Also write the figures as a table (.tex or .csv).")
]


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; the first is the baseline.")],
    target: Annotated[
        float | None,
        typer.Option(help="Accuracy (or RMSE) to hold. [default: as the experiment states, else from the baseline]"),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also draw the runs (.html, .png or .svg).")
    ] = None,
    figures: Figures = None,
    table: TableFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: time and bytes until they hold a target, and ratios; runs that differ in the seed are one group."""
    from orchestrator.comparison import compare as compare_measured
    from orchestrator.comparison import without_repeats
    from orchestrator.fidelity import is_unfaithful
    from orchestrator.report.comparison_text import check_comparable, comparison_tables, notes
    from orchestrator.report.question import comparison_question
    from orchestrator.report.table_files import write_tables
    from orchestrator.results.reader import load_run

    # Step 1: refuse what cannot be, before large files are read.
    if target is not None and not isfinite(target):
        raise ConfigError(f"--target={target}: must be a finite number")
    if figure is not None:
        _check_figure(figure)
    _check_places(figures, table)
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
        content["question"] = comparison_question(loaded, comparison)
        print_json(content | {"notes": notes(loaded, comparison, repeats), "unfaithful": unfaithful})
    else:
        _print_comparison(loaded, comparison, repeats, figure)
    if table is not None:
        write_tables(table, comparison_tables(loaded, comparison))
    _draw_comparison(loaded, comparison, repeats, figure, figures)
    for place in (table, figure, figures):
        if place is not None and not as_json:
            print(place)


def _print_comparison(runs: "list[Any]", comparison: "Any", repeats: "list[Any]", figure: Path | None) -> None:
    """Print the tables and the notes; ``figure`` is the file in which the comparison is drawn as well."""
    from orchestrator.comparison import CUT_SHORT, is_smoothed
    from orchestrator.report.comparison_text import comparison_table, group_labels, notes, ratios_table, target_text
    from orchestrator.report.question import comparison_question

    out.print(escape(comparison_question(runs, comparison)))
    labels = group_labels(runs, comparison)
    title = f"{target_text(comparison)}; baseline: {labels[0]}"
    is_cut_short = any(status in CUT_SHORT for group in comparison.groups for status in group.statuses)
    # Of a run that was cut short the value at a common instant is all that there is.
    leave_out = [*LEAVE_OUT[1:], LEAVE_OUT[0]] if is_cut_short else LEAVE_OUT
    print_groups(title, *comparison_table(comparison, labels), leave_out, figure)
    if any(is_smoothed(run.times_s) for run in runs):
        out.print("end: the mean of a run's last evaluations, which it holds; fragmesh run prints the very last one")
    if len(labels) > 1 and comparison.table:
        header, rows = ratios_table(comparison, labels)
        # Where there is no room, every other target goes first, and the easiest ones then.
        print_groups("", header, rows, [*header[2:-1:2], *header[1:-2:2]], figure)
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


def _check_places(figures: Path | None, table: Path | None) -> None:
    """Refuse places where no figures, or no table, can be written."""
    from orchestrator.report.table_files import check_table_path

    if figures is not None and not figures.is_dir() and figures.exists():
        raise ConfigError(f"--figures={figures}: is not a directory")
    if table is not None:
        check_table_path("--table", table)


def _draw_comparison(
    runs: "list[Any]", comparison: "Any", repeats: "list[Any]", path: Path | None, figures: Path | None
) -> None:
    """Draw a page or a picture, and each figure into a folder, as far as they are asked for."""
    if path is None and figures is None:
        return
    try:
        from orchestrator.report.comparison_figures import comparison_plots
        from orchestrator.report.figure_files import write_figures
        from orchestrator.report.overlay import write_comparison

        if path is not None:
            write_comparison(runs, comparison, path, repeats)
        if figures is not None:
            write_figures(comparison_plots(runs, comparison), figures)
    except TestbedError:
        raise
    except Exception as error:  # a library that draws, its fonts or backends: nothing of it is wrong with the runs
        place = figures if path is None else path
        raise RunnerError(f"{place}: cannot be drawn: {type(error).__name__}: {error}") from error


def report(
    run: RunPath,
    figures: Figures = None,
    table: TableFile = None,
    crate: Annotated[
        bool, typer.Option("--crate", help="Also describe the directory for others, as an RO-Crate.")
    ] = False,
    authors: Annotated[
        list[str] | None,
        typer.Option("--author", metavar="NAME", help="With --crate: who made it, Name or Name <ORCID address>."),
    ] = None,
    license_text: Annotated[
        str | None,
        typer.Option("--license", metavar="NAME", help="With --crate: SPDX identifier, address or words."),
    ] = None,
) -> None:
    """Write a run's report.html anew and print where it is."""
    from orchestrator.report.crate import Person, write_crate
    from orchestrator.report.page import write_report
    from orchestrator.report.run_text import run_table
    from orchestrator.report.table_files import write_tables
    from orchestrator.results.reader import load_run

    # Step 1: refuse what cannot be, before anything is drawn.
    _check_places(figures, table)
    for option, value in (("--author", authors), ("--license", license_text)):
        if value is not None and not crate:
            raise ConfigError(f"{option}: must come with --crate")
    if license_text is not None and not license_text.strip():
        raise ConfigError(f"--license={license_text}: must be an SPDX identifier, an address or words")
    people = [Person.parse(text) for text in authors or ()]
    loaded = load_run(run)
    # Step 2: draw. The description comes last: it has the digest of every other file.
    problems: list[str] = []
    print(write_report(loaded, problems.append, figures))
    if table is not None:
        write_tables(table, [run_table(loaded)])
    described = write_crate(loaded, people, license_text) if crate else None
    for place in (table, figures, described):
        if place is not None:
            print(place)
    for problem in problems:
        raise RunnerError(f"figures are missing: {problem}")
