"""``fragmesh watch`` and ``ps`` beside real runs: to their end, whatever that is, and without a trace."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.commands import run_command_line
from orchestrator.host.run_registry import RUNS
from orchestrator.progress.live_file import LIVE, read_live
from tests.integration.started import ENDLESS, WAIT_S, Start, Started, start
from tests.integration.warm import MARK, WarmRun, warm_parent

__all__ = ["start"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SIMULATED = ("runtime=simulation", "time_dilation=null")

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the runs of this test are listed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "fragmesh" / RUNS


@pytest.fixture
def beside() -> Iterator[Callable[..., WarmRun]]:
    """Start another command beside a run, and end it afterwards."""
    begun: list[WarmRun] = []

    def begin(*arguments: object) -> WarmRun:
        environment = {**os.environ, MARK: uuid.uuid4().hex, "TERM": "dumb"}
        begun.append(warm_parent().start(["-", *map(str, arguments)], environment=environment))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    """A command in this process: its exit code, what it printed, and what it complained of."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run_command_line([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def until_told(run: Started) -> None:
    """Wait until a run has told that its time goes on."""

    def has_progress() -> bool:
        found = [read_live(path.parent) for path in run.out.glob(f"*/{LIVE}")]
        return any(record is not None and record.progress and record.progress.time_ns for record in found)

    run.until(has_progress, "a record with progress")


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def test_a_real_run_is_watched_from_its_middle_to_its_end(
    start: Start, beside: Callable[..., WarmRun], state: Path
) -> None:
    run = start("algorithm.kind=dpsgd", faults="hold:finish:1")
    until_told(run)
    watch = beside("watch", run.path, "--json")
    gate = run.until_held("hold:finish:1")
    run.until(lambda: "writing the results" in watch.so_far(), "the work that the run is held at")
    gate.release()
    code, _, said = run.end()
    out, err = watch.communicate(WAIT_S)
    assert (code, watch.returncode) == (0, 0)
    assert set(err.splitlines()) <= set(said.splitlines())  # why it is unfaithful, where the host was late
    told = events(out)
    shown = [event for event in told if event["event"] == "progress"]
    assert shown[-1]["time_s"] == 1.0
    assert [row["node"] for row in shown[-1]["nodes"]] == [0, 1, 2]
    assert shown[-1]["time_dilation"] == 1
    summary = json.loads((run.path / "summary.json").read_text())
    assert told[-1] == {"event": "end", "run": str(run.path), "summary": summary}
    assert not (run.path / LIVE).exists()
    assert list(state.iterdir()) == []


def test_a_simulation_is_watched_until_it_is_interrupted(start: Start, beside: Callable[..., WarmRun]) -> None:
    run = start(*SIMULATED, ENDLESS, "algorithm.kind=dpsgd")
    until_told(run)
    watch = beside("watch", "--json")  # there is no other one
    run.until(lambda: len(events(watch.so_far())) >= 2, "progress of the simulation")
    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] == 130
    out, _ = watch.communicate(WAIT_S)
    *told, end = events(out)
    assert (watch.returncode, end["summary"]["status"]) == (130, "interrupted")
    rows = [row for event in told if event["event"] == "progress" for row in event["nodes"]]
    assert {row["state"] for row in rows} == {"running"}
    assert all(row["up_mbps"] > 0 for row in told[-1]["nodes"])
    assert {peer for row in rows for peer in row.get("waits_for", ())} <= {0, 1, 2}


def test_lines_for_people_are_those_of_the_run(start: Start, beside: Callable[..., WarmRun]) -> None:
    run = start(*SIMULATED, ENDLESS)
    until_told(run)
    watch = beside("watch", run.path)
    run.until(lambda: " delivered, " in watch.so_far(), "a plain line")
    run.process.send_signal(signal.SIGINT)
    _, out, _ = run.end()
    shown, _ = watch.communicate(WAIT_S)
    assert "\x1b" not in shown
    assert shown.endswith(out)  # the same table of the outcome
    assert "go on with" in shown


def test_a_run_that_is_killed_is_told_as_such(
    start: Start, beside: Callable[..., WarmRun], invoke: Invoke, state: Path
) -> None:
    run = start(ENDLESS)
    run.until_it_runs()
    until_told(run)
    watch = beside("watch", run.path)
    run.until(lambda: " delivered, " in watch.so_far(), "a plain line")
    pid = run.process.pid
    run.process.kill()
    _, err = watch.communicate(WAIT_S)
    said = (
        f"failed: {run.path}: the run did not come to an end: process {pid} is gone; fragmesh run --resume {run.path}"
    )
    assert (watch.returncode, err) == (3, f"{said} goes on with it\n")
    run.end()  # its nodes end with it
    assert len(list(state.iterdir())) == 1
    code, out, _ = invoke("ps", "--json")
    assert (code, json.loads(out)["runs"]) == (0, [])
    assert list(state.iterdir()) == []
    code, _, err = invoke("watch", run.path)
    assert (code, err) == (3, f"{said} goes on with it\n")
    # A continuation is in progress again.
    again = start(resume=run.path)
    again.until(lambda: (found := read_live(run.path)) and found.owner.pid == again.process.pid, "its own record")
    again.process.send_signal(signal.SIGINT)
    assert again.end()[0] == 130
    assert not (run.path / LIVE).exists()


