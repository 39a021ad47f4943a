"""The schedule as a run directory keeps it; pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from node.host.text_files import shorten
from orchestrator.experiment.schedule.abilities import NODE_ACTIONS
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

    There is one for each node of an entry that happens to nodes, and one of an entry over links.
    """
    for each in entries:
        action = each.entry.action
        nodes: tuple[int | None, ...] = each.nodes if action in NODE_ACTIONS else (None,)
        for begin_ns, end_ns in each.times:
            if begin_ns > until_ns:
                break
            for node in nodes:
                yield FaultInstant(each.number, node, action, "begin", begin_ns, begin_ns)
                if end_ns is not None and end_ns <= until_ns:
                    yield FaultInstant(each.number, node, action, "end", end_ns, end_ns)
