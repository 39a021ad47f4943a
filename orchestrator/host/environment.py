"""The environment of a run: versions, commit, host, data. A result depends on it besides its experiment.

Written to environment.json.

Only what is named here is recorded; the environment's variables never are.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from orchestrator.fidelity import cpu_pressure

PACKAGES: Final = ("fragmesh", "torch", "torchvision", "numpy", "pyarrow", "scikit-learn", "matplotlib")
_ROOT: Final = Path(__file__).resolve().parents[2]


def environment(*, seed: int, data_source: str, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The content of ``environment.json``.

    Args:
        seed: The run's seed.
        data_source: Which files the data set came from.
        argv: The command; None for this process's.
    """
    return {
        "begun_at": wall_clock(),
        "command": list(sys.argv if argv is None else argv),
        "seed": seed,
        "data_source": data_source,
        "versions": versions(),
        "source": source(),
        "host": host(),
    }


def wall_clock(unix_s: float | None = None) -> str:
    """The wall clock, now or at a Unix time, to the millisecond, in UTC: ``2026-11-21T12:00:00.000+00:00``."""
    at = datetime.now(UTC) if unix_s is None else datetime.fromtimestamp(unix_s, UTC)
    return at.isoformat(timespec="milliseconds")


def versions() -> dict[str, str | None]:
    """Python and the packages that results depend on; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def source(root: Path = _ROOT) -> dict[str, Any]:
    """Commit of the checkout that runs, and whether its tracked files differ from it.

    None for both outside a checkout: an installed package may lie inside somebody else's repository, which
    would say nothing about us.
    """
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def host() -> dict[str, Any]:
    """The machine: processor, usable cores, memory, kernel."""
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
    }


def cpu_model() -> str:
    """The processor's name as the kernel tells it, else the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Physical memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no git here, or not a repository it will read
    return done.stdout.strip()


def host_pressure() -> float | None:
    """Return how much processes wait for the host's cores now; see :func:`~orchestrator.fidelity.cpu_pressure`."""
    try:
        return cpu_pressure(Path("/proc/pressure/cpu").read_text(encoding="utf-8"))
    except OSError:
        return None
