"""The schedule as a timeline of text: a row for each entry, with a bar over the time of the run; pure."""

from collections import Counter
from collections.abc import Sequence
from math import ceil
from typing import Final

from node.core.units import ns_to_s
from node.host.text_files import shorten
from orchestrator.experiment.schedule.config import (
    EFFECTS,
    DegradeEntry,
    FileOfNodesEntry,
    LinkEntry,
    SlowCpuEntry,
    TraceEntry,
)
from orchestrator.experiment.schedule.planned import PlannedEntry
from orchestrator.experiment.schedule.selectors import in_short

_WORDS_MAX: Final = 30
"""Letters of an entry's words: what it is over, and what it does."""

_BAR_MIN: Final = 20

_FORMS: Final = {
    "bandwidth_factor": "x{:g}",
    "bandwidth_mbps": "{:g} Mbit/s",
    "latency_factor": "latency x{:g}",
    "latency_ms": "+{:g} ms",
    "jitter_ms": "jitter {:g} ms",
    "loss_percent": "loss {:g} %",
}


def describe_schedule(entries: Sequence[PlannedEntry]) -> str:
    """Say how many entries there are of each action."""
    if not entries:
        return "none"
    counts = Counter(each.entry.action for each in entries)
    kinds = ", ".join(f"{count} {action}" for action, count in counts.items())
    return f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}: {kinds}"


def timeline(entries: Sequence[PlannedEntry], end_ns: int | None, width: int) -> list[str]:
    """Draw a schedule in lines of at most ``width`` letters, but no narrower than its words and a short bar.

    ``|`` is where an entry begins, ``=`` where it holds, ``>`` at the end of one that holds until the run ends.

    Args:
        entries: As planned.
        end_ns: When the run ends at the latest; None lets the last time that is named be the end of the line.
        width: Letters of a line.
    """
    words = [shorten(f"{targets(each)} {effect(each)}".strip(), _WORDS_MAX) for each in entries]
    number_width = len(str(len(entries) - 1))
    action_width = max(len(each.entry.action) for each in entries)
    words_width = max(map(len, words))
    before = number_width + action_width + words_width + 3
    cells = max(_BAR_MIN, width - before)
    total_ns = _last_ns(entries) if end_ns is None else end_ns
    rows = [
        f"{each.number:>{number_width}} {each.entry.action:<{action_width}} {word:<{words_width}}"
        f" {_bar(each, total_ns, cells)}".rstrip()
        for each, word in zip(entries, words, strict=True)
    ]
    return [" " * before + _axis(total_ns, cells, is_open=end_ns is None), *rows]


def targets(each: PlannedEntry) -> str:
    """Name an entry's nodes, groups or pairs in short."""
    if each.groups:
        return " / ".join(in_short(nodes) for nodes in each.groups)
    if each.nodes:
        side = each.entry.direction if isinstance(each.entry, LinkEntry) else "both"
        return in_short(each.nodes) + ("" if side == "both" else f" {side}")
    assert isinstance(each.entry, LinkEntry), "an entry names nodes, groups or pairs"
    arrow = "<>" if each.entry.both_ways else ">"
    return ",".join(f"{source}{arrow}{destination}" for source, destination in each.entry.pairs or ())


def effect(each: PlannedEntry) -> str:
    """Say in short what an entry does; empty where the action says it."""
    match each.entry:
        case DegradeEntry() as entry:
            given = [(name, getattr(entry, name)) for name in EFFECTS]
            return " ".join(_FORMS[name].format(value) for name, value in given if value is not None)
        case TraceEntry(file=file) | FileOfNodesEntry(file=file):
            return file
        case SlowCpuEntry(factor=factor):
            return f"x{factor:g}"
        case _:
            return ""


def _last_ns(entries: Sequence[PlannedEntry]) -> int:
    instants = [0]
    for each in entries:
        times = each.times
        instants.append(times.begin_ns + (times.count - 1) * times.every_ns + (times.duration_ns or 0))
    return max(instants) * 5 // 4 or 1_000_000_000


def _bar(each: PlannedEntry, total_ns: int, cells: int) -> str:
    bar = [" "] * cells
    begins: list[int] = []
    for begin_ns, end_ns in each.times:
        first = min(begin_ns * cells // total_ns, cells - 1)
        after = cells if end_ns is None else min(cells, max(first + 1, ceil(end_ns * cells / total_ns)))
        bar[first:after] = "=" * (after - first)
        if end_ns is None:
            bar[-1] = ">"
        begins.append(first)
    for first in begins:
        bar[first] = "|"
    return "".join(bar)


def _axis(total_ns: int, cells: int, *, is_open: bool) -> str:
    """Labels of the begin, the middle and the end of the line."""
    begin, middle, end = "0", f"{ns_to_s(total_ns) / 2:g}", f"{ns_to_s(total_ns):g} s" + "..." * is_open
    half = cells // 2
    if half + len(middle) + 1 > cells - len(end):
        middle = ""
    return f"{begin}{middle:>{half + len(middle) - 1}}{end:>{cells - half - len(middle)}}"
