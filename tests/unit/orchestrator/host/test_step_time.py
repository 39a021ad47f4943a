"""How a local step is measured: by the processor time of those that take it, whatever else the host does meanwhile."""

import os
import signal
import sys
from typing import Any

import numpy as np
import pytest

from node.core.errors import RunnerError
from node.core.training import QuadraticTrainer, TrainingResult
from node.core.types import NodeId, Vector
from orchestrator.host.step_time import Usage, measure_evaluation_seconds, measure_step_seconds, read_usage


class Clockwork:
    """A trainer whose steps take a known processor time, on a host and with a device that let them wait.

    Args:
        step_s: Processor time of a step.
        workers: Its processes; 0: the caller takes the steps.
        crowd_s: What each step waits for a core.
        device_s: What each step waits for something else.
        late_s: What the caller waits for a core before it hears of the end of its steps.
        tells: Whether the system tells processor time and waits.
    """

    tensor_sizes = (4,)

    def __init__(
        self,
        step_s: float,
        workers: int,
        *,
        crowd_s: float = 0.0,
        device_s: float = 0.0,
        late_s: float = 0.0,
        tells: bool = True,
    ) -> None:
        self.worker_pids = tuple(range(1_000, 1_000 + workers))
        self.elapsed_s = 0.0
        self._step_s, self._crowd_s, self._device_s, self._late_s = step_s, crowd_s, device_s, late_s
        self._tells = tells
        self._together = max(1, workers)
        self._cpu_s = self._waited_s = self._caller_waited_s = 0.0
        self._running: dict[NodeId, int] = {}
        self._steps = 0

    def read(self, pids: tuple[int, ...]) -> Usage:
        assert pids == self.worker_pids
        if not self._tells:
            return Usage(self.elapsed_s, None)
        return Usage(self.elapsed_s, self._cpu_s, self._waited_s, self._caller_waited_s)

    def initial_params(self) -> Vector:
        return np.zeros(4, dtype=np.float32)

    def begin(self, node: NodeId, params: Vector, first_step: int, count: int) -> None:
        assert node not in self._running
        self._running[node] = count

    def finish(self, node: NodeId) -> TrainingResult:
        if len(self._running) == self._together:  # the first that is waited for; all run side by side
            self._spend(self._running[node], first_s=1.0 if self._steps == 0 else 0.0)
            self._steps += self._running[node]
        del self._running[node]
        return TrainingResult(np.zeros(4, dtype=np.float32), 0.0)

    def submit(self, ticket: int, models: dict[NodeId, Vector]) -> None:
        self._together = 1  # one worker tests
        self._spend(1, first_s=0.0)

    def collect(self, *, wait: bool) -> list[Any]:
        return []

    def _spend(self, steps: int, first_s: float) -> None:
        cpu_s = self._step_s * steps + first_s  # the first step sets things up
        self._cpu_s += self._together * cpu_s
        self._waited_s += self._together * self._crowd_s * steps
        self._caller_waited_s += self._late_s
        self.elapsed_s += cpu_s + (self._crowd_s + self._device_s) * steps + self._late_s


def measured_s(trainer: Any) -> float:
    return measure_step_seconds(trainer, read=trainer.read)


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize(("step_s", "most_s"), [(1e-3, 2.5), (0.15, 2.5), (5.0, 12.0)])
def test_a_step_is_measured_in_bounded_time(workers: int, step_s: float, most_s: float) -> None:
    trainer = Clockwork(step_s, workers)
    assert measured_s(trainer) == pytest.approx(step_s)
    assert trainer.elapsed_s <= most_s


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step_s", [1e-3, 0.5])
def test_a_busy_host_makes_a_step_no_longer(workers: int, step_s: float) -> None:
    """Workers get a quarter of a core, and the caller hears of their end a fifth of a second late."""
    assert measured_s(Clockwork(step_s, workers, crowd_s=3 * step_s, late_s=0.2)) == pytest.approx(step_s)


@pytest.mark.parametrize("workers", [0, 2])
def test_waiting_for_something_else_than_a_core_counts(workers: int) -> None:
    trainer = Clockwork(1e-3, workers, device_s=4e-3, crowd_s=10e-3)
    assert measured_s(trainer) == pytest.approx(5e-3)


def test_one_late_worker_does_not_count_as_a_device() -> None:
    """In all blocks but one the other worker took both tasks, and the late one was idle meanwhile."""
    trainer = Clockwork(0.01, 2)
    finish, blocks = trainer.finish, 0

    def finish_late(node: NodeId) -> TrainingResult:
        nonlocal blocks
        blocks += node == 0
        if node == 0 and blocks != 4:
            trainer.elapsed_s += 0.01 * trainer._running[node]
        return finish(node)

    trainer.finish = finish_late  # type: ignore[method-assign]
    assert measured_s(trainer) == pytest.approx(0.01)


@pytest.mark.parametrize("workers", [0, 2])
def test_where_the_system_tells_nothing_elapsed_time_counts(workers: int) -> None:
    assert measured_s(Clockwork(1e-3, workers, crowd_s=2e-3, tells=False)) == pytest.approx(3e-3)


def test_a_test_of_a_model_is_measured_in_the_same_way() -> None:
    trainer: Any = Clockwork(0.5, 3, crowd_s=2.0, late_s=1.0)
    assert measure_evaluation_seconds(trainer, trainer.read) == pytest.approx(0.5)


def test_a_trainer_that_takes_no_time_at_all() -> None:
    assert measure_step_seconds(QuadraticTrainer(np.zeros((1, 4), dtype=np.float32), 0.1), blocks=1, block_s=1e-4) > 0


# --- the kernel's clocks --------------------------------------------------------------------------------------------


def test_processor_time_of_this_process() -> None:
    before = read_usage(())
    while read_usage(()).since(before).elapsed_s < 0.01:
        pass
    used = read_usage(()).since(before)
    assert used.cpu_s is not None
    assert used.cpu_s > 0
    assert used.caller_waited_s == 0


@pytest.mark.skipif(sys.platform != "linux", reason="clocks of other processes")
def test_processor_time_of_a_worker_is_what_it_computed_and_not_how_long_it_was_there() -> None:
    """The worker computes for 20 ms of its own processor time, says so and then waits."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        import time

        while time.process_time() < 0.02:
            pass
        os.write(tell, b".")
        signal.pause()
    os.read(told, 1)
    try:
        first = read_usage((pid,))
        assert first.cpu_s is not None
        assert first.cpu_s >= 0.02
        while (waited := read_usage((pid,)).since(first)).elapsed_s < 0.05:
            pass
        assert waited.cpu_s is not None
        assert waited.cpu_s < 0.025
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(told)
        os.close(tell)
    with pytest.raises(RunnerError, match=f"training worker {pid} ended"):
        read_usage((pid,))
