"""The host on which a real-time test runs: how much room it is given, and whether it was late all the same.

Tests of exact instants hold on any host that wakes a process in time. No test can make it do so, but the kernel says
how long each process was ready to run and had to wait for a core (``/proc/PID/schedstat``) and how long the whole
machine stood still (``steal`` in ``/proc/stat``). A test that uses :class:`Host` (through the fixture ``host``) and
fails is tried again with a larger time dilation if, and only if, its processes had to wait; the last attempt counts
whatever they had to. What the code under test says of itself does not matter: a wrong emulator on a quiet host fails
at once, and on a busy one at the last attempt.
"""

import os
from contextlib import suppress
from pathlib import Path

LATE_NS = 1_000_000
"""What processes may have waited for a core, all together, testbed time, before a failure is the host's."""


class Host:
    """The processes of one attempt.

    Attributes:
        dilation: What a test's clocks are to be slowed down by.
    """

    dilations = (1.0, 6.0, 36.0)
    """Of the attempts: real seconds a testbed second."""

    def __init__(self) -> None:
        self.begin(self.dilations[0])

    def begin(self, dilation: float) -> None:
        """Begin an attempt, with this process alone."""
        self.dilation = dilation
        self._before = {os.getpid(): _waited_ns(os.getpid())}
        self._waited = 0
        self._stolen = _stolen_ticks()

    def watch(self, pid: int) -> None:
        """Count what a process waits from its beginning on."""
        self._before[pid] = 0

    def note(self, pid: int) -> None:
        """Take down what a process has waited; to be called before it is reaped."""
        self._waited += _waited_ns(pid) - self._before.pop(pid, 0)

    def was_late(self) -> bool:
        """Whether the processes had to wait for cores, or the machine for its own."""
        for pid in list(self._before):
            self.note(pid)
        return self._waited > LATE_NS * self.dilation or _stolen_ticks() > self._stolen


def _waited_ns(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    return 0


def _stolen_ticks() -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/stat").read_text().splitlines()[0].split()[8])
    return 0
