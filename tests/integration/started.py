"""A run under test: started from the command line, held where a test wants it, looked into, and gone afterwards.

Tests wait for events, never for a duration: see tests/README.md.
"""

import os
import random
import resource
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from orchestrator.results.reader import Run, load_run
from tests.integration.faulty import GATES
from tests.integration.warm import MARK, WarmRun, warm_parent

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

ENDLESS = "stop={time_s: 1.0e9}"
"""Such a run ends when a test ends it."""

WAIT_S = 120.0
"""For what takes a few seconds on an idle machine: whoever waits so long has found a fault, on whatever host."""


class Gate:
    """Holds a run at one of its moments (:data:`tests.integration.faulty.MOMENTS`) until it is released.

    Where many processes come to the same moment, one of them is held.

    Attributes:
        fault: What to start the run with.
    """

    def __init__(self, folder: Path, fault: str) -> None:
        self.fault = fault
        self._reached = folder / f"{fault}.reached"
        os.mkfifo(folder / f"{fault}.gate")
        # For reading as well, so that neither side waits for the other one to open it.
        self._pipe = os.open(folder / f"{fault}.gate", os.O_RDWR)

    def is_reached(self) -> bool:
        return self._reached.exists()

    def release(self) -> None:
        os.write(self._pipe, b".")

    def close(self) -> None:
        os.close(self._pipe)


@dataclass
class Started:
    """A run in a session of its own, as a terminal would have it."""

    process: WarmRun
    out: Path
    mark: str
    gates: dict[str, Gate]

    @property
    def path(self) -> Path:
        (path,) = self.out.iterdir()
        return path

    def run(self) -> Run:
        return load_run(self.path)

    def until(self, condition: Callable[[], object], what: str = "a condition") -> None:
        """Wait for something that happens while the run lives.

        Args:
            condition: True once it has happened.
            what: Its name, for the message if it does not.
        """
        end = time.monotonic() + WAIT_S
        while not condition():
            if self.process.poll() is not None and not condition():
                pytest.fail(f"the run ended before {what}: {self.process.communicate()}")
            if time.monotonic() > end:
                pytest.fail(f"waited {WAIT_S:.0f} s for {what}")
            time.sleep(0.01)

    def until_held(self, fault: str) -> Gate:
        """Wait until the run is held at a moment."""
        gate = self.gates[fault]
        self.until(gate.is_reached, fault)
        return gate

    def until_handlers_are_set(self) -> None:
        """Before that, Python itself is still starting."""
        bit = 1 << (signal.SIGTERM - 1)

        def catches_sigterm() -> bool:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            return bool(int(status.split("SigCgt:")[1].split()[0], 16) & bit)

        self.until(catches_sigterm, "a handler of SIGTERM")

    def until_it_runs(self) -> None:
        """Until all nodes have handed over a model, after the first one."""
        count = len(self.nodes()) or 1
        self.until(
            lambda: len(list(self.out.glob("*/snapshots/t*[1-9]*-n*.npy"))) >= count > 0, "a model of every node"
        )

    def until_lines(self, count: int) -> None:
        """Until so many lines of the curve stand, the names of its columns included."""
        self.until(
            lambda: any(path.read_text().count("\n") >= count for path in self.out.glob("*/curve.csv")),
            f"{count} lines of curve.csv",
        )

    def send_to_all(self, number: int) -> None:
        """As Ctrl-C in a terminal, or a batch system that ends a job: to every process."""
        os.killpg(self.process.pid, number)

    def workers(self) -> list[psutil.Process]:
        """The children of the main process; of a simulation, its workers."""
        return psutil.Process(self.process.pid).children()

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

    def emulator(self) -> psutil.Process:
        """With no worker of the main process it is the only child beside the nodes."""
        nodes = {process.pid for process in self.nodes().values()}
        (found,) = [child for child in psutil.Process(self.process.pid).children() if child.pid not in nodes]
        return found

    def end(self) -> tuple[int, str, str]:
        """(exit code, output, errors), once all processes have gone."""
        try:
            out, err = self.process.communicate(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"waited {WAIT_S:.0f} s for the end of the run; there still are {self.left()}")
        assert "Traceback" not in err, err
        self.all_gone()
        return self.process.returncode, out, err

    def all_gone(self) -> None:
        end = time.monotonic() + WAIT_S
        while alive := self.left():
            assert time.monotonic() < end, f"left behind: {alive}"
            time.sleep(0.02)


