"""The worker processes of a pool: the memory and the pipes that they share with their parent, and their work.

Workers are forked. They inherit the data set, the split and the model without a copy, start in
milliseconds, and need no second import of torch. What makes fork safe here: a child computes on one
torch thread only (so the parent's OpenMP threads, which do not survive a fork, are never waited for, as
in torch's own DataLoader), and it imports nothing, logs nothing and leaves through ``os._exit``. Linux
and other systems with ``fork`` only; elsewhere use ``workers=0``. A worker ends when its parent does:
by the end of the pipes, and on Linux also by a signal of the kernel.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import select
import signal
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from math import nan
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from node.core.errors import RunnerError
from node.core.training import Evaluation
from node.core.types import NodeId, Vector
from node.host.forked import ParentGoneError, belong_to
from node.learning.trainer import Learner

TRAINED, TESTED, FAILED = 0, 1, 2
"""Kinds of results."""

_TASK = struct.Struct("<qqqq")
"""Training: node, first step, count, row. Evaluation: node, ticket, 0, row."""
_RESULT = struct.Struct("<qqqqddd")
"""Kind, node, ticket or worker, row or length of the error text; loss, accuracy, loss over items seen in training."""

_ROW_ALIGNMENT_BYTES = 64
_ERROR_TEXT_BYTES = 4096
_LIVENESS_CHECK_S = 0.2
_PIPE_BYTES = 2**20
_READ_BYTES = 1024 * _RESULT.size

_F_SETPIPE_SZ = 1031
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class SharedRows:
    """Rows of float32 and one text area per worker, shared with processes forked later."""

    def __init__(self, num_rows: int, num_params: int, workers: int) -> None:
        self.row_bytes = -(-num_params * 4 // _ROW_ALIGNMENT_BYTES) * _ROW_ALIGNMENT_BYTES
        self._num_params = num_params
        self._texts = num_rows * self.row_bytes
        self._map = mmap.mmap(-1, self._texts + workers * _ERROR_TEXT_BYTES)

    def row(self, index: int) -> Vector:
        """A writable view, shape (num_params,)."""
        return np.frombuffer(self._map, np.float32, self._num_params, index * self.row_bytes)

    def write_text(self, worker: int, text: str) -> int:
        """Leave a text for the parent; returns its length in bytes."""
        encoded = text.encode()[:_ERROR_TEXT_BYTES]
        start = self._texts + worker * _ERROR_TEXT_BYTES
        self._map[start : start + len(encoded)] = encoded
        return len(encoded)

    def read_text(self, worker: int, length: int) -> str:
        """Read the text that a worker left."""
        start = self._texts + worker * _ERROR_TEXT_BYTES
        return self._map[start : start + length].decode(errors="replace")

    def close(self) -> None:
        """Unmap now, or as soon as the last view is gone."""
        with contextlib.suppress(BufferError):
            self._map.close()


class RowLayout:
    """Assignment of the memory's rows to nodes and tests."""

    def __init__(self, num_nodes: int, momentum: bool, evaluation_rows: int) -> None:
        self._velocities = num_nodes if momentum else None
        first = num_nodes * (2 if momentum else 1)
        self.evaluation = range(first, first + evaluation_rows)
        self.num_rows = first + evaluation_rows

    def velocity(self, node: int) -> int | None:
        """The row of a node's momentum; None without momentum. A node's model is in the row of its number."""
        return None if self._velocities is None else self._velocities + node


@dataclass(frozen=True, slots=True)
class WorkerEnds:
    """The workers' ends of the pipes, which all workers share: a record goes to exactly one of them.

    Attributes:
        train_read: Tasks of training.
        test_read: Tasks of evaluation.
        results_write: What came of the tasks.
    """

    train_read: int
    test_read: int
    results_write: int


