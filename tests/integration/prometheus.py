"""A real Prometheus for tests: on a loopback port of its own, over a data folder of its own, and ended by the test.

``tests/tools.sh prometheus`` installs it where it is missing.
"""

import json
import subprocess
import time
import urllib.error
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

from node.core.errors import ConfigError
from orchestrator.host.observers import DIRECT
from orchestrator.observe.installed import ProgramName, installed_program
from orchestrator.observe.prometheus_files import CONFIGURATION, prometheus_files
from tests.integration.started import free_ports
from tests.requirements import unavailable

NOTHING_SCRAPED: Final = "scrape_configs: []\n"

_READY_S: Final = 120.0
"""For what takes a second: its start, a query, its end."""


def needed_program(name: ProgramName) -> str:
    """Return where a program is; skip the test without it, or fail where ``prometheus`` is required."""
    try:
        return installed_program(name).path
    except ConfigError as error:
        unavailable("prometheus", str(error))


class Value(NamedTuple):
    """One series of an answer."""

    labels: Mapping[str, str]
    value: float
    time_s: float


class Prometheus:
    """A process of Prometheus, and its answers.

    Attributes:
        data: Its data folder, which may hold imported blocks before it starts.
        url: Its address.
    """

    def __init__(self, folder: Path, config: str = NOTHING_SCRAPED, *more: str) -> None:
        """Store what to start it with.

        Args:
            folder: A folder of its own.
            config: Its configuration.
            more: Further options of the command line.
        """
        self.data = folder / "data"
        self.url = ""
        self._folder = folder
        self._config = folder / "prometheus.yml"
        self._config.write_text(config)
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it on a free port, and wait until it answers queries."""
        program = needed_program("prometheus")
        end_s = time.monotonic() + _READY_S
        while True:
            port = free_ports(1)
            self.url = f"http://127.0.0.1:{port}"
            options = [f"--config.file={self._config}", f"--storage.tsdb.path={self.data}", *self._more]
            with (self._folder / "prometheus.log").open("ab") as log:
                self._process = subprocess.Popen(
                    [program, *options, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
                )
            while self._process.poll() is None:
                if self._is_ready():
                    return
                assert time.monotonic() < end_s, f"not ready: {self._log()}"
                time.sleep(0.05)
            # Another process may have taken the port meanwhile.
            assert "address already in use" in self._log(), self._log()

    def kill(self) -> None:
        """End it at once, as a crash of its host would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Let it end by itself, so that all that it scraped is on the disk."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_READY_S)
            self._process = None

    def query(self, expression: str, at_s: float | None = None) -> list[Value]:
        """Evaluate an expression at an instant, Unix time; None is now."""
        arguments = {"query": expression} | ({} if at_s is None else {"time": repr(at_s)})
        answer = self.get("query", **arguments)
        if answer["resultType"] == "scalar":
            time_s, value = answer["result"]
            return [Value({}, float(value), float(time_s))]
        return [Value(one["metric"], float(one["value"][1]), float(one["value"][0])) for one in answer["result"]]

    def query_range(
        self, expression: str, begin_s: float, end_s: float, step_s: float
    ) -> list[tuple[Mapping[str, str], list[tuple[float, float]]]]:
        """Evaluate an expression at equal distances: labels, and (time, value) of each series."""
        answer = self.get("query_range", query=expression, start=repr(begin_s), end=repr(end_s), step=repr(step_s))
        return [
            (one["metric"], [(float(time_s), float(value)) for time_s, value in one["values"]])
            for one in answer["result"]
        ]

    def get(self, what: str, **arguments: str) -> Any:
        """Ask its interface for something: the data of the answer.

        Raises:
            AssertionError: It is an error; the message is Prometheus'.
        """
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(arguments)}"
        try:
            with DIRECT.open(url, timeout=_READY_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{arguments}: {error.read().decode()}") from error

    def until(self, expression: str, what: str) -> list[Value]:
        """Wait until an expression has an answer, and return it."""
        end_s = time.monotonic() + _READY_S
        while not (found := self.query(expression)):
            assert time.monotonic() < end_s, f"waited in vain for {what}: {expression}"
            time.sleep(0.05)
        return found

    def __enter__(self) -> "Prometheus":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def _is_ready(self) -> bool:
        try:
            with DIRECT.open(f"{self.url}/-/ready", timeout=_READY_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _log(self) -> str:
        return (self._folder / "prometheus.log").read_text()[-2000:]


def import_openmetrics(file: Path, data: Path) -> None:
    """Make blocks of an exported run, as the documentation says."""
    done = subprocess.run(
        [needed_program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(file), str(data)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def write_prometheus_files(folder: Path) -> Path:
    """Write the files of the package into a folder, and return where the configuration is."""
    for name, content in prometheus_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / CONFIGURATION


@contextmanager
def scraping_prometheus(state: Path) -> Iterator[Prometheus]:
    """Run a Prometheus with the files that come with the package, and scrape the runs below ``$XDG_STATE_HOME``."""
    folder = state / "fragmesh"
    config = write_prometheus_files(folder)
    with Prometheus(folder, config.read_text()) as prometheus:
        yield prometheus


@contextmanager
def prometheus_with(folder: Path, *exported: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes nothing and has imported some files."""
    prometheus = Prometheus(folder)
    for file in exported:
        import_openmetrics(file, prometheus.data)
    with prometheus:
        yield prometheus
