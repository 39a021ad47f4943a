"""A network as values: link shapes and the plan of a whole network.

Figures stay in the units of the experiment file (``_mbps``, ``_ms``) in :class:`LinkShape`, which is what
kernel shaping reads; :class:`NetworkPlan` holds what the simulator reads, with times in nanoseconds.

What loss means: with the ``reliable`` transport each packet of :data:`PACKET_BYTES` is lost with the given
probability and sent again until it arrives, so a message takes more bytes on the wire; the sender does not
slow down as TCP's congestion control would. With ``datagram`` a message is lost as a whole when one of its
packets is lost; it occupies the links all the same and the receiver never sees it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import hypot, inf, isfinite
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from node.core.errors import ConfigError
from node.core.framing import Framing
from node.core.schedule import NOTHING, Groups, Overlay, Place, is_cut, over_path
from node.core.sender_policy import SERIAL, SenderPolicy
from node.core.steps import Steps
from node.core.types import Float64Vector
from node.core.units import NS_PER_MS
from node.core.wire_values import WireDtype

PACKET_BYTES = 1_500
"""The unit of loss: an Ethernet frame's payload."""

NetworkModel = Literal["access", "pairwise"]
Transport = Literal["reliable", "datagram"]


@dataclass(frozen=True, slots=True)
class LinkShape:
    """One direction of a link.

    Attributes:
        bandwidth_mbps: 10^6 bits a second, >= 0; None is unlimited.
        latency_ms: One way, >= 0.
        jitter_ms: Standard deviation of the latency, >= 0.
        loss_percent: Share of packets lost, in [0, 100).

    Raises:
        ConfigError: A value is out of its bounds.
    """

    bandwidth_mbps: float | None = None
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_percent: float = 0.0

    def __post_init__(self) -> None:
        bandwidth = self.bandwidth_mbps
        if bandwidth is not None and not (isfinite(bandwidth) and bandwidth >= 0):
            raise ConfigError(f"bandwidth_mbps={bandwidth}: must be a number >= 0, or left out for no limit")
        for name, value in (("latency_ms", self.latency_ms), ("jitter_ms", self.jitter_ms)):
            if not (isfinite(value) and value >= 0):
                raise ConfigError(f"{name}={value}: must be a number >= 0")
        if not 0 <= self.loss_percent < 100:
            raise ConfigError(f"loss_percent={self.loss_percent}: must be at least 0 and below 100")


@dataclass(frozen=True, slots=True)
class CapacityChange:
    """One capacity that changes while the experiment runs.

    Attributes:
        kind: Which capacity.
        source: The node of an ``up`` capacity, or the sending node of a ``pair``; -1 for ``down``.
        destination: The node of a ``down`` capacity, or the receiving node of a ``pair``; -1 for ``up``.
        mbps: The new capacity, >= 0; 0 parks the transfers until the next change.
    """

    kind: Literal["up", "down", "pair"]
    source: int
    destination: int
    mbps: float


@dataclass(frozen=True, slots=True)
class PartitionChange:
    """The nodes that do not reach each other change while the experiment runs.

    Attributes:
        partitions: Those that hold from then on; none lets all nodes reach each other.
    """

    partitions: tuple[Groups, ...]


LinkChange: TypeAlias = CapacityChange | PartitionChange


@dataclass(frozen=True, slots=True)
class PathShape:
    """A path apart from its rates: what a message meets on it.

    Attributes:
        latency_ns: One way, >= 0.
        jitter_ns: Standard deviation of the latency, >= 0.
        loss: Probability that a packet is lost, in [0, 1).
    """

    latency_ns: int
    jitter_ns: float
    loss: float