class WorkerProcesses:
    """The parent's hold on its workers: the pipes to them, and what became of them.

    The pipes are open from the constructor on, until :meth:`close` or :meth:`abandon`.
    """

    def __init__(self) -> None:
        train_read, self._train_write = _pipe()
        test_read, self._test_write = _pipe()
        self._results_read, results_write = _pipe()
        for end in (train_read, test_read, self._train_write, self._test_write, self._results_read):
            os.set_blocking(end, False)
        self._ends: WorkerEnds | None = WorkerEnds(train_read, test_read, results_write)  # None: the workers have them
        self._backlog: dict[int, deque[bytes]] = {self._train_write: deque(), self._test_write: deque()}
        self._poll = select.poll()
        self._poll.register(self._results_read, select.POLLIN)
        self._numbers: dict[int, int] = {}  # process id -> worker number; emptied by close
        self._failure: str | None = None
        self._checked_s = 0.0
        self.closed = False

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that are thought to be alive."""
        return tuple(self._numbers)

    @property
    def results_fd(self) -> int:
        """A descriptor that is readable when there are results, or when all workers have ended."""
        return self._results_read

    def start(self, count: int, make_worker: "Callable[[int, WorkerEnds], PoolWorker]") -> None:
        """Fork the workers.

        Args:
            count: How many.
            make_worker: Makes the worker of a number; called in its process.

        Raises:
            RunnerError: The system refuses another process. Those that had begun are ended.
        """
        assert self._ends is not None, "started before"
        parent = os.getpid()
        try:
            for number in range(count):
                pid = os.fork()
                if pid == 0:
                    parents_ends = (self._train_write, self._test_write, self._results_read)
                    _enter_worker(make_worker(number, self._ends), parent, parents_ends)
                self._numbers[pid] = number
        except OSError as error:
            self.close()
            raise RunnerError(f"cannot start training worker: {error}") from error
        finally:
            self._close_workers_ends()

    def train(self, node: NodeId, first_step: int, count: int, row: int) -> None:
        """Post a task of training. Raises as :meth:`receive` does."""
        self._post(self._train_write, _TASK.pack(node, first_step, count, row))

    def test(self, node: NodeId, ticket: int, row: int) -> None:
        """Post a task of evaluation. Raises as :meth:`receive` does."""
        self._post(self._test_write, _TASK.pack(node, ticket, 0, row))

    def receive(self, *, wait: bool) -> Iterator[tuple[Any, ...]]:
        """Take in results: kind, node, ticket or worker, row or length of the error text, loss, accuracy.

        Args:
            wait: Until there is one, or a short time has passed.

        Raises:
            RunnerError: A worker died, now or before.
        """
        self.check_usable()
        self._flush()
        if wait:
            timeout_ms = 10 if any(self._backlog.values()) else int(_LIVENESS_CHECK_S * 1000)
            self._poll.poll(timeout_ms)
        if time.monotonic() - self._checked_s >= _LIVENESS_CHECK_S:
            self._checked_s = time.monotonic()
            self._check_workers()
        try:
            records = os.read(self._results_read, _READ_BYTES)
        except BlockingIOError:
            return iter(())
        if not records:  # the end of the pipe: all are about to be gone, if they are not
            self._check_workers(options=0)
            self.fail("all training workers have ended")
        return _RESULT.iter_unpack(records)

    def check_usable(self) -> None:
        """Raise RunnerError if the workers have failed; they must not be closed."""
        assert not self.closed, "the trainer is closed"
        if self._failure is not None:
            raise RunnerError(self._failure)

    def fail(self, message: str) -> NoReturn:
        """Raise RunnerError, now and whenever the workers are asked for something."""
        self._failure = message
        raise RunnerError(message)

    def close(self) -> None:
        """End the workers, which have nothing to save."""
        if self.closed:
            return
        for pid in self._numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._numbers:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the workers without ending them; this process's ends of the pipes are closed."""
        if self.closed:
            return
        self.closed = True
        self._numbers.clear()
        self._close_workers_ends()
        for descriptor in (self._train_write, self._test_write, self._results_read):
            os.close(descriptor)

    def _close_workers_ends(self) -> None:
        """Leave the workers' ends to them, so that their ends show when they have ended."""
        if self._ends is not None:
            for descriptor in astuple(self._ends):
                os.close(descriptor)
            self._ends = None

    def _post(self, pipe: int, task: bytes) -> None:
        """Send a task, or keep it until the pipe has room; tasks of one pipe stay in order."""
        self._backlog[pipe].append(task)
        self._flush()

    def _flush(self) -> None:
        for pipe, backlog in self._backlog.items():
            while backlog:
                try:
                    os.write(pipe, backlog[0])
                except BlockingIOError:
                    break
                except BrokenPipeError:
                    self._check_workers()
                    self.fail("all training workers have ended")
                backlog.popleft()

    def _check_workers(self, options: int = os.WNOHANG) -> None:
        for pid in list(self._numbers):
            try:
                ended, status = os.waitpid(pid, options)
            except ChildProcessError:  # someone else asked for its status first
                ended, status = pid, 0
            if ended:
                del self._numbers[pid]
                code = os.waitstatus_to_exitcode(status)
                cause = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                hint = "; was memory short?" if code == -signal.SIGKILL else ""
                self.fail(f"training worker {pid} {cause}{hint}")


