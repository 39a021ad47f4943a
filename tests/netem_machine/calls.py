"""Commands that the machine is made with."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

CALL_S = 300


class MachineError(Exception):
    """The machine cannot be built or started here; one line with the reason."""


def call(
    command: Sequence[str],
    folder: Path | None = None,
    *,
    given: IO[bytes] | None = None,
    timeout_s: float = CALL_S,
) -> str:
    """Run a command and return what it printed.

    Args:
        command: With its arguments.
        folder: Where; None stays here.
        given: Its input; None gives none.
        timeout_s: Real time after which it is ended.

    Raises:
        MachineError: It failed, or took longer.
    """
    source = subprocess.DEVNULL if given is None else given
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=source, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise MachineError(f"{command[0]}: has not ended within {timeout_s:g} s") from None
    if done.returncode:
        raise MachineError(f"{command[0]}: {''.join((done.stderr or done.stdout).strip().splitlines()[-1:])}")
    return done.stdout
