"""Times at equal distances, in which something holds."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Times:
    """The times in which an entry of the schedule holds: one, or several at equal distances.

    Attributes:
        begin_ns: The first instant of the first.
        duration_ns: How long each is; 0 for an instant, None to the end of the run.
        every_ns: From one begin to the next; 0 where there is one.
        count: How many there are, >= 1.
    """

    begin_ns: int
    duration_ns: int | None
    every_ns: int = 0
    count: int = 1

    def __iter__(self) -> Iterator[tuple[int, int | None]]:
        """Walk through the first instant of each, and the first one after it, or None."""
        for index in range(self.count):
            begin_ns = self.begin_ns + index * self.every_ns
            yield begin_ns, None if self.duration_ns is None else begin_ns + self.duration_ns

    @property
    def are_instants(self) -> bool:
        """Tell whether they have no duration."""
        return self.duration_ns == 0

    def begun_at(self, now_ns: int) -> int:
        """Return how many have begun at a time, one that begins then among them."""
        if now_ns < self.begin_ns:
            return 0
        return self.count if not self.every_ns else min(self.count, (now_ns - self.begin_ns) // self.every_ns + 1)

    def next_ns(self, now_ns: int) -> int | None:
        """Return when the next one begins after a time; None if none does."""
        begun = self.begun_at(now_ns)
        return None if begun == self.count else self.begin_ns + begun * self.every_ns

    def holding(self, now_ns: int) -> tuple[int, int | None] | None:
        """Return the one that holds at a time: its first instant and the first one after; None if none does."""
        begun = self.begun_at(now_ns)
        if not begun:
            return None
        begin_ns = self.begin_ns + (begun - 1) * self.every_ns
        end_ns = None if self.duration_ns is None else begin_ns + self.duration_ns
        return (begin_ns, end_ns) if end_ns is None or now_ns < end_ns else None
