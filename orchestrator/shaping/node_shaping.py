"""From a network to what one node's namespace must hold; pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address
from itertools import chain
from math import inf
from typing import Literal

from node.core.errors import ConfigError
from node.core.link_bounds import at_its_worst
from node.core.links import LinkShape, NetworkPlan, PartitionChange
from node.core.schedule import Groups, is_cut
from orchestrator.shaping import kernel_units as units
from orchestrator.shaping.tree import (
    ACCESS_MINOR,
    DEFAULT_MINOR,
    PEERS_MAX,
    DeviceTree,
    FifoLeaf,
    GateLeaf,
    HtbClass,
    Leaf,
    NetemLeaf,
    NodeTree,
    ifb_name,
    peer_minor,
)

_JITTERS = 4
"""Standard deviations beyond which a packet's delay is not provided for: one in 30,000 is later."""


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """Settings that shaping depends on besides the network.

    Attributes:
        netem: Whether the kernel has netem.
        device: The device of the data network in a node's namespace.
        mtu: Its largest packet, bytes.
        queue_bytes: Size of each queue; None lets it follow from the rate and from the bytes in flight.
        time_dilation: Real seconds a testbed second: rates are divided by it, times multiplied.
        in_flight_bytes: The most that one node may have in flight to another.
    """

    netem: bool = True
    device: str = "eth1"
    mtu: int = 1_500
    queue_bytes: int | None = None
    time_dilation: float = 1.0
    in_flight_bytes: int = 0


@dataclass(frozen=True, slots=True)
class NodeShaping:
    """The shaping of one node.

    Attributes:
        tree: What its namespace must hold.
        rest: What the kernel does not do of the paths to this node, by sending node, in testbed time and without
            rates: its delay line has to add it. Empty where the kernel has netem.
    """

    tree: NodeTree
    rest: Mapping[int, LinkShape]


@dataclass(frozen=True, slots=True)
class _CapacitySpan:
    """One capacity in bits a second: at the time that is planned for, and its bounds over all times."""

    now: int
    least: int
    most: int


def plan_node(
    network: NetworkPlan,
    node: int,
    addresses: Mapping[int, str],
    options: KernelOptions | None = None,
    *,
    time_ns: int = 0,
    path_ns: int | None = None,
) -> NodeShaping:
    """Plan the shaping of one node at a time.

    Sizes of queues and packets follow from the whole network with all its changes, as the buffers of a real link do not
    change with its rate. So between two times of one network nothing differs but rates of classes, gates, and what
    netem adds.

    Args:
        network: The whole network, with its changes from the beginning.
        node: Whose namespace it is.
        addresses: IPv4 addresses of its peers; its own may be among them and is left out. Others are not shaped.
        options: The kernel and the device.
        time_ns: Testbed time whose capacities and partitions are meant.
        path_ns: Testbed time of what is laid over links besides; None: the same. Before 0 nothing is.

    Raises:
        ConfigError: A rate, a latency or an address is none that the kernel can be told.
    """
    kernel = options or KernelOptions()
    path_ns = time_ns if path_ns is None else path_ns
    # Step 1: the capacities, which everything else follows from.
    capacities = _Capacities(network, time_ns, kernel)
    peers = _peers(network, node, addresses)
    up, down = capacities.up(node), capacities.down(node)
    outgoing = {peer: capacities.pair(node, peer) for peer in peers}
    incoming = {peer: capacities.pair(peer, node) for peer in peers}
    # Step 2: a queue for each peer and direction, as deep as its path ever needs.
    worst, partitions = at_its_worst(network), partitions_of(network)
    egress_leaves: dict[int, Leaf] = {}
    ingress_leaves: dict[int, Leaf] = {}
    for peer in peers:
        sent_bps = min(up.most, outgoing[peer].most)
        egress_leaves[peer] = _egress_leaf(capacities.now, node, peer, _queue_bytes(sent_bps, kernel), partitions)
        ingress_leaves[peer] = _ingress_leaf(
            network.pair(peer, node, path_ns),
            worst.pair(peer, node),
            f"link from node {peer} to node {node}",
            kernel,
            arriving_bps=min(capacities.up(peer).most, incoming[peer].most),
            leaving_bps=min(down.most, incoming[peer].most),
            reverse_bps=sent_bps,
        )
    # Step 3: packets as large as the slowest link allows, then the classes.
    ceils = {peer: span.now for peer, span in outgoing.items()}
    # What a pair carries is limited where it is sent.
    unlimited = dict.fromkeys(peers, units.UNLIMITED_BPS)
    passed = [up.least, *(outgoing[peer].least for peer in peers), *(capacities.down(peer).least for peer in peers)]
    shapes = [worst.pair(node, peer) for peer in peers]
    each_packet_counts = any(shape.jitter_ms or shape.loss_percent for shape in shapes)
    segments = units.gso_segments(min(passed), kernel.mtu, kernel.time_dilation, each_packet_counts=each_packet_counts)
    tree = NodeTree(
        egress=_device_tree(kernel, "dst", up, ceils, egress_leaves, addresses),
        ingress=_device_tree(kernel, "src", down, unlimited, ingress_leaves, addresses),
        gso_segments=segments,
    )
    return NodeShaping(tree, {} if kernel.netem else dict(_delays_of_paths(network, node, peers, path_ns)))