def test_two_runs_are_listed_and_one_must_be_named(start: Start, invoke: Invoke) -> None:
    first, second = start(*SIMULATED, ENDLESS), start(*SIMULATED, ENDLESS, "name=other", "algorithm.kind=dpsgd")
    for run in (first, second):
        until_told(run)
    code, out, err = invoke("ps", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    found = {run["name"]: run for run in told["runs"]}
    assert sorted(found) == ["other", "small"]
    other = found["other"]
    assert (other["runtime"], other["algorithm"], other["nodes"]) == ("simulation", "dpsgd", 3)
    assert (other["state"], other["process"]) == ("running", f"process {second.process.pid}")
    assert other["path"] == str(second.path)
    assert 0 < other["time_s"] < other["end_s"] == 1e9
    assert isinstance(told["containers"], list)
    code, out, _ = invoke("ps")
    assert code == 0
    assert "divshare" in out
    assert "dpsgd" in out
    code, _, err = invoke("watch")
    assert (code, err) == (2, f"error: RUN: must name one of the 2 runs in progress: {first.path}, {second.path}\n")
    code, _, err = invoke("watch", "nobody")
    said = "nobody: no such run directory, and no run in progress of this name; fragmesh ps lists them"
    assert (code, err) == (2, f"error: {said}\n")


@pytest.mark.parametrize("name", ["the directory's", "the experiment's"])
def test_whoever_stops_watching_leaves_the_run_alone(name: str, start: Start, beside: Callable[..., WarmRun]) -> None:
    run = start(*SIMULATED, ENDLESS)
    until_told(run)
    watch = beside("watch", run.path.name if name == "the directory's" else "small")
    run.until(lambda: " delivered, " in watch.so_far(), "a plain line")
    watch.send_signal(signal.SIGINT)
    _, err = watch.communicate(WAIT_S)
    assert (watch.returncode, err) == (130, f"no longer watched: {run.path} goes on\n")
    lines = (run.path / "curve.csv").read_text().count("\n")
    run.until_lines(lines + 10)
    piped = beside("watch", run.path, "--json")
    run.until(lambda: events(piped.so_far()), "a line of JSON")
    piped.close_output()
    _, err = piped.communicate(WAIT_S)
    assert (piped.returncode, err) == (1, "")
    lines = (run.path / "curve.csv").read_text().count("\n")
    run.until_lines(lines + 10)


def test_a_run_that_is_over_is_told_in_a_line(start: Start, invoke: Invoke) -> None:
    run = start(*SIMULATED)
    assert run.end()[0] == 0
    assert invoke("watch", run.path) == (0, f"{run.path}: the run is over: done, exact\n", "")
    code, out, _ = invoke("watch", run.path, "--json")
    assert (code, json.loads(out)["summary"]["status"]) == (0, "done")
    assert not (run.path / LIVE).exists()
    code, _, err = invoke("watch")
    assert (code, err) == (2, "error: no run is in progress; name a run directory to see how a run ended\n")
    code, _, err = invoke("watch", run.out)
    assert code == 2
    assert err.startswith(f"error: {run.out}: not a run directory: curve.csv is missing; runs inside it: ")
    # It starts at once: torch is not needed to look.
    program = "import sys; from orchestrator.cli.commands import run_command_line; run_command_line(sys.argv[1:]);"
    program += "sys.exit('torch' in sys.modules)"
    looked = subprocess.run([sys.executable, "-c", program, "watch", str(run.path)], check=False)
    assert looked.returncode == 0
    (run.path / LIVE).write_text('{"version": 99}')
    code, _, err = invoke("watch", run.path)
    assert (code, err.count("\n")) == (2, 1)
    assert "version=99: of another version of fragmesh" in err


def test_a_run_that_failed_has_its_exit_code(start: Start, invoke: Invoke) -> None:
    run = start("algorithm.kind=dpsgd", faults="kill:model:2")
    assert run.end()[0] == 3
    code, out, _ = invoke("watch", run.path)
    assert code == 3
    assert out.startswith(f"{run.path}: the run is over: failed, node 1 ")
    assert out.count("\n") == 1
    assert not (run.path / LIVE).exists()


def test_a_run_that_cannot_be_listed_runs_all_the_same(start: Start, state: Path) -> None:
    state.parent.parent.mkdir()
    state.parent.write_text("no folder")
    run = start(*SIMULATED)
    assert run.end()[0] == 0
