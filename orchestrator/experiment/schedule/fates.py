"""Fates of nodes as they are planned: whether each runs, stands still or is down, and when that changes; pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from node.core.schedule import RUNNING, Comeback, NodeState, Schedule
from node.core.steps import Steps
from node.core.types import IndexVector, NodeId
from node.core.units import NEVER_NS

Kind: TypeAlias = Literal["runs", "paused", "down"]


@dataclass(frozen=True, slots=True)
class FateChange:
    """A change of what a node does.

    Attributes:
        time_ns: When, testbed time.
        kind: What it does from then on.
        model: Where it begins if it was down.
    """

    time_ns: int
    kind: Kind
    model: Comeback = "last"


Fate: TypeAlias = Sequence[FateChange]
"""All changes of a node, in order of time."""


@dataclass(frozen=True, slots=True)
class NodeInstant:
    """An instant at which something was to happen to a node.

    Attributes:
        node: Which.
        change: What was planned.
        actual_ns: When it did, testbed time; None if it never did.
    """

    node: NodeId
    change: FateChange
    actual_ns: int | None


def fates_of(schedule: Schedule, begin_ns: int, end_ns: int | None) -> dict[NodeId, Fate]:
    """Return the fate of each node that has one, from ``begin_ns`` on, that instant included, and before ``end_ns``."""
    states = schedule.node_states().items()
    fates = {NodeId(node): changes_of(steps, begin_ns, end_ns) for node, steps in sorted(states)}
    return {node: fate for node, fate in fates.items() if fate}


def changes_of(steps: Steps[NodeState], begin_ns: int, end_ns: int | None) -> Fate:
    """Return how what a node does changes; how fast it computes is its own matter."""
    changes = []
    before = RUNNING
    for time_ns, state in ((begin_ns, steps.at(begin_ns)), *steps.after(begin_ns)):
        if end_ns is not None and time_ns >= end_ns:
            break
        if _kind(state) != _kind(before):
            changes.append(FateChange(time_ns, _kind(state), before.model))
        before = state
    return changes


def first_down_ns(fate: Fate, after_ns: int = -1) -> int | None:
    """Return when a node goes down for the first time after a testbed time; None if it does not."""
    return next((change.time_ns for change in fate if change.kind == "down" and change.time_ns > after_ns), None)


def longest_pause_ns(fates: Iterable[Fate], end_ns: int | None) -> int:
    """Return for how long any node stands still at a stretch, at most, testbed time.

    What stands still for good in a run that only rounds end counts for nothing: such a run is ended in another way.
    """
    longest = 0
    for fate in fates:
        for change, until_ns in zip(fate, [*(one.time_ns for one in fate[1:]), end_ns], strict=True):
            if change.kind == "paused" and until_ns is not None:
                longest = max(longest, until_ns - change.time_ns)
    return longest


def pauses_of(fates: Mapping[NodeId, Fate]) -> IndexVector:
    """Return when nodes stand still: node, begin and end, shape (k, 3); without an end it is NEVER_NS."""
    rows = [
        (node, change.time_ns, following.time_ns if following else NEVER_NS)
        for node, fate in fates.items()
        for change, following in zip(fate, [*fate[1:], None], strict=True)
        if change.kind == "paused"
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def is_down_at(fates: Mapping[NodeId, Fate], node: int, time_ns: int) -> bool:
    """Return whether a node is planned to be down at a testbed time."""
    kind: Kind = "runs"
    for change in fates.get(NodeId(node), ()):
        if change.time_ns > time_ns:
            break
        kind = change.kind
    return kind == "down"


def _kind(state: NodeState) -> Kind:
    return "down" if state.is_down else "paused" if state.is_paused else "runs"