Start = Callable[..., Started]


def free_ports(count: int) -> int:
    """The first of so many neighboring ports, outside the range from which the kernel takes them for others."""
    while True:
        first = random.randrange(20_000, 32_000)
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first


QUICK = ("no_report", "short_measurement")
"""Faults that only save time."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start ``fragmesh run`` with settings and faults, or resume a run; afterwards nothing of it may be left."""
    begun: list[Started] = []

    def begin(
        *settings: str,
        faults: str = "",
        quick: tuple[str, ...] = QUICK,
        workers: int = 0,
        experiment: dict[str, Any] | Path = SMALL,
        resume: Path | None = None,
        file_bytes_max: int | None = None,
    ) -> Started:
        file = experiment if isinstance(experiment, Path) else tmp_path / "small.yaml"
        if not isinstance(experiment, Path):
            file.write_text(yaml.safe_dump(experiment))
        out, folder, mark = tmp_path / f"runs{len(begun)}", tmp_path / f"gates{len(begun)}", uuid.uuid4().hex
        folder.mkdir()
        names = [*quick, *(fault for fault in faults.split(",") if fault)]
        gates = {fault: Gate(folder, fault) for fault in names if fault.startswith(("hold:", "held_"))}
        options = [part for setting in settings for part in ("--set", setting)]
        arguments = (
            ["run", str(file), "--out", str(out), *options] if resume is None else ["run", "--resume", str(resume)]
        )
        arguments += ["--workers", str(workers)]
        process = warm_parent().start(
            [",".join(names) or "-", *arguments],
            environment={
                **os.environ,
                MARK: mark,
                GATES: str(folder),
                "FRAGMESH_CACHE": str(tmp_path / "cache"),
                "XDG_STATE_HOME": str(tmp_path / "state"),
                "OMP_NUM_THREADS": "1",
            },
            limits=None if file_bytes_max is None else {resource.RLIMIT_FSIZE: (file_bytes_max, file_bytes_max)},
        )
        begun.append(Started(process, out if resume is None else resume.parent, mark, gates))
        return begun[-1]

    yield begin
    left = []
    for started in begun:
        for process in [*started.left(), started.process]:
            if process.pid != started.process.pid and started.process.returncode is not None:
                left.append(process)
            process.kill()
        started.process.communicate()
        for gate in started.gates.values():
            gate.close()
    assert not left, "processes outlived their run"


HOST_CHECKS = ("training longer than declared", "delay of arrivals", "transfers begun too late")
"""Checks of fidelity that fail when the host was late, whatever the emulator makes of it."""


def is_late(run: Run) -> bool:
    """Whether the host was too slow for a real run, by what the run says of it."""
    assert run.fidelity is not None
    return any(check["name"].startswith(HOST_CHECKS) and not check["ok"] for check in run.fidelity["checks"])


def done(started: Started) -> Run:
    """The results of a run that must come to its end."""
    code, _, err = started.end()
    assert code == 0, err
    run = started.run()
    assert run.status == "done"
    return run


class Room:
    """The attempts of a test of real runs, each with more time dilation, while the host is late.

    A test that uses it (through the fixture ``room``) and fails is tried again if, and only if, one of its runs says
    that the host was late; see :mod:`tests.integration.conftest`. Most assertions hold on a late host as well.
    """

    dilations = (1.0, 4.0, 16.0)
    """Real seconds a testbed second."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self.begin(self.dilations[0])

    def begin(self, dilation: float) -> None:
        """Begin an attempt."""
        self._dilation = dilation
        self._runs: list[Run] = []

    def done(self, *settings: str, **options: Any) -> Run:
        """The results of a run that must come to its end; settings and options are those of ``start``."""
        self._runs.append(done(self._start(*settings, f"time_dilation={self._dilation:g}", **options)))
        return self._runs[-1]

    def was_late(self) -> bool:
        """Whether the host was too slow for one of the runs of this attempt."""
        return any(is_late(run) for run in self._runs)


@pytest.fixture
def room(start: Start) -> Room:
    """Real runs, with the dilation of this attempt."""
    return Room(start)
