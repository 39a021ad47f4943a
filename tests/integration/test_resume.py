"""A run that was interrupted and goes on writes the same bytes as one that was not."""

import json
import math
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from node.algorithms.config import AlgorithmConfig
from node.algorithms.registry import ALGORITHMS
from node.core.algorithm import Algorithm, NodeContext
from node.core.errors import ConfigError, RunnerError
from node.core.saved_state import State
from orchestrator.cli.commands import main, run_command_line
from orchestrator.cli.outcome import print_outcome
from orchestrator.experiment.config import read_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.progress.progress import Progress
from orchestrator.results.checkpoint import CHECKPOINT
from orchestrator.results.reader import load_run
from orchestrator.runs.evaluation import ModelTests
from orchestrator.runs.options import RunOptions, RunOutcome
from orchestrator.runtimes import simulation
from orchestrator.runtimes.simulation import SimulatedRun, resume_simulation, run_simulation
from tests.integration.started import Start, start

__all__ = ["start"]

EXPERIMENT = """
name: trial
nodes: 6
algorithm: {kind: divshare, local_steps: 3, divshare: {recipients: 2}, swift_divshare: {recipients: 2}}
topology: {kind: edge_list, file: graph.txt}
learning:
  dataset: {kind: synthetic, samples: 300, test_samples: 40}
  model: {kind: logistic_regression}
  optimizer: {learning_rate: 0.05, momentum: 0.9}
compute: {step_time_ms: 10, jitter_percent: 20, stragglers: {count: 1, factor: 3}}
network:
  preset: {kind: uniform, bandwidth_mbps: 0.1, latency_ms: 5, jitter_ms: 2, loss_percent: 2}
  sender: {kind: parallel, transfers: 2}
evaluation: {interval_s: 0.07}
stop: {time_s: 1}
"""
SAME = (
    *("curve.csv", "nodes.parquet", "messages.parquet", "links.csv", "faults.csv", "partition.csv"),
    "experiment.yaml",
)

pytestmark = pytest.mark.usefixtures("no_reports")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAGMESH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "graph.txt").write_text("\n".join(f"{a} {b}" for b in range(6) for a in range(b)))
    (folder / "trial.yaml").write_text(EXPERIMENT)
    return folder / "trial.yaml"


