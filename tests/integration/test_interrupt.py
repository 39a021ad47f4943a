"""Whatever ends a run, what it wrote is a valid result, and no process stays behind."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from orchestrator.results.reader import Run, load_run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ENDLESS = """
name: endless
nodes: 6
algorithm: {kind: swift_divshare, local_steps: 2, swift_divshare: {recipients: 2}}
learning:
  dataset: {kind: synthetic, samples: 600, test_samples: 50}
  model: {kind: logistic_regression}
network: {preset: {kind: uniform, bandwidth_mbps: 1}}
evaluation: {interval_s: 1}
stop: {time_s: 1.0e6}
"""
WAIT_S = 60.0
"""For what takes a second on an idle machine."""


@dataclass
class Started:
    """A run in a process and a session of its own, as a terminal would have it."""

    process: subprocess.Popen[str]
    out: Path

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "it takes too long"
            time.sleep(0.005)

    def until_handlers_are_set(self) -> None:
        """Before that, Python itself is still starting."""
        bit = 1 << (signal.SIGTERM - 1)

        def catches_sigterm() -> bool:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            return bool(int(status.split("SigCgt:")[1].split()[0], 16) & bit)

        self.until(catches_sigterm)

    def until_file(self, name: str, lines: int = 1) -> None:
        self.until(lambda: any(path.read_text().count("\n") >= lines for path in self.out.glob(f"*/{name}")))

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def end(self, seconds: float = 20.0) -> tuple[int, str, str]:
        """(exit code, output, errors), once all processes of the session have gone."""
        out, err = self.process.communicate(timeout=seconds)
        assert "Traceback" not in err
        end = time.monotonic() + 5
        while alive := self.session():
            assert time.monotonic() < end, f"left behind: {alive}"
            time.sleep(0.02)
        return self.process.returncode, out, err

    def session(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.NoSuchProcess):
                pass
        return found

    def run(self) -> Run:
        (path,) = self.out.iterdir()
        return load_run(path)


Start = Callable[..., Started]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    begun: list[Started] = []

    def begin(
        *overrides: str, file: Path | None = None, workers: int = 2, file_bytes_max: int | None = None
    ) -> Started:
        if file is None:
            file = tmp_path / "endless.yaml"
            file.write_text(ENDLESS)
        settings = [part for override in overrides for part in ("--set", override)]
        out = tmp_path / "runs"
        arguments = ["run", str(file), "--out", str(out), "--workers", str(workers), *settings]
        limit = () if file_bytes_max is None else (resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=(lambda: resource.setrlimit(*limit)) if limit else None,
            env={**os.environ, "FRAGMESH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        )
        begun.append(Started(process, out))
        return begun[-1]

    yield begin
    for started in begun:
        for process in started.session():
            process.kill()
        started.process.wait()


def send_to_all(started: Started, number: int) -> None:
    """As Ctrl-C in a terminal, or a batch system that ends a job: to every process."""
    os.killpg(started.process.pid, number)


def send_to_main(started: Started, number: int) -> None:
    started.process.send_signal(number)


SIGNALS = [
    pytest.param(send_to_all, signal.SIGINT, id="ctrl-c"),
    pytest.param(send_to_main, signal.SIGINT, id="kill-int"),
    pytest.param(send_to_all, signal.SIGTERM, id="end-of-job"),
    pytest.param(send_to_main, signal.SIGTERM, id="kill-term"),
]
Send = Callable[[Started, int], None]


def test_before_the_file_is_read(start: Start, tmp_path: Path) -> None:
    """Nothing has been made then, and nothing is left."""
    for send, number in ((send_to_all, signal.SIGINT), (send_to_main, signal.SIGTERM)):
        file = tmp_path / f"{number}.yaml"
        os.mkfifo(file)
        started = start(file=file)
        started.until_handlers_are_set()
        time.sleep(0.3)
        assert started.process.poll() is None
        send(started, number)
        assert started.end() == (130, "", "interrupted\n")
        assert not started.out.exists()


@pytest.mark.parametrize(("send", "number"), SIGNALS)
def test_during_training(send: Send, number: int, start: Start) -> None:
    started = start()
    started.until_file("curve.csv", lines=5)
    assert len(started.workers()) == 2
    began = time.monotonic()
    send(started, number)
    code, out, _ = started.end()
    assert code == 130
    assert time.monotonic() - began < 10
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


def test_during_a_long_evaluation(start: Start) -> None:
    """What is under way is given up after a few seconds, not waited for."""
    started = start("learning.dataset.test_samples=1000000", "stop={rounds: 1}", "evaluation.interval_s=0.001")
    started.until_file("curve.csv")
    started.until(lambda: started.workers() and all(w.cpu_times().user > 0.5 for w in started.workers()))
    began = time.monotonic()
    send_to_all(started, signal.SIGINT)
    code, _, _ = started.end(seconds=30)
    assert code == 130
    assert time.monotonic() - began < 15
    assert started.run().status == "interrupted"


def test_while_the_report_is_written(start: Start) -> None:
    """The result is complete, and the report is finished."""
    for number in (signal.SIGINT, signal.SIGTERM):
        started = start("stop={rounds: 3}")
        started.until(lambda started=started: list(started.out.glob("*/nodes.parquet")))
        send_to_all(started, number)
        code, _, _ = started.end()
        assert code == 130
        run = started.run()
        assert run.status == "done"
        assert (run.path / "report.html").read_text().rstrip().endswith("</html>")
        for file in [*run.path.iterdir()]:
            file.unlink()
        run.path.rmdir()


@pytest.mark.parametrize("delay_s", [0.0, 0.5, 1.0, 1.5])
def test_at_any_moment(delay_s: float, start: Start) -> None:
    """Either there is no directory yet, or it holds a valid result."""
    started = start("stop={rounds: 200}")
    started.until_handlers_are_set()
    time.sleep(delay_s)
    is_running = started.process.poll() is None
    if is_running:
        send_to_all(started, signal.SIGINT if delay_s % 1 == 0 else signal.SIGTERM)
    code, _, err = started.end()
    assert code == 130 or (code == 0 and not is_running), err
    if started.out.exists() and list(started.out.iterdir()):
        assert started.run().status in ("interrupted", "done")


def test_a_second_signal_ends_at_once(start: Start) -> None:
    started = start("learning.dataset.test_samples=1000000", "stop={rounds: 1}", workers=0)
    started.until_file("curve.csv")
    time.sleep(0.3)
    send_to_main(started, signal.SIGINT)
    time.sleep(0.2)
    send_to_main(started, signal.SIGINT)
    code, _, _ = started.end()
    assert code == 130
    assert started.run().status in ("partial", "interrupted")


def test_killing_the_main_process_ends_its_workers(start: Start) -> None:
    started = start()
    started.until_file("curve.csv", lines=3)
    assert len(started.workers()) == 2
    started.process.kill()
    code, _, _ = started.end()
    assert code == -signal.SIGKILL
    run = started.run()
    assert run.status == "partial"
    assert len(run.times_s) >= 2


def test_a_killed_worker_fails_the_run(start: Start) -> None:
    started = start()
    started.until_file("curve.csv", lines=3)
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


def test_a_full_disk_fails_the_run_and_keeps_what_is_written(start: Start) -> None:
    """A limit on the size of files stands for a disk without room."""
    started = start("evaluation.interval_s=0.05", workers=1, file_bytes_max=30_000)
    code, _, err = started.end(seconds=WAIT_S)
    assert code == 3
    (path,) = started.out.iterdir()
    lines = [line for line in err.splitlines() if "failed" in line]
    assert lines == [f"failed: {path / 'curve.csv'}: cannot be written: File too large"]
    text = (path / "curve.csv").read_text()
    assert text.endswith("\n")
    assert 25_000 < len(text) <= 30_000
    run = load_run(path)
    assert len(run.times_s) == text.count("\n") - 1
    assert json.loads((path / "facts.json").read_text())["name"] == "endless"
