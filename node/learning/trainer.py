"""Local steps: the computation itself, and a trainer that does it in the calling process.

A node's batches are a pure function of (seed, node, step), so any process can run any node's steps, and
a run does not depend on how the steps were spread over processes. All computation is on one torch
thread: results depend on the number of threads, and with many nodes it is better to run several nodes
side by side.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from node.core.rng import stream
from node.core.training import Evaluation, TrainingResult
from node.core.types import IndexVector, NodeId, Vector
from node.learning.config import LearningConfig
from node.learning.evaluate import Score, evaluation_batches, num_test_samples, test_subsets
from node.learning.flatten import FlatModel
from node.learning.models import build_model
from node.learning.partition import Partition
from node.learning.samples import Dataset, Samples


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one torch thread, then restore the number of threads."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Batches:
    """The samples of a node's steps: a shuffle per epoch, cut into batches, the last one shorter.

    Source of ``each_round``: sacs-epfl/decentralizepy, ``Training.train``, which makes a new loader every round.
    """

    def __init__(
        self, train_indices: tuple[IndexVector, ...], batch_size: int, seed: int, *, each_round: bool = False
    ) -> None:
        """Store the samples.

        Args:
            train_indices: Per node its positions in the training samples.
            batch_size: Samples of a step.
            seed: Decides the shuffles.
            each_round: Whether the steps of each call of :meth:`steps`, a round, begin with a new shuffle.
        """
        self._train_indices = train_indices
        self._batch_size = batch_size
        self._seed = seed
        self._each_round = each_round
        self._shuffles: dict[NodeId, tuple[int, IndexVector]] = {}  # of each node's last epoch

    def steps(self, node: NodeId, first_step: int, count: int) -> Iterator[IndexVector]:
        """Positions in the training samples for each of ``count`` steps, each of shape (<= batch_size,)."""
        own = self._train_indices[node]
        per_epoch = -(-len(own) // self._batch_size)
        if self._each_round:
            for begin in range(first_step, first_step + count, per_epoch):
                shuffled = own[stream(self._seed, "batches-of-round", node, begin).permutation(len(own))]
                for start in range(0, min(per_epoch, first_step + count - begin) * self._batch_size, self._batch_size):
                    yield shuffled[start : start + self._batch_size]
            return
        epoch, shuffled = self._shuffles.get(node, (-1, own))
        for step in range(first_step, first_step + count):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                shuffled = own[stream(self._seed, "batches", node, epoch).permutation(len(own))]
                self._shuffles[node] = epoch, shuffled
            start = step % per_epoch * self._batch_size
            yield shuffled[start : start + self._batch_size]


class Inputs:
    """Gathers samples as tensors; images become float32 in -1..1, channels-last."""

    def __init__(self, samples: Samples) -> None:
        self._images = samples.inputs.ndim == 4
        inputs = np.asarray(samples.inputs)
        self._inputs = inputs.transpose(0, 2, 3, 1) if self._images else inputs
        self._targets = np.asarray(samples.targets)

    def gather(self, chosen: npt.NDArray[np.int64] | slice) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the chosen samples; fresh tensors."""
        if isinstance(chosen, slice):  # a view of read-only memory; an index array makes fresh arrays
            chosen = np.arange(chosen.start, chosen.stop)
        targets = torch.from_numpy(self._targets[chosen])
        inputs = torch.from_numpy(self._inputs[chosen])
        if not self._images:
            return inputs, targets
        return inputs.permute(0, 3, 1, 2).to(torch.float32).mul_(2 / 255).sub_(1), targets


