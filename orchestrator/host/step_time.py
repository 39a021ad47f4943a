"""Measure what a local step and a test of a model take of this host.

Elapsed time is no measure of it: a host that does something else meanwhile lets the step wait for a core, and a time
dilation that follows from such a figure is several times too large. What counts is processor time, of the workers
that take the step: it is what the step demands of a core, whoever else wants that core, and its sum does not change
when one worker takes two tasks because the other one had to wait. It is counted for whole processes, and not for
their main threads alone, because torch is free to compute in threads of its own.

A step may also wait for something that no processor time shows, a disk or a device. So elapsed time stays a bound:
without the time in which the processes were ready and waited for a core, which the kernel tells, it is the least that
a step takes. Of several measurements the shortest is that bound, because a worker that was late to a task leaves
others idle, and idleness looks like waiting for a device.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from node.core.errors import RunnerError
from node.core.training import TrainerAndEvaluator
from node.core.types import NodeId
from node.core.units import NS_PER_S

_CPUCLOCK_SCHED = 2
"""The kernel's number of the clock that counts the processor time of all threads of a process."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds since some beginning, or between two moments.

    Attributes:
        elapsed_s: Elapsed time.
        cpu_s: Processor time of all workers together; None where the system does not tell it.
        workers_waited_s: Time in which workers were ready and waited for a core, all together; 0 where the system does
            not tell it.
        caller_waited_s: The same of the process that hands out their tasks; 0 if it takes the steps itself.
    """

    elapsed_s: float
    cpu_s: float | None
    workers_waited_s: float = 0.0
    caller_waited_s: float = 0.0

    def since(self, before: "Usage") -> "Usage":
        """The difference to an earlier moment."""
        return Usage(
            self.elapsed_s - before.elapsed_s,
            None if self.cpu_s is None or before.cpu_s is None else self.cpu_s - before.cpu_s,
            self.workers_waited_s - before.workers_waited_s,
            self.caller_waited_s - before.caller_waited_s,
        )

    def demand_s(self, together: int) -> float | None:
        """Processor time of one of so many workers that were busy; None if unknown."""
        return None if self.cpu_s is None else self.cpu_s / together

    def unhindered_s(self, together: int) -> float:
        """Elapsed time without what so many workers, and their caller, waited for cores, >= 0."""
        return max(0.0, self.elapsed_s - self.workers_waited_s / together - self.caller_waited_s)


def read_usage(worker_pids: tuple[int, ...]) -> Usage:
    """Read the clocks now.

    Args:
        worker_pids: The processes that take the steps; empty: this one does.

    Raises:
        RunnerError: One of them has ended.
    """
    elapsed_s = time.perf_counter()
    if not worker_pids:
        return Usage(elapsed_s, time.process_time(), _waited_s(os.getpid()))
    # The main thread of a worker is the one that takes steps, and for it alone the kernel tells the waits.
    waited_s = sum(_waited_s(pid) for pid in worker_pids)
    return Usage(elapsed_s, _cpu_s(worker_pids), waited_s, _waited_s(os.getpid()))


def measure_step_seconds(
    trainer: TrainerAndEvaluator,
    *,
    blocks: int = 5,
    block_s: float = 0.2,
    read: Callable[[tuple[int, ...]], Usage] = read_usage,
) -> float:
    """Measure how long a local step takes on one core while all others train as well, which share caches and memory.

    Takes about ``(blocks + 1) * block_s`` of elapsed time, or as long as two steps do. The momentum of the nodes that
    are used changes: the trainer is not one to start a run with.

    Args:
        trainer: Made for at least as many nodes as it has workers.
        blocks: Measurements, of which the median counts.
        block_s: About how long each takes, seconds.
        read: Reads the clocks of the processes with these ids.

    Returns:
        Seconds, > 0.

    Raises:
        RunnerError: Training failed.
    """
    pids = trainer.worker_pids
    nodes = [NodeId(node) for node in range(max(1, len(pids)))]
    params = trainer.initial_params()
    done = 0

    def block(count: int) -> Usage:
        nonlocal done
        before = read(pids)
        for node in nodes:
            trainer.begin(node, params, done, count)
        for node in nodes:
            trainer.finish(node)
        done += count
        return read(pids).since(before)

    block(1)  # the first step of a process sets things up
    first = block(1)
    count = max(1, int(block_s / max(first.elapsed_s, 1e-9)))
    slow = count == 1 and first.elapsed_s > block_s
    measured = [first] if slow else [block(count) for _ in range(blocks)]
    return max(1e-9, _typical_s(measured, len(nodes)) / count)


def measure_evaluation_seconds(
    trainer: TrainerAndEvaluator, read: Callable[[tuple[int, ...]], Usage] = read_usage
) -> float:
    """Measure how long one node's model takes to be tested, seconds on one core.

    Raises:
        RunnerError: Testing failed.
    """
    before = read(trainer.worker_pids)
    trainer.submit(0, {NodeId(0): trainer.initial_params()})
    trainer.collect(wait=True)
    return _typical_s([read(trainer.worker_pids).since(before)], together=1)


def _typical_s(measured: list[Usage], together: int) -> float:
    """Return what one of ``together`` workers took in the measurements, seconds."""
    demands = [demand for usage in measured if (demand := usage.demand_s(together)) is not None]
    if not demands:  # nothing better is known than how long it took
        return median(usage.elapsed_s for usage in measured)
    return max(median(demands), min(usage.unhindered_s(together) for usage in measured))


def _cpu_s(pids: tuple[int, ...]) -> float | None:
    """Processor seconds of these processes together; None where clocks of other processes cannot be read."""
    if not os.path.exists("/proc/self/stat"):
        return None
    total = 0.0
    for pid in pids:
        try:
            # As clock_getcpuclockid makes it, which Python does not offer.
            total += time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
        except OSError as error:
            raise RunnerError(f"training worker {pid} ended while it was measured") from error
    return total


def _waited_s(pid: int) -> float:
    """Seconds in which a process's main thread was ready and waited for a core; 0 if unknown."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / NS_PER_S
    return 0.0
