"""The schedule as a run directory keeps it; pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from node.host.text_files import shorten
from orchestrator.experiment.schedule.abilities import NODE_ACTIONS
from orchestrator.experiment.schedule.config import Action
from orchestrator.experiment.schedule.fates import NodeInstant
from orchestrator.experiment.schedule.file_spans import RESTART_NS
from orchestrator.experiment.schedule.planned import PlannedEntry
from orchestrator.experiment.schedule.timeline import effect, targets
from orchestrator.results.fault_instants import FaultInstant
from orchestrator.results.recorded_schedule import RecordedEntry

_LETTERS_MAX: Final = 120
"""Letters that are kept of an entry's targets: five thousand pairs would be read by nobody."""


def recorded(entries: Sequence[PlannedEntry]) -> tuple[RecordedEntry, ...]:
    """Return all entries as they are kept."""
    return tuple(
        RecordedEntry(
            number=each.number,
            action=each.entry.action,
            targets=shorten(targets(each), _LETTERS_MAX),
            effect=shorten(effect(each), _LETTERS_MAX),
            nodes=len(each.nodes) + sum(map(len, each.groups)),
            times=each.times,
        )
        for each in entries
    )


def exact_instants(entries: Sequence[PlannedEntry], until_ns: int) -> Iterator[FaultInstant]:
    """Yield the begins and ends of all entries up to a time, where each comes when it is planned.

    There is one for each node of an entry that happens to nodes, and one of an entry over links. An entry whose file
    says what happens has one, and its nodes have theirs, each with the action that the file comes to.
    """
    for each in entries:
        for action, node, begin_ns, end_ns in _times_held(each, until_ns):
            yield FaultInstant(each.number, node, action, "begin", begin_ns, begin_ns)
            if end_ns is not None and end_ns <= until_ns:
                yield FaultInstant(each.number, node, action, "end", end_ns, end_ns)


def _times_held(each: PlannedEntry, until_ns: int) -> Iterator[tuple[Action, int | None, int, int | None]]:
    """Walk through the times of an entry that begin up to a time: action, node, begin and end."""
    action = each.entry.action
    nodes: tuple[int | None, ...] = each.nodes if action in NODE_ACTIONS else (None,)
    for begin_ns, end_ns in each.times:
        if begin_ns > until_ns:
            break
        for node in nodes:
            yield action, node, begin_ns, end_ns
    for absence in each.told.absences:
        if absence.begin_ns <= until_ns:
            yield "crash", absence.node, absence.begin_ns, absence.end_ns
    for span in each.told.nodes:
        if span.begin_ns <= until_ns:
            yield "pause", span.node, span.begin_ns, span.end_ns


def executed_instants(
    entries: Sequence[PlannedEntry],
    done: Sequence[NodeInstant],
    span: tuple[int, int],
    changes_late_ns: Mapping[int, int | None],
) -> Iterator[FaultInstant]:
    """Yield the begins and ends of entries in one part of a real run, as they happened.

    What an entry asks for while another one has the node down already is no instant of its own. Links and speeds that
    no entry of ``changes_late_ns`` is about have changed when planned: nodes and the link emulator give every message
    and every local step what holds at its instant, however late they get to it.

    Args:
        entries: All.
        done: What was done to nodes, each node's in order of time.
        span: Testbed time at which the part began and at which it ended.
        changes_late_ns: Testbed time of changes that the kernel made to links -> how late they were, testbed time; None
            for those that it never made.
    """
    yield from _of_links(entries, span, changes_late_ns)
    yield from _of_nodes(entries, done)


def _of_links(
    entries: Sequence[PlannedEntry], span: tuple[int, int], changes_late_ns: Mapping[int, int | None]
) -> Iterator[FaultInstant]:
    """Yield the instants of entries over links and of slow nodes."""
    begin_ns, end_ns = span
    for planned in exact_instants(entries, end_ns):
        if planned.planned_ns >= begin_ns and (planned.node is None or planned.action == "slow_cpu"):
            late_ns = changes_late_ns.get(planned.planned_ns, 0) if planned.node is None else 0
            yield replace(planned, actual_ns=None if late_ns is None else planned.planned_ns + late_ns)


def _of_nodes(entries: Sequence[PlannedEntry], done: Sequence[NodeInstant]) -> Iterator[FaultInstant]:
    """Yield when real nodes went down, came back, stood still and went on, by the entries that asked for it."""
    changes = {(int(one.node), one.change.time_ns): one for one in done}
    until_ns = max((one.change.time_ns for one in done), default=-1)
    for planned in exact_instants(entries, until_ns):
        if planned.node is None or planned.action == "slow_cpu":
            continue
        # Who is down to be restarted is so for a nanosecond.
        later_ns = RESTART_NS if planned.what == "end" and planned.action == "restart" else 0
        one = changes.get((planned.node, planned.planned_ns + later_ns))
        if one is not None and (planned.what == "end" or one.change.kind != "runs"):
            yield replace(planned, actual_ns=one.actual_ns)
