"""Parts that paths over streams share: frames made once, the bound of the bytes in flight, the streams themselves."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from node.core.links import NetworkPlan, entry_of_pair
from node.core.messages import Message
from node.core.types import NodeId
from node.core.units import NS_PER_MS, NS_PER_S
from node.core.wire_values import WireDtype
from node.transport.frames import HEADER_BYTES, encode
from node.transport.window import Window, bound_bytes

RECEIPT_WITHIN_NS = 20 * NS_PER_S
"""Real time that a receipt may take after its message was due: nothing of it is transmission, which is over by then."""

UNLIMITED_MBPS = 10_000.0
"""Stands for a link without limit where the bytes in flight are bounded."""


class Streams(Protocol):
    """The streams to the peers. :class:`node.transport.peer_client.PeerClient` is the real one."""

    def send(self, peer: NodeId, frame: bytes, number: int, due_ns: int, deadline_ns: int) -> None:
        """Hand over a frame that arrives at ``due_ns`` of the host's monotonic clock, 0 for at once; never blocks.

        Without a receipt by ``deadline_ns`` it is lost.
        """

    def probe(self, peer: NodeId, sequence: int, sent_ns: int, padding_bytes: int, due_ns: int) -> None:
        """Hand over a probe that arrives at ``due_ns``, as a frame would."""


class OutgoingFrames:
    """The frames of a node's messages, each encoded once for all its recipients.

    Args:
        node: The sender.
        plan_id: Of the run; see :func:`node.transport.frames.plan_id`.
        dtype: How values travel.
        num_params: Values of a whole model. Twice its bytes are kept: all fragments of a round and some of the one
            before, which further recipients may still get.
    """

    def __init__(self, node: NodeId, plan_id: int, dtype: WireDtype, num_params: int) -> None:
        self._node = node
        self._plan_id = plan_id
        self._dtype = dtype
        self._kept: OrderedDict[int, tuple[Message, bytes]] = OrderedDict()
        self._kept_bytes = 0
        self._kept_bytes_max = 2 * num_params * dtype.value_bytes

    def body_bytes(self, message: Message) -> int:
        """Bytes of a message's body on the wire."""
        return message.body.wire_bytes(self._dtype)

    def frame_bytes(self, message: Message) -> int:
        """Length of a message's frame, without making it."""
        return HEADER_BYTES + message.body.wire_bytes(self._dtype)

    def of(self, message: Message) -> bytes:
        """The message's frame; made now, or kept from an earlier recipient."""
        kept = self._kept.get(id(message))
        if kept is not None:
            return kept[1]
        frame = encode(message, self._node, self._plan_id, self._dtype)
        self._kept[id(message)] = (message, frame)  # holds the message, so that its id stays its own
        self._kept_bytes += len(frame)
        while self._kept_bytes > self._kept_bytes_max and len(self._kept) > 1:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)
        return frame


class InFlight:
    """The bytes that a node has in flight, and their bound, from its links and the largest message so far.

    One window for all peers together; with the sender policy ``per_peer`` one for each, which bounds what is on the
    connection to this peer, so that a slow peer holds back nobody else.

    Args:
        network: All links.
        node: The sender.
    """

    def __init__(self, network: NetworkPlan, node: int) -> None:
        self._network = network
        self._node = node
        self._per_peer = network.sender.per_peer
        self._shared = _Bound(Window(0), _bandwidth_mbps(network, node), _longest_round_trip_ms(network, node))
        self._of_peer: dict[NodeId, _Bound] = {}
        self._holds: dict[int, Window] = {}  # message -> the window that counts it

    def __len__(self) -> int:
        """Number of messages in flight, to all peers."""
        return len(self._holds)

    @property
    def window(self) -> Window:
        """The one for all peers; with ``per_peer`` the one that came closest to its bound, or an empty one."""
        return max(
            [bound.window for bound in self._of_peer.values()] or [self._shared.window],
            key=lambda window: window.bytes_max / max(1, window.bound_bytes),
        )

    def fits(self, receiver: NodeId, frame_bytes: int) -> bool:
        """Return whether one more frame of this size may be in flight; a larger one than before raises the bound."""
        bound = self._bound(receiver)
        bound.allow(frame_bytes, self._network.sender.transfers)
        return bound.window.fits(frame_bytes)

    def add(self, number: int, receiver: NodeId, frame_bytes: int) -> None:
        """Count a message that leaves the outbox. Its number must not be in flight."""
        window = self._holds[number] = self._bound(receiver).window
        window.add(number, frame_bytes)

    def remove(self, number: int) -> None:
        """Count a message no longer; nothing happens when it is not in flight."""
        window = self._holds.pop(number, None)
        if window is not None:
            window.remove(number)

    def _bound(self, receiver: NodeId) -> "_Bound":
        if not self._per_peer:
            return self._shared
        bound = self._of_peer.get(receiver)
        if bound is None:
            network, node = self._network, self._node
            mbps = min(float(network.up_mbps[node]), UNLIMITED_MBPS)
            if network.pair_mbps is not None:
                mbps = min(mbps, float(network.pair_mbps[node, receiver]))
            round_trip_ns = entry_of_pair(network.round_trip_ns, node, receiver)
            bound = self._of_peer[receiver] = _Bound(Window(0), mbps, round_trip_ns / NS_PER_MS)
        return bound


@dataclass(slots=True)
class _Bound:
    """A window and the figures that its bound follows from."""

    window: Window
    bandwidth_mbps: float
    round_trip_ms: float
    largest_bytes: int = 0

    def allow(self, frame_bytes: int, transfers: int) -> None:
        """Raise the bound for a frame that is larger than all before."""
        if frame_bytes > self.largest_bytes:
            self.largest_bytes = frame_bytes
            self.window.bound_bytes = bound_bytes(
                frame_bytes,
                transfers=transfers,
                bandwidth_mbps=self.bandwidth_mbps,
                round_trip_ms=self.round_trip_ms,
            )


def _bandwidth_mbps(network: NetworkPlan, node: int) -> float:
    """At most so much leaves a node at once."""
    mbps = float(network.up_mbps[node])
    if network.pair_mbps is not None:
        others = np.delete(network.pair_mbps[node], node)
        mbps = min(mbps, network.sender.transfers * float(others.max(initial=0.0)))
    return min(mbps, UNLIMITED_MBPS)


def _longest_round_trip_ms(network: NetworkPlan, node: int) -> float:
    """Return the largest round-trip latency from a node to any peer, ms; excludes transmission time and jitter."""
    round_trip_ns = network.round_trip_ns
    return float(np.max(round_trip_ns if isinstance(round_trip_ns, int) else round_trip_ns[node])) / NS_PER_MS
