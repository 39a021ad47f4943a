"""Entries of the neighbour tables of nodes, which are set and not asked for by ARP; pure.

The kernel has one neighbour table for all namespaces together, with room for 1,024 entries as a rule (``gc_thresh3``).
Where each of n nodes asks for all others the table needs n(n - 1) entries: from 33 nodes on it is full, and a
connection fails with "no route to host". Permanent entries are not counted by that limit (``exempt_from_gc`` in the
kernel's ``net/core/neighbour.c``, Linux 5.0 and later), and cost no question on a link that is slow.

An entry needs the peer's hardware address, perhaps before the peer has started. So every node gets one that follows
from its IPv4 address; it is the one that engines before 28 choose as well, where later ones draw it by lot.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Final

_LOCAL_PREFIX: Final = b"\x02\x42"
"""Begin of a hardware address that nobody has sold."""


def hardware_address(address: IPv4Address) -> str:
    """Return the hardware address of the device that has an IPv4 address."""
    return (_LOCAL_PREFIX + address.packed).hex(":")


def neighbour_lines(device: str, own: IPv4Address, peers: Iterable[IPv4Address]) -> tuple[str, ...]:
    """Write for ``ip -batch`` what gives a node its hardware address and tells it those of its peers.

    It may be carried out again, and while traffic flows.

    Args:
        device: The node's, in the data network.
        own: Its address there.
        peers: Those of its peers.
    """
    link = f"link set dev {device} address {hardware_address(own)}"
    entries = (f"neigh replace {peer} lladdr {hardware_address(peer)} nud permanent dev {device}" for peer in peers)
    return (link, *entries)
