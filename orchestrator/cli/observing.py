"""``--observe`` of ``fragmesh run`` and ``down``: Prometheus and Grafana beside runs."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from node.core.errors import ConfigError
from orchestrator.cli.printing import err

if TYPE_CHECKING:
    from orchestrator.host.observers import Carrier, Provider

PROMETHEUS_PORT = 9090
GRAFANA_PORT = 3000

Observe = Annotated[
    bool, typer.Option("--observe", help="Bring up Prometheus and Grafana beside the run, and leave them there.")
]
ObserveWith = Annotated[
    Literal["containers", "installed"] | None,
    typer.Option(help="How to bring them up. [default: containers for docker, else installed]"),
]
PrometheusPort = Annotated[int, typer.Option(min=1, max=65535, help="Where Prometheus listens, of 127.0.0.1.")]
GrafanaPort = Annotated[int, typer.Option(min=1, max=65535, help="Where Grafana listens, of 127.0.0.1.")]


@dataclass(frozen=True)
class Observation:
    """Wish for Prometheus and Grafana.

    Attributes:
        provider: How they are brought up; None leaves it to the runtime.
        prometheus_port: Where Prometheus listens.
        grafana_port: Where Grafana listens.
    """

    provider: "Provider | None"
    prometheus_port: int
    grafana_port: int

    @classmethod
    def asked_for(
        cls, observe: bool, provider: "Provider | None", prometheus_port: int, grafana_port: int
    ) -> "Observation | None":
        """Return the wish; None where there is none, and options that then mean nothing are refused."""
        if observe:
            return cls(provider, prometheus_port, grafana_port)
        given = {
            f"--observe-with={provider}": provider is not None,
            f"--prometheus-port={prometheus_port}": prometheus_port != PROMETHEUS_PORT,
            f"--grafana-port={grafana_port}": grafana_port != GRAFANA_PORT,
        }
        if refused := [option for option, is_given in given.items() if is_given]:
            raise ConfigError(f"{refused[0]}: must be with --observe")
        return None

    def check(self, plan: Any) -> None:
        """Refuse an experiment that nobody could look at while it runs."""
        if plan.config.runtime == "simulation":
            raise ConfigError(
                "--observe: a simulation serves no metrics; afterwards: fragmesh export --openmetrics RUN"
            )
        if not plan.config.observe.metrics:
            raise ConfigError("--observe: must be without observe.metrics=false")

    def bring_up(self, runtime: str) -> str | None:
        """Bring both up, say where they are, and return the address of Grafana; None where it is not installed."""
        from orchestrator.host.observers import Observers, grafana_command
        from orchestrator.observe.installed import installed_program
        from orchestrator.observe.prometheus_files import prometheus_files
        from orchestrator.observe.services import grafana_service, prometheus_service

        # Step 1: what there is to start. A program that is missing ends it here, before anything runs.
        provider = self.provider or ("containers" if runtime == "docker" else "installed")
        is_installed = provider == "installed"
        observers = Observers()
        program = installed_program("prometheus").path if is_installed else "prometheus"
        prometheus = prometheus_service(observers.root, self.prometheus_port, prometheus_files(), program)
        services = [prometheus]
        command = grafana_command() if is_installed else ("grafana",)
        if command is not None:
            services.append(grafana_service(observers.root, self.grafana_port, prometheus.url, command))
        # Step 2: start what does not run yet.
        with _carrier(provider) as carrier:
            observers.bring_up(services, carrier, lambda line: err.print(escape(line)))
        # Step 3: tell where they are.
        for service in services:
            err.print(f"{service.name}: {service.url}")
        if command is None:
            err.print(
                escape(
                    "grafana: is not installed; its dashboards and data source for one that is: "
                    "deploy/grafana of the sources; or --observe-with=containers"
                )
            )
        err.print("they stay when the run is over; fragmesh down --observe ends them")
        return services[1].url if len(services) > 1 else None


def take_down_observers() -> list[str]:
    """End what ``--observe`` brought up; return a line for each."""
    from orchestrator.host.observers import Observers, Provider

    observers = Observers()
    lines = []
    for one in observers.running():
        provider: Provider = one.provider
        with _carrier(provider) as carrier:
            observers.take_down(one, carrier)
        lines.append(f"removed: {one.name} at port {one.port}; what it stored is kept in {observers.root / 'observe'}")
    return lines


@contextmanager
def _carrier(provider: "Provider") -> "Iterator[Carrier]":
    from orchestrator.host.observers import InstalledPrograms, Observers, PinnedContainers

    if provider == "installed":
        yield InstalledPrograms()
        return
    from orchestrator.containers.engine import connect

    with closing(connect()) as engine:
        yield PinnedContainers(engine, Observers().root)
