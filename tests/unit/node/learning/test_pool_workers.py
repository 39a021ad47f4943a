"""The parent's hold on its workers, whatever becomes of them; the workers here compute nothing."""

import os
import select
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import pytest

from node.core.errors import RunnerError
from node.core.training import Evaluation
from node.core.types import NodeId
from node.learning import pool_workers
from node.learning.pool_workers import (
    _RESULT,
    _TASK,
    FAILED,
    TESTED,
    TRAINED,
    PoolWorker,
    RowLayout,
    SharedRows,
    WorkerEnds,
    WorkerProcesses,
    _ParentGone,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked")


FIELDS = len(_RESULT.unpack(bytes(_RESULT.size)))


def send(ends: WorkerEnds, kind: int, node: int = 0, number: int = 0, row: int = 0, loss: float = 0.0) -> None:
    """Send a result of which no more matters here."""
    os.write(ends.results_write, _RESULT.pack(kind, node, number, row, *([loss] + [0.0] * (FIELDS - 5))))


class Worker:
    """Does what it is told, with the workers' ends of the pipes."""

    def __init__(self, act: Callable[[WorkerEnds], object], ends: WorkerEnds) -> None:
        self._act, self._ends = act, ends

    def run(self) -> None:
        self._act(self._ends)

    def report_failure(self, text: str) -> None:
        send(self._ends, FAILED, row=len(text))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., WorkerProcesses]]:
    """Fork workers, one for each act; all end with the test."""
    begun: list[WorkerProcesses] = []

    def begin(*acts: Callable[[WorkerEnds], object], pipe_bytes: int = 2**20) -> WorkerProcesses:
        monkeypatch.setattr(pool_workers, "_PIPE_BYTES", pipe_bytes)
        workers = WorkerProcesses()
        begun.append(workers)

        def make(number: int, ends: WorkerEnds) -> Any:
            return Worker(acts[number], ends)

        workers.start(len(acts), make)
        return workers

    yield begin
    for workers in begun:
        workers.close()


def wait_for_ever(_: WorkerEnds) -> None:
    while True:
        signal.pause()


def end(_: WorkerEnds) -> None:
    pass


def fail(_: WorkerEnds) -> None:
    raise LookupError("the batch was stolen")


def echo(ends: WorkerEnds) -> None:
    """Answer each task of training with its numbers, as its parent lives."""
    while True:
        select.select([ends.train_read], [], [])
        if not (task := os.read(ends.train_read, _TASK.size)):
            return
        node, first, count, row = _TASK.unpack(task)
        send(ends, TRAINED, node, first, row, float(count))


def received(workers: WorkerProcesses, count: int) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    while len(found) < count:
        found += workers.receive(wait=True)
    return found


def failure(workers: WorkerProcesses) -> str:
    """Why the workers cannot be used any more, which is said again whenever they are asked for something."""
    with pytest.raises(RunnerError) as error:
        received(workers, 1)
    for ask in (workers.check_usable, lambda: workers.receive(wait=False)):
        with pytest.raises(RunnerError) as again:
            ask()
        assert str(again.value) == str(error.value)
    return str(error.value)


def test_tasks_that_the_pipe_has_no_room_for_wait_and_keep_their_order(start: Callable[..., WorkerProcesses]) -> None:
    """A page holds 128 tasks; the worker begins when a thousand have been posted."""
    read, write = os.pipe()

    def echo_later(ends: WorkerEnds) -> None:
        os.read(read, 1)
        echo(ends)

    workers = start(echo_later, pipe_bytes=4096)
    for number in range(1_000):
        workers.train(NodeId(number), 2 * number, 3 * number, number)
    os.write(write, b".")
    expected = [(TRAINED, number, 2 * number, number, 3.0 * number) for number in range(1_000)]
    assert [result[:5] for result in received(workers, 1_000)] == expected
    for descriptor in (read, write):
        os.close(descriptor)


