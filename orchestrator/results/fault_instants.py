"""Instants at which planned faults begin and end: as planned, and as they happened."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class FaultInstant:
    """One begin or end of an entry of the schedule.

    Attributes:
        entry: The entry's place in the file's list.
        node: To which node it happens; None of an entry over links.
        action: The entry's.
        what: Which of both.
        planned_ns: Testbed time.
        actual_ns: When it happened, testbed time; None if it never did.
    """

    entry: int
    node: int | None
    action: str
    what: Literal["begin", "end"]
    planned_ns: int
    actual_ns: int | None

    @property
    def late_ns(self) -> int | None:
        """Return how much later it happened than planned; None if it never did."""
        return None if self.actual_ns is None else self.actual_ns - self.planned_ns
