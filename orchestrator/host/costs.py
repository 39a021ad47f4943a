"""Costs of messages and rounds on this host: values that the time dilation rests on, kept per host and version.

The values are measured once (:mod:`orchestrator.host.calibration`) and kept in the cache directory, in a file that is
named after everything that changes them (:func:`identity`). A file that cannot be read, or that is another's, counts
as none.
"""

import hashlib
import json
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, Final

from node.core.units import NS_PER_S
from node.learning.data_files import cache_dir
from orchestrator.host.environment import cpu_model, usable_cores, versions

METHOD: Final = 1
"""Raised when the calibration measures something else."""


@dataclass(frozen=True, slots=True)
class HostCosts:
    """Processor seconds unless said otherwise, all processes of a run together.

    Attributes:
        message_cpu_s: One message: sender, receiver and link emulator, whatever its size.
        byte_cpu_s: One byte of a message on top: copies, checksum, averaging.
        round_cpu_s: From the end of a node's local steps to the begin of its next ones, the training worker's
            wake-up included.
        round_param_cpu_s: One parameter of the model on top: cutting, averaging, copying.
        path_s: Real time from one node to another and back where links have no latency, median. What a link's
            latency covers of it does not show.
        measured_unix_s: When it was measured, seconds since 1970; None: not on this host, but assumed.
    """

    message_cpu_s: float
    byte_cpu_s: float
    round_cpu_s: float
    round_param_cpu_s: float
    path_s: float
    measured_unix_s: float | None = None

    def age_s(self) -> float | None:
        """Return the seconds since it was measured; None where it is assumed."""
        return None if self.measured_unix_s is None else max(0.0, time.time_ns() / NS_PER_S - self.measured_unix_s)

    def to_json(self) -> dict[str, Any]:
        """For ``environment.json`` and for machines."""
        return asdict(self)


ASSUMED: Final = HostCosts(
    message_cpu_s=0.8e-3, byte_cpu_s=3e-9, round_cpu_s=4e-3, round_param_cpu_s=20e-9, path_s=2.5e-3
)
"""Costs where nothing can be measured: those of busy hosts."""


def identity() -> dict[str, Any]:
    """Everything that changes the costs, apart from what else the host does."""
    found = versions()
    return {
        "method": METHOD,
        "host": platform.node(),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": found["python"],
        "fragmesh": found["fragmesh"],
    }


def costs_path(of: Mapping[str, Any] | None = None) -> Path:
    """Return the file in which the costs are kept; ``of`` is an :func:`identity`, None for this host's."""
    text = json.dumps(identity() if of is None else dict(of), sort_keys=True)
    return cache_dir() / f"host-costs-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def load_costs() -> HostCosts | None:
    """Read the costs that were measured on this host with this version; None if none were."""
    me = identity()
    try:
        content = json.loads(costs_path(me).read_text(encoding="utf-8"))
        if content["identity"] != me:
            return None
        values = {field.name: float(content["costs"][field.name]) for field in fields(HostCosts)}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not all(isfinite(value) and value > 0 for value in values.values()):
        return None
    return HostCosts(**values)


def keep_costs(costs: HostCosts) -> bool:
    """Keep what was measured; returns whether it could be."""
    me = identity()
    path = costs_path(me)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{time.monotonic_ns()}.part")
        part.write_text(json.dumps({"identity": me, "costs": costs.to_json()}, indent=1), encoding="utf-8")
        part.replace(path)
        return True
    return False
