"""The schedule in words: which faults hold at a time, when entries hold, and how late they were. Strings only."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Final

from node.core.units import NS_PER_MS, NS_PER_S
from node.host.text_files import shorten
from orchestrator.results.fault_instants import FaultInstant
from orchestrator.results.reader import Run
from orchestrator.results.recorded_schedule import RecordedEntry

TITLE_LETTERS_MAX: Final = 30
"""Letters of an entry's name where there is little room."""

INSTANTS_NAMED: Final = 4
"""Instants of an entry that are told one by one."""


def seconds(time_ns: int) -> str:
    """A time in seconds, as short as it can be told."""
    return f"{time_ns / NS_PER_S:,.9g}"


def short_title(entry: RecordedEntry) -> str:
    """Name an entry where there is little room."""
    return shorten(entry.title, TITLE_LETTERS_MAX)


# -- a time ----------------------------------------------------------------------------------------------------


def held(schedule: Sequence[RecordedEntry], now_ns: int) -> Iterator[tuple[RecordedEntry, int | None]]:
    """Yield the entries that hold at a time, each with its end; None where it holds to the end of the run."""
    for entry in schedule:
        times = entry.times.holding(now_ns)
        if times is not None:
            yield entry, times[1]


def now_text(schedule: Sequence[RecordedEntry], now_ns: int, letters_max: int) -> str:
    """List what holds at a time in at most so many letters, as far as one entry fits; empty where nothing does."""
    holding = list(held(schedule, now_ns))
    phrases = (
        f"{short_title(entry)} {'to the end' if end_ns is None else f'until {seconds(end_ns)} s'}"
        for entry, end_ns in holding
    )
    return _joined(phrases, len(holding), letters_max)


def next_text(schedule: Sequence[RecordedEntry], now_ns: int, letters_max: int) -> str:
    """List what begins next after a time, in at most so many letters; empty where nothing does."""
    begins = [(begin_ns, entry) for entry in schedule if (begin_ns := entry.times.next_ns(now_ns)) is not None]
    if not begins:
        return ""
    first_ns = min(begin_ns for begin_ns, _ in begins)
    at = f"at {seconds(first_ns)} s "
    first = [entry for begin_ns, entry in begins if begin_ns == first_ns]
    return at + _joined(map(short_title, first), len(first), letters_max - len(at))


def _joined(phrases: Iterator[str], count: int, letters_max: int) -> str:
    """Join as many phrases as fit, of so many, and say how many more there are."""
    text = next(phrases, "")
    for index, phrase in enumerate(phrases, start=1):
        left = count - index
        longer, more = f"{text}; {phrase}", f"; and {left - 1} more" if left > 1 else ""
        if len(longer) + len(more) > letters_max:
            return shorten(f"{text}; and {left} more", letters_max)
        text = longer
    return shorten(text, letters_max)


# -- an entry --------------------------------------------------------------------------------------------------


def when_text(entry: RecordedEntry) -> str:
    """Say when an entry holds, as planned."""
    times = entry.times
    begin = seconds(times.begin_ns)
    if times.count > 1:
        last = seconds(times.begin_ns + (times.count - 1) * times.every_ns)
        each = "" if times.are_instants else f"{seconds(times.duration_ns or 0)} s long, "
        return f"{times.count:,} times, {each}every {seconds(times.every_ns)} s from {begin} s to {last} s"
    if times.duration_ns is None:
        return f"{begin} s to the end"
    return f"at {begin} s" if times.are_instants else f"{begin} s to {seconds(times.begin_ns + times.duration_ns)} s"


def happened_text(instants: Sequence[FaultInstant]) -> str:
    """Say when the begins and ends of an entry happened; empty where none was recorded."""
    if not instants:
        return ""
    late_ms = [late_ns / NS_PER_MS for one in instants if (late_ns := one.late_ns) is not None]
    never = len(instants) - len(late_ms)
    if not late_ms:
        return f"never, of {len(instants):,} instants" if len(instants) > 1 else "never"
    missing = f"; {never:,} never" if never else ""
    actual = [one.actual_ns for one in instants if one.actual_ns is not None]
    if not any(late_ms):
        return (f"as planned, {len(late_ms):,} instants" if len(late_ms) > 1 else "as planned") + missing
    if len(actual) <= INSTANTS_NAMED:
        return ", ".join(f"{time_ns / NS_PER_S:,.3f} s" for time_ns in sorted(actual)) + missing
    late = f"{median(late_ms):.3g} ms late at the median, {max(late_ms):.3g} ms at most"
    return f"{len(late_ms):,} instants, {late}{missing}"


# -- several runs ----------------------------------------------------------------------------------------------


def shared_schedule(runs: Sequence[Run]) -> tuple[RecordedEntry, ...] | None:
    """Return the schedule that several runs have in common; None if they differ.

    Nodes that were drawn differ from seed to seed: of them only the number has to be the same.
    """
    schedules = [run.facts.schedule for run in runs]
    written = [run.experiment["schedule"] for run in runs if run.experiment and "schedule" in run.experiment]
    first = schedules[0]
    if any(one != written[0] for one in written) or any(len(other) != len(first) for other in schedules):
        return None
    shared: list[RecordedEntry] = []
    for one, *others in zip(*schedules, strict=True):
        if any(replace(other, targets=one.targets) != one for other in others):
            return None
        if any(other.targets != one.targets for other in others):
            one = replace(one, targets=f"{one.nodes:,} {'node' if one.nodes == 1 else 'nodes'}, drawn")
        shared.append(one)
    return tuple(shared)


def different_schedules(runs: Sequence[Run]) -> str:
    """Say that runs have different schedules, and how they differ; empty if they do not."""
    if shared_schedule(runs) is not None:
        return ""
    counted = dict.fromkeys(in_counts(run.facts.schedule) for run in runs)
    how = f" ({'; '.join(counted)})" if len(counted) > 1 else ""
    return f"the runs have different schedules{how}: figures show none of them"


def in_counts(schedule: Sequence[RecordedEntry]) -> str:
    """Count the entries of a schedule by action: ``2 crash, 1 partition``; ``none`` where there are none."""
    counts = Counter(entry.action for entry in schedule)
    return ", ".join(f"{count} {action}" for action, count in counts.items()) or "none"
