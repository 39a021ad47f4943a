"""Training and testing in worker processes, bit for bit as in one process.

Shape: the models lie in one anonymous memory map that parent and workers share, a 64-byte aligned row
per node, trained in place. Tasks and results are small records of fixed size on pipes; a pipe hands
each record to exactly one reader, so workers fetch their own work while the parent simulates. Training
and evaluation have a pipe each, and a worker looks into the training pipe before each batch of an
evaluation. Nothing is pickled, and no file is made that could be left behind.

The workers themselves, and what makes the fork safe, stand in :mod:`node.learning.pool_workers`.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan

import numpy as np

from node.core.errors import ConfigError, RunnerError
from node.core.training import Evaluation, TrainingResult
from node.core.types import NodeId, Vector
from node.learning.pool_workers import (
    TESTED,
    TRAINED,
    PoolWorker,
    RowLayout,
    SharedRows,
    WorkerEnds,
    WorkerProcesses,
)
from node.learning.trainer import Learner

_EVALUATION_ROWS_BYTES = 384 * 2**20
"""Room for models that wait for a test: 1,000 of GN-LeNet. Pages are only used once touched."""


@dataclass(slots=True)
class _Ticket:
    nodes: tuple[NodeId, ...]
    results: dict[NodeId, Evaluation] = field(default_factory=dict)


class PoolTrainer:
    """Trains and tests in worker processes; see the protocols in node.core.training.

    Make it with :meth:`start` in a thread that lives as long as the run (the kernel ties the workers'
    lives to that thread), and close it, or use it as a context manager.
    """

    def __init__(self, learner: Learner, num_nodes: int, workers: int, *, background: bool = False) -> None:
        """Map the memory and open the pipes that the workers will share.

        Args:
            learner: The computation; workers get it by fork.
            num_nodes: Number of nodes.
            workers: Number of processes, >= 1.
            background: The workers compute only while no other process wants the core.
        """
        num_params = learner.model.num_params
        wanted = _EVALUATION_ROWS_BYTES // (4 * num_params)
        self._learner = learner
        self.num_test_sets = learner.num_test_sets  # see Evaluator
        self._background = background
        self._num_workers = workers
        self._layout = RowLayout(num_nodes, learner.has_momentum, max(2 * workers, min(wanted, 2 * num_nodes)))
        self._memory = SharedRows(self._layout.num_rows, num_params, workers)
        self._free_rows = list(reversed(self._layout.evaluation))
        self._workers = WorkerProcesses()
        self._outstanding: set[NodeId] = set()
        self._trained: dict[NodeId, float] = {}  # loss of finished steps, until they are handed out
        self._momentum_before: dict[NodeId, Vector] = {}  # of the outstanding nodes; workers change the row in place
        self._tickets: dict[int, _Ticket] = {}  # in the order of submission

    @property
    def tensor_sizes(self) -> tuple[int, ...]:
        """See Trainer."""
        return self._learner.model.tensor_sizes

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of the workers that are thought to be alive."""
        return self._workers.pids

    def start(self) -> "PoolTrainer":
        """Fork the workers.

        Raises:
            ConfigError: This system cannot fork.
            RunnerError: The system refuses another process.
        """
        if not hasattr(os, "fork"):
            self.close()
            raise ConfigError(f"workers={self._num_workers}: this system has no fork; use workers=0")
        try:
            self._workers.start(self._num_workers, self._make_worker)
        except RunnerError:
            self.close()
            raise
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
        assert not self._workers.closed, "the trainer is closed"
        assert node not in self._outstanding, f"node {node} is already training"
        before = self.momentum(node)
        if before is not None:
            self._momentum_before[node] = before
        self._outstanding.add(node)
        self._memory.row(node)[:] = params
        with contextlib.suppress(RunnerError):  # finish tells, where nobody is in the middle of anything
            self._workers.train(node, first_step, count, row=node)

    def finish(self, node: NodeId) -> TrainingResult:
        """See Trainer."""
        self._workers.check_usable()
        assert node in self._outstanding, f"node {node} is not training"
        while node not in self._trained:
            self._receive(wait=True)
        self._outstanding.remove(node)
        self._momentum_before.pop(node, None)
        return TrainingResult(params=self._memory.row(node).copy(), loss=self._trained.pop(node))

    @property
    def ready_fd(self) -> int:
        """See RealTimeTrainer. It also turns readable when all workers have ended, which :meth:`ready` tells."""
        return self._workers.results_fd

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
        self._workers.check_usable()
        assert ticket not in self._tickets, f"ticket {ticket} is already in use"
        self._tickets[ticket] = _Ticket(tuple(models))
        for node, params in models.items():
            while not self._free_rows:
                self._receive(wait=True)
            row = self._free_rows.pop()
            self._memory.row(row)[:] = params
            self._workers.test(node, ticket, row)

    def collect(self, *, wait: bool) -> list[tuple[int, dict[NodeId, Evaluation]]]:
        """See Evaluator."""
        self._workers.check_usable()
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
        self._workers.close()
        self._memory.close()

    def abandon(self) -> None:
        """Let go of the workers without ending them; for a process that inherited this object by a fork.

        Its own ends of the pipes are closed, so that the workers still notice when their parent is gone.
        """
        self._workers.abandon()
        self._memory.close()

    # --- workers ---

    def _make_worker(self, number: int, ends: WorkerEnds) -> PoolWorker:
        return PoolWorker(self._learner, self._memory, self._layout, number, ends, background=self._background)

    def _receive(self, *, wait: bool) -> None:
        """Take in results; with ``wait``, until there is one or a short time has passed.

        Raises:
            RunnerError: A worker died or reported an error.
        """
        for kind, node, number, row, loss, accuracy, loss_seen in self._workers.receive(wait=wait):
            if kind == TRAINED:
                self._trained[NodeId(node)] = loss
            elif kind == TESTED:
                self._free_rows.append(row)
                samples = self._learner.num_test_samples(NodeId(node))
                self._tickets[number].results[NodeId(node)] = Evaluation(
                    accuracy, loss, samples, None if isnan(loss_seen) else loss_seen
                )
            else:
                self._workers.fail(f"training worker failed: {self._memory.read_text(number, row)}")
