"""Choosing the subnets of a run's networks, so that they are nobody else's. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from node.core.errors import ConfigError

POOLS: Final = tuple(IPv4Network(pool) for pool in ("198.18.0.0/15", "10.213.0.0/16", "192.168.208.0/20"))
"""Ranges from which subnets are taken: first one for measurements (RFC 2544), which few hosts route."""

NODES_MAX: Final = 1000
"""Nodes of one run: the kernel's bridges have 1,024 ports."""

FIRST_NODE: Final = 16
"""Addresses of a network before those of its nodes: the network's own, this machine's, and helpers'."""

_LONGEST_PREFIX: Final = 24


@dataclass(frozen=True, slots=True)
class TakenSubnet:
    """Addresses that are somebody's.

    Attributes:
        network: Which.
        holder: Whose, for messages: ``a route of eth0``.
    """

    network: IPv4Network
    holder: str


def address_of(subnet: IPv4Network, node: int) -> IPv4Address:
    """Return the address of a node in a run's network."""
    return subnet[FIRST_NODE + node]


def gateway_of(subnet: IPv4Network) -> IPv4Address:
    """Return the address of this machine in a run's network."""
    return subnet[1]


def choose_subnets(count: int, nodes: int, taken: Sequence[TakenSubnet]) -> list[IPv4Network]:
    """Choose free subnets for networks with that many nodes each.

    Raises:
        ConfigError: There are too many nodes, or too few addresses are free.
    """
    prefix = _prefix(nodes)
    chosen: list[IPv4Network] = []
    for subnet in _candidates(prefix):
        if not any(subnet.overlaps(other.network) for other in taken):
            chosen.append(subnet)
            if len(chosen) == count:
                return chosen
    pools = ", ".join(map(str, POOLS))
    raise ConfigError(f"nodes={nodes}: no {count} free subnets of size /{prefix} in {pools}")


def divide_subnet(
    wanted: IPv4Network, count: int, nodes: int, taken: Sequence[TakenSubnet], place: str
) -> list[IPv4Network]:
    """Divide a subnet that the user names among networks with that many nodes each.

    Args:
        wanted: The subnet.
        count: How many networks; a power of 2.
        nodes: Nodes in each.
        taken: Addresses that are somebody's.
        place: The setting that names it, for messages.

    Raises:
        ConfigError: It is too small, or somebody's.
    """
    prefix = _prefix(nodes, longest=30)
    largest = prefix - (count - 1).bit_length()
    if wanted.prefixlen > largest:
        raise ConfigError(f"{place}={wanted}: must be /{largest} or larger for {count} networks of {nodes} nodes")
    for other in taken:
        if wanted.overlaps(other.network):
            raise ConfigError(f"{place}={wanted}: must be free: {other.network} is {other.holder}")
    return list(wanted.subnets((count - 1).bit_length()))


def _prefix(nodes: int, longest: int = _LONGEST_PREFIX) -> int:
    if nodes > NODES_MAX:
        raise ConfigError(f"nodes={nodes}: must be at most {NODES_MAX:,}, which fit on one bridge")
    needed = FIRST_NODE + nodes + 1  # the last address is for all
    return min(longest, 32 - (needed - 1).bit_length())


def _candidates(prefix: int) -> Iterator[IPv4Network]:
    for pool in POOLS:
        if pool.prefixlen <= prefix:
            yield from pool.subnets(new_prefix=prefix)
