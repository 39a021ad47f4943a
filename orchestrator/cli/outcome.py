"""The outcome of a run as commands tell it, and their exit code."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.exit_codes import EXIT_OF_STATUS
from orchestrator.cli.guard import print_error
from orchestrator.cli.printing import print_json, print_rows
from orchestrator.host.streams import let_lead_nowhere

if TYPE_CHECKING:
    from orchestrator.runs.options import RunOutcome


def tell_outcome(outcome: "RunOutcome", *, as_json: bool) -> int:
    """Print how a run ended, and return the exit code that says the same."""
    from orchestrator.fidelity import unfaithful_reasons
    from orchestrator.results.files import first_line_of

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
    return exit_code_of(outcome.status, outcome.fidelity)


def exit_code_of(status: str, fidelity: dict[str, Any] | None) -> int:
    """The exit code of a run that ended so."""
    from orchestrator.fidelity import exit_code

    return exit_code(fidelity) if status == "done" else EXIT_OF_STATUS[status]


def print_outcome(summary: dict[str, Any], path: Path) -> None:
    """Print the summary of a run as a table."""
    from orchestrator.report.text import budget_text
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
        **({"time spent": budget_text(summary["time_budget"])} if "time_budget" in summary else {}),
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
