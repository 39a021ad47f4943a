"""Tests of netem in a virtual machine, for hosts whose kernel has none.

Runs where the environment names a folder for the machine; it is built there when it is missing, which fetches 38 MB.
"""

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from orchestrator.shaping.probe import probe_shaping
from tests.integration.shaping_host import need
from tests.netem_machine.calls import MachineError
from tests.netem_machine.machine import FOLDER_VARIABLE, Machine, why_not

MACHINE_FOLDER = os.environ.get(FOLDER_VARIABLE, "")
TESTS = "tests/integration/test_shaping_netem.py"
TIMEOUT_S = 3_600
"""Net under a machine that hangs. The tests took 16 minutes where others had the cores all the time."""


@pytest.mark.slow
def test_netem_in_a_virtual_machine(capfd: pytest.CaptureFixture[str]) -> None:
    if probe_shaping().has_netem:
        pytest.skip("this host's own kernel has netem, and its tests run here")
    if not MACHINE_FOLDER:
        need("netem", f"this kernel has no netem, and {FOLDER_VARIABLE} names no folder for a virtual machine")
    need("netem", why_not())
    signal.alarm(0)  # the tests in the machine have an alarm each
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "-rA", TESTS]
    try:
        status = Machine(Path(MACHINE_FOLDER)).run(
            command, timeout_s=TIMEOUT_S, environment={"FRAGMESH_REQUIRE": "netem,tc"}
        )
    except MachineError as error:
        need("netem", str(error))
    printed = capfd.readouterr().out
    print(printed)
    assert status == 0, printed[-20_000:]
    closing = re.search(r"^\d+ passed\b.*", printed, re.MULTILINE)
    assert closing is not None, printed[-20_000:]
    assert "skipped" not in closing[0], "netem must not be missing there as well"
