"""Prometheus and promtool as they are installed on this host."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from node.core.errors import ConfigError
from orchestrator.results.files import first_line_of

ProgramName: TypeAlias = Literal["prometheus", "promtool"]

LOWEST_VERSION: Final = (2, 39)
"""From this release on Prometheus reads imported blocks beside what it scraped at the same time."""

_ANSWERS_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class InstalledProgram:
    """A program that can be used.

    Attributes:
        path: Where it is.
        version: Its release, for example ``2.42.0``.
    """

    path: str
    version: str


def installed_program(name: ProgramName, path: str | None = None) -> InstalledProgram:
    """Find a program and check that it is new enough.

    Args:
        name: Which.
        path: Where it is; None looks for it as a shell does.

    Raises:
        ConfigError: It is missing, does not run or is too old; one line says what to do.
    """
    found = shutil.which(path or name)
    lowest = ".".join(map(str, LOWEST_VERSION))
    advice = f"install Prometheus {lowest} or newer, of which promtool is a part (Debian's package: prometheus)"
    if found is None:
        raise ConfigError(f"{path or name}: not found: {advice}")
    try:
        told = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=_ANSWERS_S, errors="replace"
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{found}: does not run: {first_line_of(error)}: {advice}") from error
    version = re.search(rf"^{name}, version (([0-9]+)\.([0-9]+)\S*)", told.stdout + told.stderr, re.MULTILINE)
    if version is None:
        raise ConfigError(f"{found}: does not say that it is {name}: {advice}")
    if (int(version[2]), int(version[3])) < LOWEST_VERSION:
        raise ConfigError(f"{found}: version {version[1]} is too old: {advice}")
    return InstalledProgram(found, version[1])
