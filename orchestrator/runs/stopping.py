"""Requests to stop a run: the first asks for a good end, later ones for a faster one."""

import time
from collections.abc import Callable

ONE_SIGNAL_S = 0.5
"""Signals that come closer together are one request: some senders reach a process twice."""


class StopRequested(Exception):
    """The user wants the run to end; raised by the course of a run where it waits."""


class StopRequests:
    """Counts the interrupts of a run.

    Args:
        levels: How many requests the run can act on: 1 ends it in good order, 2 can also hurry that end.
        one_signal_s: Interrupts that follow a request within this time belong to it, seconds of real time.
        now_s: The host's monotonic clock.
    """

    def __init__(
        self, levels: int, one_signal_s: float = ONE_SIGNAL_S, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._levels = levels
        self._one_signal_s = one_signal_s
        self._now_s = now_s
        self._last_s = -float("inf")
        self.count = 0
        """Requests so far."""

    @property
    def requested(self) -> bool:
        """True where the run is to end."""
        return self.count > 0

    @property
    def in_a_hurry(self) -> bool:
        """True where the run is to end without waiting for anything."""
        return self.count > 1

    def request(self) -> None:
        """Ask once more; called by a signal's handler.

        Raises:
            KeyboardInterrupt: All levels were used up before: everything is dropped.
        """
        now_s = self._now_s()
        if now_s - self._last_s < self._one_signal_s:
            return
        if self.count == self._levels:
            raise KeyboardInterrupt
        self.count += 1
        self._last_s = now_s
