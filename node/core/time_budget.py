"""Time budget of a node: at each instant it does one of six things, so that their times add up to its clock.

===========  ==============================================================================================
activity     what it is
===========  ==============================================================================================
computing    local steps are under way, whatever happens beside them
waiting      else: its algorithm cannot go on without a peer (:meth:`node.core.algorithm.Algorithm.waits_on`)
sending      else: a message is in its outbox or on its way out
idle         else
paused       the schedule lets it stand still, whatever else it does
down         the schedule has ended it
===========  ==============================================================================================
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

from node.core.counters import NodeCounters
from node.core.types import NodeId

Activity: TypeAlias = Literal["computing", "waiting", "sending", "idle", "paused", "down"]

TIME_FIGURES: Final[Mapping[Activity, str]] = {
    "computing": "computing_ns",
    "waiting": "waiting_ns",
    "sending": "sending_ns",
    "idle": "idle_ns",
    "paused": "paused_ns",
    "down": "down_ns",
}
"""The figure of :class:`~node.core.counters.NodeCounters` that counts each activity."""


def times_of(counters: NodeCounters) -> list[int]:
    """Return the time of each activity, in the order of :data:`TIME_FIGURES`."""
    return [getattr(counters, figure) for figure in TIME_FIGURES.values()]


class TimeBudget:
    """Adds up the time of one node's activities in its counters.

    Times may come late: what has been counted stays counted, so that no figure ever goes back.

    State:
        activity: What the node does since :attr:`since_ns`.
        since_ns: Until when all time has been counted.
    """

    __slots__ = ("_counters", "activity", "since_ns")

    def __init__(self, counters: NodeCounters) -> None:
        self._counters = counters
        self.activity: Activity = "idle"
        self.since_ns = 0

    def turn_to(self, activity: Activity, now_ns: int) -> None:
        """Count the time until now, and begin an activity, which may be the same."""
        elapsed_ns = now_ns - self.since_ns
        if elapsed_ns > 0:
            figure = TIME_FIGURES[self.activity]
            setattr(self._counters, figure, getattr(self._counters, figure) + elapsed_ns)
            self.since_ns = now_ns
        self.activity = activity

    def count_until(self, now_ns: int) -> None:
        """Count the time until now; the activity goes on."""
        self.turn_to(self.activity, now_ns)


def without_computing(waits_on: Sequence[NodeId], *, sends: bool) -> Activity:
    """Return the activity of a node that runs and has no local steps under way.

    Args:
        waits_on: The peers without whom its algorithm cannot go on.
        sends: Whether a message is in its outbox or on its way out.
    """
    if waits_on:
        return "waiting"
    return "sending" if sends else "idle"
