"""Status and figures of a node: what it says of itself while it runs, and once at its end."""

import asyncio
import contextlib
import os
import resource
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from node.config import NodeConfig
from node.core.counters import NodeCounters, counter_values
from node.core.lateness import LatenessHistogram
from node.core.units import NS_PER_S
from node.host.clock import Clock
from node.runtime.driver import Driver
from node.runtime.peers import Peers
from node.runtime.standstills import Standstills
from node.transport.control_values import NodeStatus, Phase

LOOP_CHECK_S = 0.2
"""Interval at which the loop's lateness is measured, real time."""


class SelfReport:
    """Collects what a node can say of itself.

    Args:
        config: The node.
        driver: Counts what it does.
        peers: Its traffic.
        training_pids: The trainer's processes, for their memory.

    State:
        began_ns: Testbed time at which the node began; None before.
        down_ns: When it went down as planned; None while it has not.
        _told: The figures that were told at the end, which are the last ones; None before.
        _rejected: Messages that were refused by then.
    """

    def __init__(self, config: NodeConfig, driver: Driver, peers: Peers, training_pids: Sequence[int]) -> None:
        self._config = config
        self._driver = driver
        self._peers = peers
        self._training_pids = training_pids
        self._loop_late_ns = array("q")
        self._standstills = Standstills()
        self._told: NodeCounters | None = None
        self._rejected: dict[str, int] = {}
        self.began_ns: int | None = None
        self.down_ns: int | None = None

    def begin(self, clock: Clock, standstills: Standstills) -> None:
        """Forget lateness so far: before the experiment's start it was measurement."""
        self.began_ns = clock.now_ns()
        self._standstills = standstills
        self._peers.server.lateness = LatenessHistogram()
        self._loop_late_ns = array("q")

    async def watch_loop(self) -> None:
        """Measure how late the host lets the loop be; never returns."""
        loop = asyncio.get_running_loop()
        while True:
            planned_ns = int((loop.time() + LOOP_CHECK_S) * NS_PER_S)
            await asyncio.sleep(LOOP_CHECK_S)
            due_ns = self._standstills.due_ns(planned_ns)
            self._loop_late_ns.append(max(0, int(loop.time() * NS_PER_S) - due_ns))

    def counters(self, at_ns: int | None = None) -> NodeCounters:
        """The node's figures as they are now, or as of an instant that has just come; as told, once they were."""
        if self._told is not None:
            return self._told
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return replace(
            self._driver.current_counters(at_ns),
            messages_rejected=sum(self.rejected().values()),
            cpu_ns=int((usage.ru_utime + usage.ru_stime) * NS_PER_S),
        )

    def rejected(self) -> dict[str, int]:
        """Messages that were refused, by reason, as :meth:`counters`."""
        return self._peers.rejected if self._told is None else self._rejected

    def status(self, phase: Phase, failure: str, time_ns: int) -> NodeStatus:
        """Describe how the node is doing now; ``time_ns`` is testbed time, negative before the start."""
        diverged, rest = self._driver.diverged, self._driver.rest()
        return NodeStatus(
            node=self._config.node,
            phase=phase,
            time_ns=time_ns,
            counters=self.counters(time_ns),
            messages_rejected=self.rejected(),
            unreachable=tuple(sorted(self._peers.client.unreachable)),
            failure=failure,
            at_rest=rest is not None,
            sending_to=rest or (),
            diverged_ns=None if diverged is None else diverged.time_ns,
            waiting_for=self._driver.waiting_for() or "",
            waits_on=tuple(self._driver.waits_on()),
            story=self._driver.story(),
        )

    def figures(self) -> dict[str, Any]:
        """Figures that are told once, at the end, fit for JSON; times are testbed time."""
        dilation = self._config.emulator_clock.dilation
        late = self._peers.server.lateness.summary()
        loop_late = np.array(self._loop_late_ns, dtype=np.int64)
        self._rejected = self.rejected()
        self._told = self.counters()
        return {
            "counters": counter_values(self._told),
            "first_round": self._config.beginning.rounds,
            "began_ns": self.began_ns,
            "down_ns": self.down_ns,
            "loop_late_p99_ns": int(np.percentile(loop_late, 99) / dilation) if loop_late.size else 0,
            "arrivals": late.count,
            "late_p99_ns": int(late.p99 / dilation),
            "late_max_ns": int(late.max / dilation),
            "memory_bytes": sum(_memory_bytes(pid) for pid in (os.getpid(), *self._training_pids)),
            "rejected": self._rejected,
            "saturated": list(self._driver.saturated),
        }


def _memory_bytes(pid: int) -> int:
    """Proportional set size: shared pages count in parts. 0 where the kernel does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
