"""Traces of links as files: text in, rows out; pure.

Two formats are read. A CSV file names its columns in its first line. A packet-delivery trace, as Mahimahi's link
emulator takes it (ravinet/mahimahi, ``src/frontend/link_queue.cc``), has a line for each packet that the link can
deliver: the millisecond of that opportunity, in an order that never falls. An opportunity is worth
:data:`OPPORTUNITY_BYTES`, and after the last one the trace begins again, so that its millisecond is the period.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Final, NamedTuple

from node.core.bounds import MBPS_MAX, MBPS_MIN, MS_MAX, TIME_S_MAX, TRACE_ROWS_MAX
from node.core.errors import ConfigError
from node.core.units import s_to_ns
from node.host.text_files import parse_number, shorten

OPPORTUNITY_BYTES: Final = 1_504
"""Bytes that one opportunity delivers: the largest packet of Mahimahi's links."""

_LAST_MS: Final = int(1e3 * TIME_S_MAX)


class TraceRow(NamedTuple):
    """State of a link from a time of the trace on; None where the trace does not say.

    Attributes:
        time_s: Since the trace began, >= 0.
        bandwidth_mbps: 10^6 bits a second, >= 0.
        latency_ms: >= 0.
        loss_percent: In [0, 100).
    """

    time_s: float
    bandwidth_mbps: float | None = None
    latency_ms: float | None = None
    loss_percent: float | None = None


def read_bandwidths(text: str, *, place: str) -> list[tuple[float, float]]:
    """Read a trace of bandwidths alone: a header ``time_s,bandwidth_mbps`` and rows of increasing times >= 0.

    Raises:
        ConfigError: The message names file and line.
    """
    header, *lines = text.split("\n")
    if _cells(header) != ["time_s", "bandwidth_mbps"]:
        raise ConfigError(f"{place}:1: header={shorten(header)}: must be time_s,bandwidth_mbps")
    return [(row[0], row[1]) for row in _rows(lines, ["time_s", "bandwidth_mbps"], place)]


def read_csv(text: str, *, place: str) -> list[TraceRow]:
    """Read a trace whose first line names its columns: time_s, and one or more of those of :class:`TraceRow`.

    Raises:
        ConfigError: The message names file and line.
    """
    header, *lines = text.split("\n")
    columns = _cells(header)
    known = TraceRow._fields[1:]
    if columns[0] != "time_s" or not columns[1:] or not set(columns[1:]) <= set(known):
        raise ConfigError(f"{place}:1: header={shorten(header)}: must be time_s and one or more of {', '.join(known)}")
    if len(set(columns)) < len(columns):
        raise ConfigError(f"{place}:1: header={shorten(header)}: must name a column once")
    return [TraceRow(**dict(zip(columns, row, strict=True))) for row in _rows(lines, columns, place)]


def read_mahimahi(text: str, interval_ms: int, *, place: str) -> list[TraceRow]:
    """Read a packet-delivery trace as the mean bandwidth of each interval; the last row's time is the period.

    An opportunity belongs to the interval that ends with it, so that a period delivers as many bytes as the file has
    opportunities. The last interval is as long as the period leaves.

    Args:
        text: The file.
        interval_ms: Length of an interval, >= 1.
        place: Where the experiment names the file.

    Raises:
        ConfigError: The message names file and line.
    """
    instants = _opportunities(text, place)
    period_ms = instants[-1]
    count = -(-period_ms // interval_ms)
    if count >= TRACE_ROWS_MAX:
        raise ConfigError(
            f"{place}: lasts {period_ms:,} ms, which are {count:,} intervals of {interval_ms} ms: must be below"
            f" {TRACE_ROWS_MAX:,}"
        )
    packets = [0] * count
    for instant_ms in instants:
        packets[max(0, instant_ms - 1) // interval_ms] += 1
    rows = []
    for index, number in enumerate(packets):
        begin_ms = index * interval_ms
        length_ms = min(interval_ms, period_ms - begin_ms)
        rows.append(TraceRow(begin_ms / 1e3, number * OPPORTUNITY_BYTES * 8e-3 / length_ms))
    return [*rows, TraceRow(period_ms / 1e3, rows[0].bandwidth_mbps)]


def _opportunities(text: str, place: str) -> list[int]:
    """The milliseconds of a packet-delivery trace, at least one and the last one above 0."""
    lines = text.removesuffix("\n").split("\n")
    instants: list[int] = []
    before = 0
    for number, line in enumerate(lines, start=1):
        word = line.strip(" \t")
        if not (word.isascii() and word.isdigit()):
            raise ConfigError(f"{place}:{number}: line={shorten(line)}: must be a whole number of milliseconds")
        if len(word) > len(str(_LAST_MS)) or (instant_ms := int(word)) > _LAST_MS:
            raise ConfigError(f"{place}:{number}: line={shorten(line)}: must be at most {_LAST_MS} ms")
        if instant_ms < before:
            raise ConfigError(f"{place}:{number}: line={shorten(line)}: must be at least the line before, {before}")
        instants.append(instant_ms)
        before = instant_ms
    if not before:
        raise ConfigError(f"{place}:{len(lines)}: line=0: must be above 0, as the last line is the period")
    return instants


def _rows(lines: Sequence[str], columns: Sequence[str], place: str) -> list[list[float]]:
    if len(lines) > TRACE_ROWS_MAX + 1:  # one may be the end of the last line
        raise ConfigError(f"{place}: must have at most {TRACE_ROWS_MAX:,} rows")
    words = f"must be {_NUMBERS.get(len(columns), len(columns))} numbers"
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        where = f"{place}:{number}"
        cells = line.split(",", len(columns))
        try:
            row = [parse_number(_cell(word)) for word in cells]
        except ValueError:
            raise ConfigError(f"{where}: row={shorten(line)}: {words}") from None
        if len(row) != len(columns):
            raise ConfigError(f"{where}: row={shorten(line)}: {words}")
        for column, value in zip(columns, row, strict=True):
            if not _FITS[column](value):
                raise ConfigError(f"{where}: {column}={value}: must be {_bound(column, value)}")
        if rows and s_to_ns(row[0]) <= s_to_ns(rows[-1][0]):
            raise ConfigError(f"{where}: time_s={row[0]}: must be above the row before, {rows[-1][0]}")
        rows.append(row)
    if not rows:
        raise ConfigError(f"{place}: must have at least one row")
    return rows


_NUMBERS: Final = {2: "two", 3: "three", 4: "four"}

_FITS: Final[Mapping[str, Callable[[float], bool]]] = {
    "time_s": lambda value: 0 <= value <= TIME_S_MAX,
    "bandwidth_mbps": lambda value: value == 0 or MBPS_MIN <= value <= MBPS_MAX,
    "latency_ms": lambda value: 0 <= value <= MS_MAX,
    "loss_percent": lambda value: 0 <= value < 100,
}


def _bound(column: str, value: float) -> str:
    """Say what a value of a column must be, with more of it where the value is a plain number above 0."""
    if column == "loss_percent":
        return "a number >= 0 and below 100"
    more = {
        "time_s": f", at most {TIME_S_MAX:g}",
        "bandwidth_mbps": f": 0, or {MBPS_MIN:g} to {MBPS_MAX:g}",
        "latency_ms": f", at most {MS_MAX:g}",
    }
    return "a number >= 0" + more[column] * (0 < value < inf)


def _cells(line: str) -> list[str]:
    return [_cell(word) for word in line.split(",")]


def _cell(word: str) -> str:
    """A cell without spaces around it, and without the quotes that some programs write around every one."""
    word = word.strip(" \t")
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] == '"' else word
