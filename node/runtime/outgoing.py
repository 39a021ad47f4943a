"""Parts that paths over streams share: frames made once, the bound of the bytes in flight, the streams themselves."""

from collections import OrderedDict
from typing import Protocol

import numpy as np

from node.core.links import NetworkPlan
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
    """The bound of a node's bytes in flight, from its links and the largest message so far.

    Args:
        network: All links.
        node: The sender.

    Attributes:
        window: What is in flight, and how much may be.
    """

    def __init__(self, network: NetworkPlan, node: int) -> None:
        self.window = Window(0)
        self._transfers = network.sender
        self._bandwidth_mbps = _bandwidth_mbps(network, node)
        self._round_trip_ms = _longest_round_trip_ms(network, node)
        self._largest_bytes = 0

    def fits(self, frame_bytes: int) -> bool:
        """Whether one more frame of this size may be in flight; a larger one than before raises the bound."""
        if frame_bytes > self._largest_bytes:
            self._largest_bytes = frame_bytes
            self.window.bound_bytes = bound_bytes(
                frame_bytes,
                transfers=self._transfers,
                bandwidth_mbps=self._bandwidth_mbps,
                round_trip_ms=self._round_trip_ms,
            )
        return self.window.fits(frame_bytes)


def _bandwidth_mbps(network: NetworkPlan, node: int) -> float:
    """At most so much leaves a node at once."""
    mbps = float(network.up_mbps[node])
    if network.pair_mbps is not None:
        others = np.delete(network.pair_mbps[node], node)
        mbps = min(mbps, network.sender * float(others.max(initial=0.0)))
    return min(mbps, UNLIMITED_MBPS)


def _longest_round_trip_ms(network: NetworkPlan, node: int) -> float:
    """Return the largest round-trip latency from a node to any peer, ms; excludes transmission time and jitter."""
    round_trip_ns = network.round_trip_ns
    return float(np.max(round_trip_ns if isinstance(round_trip_ns, int) else round_trip_ns[node])) / NS_PER_MS
