"""Options of a run, and its outcome: what all runtimes share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from node.core.errors import TestbedError
from orchestrator.results.files import first_line_of
from orchestrator.results.schema import EndStatus

ProgressStyle = Literal["auto", "json", "quiet"]


@dataclass(frozen=True)
class RunOptions:
    """Options that the command line adds to an experiment.

    Attributes:
        out: Folder in which the run's folder is made.
        data_root: Where data sets lie; None for the environment's or the default.
        workers: Training processes; 0 trains in the main process.
        progress: How progress is shown.
        command: What to type to run it again.
        input_root: Folder in which files that the experiment names are looked for first; None for no such folder.
        grafana: Address of the Grafana that shows the run; None where there is none that is known.
    """

    out: Path
    data_root: Path | None
    workers: int
    progress: ProgressStyle
    command: str
    input_root: Path | None = None
    grafana: str | None = None


@dataclass(frozen=True)
class RunOutcome:
    """End of a run.

    Attributes:
        path: The run directory.
        status: How.
        summary: The content of summary.json.
        error: Why it failed, stalled or diverged; None if it did none of these.
        fidelity: The content of fidelity.json; None if there is none.
        report_problem: Why the report is missing, or figures in it; None if it is complete. Says nothing about the run.
    """

    path: Path
    status: EndStatus
    summary: dict[str, Any]
    error: str | None
    fidelity: dict[str, Any] | None = None
    report_problem: str | None = None


def report(path: Path) -> str | None:
    """Write a run's report, once its results are safe on the disk. Never raises: a report can be made again.

    Returns:
        Why the report is missing, or figures in it, in one line; None if it is complete.
    """
    problems: list[str] = []
    try:
        # Imported here: matplotlib takes half a second, by which the first line of progress would be late.
        from orchestrator.report.page import write_report
        from orchestrator.results.reader import load_run

        write_report(load_run(path), problems.append)
    except TestbedError as error:
        problems.append(first_line_of(error))
    except Exception as error:  # whatever it is, it must not cost a finished run its outcome
        problems.append(f"{type(error).__name__}: {first_line_of(error)}")
    return problems[0] if problems else None
