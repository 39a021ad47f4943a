"""Prometheus and Grafana beside runs: started once, found again, ended when told, and every refusal in one line."""

import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.core.errors import ConfigError, RunnerError
from orchestrator.host.observers import (
    OBSERVE_LABEL,
    InstalledPrograms,
    Observers,
    PinnedContainers,
)
from orchestrator.observe.services import Service, grafana_service, prometheus_service
from tests.unit.orchestrator.containers.fake_engine import FakeEngine

ANSWERS = """
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/-/ready" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""
"""A program that answers as Prometheus does when it is ready."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def service(root: Path, program: str = ANSWERS, port: int | None = None) -> Service:
    port = free_port() if port is None else port
    described = prometheus_service(
        root, port, {"prometheus.yml": b"scrape_configs: []\n", "rules/a.yml": b"groups: []\n"}
    )
    return replace(described, command=(sys.executable, "-c", program, str(port)))


@pytest.fixture
def observers(tmp_path: Path) -> Iterator[Observers]:
    found = Observers(tmp_path)
    yield found
    for one in found.running():
        found.take_down(one, InstalledPrograms())


def test_a_service_is_started_once_found_again_and_ended(observers: Observers, tmp_path: Path) -> None:
    told: list[str] = []
    wanted, programs = service(tmp_path), InstalledPrograms()
    observers.bring_up([wanted], programs, told.append)
    [first] = observers.running()
    observers.bring_up([wanted], programs, told.append)
    assert observers.running() == [first]
    assert told == ["starting prometheus"]
    assert (tmp_path / "rules" / "a.yml").read_text() == "groups: []\n"
    assert programs.is_up(first.identity)
    observers.take_down(first, programs)
    assert not programs.is_up(first.identity)
    assert observers.running() == []


def test_a_proxy_for_others_is_none_for_this_machine(
    observers: Observers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("urllib.request._opener", None)  # which keeps the proxies of the first page that was opened
    observers.bring_up([service(tmp_path)], InstalledPrograms(), lambda line: None)
    assert len(observers.running()) == 1


def test_one_that_died_meanwhile_is_started_anew(observers: Observers, tmp_path: Path) -> None:
    wanted, programs = service(tmp_path), InstalledPrograms()
    observers.bring_up([wanted], programs, lambda line: None)
    [first] = observers.running()
    programs.end(first.identity)
    observers.bring_up([wanted], programs, lambda line: None)
    [second] = observers.running()
    assert second != first
    assert programs.is_up(second.identity)


def test_another_port_is_refused_while_it_runs(observers: Observers, tmp_path: Path) -> None:
    wanted = service(tmp_path)
    observers.bring_up([wanted], InstalledPrograms(), lambda line: None)
    with pytest.raises(ConfigError, match=f"prometheus runs at port {wanted.port} already: .*fragmesh down --observe"):
        observers.bring_up([replace(wanted, port=free_port())], InstalledPrograms(), lambda line: None)


def test_a_taken_port_is_refused_before_anything_starts(observers: Observers, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--prometheus-port={port}: is taken .*--prometheus-port names another"):
            observers.bring_up([service(tmp_path, port=port)], InstalledPrograms(), lambda line: None)
    assert observers.running() == []


def test_a_program_that_ends_at_once_says_why(observers: Observers, tmp_path: Path) -> None:
    wanted = service(tmp_path, "print('no such flag'); raise SystemExit(1)")
    with pytest.raises(RunnerError, match="prometheus ended at once; it said last: no such flag"):
        observers.bring_up([wanted], InstalledPrograms(), lambda line: None)
    assert observers.running() == []
    with pytest.raises(RunnerError, match="cannot be started: No such file"):
        observers.bring_up([replace(wanted, command=("/no/such/program",))], InstalledPrograms(), lambda line: None)


def test_whatever_stops_it_leaves_nothing_that_no_record_names(observers: Observers, tmp_path: Path) -> None:
    wanted = service(tmp_path)
    second = replace(wanted, name="grafana")  # at the same port, which is refused only when the first one runs
    with pytest.raises(ConfigError, match=f"--grafana-port={wanted.port}: is taken"):
        observers.bring_up([wanted, second], InstalledPrograms(), lambda line: None)
    assert observers.running() == []
    assert is_free(wanted.port)

    def interrupt(line: str) -> None:
        if line == "starting grafana":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observers.bring_up([wanted, replace(second, port=free_port())], InstalledPrograms(), interrupt)
    assert observers.running() == []
    assert is_free(wanted.port)


def test_one_that_was_brought_up_in_the_other_way_is_refused(observers: Observers, tmp_path: Path) -> None:
    wanted = service(tmp_path)
    observers.bring_up([wanted], InstalledPrograms(), lambda line: None)
    containers = PinnedContainers(FakeEngine(registry={wanted.image}), tmp_path)
    for port in (wanted.port, free_port()):
        with pytest.raises(
            ConfigError, match=f"prometheus runs at port {wanted.port} already with --observe-with=installed: .*down"
        ):
            observers.bring_up([replace(wanted, port=port)], containers, lambda line: None)


def test_a_state_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/observe: Not a directory: XDG_STATE_HOME names another state folder"):
        Observers(tmp_path / "file").bring_up([], InstalledPrograms(), lambda line: None)


def test_a_damaged_record_is_no_record(observers: Observers, tmp_path: Path) -> None:
    (tmp_path / "observe").mkdir()
    for text in ("", "{", "[1]", '[{"name": "prometheus"}]', "null"):
        (tmp_path / "observe" / "services.json").write_text(text)
        assert observers.running() == []


def test_containers_have_pinned_images_labels_and_only_their_own_folder_to_write_to(tmp_path: Path) -> None:
    prometheus = prometheus_service(tmp_path, 9090, {})
    grafana = grafana_service(tmp_path, 3000, prometheus.url)
    engine = FakeEngine(registry={prometheus.image, grafana.image})
    carrier = PinnedContainers(engine, tmp_path)
    identities = [carrier.start(one) for one in (prometheus, grafana)]
    specs = [engine.containers[identity].spec for identity in identities]
    assert all(carrier.is_up(identity) for identity in identities)
    for spec, described in zip(specs, (prometheus, grafana), strict=True):
        assert spec.image == described.image
        assert ":v" in spec.image or spec.image.rpartition(":")[2][0].isdigit()
        assert spec.host_network
        assert spec.capabilities == ()
        assert spec.labels[OBSERVE_LABEL] == str(os.getuid())
        assert [bind.source for bind in spec.binds if not bind.read_only] == [described.folder]
    assert specs[1].environment["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert "--web.listen-address=127.0.0.1:9090" in specs[0].command


def test_an_image_that_cannot_be_had_says_what_to_do(tmp_path: Path) -> None:
    engine = FakeEngine()
    with pytest.raises(ConfigError, match=r"image prom/prometheus:\S+ cannot be had: .*--observe-with=installed"):
        PinnedContainers(engine, tmp_path).start(prometheus_service(tmp_path, 9090, {}))
    assert not engine.containers


def test_nobody_can_log_in_with_a_default_password(tmp_path: Path) -> None:
    settings = grafana_service(tmp_path, 3000, "http://127.0.0.1:9090").environment
    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert not [name for name in settings if "PASSWORD" in name]