def without_limits(tree: NodeTree) -> NodeTree:
    """Return a tree with the same classes, queues, delays and filters, in which no rate or gate holds anything back.

    Connections that are made through it are as those through the tree itself, and take no time that depends on rates.
    """

    def opened(device: DeviceTree) -> DeviceTree:
        free = device.classes[DEFAULT_MINOR]
        classes = dict(device.classes)
        for minor, limited in classes.items():
            if minor == ACCESS_MINOR:
                classes[minor] = free
            elif minor != DEFAULT_MINOR:
                classes[minor] = replace(limited, ceil_bps=free.ceil_bps, cburst_bytes=free.cburst_bytes)
        leaves = {
            minor: replace(leaf, is_shut=False) if isinstance(leaf, GateLeaf) else leaf
            for minor, leaf in device.leaves.items()
        }
        return replace(device, classes=classes, leaves=leaves)

    return replace(tree, egress=opened(tree.egress), ingress=opened(tree.ingress))


@lru_cache(maxsize=2)
def partitions_of(network: NetworkPlan) -> tuple[Groups, ...]:
    """Return all partitions that a network ever has, once for all nodes of it."""
    changes = (change.partitions for _, change in network.changes if isinstance(change, PartitionChange))
    return tuple(dict.fromkeys([*network.partitions, *chain.from_iterable(changes)]))


class _Capacities:
    """The capacities of a network as the kernel takes them.

    Attributes:
        now: The network at the time that is planned for.
    """

    def __init__(self, network: NetworkPlan, time_ns: int, kernel: KernelOptions) -> None:
        self._network = network
        self.now = network.at_time(time_ns)
        self._changed = _bounds_of_changes(network)
        self._kernel = kernel

    def up(self, node: int) -> _CapacitySpan:
        """A node's uplink."""
        first, now = self._network.up_mbps[node], self.now.up_mbps[node]
        return self._span(("up", node, -1), first, now, f"uplink of node {node}")

    def down(self, node: int) -> _CapacitySpan:
        """A node's downlink."""
        first, now = self._network.down_mbps[node], self.now.down_mbps[node]
        return self._span(("down", -1, node), first, now, f"downlink of node {node}")

    def pair(self, source: int, destination: int) -> _CapacitySpan:
        """The limit of one node's traffic to another, besides their access links."""
        first, now = (
            inf if plan.pair_mbps is None else plan.pair_mbps[source, destination] for plan in (self._network, self.now)
        )
        place = f"link from node {source} to node {destination}"
        return self._span(("pair", source, destination), first, now, place)

    def _span(self, key: tuple[str, int, int], first: float, now: float, place: str) -> _CapacitySpan:
        least, most = self._changed.get(key, (first, first))
        rates = (now, min(least, first), max(most, first))
        dilation = self._kernel.time_dilation
        return _CapacitySpan(*(units.kernel_rate_bps(float(mbps), place, dilation) for mbps in rates))


@lru_cache(maxsize=2)
def _bounds_of_changes(network: NetworkPlan) -> Mapping[tuple[str, int, int], tuple[float, float]]:
    """The least and the most Mbit/s of each capacity that changes; once for all nodes of a network."""
    bounds: dict[tuple[str, int, int], tuple[float, float]] = {}
    for _, change in network.capacity_changes():
        key = (change.kind, change.source, change.destination)
        least, most = bounds.get(key, (change.mbps, change.mbps))
        bounds[key] = (min(least, change.mbps), max(most, change.mbps))
    return bounds


def _delays_of_paths(
    network: NetworkPlan, node: int, peers: Iterable[int], path_ns: int
) -> Iterator[tuple[int, LinkShape]]:
    """All but the rates of the paths to a node, by sending node."""
    for peer in peers:
        shape = replace(network.pair(peer, node, path_ns), bandwidth_mbps=None)
        if shape != LinkShape():
            yield peer, shape


def _peers(network: NetworkPlan, node: int, addresses: Mapping[int, str]) -> tuple[int, ...]:
    """The peers in increasing order, with addresses that are checked."""
    places: dict[str, int] = {}
    for number, address in sorted(addresses.items()):
        if not 0 <= number < min(network.num_nodes, PEERS_MAX):
            bound = min(network.num_nodes, PEERS_MAX)
            raise ConfigError(f"address of node {number}: must be of one of the first {bound} nodes")
        try:
            IPv4Address(address)
        except AddressValueError:
            raise ConfigError(f"address of node {number}={address}: must be an IPv4 address") from None
        if address in places:
            raise ConfigError(f"address of node {number}={address}: must not be that of node {places[address]}")
        places[address] = number
    return tuple(number for number in sorted(addresses) if number != node)


