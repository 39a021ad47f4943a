"""Puts the pieces of this room together; what the runners call."""

from node.core.errors import ConfigError
from node.core.training import TrainerAndEvaluator
from node.learning.config import ByUserConfig, LearningConfig, check_compatible
from node.learning.partition import Partition, partition
from node.learning.pool import PoolTrainer
from node.learning.samples import Dataset
from node.learning.trainer import InProcessTrainer, Learner


def partition_dataset(config: LearningConfig, dataset: Dataset, num_nodes: int, seed: int) -> Partition:
    """Split a loaded data set among the nodes.

    Raises:
        ConfigError: The split does not fit the data set, or there are too many nodes.
    """
    check_compatible(config)
    targets = dataset.train.targets
    if isinstance(config.partition, ByUserConfig):
        if dataset.kind != "ratings":
            raise ConfigError("learning.partition.kind=by_user: needs ratings")
        users, test_users = dataset.train.inputs[:, 0], dataset.test.inputs[:, 0]
        return partition(config.partition, users, num_nodes, seed, test_users)  # type: ignore[arg-type]
    return partition(config.partition, targets, num_nodes, seed)  # type: ignore[arg-type]


def build_learner(
    config: LearningConfig,
    dataset: Dataset,
    partition: Partition,
    seed: int,
    num_nodes: int,
    max_test_samples: int | None = None,
) -> Learner:
    """The computation of all nodes, without a process or state of its own.

    Built once, before a fork, it is shared by all that are forked: each may make its own
    ``PoolTrainer(learner, num_nodes, workers).start()``.

    Args:
        config: Model, batch size, optimizer and precision.
        dataset: The loaded data set.
        partition: Its split, with ``num_nodes`` entries.
        seed: Decides the initial model, the batches and test subsets.
        num_nodes: Number of nodes.
        max_test_samples: Test on a random subset of at most this size (with local tests: of each node's own).

    Raises:
        ConfigError: The model does not fit the data set.
    """
    check_compatible(config)
    if max_test_samples is not None and max_test_samples < 1:
        raise ConfigError(f"max_test_samples={max_test_samples}: must be at least 1")
    assert len(partition.train_indices) == num_nodes, "the split is for another number of nodes"
    return Learner(config, dataset, partition, seed, max_test_samples)


def start_trainer(learner: Learner, num_nodes: int, workers: int, *, background: bool = False) -> TrainerAndEvaluator:
    """A trainer that also evaluates; close it at the end.

    Args:
        learner: What is computed.
        num_nodes: Number of nodes.
        workers: Number of worker processes; 0 computes in this process, with the same results.
        background: The workers compute only while no other process wants the core.

    Raises:
        ConfigError: This system cannot run workers.
    """
    if workers < 0:
        raise ConfigError(f"workers={workers}: must be at least 0")
    if workers == 0:
        return InProcessTrainer(learner)
    return PoolTrainer(learner, num_nodes, workers, background=background).start()


def build_trainer(
    config: LearningConfig,
    dataset: Dataset,
    partition: Partition,
    seed: int,
    num_nodes: int,
    workers: int,
    max_test_samples: int | None = None,
) -> TrainerAndEvaluator:
    """:func:`build_learner` and :func:`start_trainer` in one."""
    learner = build_learner(config, dataset, partition, seed, num_nodes, max_test_samples)
    return start_trainer(learner, num_nodes, workers)
