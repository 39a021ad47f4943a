"""Local training and evaluation as seen from outside: protocols, results, two trainers without torch.

The simulator and the drivers train through :class:`Trainer` and test through :class:`Evaluator`; the
real ones live in ``node.learning``. :class:`NullTrainer` and :class:`QuadraticTrainer` stand in for
them in tests and benchmarks of everything else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from node.core.types import NodeId, Vector


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Result of a node's local steps."""

    params: Vector
    """The model after the steps, shape (num_params,), float32; fresh or read-only, the caller's to keep."""
    loss: float
    """Training loss, averaged over the steps."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of one model on a node's test samples."""

    accuracy: float
    """Share of correct predictions, 0..1. Ratings: share that, clipped to [0.5, 5] and rounded to
    halves, hit. Not a number without test samples."""
    loss: float
    """Mean cross-entropy; for ratings the root of the mean squared error."""
    samples: int
    """Number of test samples that were used."""
    loss_seen: float | None = None
    """The loss over those ratings whose item some node has a training rating of; None for classes, without such
    ratings, and where it is not a number."""


class Trainer(Protocol):
    """Runs local steps of many nodes; the call that starts them does not wait for them."""

    @property
    def tensor_sizes(self) -> tuple[int, ...]:
        """Number of parameters of each tensor, in the order of the flat vector; the sum is ``num_params``."""

    def initial_params(self) -> Vector:
        """The starting model, the same on all nodes, shape (num_params,), float32. A fresh array."""

    def begin(self, node: NodeId, params: Vector, first_step: int, count: int) -> None:
        """Start ``count`` local steps of a node; at most one call per node may be outstanding.

        Args:
            node: The node whose samples are used.
            params: The model to start from, shape (num_params,), float32. Copied; not modified.
            first_step: How many local steps the node has done before; decides which batches are used.
            count: Number of steps, >= 1.
        """

    def finish(self, node: NodeId) -> TrainingResult:
        """Wait until the node's steps are done.

        Raises:
            RunnerError: Training failed, or a worker process died.
        """

    def reset_momentum(self, node: NodeId) -> None:
        """Set the node's momentum to zero, its value at the start of a run."""

    def close(self) -> None:
        """Free processes and memory. May be called twice."""


class RealTimeTrainer(Trainer, Protocol):
    """A trainer that can be asked without waiting, and whose momentum can be saved."""

    @property
    def ready_fd(self) -> int | None:
        """A descriptor that turns readable when results have come; None when steps run in :meth:`finish` itself.

        Ask :meth:`ready` then, which takes them in.
        """

    def ready(self, node: NodeId) -> bool:
        """Return whether :meth:`finish` would not wait for another process. The node's steps must be outstanding.

        Raises:
            RunnerError: Training failed, or a worker process died.
        """

    def momentum(self, node: NodeId) -> Vector | None:
        """A copy of a node's momentum, shape (num_params,), as it was before outstanding steps; None without momentum.

        So ``set_momentum`` and ``begin`` with what was begun repeat outstanding steps exactly.
        """

    def set_momentum(self, node: NodeId, values: Vector) -> None:
        """Replace a node's momentum; its steps must not be outstanding. Ignored without momentum.

        Args:
            node: The node.
            values: Shape (num_params,), float32. Copied.
        """


class Evaluator(Protocol):
    """Tests models off the experiment's clock."""

    @property
    def num_test_sets(self) -> int:
        """Number of sets of test samples: 1 that all nodes share, or one a node.

        A model that is submitted for node i is tested on set ``i % num_test_sets``; so are numbers beyond the nodes'.
        """

    def submit(self, ticket: int, models: Mapping[NodeId, Vector]) -> None:
        """Queue models for testing under a ticket number of the caller's choice. Copies; may block when
        full."""

    def collect(self, *, wait: bool) -> list[tuple[int, dict[NodeId, Evaluation]]]:
        """The finished tickets, in the order they were submitted; each is handed out once.

        A ticket that is still being tested holds back those after it, so that results arrive in order.

        Args:
            wait: Wait for all outstanding tickets first.
        """


class TrainerAndEvaluator(RealTimeTrainer, Evaluator, Protocol):
    """One object that does both, sharing its worker processes."""

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Ids of the processes that take the steps; empty: the calling process does."""


class _Immediate:
    """Base of the trainers below: their steps run in ``finish``, without momentum."""

    ready_fd = None
    worker_pids = ()

    def ready(self, node: NodeId) -> bool:
        """See :class:`RealTimeTrainer`."""
        return True

    def momentum(self, node: NodeId) -> Vector | None:
        """See :class:`RealTimeTrainer`."""
        return None

    def set_momentum(self, node: NodeId, values: Vector) -> None:
        """See :class:`RealTimeTrainer`."""

    def reset_momentum(self, node: NodeId) -> None:
        """See :class:`RealTimeTrainer`."""

    def close(self) -> None:
        """Nothing to free."""


class NullTrainer(_Immediate):
    """Trains nothing: every step returns its parameters unchanged. For benchmarks of events and messages."""

    def __init__(self, tensor_sizes: tuple[int, ...]) -> None:
        self._tensor_sizes = tensor_sizes
        self._running: dict[NodeId, Vector] = {}

    @property
    def tensor_sizes(self) -> tuple[int, ...]:
        """See :class:`Trainer`."""
        return self._tensor_sizes

    def initial_params(self) -> Vector:
        """Zeros."""
        return np.zeros(sum(self._tensor_sizes), dtype=np.float32)

    def begin(self, node: NodeId, params: Vector, first_step: int, count: int) -> None:
        """See :class:`Trainer`. Nothing is copied: arrays that were handed over are never modified."""
        assert node not in self._running, f"node {node} is already training"
        self._running[node] = params

    def finish(self, node: NodeId) -> TrainingResult:
        """See :class:`Trainer`."""
        params = self._running.pop(node).view()
        params.flags.writeable = False
        return TrainingResult(params=params, loss=0.0)


class QuadraticTrainer(_Immediate):
    """Gradient descent on ``0.5 * ||x - target||^2`` with one target per node: convex, exact and fast.

    The optimum of the whole network is the mean of the targets, which makes consensus and convergence easy to
    check. It has one tensor.
    """

    def __init__(self, targets: npt.NDArray[np.float32], learning_rate: float) -> None:
        """Store the problem.

        Args:
            targets: One row per node, shape (num_nodes, num_params), float32. Not modified.
            learning_rate: Step size; 1 reaches the node's target in one step.
        """
        self._targets = targets
        self._learning_rate = np.float32(learning_rate)
        self._running: dict[NodeId, tuple[Vector, int]] = {}

    @property
    def tensor_sizes(self) -> tuple[int, ...]:
        """See :class:`Trainer`."""
        return (int(self._targets.shape[1]),)

    def initial_params(self) -> Vector:
        """Zeros."""
        return np.zeros(self._targets.shape[1], dtype=np.float32)

    def begin(self, node: NodeId, params: Vector, first_step: int, count: int) -> None:
        """See :class:`Trainer`."""
        assert node not in self._running, f"node {node} is already training"
        self._running[node] = (params.copy(), count)

    def finish(self, node: NodeId) -> TrainingResult:
        """See :class:`Trainer`. The loss of a step is the one before its update."""
        params, count = self._running.pop(node)
        loss = 0.0
        with np.errstate(over="ignore", invalid="ignore"):  # diverges in silence, as torch does
            for _ in range(count):
                gradient = params - self._targets[node]
                loss += 0.5 * float(gradient @ gradient)
                params -= self._learning_rate * gradient
        return TrainingResult(params=params, loss=loss / max(count, 1))
