"""A run with real processes under test: started from the command line, looked into, and gone afterwards."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from orchestrator.results.reader import Run, load_run

SMALL: dict[str, Any] = {
    "name": "small",
    "nodes": 3,
    "runtime": "processes",
    "time_dilation": 1,
    "algorithm": {
        "kind": "divshare",
        "local_steps": 2,
        "divshare": {"recipients": 1, "omega": 0.25},
        "swift_divshare": {"recipients": 1},
        "adpsgd_pingpong": {"recipients": 2},
        "adpsgd": {"roles": "parity"},
        "epidemic": {"recipients": 1},
    },
    "learning": {
        "dataset": {"kind": "synthetic", "samples": 120, "test_samples": 40, "features": 8, "classes": 3},
        "model": {"kind": "logistic_regression"},
    },
    "compute": {"step_time_ms": 20},
    "network": {"preset": {"kind": "uniform", "bandwidth_mbps": 1, "latency_ms": 5}},
    "evaluation": {"interval_s": 0.25},
    "stop": {"time_s": 1},
    # Nobody knows how busy the machine is that tests; what is told of it has tests of its own.
    "fidelity": {"allow_unfaithful": True},
}
"""An experiment of a second, in testbed time that is real time."""

ENDLESS = "stop={time_s: 100000}"
WAIT_S = 60.0
"""For what takes a few seconds on an idle machine."""

MARK = "FRAGMESH_TEST_RUN"
"""In the environment of every process of a run, however it was made."""


@dataclass
class Started:
    """A run in a session of its own, as a terminal would have it."""

    process: subprocess.Popen[str]
    out: Path
    mark: str

    @property
    def path(self) -> Path:
        (path,) = self.out.iterdir()
        return path

    def run(self) -> Run:
        return load_run(self.path)

    def until(self, condition: Callable[[], object], seconds: float = WAIT_S) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "it takes too long"
            time.sleep(0.01)

    def until_handlers_are_set(self) -> None:
        """Before that, Python itself is still starting."""
        bit = 1 << (signal.SIGTERM - 1)

        def catches_sigterm() -> bool:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            return bool(int(status.split("SigCgt:")[1].split()[0], 16) & bit)

        self.until(catches_sigterm)

    def until_it_runs(self) -> None:
        """Until all nodes have handed over a model, after the first one."""
        count = len(self.nodes()) or 1
        self.until(lambda: len(list(self.out.glob("*/snapshots/t*[1-9]*-n*.npy"))) >= count > 0)

    def left(self) -> list[psutil.Process]:
        """All living processes of the run, but for the main one once it has been waited for."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                pass
        return found

    def nodes(self) -> dict[int, psutil.Process]:
        """The nodes' processes, by what they write to."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                output = Path(os.readlink(f"/proc/{child.pid}/fd/1"))
            except OSError:
                continue
            if output.name.startswith("node-"):
                found[int(output.stem.removeprefix("node-"))] = child
        return found

    def until_forked(self, count: int = 3) -> dict[int, psutil.Process]:
        self.until(lambda: len(self.nodes()) == count)
        return self.nodes()

    def emulator(self) -> psutil.Process:
        """With no worker of the main process it is the only child beside the nodes."""
        nodes = {process.pid for process in self.nodes().values()}
        (found,) = [child for child in psutil.Process(self.process.pid).children() if child.pid not in nodes]
        return found

    def end(self, seconds: float = WAIT_S) -> tuple[int, str, str]:
        """(exit code, output, errors), once all processes have gone."""
        out, err = self.process.communicate(timeout=seconds)
        assert "Traceback" not in err, err
        self.all_gone()
        return self.process.returncode, out, err

    def all_gone(self, seconds: float = 6.0) -> None:
        end = time.monotonic() + seconds
        while alive := self.left():
            assert time.monotonic() < end, f"left behind: {alive}"
            time.sleep(0.02)


Start = Callable[..., Started]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start ``fragmesh run`` with settings and faults, or resume a run; afterwards nothing of it may be left."""
    begun: list[Started] = []

    def begin(
        *settings: str,
        faults: str = "-",
        workers: int = 0,
        experiment: dict[str, Any] = SMALL,
        resume: Path | None = None,
    ) -> Started:
        file = tmp_path / "small.yaml"
        file.write_text(yaml.safe_dump(experiment))
        out, mark = tmp_path / f"runs{len(begun)}", uuid.uuid4().hex
        options = [part for setting in settings for part in ("--set", setting)]
        arguments = (
            ["run", str(file), "--out", str(out), *options] if resume is None else ["run", "--resume", str(resume)]
        )
        arguments += ["--workers", str(workers)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.faulty", faults, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, MARK: mark, "FRAGMESH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        )
        begun.append(Started(process, out if resume is None else resume.parent, mark))
        return begun[-1]

    yield begin
    left = []
    for started in begun:
        if started.process.poll() is None:
            started.process.kill()
        started.process.communicate()
        left += _end_all(started)
    assert not left


def _end_all(started: Started) -> list[psutil.Process]:
    """What is left a few seconds after the end of the main process, which is then ended too."""
    try:
        started.all_gone()
    except AssertionError:
        left = started.left()
        for process in left:
            process.send_signal(signal.SIGKILL)
        return left
    return []
