"""Latency and jitter that the receiver adds, where links are real and no kernel adds them. Pure.

The links give the rates. What has come whole is held for the latency of its link, as if its last byte had been on the
way for so long; and its receipt leaves later by the latency of the way back, so that a sender learns of it when it
would over a link of that length. A message never overtakes an earlier one of its sender, as none does in a stream of
TCP.

What the experiment lays over a path counts from its beginning on, by the time at which a message came or its receipt
leaves. Before, while links are measured, nothing is laid over any.
"""

from dataclasses import replace

from node.core.links import NetworkPlan, PathShape
from node.core.rng import stream
from node.core.types import NodeId
from node.core.units import NS_PER_S
from node.host.clock import Clock

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
        _begun: The experiment's clock, and its time at the beginning; None before that is known.
        _last_due_ns: When the last message of each sender is due; none is due before it.
    """

    def __init__(self, network: NetworkPlan, node: NodeId, seed: int, dilation: float) -> None:
        self._network, self._bare = network, replace(network, overlays={})
        self._node = node
        self._dilation = dilation
        self._generator = stream(seed, "arrivals.jitter", node)
        self._normals: list[float] = []
        self._begun: tuple[Clock, int] | None = None
        self._last_due_ns: dict[NodeId, int] = {}

    def begin(self, clock: Clock, begin_ns: int) -> None:
        """Take the experiment's clock, which shows ``begin_ns`` when it begins; that may be to come."""
        self._begun = clock, begin_ns

    def due_ns(self, sender: NodeId, received_ns: int) -> int:
        """Return when something is due that came whole at ``received_ns``, same clock. Draws its jitter."""
        path = self._path(sender, self._node, received_ns)
        delay_ns = float(path.latency_ns)
        if path.jitter_ns:
            delay_ns = max(0.0, delay_ns + path.jitter_ns * self._normal())
        due_ns = max(received_ns + int(delay_ns * self._dilation), self._last_due_ns.get(sender, 0))
        self._last_due_ns[sender] = due_ns
        return due_ns

    def way_back_s(self, sender: NodeId, now_ns: int) -> float:
        """Return by how many real seconds a receipt is later that could leave at ``now_ns``, same clock.

        Without jitter, which each message has had already.
        """
        return self._path(self._node, sender, now_ns).latency_ns * self._dilation / NS_PER_S

    def _path(self, source: int, destination: int, monotonic_ns: int) -> PathShape:
        if self._begun is not None:
            clock, begin_ns = self._begun
            if (at_ns := clock.at_ns(monotonic_ns)) >= begin_ns:
                return self._network.path(source, destination, at_ns)
        return self._bare.path(source, destination)

    def _normal(self) -> float:
        if not self._normals:
            self._normals.extend(self._generator.standard_normal(_BLOCK).tolist())
        return self._normals.pop()
