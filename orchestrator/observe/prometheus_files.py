"""Files for Prometheus that a package has with it: the scrape configuration, recording rules and alerts.

``deploy/prometheus`` is the same folder. Paths in the configuration are relative to it, so that it works wherever the
files lie beside a folder ``targets``.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

CONFIGURATION: Final = "prometheus.yml"
"""Name of the scrape configuration."""


def prometheus_files() -> dict[str, bytes]:
    """Return all files: path -> content."""
    root = files("orchestrator.observe") / "prometheus"
    found: dict[str, bytes] = {}
    waiting: list[tuple[str, Traversable]] = [("", root)]
    while waiting:
        name, place = waiting.pop()
        if place.is_dir():
            waiting += [(f"{name}/{child.name}".lstrip("/"), child) for child in place.iterdir()]
        else:
            found[name] = place.read_bytes()
    return dict(sorted(found.items()))
