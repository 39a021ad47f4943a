"""Latency and jitter that the receiver adds, where links are real and no kernel adds them. Pure.

The links give the rates. What has come whole is held for the latency of its link, as if its last byte had been on the
way for so long; and its receipt leaves later by the latency of the way back, so that a sender learns of it when it
would over a link of that length. A message never overtakes an earlier one of its sender, as none does in a stream of
TCP.
"""

from node.core.links import NetworkPlan, entry_of_pair
from node.core.rng import stream
from node.core.types import NodeId
from node.core.units import NS_PER_S

_BLOCK = 64
"""Random numbers drawn at once."""


class ArrivalDelays:
    """The delays of what arrives at one node, in real time.

    Args:
        network: The network, in testbed time.
        node: The node.
        seed: The experiment's.
        dilation: Real seconds a testbed second.

    State:
        _last_due_ns: When the last message of each sender is due; none is due before it.
    """

    def __init__(self, network: NetworkPlan, node: NodeId, seed: int, dilation: float) -> None:
        self._latency, self._jitter = network.latency_ns, network.jitter_ns
        self._node = node
        self._dilation = dilation
        self._generator = stream(seed, "arrivals.jitter", node)
        self._normals: list[float] = []
        self._last_due_ns: dict[NodeId, int] = {}

    def due_ns(self, sender: NodeId, received_ns: int) -> int:
        """Return when something is due that came whole at ``received_ns``, same clock. Draws its jitter."""
        delay_ns = float(entry_of_pair(self._latency, sender, self._node))
        jitter_ns = float(entry_of_pair(self._jitter, sender, self._node))
        if jitter_ns:
            delay_ns = max(0.0, delay_ns + jitter_ns * self._normal())
        due_ns = max(received_ns + int(delay_ns * self._dilation), self._last_due_ns.get(sender, 0))
        self._last_due_ns[sender] = due_ns
        return due_ns

    def way_back_s(self, sender: NodeId) -> float:
        """Return by how many real seconds a receipt is later; without jitter, which each message has had already."""
        return int(entry_of_pair(self._latency, self._node, sender)) * self._dilation / NS_PER_S

    def _normal(self) -> float:
        if not self._normals:
            self._normals.extend(self._generator.standard_normal(_BLOCK).tolist())
        return self._normals.pop()
