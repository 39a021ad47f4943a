"""From a node's description to a running node.

The description alone is enough. A parent that has loaded libraries and data may hand over its learner instead, which
its forked children then share page by page; the node itself is built from the same description either way.
"""

import logging
import sys
from pathlib import Path

import numpy as np

from node.algorithms.registry import ALGORITHMS
from node.config import NodeConfig
from node.core.algorithm import Algorithm, NodeContext
from node.core.errors import ConfigError, DataError
from node.core.types import NodeId
from node.emulation.door import connect_to_emulator
from node.learning.build import build_learner
from node.learning.datasets import load_dataset
from node.learning.partition import Partition
from node.learning.pool import PoolTrainer
from node.learning.trainer import Learner
from node.runtime.process import run_node


def build_algorithm(config: NodeConfig) -> Algorithm:
    """Make the node's algorithm, not begun."""
    context = NodeContext(
        node=config.node,
        topology=config.topology,
        tensor_sizes=config.tensor_sizes,
        local_steps=config.algorithm.local_steps,
        seed=config.seed,
        stream_key=config.node + life * config.network.num_nodes if (life := config.beginning.life) else None,
    )
    return ALGORITHMS[config.algorithm.kind].make(context, config.algorithm.parameters)


def load_learner(config: NodeConfig) -> Learner:
    """Load the data that a node's description names, and make what the node trains with.

    It knows this node's samples only, and tests on all test samples: a node does not test.

    Raises:
        ConfigError: The data here are not those that the description was made for.
        DataError: They cannot be had.
    """
    learning, nodes = config.learning, config.network.num_nodes
    root = None if config.data_root is None else Path(config.data_root)
    if root is not None and not root.is_dir():
        raise ConfigError(f"data_root={root}: is not a directory")
    try:
        dataset = load_dataset(learning.dataset, root, config.seed)
    except OSError as error:
        raise DataError(f"learning.dataset.kind={learning.dataset.kind}: cannot be read ({error})") from error
    last, samples = int(config.train_indices.max()), len(dataset.train)
    if last >= samples:
        raise ConfigError(f"train_indices: has position {last}: must be below {samples}, the samples that are here")
    none = np.empty(0, dtype=np.int64)
    split = Partition(tuple(config.train_indices if node == config.node else none for node in range(nodes)), None)
    learner = build_learner(learning, dataset, split, config.seed, nodes)
    if (sizes := learner.model.tensor_sizes) != config.tensor_sizes:
        raise ConfigError(f"tensor_sizes={list(config.tensor_sizes)}: must be {list(sizes)} for the data that are here")
    return learner


def run_built(config: NodeConfig, learner: Learner) -> int:
    """Build a node and run it to its end, in this process.

    Args:
        config: What it is.
        learner: What it trains with.

    Returns:
        The exit code; see :func:`node.runtime.process.run_node`.

    Raises:
        RunnerError: The link emulator cannot be reached, or does not admit the node.
    """
    algorithm = build_algorithm(config)
    # Step 1: the training worker. It is forked before there is a connection that it would hold open, and before gRPC
    # begins. It stands back behind the network: a late message would be a slower link.
    with PoolTrainer(learner, config.network.num_nodes, 1, background=True).start() as trainer:
        # Step 2: the emulator, if there is one; else links are direct. Step 3: the node's life.
        emulator = None
        if config.emulator is not None:
            emulator = connect_to_emulator(config.emulator, config.node, config.start_timeout_s)
        return run_node(config, algorithm, trainer, list(trainer.worker_pids), emulator)


def log_to_stderr(node: NodeId) -> None:
    """Let the log of this process go to its standard error, and nowhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s node {node} %(levelname)s %(message)s"))
    logging.root.handlers = [handler]  # those that a fork inherits are its parent's, and their files are closed
    logging.root.setLevel(logging.INFO)
