"""``run --observe``: a real Prometheus beside a run, installed or in a container, has all of it when it is over."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.containers.engine import DockerEngine
from orchestrator.host.observers import DIRECT, OBSERVE_LABEL
from orchestrator.observe.services import GRAFANA_IMAGE, PROMETHEUS_IMAGE
from orchestrator.report.dashboard import ADDRESS_KEY
from tests.integration.prometheus import needed_program
from tests.integration.started import SMALL, WAIT_S, free_ports

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = """
import http.server, os
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
where = os.environ["GF_SERVER_HTTP_ADDR"], int(os.environ["GF_SERVER_HTTP_PORT"])
http.server.HTTPServer(where, Page).serve_forever()
"""
"""A stand-in for Grafana's server, where none can be had: it listens where it is told and says that it is well."""


def fragmesh(*arguments: str, state: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "fragmesh", *arguments],
        cwd=ROOT,
        env={**os.environ, "XDG_STATE_HOME": str(state)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )


def value(port: int, expression: str) -> float | None:
    query = urllib.parse.urlencode({"query": expression})
    try:
        with DIRECT.open(f"http://127.0.0.1:{port}/api/v1/query?{query}", timeout=60) as answer:
            found = json.load(answer)["data"]["result"]
    except OSError:  # it does not answer yet
        return None
    return float(found[0]["value"][1]) if found else None


