"""Prometheus and Grafana beside runs: what each is started with, as values. Pure.

Both listen on the loopback device only, and nobody has to log in: whoever can reach them there may look, and nobody can
change anything. All their files lie below the testbed's state folder, at the same path in a container as outside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from orchestrator.observe.dashboards.rendering import grafana_files

ServiceName: TypeAlias = Literal["prometheus", "grafana"]

HOST: Final = "127.0.0.1"

PROMETHEUS_IMAGE: Final = "prom/prometheus:v3.5.0"
GRAFANA_IMAGE: Final = "grafana/grafana:12.3.1"
"""Both by tag, so that an image that was loaded by hand is found; ``deploy/compose.yaml`` has their digests besides."""

RETENTION: Final = "200y"
"""For how long Prometheus keeps what it has; its own 15 days would delete runs that somebody wants to compare."""


@dataclass(frozen=True, slots=True)
class Service:
    """One of the two, as it is to be started.

    Attributes:
        name: Which.
        port: Where it listens on the loopback device.
        ready_path: Path of a page that answers with 200 once it can be used.
        folder: Its own folder, the only one that it writes to.
        image: Image of its container.
        command: Its program and arguments where it is installed.
        arguments: Arguments in its container.
        environment: Settings.
        files: What it reads, by absolute path.
    """

    name: ServiceName
    port: int
    ready_path: str
    folder: Path
    image: str
    command: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    files: Mapping[Path, bytes]

    @property
    def url(self) -> str:
        """Its address, for people."""
        return f"http://{HOST}:{self.port}"


def prometheus_service(root: Path, port: int, files: Mapping[str, bytes], program: str = "prometheus") -> Service:
    """Describe Prometheus.

    Args:
        root: The testbed's state folder, in which the folder ``targets`` is.
        port: Where it is to listen.
        files: Configuration and rules, by path below the state folder.
        program: Path of the program where it is installed.
    """
    folder = root / "observe" / "prometheus"
    arguments = (
        f"--config.file={root / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--storage.tsdb.retention.time={RETENTION}",
        f"--web.listen-address={HOST}:{port}",
    )
    return Service(
        name="prometheus",
        port=port,
        ready_path="/-/ready",
        folder=folder,
        image=PROMETHEUS_IMAGE,
        command=(program, *arguments),
        arguments=arguments,
        environment={},
        files={root / name: content for name, content in files.items()},
    )


def grafana_service(root: Path, port: int, prometheus_url: str, command: tuple[str, ...] = ("grafana",)) -> Service:
    """Describe Grafana with its data source and all dashboards; arguments as of :func:`prometheus_service`."""
    folder = root / "observe" / "grafana"
    files = grafana_files(prometheus_url, str(root / "grafana" / "dashboards"))
    return Service(
        name="grafana",
        port=port,
        ready_path="/api/health",
        folder=folder,
        image=GRAFANA_IMAGE,
        command=command,
        arguments=(),
        environment={
            "GF_SERVER_HTTP_ADDR": HOST,
            "GF_SERVER_HTTP_PORT": str(port),
            "GF_AUTH_ANONYMOUS_ENABLED": "true",
            "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
            "GF_AUTH_DISABLE_LOGIN_FORM": "true",
            "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
            "GF_PATHS_DATA": str(folder / "data"),
            "GF_PATHS_LOGS": str(folder / "logs"),
            "GF_PATHS_PLUGINS": str(folder / "plugins"),
            "GF_PATHS_PROVISIONING": str(root / "grafana" / "provisioning"),
        },
        files={root / "grafana" / name: text.encode() for name, text in files.items()},
    )