def test_nothing_is_received_where_nothing_is_there(start: Callable[..., WorkerProcesses]) -> None:
    workers = start(wait_for_ever)
    assert list(workers.receive(wait=False)) == []
    assert list(workers.receive(wait=True)) == []
    assert len(workers.pids) == 1


def test_a_worker_that_ends_by_itself_is_a_failure(start: Callable[..., WorkerProcesses]) -> None:
    workers = start(wait_for_ever, end)
    _, pid = workers.pids
    assert failure(workers) == f"training worker {pid} ended with code 1"


def test_the_end_of_all_workers_shows_at_once(start: Callable[..., WorkerProcesses]) -> None:
    """By the end of the pipe of results, without waiting for the next look at the processes."""
    workers = start(fail)
    (pid,) = workers.pids
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    workers._checked_s = float("inf")
    ((kind, _, _, length, *_),) = workers.receive(wait=False)
    assert (kind, length) == (FAILED, len("LookupError: the batch was stolen"))
    with pytest.raises(RunnerError, match=rf"^training worker {pid} ended with code 1$"):
        workers.receive(wait=False)


def test_a_worker_that_was_killed(start: Callable[..., WorkerProcesses]) -> None:
    workers = start(wait_for_ever)
    (pid,) = workers.pids
    os.kill(pid, signal.SIGKILL)
    assert failure(workers) == f"training worker {pid} was killed by signal 9; was memory short?"


def test_a_worker_whose_end_somebody_else_was_told(start: Callable[..., WorkerProcesses]) -> None:
    """How it ended is not known any more."""
    workers = start(wait_for_ever)
    (pid,) = workers.pids
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert failure(workers) == f"training worker {pid} ended with code 0"


def test_a_task_for_workers_that_have_ended(start: Callable[..., WorkerProcesses]) -> None:
    workers = start(wait_for_ever)
    (pid,) = workers.pids
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(RunnerError, match=f"training worker {pid} was killed by signal 9"):
        workers.train(NodeId(0), 0, 1, 0)


def test_workers_end_when_their_parent_closes_its_pipes(start: Callable[..., WorkerProcesses]) -> None:
    workers = start(echo)
    (pid,) = workers.pids
    workers.abandon()
    workers.abandon()  # once more is nothing
    workers.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1  # by itself, it was not killed
    assert workers.pids == ()


