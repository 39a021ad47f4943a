"""Values of kernel shaping: what a node's namespace holds, in the kernel's own units.

The same values say what is wanted (:mod:`orchestrator.shaping.node_shaping`) and what was found
(:mod:`orchestrator.shaping.reading`), so that the two can be compared.

Theory of operation. Both directions are shaped in the node's namespace, each on a device of its own::

    egress, on the node's device                     ingress, on the ifb device
    htb fa01: default 0x2                            htb fa01: default 0x2
    ├── fa01:1    the uplink                         ├── fa01:1    the downlink
    │   ├── fa01:100  to node 0, its pair's ceil     │   ├── fa01:100  from node 0
    │   │     bfifo 100:  the queue, in bytes;       │   │     netem 100:  latency, jitter, loss; or a bfifo
    │   │     a tbf if a partition ever cuts it      │   │
    │   └── fa01:101  to node 1 ...                  │   └── fa01:101  from node 1 ...
    └── fa01:2    everything else, not shaped        └── fa01:2    everything else, not shaped
    u32: destination address -> class                u32: source address -> class

- A peer's class is assured of next to nothing and borrows from the access link, one frame at a time. So peers that
  have something to send share the link equally, and what one does not take goes to the others: the max-min fair
  shares of the simulator.
- The default class carries whatever is neither to nor from a known peer: ARP, IPv6, name service, a gateway. It is not
  shaped. It exists so that this traffic is counted in a place of its own.
- Latency, jitter and loss belong to the receiver's side, after the sender's uplink and before the receiver's downlink,
  as on a wire. On the sender's side a packet would be lost before it has used the uplink, the queue could only be
  limited in packets, and drops of a full queue would be counted together with the loss that was asked for. On the
  receiver's side the kernel stands exactly where a delay line in user space does if there is no netem.
- Where a partition ever cuts the way to a peer, the peer's queue on the sender's side is a gate, and not a ceiling of
  next to nothing: a class of HTB that has sent its last packet at such a rate is not looked at again before the time
  that this packet takes at it, whatever its rate is by then. A gate forgets that when it is opened.
- One filter of the device's ingress sends all IPv4 packets through the ifb device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

ROOT_MAJOR: Final = 0xFA01
"""Handle of the root queueing disciplines, by which ours are told from others."""

ACCESS_MINOR: Final = 0x1
"""The class of the node's uplink or downlink."""

DEFAULT_MINOR: Final = 0x2
"""The class of what is neither to nor from a known peer."""

PEER_MINOR: Final = 0x100
"""The class of node 0; node n has this plus n. The leaf of a class has the class's minor as its major number."""

PEERS_MAX: Final = 4_000
"""Nodes that can be told apart: a u32 table has 4,095 entries of its own choice."""

FILTER_PRIORITY: Final = 1
"""Priority of the filters on our own root disciplines."""

REDIRECT_PRIORITY: Final = 64_161
"""Priority of the filter on the device's ingress, which others may use too; ours is known by it."""


@dataclass(frozen=True, slots=True)
class HtbClass:
    """A class of a hierarchical token bucket.

    Attributes:
        parent: The minor number of the class above; 0 for the root.
        rate_bps: Bits a second that it is assured of.
        ceil_bps: Bits a second that it never exceeds, but for its bursts.
        burst_bytes: Bytes at once of what it is assured of.
        cburst_bytes: Bytes at once beyond the ceiling.
        quantum_bytes: Bytes that it may send before it is another class's turn; None where the kernel does not say,
            as for a class with classes below it.
    """

    parent: int
    rate_bps: int
    ceil_bps: int
    burst_bytes: int
    cburst_bytes: int
    quantum_bytes: int | None


@dataclass(frozen=True, slots=True)
class FifoLeaf:
    """A queue that drops what does not fit.

    Attributes:
        limit_bytes: Its size.
    """

    limit_bytes: int


@dataclass(frozen=True, slots=True)
class GateLeaf:
    """A queue that drops what does not fit, and that can be shut.

    Attributes:
        limit_bytes: Its size.
        is_shut: Whether hardly anything leaves it: no more than keeps connections alive.
    """

    limit_bytes: int
    is_shut: bool


@dataclass(frozen=True, slots=True)
class NetemLeaf:
    """A queue that delays and loses packets.

    Attributes:
        limit_packets: The most that it holds, those under way included.
        latency_us: Microseconds.
        jitter_us: Standard deviation of the latency, which is normal; microseconds.
        loss_percent: Share of packets lost, each on its own.
        order_bps: A rate so high that it delays nothing. A netem with a rate never lets a packet overtake the one
            before it, be it by jitter or because the latency was lowered; TCP takes packets out of order for lost ones.
    """

    limit_packets: int
    latency_us: int
    jitter_us: int
    loss_percent: float
    order_bps: int


Leaf = FifoLeaf | GateLeaf | NetemLeaf


@dataclass(frozen=True, slots=True)
class DeviceTree:
    """All that one device carries of ours.

    Attributes:
        device: Its name.
        match: Which address of a packet names the peer.
        classes: By minor number.
        leaves: By the minor number of their class.
        filters: The peer's address, by the minor number of its class.
    """

    device: str
    match: Literal["dst", "src"]
    classes: Mapping[int, HtbClass]
    leaves: Mapping[int, Leaf]
    filters: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class NodeTree:
    """All that a node's namespace carries of ours.

    Attributes:
        egress: On the node's device: what it sends.
        ingress: On the ifb device: what it receives.
        gso_segments: The most segments that the stack may hand to the device as one packet. Connections keep what was
            in force when they were made.
    """

    egress: DeviceTree
    ingress: DeviceTree
    gso_segments: int

    @property
    def devices(self) -> tuple[DeviceTree, DeviceTree]:
        """Both."""
        return self.egress, self.ingress

    @property
    def pieces(self) -> int:
        """Number of disciplines, classes and filters."""
        return 1 + sum(1 + len(each.classes) + len(each.leaves) + len(each.filters) for each in self.devices)


def ifb_name(device: str) -> str:
    """Name of the ifb device that belongs to a device; at most the kernel's 15 letters."""
    return f"fm-{device}"[:15]


def peer_minor(node: int) -> int:
    """The minor number of the class of a node."""
    return PEER_MINOR + node


def class_id(minor: int) -> str:
    """A class as tc writes it."""
    return f"{ROOT_MAJOR:x}:{minor:x}"
