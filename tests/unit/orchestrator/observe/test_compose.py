"""deploy/compose.yaml: what it says of images, addresses, mounts and accounts, and that compose can read it."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.observe.dashboards.rendering import DASHBOARDS, DASHBOARDS_PATH, PROMETHEUS_URL
from orchestrator.observe.services import RETENTION, grafana_service, prometheus_service

DEPLOY = Path(__file__).resolve().parents[4] / "deploy"
FILE = DEPLOY / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
PROMETHEUS, GRAFANA = COMPOSE["services"]["prometheus"], COMPOSE["services"]["grafana"]

DESCRIBED = {
    "prometheus": prometheus_service(Path("/state"), 9090, {}),
    "grafana": grafana_service(Path("/state"), 3000, PROMETHEUS_URL),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_images_are_those_of_observed_runs_pinned_by_digest(name: str) -> None:
    image, _, digest = COMPOSE["services"][name]["image"].partition("@")
    assert image == DESCRIBED[name].image
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)


def test_everything_listens_on_loopback_alone() -> None:
    for service in (PROMETHEUS, GRAFANA):
        assert service["network_mode"] == "host"
        assert "ports" not in service
    assert "--web.listen-address=127.0.0.1:9090" in PROMETHEUS["command"]
    assert GRAFANA["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"


def test_grafana_has_no_account_and_the_settings_of_observed_runs() -> None:
    environment = GRAFANA["environment"]
    assert all(isinstance(value, str) for value in environment.values()), "YAML makes other values of some texts"
    described = {key: value for key, value in DESCRIBED["grafana"].environment.items() if "PATHS" not in key}
    assert environment == {**environment, **described}
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert not [key for key in environment if "PASSWORD" in key]


def test_both_have_no_capabilities_and_write_only_to_their_volumes() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert [mount.partition(":")[0] for mount in short_mounts(service) if not mount.endswith(":ro")] == [name]
    assert list(COMPOSE["volumes"]) == list(COMPOSE["services"])


def short_mounts(service: Any) -> list[str]:
    return [mount for mount in service["volumes"] if isinstance(mount, str)]


def test_every_file_that_is_mounted_exists() -> None:
    sources = [mount.partition(":")[0] for service in (PROMETHEUS, GRAFANA) for mount in short_mounts(service)]
    relative = [source for source in sources if source.startswith("./")]
    assert len(relative) == 4
    assert [source for source in relative if not (DEPLOY / source).exists()] == []


def test_prometheus_finds_its_configuration_and_the_targets_beside_it() -> None:
    configured = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    targets = {mount.split(":")[1] for mount in short_mounts(PROMETHEUS)}
    (bound,) = [mount for mount in PROMETHEUS["volumes"] if isinstance(mount, dict)]
    assert {"/etc/prometheus/prometheus.yml", "/etc/prometheus/rules"} <= targets
    assert "--config.file=/etc/prometheus/prometheus.yml" in PROMETHEUS["command"]
    assert f"--storage.tsdb.retention.time={RETENTION}" in PROMETHEUS["command"]
    (files,) = [found["files"] for job in configured["scrape_configs"] for found in job["file_sd_configs"]]
    assert bound["target"] == f"/etc/prometheus/{Path(files[0]).parent}"
    assert bound["read_only"] is True
    assert bound["bind"] == {"create_host_path": False}


def test_grafana_finds_its_data_source_and_the_dashboards() -> None:
    mounts = dict(mount.split(":")[:2] for mount in short_mounts(GRAFANA))
    assert mounts["./grafana/dashboards"] == DASHBOARDS_PATH
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    home = GRAFANA["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in [f"{DASHBOARDS_PATH}/{dashboard.uid}.json" for dashboard in DASHBOARDS]


def test_compose_reads_it() -> None:
    command = [shutil.which("docker") or "docker", "compose", "-f", str(FILE), "config", "--quiet"]
    try:
        found = subprocess.run([*command[:2], "version"], capture_output=True, check=False)
    except OSError:
        pytest.skip("docker is not installed")
    if found.returncode:
        pytest.skip("docker has no compose")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
