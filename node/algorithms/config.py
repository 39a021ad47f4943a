"""The base of the algorithms' declared parameters."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from node.config_base import ConfigModel
from node.core.errors import ConfigError
from node.core.topology import Topology, full


class AlgorithmConfig(ConfigModel):
    """Parameters of one algorithm; each lives beside its algorithm.

    ``needs_every_message`` says that a lost message would stop the algorithm for good. ``small_run`` are parameters for
    a run of a few nodes on ``small_graph``, a graph on an even number of nodes that the algorithm accepts: with them
    the tests that every algorithm must pass run it.
    """

    needs_every_message: ClassVar[bool] = False
    small_run: ClassVar[Mapping[str, object]] = {}
    small_graph: ClassVar[Callable[[int], Topology]] = staticmethod(full)

    def check(self, topology: Topology, tensor_sizes: tuple[int, ...]) -> None:
        """Refuse parameters that do not fit the network or the model.

        Raises:
            ConfigError: One line ``key=value: bound``, the key relative to the algorithm's section.
        """


def check_recipients(key: str, recipients: int, topology: Topology) -> None:
    """Refuse more distinct recipients than some node has neighbors."""
    fewest = min(topology.degree(node) for node in range(topology.num_nodes))
    if recipients > fewest:
        raise ConfigError(
            f"{key}={recipients}: must be at most {fewest}, the smallest number of neighbors of a node"
            f" (nodes={topology.num_nodes})"
        )
