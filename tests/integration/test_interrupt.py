"""Whatever ends a run, what it wrote is a valid result, and no process stays behind."""

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.results.reader import load_run
from tests.integration.started import Start as StartWith
from tests.integration.started import Started, start

__all__ = ["start"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ENDLESS = yaml.safe_load("""
name: endless
nodes: 6
algorithm: {kind: swift_divshare, local_steps: 2, swift_divshare: {recipients: 2}}
learning:
  dataset: {kind: synthetic, samples: 600, test_samples: 50}
  model: {kind: logistic_regression}
network: {preset: {kind: uniform, bandwidth_mbps: 1}}
evaluation: {interval_s: 1}
stop: {time_s: 1.0e9}
""")

Start = Callable[..., Started]


@pytest.fixture
def simulate(start: StartWith) -> Start:
    """Start a simulation that ends when it is ended."""
    return partial(start, experiment=ENDLESS, quick=("no_report",), workers=2)


WITH_REPORT: dict[str, Any] = {"quick": ()}


def send_to_all(started: Started, number: int) -> None:
    """As Ctrl-C in a terminal, or a batch system that ends a job: to every process."""
    started.send_to_all(number)


def send_to_main(started: Started, number: int) -> None:
    started.process.send_signal(number)


SIGNALS = [
    pytest.param(send_to_all, signal.SIGINT, id="ctrl-c"),
    pytest.param(send_to_main, signal.SIGINT, id="kill-int"),
    pytest.param(send_to_all, signal.SIGTERM, id="end-of-job"),
    pytest.param(send_to_main, signal.SIGTERM, id="kill-term"),
    pytest.param(send_to_all, signal.SIGHUP, id="closed-terminal"),
]
Send = Callable[[Started, int], None]


def test_before_the_file_is_read(simulate: Start, tmp_path: Path) -> None:
    """Nothing has been made then, and nothing is left."""
    for send, number in ((send_to_all, signal.SIGINT), (send_to_main, signal.SIGTERM)):
        file = tmp_path / f"{number}.yaml"
        os.mkfifo(file)
        started = simulate(experiment=file)
        pipe = os.open(file, os.O_WRONLY)  # which waits until it is opened to be read
        send(started, number)
        assert started.end() == (130, "", "interrupted\n")
        os.close(pipe)
        assert not started.out.exists()


@pytest.mark.parametrize(("send", "number"), SIGNALS)
def test_during_training(send: Send, number: int, simulate: Start) -> None:
    started = simulate()
    started.until_lines(5)
    assert len(started.workers()) == 2
    send(started, number)
    code, out, _ = started.end()
    assert code == 130
    assert "interrupted" in out
    run = started.run()
    assert run.status == "interrupted"
    assert run.summary is not None
    assert run.summary["error"] is None
    assert run.summary["evaluations"] == len(run.times_s) >= 4
    assert run.nodes is not None
    assert len(run.nodes["node"]) == 6 * len(run.times_s)
    assert run.messages is not None
    assert (run.path / "report.html").is_file()
    assert not list(run.path.glob("*.tmp"))


def test_during_a_long_evaluation(simulate: Start) -> None:
    """What is under way is given up after a few seconds, not waited for: this one ends never."""
    moment = "hold:evaluation:7"  # one of the six at the end, when the workers have nothing else to do
    started = simulate("stop={rounds: 1}", "evaluation.interval_s=1000", faults=moment, **WITH_REPORT)
    started.until_held(moment)
    send_to_all(started, signal.SIGINT)
    code, _, _ = started.end()
    assert code == 130
    run = started.run()
    assert run.status == "interrupted"
    assert "<svg" in (run.path / "report.html").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_the_report_is_written(number: int, simulate: Start) -> None:
    """The result is complete, and the report is finished."""
    started = simulate("stop={rounds: 3}", faults="hold:report:1", **WITH_REPORT)
    gate = started.until_held("hold:report:1")
    send_to_all(started, number)
    gate.release()
    code, _, _ = started.end()
    assert code == 130
    run = started.run()
    assert run.status == "done"
    assert (run.path / "report.html").read_text().rstrip().endswith("</html>")


MOMENTS = ["hold:data:1", "hold:create:1", "hold:line:1", "hold:line:40", "hold:finish:1"]
"""From the first to the last."""


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
@pytest.mark.parametrize("moment", MOMENTS)
def test_at_any_moment(moment: str, number: int, simulate: Start) -> None:
    """Either there is no directory yet, or it holds a valid result."""
    started = simulate("stop={rounds: 200}", "evaluation.interval_s=0.1", faults=moment)
    gate = started.until_held(moment)
    send_to_all(started, number)
    gate.release()
    code, _, err = started.end()
    assert code == 130, err
    assert started.out.exists() == (moment != "hold:data:1")
    if started.out.exists():
        assert started.run().status in ("interrupted", "done")


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal_ends_at_once(numbers: tuple[int, int], simulate: Start) -> None:
    """In an evaluation that ends never. Two signals of one number may reach a process as one."""
    started = simulate(workers=0, faults="hold:evaluation:1")
    started.until_held("hold:evaluation:1")
    for number in numbers:
        send_to_main(started, number)
    code, _, _ = started.end()
    assert code == 130
    assert started.run().status in ("partial", "interrupted")


def test_killing_the_main_process_ends_its_workers(simulate: Start) -> None:
    started = simulate()
    started.until_lines(3)
    assert len(started.workers()) == 2
    started.process.kill()
    code, _, _ = started.end()
    assert code == -signal.SIGKILL
    run = started.run()
    assert run.status == "partial"
    assert len(run.times_s) >= 2


def test_a_killed_worker_fails_the_run(simulate: Start) -> None:
    started = simulate(**WITH_REPORT)
    started.until_lines(3)
    victim = started.workers()[0]
    victim.kill()
    code, out, err = started.end()
    assert code == 3
    message = f"training worker {victim.pid} was killed by signal 9; was memory short?"
    assert err.splitlines()[-1] == f"failed: {message}"
    assert sum("failed" in line for line in err.splitlines()) == 1
    assert "failed" in out
    run = started.run()
    assert run.status == "failed"
    assert run.summary is not None
    assert run.summary["error"] == message
    assert len(run.times_s) >= 2
    assert (run.path / "report.html").is_file()


def test_a_full_disk_fails_the_run_and_keeps_what_is_written(simulate: Start) -> None:
    """A limit on the size of files stands for a disk without room."""
    started = simulate("evaluation.interval_s=0.05", workers=1, file_bytes_max=30_000)
    code, _, err = started.end()
    assert code == 3
    path = started.path
    lines = [line for line in err.splitlines() if "failed" in line]
    assert lines == [f"failed: {path / 'curve.csv'}: cannot be written: File too large"]
    text = (path / "curve.csv").read_text()
    assert text.endswith("\n")
    assert 25_000 < len(text) <= 30_000
    run = load_run(path)
    assert len(run.times_s) == text.count("\n") - 1
    assert json.loads((path / "facts.json").read_text())["name"] == "endless"
