"""The engine is looked for where the ``docker`` command looks."""

import hashlib
import json
from pathlib import Path

import pytest

from node.core.errors import ConfigError
from orchestrator.containers.endpoint import DEFAULT_URL, Endpoint, find_endpoint


def make_context(folder: Path, name: str, url: str | None, *, tls: bool = False) -> None:
    identity = hashlib.sha256(name.encode()).hexdigest()
    meta = folder / "contexts" / "meta" / identity / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": url}} if url else {}}))
    if tls:
        (folder / "contexts" / "tls" / identity / "docker").mkdir(parents=True)


def choose_context(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"currentContext": name}))


def test_the_default_is_the_socket(tmp_path: Path) -> None:
    found = Endpoint(DEFAULT_URL, "Docker engine at unix:///var/run/docker.sock")
    assert find_endpoint({}, tmp_path) == found
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text("{}")
    assert find_endpoint({}, tmp_path) == found


def test_a_variable_wins_over_contexts(tmp_path: Path) -> None:
    folder = tmp_path / ".docker"
    choose_context(folder, "lab")
    make_context(folder, "lab", "tcp://lab:2376", tls=True)
    make_context(folder, "other", "unix:///run/other.sock")
    assert find_endpoint({}, tmp_path).url == "tcp://lab:2376"
    other = find_endpoint({"DOCKER_CONTEXT": "other"}, tmp_path)
    assert other == Endpoint("unix:///run/other.sock", "DOCKER_CONTEXT=other (unix:///run/other.sock)")
    url = "unix:///run/third.sock"
    assert find_endpoint({"DOCKER_HOST": url, "DOCKER_CONTEXT": "other"}, tmp_path) == Endpoint(
        url, f"DOCKER_HOST={url}"
    )
    assert find_endpoint({"DOCKER_CONTEXT": "default"}, tmp_path).url == DEFAULT_URL


def test_a_folder_of_configuration_may_be_named(tmp_path: Path) -> None:
    choose_context(tmp_path / "elsewhere", "lab")
    make_context(tmp_path / "elsewhere", "lab", "tcp://lab:2375")
    found = find_endpoint({"DOCKER_CONFIG": str(tmp_path / "elsewhere")}, tmp_path)
    assert found.url == "tcp://lab:2375"
    assert found.named_by == f"{tmp_path}/elsewhere/config.json: currentContext=lab (tcp://lab:2375)"
    assert found.certificates is None


def test_certificates_come_with_the_variable_or_the_context(tmp_path: Path) -> None:
    tls = {"DOCKER_HOST": "tcp://lab:2376", "DOCKER_TLS_VERIFY": "1"}
    assert find_endpoint(tls, tmp_path).certificates == tmp_path / ".docker"
    assert find_endpoint({**tls, "DOCKER_CERT_PATH": "/certs"}, tmp_path).certificates == Path("/certs")
    folder = tmp_path / ".docker"
    make_context(folder, "lab", "tcp://lab:2376", tls=True)
    certificates = find_endpoint({"DOCKER_CONTEXT": "lab"}, tmp_path).certificates
    assert certificates is not None
    assert certificates.is_relative_to(folder / "contexts" / "tls")


def test_a_context_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^DOCKER_CONTEXT=lab: there is no such context"):
        find_endpoint({"DOCKER_CONTEXT": "lab"}, tmp_path)
    choose_context(tmp_path / ".docker", "gone")
    with pytest.raises(ConfigError, match=r"config\.json: currentContext=gone: there is no such context"):
        find_endpoint({}, tmp_path)


def test_a_damaged_configuration_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / ".docker"
    make_context(folder, "bare", None)
    with pytest.raises(ConfigError, match=r"meta\.json: Endpoints\.docker\.Host: missing"):
        find_endpoint({"DOCKER_CONTEXT": "bare"}, tmp_path)
    config = folder / "config.json"
    config.write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: is not JSON: "):
        find_endpoint({}, tmp_path)
    config.write_text("[]")
    with pytest.raises(ConfigError, match=r"config\.json: must hold keys and values, holds list"):
        find_endpoint({}, tmp_path)
