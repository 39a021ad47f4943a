"""The runtimes that an experiment can name. How each is run stands in ``orchestrator.runtimes.registry``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

RuntimeName = Literal["simulation", "processes", "docker"]
"""Values of the experiment's key ``runtime``."""

PLANNED: Final = ("kubernetes",)
"""Runtimes that people ask for and that this version does not have."""


@dataclass(frozen=True, slots=True)
class RuntimeDescription:
    """Description of a runtime, as people read it.

    Attributes:
        summary: One line for ``fragmesh list``.
        clock_name: Name of the time in which its results are given.
        real: Parts of a run that are real, for the README's table.
        purpose: Use that it is meant for, for the README's table.
        has_real_links: Whether nodes have links of their own, so that ``network.links`` may be direct.
        tls: Whether what its nodes send is encrypted where ``network.tls`` does not say.
        has_kernel_links: Whether each node has a network of its own in the kernel, with settings of its own.
    """

    summary: str
    clock_name: str
    real: str
    purpose: str
    has_real_links: bool
    tls: bool
    has_kernel_links: bool = False


RUNTIMES: Final[Mapping[RuntimeName, RuntimeDescription]] = {
    "simulation": RuntimeDescription(
        "training is real; time and links are virtual",
        clock_name="virtual time",
        real="training; time and links are virtual",
        purpose="thousands of nodes, exact replay, sweeps",
        has_real_links=False,
        tls=False,
    ),
    "processes": RuntimeDescription(
        "a process a node, gRPC streams, wall-clock time; links shaped in user space",
        clock_name="testbed time",
        real="also processes, gRPC streams, sockets and the clock; links are shaped in user space",
        purpose="what a real node does, without Docker or root",
        has_real_links=True,
        tls=False,
    ),
    "docker": RuntimeDescription(
        "a container a node, gRPC over TLS, wall-clock time; links shaped by the kernel",
        clock_name="testbed time",
        real="also containers, TLS and the kernel's TCP; links are shaped by the kernel (`tc`), both directions",
        purpose="what a deployed node does, on one machine with Docker",
        has_real_links=True,
        tls=True,
        has_kernel_links=True,
    ),
}


def clock_name(runtime: str) -> str:
    """Return the name of a run's clock; ``runtime`` may be one that this version does not know."""
    known = {str(name): description for name, description in RUNTIMES.items()}
    return known[runtime].clock_name if runtime in known else "testbed time"
