"""The networks of a run, on addresses that are nobody else's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from orchestrator.containers.cleanup import remove_labelled
from orchestrator.containers.interface import Engine, SubnetTaken
from orchestrator.containers.ownership import RunScope
from orchestrator.containers.routes import HostRoute, host_routes
from orchestrator.containers.subnets import TakenSubnet, address_of, choose_subnets, divide_subnet, gateway_of

NETWORK_ROLES: Final = ("control", "data")
"""Networks of a run: one for the orchestrator, which nothing shapes, and one for messages between nodes."""

_ATTEMPTS: Final = 20
"""Attempts to choose subnets, because another run may be faster."""


@dataclass(frozen=True, slots=True)
class RunNetwork:
    """A network of a run.

    Attributes:
        role: ``control`` or ``data``.
        name: Its name in the engine.
        subnet: Its addresses.
        interface: Its bridge on this machine.
    """

    role: str
    name: str
    subnet: IPv4Network
    interface: str

    @property
    def gateway(self) -> IPv4Address:
        """This machine's address in it."""
        return gateway_of(self.subnet)

    def address_of(self, node: int) -> IPv4Address:
        """Return a node's address in it."""
        return address_of(self.subnet, node)


def plan_networks(
    engine: Engine,
    nodes: int,
    *,
    wanted: IPv4Network | None = None,
    place: str = "",
    routes: Callable[[], Sequence[HostRoute]] | None = None,
) -> list[IPv4Network]:
    """Choose subnets for the networks of a run, as things stand; nothing is made.

    Args:
        engine: Whose networks must not be touched.
        nodes: How many nodes will be in each.
        wanted: Addresses that the user names; None chooses.
        place: The setting that names them, for messages.
        routes: Returns this machine's routes, which must not be touched either; None asks the kernel.

    Raises:
        ConfigError: The addresses are too few or somebody's.
    """
    taken = [
        TakenSubnet(subnet, f"the Docker network {network.name}")
        for network in engine.networks()
        for subnet in network.subnets
    ]
    taken += [
        TakenSubnet(route.network, f"a route of {route.interface}")
        for route in (host_routes if routes is None else routes)()
    ]
    if wanted is None:
        return choose_subnets(len(NETWORK_ROLES), nodes, taken)
    return divide_subnet(wanted, len(NETWORK_ROLES), nodes, taken, place)


def make_networks(
    engine: Engine, scope: RunScope, nodes: int, *, wanted: IPv4Network | None = None, place: str = ""
) -> dict[str, RunNetwork]:
    """Make the networks of a run and return them by role. Arguments as for :func:`plan_networks`.

    Raises:
        ConfigError: The addresses are too few or somebody's.
        EngineError: The engine refuses; what was made has the run's labels.
    """
    for attempt in range(_ATTEMPTS):
        subnets = plan_networks(engine, nodes, wanted=wanted, place=place)
        made: dict[str, RunNetwork] = {}
        try:
            for role, subnet in zip(NETWORK_ROLES, subnets, strict=True):
                name = scope.name_of(role)
                identity = engine.create_network(name, subnet, scope.labels(role))
                made[role] = RunNetwork(role, name, subnet, f"br-{identity[:12]}")
        except SubnetTaken:  # another run chose the same a moment ago
            if attempt + 1 == _ATTEMPTS:
                raise
            remove_labelled(engine, scope.labels())
        else:
            break
    return made
