"""The runtimes that an experiment can name. How each is run stands in ``orchestrator.runtimes.registry``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

RuntimeName = Literal["simulation", "processes"]
"""Values of the experiment's key ``runtime``."""


@dataclass(frozen=True, slots=True)
class RuntimeDescription:
    """Description of a runtime, as people read it.

    Attributes:
        summary: One line for ``fragmesh list``.
        clock_name: Name of the time in which its results are given.
    """

    summary: str
    clock_name: str


RUNTIMES: Final[Mapping[RuntimeName, RuntimeDescription]] = {
    "simulation": RuntimeDescription("training is real; time and links are virtual", "virtual time"),
    "processes": RuntimeDescription(
        "a process a node, gRPC streams, wall-clock time; links shaped in user space", "testbed time"
    ),
}


def clock_name(runtime: str) -> str:
    """Return the name of a run's clock; ``runtime`` may be one that this version does not know."""
    known = {str(name): description for name, description in RUNTIMES.items()}
    return known[runtime].clock_name if runtime in known else "testbed time"
