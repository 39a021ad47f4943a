"""Crashes, returns and pauses of real processes and containers, as they were simulated."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from orchestrator.containers.engine import DockerEngine
from orchestrator.results.reader import Run, load_run
from tests.integration.shaping_host import ShapingHost, need_kernel_shaping

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="real nodes need Linux"),
]

NODES = 5
WITHIN_S = 300
LATE_MS = 50.0
"""By which an instant may be late, testbed time."""
CRASH, RESTART, PAUSE, PARTED = (2.0, 2.5), 5.0, (4.0, 1.0), (1.0, 0.5)
"""When and for how long, testbed seconds."""

EXPERIMENT: dict[str, Any] = {
    "name": "node-faults",
    "nodes": NODES,
    "algorithm": {
        "kind": "divshare",
        "local_steps": 8,
        "divshare": {"omega": 0.25, "recipients": 2},
        "swift_divshare": {"recipients": 2},
        "adpsgd_pingpong": {"recipients": 2},
        "adpsgd": {"roles": "parity", "on_missing_peer": "skip"},
        "epidemic": {"recipients": 2, "on_missing_peer": "skip"},
        "dpsgd": {"on_missing_peer": "skip"},
    },
    "learning": {
        "dataset": {"kind": "synthetic", "samples": 1_200, "test_samples": 300, "features": 500, "classes": 4},
        "model": {"kind": "logistic_regression"},
        "optimizer": {"learning_rate": 0.02},
    },
    "compute": {"step_time_ms": 20},
    "network": {"preset": {"kind": "uniform", "bandwidth_mbps": 1.0, "latency_ms": 10}},
    "evaluation": {"interval_s": 0.5},
    "stop": {"time_s": 8.1},
    "fidelity": {"allow_unfaithful": True},
}
TRACE = "time_s,bandwidth_mbps,latency_ms\n0,0.4,20\n0.7,1.5,0\n1.3,0.6,5\n"
SCHEDULE: list[dict[str, Any]] = [
    {"action": "trace", "nodes": 0, "direction": "up", "file": "trace.csv", "at_s": 5.5, "for_s": 2.0},
    {"action": "partition", "groups": ["0-2", "3-4"], "at_s": PARTED[0], "for_s": PARTED[1]},
    {"action": "crash", "nodes": 1, "at_s": CRASH[0], "for_s": CRASH[1]},
    {"action": "pause", "nodes": 3, "at_s": PAUSE[0], "for_s": PAUSE[1]},
    {"action": "restart", "nodes": 4, "at_s": RESTART, "model": "common"},
]


def run(folder: Path, *settings: str, schedule: list[dict[str, Any]] | None = None, code: int = 0) -> Run:
    """The run of this experiment by the command line."""
    folder.mkdir(exist_ok=True)
    file = folder / "experiment.yaml"
    (folder / "trace.csv").write_text(TRACE)
    file.write_text(yaml.safe_dump({**EXPERIMENT, "schedule": SCHEDULE if schedule is None else schedule}))
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(file), "--out", str(folder / "runs")]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == code, done.stderr[-3_000:]
    (path,) = (folder / "runs").iterdir()
    return load_run(path)


def messages(found: Run) -> dict[str, int]:
    assert found.summary is not None
    counted: dict[str, int] = found.summary["messages"]
    return counted


def check_lives(found: Run) -> None:
    """What the life of every message says of when nodes were there."""
    assert found.messages is not None
    table = {name: np.asarray(column) for name, column in found.messages.items()}
    queued_s, delivered_s = table["queued_ns"] / 1e9, table["delivered_ns"] / 1e9
    (begin_s, for_s), down = CRASH, 1
    own = queued_s[table["sender"] == down]
    assert not ((own > begin_s) & (own < begin_s + for_s)).any()
    assert (own < begin_s).any()
    assert (own > begin_s + for_s).any()  # it came back, and its messages of both lives are there
    came = delivered_s[(table["receiver"] == down) & (delivered_s > 0)]
    assert not ((came > begin_s) & (came < begin_s + for_s)).any()
    assert (came > begin_s + for_s).any()
    begin_s, for_s = PAUSE
    taken = delivered_s[(table["receiver"] == 3) & (delivered_s > 0)]
    assert not ((taken > begin_s + 0.05) & (taken < begin_s + for_s)).any()
    assert (taken >= begin_s + for_s).any()


@pytest.mark.parametrize(
    ("start", "schedule"),
    [("forked", SCHEDULE), ("fresh", SCHEDULE[:4])],  # a new interpreter takes seconds: it cannot be back at once
    ids=["forked", "fresh"],
)
def test_processes_crash_come_back_and_stand_still_as_it_was_simulated(
    tmp_path: Path, start: str, schedule: list[dict[str, Any]]
) -> None:
    simulated = run(tmp_path / "simulation", "runtime=simulation", schedule=schedule)
    settings = ("runtime=processes", f"processes.start={start}", "time_dilation=4")
    real = run(tmp_path / "processes", *settings, schedule=schedule)
    check_lives(simulated)
    check_lives(real)
    before, after = messages(simulated), messages(real)
    assert after["delivered"] == pytest.approx(before["delivered"], rel=0.1)
    assert after["lost"] > 0
    assert real.summary is not None
    assert real.summary["status"] == "done"
    assert real.fidelity is not None
    assert real.fidelity["died"] == {}
    instants = real.faults or ()
    assert len(instants) == 2 * len(schedule)  # a begin and an end of each
    late_ms = [one.late_ns / 1e6 for one in instants if one.late_ns is not None]
    print(f"planned faults late by {[round(late, 1) for late in late_ms]} ms")
    assert len(late_ms) == len(instants)
    assert min(late_ms) >= 0
    assert sorted(late_ms)[: len(late_ms) // 2][-1] < LATE_MS  # half of them, whatever the host does meanwhile


def test_a_crash_without_a_return_is_no_death(tmp_path: Path) -> None:
    schedule = [{"action": "crash", "nodes": [0, 3], "at_s": 1}]
    found = run(tmp_path, "runtime=processes", "stop.time_s=3", "time_dilation=2", schedule=schedule)
    assert found.fidelity is not None
    assert found.fidelity["died"] == {}
    assert found.nodes is not None
    last = np.asarray(found.nodes["time_ns"]).max()
    assert set(np.asarray(found.nodes["node"])[np.asarray(found.nodes["time_ns"]) == last].tolist()) == {1, 2, 4}


@pytest.mark.parametrize("action", ["crash", "pause"])
def test_links_of_nothing_but_streams_take_it_as_well(tmp_path: Path, action: str) -> None:
    schedule = [{"action": action, "nodes": 2, "at_s": 1, "for_s": 1}]
    free = "network.preset={kind: uniform, bandwidth_mbps: null, latency_ms: 0}"
    settings = ("runtime=processes", "network.links=direct", free, "stop.time_s=4", "time_dilation=2")
    found = run(tmp_path, *settings, schedule=schedule)
    assert found.messages is not None
    queued_s = np.asarray(found.messages["queued_ns"])[np.asarray(found.messages["sender"]) == 2] / 1e9
    assert not ((queued_s > 1.1) & (queued_s < 2.0)).any()
    assert (queued_s > 2.0).any()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_random_schedules_end_without_a_hang_a_failure_or_a_leftover(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    schedule: list[dict[str, Any]] = []
    for node in rng.permutation(NODES)[: rng.integers(1, NODES + 1)].tolist():
        at_s, for_s = float(rng.uniform(0, 2.5)), float(rng.uniform(0.05, 2.0))
        entry: dict[str, Any] = {"nodes": node, "at_s": round(at_s, 3)}
        match rng.integers(4):
            case 0:
                entry |= {
                    "action": "crash",
                    "for_s": round(for_s, 3),
                    "model": str(rng.choice(["last", "common", "peer"])),
                }
            case 1:
                entry |= {"action": "crash"}
            case 2:
                entry |= {"action": "restart"}
            case 3:
                entry |= {"action": "pause", "for_s": round(for_s, 3)}
        schedule.append(entry)
    print(f"seed {seed}: {json.dumps(schedule)}")
    kind = str(rng.choice(["divshare", "swift_divshare", "adpsgd_pingpong", "adpsgd", "epidemic", "dpsgd"]))
    found = run(
        tmp_path, "runtime=processes", "stop.time_s=3", "time_dilation=2", f"algorithm.kind={kind}", schedule=schedule
    )
    assert found.summary is not None
    assert found.summary["status"] == "done"
    assert found.fidelity is not None
    assert found.fidelity["died"] == {}
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False)
    assert left.stdout == "", left.stdout


def test_containers_crash_come_back_and_stand_still_as_it_was_simulated(
    engine: DockerEngine, node_image: str, shaper_image: str, tmp_path: Path, shaping_host: ShapingHost
) -> None:
    need_kernel_shaping()
    folder, schedule = tmp_path / str(shaping_host.dilation), SCHEDULE[:4]
    folder.mkdir()
    simulated = run(folder / "simulation", "runtime=simulation", schedule=schedule)
    dilation = f"time_dilation={4 * shaping_host.dilation}"  # so that a container is back in time
    real = run(folder / "docker", "runtime=docker", dilation, schedule=schedule)
    instants = real.faults or ()
    shaping_host.record(
        f"late by {[one.late_ns for one in instants]} ns; {messages(real)}, simulated {messages(simulated)}"
    )
    assert real.fidelity is not None
    shaping_host.record(str([check for check in real.fidelity["checks"] if not check["ok"]]))
    assert real.fidelity["died"] == {}
    check_lives(real)
    assert messages(real)["delivered"] == pytest.approx(messages(simulated)["delivered"], rel=0.1)
    late_ms = [one.late_ns / 1e6 for one in instants if one.late_ns is not None]
    assert len(late_ms) == len(instants) == 2 * len(schedule)
    assert max(late_ms) < LATE_MS
