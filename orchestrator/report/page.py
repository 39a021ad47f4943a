"""The page of one run. It is made whatever fails to be drawn: its tables need no figure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.fidelity import is_unfaithful, unfaithful_reasons
from orchestrator.report.dashboard import recorded_link
from orchestrator.report.figure_files import write_figures
from orchestrator.report.question import run_question
from orchestrator.report.run_text import fact_rows, target_rows, tiles
from orchestrator.report.schedule_text import happened_text, when_text
from orchestrator.report.templates import template
from orchestrator.report.text import human, metric_name
from orchestrator.results.fault_instants import FaultInstant
from orchestrator.results.files import first_line_of, write_file
from orchestrator.results.reader import Run
from orchestrator.yaml_text import dump_yaml

if TYPE_CHECKING:
    from orchestrator.report.drawing import Plot  # brings matplotlib along


@dataclass(frozen=True, slots=True)
class Section:
    """A headed group of figures."""

    title: str
    plots: "tuple[Plot, ...]"


CHECKS_SHOWN: Final = 12
"""Checks that passed beyond so many are folded away: a network of regions has hundreds."""


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One line of the table of checks, as text."""

    name: str
    requested: str
    achieved: str
    tolerance: str
    ok: bool
    note: str


ENTRIES_SHOWN: Final = 12
"""Entries of the schedule beyond so many are folded away."""

ENTRIES_MAX: Final = 200
"""Entries of the schedule in the page; a file may have thousands."""


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One line of the table of the schedule, as text."""

    number: int
    action: str
    targets: str
    effect: str
    planned: str
    happened: str


def write_report(run: Run, tell: Callable[[str], None] | None = None, figures: Path | None = None) -> Path:
    """Write ``report.html`` into the run's directory.

    Args:
        run: The run.
        tell: Told, in one line, why figures are missing in the report; never called if all were drawn.
        figures: A folder in which each figure is written as well.

    Raises:
        RunnerError: It could not be written.
    """
    path = run.path / "report.html"
    sections, problems = draw_sections(run)
    # A name that is no valid text, for example of a folder, must not cost the page.
    write_file(path, render_page(run, sections, problems).encode(errors="replace"))
    if figures is not None:
        write_figures([plot for section in sections for plot in section.plots], figures)
    if problems and tell is not None:
        more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
        tell(f"{problems[0]}{more}")
    return path


def render_report(run: Run) -> str:
    """The report of a run as one self-contained HTML page."""
    return render_page(run, *draw_sections(run))


def draw_sections(run: Run) -> tuple[list[Section], list[str]]:
    """Draw all figures of a run.

    Returns:
        The figures, and a line on each that could not be drawn. Anything may be wrong with a library that draws, with
        its fonts or its backends; nothing of it is wrong with the run.
    """
    try:
        from orchestrator.report import drawing, figures
    except Exception as error:  # it is not installed, or broken
        return [], [f"no figures: {_in_words(error)}"]
    sections, problems = [], []
    for title, functions in (
        ("Learning", figures.LEARNING_FIGURES),
        ("Nodes", figures.NODES_FIGURES),
        ("Messages", figures.MESSAGES_FIGURES),
        ("Links", figures.LINKS_FIGURES),
        ("Data", figures.DATA_FIGURES),
    ):
        plots: list[Plot] = []
        for draw in functions:
            try:
                with drawing.own_settings():
                    plot = draw(run)
            except Exception as error:
                name = getattr(draw, "__name__", str(draw)).strip("_").replace("_", " ")
                problems.append(f"{title}, {name}: {_in_words(error)}")
                continue
            if plot is not None:
                plots.append(plot)
        sections.append(Section(title, tuple(plots)))
    return sections, problems


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line_of(error)}"


def render_page(run: Run, sections: list[Section], problems: list[str]) -> str:
    """The page of a run.

    Args:
        run: The run.
        sections: Its figures.
        problems: A line on each figure that could not be drawn.
    """
    return template("report.html.j2").render(
        run=run,
        question=run_question(run),
        tiles=tiles(run),
        facts=fact_rows(run),
        targets=target_rows(run),
        entries=_entries(run),
        entries_shown=ENTRIES_SHOWN,
        entries_left_out=max(0, len(run.facts.schedule) - ENTRIES_MAX),
        metric=metric_name(run.metric),
        sections=[section for section in sections if section.plots],
        problems=problems,
        fidelity=run.fidelity,
        unfaithful=is_unfaithful(run.fidelity),
        allowed=bool((run.fidelity or {}).get("allowed")),
        reasons=unfaithful_reasons(run.fidelity),
        died=_died(run),
        checks=_checks(run),
        checks_shown=CHECKS_SHOWN,
        unjudged=_unjudged(run),
        dashboard=recorded_link(run.environment, run.path.resolve().name),
        environment=run.environment,
        experiment=None if run.experiment is None else dump_yaml(run.experiment),
    )


def _entries(run: Run) -> list[EntryRow]:
    """Rows of the schedule's entries, the first :data:`ENTRIES_MAX` of them."""
    instants: dict[int, list[FaultInstant]] = {}
    for instant in run.faults or ():
        instants.setdefault(instant.entry, []).append(instant)
    return [
        EntryRow(
            number=entry.number,
            action=entry.action,
            targets=entry.targets,
            effect=entry.effect,
            planned=when_text(entry),
            happened=happened_text(instants.get(entry.number, ())),
        )
        for entry in run.facts.schedule[:ENTRIES_MAX]
    ]


def _checks(run: Run) -> list[CheckRow]:
    """Return the checks of the fidelity record, failures first; empty where it only states something."""
    rows = (run.fidelity or {}).get("checks")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return []

    def figure(row: Mapping[str, Any], which: str) -> str:
        value, unit = row.get(which), row.get("unit", "")
        return "not measured" if value is None else f"{human(value)} {unit}"

    checks = [
        CheckRow(
            name=str(row.get("name", "")),
            requested=figure(row, "requested"),
            achieved=figure(row, "achieved"),
            tolerance=str(row.get("tolerance", "")),
            ok=bool(row.get("ok")),
            note=str(row.get("note", "")),
        )
        for row in rows
    ]
    return sorted(checks, key=lambda check: check.ok)


def _died(run: Run) -> str:
    """The nodes that died and how, in words; empty if none did."""
    died = (run.fidelity or {}).get("died")
    if not isinstance(died, dict):
        return ""
    return "; ".join(f"node {node} {how}" for node, how in died.items())


def _unjudged(run: Run) -> dict[str, Any]:
    """Return the figures of the fidelity record besides its checks."""
    fidelity = run.fidelity or {}
    figures = fidelity.get("figures")
    told: dict[str, Any] = {name: fidelity[name] for name in ("links", "time_dilation") if name in fidelity}
    return told | (figures if isinstance(figures, dict) else {})
