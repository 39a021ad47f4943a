"""Where a real run's time dilation comes from: the experiment, or what this host took, measured if it has not been."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.core.errors import RunnerError
from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.plan import Plan, make_plan
from orchestrator.host.costs import ASSUMED, HostCosts
from orchestrator.progress.progress import Progress
from orchestrator.runs import real_run
from orchestrator.runs.prepare import Prepared
from orchestrator.runs.real_run import choose_dilation

SLOW = HostCosts(0.4e-3, 3e-9, 40e-3, 20e-9, 2.5e-3)


class Told:
    """What the display is told."""

    def __init__(self) -> None:
        self.preparations: list[str] = []
        self.notes: list[str] = []

    def preparing(self, what: str) -> None:
        self.preparations.append(what)

    def note(self, text: str) -> None:
        self.notes.append(text)


def planned(**more: Any) -> Plan:
    content = {
        "name": "x",
        "runtime": "processes",
        "nodes": 8,
        "algorithm": {"kind": "local", "local_steps": 10},
        "learning": {"dataset": {"kind": "synthetic"}, "model": {"kind": "logistic_regression"}},
        "compute": {"step_time_ms": 10},
        "network": {"preset": {"kind": "uniform"}},
        "stop": {"time_s": 30},
    }
    return make_plan(parse_experiment({**content, **more}, "x"), Path())


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """On two cores, whose local steps take next to nothing."""
    monkeypatch.setattr(real_run, "measure_step_seconds", lambda trainer: 1e-5)
    monkeypatch.setattr(real_run, "usable_cores", lambda: 2)
    return Told()


def choose(plan: Plan, told: Told) -> tuple[float, HostCosts | None]:
    prepared = SimpleNamespace(trainer=SimpleNamespace(tensor_sizes=(100,)))
    return choose_dilation(plan, cast(Prepared, prepared), cast(Progress, told))


def test_the_experiments_own_needs_no_measurement(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_run, "load_costs", lambda: pytest.fail("looked for costs"))
    monkeypatch.setattr(real_run, "measure_step_seconds", lambda trainer: pytest.fail("measured a step"))
    assert choose(planned(time_dilation=2.5), told) == (2.5, None)
    assert (told.preparations, told.notes) == ([], [])


def test_a_host_that_has_been_measured_is_not_measured_again(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_run, "load_costs", lambda: SLOW)
    monkeypatch.setattr(real_run, "host_costs", lambda: pytest.fail("measured the host"))
    dilation, costs = choose(planned(), told)
    assert costs is SLOW
    assert dilation > 10  # eight rounds that end together, 40 ms each, on two cores
    assert told.preparations == ["measuring a local step"]
    (note,) = told.notes
    assert note.startswith(f"time dilation {dilation:g}: rounds that end together bound it")


def test_a_host_that_cannot_be_measured_is_assumed_to_be_as_others(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> HostCosts:
        raise RunnerError("this host could not be measured: it was too busy")

    monkeypatch.setattr(real_run, "load_costs", lambda: None)
    monkeypatch.setattr(real_run, "host_costs", lambda: SLOW)
    measured = choose(planned(), told)
    assert measured[1] is SLOW
    monkeypatch.setattr(real_run, "host_costs", fail)
    assumed = choose(planned(), told)
    assert assumed[1] is ASSUMED
    assert assumed[0] < measured[0]
    assert told.preparations[0] == "measuring this host, once: some ten seconds"
    assert told.notes[1] == "this host could not be measured: it was too busy; going on with assumed costs"
