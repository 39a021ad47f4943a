"""``faults.csv``, and the figures of faults in ``summary.json``."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Final, Literal

from node.core.units import NS_PER_MS, ns_to_s, s_to_ns
from orchestrator.results.fault_instants import FaultInstant
from orchestrator.results.recorded_schedule import RecordedEntry
from orchestrator.results.schema import FAULT_COLUMNS, JsonObject

_DOWN: Final = ("crash", "restart")
"""Actions by which a node is down from their begin to their end."""


def fault_csv(instants: Iterable[FaultInstant]) -> str:
    """Write instants as a table, in the order in which they are planned."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(FAULT_COLUMNS)
    for one in sorted(instants, key=_order):
        late_ns = one.late_ns
        lines.writerow(
            [
                one.entry,
                one.action,
                "" if one.node is None else one.node,
                one.what,
                repr(ns_to_s(one.planned_ns)),
                "" if one.actual_ns is None else repr(ns_to_s(one.actual_ns)),
                "" if late_ns is None else f"{late_ns / NS_PER_MS:.6g}",
            ]
        )
    return text.getvalue()


def read_fault_csv(text: str) -> tuple[FaultInstant, ...]:
    """Read what :func:`fault_csv` has written.

    Raises:
        ValueError: It has not; the message says where.
    """
    rows = csv.reader(io.StringIO(text))
    if tuple(next(rows, ())) != FAULT_COLUMNS:
        raise ValueError(f"the first line does not name the columns {', '.join(FAULT_COLUMNS)}")
    return tuple(_read_row(row, number) for number, row in enumerate(rows, start=2))


def _read_row(row: Sequence[str], number: int) -> FaultInstant:
    try:
        entry, action, node, what, planned, actual, _ = row
        return FaultInstant(
            entry=int(entry),
            node=int(node) if node else None,
            action=action,
            what=_begin_or_end(what),
            planned_ns=s_to_ns(float(planned)),
            actual_ns=s_to_ns(float(actual)) if actual else None,
        )
    except (ValueError, OverflowError) as error:
        raise ValueError(f"line {number}: {error}") from error


def _begin_or_end(what: str) -> Literal["begin", "end"]:
    if what == "begin":
        return "begin"
    if what == "end":
        return "end"
    raise ValueError(f"what={what}: must be begin or end")


def _order(one: FaultInstant) -> tuple[int, int, int, str]:
    return one.planned_ns, one.entry, -1 if one.node is None else one.node, one.what


# -- figures ---------------------------------------------------------------------------------------------------


def fault_figures(schedule: Sequence[RecordedEntry], instants: Sequence[FaultInstant], time_ns: int) -> JsonObject:
    """Return what ``summary.json`` says of a run's faults: by action, and how late they were.

    Args:
        schedule: All entries.
        instants: Begins and ends, as far as they were recorded. Of an entry without one the plan is taken.
        time_ns: Testbed time reached.
    """
    recorded = {one.entry for one in instants}
    actions = {entry.number: entry.action for entry in schedule}
    kinds = {(actions[one.entry], one.action) for one in instants if one.entry in actions}
    begun = {
        (one.entry, one.planned_ns)
        for one in instants
        if one.what == "begin" and one.actual_ns is not None and one.action == actions.get(one.entry)
    }
    times = Counter(entry for entry, _ in begun)
    down_s = _seconds_down(instants, actions, time_ns)
    by_action: JsonObject = {}
    for entry in schedule:
        figures = by_action.setdefault(entry.action, {"entries": 0, "begun": 0})
        figures["entries"] += 1
        figures["begun"] += times[entry.number] if entry.number in recorded else entry.times.begun_at(time_ns)
    for action, figures in by_action.items():
        if any((action, kind) in kinds for kind in _DOWN):
            figures["down_s"] = down_s.get(action, 0.0)
        if (action, "pause") in kinds:
            own = (one for one in instants if one.action in _DOWN or actions.get(one.entry) == action)
            figures["paused_s"] = _seconds_paused(own, time_ns)
    found: JsonObject = {"by_action": by_action}
    if instants:
        found["instants"] = lateness(instants)
    return found


def lateness(instants: Sequence[FaultInstant]) -> JsonObject:
    """Return how many instants there are, how late they were, and how many never came."""
    late_ms = [late_ns / NS_PER_MS for one in instants if (late_ns := one.late_ns) is not None]
    return {
        "count": len(instants),
        "late_ms_median": median(late_ms) if late_ms else None,
        "late_ms_max": max(late_ms, default=None),
        "never": len(instants) - len(late_ms),
    }


def _of_nodes(
    instants: Iterable[FaultInstant], kinds: Sequence[str]
) -> Iterator[tuple[int, list[tuple[int, FaultInstant]]]]:
    """The instants that came, of each node, with when, in order."""
    nodes: dict[int, list[tuple[int, FaultInstant]]] = {}
    for one in instants:
        if one.node is not None and one.actual_ns is not None and one.action in kinds:
            nodes.setdefault(one.node, []).append((one.actual_ns, one))
    for node, happenings in nodes.items():
        yield node, sorted(happenings, key=lambda each: (each[0], each[1].planned_ns, each[1].what))


def spans_down(instants: Sequence[FaultInstant]) -> Iterator[tuple[int, int, int | None, int]]:
    """Yield for which spans nodes were down: the node, begin, end (None: to the end of the run), and the first entry.

    A restart ends a crash that has no end of its own.
    """
    for node, happenings in _of_nodes(instants, _DOWN):
        since: tuple[int, int] | None = None
        for at_ns, one in happenings:
            if one.what == "begin":
                since = since or (at_ns, one.entry)
            elif since is not None:
                yield node, since[0], at_ns, since[1]
                since = None
        if since is not None:
            yield node, since[0], None, since[1]


def _seconds_down(instants: Sequence[FaultInstant], actions: Mapping[int, str], time_ns: int) -> dict[str, float]:
    """Seconds for which nodes were down, by the action of the entry that took them down, summed over nodes."""
    down_ns = Counter[str]()
    for _, begin_ns, end_ns, entry in spans_down(instants):
        span_ns = max(0, time_ns - begin_ns) if end_ns is None else end_ns - begin_ns
        down_ns[actions.get(entry, "")] += span_ns
    return {action: ns_to_s(total) for action, total in down_ns.items()}


def _seconds_paused(instants: Iterable[FaultInstant], time_ns: int) -> float:
    """Seconds for which nodes stood still, over all nodes; pauses that overlap count once, and who is down is down."""
    paused_ns = 0
    for _, happenings in _of_nodes(instants, ("pause", *_DOWN)):
        depth, is_down, since_ns = 0, False, 0
        for at_ns, one in happenings:
            paused_ns += at_ns - since_ns if depth and not is_down else 0
            since_ns = at_ns
            if one.action in _DOWN:
                is_down = one.what == "begin"
            else:
                depth = max(0, depth + (1 if one.what == "begin" else -1))
        paused_ns += max(0, time_ns - since_ns) if depth and not is_down else 0
    return ns_to_s(paused_ns)
