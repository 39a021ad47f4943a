"""Crashes and restarts of nodes: from entries to the times in which nodes are down; pure.

A restart is a time of :data:`~orchestrator.experiment.schedule.file_spans.RESTART_NS`, so that it is among the states
of a node as every other change is.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from node.core.errors import ConfigError
from node.core.schedule import Comeback, NodeSpan
from node.core.units import ns_to_s
from orchestrator.experiment.schedule.config import AvailabilityEntry, CrashEntry, KollapsEntry, RestartEntry
from orchestrator.experiment.schedule.file_spans import RESTART_NS
from orchestrator.experiment.schedule.planned import PlannedEntry


class _Outage(NamedTuple):
    """A crash or a restart of one node, in order of time."""

    begin_ns: int
    number: int
    end_ns: int | None
    is_restart: bool
    model: Comeback


def downtimes(planned: Sequence[PlannedEntry]) -> Iterator[NodeSpan]:
    """Yield the times in which nodes are down, node by node.

    A crash without an end lasts until the node's next restart, and then the restart says from which model it begins.

    Raises:
        ConfigError: Entries take a node down that is down already, or at the instant at which it comes back.
    """
    happenings: dict[int, list[_Outage]] = {}
    for each in planned:
        entry = each.entry
        if isinstance(entry, CrashEntry | RestartEntry):
            is_restart = isinstance(entry, RestartEntry)
            for begin_ns, end_ns in each.times:
                until_ns = begin_ns + RESTART_NS if is_restart else end_ns
                found = _Outage(begin_ns, each.number, until_ns, is_restart, entry.model)
                for node in each.nodes:
                    happenings.setdefault(node, []).append(found)
        elif isinstance(entry, AvailabilityEntry | KollapsEntry):
            for node, begin_ns, end_ns in each.told.absences:
                happenings.setdefault(node, []).append(_Outage(begin_ns, each.number, end_ns, False, entry.model))
    for node in sorted(happenings):
        yield from _of_node(node, sorted(happenings[node]))


def _of_node(node: int, happenings: Sequence[_Outage]) -> Iterator[NodeSpan]:
    down: _Outage | None = None  # a crash that a restart has to end
    last: _Outage | None = None
    for one in happenings:
        if down is not None:
            if not one.is_restart or one.begin_ns == down.begin_ns:
                raise _overlap(node, one, down)
            yield NodeSpan(down.begin_ns, one.begin_ns, node, "down", model=one.model)
            down = None
        else:
            if last is not None and last.end_ns is not None and one.begin_ns <= last.end_ns:
                raise _overlap(node, one, last)
            if one.end_ns is None:
                down = one
            else:
                yield NodeSpan(one.begin_ns, one.end_ns, node, "down", model=one.model)
        last = one
    if down is not None:
        yield NodeSpan(down.begin_ns, None, node, "down")


def _overlap(node: int, one: _Outage, other: _Outage) -> ConfigError:
    if other.end_ns is None:
        when = f"has it down from {ns_to_s(other.begin_ns):g} s until a later restart"
    elif other.is_restart:
        when = f"restarts it at {ns_to_s(other.begin_ns):g} s"
    else:
        when = f"has it down from {ns_to_s(other.begin_ns):g} s to {ns_to_s(other.end_ns):g} s"
    what = "restart" if one.is_restart else "take down"
    return ConfigError(
        f"schedule[{one.number}].nodes: must not {what} node {node} at {ns_to_s(one.begin_ns):g} s:"
        f" schedule[{other.number}] {when}"
    )
