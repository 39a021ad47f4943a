"""The examination of described machines, and of this one."""

from pathlib import Path

import pytest

from orchestrator.doctor import Finding, Host, examine
from orchestrator.environment import environment, source


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
    ) -> None:
        self.commands = commands or {}
        self.files = files or {}
        self.found = found
        self.free = free
        self.shared = shared

    def run(self, *command: str) -> tuple[int, str] | None:
        return self.commands.get(command)

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def exists(self, path: str) -> bool:
        return path in self.files

    def which(self, command: str) -> str | None:
        return f"/usr/sbin/{command}" if command in self.found else None

    def disk(self, path: str) -> tuple[int, int] | None:
        return (self.shared, self.shared) if path == "/dev/shm" else (10**12, self.free)

    def versions(self) -> dict[str, str | None]:
        return {"python": "3.11.9", "torch": "2.13.0", "torchvision": None}

    def cpu(self) -> tuple[str, int]:
        return "a processor", 8

    def memory_bytes(self) -> int | None:
        return 32 * 10**9

    def kernel(self) -> str:
        return "6.1.0"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAGMESH_CACHE", str(tmp_path / "cache"))


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    named = {finding.name: finding for finding in findings}
    assert len(named) == len(findings)
    return named


def test_a_bare_machine_can_simulate() -> None:
    found = by_name(examine(None, Described()))
    assert found["runtime simulation"].status == "ok"
    assert {found[f"runtime {name}"].value for name in ("processes", "docker", "kubernetes")} == {"not built yet"}
    assert found["Docker client"].status == "missing"
    assert found["Docker daemon"].status == "missing"
    assert found["tc"].status == "missing"
    assert found["netem"].status == "warn"  # nothing here can tell
    assert found["torch"].status == "ok"
    assert found["torchvision"].status == "missing"
    assert found["data: CIFAR-10"].status == "warn"


def test_each_way_a_kernel_part_can_be_there() -> None:
    host = Described(
        commands={
            ("/usr/sbin/modprobe", "-n", "sch_htb"): (0, ""),
            ("/usr/sbin/modprobe", "-n", "ifb"): (1, "no"),
        },
        files={
            "/proc/modules": "sch_netem 28672 0 - Live 0x0\n",
            "/lib/modules/6.1.0/modules.builtin": "kernel/net/sched/sch_ingress.ko\n",
            "/proc/kallsyms": "0000000000000000 t ifb_xmit\n",
        },
        found=frozenset({"modprobe"}),
    )
    found = by_name(examine(None, host))
    assert found["netem"].value == "loaded"
    assert found["htb"].value == "module can be loaded"
    assert found["ingress"].value == "built into the kernel"
    assert found["ifb"].value == "in the kernel"


def test_a_kernel_without_netem_says_so() -> None:
    host = Described(files={"/proc/kallsyms": "0 t htb_enqueue\n"})
    found = by_name(examine(None, host))
    assert found["netem"].status == "missing"
    assert found["htb"].status == "ok"


def test_docker_that_does_not_answer_is_a_warning() -> None:
    host = Described(
        commands={("docker", "version", "--format", "{{.Server.Version}}"): (1, "permission denied")},
        files={"/var/run/docker.sock": ""},
        found=frozenset({"docker"}),
    )
    found = by_name(examine(None, host))
    assert found["Docker client"].status == "ok"
    assert found["Docker daemon"].status == "warn"
    assert "group docker" in found["Docker daemon"].note


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
    found = by_name(examine())
    assert found["Python"].status == "ok"
    assert found["runtime simulation"].status == "ok"


def test_the_environment_names_versions_and_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "do-not-write-me")
    record = environment(seed=7, data_source="digits", argv=["fragmesh", "run", "x.yaml"])
    assert record["seed"] == 7
    assert record["command"] == ["fragmesh", "run", "x.yaml"]
    assert record["versions"]["numpy"]
    assert "do-not-write-me" not in str(record)


def test_a_folder_outside_a_checkout_has_no_commit(tmp_path: Path) -> None:
    assert source(tmp_path) == {"commit": None, "dirty": None}
