"""The base of the algorithms' declared parameters, and the traffic that follows from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

from node.config_base import ConfigModel
from node.core.bounds import EDGES_MAX
from node.core.errors import ConfigError
from node.core.topology import Topology, full
from node.core.types import NodeId

QueuePolicy = Literal["flushed", "waited_for", "kept"]
"""Fate of the messages that a node has not sent when it queues those of its next round.

``flushed``: they are dropped. ``waited_for``: there are none, because the node, or whoever asks it, waits for them.
``kept``: they stay, so that a queue grows without bound where a link carries less than it is given.
"""


@dataclass(frozen=True, slots=True)
class RoundTraffic:
    """Messages that one node queues in a round: the mean over rounds, where all nodes are equally fast.

    Attributes:
        models: Their values, counted in whole models; answers to others included. Infinite where a node always has
            something to send, so that its links set the rate.
        messages: How many there are, those without values included; each takes a header.
        queue: Fate of those that are not sent when the next ones come.
        note: A remark for whoever compares algorithms; empty if there is none.
    """

    models: float
    messages: float
    queue: QueuePolicy
    note: str = ""


class AlgorithmConfig(ConfigModel):
    """Parameters of one algorithm; each lives beside its algorithm.

    ``needs_every_message`` says that a lost message would stop the algorithm for good, and ``is_synchronous`` that
    nodes wait for each other in every round, so that one whose rounds are over stops those that have more to do.
    ``small_run`` are parameters for a run of a few nodes on ``small_graph``, a graph on an even number of nodes that
    the algorithm accepts: with them the tests that every algorithm must pass run it.
    """

    needs_every_message: ClassVar[bool] = False
    is_synchronous: ClassVar[bool] = False
    small_run: ClassVar[Mapping[str, object]] = {}
    small_graph: ClassVar[Callable[[int], Topology]] = staticmethod(full)

    @property
    def goes_on_without_peers(self) -> bool:
        """True if nodes go on when a peer ends, and take it in again when it comes back."""
        return not self.needs_every_message

    def check(self, topology: Topology, tensor_sizes: tuple[int, ...]) -> None:
        """Refuse parameters that do not fit the network or the model.

        Raises:
            ConfigError: One line ``key=value: bound``, the key relative to the algorithm's section.
        """

    def traffic(self, topology: Topology, node: NodeId) -> RoundTraffic:
        """Say what a node sends a round; every registered algorithm does, here and nowhere else.

        Plans and reports compare it with the links, and a test with what a simulation counts.
        """
        raise NotImplementedError(f"{type(self).__name__} must say its traffic")


def requests_received(topology: Topology, node: NodeId, sent: float) -> float:
    """Mean number of requests that a node gets a round, where each node asks ``sent`` neighbors drawn uniformly."""
    return sent * _asked_by_each(topology)[node]


@lru_cache(maxsize=8)
def _asked_by_each(topology: Topology) -> tuple[float, ...]:
    """Sum of 1 / degree over the neighbors of each node. Cached, as it is asked for every node."""
    degrees = [topology.degree(node) for node in range(topology.num_nodes)]
    if min(degrees) == max(degrees):  # also the full graph, whose edges would take long to walk
        return tuple(float(degree > 0) for degree in degrees)
    return tuple(sum(1 / degrees[peer] for peer in neighbors) for neighbors in topology.adjacency)


def check_edges(topology: Topology) -> None:
    """Refuse a graph that has too many edges for an algorithm which sends along each of them, and gives it a weight."""
    if topology.num_edges > EDGES_MAX:
        raise ConfigError(
            f"topology: must have at most {EDGES_MAX:,} edges, each of which has a weight, has {topology.num_edges:,}"
            f" (nodes={topology.num_nodes})"
        )


def check_recipients(key: str, recipients: int, topology: Topology) -> None:
    """Refuse more distinct recipients than some node has neighbors."""
    fewest = min(topology.degree(node) for node in range(topology.num_nodes))
    if recipients > fewest:
        raise ConfigError(
            f"{key}={recipients}: must be at most {fewest}, the smallest number of neighbors of a node"
            f" (nodes={topology.num_nodes})"
        )
