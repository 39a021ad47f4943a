"""The experiments that ship learn on their data: no node's model leaves the finite numbers in its first rounds."""

from pathlib import Path

import pytest

from node.learning.config import Cifar10Config, MovieLensConfig
from orchestrator.experiment.config import read_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.runs.options import RunOptions
from orchestrator.runtimes.simulation import run_simulation
from tests.realdata import DATA_ROOT, needs_movielens

EXPERIMENTS = Path(__file__).resolve().parents[2] / "deploy" / "experiments"
SETTINGS = ("runtime=simulation", "time_dilation=null", "stop={rounds: 3}", "evaluation.interval_s=1000", "schedule=[]")


def experiments() -> list[object]:
    """All but those on CIFAR-10, whose images take half a minute to read."""
    found = [(file, read_experiment(file).learning.dataset) for file in sorted(EXPERIMENTS.glob("*.yaml"))]
    return [
        pytest.param(file, marks=needs_movielens if isinstance(data, MovieLensConfig) else (), id=file.stem)
        for file, data in found
        if not isinstance(data, Cifar10Config)
    ]


@pytest.mark.parametrize("file", experiments())
def test_no_node_diverges_alone(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.report.page.write_report", lambda run, tell=None: run.path / "report.html")
    # Without communication: an average would hide what a node does to its own model.
    plan = make_plan(read_experiment(file, (*SETTINGS, "algorithm.kind=local")), EXPERIMENTS)
    options = RunOptions(out=tmp_path, data_root=DATA_ROOT, workers=0, progress="quiet", command="")
    outcome = run_simulation(plan, options)
    assert outcome.status == "done", outcome.error