def _egress_leaf(
    now: NetworkPlan, node: int, peer: int, queue_bytes: int, partitions: tuple[Groups, ...]
) -> FifoLeaf | GateLeaf:
    """The queue of what is sent to one peer: a gate, if a partition ever cuts the way there."""
    if not is_cut(partitions, node, peer):
        return FifoLeaf(queue_bytes)
    return GateLeaf(queue_bytes, is_shut=is_cut(now.partitions, node, peer))


def _ingress_leaf(
    shape: LinkShape,
    worst: LinkShape,
    place: str,
    kernel: KernelOptions,
    *,
    arriving_bps: int,
    leaving_bps: int,
    reverse_bps: int,
) -> Leaf:
    """The queue of one peer's packets before the downlink, which delays them where the kernel has netem.

    ``worst`` bounds ``shape`` at all times.
    """
    queue_bytes = _queue_bytes(leaving_bps, kernel)
    if not kernel.netem:
        return FifoLeaf(queue_bytes)
    latency_us = _delay_us("latency_ms", shape.latency_ms, units.LATENCY_US_MAX, place, kernel)
    jitter_us = _delay_us("jitter_ms", shape.jitter_ms, units.JITTER_US_MAX, place, kernel)
    if jitter_us:
        latency_us = max(latency_us, 1)  # tc refuses a jitter around no latency at all
    longest_us = _delay_us("latency_ms", worst.latency_ms, units.LATENCY_US_MAX, place, kernel)
    longest_us += _JITTERS * _delay_us("jitter_ms", worst.jitter_ms, units.JITTER_US_MAX, place, kernel)
    limit = units.delay_limit_packets(arriving_bps, reverse_bps, longest_us, queue_bytes, kernel.mtu)
    return NetemLeaf(limit, latency_us, jitter_us, shape.loss_percent, units.UNLIMITED_BPS)


def _delay_us(name: str, testbed_ms: float, us_max: int, place: str, kernel: KernelOptions) -> int:
    """A delay in real microseconds."""
    us = round(1_000 * testbed_ms * kernel.time_dilation)
    if us > us_max:
        dilation = kernel.time_dilation
        at = "" if dilation == 1 else f" at time_dilation={dilation:g}"
        most = us_max / 1e3 / dilation
        raise ConfigError(f"{place}: {name}={testbed_ms:g}: must be at most {most:g} where the kernel shapes{at}")
    return us


def _queue_bytes(rate_bps: int, kernel: KernelOptions) -> int:
    declared, dilation = kernel.queue_bytes, kernel.time_dilation
    return units.queue_limit_bytes(rate_bps, kernel.mtu, declared, dilation, kernel.in_flight_bytes)


def _device_tree(
    kernel: KernelOptions,
    match: Literal["dst", "src"],
    access: _CapacitySpan,
    ceils: Mapping[int, int],
    leaves: Mapping[int, Leaf],
    addresses: Mapping[int, str],
) -> DeviceTree:
    assured = units.assured_rate_bps(access.least, len(ceils))
    classes = {
        ACCESS_MINOR: _class(0, access.now, access.now, kernel),
        DEFAULT_MINOR: _class(0, units.UNLIMITED_BPS, units.UNLIMITED_BPS, kernel),
    }
    classes |= {peer_minor(peer): _class(ACCESS_MINOR, assured, ceil, kernel) for peer, ceil in ceils.items()}
    default_queue: Leaf = FifoLeaf(units.QUEUE_BYTES_MAX)
    return DeviceTree(
        device=kernel.device if match == "dst" else ifb_name(kernel.device),
        match=match,
        classes=classes,
        leaves={DEFAULT_MINOR: default_queue} | {peer_minor(peer): leaf for peer, leaf in leaves.items()},
        filters={peer_minor(peer): addresses[peer] for peer in ceils},
    )


def _class(parent: int, rate_bps: int, ceil_bps: int, kernel: KernelOptions) -> HtbClass:
    frame = kernel.mtu + units.ETHERNET_HEADER_BYTES
    return HtbClass(
        parent=parent,
        rate_bps=rate_bps,
        ceil_bps=ceil_bps,
        burst_bytes=units.burst_bytes(rate_bps, kernel.mtu, kernel.time_dilation),
        cburst_bytes=units.burst_bytes(ceil_bps, kernel.mtu, kernel.time_dilation),
        # One frame, so that turns are as short as can be; the same for all, as the shares are equal.
        quantum_bytes=frame,
    )
