"""A run that is observed: found as soon as it serves something, and waited for by nobody who is in a hurry."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.core.types import NodeId
from node.host.clock import Clock
from node.host.metrics_server import MetricsServer
from node.transport.control_values import Registration
from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.runs import run_observation
from orchestrator.runs.control_server import ControlServer
from orchestrator.runs.part_run import PartRun
from orchestrator.runs.run_observation import RunObservation
from orchestrator.runs.run_readings import RunPhase
from orchestrator.runs.stopping import StopRequests
from orchestrator.runs.watched import WatchedNode
from tests.integration.scraping import get, series_of
from tests.unit.orchestrator.runs.test_run_readings import EXPERIMENT


def registration(node: int, metrics: str) -> Registration:
    return Registration(NodeId(node), "a:1", 1, 8, 1, "0", metrics)


class Observed:
    """An observation of nodes that a test makes up."""

    def __init__(self, folder: Path, **observe: Any) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.requests = StopRequests(levels=2, one_signal_s=0.0)
        plan = make_plan(parse_experiment({**EXPERIMENT, "observe": observe}, "f.yaml"), Path())
        self.observation = RunObservation(plan, "r-1", 2.0, None, self.requests, self.notes.append)
        self.supervisor = SimpleNamespace(
            phase=RunPhase.STARTING, clock=None, ended_ns=None, nodes={NodeId(0): WatchedNode.new(NodeId(0))}
        )
        self.nodes = SimpleNamespace(
            begin_ns=0,
            supervisor=self.supervisor,
            last_sample=None,
            measurements={},
            executor=SimpleNamespace(late_ns=()),
        )
        self.control = SimpleNamespace(registered={}, missing=2)

    def begin(self) -> None:
        self.observation.begin(cast(PartRun, self.nodes), cast(ControlServer, self.control))

    def targets(self) -> dict[str, str]:
        """Address of each node, and the orchestrator's under ``run``."""
        found = [
            entry for path in self.folder.glob("fragmesh/targets/*.json") for entry in json.loads(path.read_text())
        ]
        return {entry["labels"].get("node", "run"): entry["targets"][0] for entry in found}

    def page(self) -> dict[tuple[str, ...], float]:
        return series_of(get(self.targets()["run"]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_nodes_are_found_as_they_register_and_where_they_register_again(folder: Path) -> None:
    observed = Observed(folder)
    observed.begin()
    assert [*observed.targets()] == ["run"]

    async def follow() -> None:
        following = asyncio.create_task(observed.observation.follow())
        for told in ({0: "a:1"}, {0: "a:1", 1: "b:2"}, {0: "c:3", 1: "b:2"}, {0: "c:3", 1: "b:2", 2: ""}):
            observed.control.registered = {NodeId(n): registration(n, address) for n, address in told.items()}
            wanted = {str(node): address for node, address in told.items() if address}
            while {name: address for name, address in observed.targets().items() if name != "run"} != wanted:
                await asyncio.sleep(0.01)
        following.cancel()

    asyncio.run(follow())
    observed.observation.nodes_have_left()
    assert [*observed.targets()] == ["run"]
    observed.observation.leave()
    assert not list(folder.glob("fragmesh/targets/*"))


def test_the_page_follows_the_run(folder: Path) -> None:
    observed = Observed(folder)
    observed.begin()
    assert observed.page()["fragmesh_barrier_missing_nodes",] == 2
    assert ("fragmesh_run_clock_seconds",) not in observed.page()
    observed.supervisor.clock = Clock(0)
    observed.supervisor.phase = RunPhase.RUNNING
    begun = observed.page()
    assert begun["fragmesh_run_phase", "phase=running"] == 1
    assert begun["fragmesh_run_clock_seconds",] > 0
    observed.supervisor.ended_ns = 7 * 10**9
    observed.observation.nodes_have_left()
    assert observed.page()["fragmesh_run_phase", "phase=testing"] == 1
    observed.observation.judged({"checks": [{"name": "rate", "requested": 1, "achieved": 1, "ok": True}]})
    over = observed.page()
    assert over["fragmesh_run_phase", "phase=over"] == 1
    assert over["fragmesh_run_clock_seconds",] == 7
    assert over["fragmesh_fidelity_ok", "check=rate"] == 1
    assert over["fragmesh_run_start_timestamp_seconds",] == begun["fragmesh_run_start_timestamp_seconds",]
    observed.observation.leave()  # the page above was the last scrape


def test_whoever_is_in_a_hurry_waits_for_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observed = Observed(folder)
    observed.begin()
    observed.page()
    monkeypatch.setattr("node.host.metrics_server.Scrapes.expected_until_s", lambda self: self.now_s() + 1e9)
    observed.observation.judged(None)
    looks = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            observed.requests.request()
            observed.requests.request()

    monkeypatch.setattr(run_observation.time, "sleep", look)
    observed.observation.leave()
    assert len(looks) == 3
    assert observed.targets() == {}


def test_without_metrics_nothing_is_served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MetricsServer, "start", lambda *_: pytest.fail("served"))
    observed = Observed(folder, metrics=False)
    observed.begin()
    asyncio.run(observed.observation.follow())  # which has nothing to follow
    observed.observation.nodes_have_left()
    observed.observation.judged(None)
    observed.observation.leave()
    assert not list(folder.glob("fragmesh/*"))


def test_a_page_that_cannot_be_served_is_told_and_the_nodes_are_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: MetricsServer, host: str) -> str:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(MetricsServer, "start", start)
    observed = Observed(folder)
    observed.begin()
    assert observed.notes == ["the run's own metrics cannot be served on 127.0.0.1: Cannot assign requested address"]
    observed.observation.judged(None)
    observed.observation.leave()
