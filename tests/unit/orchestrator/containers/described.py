"""An engine as tests describe it."""

from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

from orchestrator.containers.facts import EngineFacts

KERNEL = "6.1.0"

USABLE = EngineFacts(
    named_by="Docker engine at unix:///var/run/docker.sock",
    url="unix:///var/run/docker.sock",
    product="Engine",
    version="20.10.24",
    api_version="1.41",
    operating_system="Debian GNU/Linux 12 (bookworm)",
    os_type="linux",
    kernel=KERNEL,
    security=("name=seccomp,profile=default",),
    cgroup_version=2,
    cpus=4,
    memory_bytes=8 * 10**9,
    limits_memory=True,
    limits_cpus=True,
    bridge=("docker0", IPv4Network("172.17.0.0/16")),
)


def facts(**changes: Any) -> EngineFacts:
    """An engine in which nodes can run, but for the changes."""
    return replace(USABLE, **changes)
