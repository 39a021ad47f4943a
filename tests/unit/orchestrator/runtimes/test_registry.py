"""Which runner runs what."""

from pathlib import Path
from typing import Any, get_args

import pytest

from node.core.errors import ConfigError
from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.experiment.runtimes import PLANNED, RUNTIMES, RuntimeName
from orchestrator.runs.options import RunOptions
from orchestrator.runtimes.registry import REGISTRY, resume_run, start_run
from tests.unit.orchestrator.synthetic_runs import write_run

OPTIONS = RunOptions(Path("runs"), None, 0, "quiet", "")
RUNNERS = {name: f"orchestrator.runtimes.{name}.{{}}_{name}" for name in RUNTIMES}
"""The functions of each runtime's own file: to run, and to resume."""


def test_every_runtime_that_an_experiment_can_name_stands_in_all_tables() -> None:
    assert list(get_args(RuntimeName)) == list(RUNTIMES) == list(REGISTRY)
    assert not set(PLANNED) & set(REGISTRY)


@pytest.mark.parametrize("runtime", RUNNERS)
def test_a_run_starts_in_its_runtime(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    for kind, name in RUNNERS.items():
        monkeypatch.setattr(name.format("run"), lambda *arguments, kind=kind: calls.append((kind, *arguments)))
    experiment = {
        "name": "x",
        "nodes": 2,
        "runtime": runtime,
        "algorithm": {"divshare": {"recipients": 1}},
        "learning": {"dataset": {"kind": "synthetic"}, "model": {"kind": "logistic_regression"}},
        "network": {},
        "stop": {"rounds": 1},
    }
    plan = make_plan(parse_experiment(experiment, "x.yaml"), Path())
    start_run(plan, OPTIONS)
    assert calls == [(runtime, plan, OPTIONS)]


@pytest.mark.parametrize("runtime", RUNNERS)
def test_a_run_goes_on_in_its_runtime(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    for kind, name in RUNNERS.items():
        monkeypatch.setattr(name.format("resume"), lambda *arguments, kind=kind: calls.append((kind, *arguments)))
    run = write_run(tmp_path, runtime=runtime)
    resume_run(run, OPTIONS)
    assert calls == [(runtime, run, OPTIONS)]


def test_another_runtime_is_one_clear_line(tmp_path: Path) -> None:
    run = write_run(tmp_path, runtime="abacus")
    with pytest.raises(ConfigError, match="abacus") as error:
        resume_run(run, OPTIONS)
    assert "\n" not in str(error.value)


def test_no_run_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        resume_run(tmp_path, OPTIONS)
    assert str(tmp_path) in str(error.value)
