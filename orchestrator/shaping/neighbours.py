"""Settings of a node's namespace besides the tree of its links: its neighbours, and how patient TCP is; pure.

Entries of the neighbour table are set and not asked for by ARP. The kernel has one such table for all namespaces
together, with room for 1,024 entries as a rule (``gc_thresh3``). Where each of n nodes asks for all others the table
needs n(n - 1) entries: from 33 nodes on it is full, and a connection fails with "no route to host". Permanent entries
are not counted by that limit (``exempt_from_gc`` in the kernel's ``net/core/neighbour.c``, Linux 5.0 and later), and
cost no question on a link that is slow.

An entry needs the peer's hardware address, perhaps before the peer has started. So every node gets one that follows
from its IPv4 address; it is the one that engines before 28 choose as well, where later ones draw it by lot.

TCP takes a packet for lost after 200 ms at the least, of real time. On links that are slower by the time dilation this
is too early by the same factor: what is under way would be sent twice. So the bound is dilated as well.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

_LOCAL_PREFIX: Final = b"\x02\x42"
"""Begin of a hardware address that nobody has sold."""

_RTO_MS_MIN: Final = 200
"""The kernel's own bound of TCP's retransmission timer (``TCP_RTO_MIN``)."""


def hardware_address(address: IPv4Address) -> str:
    """Return the hardware address of the device that has an IPv4 address."""
    return (_LOCAL_PREFIX + address.packed).hex(":")


def namespace_lines(
    device: str, own: IPv4Interface, peers: Iterable[IPv4Address], time_dilation: float
) -> tuple[str, ...]:
    """Write for ``ip -batch`` what gives a node its hardware address, tells it those of its peers, and makes TCP wait.

    It may be carried out again, and while traffic flows.

    Args:
        device: The node's, in the data network.
        own: Its address there, with the network.
        peers: Those of its peers.
        time_dilation: Real seconds a testbed second.
    """
    link = f"link set dev {device} address {hardware_address(own.ip)}"
    route = f"route replace {own.network} dev {device} proto kernel scope link src {own.ip}"
    patience = f"{route} rto_min {round(_RTO_MS_MIN * max(1.0, time_dilation))}ms"
    entries = (f"neigh replace {peer} lladdr {hardware_address(peer)} nud permanent dev {device}" for peer in peers)
    return (link, patience, *entries)
