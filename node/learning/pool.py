"""Training and testing in worker processes, bit for bit as in one process.

Shape: the models lie in one anonymous memory map that parent and workers share, a 64-byte aligned row
per node, trained in place. Tasks and results are small records of fixed size on pipes; a pipe hands
each record to exactly one reader, so workers fetch their own work while the parent simulates. Training
and evaluation have a pipe each, and a worker looks into the training pipe before each batch of an
evaluation. Nothing is pickled, and no file is made that could be left behind.

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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch

from node.core.errors import ConfigError, RunnerError
from node.core.training import Evaluation, TrainingResult
from node.core.types import NodeId, Vector
from node.host.forked import ParentGoneError, belong_to
from node.learning.trainer import Learner

_TASK = struct.Struct("<qqqq")
"""Training: node, first step, count, row. Evaluation: node, ticket, 0, row."""
_RESULT = struct.Struct("<qqqqdd")
"""Kind, node, ticket or worker, row or length of the error text; loss, accuracy."""
_TRAINED, _TESTED, _FAILED = 0, 1, 2

_ROW_ALIGNMENT_BYTES = 64
_ERROR_TEXT_BYTES = 4096
_EVALUATION_ROWS_BYTES = 384 * 2**20
"""Room for models that wait for a test: 1,000 of GN-LeNet. Pages are only used once touched."""
_LIVENESS_CHECK_S = 0.2
_PIPE_BYTES = 2**20
_READ_BYTES = 1024 * _RESULT.size

_F_SETPIPE_SZ = 1031
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(slots=True)
class _Ticket:
    nodes: tuple[NodeId, ...]
    results: dict[NodeId, Evaluation] = field(default_factory=dict)


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


class _Layout:
    """Assignment of the memory's rows to nodes and tests."""

    def __init__(self, num_nodes: int, momentum: bool, evaluation_rows: int) -> None:
        self._velocities = num_nodes if momentum else None
        first = num_nodes * (2 if momentum else 1)
        self.evaluation = range(first, first + evaluation_rows)
        self.num_rows = first + evaluation_rows

    def velocity(self, node: int) -> int | None:
        """The row of a node's momentum; None without momentum. A node's model is in the row of its number."""
        return None if self._velocities is None else self._velocities + node


