"""Metrics over HTTP: the one place that knows prometheus-client and serves a page.

Whoever has metrics gives a table and a function that reads the values of one instant. Families are made when somebody
asks, and nothing is kept between two pages. A server has a registry of its own, with nothing in it but that table.

Nobody who asks can harm the process: each client has a thread that ends with it, is cut off when it falls silent, and
waits for nothing else. A process may end while pages are under way.
"""

import logging
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from itertools import accumulate
from math import isfinite, isnan
from platform import python_version
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from node.host.addresses import host_and_port
from node.metrics import LAST_SCRAPE_S, HistogramReading, Metric, Readings

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

HEAD_BYTES_MAX: Final = 16 * 1024
"""Bound of a request's head."""

SILENT_S: Final = 10.0
"""A client that has not asked within so long, or takes nothing for so long, is cut off, seconds of real time."""

CLIENTS_MAX: Final = 64
"""Clients at a time; others are turned away."""

_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")

log = logging.getLogger(__name__)


class NotReadableError(Exception):
    """The values cannot be read now; whoever asked may ask again."""


def build_reading() -> Mapping[tuple[str, ...], float]:
    """Return the value of ``build_info``: the releases of Fragmesh, of Python and of torch."""
    return {(metadata.version("fragmesh"), python_version(), metadata.version("torch")): 1}


class _Labels(dict[str, str]):
    """Labels of a sample, and the same as a page has them: most are on every page."""

    __slots__ = ("text",)

    def __init__(self, names: Sequence[str], values: Sequence[str]) -> None:
        super().__init__(zip(names, values, strict=True))
        self.text = ",".join([f'{name}="{_escaped(value)}"' for name, value in self.items()])


class TableCollector(Collector):
    """Makes the families of a table: all of them, in its order, and no other.

    Args:
        table: The families, by name.
        read: Gives the values.

    State:
        _labels: Labels of each sample so far, by its family and their values; last those that the server adds.
    """

    def __init__(self, table: Mapping[str, Metric], read: Callable[[], Readings]) -> None:
        self._table = table
        self._read = read
        self._labels: dict[tuple[str, ...], list[_Labels]] = {}

    def collect(self) -> Iterator[Family]:
        """Read, and make the families.

        Raises:
            NotReadableError: The values cannot be read now.
        """
        readings = self._read()
        assert readings.keys() <= self._table.keys(), readings.keys() - self._table.keys()
        for name, metric in self._table.items():
            family = Family(name.removesuffix("_total"), metric.help, metric.kind)
            for values, reading in readings.get(name, {}).items():
                labels, *of_buckets = self._labels_of(metric, values)
                if isinstance(reading, HistogramReading):
                    counts = accumulate(reading.counts)
                    family.samples += [Sample(f"{name}_bucket", *one) for one in zip(of_buckets, counts, strict=True)]
                    family.samples.append(Sample(f"{name}_count", labels, sum(reading.counts)))
                    family.samples.append(Sample(f"{name}_sum", labels, reading.total))
                else:
                    family.samples.append(Sample(name, labels, reading))
            yield family

    def _labels_of(self, metric: Metric, values: tuple[str, ...]) -> list[_Labels]:
        """Return the labels of a sample, then those of its buckets."""
        found = self._labels.get((metric.name, *values))
        if found is None:
            bounds = [*map(str, metric.buckets), "+Inf"] if metric.kind == "histogram" else []
            found = [_Labels(metric.labels, values)]
            found += [_Labels((*metric.labels, "le"), (*values, bound)) for bound in bounds]
            self._labels[metric.name, *values] = found
        return found


def text_of(families: Iterable[Family]) -> bytes:
    """Write what a :class:`TableCollector` has made in Prometheus' text format.

    ``prometheus_client.generate_latest`` takes ten times as long, and sixty nodes that are scraped every second share
    one host.
    """
    lines: list[str] = []
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        text = family.documentation.replace("\\", r"\\")
        lines.append(f"# HELP {name} {text}\n# TYPE {name} {family.type}\n")
        for sample in family.samples:
            labels = sample.labels
            assert isinstance(labels, _Labels), "made by our collector"
            shown = f"{{{labels.text}}}" if labels else ""
            lines.append(f"{sample.name}{shown} {_number(sample.value)}\n")
    return "".join(lines).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return repr(value) if isfinite(value) else "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"


