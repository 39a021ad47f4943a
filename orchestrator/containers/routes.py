"""Routes of this machine: networks that are already somebody's."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

_TABLE: Final = Path("/proc/net/route")


@dataclass(frozen=True, slots=True)
class HostRoute:
    """A route to a network.

    Attributes:
        interface: Through which it goes.
        network: To where.
    """

    interface: str
    network: IPv4Network


def host_routes() -> list[HostRoute]:
    """Read this machine's routes but for the default one; empty where the kernel does not tell them."""
    try:
        return parse_routes(_TABLE.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return []


def parse_routes(table: str) -> list[HostRoute]:
    """Read the kernel's table of IPv4 routes, whose numbers are hexadecimal with the last byte first."""
    routes = []
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) < 8:
            continue
        address, mask = (IPv4Address(bytes.fromhex(columns[i])[::-1]) for i in (1, 7))
        network = IPv4Network(f"{address}/{mask}", strict=False)
        if network.prefixlen > 0:
            routes.append(HostRoute(columns[0], network))
    return routes
