"""The gate of a node: a file that somebody makes once the node may reach the network, and not before."""

import os
import time
from pathlib import Path
from typing import Final

from node.core.errors import RunnerError

LOOK_EVERY_S: Final = 0.02


def wait_for_gate(gate: Path, within_s: float) -> None:
    """Wait until a file exists. Nobody is asked, so that a node whose orchestrator is gone ends all the same.

    Args:
        gate: The file.
        within_s: Real time that it may take.

    Raises:
        RunnerError: It did not come in time.
    """
    until_s = time.monotonic() + within_s
    while not os.path.exists(gate):
        if time.monotonic() >= until_s:
            raise RunnerError(f"{gate}: was not there within {within_s:g} s: nobody has let this node begin")
        time.sleep(LOOK_EVERY_S)