class PoolTrainer:
    """Trains and tests in worker processes; see the protocols in node.core.training.

    Make it with :meth:`start` in a thread that lives as long as the run (the kernel ties the workers'
    lives to that thread), and close it, or use it as a context manager.
    """

    def __init__(self, learner: Learner, num_nodes: int, workers: int, *, background: bool = False) -> None:
        """Store what :meth:`start` needs.

        Args:
            learner: The computation; workers get it by fork.
            num_nodes: Number of nodes.
            workers: Number of processes, >= 1.
            background: The workers compute only while no other process wants the core.
        """
        self._learner = learner
        self._background = background
        self._num_nodes = num_nodes
        self._num_workers = workers
        self._pids: dict[int, int] = {}  # process id -> worker number; emptied by close
        self._outstanding: set[NodeId] = set()
        self._trained: dict[NodeId, float] = {}  # loss of finished steps, until they are handed out
        self._momentum_before: dict[NodeId, Vector] = {}  # of the outstanding nodes; workers change the row in place
        self._tickets: dict[int, _Ticket] = {}  # in the order of submission
        self._failure: str | None = None
        self._closed = False
        self._checked_s = 0.0

    @property
    def tensor_sizes(self) -> tuple[int, ...]:
        """See Trainer."""
        return self._learner.model.tensor_sizes

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of the workers that are thought to be alive."""
        return tuple(self._pids)

    def start(self) -> "PoolTrainer":
        """Map memory, open pipes and fork the workers.

        Raises:
            ConfigError: This system cannot fork.
        """
        if not hasattr(os, "fork"):
            raise ConfigError(f"workers={self._num_workers}: this system has no fork; use workers=0")
        num_params = self._learner.model.num_params
        wanted = _EVALUATION_ROWS_BYTES // (4 * num_params)
        spare = max(2 * self._num_workers, min(wanted, 2 * self._num_nodes))
        self._layout = _Layout(self._num_nodes, self._learner.has_momentum, spare)
        self._memory = SharedRows(self._layout.num_rows, num_params, self._num_workers)
        self._free_rows = list(reversed(self._layout.evaluation))
        train_read, self._train_write = _pipe()
        test_read, self._test_write = _pipe()
        self._results_read, results_write = _pipe()
        self._backlog: dict[int, deque[bytes]] = {self._train_write: deque(), self._test_write: deque()}
        os.set_blocking(train_read, False)
        os.set_blocking(test_read, False)
        os.set_blocking(self._train_write, False)
        os.set_blocking(self._test_write, False)
        os.set_blocking(self._results_read, False)
        parent = os.getpid()
        try:
            for number in range(self._num_workers):
                pid = os.fork()
                if pid == 0:
                    _enter_worker(
                        _Worker(
                            self._learner,
                            self._memory,
                            self._layout,
                            number,
                            train_read,
                            test_read,
                            results_write,
                            self._background,
                        ),
                        parent,
                        (self._train_write, self._test_write, self._results_read),
                    )
                self._pids[pid] = number
        except OSError as error:
            self.close()
            raise RunnerError(f"cannot start training worker: {error}") from error
        finally:
            for descriptor in (train_read, test_read, results_write):
                os.close(descriptor)
        self._poll = select.poll()
        self._poll.register(self._results_read, select.POLLIN)
        return self

    def __enter__(self) -> "PoolTrainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def initial_params(self) -> Vector:
        """See Trainer."""
        initial: Vector = self._learner.model.initial().numpy()
        return initial

    # --- training ---

    def begin(self, node: NodeId, params: Vector, first_step: int, count: int) -> None:
        """See Trainer."""
        assert not self._closed, "the trainer is closed"
        assert node not in self._outstanding, f"node {node} is already training"
        before = self.momentum(node)
        if before is not None:
            self._momentum_before[node] = before
        self._outstanding.add(node)
        self._memory.row(node)[:] = params
        with contextlib.suppress(RunnerError):  # finish tells, where nobody is in the middle of anything
            self._post(self._train_write, _TASK.pack(node, first_step, count, node))

    def finish(self, node: NodeId) -> TrainingResult:
        """See Trainer."""
        self._check_usable()
        assert node in self._outstanding, f"node {node} is not training"
        while node not in self._trained:
            self._receive(wait=True)
        self._outstanding.remove(node)
        self._momentum_before.pop(node, None)
        return TrainingResult(params=self._memory.row(node).copy(), loss=self._trained.pop(node))

    @property
    def ready_fd(self) -> int:
        """See RealTimeTrainer. It also turns readable when all workers have ended, which :meth:`ready` tells."""
        return self._results_read

    def ready(self, node: NodeId) -> bool:
        """See RealTimeTrainer. That one worker of several died is noticed by asking again later."""
        assert node in self._outstanding, f"node {node} is not training"
        if node not in self._trained:
            self._receive(wait=False)
        return node in self._trained

    def momentum(self, node: NodeId) -> Vector | None:
        """See RealTimeTrainer."""
        if node in self._momentum_before:
            return self._momentum_before[node].copy()
        row = self._layout.velocity(node)
        return None if row is None else self._memory.row(row).copy()

    def set_momentum(self, node: NodeId, values: Vector) -> None:
        """See RealTimeTrainer."""
        assert node not in self._outstanding, f"node {node} is training"
        row = self._layout.velocity(node)
        if row is not None:
            self._memory.row(row)[:] = values

    def reset_momentum(self, node: NodeId) -> None:
        """See RealTimeTrainer."""
        self.set_momentum(node, np.zeros(self._learner.model.num_params, dtype=np.float32))

    # --- evaluation ---

    def submit(self, ticket: int, models: Mapping[NodeId, Vector]) -> None:
        """See Evaluator. Blocks while all rows for tests are taken."""
        self._check_usable()
        assert ticket not in self._tickets, f"ticket {ticket} is already in use"
        self._tickets[ticket] = _Ticket(tuple(models))
        for node, params in models.items():
            while not self._free_rows:
                self._receive(wait=True)
            row = self._free_rows.pop()
            self._memory.row(row)[:] = params
            self._post(self._test_write, _TASK.pack(node, ticket, 0, row))

    def collect(self, *, wait: bool) -> list[tuple[int, dict[NodeId, Evaluation]]]:
        """See Evaluator."""
        self._check_usable()
        self._receive(wait=False)
        while wait and any(len(ticket.results) < len(ticket.nodes) for ticket in self._tickets.values()):
            self._receive(wait=True)
        finished: list[tuple[int, dict[NodeId, Evaluation]]] = []
        for number, ticket in list(self._tickets.items()):
            if len(ticket.results) < len(ticket.nodes):
                break
            finished.append((number, {node: ticket.results[node] for node in ticket.nodes}))
            del self._tickets[number]
        return finished

    # --- end ---

    def close(self) -> None:
        """See Trainer. What is outstanding is dropped; the workers have nothing to save."""
        if self._closed:
            return
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the workers without ending them; for a process that inherited this object by a fork.

        Its own ends of the pipes are closed, so that the workers still notice when their parent is gone.
        """
        if self._closed:
            return
        self._closed = True
        self._pids.clear()
        if hasattr(self, "_memory"):
            for descriptor in (self._train_write, self._test_write, self._results_read):
                os.close(descriptor)
            self._memory.close()

    # --- pipes ---

    def _check_usable(self) -> None:
        assert not self._closed, "the trainer is closed"
        if self._failure is not None:
            raise RunnerError(self._failure)

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
                    self._fail("all training workers have ended")
                backlog.popleft()

    def _receive(self, *, wait: bool) -> None:
        """Take in results; with ``wait``, until there is one or a short time has passed.

        Raises:
            RunnerError: A worker died or reported an error.
        """
        self._check_usable()
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
            return
        if not records:  # the end of the pipe: all are about to be gone, if they are not
            self._check_workers(options=0)
            self._fail("all training workers have ended")
        for record in _RESULT.iter_unpack(records):
            self._take(*record)

    def _take(self, kind: int, node: int, number: int, row: int, loss: float, accuracy: float) -> None:
        if kind == _TRAINED:
            self._trained[NodeId(node)] = loss
        elif kind == _TESTED:
            self._free_rows.append(row)
            samples = self._learner.num_test_samples(NodeId(node))
            self._tickets[number].results[NodeId(node)] = Evaluation(accuracy, loss, samples)
        else:
            self._fail(f"training worker failed: {self._memory.read_text(number, row)}")

    def _check_workers(self, options: int = os.WNOHANG) -> None:
        for pid in list(self._pids):
            try:
                ended, status = os.waitpid(pid, options)
            except ChildProcessError:  # someone else asked for its status first
                ended, status = pid, 0
            if ended:
                del self._pids[pid]
                code = os.waitstatus_to_exitcode(status)
                cause = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                hint = "; was memory short?" if code == -signal.SIGKILL else ""
                self._fail(f"training worker {pid} {cause}{hint}")

    def _fail(self, message: str) -> NoReturn:
        self._failure = message
        raise RunnerError(message)


