"""The displays: a live table, plain lines, JSON, and none. Each draws what it is handed, when it is handed it."""

import json
import math
from collections.abc import Sequence
from typing import Any, Final, Protocol, TextIO, TypeAlias

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from node.core.units import ns_to_s
from orchestrator.progress.run_progress import NodeRow, Pace, RunProgress
from orchestrator.report.schedule_text import held, next_text, now_text
from orchestrator.report.text import format_bytes
from orchestrator.results.files import to_json_values
from orchestrator.results.recorded_schedule import RecordedEntry
from orchestrator.results.schema import Sample

_OTHER_LINES: Final = 10
"""Lines of the live display that are not rows of nodes, and one to spare: what does not fit would not be redrawn."""

_LEAST_ROWS: Final = 3

_PLAIN_NOW_LETTERS: Final = 80
"""Letters of a plain line for the entries of the schedule that hold."""

_JSON_NOW_MAX: Final = 20
"""Entries that hold which a line of JSON names; of more than that it has the number."""

Entries: TypeAlias = Sequence[RecordedEntry]


class ProgressDisplay(Protocol):
    def preparing(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...
    def show(self, progress: RunProgress, pace: "Pace", schedule: Entries) -> None: ...
    def close(self) -> None: ...


class NoDisplay:
    def preparing(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def show(self, progress: RunProgress, pace: Pace, schedule: Entries) -> None:
        pass

    def close(self) -> None:
        pass


class JsonDisplay:
    """One JSON object a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def preparing(self, text: str) -> None:
        self._write({"event": "preparing", "what": text})

    def note(self, text: str) -> None:
        self._write({"event": "note", "text": text})

    def show(self, progress: RunProgress, pace: Pace, schedule: Entries) -> None:
        figures = _figures(progress.sample)
        self._write(
            {
                "event": "progress",
                "time_s": ns_to_s(progress.time_ns),
                "end_s": None if progress.end_ns is None else ns_to_s(progress.end_ns),
                "wall_s": round(progress.wall_s, 3),
                "eta_s": _rounded(pace.eta_s(progress)),
                "rounds_min": progress.rounds_min,
                "rounds_max": progress.rounds_max,
                "delivered": progress.messages_delivered,
                "bytes_sent": progress.bytes_sent,
                "evaluated_at_s": None if progress.sample is None else ns_to_s(progress.sample.time_ns),
                **{f"{name}_{which}": value for name, row in figures.items() for which, value in row.items()},
                **_faults(schedule, progress.time_ns),
                **({"nodes": [_node_figures(row) for row in progress.nodes]} if progress.nodes else {}),
            }
        )

    def close(self) -> None:
        pass

    def _write(self, value: dict[str, Any]) -> None:
        self._stream.write(json.dumps(to_json_values(value), allow_nan=False) + "\n")
        self._stream.flush()


class PlainDisplay:
    """One line of text every few seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def preparing(self, text: str) -> None:
        self._write(text)

    def note(self, text: str) -> None:
        self._write(text)

    def show(self, progress: RunProgress, pace: Pace, schedule: Entries) -> None:
        parts = [_position(progress)]
        figures = _figures(progress.sample)
        if figures:
            parts.append(f"accuracy {figures['accuracy']['mean']:.4f}, loss {figures['loss']['mean']:.4f}")
        parts.append(f"rounds {_rounds(progress)}")
        parts.append(f"{progress.messages_delivered:,} delivered, {format_bytes(progress.bytes_sent)}")
        eta = pace.eta_s(progress)
        if eta is not None and progress.share != 1.0:
            parts.append(f"{_clock(eta)} left")
        if now := now_text(schedule, progress.time_ns, _PLAIN_NOW_LETTERS):
            parts.append(f"now: {now}")
        self._write(" | ".join(parts))

    def close(self) -> None:
        pass

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class LiveDisplay:
    """A bar over testbed time, a table of the last figures and one of the nodes, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    def preparing(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    def note(self, text: str) -> None:
        self._console.print(Text(text, style="yellow"))  # above the display, where it stays

    def show(self, progress: RunProgress, pace: Pace, schedule: Entries) -> None:
        faults = _fault_lines(schedule, progress.time_ns, self._console.width)
        picture = _picture(progress, pace, faults, self._console.height - _OTHER_LINES - len(faults))
        if self._live is None:
            # No refresh thread: the runner's updates are what drives the display.
            self._live = Live(picture, console=self._console, auto_refresh=False)
            self._live.start(refresh=True)
        else:
            self._live.update(picture, refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _picture(progress: RunProgress, pace: Pace, faults: Sequence[Text], room: int) -> Group:
    head = Table.grid(padding=(0, 2))
    eta = pace.eta_s(progress)
    left = "done" if progress.share == 1.0 else "" if eta is None else f"{_clock(eta)} left"
    # A run without a known end has no bar to fill; a pulse would need a thread.
    bar = Text("") if progress.share is None else ProgressBar(total=1.0, completed=progress.share, width=40)
    head.add_row(Text(_position(progress), style="bold"), bar, Text(left, style="cyan"))
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in ("", "mean", "min", "max"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in _figures(progress.sample).items():
        table.add_row(name, *(f"{row[which]:.4f}" for which in ("mean", "min", "max")))
    table.add_row("rounds", "", f"{progress.rounds_min:,}", f"{progress.rounds_max:,}")
    foot = Text(
        f"  {progress.messages_delivered:,} messages delivered ({pace.deliveries_per_s:,.0f}/s) · "
        f"{format_bytes(progress.bytes_sent)} sent · {_clock(progress.wall_s)} on the clock",
        style="dim",
    )
    nodes = [_node_table(progress.nodes, max(_LEAST_ROWS, room))] if progress.nodes else []
    return Group(head, table, *faults, *nodes, foot)


def _fault_lines(schedule: Entries, now_ns: int, width: int) -> list[Text]:
    """Tell in a line what of a schedule holds, and in another one what begins next; no line without a schedule."""
    if not schedule:
        return []
    lines = []
    for name, tell, style in (("now", now_text, "magenta"), ("next", next_text, "dim")):
        text = f"  {name}: "
        told = tell(schedule, now_ns, max(20, width - len(text))) or "–"
        lines.append(Text(text + told, style=style, no_wrap=True, overflow="ellipsis"))
    return lines


def _node_table(nodes: tuple[NodeRow, ...], room: int) -> Table:
    """A row a node. Where there is no room for all, those that failed and the slowest, which are looked for."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for column in ("node", "state", "rounds", "loss", "up Mbit/s", "down Mbit/s", "queued"):
        is_text = column == "state"  # which is cut where the terminal is narrow; figures are not
        width = None if is_text else max(6, len(column))
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True, min_width=width)
    shown = sorted(nodes, key=lambda row: (not row.failed, row.rounds, row.node))[:room] if len(nodes) > room else nodes
    for row in shown:
        loss = "" if row.loss is None else f"{row.loss:.4f}"
        table.add_row(
            Text(f"{'▼ ' if row.straggler else ''}{row.node}"),
            Text(row.state, style="red" if row.failed else ""),
            f"{row.rounds:,}",
            loss,
            _rate(row.up_mbps),
            _rate(row.down_mbps),
            f"{row.queued_messages:,}",
        )
    notes = ["▼ slowed on purpose"] if any(row.straggler for row in shown) else []
    notes += [f"and {len(nodes) - len(shown):,} more"] if len(nodes) > len(shown) else []
    table.caption = Text("; ".join(notes), style="dim") if notes else None
    table.caption_justify = "left"
    return table


def _rate(mbps: float | None) -> str:
    return "" if mbps is None else f"{mbps:.3g}"


def _node_figures(row: NodeRow) -> dict[str, Any]:
    figures = {name: getattr(row, name) for name in ("node", "state", "rounds", "loss", "up_mbps", "down_mbps")}
    return {**figures, "queued": row.queued_messages}


def _faults(schedule: Entries, now_ns: int) -> dict[str, Any]:
    """The entries of a schedule that hold; no key without a schedule."""
    if not schedule:
        return {}
    holding = [
        {"entry": entry.number, "action": entry.action, "until_s": None if end_ns is None else ns_to_s(end_ns)}
        for entry, end_ns in held(schedule, now_ns)
    ]
    return {"faults": holding[:_JSON_NOW_MAX], "faults_held": len(holding)}


def _figures(sample: Sample | None) -> dict[str, dict[str, float]]:
    """Mean, minimum and maximum of the last evaluation's figures by name; empty before the first."""
    if sample is None or not sample.nodes:
        return {}
    tested = [node for node in sample.nodes if node.is_tested]
    columns = {"accuracy": [node.accuracy for node in tested], "loss": [node.loss for node in tested]}
    return {
        name: {"mean": math.fsum(values) / len(values), "min": min(values), "max": max(values)}
        if values and all(map(math.isfinite, values))
        else dict.fromkeys(("mean", "min", "max"), math.nan)
        for name, values in columns.items()
    }


def _position(progress: RunProgress) -> str:
    reached = f"{ns_to_s(progress.time_ns):,.1f}"
    if progress.end_ns is None or progress.share is None:
        return f"{reached} s"
    end_s = ns_to_s(progress.end_ns)
    return f"{reached} of {f'{end_s:,.0f}' if end_s >= 1 else f'{end_s:.3g}'} s ({100 * progress.share:.0f} %)"


def _rounds(progress: RunProgress) -> str:
    low, high = progress.rounds_min, progress.rounds_max
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
