"""How an engine is found and judged: over real sockets, by something that answers as an engine would, or does not."""

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Network
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest

from node.core.errors import ConfigError
from orchestrator.containers import engine
from orchestrator.containers.engine import connect
from orchestrator.containers.routes import HostRoute

KERNEL = "6.1.0"
ROUTES = [HostRoute("docker0", IPv4Network("172.17.0.0/16"))]

VERSION: Mapping[str, Any] = {
    "Components": [{"Name": "Engine", "Version": "26.1.5"}],
    "Version": "26.1.5",
    "ApiVersion": "1.45",
}
INFO: Mapping[str, Any] = {
    "OperatingSystem": "Debian GNU/Linux 12 (bookworm)",
    "OSType": "linux",
    "KernelVersion": KERNEL,
    "SecurityOptions": ["name=seccomp,profile=default"],
    "CgroupVersion": "2",
    "NCPU": 2,
    "MemTotal": 4 * 10**9,
    "MemoryLimit": True,
    "CpuCfsQuota": True,
}
BRIDGE: Mapping[str, Any] = {
    "Name": "bridge",
    "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]},
    "Options": {"com.docker.network.bridge.name": "docker0"},
}


@contextmanager
def answering(path: Path, version: Any = VERSION, info: Any = INFO, bridge: Any = BRIDGE) -> Iterator[dict[str, str]]:
    """Something that answers on a socket as an engine does; yields the variables that lead to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rsplit("/", 1)[-1]
            found = {"version": version, "info": info, "bridge": bridge}.get(name)
            body = json.dumps(found if found is not None else {"message": "no such thing"}).encode()
            self.send_response(200 if found is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "a unix socket"

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingUnixStreamServer(str(path), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield {"DOCKER_HOST": f"unix://{path}"}
        finally:
            server.shutdown()
            thread.join()


def refusal(environment: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as raised:
        connect(environment, kernel=KERNEL, routes=ROUTES)
    message = str(raised.value)
    assert message.startswith(f"DOCKER_HOST={environment['DOCKER_HOST']}: ")
    assert "\n" not in message
    return message


def test_an_engine_describes_itself(tmp_path: Path) -> None:
    with answering(tmp_path / "s") as environment:
        found = connect(environment, kernel=KERNEL, routes=ROUTES)
        found.close()
    facts = found.facts
    assert (facts.version, facts.api_version, facts.cgroup_version, facts.cpus) == ("26.1.5", "1.45", 2, 2)
    assert facts.bridge == ("docker0", IPv4Network("172.17.0.0/16"))
    assert facts.limits_memory
    assert facts.limits_cpus


def test_an_engine_without_a_default_network_is_taken(tmp_path: Path) -> None:
    with answering(tmp_path / "s", bridge=None) as environment:
        assert connect(environment, kernel=KERNEL, routes=[]).facts.bridge is None


def test_no_engine(tmp_path: Path) -> None:
    message = refusal({"DOCKER_HOST": f"unix://{tmp_path}/none"})
    assert "no engine listens there; start Docker" in message


def test_a_socket_that_an_engine_left_behind(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "s"))
    assert "no engine listens there" in refusal({"DOCKER_HOST": f"unix://{tmp_path}/s"})


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's identity")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    with answering(tmp_path / "s") as environment:
        (tmp_path / "s").chmod(0o600)
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            os.setresuid(65_534, 65_534, 65_534)
            try:
                connect(environment, kernel=KERNEL, routes=ROUTES)
                told = "connected"
            except BaseException as error:
                told = f"{type(error).__name__} {error}"
            os.write(writing, told.encode())
            os._exit(0)
        os.close(writing)
        told = os.read(reading, 4096).decode()
        os.close(reading)
        os.waitpid(child, 0)
    assert told.startswith("ConfigError ")
    assert "permission denied; this user must be root or in the group docker" in told


def test_an_engine_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CONNECT_TIMEOUT_S", 1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        assert "does not answer within 1 s" in refusal({"DOCKER_HOST": f"unix://{tmp_path}/s"})


def test_an_engine_that_is_too_old(tmp_path: Path) -> None:
    old = VERSION | {"Version": "19.03.15", "ApiVersion": "1.40"}
    with answering(tmp_path / "s", version=old) as environment:
        assert "Docker engine 19.03.15: must be at least 20.10" in refusal(environment)


def test_an_engine_without_roots_rights(tmp_path: Path) -> None:
    rootless = INFO | {"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}
    with answering(tmp_path / "s", info=rootless) as environment:
        assert "is a rootless engine" in refusal(environment)


@pytest.mark.parametrize("version", [[], "hello", {"Version": "26.1.5"}, {"ApiVersion": "1.45", "Components": "x"}])
def test_something_that_is_no_engine(tmp_path: Path, version: Any) -> None:
    with answering(tmp_path / "s", version=version) as environment:
        refusal(environment)
