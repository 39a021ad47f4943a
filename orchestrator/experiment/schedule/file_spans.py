"""Spans that follow from the file of an entry, whose text says what happens to nodes and links; pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from node.core.bounds import CHANGES_MAX
from node.core.errors import ConfigError
from node.core.schedule import Groups, LinkSpan, NodeSpan, PartitionSpan
from orchestrator.experiment.schedule.config import Action

RESTART_NS: Final = 1
"""Time for which a restarted node is down: the least that a clock of nanoseconds can tell."""


class Absence(NamedTuple):
    """A time in which a node is down.

    Attributes:
        node: Which.
        begin_ns: Its first instant.
        end_ns: The first instant after it; None if the node stays away.
    """

    node: int
    begin_ns: int
    end_ns: int | None


@dataclass(frozen=True, slots=True)
class FileSpans:
    """Everything that the file of one entry makes happen.

    Attributes:
        links: What is laid over links.
        partitions: Who is set apart.
        nodes: What happens to nodes that stay up.
        absences: Nodes that are down, node by node in order of time; those of one node do not touch.
    """

    links: tuple[LinkSpan, ...] = ()
    partitions: tuple[PartitionSpan, ...] = ()
    nodes: tuple[NodeSpan, ...] = ()
    absences: tuple[Absence, ...] = ()

    @property
    def count(self) -> int:
        """Return how many changes it makes at the most."""
        return 2 * sum(map(len, (self.links, self.partitions, self.nodes, self.absences)))

    @property
    def gives_rates(self) -> bool:
        """Tell whether links get bandwidths of their own."""
        return any(span.overlay.base_mbps is not None for span in self.links)

    @property
    def needs(self) -> tuple[Action, ...]:
        """Return the actions that a runtime must be able to do for it."""
        found: dict[Action, bool] = {
            "trace": bool(self.links),
            "isolate": bool(self.partitions),
            "crash": bool(self.absences),
            "pause": bool(self.nodes),
        }
        return tuple(action for action, is_needed in found.items() if is_needed)


def apart_in_time(times: Iterable[tuple[int, int | None]]) -> list[tuple[int, int | None]]:
    """Return times in order with those made one that overlap or touch; None is the end of one that stays."""
    found: list[tuple[int, int | None]] = []
    for begin_ns, end_ns in sorted(times, key=lambda time: time[0]):
        if not found or (found[-1][1] is not None and begin_ns > found[-1][1]):
            found.append((begin_ns, end_ns))
        elif found[-1][1] is not None:
            before_ns = found[-1][1]
            found[-1] = (found[-1][0], None if end_ns is None else max(before_ns, end_ns))
    return found


def isolated(nodes: Sequence[int], num_nodes: int) -> Groups:
    """Return the partition that sets each of some nodes apart from all others."""
    group_of = [0] * num_nodes
    for group, node in enumerate(nodes, start=1):
        group_of[node] = group
    return tuple(group_of)


def check_number(number: int, place: str) -> None:
    """Refuse more changes than a plan may have, before all of them are made.

    Raises:
        ConfigError: There are more.
    """
    if number > CHANGES_MAX:
        raise ConfigError(f"{place}: must give fewer changes: all entries and traces together may give {CHANGES_MAX:,}")