@dataclass(frozen=True, eq=False)
class NetworkPlan:
    """A whole network. Arrays are read-only; matrices exist only where a preset needs them.

    A transfer from s to d is limited by ``up_mbps[s]``, ``down_mbps[d]`` and, where given, ``pair_mbps[s,
    d]``.

    Attributes:
        model: ``access`` or ``pairwise``: which capacities the preset speaks of.
        up_mbps: Shape (num_nodes,), float64; inf is unlimited.
        down_mbps: Shape (num_nodes,), float64; inf is unlimited.
        pair_mbps: Shape (num_nodes, num_nodes), float64, [source, destination]; inf is unlimited. None: no
            limits.
        latency_ns: One-way latency, one number or shape (num_nodes, num_nodes), int64, [source, destination].
        jitter_ns: Standard deviation of the latency, one number or a matrix like ``latency_ns``.
        loss: Probability that a packet is lost, in [0, 1), one number or a float64 matrix.
        sender: Which of a node's messages may be under way at the same time.
        transport: What happens to lost packets; see the module's text.
        header_bytes: Counted of every message besides its body: the frame's header and what carries the frame.
        framing: What carries messages on the links, which then are lines of Ethernet; None: a message takes as much of
            a link as is counted of it.
        wire_dtype: How values travel.
        changes: (time_ns, change) in order of time.
        overlays: What is laid over links, of which :meth:`path` takes all but the rates: those are among the changes.
        partitions: The nodes that do not reach each other at first.
        stragglers: The nodes with a slowed access link.
    """

    model: NetworkModel
    up_mbps: Float64Vector
    down_mbps: Float64Vector
    pair_mbps: npt.NDArray[np.float64] | None = None
    latency_ns: int | npt.NDArray[np.int64] = 0
    jitter_ns: int | npt.NDArray[np.int64] = 0
    loss: float | npt.NDArray[np.float64] = 0.0
    sender: SenderPolicy = SERIAL
    transport: Transport = "reliable"
    header_bytes: int = 64
    framing: Framing | None = None
    wire_dtype: WireDtype = WireDtype.FLOAT32
    changes: tuple[tuple[int, LinkChange], ...] = ()
    overlays: Mapping[Place, Steps[Overlay]] = field(default_factory=dict)
    partitions: tuple[Groups, ...] = ()
    stragglers: frozenset[int] = frozenset()

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return int(self.up_mbps.size)

    @property
    def round_trip_ns(self) -> int | npt.NDArray[np.int64]:
        """Latency there and back, without transmission and jitter; one number or a matrix like ``latency_ns``."""
        if isinstance(self.latency_ns, int):
            return 2 * self.latency_ns
        return self.latency_ns + self.latency_ns.T

    @property
    def may_jitter(self) -> bool:
        """True if the latency of any message is ever drawn."""
        return bool(np.any(self.jitter_ns)) or any(over.jitter_ns for over in self._laid_over())

    @property
    def may_lose(self) -> bool:
        """True if any packet is ever lost."""
        return bool(np.any(self.loss)) or any(over.loss for over in self._laid_over())

    def _laid_over(self) -> Iterator[Overlay]:
        for steps in self.overlays.values():
            yield from steps.values

    def link_bytes(self, body_bytes: int) -> int:
        """Bytes of a link that a message takes, of which nothing is sent again. The one place that says so."""
        return body_bytes + self.header_bytes if self.framing is None else self.framing.link_bytes(body_bytes)

    def counted_bytes(self, body_bytes: int, link_bytes: int) -> int:
        """Bytes that results count of a message of whose :meth:`link_bytes` so many were sent, or more if some were
        sent again.

        Framing takes capacity and is not counted, so that figures of bytes mean the same with it and without.
        """
        if self.framing is None:
            return link_bytes
        whole = self.framing.link_bytes(body_bytes)
        return -(-link_bytes * (body_bytes + self.header_bytes) // whole)

    def packets(self, body_bytes: int) -> int:
        """Packets of a message, each of which may be lost."""
        if self.framing is None:
            return -(-(body_bytes + self.header_bytes) // PACKET_BYTES)
        return self.framing.packets(body_bytes)

    def at_time(self, time_ns: int) -> "NetworkPlan":
        """The network as it is at a time, with the changes that are still to come."""
        if not any(change_ns <= time_ns for change_ns, _ in self.changes):
            return self
        up, down = self.up_mbps.copy(), self.down_mbps.copy()
        pairs = None if self.pair_mbps is None else self.pair_mbps.copy()
        partitions = self.partitions
        for change_ns, change in self.changes:
            if change_ns > time_ns:
                break
            if isinstance(change, PartitionChange):
                partitions = change.partitions
            elif change.kind == "up":
                up[change.source] = change.mbps
            elif change.kind == "down":
                down[change.destination] = change.mbps
            else:
                if pairs is None:
                    pairs = np.full((self.num_nodes, self.num_nodes), inf)
                pairs[change.source, change.destination] = change.mbps
        changes = tuple(item for item in self.changes if item[0] > time_ns)
        return replace(self, up_mbps=up, down_mbps=down, pair_mbps=pairs, changes=changes, partitions=partitions)

    def capacity_changes(self) -> Iterator[tuple[int, CapacityChange]]:
        """The changes of capacities among all changes."""
        for time_ns, change in self.changes:
            if isinstance(change, CapacityChange):
                yield time_ns, change

    def separations(self) -> Steps[tuple[Groups, ...]]:
        """The partitions that hold, at any time."""
        changes = [(at_ns, change) for at_ns, change in self.changes if isinstance(change, PartitionChange)]
        times_ns = tuple(time_ns for time_ns, _ in changes)
        return Steps(self.partitions, times_ns, tuple(change.partitions for _, change in changes))

    def is_parked(self, source: int, destination: int) -> bool:
        """Return whether nothing moves from ``source`` to ``destination``, for lack of bandwidth or of a way."""
        parked = self.up_mbps[source] == 0 or self.down_mbps[destination] == 0
        parked = parked or is_cut(self.partitions, source, destination)
        return bool(parked or (self.pair_mbps is not None and self.pair_mbps[source, destination] == 0))

    def path(self, source: int, destination: int, at_ns: int = 0) -> PathShape:
        """Return what a message from ``source`` to ``destination`` meets at a time, with whatever is laid over then."""
        latency_ns = int(entry_of_pair(self.latency_ns, source, destination))
        jitter_ns = float(entry_of_pair(self.jitter_ns, source, destination))
        loss = float(entry_of_pair(self.loss, source, destination))
        over = over_path(self.overlays, source, destination, at_ns) if self.overlays else NOTHING
        if not over.shapes_path:
            return PathShape(latency_ns, jitter_ns, loss)
        return PathShape(
            latency_ns=round(latency_ns * over.latency_factor) + over.latency_ns,
            jitter_ns=hypot(jitter_ns, over.jitter_ns),
            loss=loss + over.loss * (1.0 - loss),
        )

    def pair(self, source: int, destination: int, at_ns: int = 0) -> LinkShape:
        """The path from ``source`` to ``destination`` beyond their access links.

        Args:
            source: The sender.
            destination: The receiver.
            at_ns: When, but for the bandwidth, which is that of :meth:`at_time`.
        """
        path = self.path(source, destination, at_ns)
        return LinkShape(
            bandwidth_mbps=None if self.pair_mbps is None else _finite(self.pair_mbps[source, destination]),
            latency_ms=path.latency_ns / NS_PER_MS,
            jitter_ms=path.jitter_ns / NS_PER_MS,
            loss_percent=path.loss * 100.0,
        )


def entry_of_pair(
    value: float | npt.NDArray[np.float64] | npt.NDArray[np.int64], source: int, destination: int
) -> float:
    """Return the entry of a pair in a matrix, or the number that all pairs share."""
    if isinstance(value, np.ndarray):
        return value[source, destination].item()  # type: ignore[no-any-return]
    return value


def _finite(mbps: float) -> float | None:
    return None if mbps == inf else float(mbps)