@pytest.fixture
def no_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time."""
    monkeypatch.setattr("orchestrator.report.page.write_report", lambda run, tell=None: None)


def options(out: Path, workers: int) -> RunOptions:
    return RunOptions(out=out, data_root=None, workers=workers, progress="quiet", command="fragmesh run trial.yaml")


def run(file: Path, out: Path, workers: int = 0, *overrides: str) -> RunOutcome:
    return run_simulation(make_plan(read_experiment(file, overrides), file.parent, str(file)), options(out, workers))


def resume(path: Path, workers: int = 0) -> RunOutcome:
    return resume_simulation(path, options(path / "unused", workers))


@contextmanager
def stopped_after(blocks: int) -> Iterator[None]:
    """Stop each run, as a signal would, when so many blocks of local steps have ended in it."""
    ended: Counter[int] = Counter()
    original = SimulatedRun._after_steps

    def after_steps(self: SimulatedRun) -> None:
        ended[id(self)] += 1
        if ended[id(self)] == blocks:
            self.request_stop()
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedRun, "_after_steps", after_steps)
        yield


def assert_same_results(path: Path, expected: Path) -> None:
    assert (expected / "curve.csv").is_file()
    for name in SAME:
        if (expected / name).exists():
            assert (path / name).read_bytes() == (expected / name).read_bytes(), name
    ours, theirs = (json.loads((run / "summary.json").read_text()) for run in (path, expected))
    assert ours.pop("wall_s") > 0
    theirs.pop("wall_s")
    assert ours == theirs


@pytest.mark.parametrize(
    ("overrides", "workers", "workers_then"),
    [
        ((), 0, 2),
        ((), 2, 0),
        (("evaluation.model=after_training", "algorithm.kind=swift_divshare"), 2, 2),
        (("stop={rounds: 9}", "network.sender={kind: serial}", "network.preset.loss_percent=0"), 0, 0),
        (("learning.optimizer.momentum=0", "network.preset.jitter_ms=0", "network.preset.loss_percent=0"), 2, 2),
        (("output.messages=false", "algorithm.kind=dpsgd", "stop.time_s=9"), 0, 2),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    overrides: tuple[str, ...],
    workers: int,
    workers_then: int,
    file: Path,
    tmp_path: Path,
) -> None:
    """Interrupted twice and more, at blocks that fall anywhere between evaluations."""
    whole = run(file, tmp_path / "whole", workers, *overrides).path
    with stopped_after(17):
        part = run(file, tmp_path / "part", workers, *overrides)
        assert part.status == "interrupted"
        assert (part.path / CHECKPOINT).is_file()
        assert (whole / "curve.csv").read_text().startswith((part.path / "curve.csv").read_text())
        assert load_run(part.path).status == "interrupted"  # a valid result of its own
        times = 1
        while (part := resume(part.path, workers_then)).status == "interrupted":
            times += 1
    assert times > 2
    assert part.status == "done"
    assert_same_results(part.path, whole)
    assert not (part.path / CHECKPOINT).exists()
    assert len(json.loads((part.path / "environment.json").read_text())["resumed"]) == times


def test_wall_clock_time_adds_up(file: Path, tmp_path: Path) -> None:
    began = time.perf_counter()
    with stopped_after(20):
        first = run(file, tmp_path)
    second = resume(first.path)
    assert first.summary["wall_s"] < second.summary["wall_s"] < time.perf_counter() - began


def test_a_run_that_was_stopped_before_it_began_and_one_that_only_waited_for_tests(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(file, tmp_path / "whole").path
    before = SimulatedRun._simulate

    def stopped(self: SimulatedRun) -> None:
        self.request_stop()
        before(self)

    def not_waited_for(self: SimulatedRun) -> None:
        self.request_stop()

    with monkeypatch.context() as patch:
        patch.setattr(SimulatedRun, "_simulate", stopped)
        first = run(file, tmp_path / "part")
        assert first.status == "interrupted"
        assert load_run(first.path).times_s.size == 0
    with monkeypatch.context() as patch:
        patch.setattr(SimulatedRun, "_wait_for_tests", not_waited_for)
        patch.setattr(ModelTests, "collect", lambda self: None)  # results that were never taken
        assert resume(first.path).status == "interrupted"
        assert load_run(first.path).times_s.size == 0
    assert resume(first.path).status == "done"
    assert_same_results(first.path, whole)


# -- checkpoints that cannot be written ------------------------------------------------------------------------------


@pytest.fixture
def unsavable(monkeypatch: pytest.MonkeyPatch) -> str:
    """Every node's algorithm holds something that cannot be saved; returns how the complaint begins."""
    entry = ALGORITHMS["divshare"]

    def make(context: NodeContext, config: AlgorithmConfig) -> Algorithm:
        algorithm = entry.make(context, config)
        algorithm._callback = print  # type: ignore[attr-defined]
        return algorithm

    monkeypatch.setitem(ALGORITHMS, "divshare", replace(entry, make=make))
    return "node.algorithms.divshare.DivShare._callback: cannot save a builtins.builtin_function_or_method; "


@pytest.fixture
def always_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every block of local steps."""
    original = SimulatedRun._after_steps

    def after_steps(self: SimulatedRun) -> None:
        self._saved_s = -math.inf
        original(self)

    monkeypatch.setattr(SimulatedRun, "_after_steps", after_steps)


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the display is told."""
    told: list[str] = []
    monkeypatch.setattr(Progress, "note", lambda self, text: told.append(text))
    return told


@pytest.mark.usefixtures("always_saving")
def test_checkpoints_that_fail_do_not_cost_a_run_its_results(
    file: Path, tmp_path: Path, notes: list[str], request: pytest.FixtureRequest
) -> None:
    """They are tried to the end; the reason is told once, and stands in the summary."""
    whole = run(file, tmp_path / "whole")
    assert whole.summary["checkpoint_error"] is None
    assert notes == []
    complaint = request.getfixturevalue("unsavable")
    outcome = run(file, tmp_path / "unsaved")
    assert (outcome.status, outcome.error) == ("done", None)
    (note,) = notes
    assert note.startswith(f"no checkpoint: {complaint}")
    assert "\n" not in note
    summary = json.loads((outcome.path / "summary.json").read_text())
    assert f"no checkpoint: {summary['checkpoint_error']}" == note
    for name in SAME:
        if (whole.path / name).exists():
            assert (outcome.path / name).read_bytes() == (whole.path / name).read_bytes(), name


