"""The figures and facts of a run as text: tiles, rows of tables. Draws nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.analysis import best_index
from orchestrator.experiment.runtimes import clock_name
from orchestrator.report.table_files import TextTable
from orchestrator.report.text import format_bytes, format_duration, headline_text, metric_name
from orchestrator.results.reader import Run


@dataclass(frozen=True, slots=True)
class Tile:
    """One large figure at the top of the page."""

    label: str
    value: str
    note: str = ""


def tiles(run: Run) -> list[Tile]:
    """The large figures at the top of the page."""
    summary = run.summary or {}
    found: list[Tile] = []
    values, times = run.headline, run.times_s
    best = best_index(values, higher_is_better=run.higher_is_better)
    if best is not None:
        name = metric_name(run.metric)
        found.append(Tile(f"final {name}", headline_text(run.metric, values[-1]), "mean over nodes"))
        found.append(Tile(f"best {name}", headline_text(run.metric, values[best]), f"at {times[best]:,.1f} s"))
    sent = summary.get("bytes_sent", run.bytes_sent[-1] if run.bytes_sent.size else 0)
    found.append(Tile("bytes sent", format_bytes(sent), "all nodes, all classes"))
    reached = summary.get("time_s", times[-1] if times.size else 0.0)
    took = f"took {format_duration(summary['wall_s'])}" if "wall_s" in summary else ""
    found.append(Tile(clock_name(run.facts.runtime), format_duration(reached), took))
    if summary.get("cancelled_share") is not None:
        share = f"{100 * summary['cancelled_share']:.1f} %"
        found.append(Tile("cancelled", share, "of the messages queued"))
    p50 = summary.get("staleness", {}).get("overall", {}).get("p50")
    if p50 is not None:
        p95 = summary["staleness"]["overall"]["p95"]
        rounds = f"{p50:.0f} round{'' if f'{p50:.0f}' == '1' else 's'}"
        found.append(Tile("staleness", rounds, f"median; 95 % below {p95:.0f}"))
    return found


def fact_rows(run: Run) -> list[tuple[str, str]]:
    """Rows of name and text: how the run was made."""
    facts, summary = run.facts, run.summary or {}
    rows = [
        ("algorithm", facts.algorithm),
        ("runtime", facts.runtime),
        ("nodes", f"{facts.nodes:,}" + (f", {len(facts.stragglers)} slowed" if facts.stragglers else "")),
        ("seed", str(facts.seed)),
        ("headline figure", "test accuracy" if facts.metric == "accuracy" else "test RMSE, lower is better"),
    ]
    if facts.num_params:
        rows.append(("parameters", f"{facts.num_params:,}"))
    dilation = (run.fidelity or {}).get("time_dilation")
    if isinstance(dilation, float | int):
        rows.append(("time dilation", f"{dilation:g} real seconds a testbed second"))
    # The runner's own words win over ours where both tell the same thing.
    rows = [row for row in rows if row[0] not in facts.details] + list(facts.details.items())
    if "train_steps" in summary:
        rows.append(("local steps", f"{summary['train_steps']:,}"))
    if summary.get("aggregated_per_round") is not None:
        rows.append(("messages averaged in", f"{summary['aggregated_per_round']:.2f} a round and node"))
    return rows


def target_rows(run: Run) -> list[tuple[str, str, str]]:
    """Rows of target, time, bytes: those reached, and the first that was not, with dashes."""
    summary = run.summary or {}
    times: Mapping[str, float | None] = summary.get(f"time_to_{run.metric}_s", {})
    sent: Mapping[str, float | None] = summary.get(f"bytes_to_{run.metric}", {})
    rows = []
    for key, time in times.items():
        amount = sent.get(key)
        rows.append(
            (
                headline_text(run.metric, float(key)),
                "–" if time is None else f"{time:,.1f} s",
                "–" if amount is None else format_bytes(amount),
            )
        )
        if time is None:
            break
    return rows


def run_table(run: Run) -> TextTable:
    """The figures of a run as one table: the tiles, and times and bytes to the targets that it reached."""
    rows = [(tile.label, tile.value, tile.note) for tile in tiles(run)]
    for target, time, sent in target_rows(run):
        rows.append((f"time to {target}", time, "first crossing by the mean over nodes"))
        rows.append((f"bytes to {target}", sent, "all nodes"))
    return TextTable(f"figures of {run.path.resolve().name}", ("figure", "value", "note"), rows, remarks=1)
