"""The network between nodes as a simulation and the link emulator use it: an interface, and which class serves it.

Two classes give the same rates. :class:`~node.sim.fluid_network.FluidNetwork` keeps the rate of each transfer, and is
fast where a node has one or a few at a time. :class:`~node.sim.level_network.LevelNetwork` keeps one rate for all
transfers with the same bottleneck, and is fast where a node has many.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from node.core.links import CapacityChange, LinkChange, NetworkPlan, PartitionChange
from node.core.schedule import Groups
from node.core.types import NodeId
from node.sim.fluid_network import FluidNetwork
from node.sim.level_network import LevelNetwork
from node.sim.rates import PairLimits


class NetworkFlow(Protocol):
    """One transfer under way, as its owner knows it.

    Attributes:
        source: The sending node.
        destination: The receiving node.
        size: Bytes on the wire.
        token: Whatever the owner wants to find again.
        number: A number of the owner's, for the same purpose.
        sequence: 0, 1, 2, ... in order of start.
    """

    source: NodeId
    destination: NodeId
    size: int
    token: Any
    number: int
    sequence: int


class Due(Protocol):
    """Something that a network wants to be reminded of.

    Attributes:
        source: Orders the events of one instant.
    """

    @property
    def source(self) -> int:
        """See the class."""


class Network(Protocol):
    """All transfers under way and their max-min fair rates.

    Its owner keeps the network's events in order of time: each is one call of :meth:`finish`.

    Attributes:
        pairs: The limits of pairs.
    """

    pairs: PairLimits

    def start(self, now_ns: int, source: int, destination: int, size: int, token: Any) -> Any:
        """Begin a transfer of ``size`` bytes, which is returned; its rate may be found in an event at ``now_ns``."""

    def finish(self, what: Any, now_ns: int) -> Sequence[Any]:
        """Handle the event that was scheduled for ``what`` at ``now_ns``; returns the transfers that have ended."""

    def abort(self, flow: Any, now_ns: int) -> int:
        """Remove a transfer before its end; returns the whole bytes that were transmitted, and wasted."""

    def set_up(self, node: int, mbps: float, now_ns: int) -> None:
        """Change a node's uplink; inf is unlimited, 0 parks its transfers."""

    def set_down(self, node: int, mbps: float, now_ns: int) -> None:
        """Change a node's downlink; inf is unlimited, 0 parks its transfers."""

    def set_pair(self, source: int, destination: int, mbps: float, now_ns: int) -> None:
        """Change the capacity that transfers from ``source`` to ``destination`` share."""

    def pair_has_changed(self, source: int, destination: int, now_ns: int) -> None:
        """Take in another capacity of a pair, which :attr:`pairs` has already."""

    def active(self) -> Sequence[Any]:
        """Return the transfers under way, in order of start."""

    def outgoing(self, node: int) -> Sequence[Any]:
        """Return the transfers of a sender, in order of start."""

    def is_parked(self, flow: Any) -> bool:
        """Return whether a transfer does not move, for a link of it has no rate."""

    def is_unlimited(self, flow: Any) -> bool:
        """Return whether no link limits a transfer, or none did when it ended."""


def make_network(plan: NetworkPlan, schedule: Callable[[int, Any], None]) -> Network:
    """Return the network that suits the sender policy of a plan.

    Args:
        plan: Capacities at the start; its ``changes`` are applied by the caller, see :func:`change_links`.
        schedule: Called with (time_ns, what): the caller calls :meth:`Network.finish` with these at this time.
    """
    return LevelNetwork(plan, schedule) if plan.sender.per_peer else FluidNetwork(plan, schedule)


def change_links(network: Network, change: LinkChange, at_ns: int) -> None:
    """Let a change of the plan take effect in a network, at ``at_ns`` of the network's time."""
    match change:
        case PartitionChange(partitions=partitions):
            set_partitions(network, partitions, at_ns)
        case CapacityChange(kind="up", source=source, mbps=mbps):
            network.set_up(source, mbps, at_ns)
        case CapacityChange(kind="down", destination=destination, mbps=mbps):
            network.set_down(destination, mbps, at_ns)
        case CapacityChange(kind="pair", source=source, destination=destination, mbps=mbps):
            network.set_pair(source, destination, mbps, at_ns)


def set_partitions(network: Network, partitions: Sequence[Groups], at_ns: int) -> None:
    """Change who does not reach each other; transfers between them are parked."""
    under_way = ((flow.source, flow.destination) for flow in network.active())
    for source, destination in network.pairs.set_partitions(partitions, under_way):
        network.pair_has_changed(source, destination, at_ns)