def _pipe() -> tuple[int, int]:
    """A pipe with room for many records, where the system allows it."""
    read, write = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(write, _F_SETPIPE_SZ, _PIPE_BYTES)
    return read, write


# --- the worker process ------------------------------------------------------------


class _ParentGone(Exception):
    """The parent closed its ends of the pipes."""


class _Worker:
    """Fetches tasks until the parent is gone."""

    def __init__(
        self,
        learner: Learner,
        memory: SharedRows,
        layout: _Layout,
        number: int,
        train_read: int,
        test_read: int,
        results_write: int,
        background: bool,
    ) -> None:
        self._learner = learner
        self._memory = memory
        self._layout = layout
        self._number = number
        self._train_read = train_read
        self._test_read = test_read
        self._results_write = results_write
        self._background = background

    def run(self) -> NoReturn:
        """Training first, evaluation when there is none, sleep when there is neither."""
        if self._background:
            _stand_back()
        ready = select.poll()
        ready.register(self._train_read, select.POLLIN)
        ready.register(self._test_read, select.POLLIN)
        while True:
            if self._train_one() or self._test_one():
                continue
            ready.poll()

    def report_failure(self, text: str) -> None:
        """Tell the parent why this worker ends."""
        length = self._memory.write_text(self._number, text)
        self._send(_FAILED, 0, self._number, length, 0.0, 0.0)

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
        task = self._fetch(self._train_read)
        if task is None:
            return False
        node, first_step, count, row = task
        velocity_row = self._layout.velocity(node)
        velocity = None if velocity_row is None else self._tensor(velocity_row)
        loss = self._learner.train(NodeId(node), self._tensor(row), velocity, first_step, count)
        self._send(_TRAINED, node, 0, row, loss, 0.0)
        return True

    def _test_one(self) -> bool:
        task = self._fetch(self._test_read)
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
        self._send(_TESTED, node, ticket, row, result.loss, result.accuracy)
        return True

    def _tensor(self, row: int) -> torch.Tensor:
        flat: npt.NDArray[np.float32] = self._memory.row(row)
        return torch.from_numpy(flat)

    def _send(self, kind: int, node: int, number: int, row: int, loss: float, accuracy: float) -> None:
        os.write(self._results_write, _RESULT.pack(kind, node, number, row, loss, accuracy))


def _enter_worker(worker: _Worker, parent: int, parents_ends: tuple[int, ...]) -> NoReturn:
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