def test_where_one_cannot_be_made_the_others_are_ended(
    start: Callable[..., WorkerProcesses], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def fork() -> int:
        if len(made) == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        pid = real()
        if pid:
            made.append(pid)
        return pid

    real, before = os.fork, len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(RunnerError, match=r"^cannot start training worker: .*Resource temporarily unavailable"):
        start(wait_for_ever, wait_for_ever, wait_for_ever)
    assert len(made) == 2
    for pid in made:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # ended and waited for
    assert len(os.listdir("/proc/self/fd")) == before


# --- a worker's turns -----------------------------------------------------------------------------------------------


class Batchwise:
    """A learner that tests in three batches; it takes down what is done, and calls before each batch and at the end."""

    def __init__(self, at_batch: Callable[[int], object]) -> None:
        self.done: list[str] = []
        self._at_batch = at_batch

    def train(self, node: NodeId, params: Any, velocity: Any, first_step: int, count: int, *more: Any) -> float:
        momentum = "" if velocity is None else f" with momentum {velocity[0]:g}"
        self.done.append(f"train {node} from {params[0]:g}{momentum}: {count} after {first_step}")
        params += 1
        return 0.5

    def evaluate(self, node: NodeId, params: Any) -> Generator[None, None, Evaluation]:
        for batch in range(3):
            self.done.append(f"test {node} batch {batch}")
            self._at_batch(batch)
            yield
        self._at_batch(3)
        return Evaluation(0.25, 2.0, 10)


def turns(
    trained: Sequence[tuple[int, ...]], tested: Sequence[tuple[int, ...]], *, momentum: bool, meanwhile: int = 0
) -> tuple[list[str], list[tuple[Any, ...]], SharedRows]:
    """A worker's work until its parent is gone: what it did, its results, and the models afterwards.

    Args:
        trained: Tasks of training that lie there when it begins; see ``_TASK``.
        tested: The same of one test.
        momentum: Whether nodes have one.
        meanwhile: Tasks of training that come during each batch of a test.
    """
    (train_read, train), (test_read, test), (results_read, results) = os.pipe(), os.pipe(), os.pipe()
    for end in (train_read, test_read):
        os.set_blocking(end, False)

    def at_batch(batch: int) -> None:
        if batch == 3:  # the parent goes, and hears of the test all the same
            os.close(train)
            os.close(test)
            return
        for _ in range(meanwhile):
            os.write(train, _TASK.pack(1, 0, 1, 1))

    learner: Any = Batchwise(at_batch)
    layout = RowLayout(2, momentum, 2)
    memory = SharedRows(layout.num_rows, 2, 1)
    for row in range(layout.num_rows):
        memory.row(row)[:] = 10 * row
    for pipe, tasks in ((train, trained), (test, tested)):
        for task in tasks:
            os.write(pipe, _TASK.pack(*task))
    worker = PoolWorker(learner, memory, layout, 0, WorkerEnds(train_read, test_read, results), background=False)
    with pytest.raises(_ParentGone):
        worker.run()
    found = list(_RESULT.iter_unpack(os.read(results_read, 2**16)))
    for descriptor in (train_read, test_read, results_read, results):
        os.close(descriptor)
    return learner.done, found, memory


@pytest.mark.parametrize(("momentum", "with_momentum"), [(True, " with momentum 20"), (False, "")])
def test_training_comes_before_tests(momentum: bool, with_momentum: str) -> None:
    done, results, memory = turns([(0, 7, 2, 0)], [(1, 33, 0, 2)], momentum=momentum)
    assert done == [f"train 0 from 0{with_momentum}: 2 after 7", *(f"test 1 batch {batch}" for batch in range(3))]
    assert [result[:5] for result in results] == [(TRAINED, 0, 0, 0, 0.5), (TESTED, 1, 33, 2, 2.0)]
    assert memory.row(0).tolist() == [1.0, 1.0]  # in place


def test_a_test_lets_all_training_go_first_after_every_batch() -> None:
    done, results, memory = turns([], [(0, 33, 0, 2)], momentum=False, meanwhile=2)
    expected = []
    for batch in range(3):
        first = 10 + 2 * batch
        expected += [f"test 0 batch {batch}", *(f"train 1 from {first + n}: 1 after 0" for n in range(2))]
    assert done[:6] == expected[:6]
    assert done == expected
    assert [result[0] for result in results] == [TRAINED] * 6 + [TESTED]
    assert memory.row(1).tolist() == [16.0, 16.0]


# --- memory ---------------------------------------------------------------------------------------------------------


def test_rows_are_apart_and_aligned_and_texts_are_cut_at_their_area() -> None:
    rows = SharedRows(3, 5, 2)
    for index in range(3):
        rows.row(index)[:] = index
    assert [rows.row(index).tolist() for index in range(3)] == [[float(index)] * 5 for index in range(3)]
    assert rows.row(1).ctypes.data - rows.row(0).ctypes.data == rows.row_bytes == 64
    assert rows.write_text(0, "x" * 10_000) == 4096
    assert rows.write_text(1, "né") == 3
    assert rows.read_text(0, 4096) == "x" * 4096
    assert rows.read_text(1, 3) == "né"
    assert rows.row(2).tolist() == [2.0] * 5
    rows.close()


@pytest.mark.parametrize(("momentum", "velocity", "first"), [(True, 4, 6), (False, None, 3)])
def test_rows_of_nodes_of_their_momentum_and_of_tests(momentum: bool, velocity: int | None, first: int) -> None:
    layout = RowLayout(3, momentum, 2)
    assert layout.velocity(1) == velocity
    assert list(layout.evaluation) == [first, first + 1]
    assert layout.num_rows == first + 2
