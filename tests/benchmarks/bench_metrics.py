"""Costs of metrics: what a message's books take, and what it takes to serve a node's page.

Usage: ``python -m tests.benchmarks.bench_metrics``. Processor time, the least of several attempts. Ten seconds.
"""

import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from node.core.counters import NodeCounters
from node.core.types import NodeId
from node.host.metrics_server import MetricsServer
from node.metrics import ACTIVITIES, BYTE_CLASSES, NODE_METRICS, HistogramReading, Metric, Readings
from node.runtime.accounting import Accounting
from node.runtime.message_books import MessageBooks, Outgoing
from node.transport.control_values import Phase
from tests.messages import Kind, make_message

ATTEMPTS = 7
NODES = 60
SCRAPES = 300

_SCRAPER = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], timeout=60)
for _ in range(int(sys.argv[2])):
    connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
    page = connection.getresponse().read()
    if sys.argv[3] == "new":
        connection.close()
print(len(page))
"""
"""Asks for pages, over one connection as Prometheus does, or over a new one each time."""


def least_s(work: Callable[[], object]) -> float:
    """Processor time of this process for some work, seconds."""
    took_s = []
    for _ in range(ATTEMPTS):
        begin_s = time.process_time()
        work()
        took_s.append(time.process_time() - begin_s)
    return min(took_s)


def message(count: int = 20_000, batch: int = 20) -> None:
    """Print what the books of a message cost, from its queueing to its averaging, without its records."""

    def keep_books() -> None:
        books = MessageBooks(Accounting(40, keep_messages=False), NodeCounters())
        one = make_message(Kind.MODEL, 0, np.zeros(10, dtype=np.float32))
        items = [(NodeId(1), one)] * batch
        for first in range(0, count, batch):
            books.queued(NodeId(0), items, first)
            deliveries = []
            for number in range(first, first + batch):
                transfer = Outgoing(NodeId(1), one.tag, one.body, number, 80)
                books.started(number, one, transfer)
                books.sent(number, transfer, number + 1_000_000)
                books.arrived(number)
                deliveries.append(books.delivered(NodeId(1), number, one, number))
            books.aggregated(deliveries, first + 10_000_000, 3)

    print(f"the books of a message at its sender and its receiver: {least_s(keep_books) / count * 1e6:.2f} us")


def values_of(metric: Metric) -> dict[tuple[str, ...], float | HistogramReading]:
    """Return as many values as a node of a run of sixty has, which tells nothing of single peers."""
    if metric.kind == "histogram":
        return {(): HistogramReading([3] * (len(metric.buckets) + 1), 12.345)}
    values = {
        (): [()],
        ("peer",): [],
        ("reason",): [],
        ("phase",): [(phase.value,) for phase in Phase],
        ("activity",): [(activity,) for activity in ACTIVITIES],
        ("class",): [(name,) for name in BYTE_CLASSES] if metric.name.endswith("bytes_total") else [("fragment",)],
    }.get(metric.labels, [("x",) * len(metric.labels)])
    return dict.fromkeys(values, 1234.5)


def page() -> None:
    """Print what serving a node's page costs, and what sixty of them do that are scraped every second."""
    readings: Readings = {name: values_of(metric) for name, metric in NODE_METRICS.items()}
    server = MetricsServer(NODE_METRICS, lambda: readings)
    address = server.start("127.0.0.1")
    for connection in ("kept", "new"):
        command = [sys.executable, "-c", _SCRAPER, address, str(SCRAPES), connection]
        cost_s = least_s(lambda command=command: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))  # type: ignore[misc]
        share = NODES * cost_s / SCRAPES
        print(
            f"a node's page, connection {connection}: {cost_s / SCRAPES * 1e3:.2f} ms;"
            f" {NODES} nodes every second: {share:.1%} of a core"
        )
    server.stop()


if __name__ == "__main__":
    message()
    page()
