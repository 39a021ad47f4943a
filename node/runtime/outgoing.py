"""Parts that paths over streams share: frames made once, the bound of the bytes in flight, the streams themselves."""

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from node.core.link_bounds import RateBounds, rate_bounds, round_trip_ns_max
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

    The bound follows from the most that the rates ever are, and from the longest round trip ever. Where what is in
    flight fills buffers that delay what comes behind it, :meth:`follow` lets it follow from the round trip of the time.

    Args:
        network: All links.
        node: The sender.
        rates: The bounds of its rates; None: those of ``network`` with its changes.
    """

    def __init__(self, network: NetworkPlan, node: int, rates: RateBounds | None = None) -> None:
        self._network = network
        self._node = node
        self._rates = rates or rate_bounds(network, node)
        self._per_peer = network.sender.per_peer
        self._at_ns: int | None = None  # the time that round trips are of; None: the longest of all times
        self._instants = sorted({time_ns for steps in network.overlays.values() for time_ns in steps.times_ns})
        self._shared = _Bound(Window(0), _bandwidth_mbps(network, node, self._rates), self._round_trip_ms(None))
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
            key=lambda window: window.bytes_max / max(1, window.bound_bytes_max),
        )

    @property
    def round_trip_ms_max(self) -> float:
        """The longest round trip to any peer that there ever is."""
        return _longest_ms(round_trip_ns_max(self._network), self._node)

    def follow(self, at_ns: int) -> None:
        """Let bounds follow from the round trips of a testbed time."""
        if not self._instants:
            return
        before, self._at_ns = self._at_ns, at_ns
        if before is not None and bisect_right(self._instants, before) == bisect_right(self._instants, at_ns):
            return
        transfers = self._network.sender.transfers
        self._shared.change(self._round_trip_ms(None), transfers)
        for receiver, bound in self._of_peer.items():
            bound.change(self._round_trip_ms(receiver), transfers)

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
            network, rates = self._network, self._rates
            mbps = _or_unlimited(rates.up_mbps_max)
            if rates.pairs_change:
                mbps = min(mbps, _or_unlimited(rates.pair_mbps_max))
            elif network.pair_mbps is not None:
                mbps = min(mbps, float(network.pair_mbps[self._node, receiver]))
            bound = self._of_peer[receiver] = _Bound(Window(0), mbps, self._round_trip_ms(receiver))
        return bound

    def _round_trip_ms(self, receiver: NodeId | None) -> float:
        """The round trip to a peer, or the longest to any; excludes transmission time and jitter."""
        network, node, at_ns = self._network, self._node, self._at_ns
        if at_ns is None or not network.overlays:
            longest = round_trip_ns_max(network)
            return (
                _longest_ms(longest, node) if receiver is None else entry_of_pair(longest, node, receiver) / NS_PER_MS
            )
        peers = (peer for peer in range(network.num_nodes) if peer != node) if receiver is None else (receiver,)
        round_trips_ns = (
            network.path(node, peer, at_ns).latency_ns + network.path(peer, node, at_ns).latency_ns for peer in peers
        )
        return max(round_trips_ns, default=0) / NS_PER_MS


@dataclass(slots=True)
class _Bound:
    """A window and the figures that its bound follows from."""

    window: Window
    bandwidth_mbps: float
    round_trip_ms: float
    largest_bytes: int = field(default=0, init=False)

    def allow(self, frame_bytes: int, transfers: int) -> None:
        """Raise the bound for a frame that is larger than all before."""
        if frame_bytes > self.largest_bytes:
            self.largest_bytes = frame_bytes
            self._set(transfers)

    def change(self, round_trip_ms: float, transfers: int) -> None:
        """Let the bound follow from another round trip."""
        self.round_trip_ms = round_trip_ms
        if self.largest_bytes:
            self._set(transfers)

    def _set(self, transfers: int) -> None:
        bound = bound_bytes(
            self.largest_bytes,
            transfers=transfers,
            bandwidth_mbps=self.bandwidth_mbps,
            round_trip_ms=self.round_trip_ms,
        )
        self.window.allow(bound)


def _bandwidth_mbps(network: NetworkPlan, node: int, rates: RateBounds) -> float:
    """At most so much leaves a node at once."""
    mbps, transfers = _or_unlimited(rates.up_mbps_max), network.sender.transfers
    if rates.pairs_change:
        return min(mbps, transfers * _or_unlimited(rates.pair_mbps_max))
    if network.pair_mbps is not None:
        others = np.delete(network.pair_mbps[node], node)
        mbps = min(mbps, transfers * float(others.max(initial=0.0)))
    return mbps


def _or_unlimited(mbps: float | None) -> float:
    return UNLIMITED_MBPS if mbps is None else min(mbps, UNLIMITED_MBPS)


def _longest_ms(round_trip_ns: int | npt.NDArray[np.int64], node: int) -> float:
    longest_ns = (
        round_trip_ns if isinstance(round_trip_ns, int) else np.delete(round_trip_ns[node], node).max(initial=0)
    )
    return float(longest_ns) / NS_PER_MS