def test_an_interrupted_run_that_cannot_be_saved_keeps_its_results(
    unsavable: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stopped_after(20):
        outcome = run(file, tmp_path)
    assert (outcome.status, outcome.error) == ("interrupted", None)
    assert outcome.summary["checkpoint_error"].startswith(unsavable)
    assert load_run(outcome.path).status == "interrupted"
    assert load_run(outcome.path).times_s.size > 0
    assert refusal(outcome.path) == f"{outcome.path}: no checkpoint to go on from"
    print_outcome(outcome.summary, outcome.path)
    shown = capsys.readouterr().out
    assert "not written" in shown
    assert "go on with" not in shown


@pytest.mark.usefixtures("always_saving")
def test_a_run_whose_last_checkpoint_cannot_be_written_goes_on_from_an_older_one(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk is full from some checkpoint on."""
    whole = run(file, tmp_path / "whole").path
    original, written = simulation.write_checkpoint, 0

    def write(path: Path, about: object, state: State) -> None:
        nonlocal written
        written += 1
        if written > 12:
            raise RunnerError(f"{path}: cannot be written: No space left on device")
        original(path, about, state)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, stopped_after(20):
        patch.setattr(simulation, "write_checkpoint", write)
        part = run(file, tmp_path / "part")
    assert part.status == "interrupted"
    assert part.summary["checkpoint_error"] == f"{part.path / CHECKPOINT}: cannot be written: No space left on device"
    print_outcome(part.summary, part.path)
    assert "go on with" in capsys.readouterr().out
    assert resume(part.path).status == "done"
    assert_same_results(part.path, whole)


# -- runs that cannot go on ------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(file: Path, tmp_path: Path) -> Path:
    with stopped_after(30):
        return run(file, tmp_path / "part").path


def refusal(path: Path) -> str:
    """Why a run is not continued; whatever the reason, nothing is changed."""
    before = {child.name: child.read_bytes() for child in path.rglob("*") if child.is_file()} if path.is_dir() else {}
    with pytest.raises(ConfigError) as refused:
        resume(path)
    assert "\n" not in str(refused.value)
    if path.is_dir():
        assert {child.name: child.read_bytes() for child in path.rglob("*") if child.is_file()} == before
    return str(refused.value)


def test_runs_that_cannot_go_on(file: Path, tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"{tmp_path / 'none'}: no such run directory"
    done = run(file, tmp_path / "out").path
    assert refusal(done) == f"{done}: the run is complete"
    (done / "summary.json").unlink()  # as if it had been killed before its first checkpoint
    assert refusal(done) == f"{done}: no checkpoint to go on from"


@pytest.mark.parametrize("where", [0, 7, 20, 47, 3000, -1])
def test_a_damaged_checkpoint_is_refused(where: int, interrupted: Path) -> None:
    checkpoint = interrupted / CHECKPOINT
    content = bytearray(checkpoint.read_bytes())
    content[where] ^= 1
    checkpoint.write_bytes(content)
    expected = "made by another version of fragmesh" if where == 7 else "damaged: "
    assert refusal(interrupted).startswith(f"{checkpoint}: {expected}")


def test_a_cut_off_checkpoint_is_refused(interrupted: Path) -> None:
    checkpoint = interrupted / CHECKPOINT
    content = checkpoint.read_bytes()
    for length in (0, 10, 48, 1000, len(content) - 1):
        checkpoint.write_bytes(content[:length])
        assert refusal(interrupted).startswith(f"{checkpoint}: damaged: ")


def test_what_has_changed_since_is_refused(file: Path, interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(path: Path, old: str, new: str, expected: str) -> None:
        before = path.read_text()
        assert old in before
        path.write_text(before.replace(old, new, 1))
        assert refusal(interrupted).endswith(expected)
        path.write_text(before)

    changed(interrupted / "experiment.yaml", "seed: 1", "seed: 2", "experiment.yaml: changed since the run began")
    changed(interrupted / "experiment.yaml", "nodes: 6", "nodes: six", "must be a whole number")
    changed(
        file.parent / "graph.txt",
        "0 1\n",
        "",
        f"graph.txt: changed since the run began; --input-root {interrupted / 'inputs'} takes the copy",
    )
    changed(interrupted / "curve.csv", "0.07,", "0.08,", "curve.csv: changed since the run was interrupted")
    with monkeypatch.context() as patch:
        patch.setattr(simulation, "versions", lambda: {"fragmesh": "9", "torch": "9", "numpy": "9"})
        assert refusal(interrupted).endswith(": would differ")
    assert resume(interrupted).status == "done"


def test_an_edge_list_is_found_from_anywhere(
    file: Path, interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run directory alone goes on with its copy; without one, with what lies beside it or in a folder named."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (file.parent / "graph.txt").rename(tmp_path / "kept")
    moved = interrupted.rename(tmp_path / "elsewhere" / "moved")
    copied = shutil.copytree(moved, tmp_path / "copied")
    given = shutil.copytree(moved, tmp_path / "given")
    assert (moved / "inputs" / "graph.txt").read_bytes() == (tmp_path / "kept").read_bytes()
    assert resume(Path("moved")).status == "done"

    for path in (copied, given):
        shutil.rmtree(path / "inputs")
        said = refusal(path)
        assert all(str(place / "graph.txt") in said for place in (file.parent, path / "inputs", path, tmp_path))
    (tmp_path / "graph.txt").write_bytes((tmp_path / "kept").read_bytes())
    assert resume(copied).status == "done"
    (tmp_path / "graph.txt").rename(tmp_path / "elsewhere" / "graph.txt")
    assert (
        resume_simulation(given, replace(options(given / "unused", 0), input_root=tmp_path / "elsewhere")).status
        == "done"
    )


def test_a_project_that_was_renamed(file: Path, tmp_path: Path) -> None:
    """The run lies in the project, and so do its data and what the experiment names."""
    with stopped_after(30):
        path = run(file, file.parent / "runs").path
    shutil.rmtree(path / "inputs")
    name = path.relative_to(file.parent)
    renamed = file.parent.rename(tmp_path / "renamed")
    assert resume(renamed / name).status == "done"


def test_an_experiment_is_run_again_from_its_run(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from a run directory alone, on another host."""
    first = run(file, tmp_path / "first").path
    shutil.rmtree(file.parent)
    arguments = ["run", str(first / "experiment.yaml"), "--out", str(tmp_path / "again"), "--workers", "0"]
    assert run_command_line(arguments) == 0
    (again,) = (tmp_path / "again").iterdir()
    assert (again / "curve.csv").read_bytes() == (first / "curve.csv").read_bytes()
    assert (again / "inputs" / "graph.txt").is_file()


# -- processes -------------------------------------------------------------------------------------------------------


LONGER = ("stop.time_s=4", "evaluation.interval_s=0.1", "output.checkpoint_every_s=0.1")
LINES = 20
"""Where a run of 41 evaluations is held: before so many lines of its curve stand."""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_from_the_command_line(number: int, file: Path, tmp_path: Path, start: Start) -> None:
    """Every process gets the signal, as from a terminal or a batch system; a killed run has its last checkpoint.

    The run is held half-way, so that it has not ended however fast the host is; when it is held, it has had time for
    a checkpoint, and one was due.
    """
    whole = run(file, tmp_path / "whole", 0, *LONGER).path
    moment = f"hold:line:{LINES}"
    started = start(*LONGER, experiment=file, workers=2, faults=f"checkpoint_due:line:{LINES // 2},{moment}")
    gate = started.until_held(moment)
    path = started.path
    assert (path / "curve.csv").read_text().count("\n") == LINES  # with the names of the columns
    if number == signal.SIGKILL:
        assert (path / CHECKPOINT).is_file()
        code, _, err = start(resume=path).end()
        assert (code, err) == (2, f"error: {path}: the run is under way, in another process\n")
    started.send_to_all(number)
    gate.release()
    code, _, _ = started.end()
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert load_run(path).status == ("partial" if number == signal.SIGKILL else "interrupted")
    code, out, err = start(resume=path, workers=1).end()
    assert code == 0, err
    assert "done" in out
    assert_same_results(path, whole)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["FILE"], "must be without FILE"),
        (["--set", "nodes=3", "--seed", "0"], "must be without --set, --seed"),
        (["--out", "x", "--runtime", "simulation"], "must be without --runtime, --out"),
    ],
)
def test_nothing_that_changes_the_experiment_goes_with_resume(
    more: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["fragmesh", "run", "--resume", str(tmp_path), *more])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: --resume={tmp_path}: goes on with the experiment as it was; {expected}"
