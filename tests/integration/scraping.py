"""Somebody who scrapes runs: reads the files of targets, as Prometheus does, and keeps the last page of each."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

Series = dict[tuple[str, ...], float]
"""Name of the sample, then ``label=value`` in alphabetical order -> value."""


@dataclass(frozen=True)
class Target:
    """One entry of a file."""

    address: str
    labels: Mapping[str, str]


def targets_in(state: Path) -> list[Target]:
    """All targets of all files below ``$XDG_STATE_HOME``."""
    found = []
    for path in sorted((state / "fragmesh" / "targets").glob("*.json")):
        with suppress(FileNotFoundError):  # removed a moment ago
            for entry in json.loads(path.read_text()):
                found += [Target(address, entry["labels"]) for address in entry["targets"]]
    return found


def get(address: str, path: str = "/metrics") -> str:
    """A page.

    Raises:
        OSError, http.client.HTTPException: There is none.
    """
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    if response.status != 200:
        raise http.client.HTTPException(f"{response.status}: {text}")
    return text


def kinds_of(text: str) -> dict[str, str]:
    """The families of a page and their kinds; counters with what their names end in."""
    families = text_string_to_metric_families(text)
    return {family.name + "_total" * (family.type == "counter"): family.type for family in families}


def series_of(text: str) -> Series:
    """The samples of a page."""
    return {
        (sample.name, *sorted(f"{label}={value}" for label, value in sample.labels.items())): float(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@dataclass
class Scraper:
    """The last page of each target, by the number of the node; the orchestrator's under ``run``."""

    pages: dict[str, str]
    labels: dict[str, Mapping[str, str]]


@contextmanager
def scraping(state: Path, every_s: float = 0.05) -> Iterator[Scraper]:
    """Scrape all targets again and again, as long as the block lasts."""
    scraper, is_over = Scraper({}, {}), threading.Event()

    def scrape() -> None:
        while not is_over.wait(every_s):
            for target in targets_in(state):
                with suppress(OSError, http.client.HTTPException):
                    name = target.labels.get("node", "run")
                    scraper.pages[name], scraper.labels[name] = get(target.address), target.labels

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield scraper
    finally:
        is_over.set()
        thread.join()
