"""Tests of netem in a virtual machine, for hosts whose kernel has none: of shaping alone, and of runs in containers.

Runs where the environment names a folder for the machine; it is built there when it is missing, which fetches 38 MB.
"""

import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.containers.engine import DockerEngine
from orchestrator.shaping.probe import probe_shaping
from tests.integration.shaping_host import MACHINE_FOLDER, need
from tests.netem_machine.calls import MachineError
from tests.netem_machine.engine_disk import why_no_engine
from tests.netem_machine.machine import ENGINE_MEMORY_MB, FOLDER_VARIABLE, Machine, why_not

SHAPING_TESTS = ("tests/integration/test_shaping_netem.py",)
DOCKER_TESTS = (
    "tests/integration/test_docker_netem.py",
    *(
        f"tests/integration/test_docker_runs.py::{name}"
        for name in (
            "test_a_run_from_beginning_to_end",
            "test_a_node_that_is_killed_and_one_that_comes_back",
            "test_nodes_of_a_killed_orchestrator_end_and_the_next_start_removes_them",
        )
    ),
)
TIMEOUT_S = 3_600
"""Net under a machine that hangs. The tests of shaping took 16 minutes where others had the cores all the time."""


@pytest.fixture(autouse=True)
def _needed() -> None:
    if probe_shaping().has_netem:
        pytest.skip("this host's own kernel has netem, and its tests run here")
    if not MACHINE_FOLDER:
        need("netem", f"this kernel has no netem, and {FOLDER_VARIABLE} names no folder for a virtual machine")
    need("netem", why_not())


@pytest.mark.slow
def test_netem_in_a_virtual_machine(capfd: pytest.CaptureFixture[str]) -> None:
    run_in_the_machine(SHAPING_TESTS, capfd, {"FRAGMESH_REQUIRE": "netem,tc"})


@pytest.mark.slow
def test_containers_in_a_virtual_machine(
    engine: DockerEngine, base_image: str, node_image: str, shaper_image: str, capfd: pytest.CaptureFixture[str]
) -> None:
    need("docker", why_no_engine())
    environment = {"FRAGMESH_REQUIRE": "docker,netem,tc", "FRAGMESH_BASE_IMAGE": base_image}
    images = (base_image, node_image, shaper_image)
    run_in_the_machine(DOCKER_TESTS, capfd, environment, memory_mb=ENGINE_MEMORY_MB, images=images)


def run_in_the_machine(
    tests: Sequence[str], capfd: pytest.CaptureFixture[str], environment: Mapping[str, str], **options: Any
) -> None:
    """Run tests in the machine; all of them must pass, and none may be skipped."""
    signal.alarm(0)  # the tests in the machine have an alarm each
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "-rA", *tests]
    try:
        status = Machine(Path(MACHINE_FOLDER)).run(command, timeout_s=TIMEOUT_S, environment=environment, **options)
    except MachineError as error:
        need("netem", str(error))
    printed = capfd.readouterr().out
    print(printed)
    assert status == 0, printed[-20_000:]
    closing = re.search(r"^\d+ passed\b.*", printed, re.MULTILINE)
    assert closing is not None, printed[-20_000:]
    assert "skipped" not in closing[0], "netem must not be missing there as well"
