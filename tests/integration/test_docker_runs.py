"""Runs with containers in a real Docker engine, from the command line; ``tests/engine.sh`` gives a machine one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from orchestrator.containers.cleanup import find_runs, reap
from orchestrator.containers.engine import DockerEngine
from orchestrator.containers.image_builds import BuildOptions, have_image
from orchestrator.containers.image_recipes import shaper_recipe
from orchestrator.containers.interface import Resource
from orchestrator.containers.ownership import OWNER_LABEL, RUN_LABEL, Owner
from orchestrator.results.reader import load_run
from tests.integration.scraping import Target, get, targets_in
from tests.integration.started import ENDLESS, SMALL, WAIT_S

ROOT = Path(__file__).resolve().parents[2]
DOCKER: dict[str, Any] = {**SMALL, "name": "contained", "runtime": "docker"}
FAST = {"preset": {"kind": "uniform", "bandwidth_mbps": 5, "latency_ms": 5}}


@dataclass
class DockerRun:
    """A run from the command line, in a session of its own.

    Attributes:
        engine: Where its containers are.
        process: The orchestrator.
        out: Folder of its run directory.
        output: File with all that it says.
    """

    engine: DockerEngine
    process: "subprocess.Popen[bytes]"
    out: Path
    output: Path

    @property
    def path(self) -> Path:
        (path,) = self.out.iterdir()
        return path

    def said(self) -> str:
        return self.output.read_text()

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + WAIT_S
        while not (found := condition()):
            if self.process.poll() is not None and not condition():
                pytest.fail(f"the run ended before {what}: {self.said()}")
            if time.monotonic() > end:
                pytest.fail(f"waited {WAIT_S:.0f} s for {what}: {self.said()}")
            time.sleep(0.01)
        return found

    def until_it_runs(self, after: float = 0.0) -> None:
        """Until every node has handed over a model of a later time than ``after``, seconds."""

        def nodes_after() -> bool:
            later = [path for path in self.out.glob("*/snapshots/t*-n*.npy") if time_of(path) > after]
            return len({path.stem.partition("-n")[2] for path in later}) == DOCKER["nodes"]

        self.until(nodes_after, "a model of every node")

    def has(self, role: str = "") -> list[Resource]:
        return self._labelled({"fragmesh.role": role} if role else {})

    def node(self, node: int) -> Resource:
        (found,) = self._labelled({"fragmesh.node": str(node)})
        return found

    def _labelled(self, labels: dict[str, str]) -> list[Resource]:
        """What this process made: another run that began in the same second has the same name."""
        found = self.engine.labelled({RUN_LABEL: self.path.name, **labels})
        owners = [Owner.from_label(resource.labels[OWNER_LABEL]) for resource in found]
        return [mine for mine, by in zip(found, owners, strict=True) if by and by.pid == self.process.pid]

    def end(self) -> int:
        """Wait for its end, and see that it has left nothing."""
        code = self.process.wait(WAIT_S)
        assert self.has() == []
        assert not list(self.path.glob("nodes/*.pem"))
        return code

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.end()


def time_of(snapshot: Path) -> float:
    return int(snapshot.stem[1:].partition("-n")[0]) / 1e9


@pytest.fixture
def start(engine: DockerEngine, base_image: str, node_image: str, tmp_path: Path) -> Iterator[Callable[..., DockerRun]]:
    """Start a run with some settings of its own."""
    environment = {
        **os.environ,
        "FRAGMESH_BASE_IMAGE": base_image,
        "FRAGMESH_CACHE": str(tmp_path / "cache"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    have_image(engine, shaper_recipe(), BuildOptions.from_environment(environment), print)
    started: list[DockerRun] = []

    def make(*settings: str, resume: Path | None = None, **changes: Any) -> DockerRun:
        number = len(started)
        file, output = tmp_path / f"experiment-{number}.yaml", tmp_path / f"output-{number}"
        file.write_text(yaml.safe_dump({**DOCKER, **changes}))
        out = tmp_path / f"out-{number}" if resume is None else resume.parent
        options = [word for setting in settings for word in ("--set", setting)]
        what = (
            [str(file), "--out", str(out), "--workers", "0", *options] if resume is None else ["--resume", str(resume)]
        )
        with output.open("wb") as target:
            process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.cli", "run", *what],
                cwd=ROOT,
                env=environment,
                stdout=target,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(DockerRun(engine, process, out, output))
        return started[-1]

    yield make
    for run in started:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()
    reap(engine, Owner.of_this_process())


def test_a_run_from_beginning_to_end(start: Callable[..., DockerRun]) -> None:
    run = start(network=FAST)
    assert run.process.wait(WAIT_S) == 0, run.said()
    assert run.end() == 0
    found = load_run(run.path)
    assert found.status == "done"
    fidelity = json.loads((run.path / "fidelity.json").read_text())
    recorded = json.loads((run.path / "environment.json").read_text())
    by = {"kernel": "kernel: htb and netem", "receiver": "kernel: htb, latency by the receivers' delay line"}
    assert fidelity["links"] == by[recorded["docker"]["latency_by"]]
    assert recorded["tls"] is True
    logs = {path.name for path in (run.path / "logs").iterdir()}
    assert logs >= {f"node-{node:04d}.log" for node in range(found.facts.nodes)}
    # Every message takes its latency, and the way of its bytes besides.
    messages = pq.read_table(run.path / "messages.parquet", columns=["started_ns", "delivered_ns"]).to_pylist()
    took_ms = [(one["delivered_ns"] - one["started_ns"]) / 1e6 for one in messages if one["delivered_ns"] is not None]
    assert took_ms
    assert min(took_ms) >= 5


def test_planned_changes_reach_the_kernel(start: Callable[..., DockerRun], tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("time_s,bandwidth_mbps\n0.3,2\n0.6,3\n")
    traces = [{"node": 1, "direction": direction, "file": "trace.csv"} for direction in ("up", "down")]
    run = start(network={**FAST, "traces": traces})
    assert run.process.wait(WAIT_S) == 0, run.said()
    assert run.end() == 0
    checks = {check["name"]: check for check in json.loads((run.path / "fidelity.json").read_text())["checks"]}
    assert checks["changes of the kernel's links that failed"]["achieved"] == 0
    assert checks["delay of capacity changes, 99th percentile"]["note"].startswith("of 2 instants, ")


def test_links_may_be_the_host_s_own(start: Callable[..., DockerRun]) -> None:
    direct = {"links": "direct", "preset": {"kind": "uniform", "bandwidth_mbps": None, "latency_ms": 0}}
    run = start(network=direct)
    assert run.process.wait(WAIT_S) == 0, run.said()
    assert run.end() == 0
    assert json.loads((run.path / "fidelity.json").read_text())["links"] == "direct (not shaped)"
    assert json.loads((run.path / "environment.json").read_text())["docker"]["latency_by"] is None


def test_metrics_are_served_beside_the_experiment_s_network(start: Callable[..., DockerRun], tmp_path: Path) -> None:
    run = start(ENDLESS, network=FAST)

    def targets() -> list[Target]:
        return [one for one in targets_in(tmp_path / "state") if one.labels["run"] == run.path.name]

    run.until(lambda: len(targets()) == 4, "the addresses of all pages")
    for target in targets():
        assert get(target.address).startswith("# HELP fragmesh_")
        if (node := target.labels.get("node")) is not None:
            on_data_network = json.loads((run.path / f"nodes/node-{node:0>4}.json").read_text())["advertised"]
            with pytest.raises(ConnectionRefusedError):
                get(f"{on_data_network}:{target.address.rpartition(':')[2]}")
    assert run.interrupt() == 130
    assert targets() == []


def test_an_interrupted_run_leaves_nothing_and_goes_on(start: Callable[..., DockerRun]) -> None:
    first = start(ENDLESS)
    first.until_it_runs()
    assert first.interrupt() == 130
    assert load_run(first.path).status == "interrupted"
    before = max(time_of(path) for path in first.out.glob("*/snapshots/t*-n*.npy"))
    second = start(resume=first.path)
    second.until_it_runs(after=before)
    assert second.interrupt() == 130
    assert load_run(second.path).status == "interrupted"


def test_a_node_that_is_killed_and_one_that_comes_back(start: Callable[..., DockerRun], engine: DockerEngine) -> None:
    run = start(ENDLESS, "docker.on_node_death=continue")
    run.until_it_runs()
    victim = run.node(1)
    run.engine.kill(victim.identity)
    run.until(lambda: "node 1 was killed by SIGKILL" in run.said(), "the death")
    run.engine.start(victim.identity)
    run.until(lambda: "the container of node 1 was started again" in run.said(), "the restart")
    run.until(lambda: engine.execute(victim.identity, ["test", "-e", "/run/gate/open"])[0] == 0, "an open gate")
    # Its new namespace was shaped before.
    pid = engine.inspect(victim.identity).pid  # type: ignore[union-attr]
    (helper,) = run.has("shaper")
    held = engine.execute(helper.identity, ["nsenter", "-t", str(pid), "-n", "tc", "qdisc", "show"])[1]
    assert held.count("qdisc htb fa01: ") == 2
    assert run.interrupt() == 130
    assert load_run(run.path).status == "interrupted"


def test_nodes_of_a_killed_orchestrator_end_and_the_next_start_removes_them(
    start: Callable[..., DockerRun], engine: DockerEngine
) -> None:
    run = start(ENDLESS)
    run.until_it_runs()
    run.process.kill()
    run.process.wait()
    end = time.monotonic() + WAIT_S
    while any(node.status != "exited" for node in run.has("node")):
        assert time.monotonic() < end, "the nodes live on"
        time.sleep(0.05)
    following = start(network=FAST)
    assert following.process.wait(WAIT_S) == 0, following.said()
    # By this start, or by that of another run of this machine.
    assert run.has() == []
    assert following.end() == 0


def test_runs_side_by_side(start: Callable[..., DockerRun], engine: DockerEngine) -> None:
    runs = [start(ENDLESS), start(ENDLESS)]
    for run in runs:
        run.until_it_runs()
    mine = [run.path.name for run in runs]
    assert [found.fate for found in find_runs(engine, Owner.of_this_process()) if found.run in mine] == ["alive"] * 2
    assert runs[0].interrupt() == 130
    (after,) = [max(time_of(path) for path in run.out.glob("*/snapshots/t*-n*.npy")) for run in runs[1:]]
    runs[1].until_it_runs(after=after)
    assert runs[1].interrupt() == 130


def test_what_is_wrong_is_one_line_before_anything_is_made(start: Callable[..., DockerRun]) -> None:
    run = start("docker.subnet=10.0.0.0/30")
    assert run.process.wait(WAIT_S) == 2
    (line,) = [line for line in run.said().splitlines() if line.startswith("error")]
    assert "docker.subnet=10.0.0.0/30: must be /" in line
    assert not run.out.exists()