def run_until_seen(file: Path, port: int, out: Path, *options: str, state: Path) -> str:
    """Run until Prometheus has seen all nodes, interrupt the run, and return what it said."""
    arguments = ["run", str(file), "--observe", "--prometheus-port", str(port), "--out", str(out), *options]
    said = out.with_suffix(".txt")
    said.parent.mkdir(parents=True, exist_ok=True)
    with said.open("wb") as file_of_output:
        process = subprocess.Popen(
            [sys.executable, "-m", "fragmesh", *arguments],
            cwd=ROOT,
            env={**os.environ, "XDG_STATE_HOME": str(state)},
            stdout=file_of_output,
            stderr=file_of_output,
        )
    try:
        end_s = time.monotonic() + WAIT_S
        seen = None
        while seen != SMALL["nodes"]:
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < end_s, f"Prometheus has seen {seen} nodes: {said.read_text()}"
            time.sleep(0.1)
            if out.exists() and (paths := [*out.iterdir()]):
                seen = value(port, f'count(fragmesh_rounds_total{{run="{paths[0].name}"}} > 0)')
        process.send_signal(signal.SIGINT)
        process.wait(WAIT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said.read_text()
    return said.read_text()


def write_experiment(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "observed.yaml"
    file.write_text(yaml.safe_dump({**SMALL, "name": "observed", "stop": {"time_s": 1.0e9}, **changes}))
    return file


def agrees(port: int, out: Path) -> Path:
    """Compare what Prometheus has with the summary, and return the run's directory."""
    [path] = out.iterdir()
    summary = json.loads((path / "summary.json").read_text())
    sent = value(port, f'sum(last_over_time(fragmesh_messages_sent_total{{run="{path.name}"}}[1h]))')
    assert sent == summary["messages"]["sent"] > 0
    return path


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder; what was brought up there is ended."""
    folder = tmp_path / "state"
    yield folder
    ended = fragmesh("down", "--observe", state=folder)
    assert ended.returncode == 0, ended.stderr


def test_an_installed_prometheus_is_left_with_all_that_a_run_has_counted(tmp_path: Path, state: Path) -> None:
    needed_program("prometheus")
    file, port, out = write_experiment(tmp_path / "in", runtime="processes"), free_ports(1), tmp_path / "out"
    for times in ("1", "2"):  # the second run finds it
        said = run_until_seen(file, port, out / times, "--observe-with", "installed", state=state)
        assert f"prometheus: http://127.0.0.1:{port}" in said
        assert ("starting prometheus" in said) == (times == "1")
        agrees(port, out / times)
    assert value(port, "count(count by (run) (last_over_time(fragmesh_rounds_total[1h])))") == 2
    options = ("--observe", "--prometheus-port", str(free_ports(1)), "--out", str(out / "3"))
    elsewhere = fragmesh("run", str(file), *options, state=state)
    assert (elsewhere.returncode, elsewhere.stderr.count("\n")) == (2, 1)
    assert f"prometheus runs at port {port} already" in elsewhere.stderr
    assert not (out / "3").exists()


@pytest.fixture
def observer_images(engine: DockerEngine, base_image: str) -> Iterator[None]:
    """Images by the pinned names, where no registry can be reached: the installed Prometheus, and the stand-in."""
    program = needed_program("prometheus")
    contents = {
        PROMETHEUS_IMAGE: ("prometheus", Path(program).read_bytes()),
        GRAFANA_IMAGE: ("grafana", f"#!/usr/bin/env python3\n{GRAFANA}".encode()),
    }
    made = []
    for name, (file, content) in contents.items():
        if engine.find_image(name) is not None:
            continue
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as archive:
            recipe = f'FROM {base_image}\nCOPY --chmod=755 {file} /{file}\nENTRYPOINT ["/{file}"]\n'.encode()
            recipe = recipe.replace(b" --chmod=755", b"")  # the classic builder keeps the mode of the archive
            for path, data in (("Dockerfile", recipe), (file, content)):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(data), 0o755
                archive.addfile(entry, io.BytesIO(data))
        context.seek(0)
        engine.build_image(context, name, {}, {}, print)
        made.append(name)
    yield
    for name in made:
        subprocess.run(["docker", "rmi", "--force", name], capture_output=True, check=True, timeout=WAIT_S)


@pytest.mark.usefixtures("observer_images", "node_image", "shaper_image")
def test_containers_of_pinned_images_see_a_run_of_containers_and_are_removed(
    tmp_path: Path, state: Path, engine: DockerEngine
) -> None:
    file, out = write_experiment(tmp_path / "in", runtime="docker", time_dilation=4), tmp_path / "out"
    prometheus_port = free_ports(2)
    grafana_port = prometheus_port + 1
    said = run_until_seen(file, prometheus_port, out, "--grafana-port", str(grafana_port), state=state)
    path = agrees(prometheus_port, out)
    grafana = f"http://127.0.0.1:{grafana_port}"
    assert f"grafana: {grafana}" in said
    assert json.loads((path / "environment.json").read_text())[ADDRESS_KEY] == grafana
    assert f"{grafana}/d/fragmesh-run?var-run={path.name}" in (path / "report.html").read_text().replace("&amp;", "&")
    mine = {OBSERVE_LABEL: str(os.getuid())}
    assert {each.status for each in engine.labelled(mine)} == {"running"}
    cleared = fragmesh("down", state=state)  # of what is gone, which these are not
    assert cleared.returncode == 0
    assert len(engine.labelled(mine)) == 2
    assert fragmesh("down", "--observe", state=state).returncode == 0
    assert engine.labelled(mine) == []


def test_what_cannot_be_observed_is_refused_before_anything_starts(tmp_path: Path) -> None:
    state, out = tmp_path / "state", tmp_path / "out"
    file = str(write_experiment(tmp_path / "in", runtime="processes"))
    for arguments, message in (
        ((file, "--observe", "--runtime", "simulation"), "--observe: a simulation serves no metrics"),
        ((file, "--observe", "--set", "observe.metrics=false"), "--observe: must be without observe.metrics=false"),
        ((file, "--observe-with", "installed"), "--observe-with=installed: must be with --observe"),
        ((file, "--grafana-port", "3001"), "--grafana-port=3001: must be with --observe"),
        (("--resume", str(tmp_path), "--observe"), "must be without --observe"),
    ):
        done = fragmesh("run", *arguments, *(() if "--resume" in arguments else ("--out", str(out))), state=state)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert message in done.stderr
    assert not out.exists()
    assert not (state / "fragmesh" / "observe").exists()
