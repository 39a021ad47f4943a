"""The examination of described machines, and of this one."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.core.errors import ConfigError
from node.core.training import Evaluation, QuadraticTrainer
from node.core.types import NodeId, Vector
from orchestrator.containers.facts import EngineFacts
from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.experiment.runtimes import PLANNED
from orchestrator.host.costs import HostCosts
from orchestrator.host.doctor import Estimate, Finding, Host, estimate, examine
from orchestrator.host.environment import environment, source
from orchestrator.runtimes.registry import examine_runtimes
from orchestrator.shaping.probe import ShapingAbilities
from tests.unit.orchestrator.containers.described import facts


class Described(Host):
    """A machine made of answers."""

    def __init__(
        self,
        *,
        commands: dict[tuple[str, ...], tuple[int, str]] | None = None,
        files: dict[str, str] | None = None,
        found: frozenset[str] = frozenset(),
        free: int = 50 * 10**9,
        shared: int = 8 * 10**9,
        memory: int | None = 32 * 10**9,
        forks: bool = True,
        engine: EngineFacts | ConfigError | None = None,
        has_image: bool = True,
        shaping: ShapingAbilities | None = None,
    ) -> None:
        self.commands = commands or {}
        self.files = files or {}
        self.found = found
        self.free = free
        self.shared = shared
        self.memory = memory
        self.forks = forks
        self.has_image = has_image
        self.tried = shaping or ShapingAbilities("", {"namespace": "unshare: not found"})
        self.described = engine or ConfigError("Docker engine at unix:///var/run/docker.sock: no engine listens there")

    def run(self, *command: str) -> tuple[int, str] | None:
        return self.commands.get(command)

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def which(self, command: str) -> str | None:
        return f"/usr/sbin/{command}" if command in self.found else None

    def disk(self, path: str) -> tuple[int, int] | None:
        return (self.shared, self.shared) if path == "/dev/shm" else (10**12, self.free)

    def versions(self) -> dict[str, str | None]:
        return {"python": "3.11.9", "torch": "2.13.0", "torchvision": None}

    def cpu(self) -> tuple[str, int]:
        return "a processor", 8

    def memory_bytes(self) -> int | None:
        return self.memory

    def kernel(self) -> str:
        return "6.1.0"

    def engine(self) -> EngineFacts:
        if isinstance(self.described, ConfigError):
            raise self.described
        return self.described

    def node_image(self) -> tuple[str, bool]:
        return "fragmesh-node:0.1.0-abc", self.has_image

    def shaping(self) -> ShapingAbilities:
        return self.tried

    def can_fork(self) -> bool:
        return self.forks


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAGMESH_CACHE", str(tmp_path / "cache"))


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    named = {finding.name: finding for finding in findings}
    assert len(named) == len(findings)
    return named


def test_a_bare_machine_can_simulate() -> None:
    found = by_name([*examine(None, Described()), *examine_runtimes(Described())])
    assert found["runtime simulation"].status == "ok"
    assert found["runtime processes"].value == "usable, memory for about 790 small nodes"
    assert {found[f"runtime {name}"].value for name in PLANNED} == {"not built yet"}
    assert found["Docker engine"].status == "missing"
    assert found["tc"].status == "missing"
    assert found["netem"].status == "warn"  # nothing here can tell
    assert found["torch"].status == "ok"
    assert found["torchvision"].status == "missing"
    assert found["data: CIFAR-10"].status == "warn"


def test_what_real_processes_need() -> None:
    name = "runtime processes"

    def found(host: Host) -> Finding:
        return by_name(list(examine_runtimes(host)))[name]

    assert found(Described(forks=False)).status == "missing"
    assert found(Described(memory=4 * 10**8)).status == "warn"
    assert found(Described(memory=None)).value == "usable"
    assert Host().can_fork()


@pytest.mark.parametrize(
    ("problems", "status", "note"),
    [
        ({}, "ok", "real time; the kernel shapes rates, latency, jitter and loss"),
        ({"netem": "unknown"}, "warn", "the kernel shapes rates, receiving nodes add latency and jitter, and loss is"),
        ({"htb": "unknown"}, "warn", "with network.links: direct only: the kernel cannot shape: htb: unknown"),
    ],
)
def test_what_containers_need_of_the_kernel_is_tried(problems: dict[str, str], status: str, note: str) -> None:
    host = Described(engine=facts(memory_bytes=4 * 10**9), shaping=ShapingAbilities("tc", problems))
    found = by_name(list(examine_runtimes(host)))["runtime docker"]
    assert (found.value, found.status) == ("usable, memory for about 20 small nodes", status)
    assert found.note.startswith(note)


def test_containers_where_nothing_can_be_tried() -> None:
    found = by_name(list(examine_runtimes(Described(engine=facts()))))["runtime docker"]
    assert found.status == "ok"
    assert found.note.endswith("it could not be tried here: unshare: not found")
    found = by_name(list(examine_runtimes(Described())))["runtime docker"]
    assert (found.value, found.status) == ("not usable", "missing")
    assert "no engine listens there" in found.note


EXPERIMENT = {
    "name": "x",
    "nodes": 4,
    "algorithm": {"kind": "divshare", "local_steps": 2, "divshare": {"recipients": 2}},
    "learning": {"dataset": {"kind": "synthetic"}, "model": {"kind": "logistic_regression"}},
    "compute": {"step_time_ms": 50},
    "network": {"preset": {"kind": "uniform", "bandwidth_mbps": 1}},
    "stop": {"time_s": 30},
}


class Untrained(QuadraticTrainer):
    """Trains and tests in no time."""

    num_test_sets = 1

    def submit(self, ticket: int, models: Mapping[NodeId, Vector]) -> None:
        pass

    def collect(self, *, wait: bool) -> list[tuple[int, dict[NodeId, Evaluation]]]:
        return []


COSTS = HostCosts(message_cpu_s=0.4e-3, byte_cpu_s=3e-9, round_cpu_s=4e-3, round_param_cpu_s=20e-9, path_s=2.5e-3)


def estimated(**changes: Any) -> tuple[Estimate, dict[str, str]]:
    plan = make_plan(parse_experiment(EXPERIMENT | changes, "x"), Path())
    trainer = Untrained(np.zeros((8, 100), dtype=np.float32), 0.1)
    found = estimate(plan, trainer, costs=COSTS, host=Described())
    return found, found.rows(plan)


def test_an_experiment_is_estimated() -> None:
    found, rows = estimated()
    assert (found.dilation, found.is_given, found.run_s, found.run_is_least) == (1.0, False, 30.0, False)
    assert rows["recommended time_dilation"].startswith("1: nothing bounds it: ")
    assert rows["the run"] == "30.0 s of real time for 30.0 s of testbed time"
    assert rows["tests"].endswith(" after the run")
    assert rows["memory"] == "about 560 MB of 32 GB"
    assert rows["training"].startswith("4 nodes, ")
    assert "the file's time_dilation" not in rows
    assert found.to_json()["recommended_time_dilation"] == 1.0


def test_the_dilation_of_a_file_is_judged() -> None:
    assert estimated(time_dilation=2)[1]["the file's time_dilation"] == "2: enough"
    found, rows = estimated(time_dilation=2, stop={"rounds": 10}, evaluation={"live": True})
    assert rows["the run"] == "at least 2.0 s of real time for 1.0 s of testbed time"
    assert rows["tests"].endswith(" during the run at low priority")
    hard = replace(found, recommendation=replace(found.recommendation, dilation=5.0), host_memory_bytes=10**8)
    told = hard.rows(make_plan(parse_experiment(EXPERIMENT, "x"), Path()))
    assert told["the file's time_dilation"].startswith("2: less than this host needs")
    assert told["memory"].endswith("of 100 MB: too little")


def test_each_way_a_kernel_part_can_be_there() -> None:
    host = Described(
        commands={
            ("/usr/sbin/modprobe", "-n", "sch_htb"): (0, ""),
            ("/usr/sbin/modprobe", "-n", "ifb"): (1, "no"),
        },
        files={
            "/proc/modules": "sch_netem 28672 0 - Live 0x0\n",
            "/lib/modules/6.1.0/modules.builtin": "kernel/net/sched/sch_ingress.ko\n",
            "/proc/kallsyms": "0000000000000000 t ifb_xmit\n",  # no tbf anywhere
        },
        found=frozenset({"modprobe"}),
    )
    found = by_name(examine(None, host))
    assert found["netem"].value == "loaded"
    assert found["htb"].value == "module can be loaded"
    assert found["ingress"].value == "built into the kernel"
    assert found["ifb"].value == "in the kernel"
    assert (found["tbf"].status, found["tbf"].note) == ("missing", "would give partitions by the kernel")


def test_a_kernel_without_netem_says_so() -> None:
    host = Described(files={"/proc/kallsyms": "0 t htb_enqueue\n"})
    found = by_name(examine(None, host))
    assert found["netem"].status == "missing"
    assert found["htb"].status == "ok"


def test_an_engine_is_described_or_the_reason_is_told() -> None:
    found = by_name(examine(None, Described(engine=facts())))["Docker engine"]
    assert (found.status, found.value, found.note) == ("ok", "20.10.24, 4 cores, 8.0 GB", "unix:///var/run/docker.sock")
    limitless = by_name(examine(None, Described(engine=facts(limits_memory=False))))["Docker engine"]
    assert limitless.status == "warn"
    assert "cannot limit memory" in limitless.note
    refused = by_name(examine(None, Described(engine=ConfigError("DOCKER_HOST=x: is Podman"))))["Docker engine"]
    assert (refused.status, refused.note) == ("missing", "DOCKER_HOST=x: is Podman")


def test_an_image_of_nodes_is_there_or_can_be_built() -> None:
    there = by_name(examine(None, Described(engine=facts())))["node image"]
    assert (there.status, there.value) == ("ok", "fragmesh-node:0.1.0-abc")
    missing = by_name(examine(None, Described(engine=facts(), has_image=False)))["node image"]
    assert (missing.status, missing.value, missing.note) == ("ok", "not built", "fragmesh image")
    assert "node image" not in by_name(examine(None, Described()))


def test_little_memory_and_disk_are_warnings() -> None:
    found = by_name(examine(None, Described(free=10**8, shared=64 * 2**20)))
    assert found["free disk here"].status == "warn"
    assert found["shared memory (/dev/shm)"].status == "warn"


def test_data_is_found_under_the_root(tmp_path: Path) -> None:
    (tmp_path / "cifar10-imagefolder.tar.xz").touch()
    (tmp_path / "ml-latest-small").mkdir()
    (tmp_path / "ml-latest-small" / "ratings.csv").touch()
    found = by_name(examine(tmp_path, Described()))
    assert found["data: CIFAR-10"].status == "ok"
    assert found["data: MovieLens"].value.endswith("ratings.csv")
    assert not (tmp_path / "cache").exists()  # looking makes nothing


def test_a_cache_that_cannot_be_made_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FRAGMESH_CACHE", str(tmp_path / "file" / "cache"))
    assert by_name(examine(None, Described()))["cache"].status == "warn"


def test_this_machine_can_be_examined() -> None:
    found = by_name([*examine(), *examine_runtimes()])
    assert found["Python"].status == "ok"
    assert found["runtime simulation"].status == "ok"


def test_the_environment_names_versions_and_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "do-not-write-me")
    record = environment(seed=7, data_source="digits", argv=["fragmesh", "run", "x.yaml"])
    assert record["seed"] == 7
    assert record["command"] == ["fragmesh", "run", "x.yaml"]
    assert record["versions"]["numpy"]
    assert datetime.fromisoformat(record["begun_at"]).utcoffset() == timedelta(0)
    assert "do-not-write-me" not in str(record)


def test_a_folder_outside_a_checkout_has_no_commit(tmp_path: Path) -> None:
    assert source(tmp_path) == {"commit": None, "dirty": None}