class Learner:
    """Everything that computing a node's steps or testing its model needs; holds no node's state.

    Attributes:
        model: Its parameters are bound to whichever flat tensor is worked on.
        has_momentum: Whether :meth:`train` wants a velocity.
    """

    def __init__(
        self,
        config: LearningConfig,
        dataset: Dataset,
        partition: Partition,
        seed: int,
        max_test_samples: int | None,
    ) -> None:
        self.model = FlatModel(build_model(config.model, dataset, seed))
        self.has_momentum = config.optimizer.momentum > 0
        self._optimizer = config.optimizer
        self._bfloat16 = config.precision == "bfloat16"
        self._ratings = dataset.kind == "ratings"
        self._batches = Batches(
            partition.train_indices, config.batch_size, seed, each_round=config.reshuffle == "round"
        )
        self._train = Inputs(dataset.train)
        self._test = Inputs(dataset.test)
        self._seen = None if dataset.seen is None else torch.from_numpy(dataset.seen)
        self._test_shape = dataset.test.shape
        self._subsets = test_subsets(partition, len(dataset.test), max_test_samples, seed)

    def train(self, node: NodeId, params: Tensor, velocity: Tensor | None, first_step: int, count: int) -> float:
        """Take local steps in place.

        Args:
            node: Whose samples.
            params: Flat model, shape (num_params,), float32. Updated in place.
            velocity: Momentum buffer of the same shape, zero before the first step; None without momentum.
            first_step: Steps the node has done before.
            count: Steps to take.

        Returns:
            The mean training loss, each step's measured before its update.
        """
        self.model.bind(params)
        total = 0.0
        for chosen in self._batches.steps(node, first_step, count):
            inputs, targets = self._train.gather(chosen)
            with self._precision():
                loss = self._loss(self.model.module(inputs), targets)
            self.model.backward(loss)
            self._update(params, velocity)
            total += loss.item()
        return total / count

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets) if self._ratings else F.cross_entropy(outputs, targets)

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", dtype=torch.bfloat16) if self._bfloat16 else nullcontext()

    @torch.no_grad()
    def _update(self, params: Tensor, velocity: Tensor | None) -> None:
        """One SGD update of the flat vector, as torch.optim.SGD would do it tensor by tensor."""
        step = self.model.gradient
        if self._optimizer.weight_decay > 0:
            step.add_(params, alpha=self._optimizer.weight_decay)
        if velocity is not None:
            step = velocity.mul_(self._optimizer.momentum).add_(step)
        params.add_(step, alpha=-self._optimizer.learning_rate)

    def evaluate(self, node: NodeId, params: Tensor) -> Generator[None, None, Evaluation]:
        """Test a model, yielding after every batch so that the caller may do something more urgent in
        between."""
        score = Score(self._ratings)
        chosen = self._subsets[node % len(self._subsets)]
        for batch in evaluation_batches(chosen, self._test_shape):
            with torch.inference_mode(), self._precision():
                self.model.bind(params)
                inputs, targets = self._test.gather(batch)
                score.add(self.model.module(inputs), targets, None if self._seen is None else self._seen[batch])
            yield
        return score.result()

    @property
    def num_test_sets(self) -> int:
        """See Evaluator."""
        return len(self._subsets)

    def num_test_samples(self, node: NodeId) -> int:
        """Number of test samples that a node's model is tested on."""
        return num_test_samples(self._subsets[node % len(self._subsets)])


class InProcessTrainer:
    """Trains and tests in the calling process; see the protocols in node.core.training.

    Steps run when they are waited for, and evaluations when they are submitted.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._running: dict[NodeId, tuple[Vector, int, int]] = {}
        self._velocities: dict[NodeId, Tensor] = {}
        self._tested: list[tuple[int, dict[NodeId, Evaluation]]] = []

    worker_pids = ()

    @property
    def tensor_sizes(self) -> tuple[int, ...]:
        """See Trainer."""
        return self._learner.model.tensor_sizes

    def initial_params(self) -> Vector:
        """See Trainer."""
        initial: Vector = self._learner.model.initial().numpy()
        return initial

    def begin(self, node: NodeId, params: Vector, first_step: int, count: int) -> None:
        """See Trainer."""
        assert node not in self._running, f"node {node} is already training"
        self._running[node] = (params.copy(), first_step, count)

    def finish(self, node: NodeId) -> TrainingResult:
        """See Trainer."""
        params, first_step, count = self._running.pop(node)
        flat = torch.from_numpy(params).clone()  # torch's memory is aligned as the pool's rows are
        velocity = self._velocity(node)
        with one_thread():
            loss = self._learner.train(node, flat, velocity, first_step, count)
        return TrainingResult(params=flat.numpy(), loss=loss)

    def _velocity(self, node: NodeId) -> Tensor | None:
        if not self._learner.has_momentum:
            return None
        return self._velocities.setdefault(node, torch.zeros(self._learner.model.num_params))

    # Steps run in ``finish``: until then nothing is ready sooner, and no momentum has changed.

    ready_fd = None

    def ready(self, node: NodeId) -> bool:
        """See RealTimeTrainer."""
        assert node in self._running, f"node {node} is not training"
        return True

    def momentum(self, node: NodeId) -> Vector | None:
        """See RealTimeTrainer."""
        velocity = self._velocity(node)
        if velocity is None:
            return None
        values: Vector = velocity.numpy().copy()
        return values

    def set_momentum(self, node: NodeId, values: Vector) -> None:
        """See RealTimeTrainer."""
        assert node not in self._running, f"node {node} is training"
        if self._learner.has_momentum:
            self._velocities[node] = torch.tensor(values)

    def reset_momentum(self, node: NodeId) -> None:
        """See RealTimeTrainer."""
        self.set_momentum(node, np.zeros(self._learner.model.num_params, dtype=np.float32))

    @property
    def num_test_sets(self) -> int:
        """See Evaluator."""
        return self._learner.num_test_sets

    def submit(self, ticket: int, models: Mapping[NodeId, Vector]) -> None:
        """See Evaluator."""
        results: dict[NodeId, Evaluation] = {}
        with one_thread():
            for node, params in models.items():
                results[node] = run_to_end(self._learner.evaluate(node, torch.tensor(params)))
        self._tested.append((ticket, results))

    def collect(self, *, wait: bool) -> list[tuple[int, dict[NodeId, Evaluation]]]:
        """See Evaluator."""
        tested, self._tested = self._tested, []
        return tested

    def close(self) -> None:
        """See Trainer."""


def run_to_end(evaluation: Generator[None, None, Evaluation]) -> Evaluation:
    """The value that a generator returns at its end."""
    while True:
        try:
            next(evaluation)
        except StopIteration as end:
            result: Evaluation = end.value
            return result