def _pipe() -> tuple[int, int]:
    """A pipe with room for many records, where the system allows it."""
    read, write = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(write, _F_SETPIPE_SZ, _PIPE_BYTES)
    return read, write


# --- the worker process ------------------------------------------------------------


class _ParentGone(Exception):
    """The parent closed its ends of the pipes."""


class PoolWorker:
    """Fetches tasks until the parent is gone."""

    def __init__(
        self,
        learner: Learner,
        memory: SharedRows,
        layout: RowLayout,
        number: int,
        ends: WorkerEnds,
        *,
        background: bool,
    ) -> None:
        self._learner = learner
        self._memory = memory
        self._layout = layout
        self._number = number
        self._ends = ends
        self._background = background

    def run(self) -> NoReturn:
        """Training first, evaluation when there is none, sleep when there is neither."""
        if self._background:
            _stand_back()
        ready = select.poll()
        ready.register(self._ends.train_read, select.POLLIN)
        ready.register(self._ends.test_read, select.POLLIN)
        while True:
            if self._train_one() or self._test_one():
                continue
            ready.poll()

    def report_failure(self, text: str) -> None:
        """Tell the parent why this worker ends."""
        length = self._memory.write_text(self._number, text)
        self._send(FAILED, 0, self._number, length, 0.0, 0.0)

    def _fetch(self, pipe: int) -> tuple[int, int, int, int] | None:
        try:
            record = os.read(pipe, _TASK.size)
        except BlockingIOError:
            return None
        if not record:
            raise _ParentGone
        node, first, second, row = _TASK.unpack(record)
        return node, first, second, row

    def _train_one(self) -> bool:
        task = self._fetch(self._ends.train_read)
        if task is None:
            return False
        node, first_step, count, row = task
        velocity_row = self._layout.velocity(node)
        velocity = None if velocity_row is None else self._tensor(velocity_row)
        loss = self._learner.train(NodeId(node), self._tensor(row), velocity, first_step, count)
        self._send(TRAINED, node, 0, row, loss, 0.0)
        return True

    def _test_one(self) -> bool:
        task = self._fetch(self._ends.test_read)
        if task is None:
            return False
        node, ticket, _, row = task
        evaluation = self._learner.evaluate(NodeId(node), self._tensor(row))
        while True:
            try:
                next(evaluation)
            except StopIteration as end:
                result: Evaluation = end.value
                break
            while self._train_one():  # an evaluation never delays training by more than a batch
                pass
        loss_seen = nan if result.loss_seen is None else result.loss_seen
        self._send(TESTED, node, ticket, row, result.loss, result.accuracy, loss_seen)
        return True

    def _tensor(self, row: int) -> torch.Tensor:
        flat: npt.NDArray[np.float32] = self._memory.row(row)
        return torch.from_numpy(flat)

    def _send(
        self, kind: int, node: int, number: int, row: int, loss: float, accuracy: float, loss_seen: float = 0.0
    ) -> None:
        os.write(self._ends.results_write, _RESULT.pack(kind, node, number, row, loss, accuracy, loss_seen))


def _enter_worker(worker: PoolWorker, parent: int, parents_ends: tuple[int, ...]) -> NoReturn:
    """Run the forked child to its end and never return: nothing may escape into the parent's code."""
    code = 1
    try:
        belong_to(parent)
        for descriptor in parents_ends:
            os.close(descriptor)
        _keep_freed_memory()
        torch.set_num_threads(1)
        worker.run()
    except (_ParentGone, ParentGoneError, BrokenPipeError):
        code = 0
    except BaseException as error:  # the last frame of this process; the parent raises it
        with contextlib.suppress(OSError):
            worker.report_failure(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _stand_back() -> None:
    """Give way to every other process at once.

    With niceness alone a process that wakes up waits for the end of a slice, some milliseconds, now and then.
    """
    os.nice(19)
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or not allowed
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _keep_freed_memory() -> None:
    """Ask glibc not to return freed memory: activations come and go every step, and page faults cost 5
    to 30 %."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        library.mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)
