"""Small simulated runs with something to tell: loss, aborted transfers, crashes."""

import shutil
from pathlib import Path
from typing import Final

import pytest

from orchestrator.experiment.config import read_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.results.reader import Run, load_run
from orchestrator.runs.options import RunOptions
from orchestrator.runtimes.simulation import run_simulation

EXPERIMENT: Final = """
name: told
nodes: 6
algorithm:
  kind: divshare
  local_steps: 2
  divshare: {recipients: 2}
learning:
  dataset: {kind: synthetic, samples: 300, test_samples: 60, features: 200, classes: 3}
  model: {kind: logistic_regression}
compute: {step_time_ms: 50}
network:
  preset: {kind: stragglers, bandwidth_mbps: 0.1, jitter_mbps: 0, latency_ms: 5, count: 2}
evaluation: {interval_s: 1}
stop: {time_s: 6}
"""

SETTINGS: Final = {
    "packets that are sent again": ("network.preset.loss_percent=20",),
    "messages that are lost": ("network.preset.loss_percent=10", "network.transport=datagram"),
    "transfers that are aborted": ("algorithm.divshare.flush=all",),
    "nodes that crash": ("schedule=[{action: crash, nodes: [3], at_s: 1.5, for_s: 2}]",),
}
"""Each with the overrides that bring it about."""


class Recordings:
    """Runs of the settings, each simulated once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[tuple[str, ...], Path] = {}

    def copy(self, target: Path, setting: str, *overrides: str) -> Run:
        """Return a run of its own to a test, under a folder of its own."""
        key = (setting, *overrides)
        if key not in self._known:
            self._known[key] = _simulated(self._folder / str(len(self._known)), [*SETTINGS[setting], *overrides])
        path = self._known[key]
        return load_run(Path(shutil.copytree(path, target / path.name)))


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return Recordings(tmp_path_factory.mktemp("recordings"))


def _simulated(folder: Path, overrides: list[str]) -> Path:
    folder.mkdir()
    file = folder / "experiment.yaml"
    file.write_text(EXPERIMENT)
    plan = make_plan(read_experiment(file, overrides), folder)
    options = RunOptions(out=folder / "runs", data_root=None, workers=0, progress="quiet", command="")
    with pytest.MonkeyPatch.context() as patch:  # figures take seconds
        patch.setattr("orchestrator.report.page.write_report", lambda run, tell=None: run.path / "report.html")
        return run_simulation(plan, options).path