class Scrapes:
    """Instants at which pages were made, and how long somebody who asks for them is to be waited for.

    Args:
        now_s: Real time of any origin.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._last_s: float | None = None
        self._intervals_s: deque[float] = deque(maxlen=3)  # of several who ask, some are short

    def served(self, began_s: float) -> None:
        """A page whose making began at a time has been taken."""
        if self._last_s is not None:
            self._intervals_s.append(began_s - self._last_s)
        self._last_s = began_s

    def now_s(self) -> float:
        """Real time."""
        return self._now_s()

    def seen_since(self, time_s: float) -> bool:
        """Return whether a page that was made later has been taken."""
        return self._last_s is not None and self._last_s > time_s

    def expected_until_s(self) -> float:
        """Return until when a next scrape is to be waited for; in the past where nobody scrapes.

        That is two intervals after the last one, and :data:`LAST_SCRAPE_S` after it where there was only one.
        """
        if self._last_s is None:
            return self.now_s()
        wait_s = 2 * max(self._intervals_s) if self._intervals_s else LAST_SCRAPE_S
        return min(self._last_s + wait_s, self.now_s() + LAST_SCRAPE_S)


class Scraped(Protocol):
    """The use of a :class:`MetricsServer` by whoever waits for a last scrape; see there."""

    @property
    def scrapes(self) -> Scrapes: ...


class LastScrape:
    """The wait for a last scrape, which begins when it is made: the values change no more.

    Args:
        server: Whose pages; None where there are none, and nothing is waited for.
    """

    def __init__(self, server: Scraped | None) -> None:
        self._scrapes = None if server is None else server.scrapes
        self._since_s = 0.0 if self._scrapes is None else self._scrapes.now_s()
        self._until_s = 0.0 if self._scrapes is None else self._scrapes.expected_until_s()

    @property
    def is_over(self) -> bool:
        """True where nobody is to be waited for any more."""
        scrapes = self._scrapes
        return scrapes is None or scrapes.seen_since(self._since_s) or scrapes.now_s() >= self._until_s


class MetricsServer:
    """Serves one table of metrics.

    Args:
        table: The families.
        read: Gives the values; called in threads of the server, several at a time. Raises :class:`NotReadableError`
            where that is not possible.

    Attributes:
        scrapes: When somebody has taken a page.
    """

    def __init__(self, table: Mapping[str, Metric], read: Callable[[], Readings]) -> None:
        self.scrapes = Scrapes()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(TableCollector(table, read))
        self._server: _PageServer | None = None

    def start(self, host: str, port: int = 0) -> str:
        """Serve from now on, in threads of its own, until :meth:`stop` or the end of the process.

        Args:
            host: The address to listen on.
            port: 0 is any that is free.

        Returns:
            Where, host:port.

        Raises:
            OSError: It cannot be bound.
        """
        self._server = _PageServer(host, port, self._page, self.scrapes)
        threading.Thread(target=self._server.serve, name="metrics", daemon=True).start()
        return host_and_port(host, int(self._server.server_address[1]))

    def stop(self) -> None:
        """Take no more clients. Pages under way are finished; nobody waits for them."""
        if self._server is not None:
            self._server.leave()
            self._server = None

    def _page(self) -> bytes:
        return text_of(self._registry.collect())


class _PageServer(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, page: Callable[[], bytes], scrapes: Scrapes) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.page = page
        self.scrapes = scrapes
        self._leaves = False
        self._free = threading.Semaphore(CLIENTS_MAX)
        super().__init__((host, port), _PageHandler)

    def serve(self) -> None:
        """Take clients until :meth:`leave`. Not serve_forever, which wakes up twice a second."""
        while not self._leaves:
            try:
                request, client = self.get_request()
                if self._free.acquire(blocking=False):
                    self.process_request(request, client)
                else:
                    self.shutdown_request(request)
            except (OSError, RuntimeError) as error:  # such as no descriptor or no thread that is left
                if not self._leaves:
                    log.warning("metrics: a client was not served: %s", error)
                    time.sleep(1.0)
        self.server_close()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def leave(self) -> None:
        self._leaves = True
        self.socket.shutdown(socket.SHUT_RDWR)  # which ends the wait for a client

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("metrics: client %s", client_address, exc_info=True)


class _PageHandler(StreamRequestHandler):
    """One client, which may ask for several pages. Reads just enough of HTTP: http.server takes as long as the page."""

    timeout = SILENT_S
    _read = b""  # and not yet understood
    wbufsize = -1  # headers and page leave together
    server: _PageServer

    def handle(self) -> None:
        while (asked := self._read_request()) is not None:
            method, path, version, fields = asked
            stays = version == "HTTP/1.1" and fields.get("connection", "").lower() != "close"
            if method != "GET":
                self._answer("405 Method Not Allowed", b"there is nothing to do but GET\n")
            elif path.partition("?")[0] not in ("/", "/metrics"):
                self._answer("404 Not Found", b"metrics are at /metrics\n")
            else:
                self._answer_with_page()
            if method != "GET" or not stays:  # what follows another method is not read
                return

    def _read_request(self) -> tuple[str, str, str, dict[str, str]] | None:
        """Read a request's head; None where there is none, or none that can be understood."""
        first, *lines = self._head().splitlines() or [""]
        words = first.split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return None
        named = [line.partition(":") for line in lines]
        return words[0], words[1], words[2], {name.strip().lower(): value.strip() for name, _, value in named}

    def _head(self) -> str:
        """Read up to an empty line; empty where that does not come in time. A byte now and then does not buy time."""
        until_s = time.monotonic() + SILENT_S
        while not (end := _END_OF_HEAD.search(self._read)):
            left_s = until_s - time.monotonic()
            if left_s <= 0 or len(self._read) > HEAD_BYTES_MAX:
                return ""
            self.connection.settimeout(left_s)
            received = self.connection.recv(HEAD_BYTES_MAX)
            if not received:
                return ""
            self._read += received
        head, self._read = self._read[: end.start()], self._read[end.end() :]
        self.connection.settimeout(SILENT_S)
        return head.decode("latin-1")

    def _answer_with_page(self) -> None:
        began_s = self.server.scrapes.now_s()
        try:
            page = self.server.page()
        except NotReadableError as error:
            self._answer("503 Service Unavailable", f"{error}\n".encode())
            return
        self._answer("200 OK", page)
        self.server.scrapes.served(began_s)

    def _answer(self, status: str, body: bytes) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)
        self.wfile.flush()
