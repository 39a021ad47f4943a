"""The displays: a live table, plain lines, JSON, and none. Each draws what it is handed, when it is handed it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, TextIO, TypeAlias

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from node.core.units import ns_to_s
from node.host.text_files import shorten
from orchestrator.progress.run_progress import CurvePoint, NodeRow, Pace, RunProgress
from orchestrator.report.schedule_text import held, next_text, now_text
from orchestrator.report.text import format_bytes
from orchestrator.results.files import to_json_values
from orchestrator.results.recorded_schedule import RecordedEntry

_OTHER_LINES: Final = 10
"""Lines of the live display that are not rows of nodes, and one to spare: what does not fit would not be redrawn."""

_LEAST_ROWS: Final = 3

_PLAIN_NOW_LETTERS: Final = 80
"""Letters of a plain line for the entries of the schedule that hold."""

_JSON_NOW_MAX: Final = 20
"""Entries that hold which a line of JSON names; of more than that it has the number."""

_JSON_NODES_MAX: Final = 100
"""Nodes of which a line of JSON tells; of more than that it has the number of the others."""

_PEERS_NAMED: Final = 2
"""Nodes for which one waits that its row names; three where they are all."""

_PLAIN_WARNING_LETTERS: Final = 80
"""Letters of a plain line for what may make the run unfaithful."""

_WARNINGS_MAX: Final = 3
"""Lines of the live display for the same."""

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
        point = progress.point
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
                "evaluated_at_s": None if point is None else ns_to_s(point.time_ns),
                **{f"{name}_{which}": value for name, row in _figures(point).items() for which, value in row.items()},
                **_faults(schedule, progress.time_ns),
                **_nodes(progress.nodes),
                **({"time_dilation": progress.dilation} if progress.dilation is not None else {}),
                **({"warnings": progress.warnings} if progress.warnings else {}),
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
        parts = [position_text(progress)]
        figures = _figures(progress.point)
        if figures:
            parts.append(f"accuracy {figures['accuracy']['mean']:.4f}, loss {figures['loss']['mean']:.4f}")
        parts.append(f"rounds {_rounds(progress)}")
        parts.append(f"{progress.messages_delivered:,} delivered, {format_bytes(progress.bytes_sent)}")
        eta = pace.eta_s(progress)
        if eta is not None and progress.share != 1.0:
            parts.append(f"{_clock(eta)} left")
        if now := now_text(schedule, progress.time_ns, _PLAIN_NOW_LETTERS):
            parts.append(f"now: {now}")
        if progress.warnings:
            parts.append(f"warning: {shorten('; '.join(progress.warnings), _PLAIN_WARNING_LETTERS)}")
        self._write(" | ".join(parts))

    def close(self) -> None:
        pass

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class LiveDisplay:
    """A bar over testbed time, a table of the last figures and one of the nodes, redrawn in place.

    State:
        _live: The picture; None before the first.
        _has_waited: Some node has waited for others, so that the table has a column for that from then on.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._has_waited = False

    def preparing(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    def note(self, text: str) -> None:
        self._console.print(Text(text, style="yellow"))  # above the display, where it stays

    def show(self, progress: RunProgress, pace: Pace, schedule: Entries) -> None:
        lines = _fault_lines(schedule, progress.time_ns, self._console.width) + _warning_lines(progress.warnings)
        self._has_waited |= any(row.waits_for for row in progress.nodes)
        room = max(_LEAST_ROWS, self._console.height - _OTHER_LINES - len(lines))
        nodes = _node_table(progress.nodes, room, has_waited=self._has_waited) if progress.nodes else None
        picture = _picture(progress, pace, lines, nodes)
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


def _picture(progress: RunProgress, pace: Pace, lines: Sequence[Text], nodes: Table | None) -> Group:
    head = Table.grid(padding=(0, 2))
    eta = pace.eta_s(progress)
    left = "done" if progress.share == 1.0 else "" if eta is None else f"{_clock(eta)} left"
    # A run without a known end has no bar to fill; a pulse would need a thread.
    bar = Text("") if progress.share is None else ProgressBar(total=1.0, completed=progress.share, width=40)
    head.add_row(Text(position_text(progress), style="bold"), bar, Text(left, style="cyan"))
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in ("", "mean", "min", "max"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in _figures(progress.point).items():
        table.add_row(name, *(f"{row[which]:.4f}" for which in ("mean", "min", "max")))
    table.add_row("rounds", "", f"{progress.rounds_min:,}", f"{progress.rounds_max:,}")
    dilation = "" if progress.dilation in (None, 1.0) else f" · time dilation {progress.dilation:g}"
    foot = Text(
        f"  {progress.messages_delivered:,} messages delivered ({pace.deliveries_per_s:,.0f}/s) · "
        f"{format_bytes(progress.bytes_sent)} sent · {_clock(progress.wall_s)} on the clock{dilation}",
        style="dim",
    )
    return Group(head, table, *lines, *(() if nodes is None else (nodes,)), foot)


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


def _warning_lines(warnings: Sequence[str]) -> list[Text]:
    """A line for each of the first, and how many more there are."""
    told = [*warnings[:_WARNINGS_MAX]]
    if len(warnings) > len(told):
        told[-1] += f"; and {len(warnings) - len(told):,} more"
    return [Text(f"  warning: {text}", style="yellow", no_wrap=True, overflow="ellipsis") for text in told]


def _most_wanted(nodes: Sequence[NodeRow], room: int) -> Sequence[NodeRow]:
    """All nodes, or where there is no room for them those that failed and the slowest, which are looked for."""
    if len(nodes) <= room:
        return nodes
    return sorted(nodes, key=lambda row: (not row.failed, row.rounds, row.node))[:room]


def _node_table(nodes: Sequence[NodeRow], room: int, *, has_waited: bool) -> Table:
    """A row a node."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    columns = ("node", "state", "rounds", "loss", "up Mbit/s", "down Mbit/s", "queued")
    for column in (*columns, *(("waits for",) if has_waited else ())):
        is_text = column in ("state", "waits for")  # which are cut where the terminal is narrow; figures are not
        width = None if is_text else max(6, len(column))
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True, min_width=width)
    shown = _most_wanted(nodes, room)
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
            *((Text(_peers(row.waits_for), style="cyan"),) if has_waited else ()),
        )
    notes = ["▼ slowed on purpose"] if any(row.straggler for row in shown) else []
    notes += [f"and {len(nodes) - len(shown):,} more"] if len(nodes) > len(shown) else []
    table.caption = Text("; ".join(notes), style="dim") if notes else None
    table.caption_justify = "left"
    return table


def _peers(nodes: Sequence[int]) -> str:
    """Name the first of some nodes: ``3, 5 and 4 more``."""
    named = nodes if len(nodes) <= _PEERS_NAMED + 1 else nodes[:_PEERS_NAMED]
    more = f" and {len(nodes) - len(named):,} more" if len(named) < len(nodes) else ""
    return ", ".join(map(str, named)) + more


def _rate(mbps: float | None) -> str:
    return "" if mbps is None else f"{mbps:.3g}"


def _nodes(nodes: Sequence[NodeRow]) -> dict[str, Any]:
    """The part of a line of JSON about the nodes; no key where nothing is known of them."""
    if not nodes:
        return {}
    told = _most_wanted(nodes, _JSON_NODES_MAX)
    more = {"nodes_left_out": len(nodes) - len(told)} if len(told) < len(nodes) else {}
    return {"nodes": [_node_figures(row) for row in told], **more}


def _node_figures(row: NodeRow) -> dict[str, Any]:
    figures = {name: getattr(row, name) for name in ("node", "state", "rounds", "loss", "up_mbps", "down_mbps")}
    waits = {"waits_for": row.waits_for} if row.waits_for else {}
    return {**figures, "queued": row.queued_messages, **waits}


def _faults(schedule: Entries, now_ns: int) -> dict[str, Any]:
    """The entries of a schedule that hold; no key without a schedule."""
    if not schedule:
        return {}
    holding = [
        {"entry": entry.number, "action": entry.action, "until_s": None if end_ns is None else ns_to_s(end_ns)}
        for entry, end_ns in held(schedule, now_ns)
    ]
    return {"faults": holding[:_JSON_NOW_MAX], "faults_held": len(holding)}


def _figures(point: CurvePoint | None) -> Mapping[str, Mapping[str, float]]:
    """The figures of the last evaluation by name; empty before the first."""
    return {} if point is None else point.figures


def position_text(progress: RunProgress) -> str:
    """Say how far a run is: ``12.0 of 800 s (2 %)``."""
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
