"""Testbed time in a real run: the host's monotonic clock, slowed down.

All processes of one host share ``CLOCK_MONOTONIC``, so that the same epoch gives them the same time without any
further agreement. Under time dilation k, one second of testbed time takes k seconds of real time.
"""

import time
from dataclasses import dataclass
from math import ceil

from node.core.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class Clock:
    """Testbed time.

    Attributes:
        epoch_ns: The monotonic clock when testbed time is 0, nanoseconds; may lie in the future.
        dilation: Real seconds a testbed second, > 0.
    """

    epoch_ns: int
    dilation: float = 1.0

    def now_ns(self) -> int:
        """Testbed time, nanoseconds; negative before the epoch."""
        return int((time.monotonic_ns() - self.epoch_ns) / self.dilation)

    def at_ns(self, monotonic_ns: int) -> int:
        """The testbed time of a reading of the monotonic clock."""
        return int((monotonic_ns - self.epoch_ns) / self.dilation)

    def monotonic_ns(self, testbed_ns: int) -> int:
        """The reading of the monotonic clock when a testbed time has come, at most 1 ns later.

        :meth:`at_ns` of it gives that time again, for times >= 0, a dilation >= 1 and 100 days of real time.
        """
        elapsed_ns = ceil(testbed_ns * self.dilation)
        if int(elapsed_ns / self.dilation) < testbed_ns:  # the product was rounded down
            elapsed_ns += 1
        return self.epoch_ns + elapsed_ns

    def zero_unix_s(self) -> float:
        """The wall clock at testbed time 0, as seen from now."""
        return (time.time_ns() - time.monotonic_ns() + self.epoch_ns) / NS_PER_S
