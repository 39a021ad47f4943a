"""The host of a test of shaping: whether it can be had, and how much room it is given.

Rates and delays are the kernel's, whose timers need no process to be woken. But senders and receivers are processes,
and in a virtual machine the timers wait for a core as well. So a test that failed is tried again with more time
dilation, which is what gives a late host more room, if a clock beside it was late meanwhile: a thread that sleeps for a
millisecond at a time. That does not depend on the code under test.
"""

import os
import threading
import time
from collections.abc import Sequence
from types import TracebackType

import pytest

from orchestrator.shaping.probe import ShapingAbilities, probe_shaping
from tests.integration.host import Host
from tests.integration.namespaces import Stream
from tests.netem_machine.machine import FOLDER_VARIABLE

REQUIRED_VARIABLE = "FRAGMESH_REQUIRE"
"""Names of what must be there, with commas between them: tests that would be skipped for lack of it then fail."""

MACHINE_FOLDER = os.environ.get(FOLDER_VARIABLE, "")
"""Folder of the virtual machine with netem; empty where the environment names none."""

_SLEEP_S = 0.001
LATE_S = 0.001
"""A sleep that takes longer by this much was late."""
LATE_SHARE = 0.05
"""Share of sleeps of which a host may be late and still count as punctual."""


def need(name: str, problem: str | None) -> None:
    """Skip the test if there is a problem, or fail it if what is missing is required."""
    if problem is None:
        return
    if name in os.environ.get(REQUIRED_VARIABLE, "").split(","):
        pytest.fail(f"{REQUIRED_VARIABLE} names {name}, but {problem}")
    pytest.skip(problem)


def need_kernel_shaping() -> ShapingAbilities:
    """Skip or fail where the kernel cannot shape rates for us."""
    if os.geteuid() != 0:
        need("tc", "shaping is tested as root")
    found = probe_shaping()
    problems = ", ".join(f"{name}: {reason}" for name, reason in found.problems.items() if name != "netem")
    need("tc", None if found.shapes_rates else f"this kernel or its tc cannot shape: {problems}")
    return found


def need_netem(command: str) -> None:
    """Skip or fail where the kernel has no netem; ``command`` runs these tests in a virtual machine that has."""
    if need_kernel_shaping().has_netem:
        return
    if MACHINE_FOLDER:
        pytest.skip("this kernel has no netem; the virtual machine of test_netem_machine has")
    need("netem", f"this kernel has no netem; {command} tests it in a virtual machine")


class ShapingHost(Host):
    """The host during one attempt; a context manager that ends its clock.

    Attributes:
        dilation: What the network under test is slowed down by.
    """

    dilations = (1.0, 4.0, 16.0)

    def __init__(self) -> None:
        self._end = threading.Event()
        self._sleeps = self._late = 0
        self._thread = threading.Thread(target=self._keep_time, daemon=True)
        super().__init__()

    def __enter__(self) -> "ShapingHost":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _keep_time(self) -> None:
        while not self._end.is_set():
            begin_s = time.monotonic()
            time.sleep(_SLEEP_S)
            self._sleeps += 1
            self._late += time.monotonic() - begin_s > _SLEEP_S + LATE_S

    def begin(self, dilation: float) -> None:
        """Begin an attempt."""
        super().begin(dilation)
        self._sleeps = self._late = 0

    def was_late(self) -> bool:
        """Whether the clock was late, or the host's processes and the host itself had to wait."""
        return self._late > LATE_SHARE * max(1, self._sleeps) or super().was_late()

    def goodput_mbps(self, stream: Stream, *, warm_s: float = 1.0, close: bool = True) -> float:
        """Goodput of a stream in testbed time, after it has warmed up."""
        return self.goodputs_mbps([stream], warm_s=warm_s, close=close)[0]

    def goodputs_mbps(self, streams: Sequence[Stream], *, warm_s: float = 1.0, close: bool = True) -> list[float]:
        """Goodput of several streams at the same time."""
        begin_s = time.monotonic() + warm_s * self.dilation
        end_s = begin_s + 2.5 * self.dilation
        time.sleep(end_s - time.monotonic())
        found = [self.dilation * stream.goodput_mbps(begin_s, end_s) for stream in streams]
        if close:
            for stream in streams:
                stream.close()
        return found

    def record(self, text: str) -> None:
        """Print a figure that was measured; pytest -s shows it."""
        print(f"[dilation {self.dilation:g}] {text}")
