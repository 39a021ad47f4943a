"""Models of nodes that come back: which one each begins with."""

from collections.abc import Callable, Collection

from node.core.rng import stream
from node.core.schedule import Comeback
from node.core.topology import Topology
from node.core.types import NodeId, Vector
from orchestrator.runs.snapshots import Snapshots


class ComebackModels:
    """Gives nodes that come back their models, as a simulation does, from what was handed over for evaluation.

    Args:
        snapshots: The models that nodes handed over.
        initial_params: The model with which all began.
        topology: Who is whose neighbor.
        seed: The experiment's, which draws the neighbor.
        away: Returns the nodes that are not there.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        initial_params: Callable[[], Vector],
        topology: Topology,
        seed: int,
        away: Callable[[], Collection[NodeId]],
    ) -> None:
        self._snapshots = snapshots
        self._initial_params = initial_params
        self._topology = topology
        self._seed = seed
        self._away = away

    def model_for(self, node: NodeId, model: Comeback, life: int) -> Vector:
        """Return the model with which a node begins its next life.

        Raises:
            RunnerError: It cannot be read.
        """
        chosen = node
        if model == "common":
            return self._initial_params()
        if model == "peer":
            away = self._away()
            peers = [peer for peer in self._topology.neighbors(node) if peer not in away]
            if peers:
                chosen = peers[int(stream(self._seed, f"comeback.{life}", node).integers(len(peers)))]
        found = self._snapshots.last_model(chosen)
        return self._initial_params() if found is None else found
