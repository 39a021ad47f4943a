"""Runs in containers on a kernel with netem: what links the nodes find, beside what the experiment asks for.

Where this host's kernel has no netem, ``test_netem_machine`` runs them in a virtual machine.
"""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from orchestrator.results.reader import Run, load_run
from tests.integration.shaping_host import ShapingHost, need_netem
from tests.integration.started import WAIT_S, Room, is_late
from tests.integration.test_docker_runs import ROOT, DockerRun, start

__all__ = ["start"]  # a fixture

QUICKSTART = ROOT / "deploy" / "experiments" / "quickstart.yaml"
LINKS = ("rate", "round trip, median")
"""Checks of fidelity whose figures are the kernel's; a late host spoils the others as well."""


@pytest.fixture(scope="module", autouse=True)
def _needed() -> None:
    need_netem("python -m tests.netem_machine --engine run")


class DockerRoom(Room):
    """Attempts of a run in containers, each with more time dilation, while the host is late."""

    dilations = (10.0, 40.0)

    def __init__(self, start: Callable[..., DockerRun], clock: ShapingHost) -> None:
        self._contained = start
        self._clock = clock
        super().__init__(start)

    def begin(self, dilation: float) -> None:
        """Begin an attempt."""
        super().begin(dilation)
        self._clock.begin(dilation)

    def done(self, *settings: str, **changes: Any) -> Run:
        """The results of a run that must come to its end."""
        run = self._contained(*settings, f"time_dilation={self._dilation:g}", **changes)
        assert run.process.wait(5 * WAIT_S) == 0, run.said()
        assert run.end() == 0
        print(run.said())
        self._runs.append(load_run(run.path))
        return self._runs[-1]

    def was_late(self) -> bool:
        """Whether the host was, by its clock or by what the runs say."""
        return self._clock.was_late() or any(is_late(run) for run in self._runs)


@pytest.fixture
def docker_room(start: Callable[..., DockerRun]) -> Iterator[DockerRoom]:
    """Runs in containers, with the dilation of this attempt."""
    with ShapingHost() as clock:
        yield DockerRoom(start, clock)


@pytest.mark.slow
def test_the_quickstart_finds_the_links_that_it_asks_for(docker_room: DockerRoom) -> None:
    """Four nodes, two of them with a slow link: every profile of a link within the tolerances, and messages arrive."""
    signal.alarm(0)  # each wait has a bound of its own, and there may be two attempts
    quickstart = yaml.safe_load(QUICKSTART.read_text())
    quickstart["network"]["preset"] |= {"bandwidth_mbps": 10, "count": 2, "latency_ms": 20}
    run = docker_room.done(
        **quickstart | {"runtime": "docker", "nodes": 4, "stop": {"time_s": 2}, "fidelity": {"allow_unfaithful": True}}
    )
    assert run.status == "done"
    assert run.fidelity is not None
    assert run.fidelity["links"] == "kernel: htb and netem"
    checks = [check for check in run.fidelity["checks"] if check["name"].startswith(LINKS)]
    print(
        "\n".join(f"{check['name']}: {check['achieved']:.4g}, {check['requested']:.4g} asked for" for check in checks)
    )
    assert len(checks) == 4
    assert not [check for check in checks if not check["ok"]]
    assert run.summary is not None
    assert run.summary["messages"]["delivered"] > 0
    assert run.summary["messages"]["lost"] == 0
