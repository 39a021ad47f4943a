"""From a node's description to a running node.

The description alone is enough. A parent that has loaded libraries and data may hand over its learner instead, which
its forked children then share page by page; the node itself is built from the same description either way.
"""

import logging
import sys
from collections.abc import Callable
from socket import socket

from node.algorithms.registry import ALGORITHMS
from node.config import NodeConfig
from node.core.algorithm import Algorithm, NodeContext
from node.core.types import NodeId
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
    )
    return ALGORITHMS[config.algorithm.kind].make(context, config.algorithm.parameters)


def run_built(config: NodeConfig, learner: Learner, emulator: socket, read_address: Callable[[], str]) -> int:
    """Build a node and run it to its end, in this process.

    Args:
        config: What it is.
        learner: What it trains with.
        emulator: The node's end of the socket to the link emulator.
        read_address: Gives the orchestrator's address, host:port; waits for it.

    Returns:
        The exit code; see :func:`node.runtime.process.run_node`.
    """
    algorithm = build_algorithm(config)
    # Training stands back behind the network: a late message would be a slower link. Its worker is forked here,
    # before gRPC begins.
    with PoolTrainer(learner, config.network.num_nodes, 1, background=True).start() as trainer:
        return run_node(config, algorithm, trainer, list(trainer.worker_pids), emulator, read_address)


def log_to_stderr(node: NodeId) -> None:
    """Let the log of this process go to its standard error, and nowhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s node {node} %(levelname)s %(message)s"))
    logging.root.handlers = [handler]  # those that a fork inherits are its parent's, and their files are closed
    logging.root.setLevel(logging.INFO)
