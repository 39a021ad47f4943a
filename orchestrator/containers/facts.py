"""Judging an engine: whether nodes can run in it, and how many. Pure; nothing here talks to one.

Nodes need an engine on this machine: they read files of the run by bind mounts, and answer to the orchestrator at an
address of their network that is this machine's. So an engine elsewhere is refused, and one in a virtual machine or in
namespaces of its own as well, with the reason.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from node.core.errors import ConfigError
from orchestrator.containers.routes import HostRoute
from orchestrator.report.text import format_bytes

OLDEST: Final = (20, 10)
"""Oldest engine that is tested."""

LOCAL_SCHEMES: Final = ("unix://", "tcp://", "http://", "https://")


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """An engine as it describes itself.

    Attributes:
        named_by: The setting that led to it; begins messages about it.
        url: Where it listens.
        product: Its own name, for example ``Engine``.
        version: For example ``20.10.24``.
        api_version: Of its interface.
        operating_system: For people; names Docker Desktop.
        os_type: ``linux`` or ``windows``, which its containers are.
        kernel: Release of the kernel under it.
        security: Its security options, for example ``name=rootless``.
        cgroup_version: 1 or 2; 0 if unknown.
        cpus: Processors that its containers share.
        memory_bytes: Memory that its containers share.
        limits_memory: Whether a container's memory can be limited.
        limits_cpus: Whether a container's processor time can be limited.
        bridge: Interface and subnet of its default network; None if it has none.
    """

    named_by: str
    url: str
    product: str
    version: str
    api_version: str
    operating_system: str
    os_type: str
    kernel: str
    security: tuple[str, ...]
    cgroup_version: int
    cpus: int
    memory_bytes: int
    limits_memory: bool
    limits_cpus: bool
    bridge: tuple[str, IPv4Network] | None


def check_scheme(named_by: str, url: str) -> None:
    """Refuse an address that can only be of another machine or system.

    Raises:
        ConfigError: It is one.
    """
    if not url.startswith(LOCAL_SCHEMES):
        scheme, found, _ = url.partition("://")
        if not found:
            raise ConfigError(f"{named_by}: must be an address such as unix:///var/run/docker.sock")
        raise ConfigError(f"{named_by}: {scheme}:// leads to another machine or system; {_HERE}")


_HERE: Final = "nodes need an engine on the machine where fragmesh runs"


def check_usable(facts: EngineFacts, kernel: str, routes: Sequence[HostRoute]) -> None:
    """Refuse an engine in which nodes could not run.

    Args:
        facts: The engine.
        kernel: Release of this machine's kernel.
        routes: This machine's routes, among which must be that to the engine's default network.

    Raises:
        ConfigError: One line with the reason and a remedy.
    """
    place = facts.named_by
    if "podman" in facts.product.lower():
        raise ConfigError(f"{place}: is Podman {facts.version}; only the Docker engine is supported")
    if _numbers(facts.version) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigError(f"{place}: Docker engine {facts.version}: must be at least {oldest}")
    if facts.os_type != "linux":
        raise ConfigError(f"{place}: runs {facts.os_type} containers; must run linux containers")
    if "docker desktop" in facts.operating_system.lower():
        text = "its containers are in a virtual machine that does not reach the orchestrator here"
        raise ConfigError(f"{place}: is Docker Desktop: {text}; run fragmesh and an engine inside one Linux")
    if any(option.startswith("name=rootless") for option in facts.security):
        text = "its networks are not this machine's, so nodes do not reach the orchestrator"
        raise ConfigError(f"{place}: is a rootless engine: {text}; use one that root started")
    if facts.kernel != kernel:
        raise ConfigError(f"{place}: is on another machine (kernel {facts.kernel}, here {kernel}); {_HERE}")
    if facts.bridge is not None and not any((route.interface, route.network) == facts.bridge for route in routes):
        name, subnet = facts.bridge
        raise ConfigError(f"{place}: its network {subnet} ({name}) is not one of this machine; {_HERE}")


def check_memory(facts: EngineFacts, containers: int, bytes_each: int) -> None:
    """Refuse to start more nodes than the engine has memory for.

    Raises:
        ConfigError: They do not fit.
    """
    needed = containers * bytes_each
    if needed > facts.memory_bytes:
        fit = facts.memory_bytes // bytes_each
        each = f"about {format_bytes(bytes_each)} each"
        raise ConfigError(
            f"nodes={containers}: must be at most {fit}: the engine has {format_bytes(facts.memory_bytes)}, {each}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
