"""The schedule as lanes over a time axis: bands and marks, bounded however many times there are; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from node.core.types import Float64Vector
from node.core.units import NS_PER_S
from node.host.text_files import shorten
from orchestrator.results.recorded_schedule import RecordedEntry

LANES_MAX: Final = 5
"""Entries with a lane each; where there are more, a lane is an action."""

BANDS_MAX: Final = 40
"""Bands or marks of a lane that are drawn each for itself."""

CELLS: Final = 120
"""Cells of the axis into which the bands or marks of a lane fall where there are more."""

WIDTH_MIN: Final = 1 / 400
"""Share of the axis that a band is wide at least, so that it can be seen."""

LABEL_LETTERS: Final = 38
"""Letters of a lane's name."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One entry over the time of a run, or all entries of one action.

    Attributes:
        label: Its name, with the number of times where there are several.
        bands: (begin, end) in seconds of what is drawn as held, in order, apart from each other.
        marks: Seconds of the instants that are drawn.
        is_coarse: Some are drawn together.
    """

    label: str
    bands: tuple[tuple[float, float], ...]
    marks: tuple[float, ...]
    is_coarse: bool


def lanes(schedule: Sequence[RecordedEntry], end_s: float) -> list[Lane]:
    """Return the lanes of a schedule from 0 to a time, without those in which nothing happens until then."""
    if end_s <= 0:
        return []
    groups: dict[str, list[RecordedEntry]] = {}
    for entry in schedule:
        groups.setdefault(str(entry.number) if len(schedule) <= LANES_MAX else entry.action, []).append(entry)
    found = (_lane(entries, end_s) for entries in groups.values())
    return [lane for lane in found if lane.bands or lane.marks]


def _lane(entries: Sequence[RecordedEntry], end_s: float) -> Lane:
    spans, marks, times = _drawn(entries, end_s)
    bands, bands_coarse = _bands(spans, end_s)
    instants, marks_coarse = _marks(marks, end_s)
    again = f" ({times:,} times)" if times > len(entries) else ""
    title = shorten(entries[0].title, LABEL_LETTERS - len(again))
    if len(entries) > 1:
        title = f"{entries[0].action}, {len(entries):,} entries"
    return Lane(title + again, bands, instants, bands_coarse or marks_coarse)


def _drawn(entries: Sequence[RecordedEntry], end_s: float) -> tuple[Float64Vector, Float64Vector, int]:
    """The spans, shape (n, 2), and the instants of entries, in seconds, that begin before a time; and their number."""
    spans, marks = [np.empty((0, 2))], [np.empty(0)]
    for entry in entries:
        times = entry.times
        count = times.begun_at(round(end_s * NS_PER_S))
        begins = (times.begin_ns + np.arange(count, dtype=np.int64) * times.every_ns) / NS_PER_S
        if times.are_instants:
            marks.append(begins)
            continue
        ends = np.full(count, end_s) if times.duration_ns is None else begins + times.duration_ns / NS_PER_S
        spans.append(np.column_stack([begins, np.minimum(ends, end_s)]))
    held, instants = np.concatenate(spans), np.concatenate(marks)
    held = held[held[:, 0] < end_s]
    return held[np.argsort(held[:, 0], kind="stable")], np.sort(instants), len(held) + len(instants)


def _bands(spans: Float64Vector, end_s: float) -> tuple[tuple[tuple[float, float], ...], bool]:
    """Spans in order of their begins, those joined that touch; in cells of the axis where there are many."""
    joined = _joined(spans)
    if len(joined) <= BANDS_MAX:
        least = WIDTH_MIN * end_s
        seen = ((min(float(begin), end_s - least), float(end)) for begin, end in joined)
        return tuple((begin, max(end, begin + least)) for begin, end in seen), False
    width = end_s / CELLS
    cells = np.column_stack([np.floor(joined[:, 0] / width), np.ceil(joined[:, 1] / width)])
    return tuple((float(begin) * width, float(end) * width) for begin, end in _joined(cells)), True


def _joined(spans: Float64Vector) -> Float64Vector:
    if not len(spans):
        return spans
    ends = np.maximum.accumulate(spans[:, 1])
    is_first = np.concatenate([[True], spans[1:, 0] > ends[:-1]])
    firsts = np.flatnonzero(is_first)
    return np.column_stack([spans[firsts, 0], ends[np.append(firsts[1:] - 1, len(spans) - 1)]])


def _marks(instants: Float64Vector, end_s: float) -> tuple[tuple[float, ...], bool]:
    if len(instants) <= BANDS_MAX:
        return tuple(instants.tolist()), False
    width = end_s / CELLS
    return tuple(((np.unique(np.floor(instants / width)) + 0.5) * width).clip(0.0, end_s).tolist()), True
