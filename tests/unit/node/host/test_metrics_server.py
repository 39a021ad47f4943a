"""Pages of metrics: what is on them, and that nobody who asks can harm or hold up whoever serves them."""

import http.client
import math
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from node.host import metrics_server
from node.host.metrics_server import LastScrape, MetricsServer, NotReadableError, Scrapes, TableCollector, text_of
from node.metrics import LAST_SCRAPE_S, HistogramReading, Metric, Readings

TABLE = {
    metric.name: metric
    for metric in (
        Metric("fragmesh_steps_total", "counter", 'Steps\\of "x".'),
        Metric("fragmesh_sent_total", "counter", "Sent.", ("class", "peer")),
        Metric("fragmesh_loss", "gauge", "Loss."),
        Metric("fragmesh_age_seconds", "histogram", "Age.", (), (0.001, 0.5, 2.0)),
        Metric("fragmesh_silent", "gauge", "Nothing yet.", ("peer",)),
    )
}
READINGS: Readings = {
    "fragmesh_steps_total": {(): 2**60 + 1},
    "fragmesh_sent_total": {("a", "1"): 3, ('quo"te\\', "line\nbreak"): 4.5},
    "fragmesh_loss": {(): math.nan},
    "fragmesh_age_seconds": {(): HistogramReading([1, 0, 2, 3], 12.5)},
}


class Served:
    """A server whose values a test may change."""

    def __init__(self) -> None:
        self.readings: Readings | NotReadableError = READINGS
        self.server = MetricsServer(TABLE, self._read)
        host, port = self.server.start("127.0.0.1").split(":")
        self.address = (host, int(port))

    def _read(self) -> Readings:
        if isinstance(self.readings, NotReadableError):
            raise self.readings
        return self.readings

    def get(self, path: str = "/metrics") -> tuple[int, str]:
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


@pytest.fixture
def served() -> Iterator[Served]:
    found = Served()
    yield found
    found.server.stop()


def families_of(text: str) -> dict[str, object]:
    return {
        family.name: (
            family.type,
            family.documentation,
            {(s.name, *sorted(s.labels.items())): float(s.value) for s in family.samples},
        )
        for family in text_string_to_metric_families(text)
    }


def test_a_page_has_every_family_of_the_table_and_no_other(served: Served) -> None:
    status, text = served.get()
    assert status == 200
    found = families_of(text)
    assert {*found} == {name.removesuffix("_total") for name in TABLE}
    kind, _, samples = found["fragmesh_age_seconds"]  # type: ignore[misc]
    assert kind == "histogram"
    buckets = {dict(labels)["le"]: value for (name, *labels), value in samples.items() if name.endswith("_bucket")}
    assert buckets == {"0.001": 1, "0.5": 1, "2.0": 3, "+Inf": 6}
    assert "fragmesh_age_seconds_sum 12.5\n" in text
    assert "fragmesh_age_seconds_count 6\n" in text
    assert f"fragmesh_steps_total {2**60 + 1}\n" in text  # to the digit


def test_the_page_says_what_the_library_would_say() -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(TableCollector(TABLE, lambda: READINGS))
    own, library = text_of(registry.collect()).decode(), generate_latest(registry).decode()
    assert str(families_of(own)) == str(families_of(library))  # as texts: no number equals itself


def test_values_of_a_family_that_is_not_in_the_table_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="fragmesh_other"):
        list(TableCollector(TABLE, lambda: {"fragmesh_other": {(): 1}}).collect())


def test_values_that_cannot_be_read_are_no_page_and_later_ones_are(served: Served) -> None:
    served.readings = NotReadableError("not now")
    assert served.get() == (503, "not now\n")
    assert not served.server.scrapes.seen_since(-math.inf)
    served.readings = READINGS
    assert served.get()[0] == 200
    assert served.get("/other")[0] == 404
    assert served.server.scrapes.seen_since(-math.inf)


def test_clients_that_hang_or_talk_nonsense_hold_nobody_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = [socket.create_connection(served.address) for _ in range(20)]
    for index, client in enumerate(hanging):
        client.sendall(
            [b"", b"GET /metrics HT", b"\x16\x03\x01\x02nonsense\r\n\r\n", b"GET /metrics HTTP/1.1\r\n"][index % 4]
        )
    gone = socket.create_connection(served.address)
    gone.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    gone.close()
    assert served.get()[0] == 200
    for client in hanging:
        client.close()


def test_a_client_that_falls_silent_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "SILENT_S", 0.05)
    served = Served()
    with socket.create_connection(served.address, timeout=60) as client:
        assert client.recv(1) == b""
    served.server.stop()


def test_a_byte_now_and_then_buys_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "SILENT_S", 0.5)
    served = Served()
    with socket.create_connection(served.address, timeout=60) as client, suppress(ConnectionError):
        while True:  # until it is hung up on
            client.sendall(b"G")
            time.sleep(0.05)
    served.server.stop()


def test_clients_beyond_the_bound_are_turned_away_and_come_in_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "CLIENTS_MAX", 3)
    crowded, asked = Served(), b"GET /metrics HTTP/1.1\r\n\r\n"
    inside = [socket.create_connection(crowded.address, timeout=60) for _ in range(3)]
    for client in inside:
        client.sendall(asked)
        assert client.recv(15) == b"HTTP/1.1 200 OK"
    with suppress(ConnectionError):  # reset, or an end without an answer
        assert answer_to(crowded, asked) == b""
    for client in inside:
        client.close()
    answered = False
    while not answered:  # until a thread has ended
        with suppress(ConnectionError, http.client.HTTPException):
            answered = crowded.get()[0] == 200
    crowded.server.stop()


def test_a_connection_may_stay(served: Served) -> None:
    connection = http.client.HTTPConnection(*served.address, timeout=60)
    for _ in range(3):
        connection.request("GET", "/metrics")
        assert connection.getresponse().read().startswith(b"# HELP")
    connection.close()


def answer_to(served: Served, request: bytes) -> bytes:
    """All that the server says until it hangs up."""
    with socket.create_connection(served.address, timeout=60) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65_536), b""))


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.0\r\n\r\n", b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n"]
)
def test_who_does_not_stay_is_hung_up_on_after_a_page(served: Served, request_: bytes) -> None:
    head, _, page = answer_to(served, request_).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(page)}".encode() in head
    assert page.endswith(b"\n")


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"HTTP/1.1 405 Method Not Allowed\r\n"),
        (b"GET /metrics\r\n\r\n", b""),
        (b"GET /metrics HTTP/2\r\n\r\n", b""),
        (b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000 + b"\r\n", b""),
    ],
)
def test_what_is_no_request_for_a_page_ends_the_connection(served: Served, request_: bytes, answer: bytes) -> None:
    try:
        assert answer_to(served, request_).startswith(answer)
    except ConnectionResetError:  # the rest of what was sent was not read
        assert not answer or request_.endswith(b"abc")
    assert served.get()[0] == 200


def test_a_port_that_is_taken_is_told(served: Served) -> None:
    with pytest.raises(OSError, match="in use"):
        MetricsServer(TABLE, lambda: READINGS).start(*served.address)


def test_nobody_is_served_after_the_end() -> None:
    served = Served()
    served.server.stop()
    served.server.stop()
    with pytest.raises(OSError):
        socket.create_connection(served.address, timeout=60).recv(1)


class FakeTime:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.scrapes = Scrapes(lambda: self.now_s)

    def scraped_at(self, *times_s: float) -> None:
        for self.now_s in times_s:
            self.scrapes.served(self.now_s)


def waits_until(time: FakeTime) -> float:
    """The time at which a last scrape that does not come is given up."""
    last = LastScrape(time)
    while not last.is_over:
        time.now_s += 0.125
    return time.now_s


def test_one_that_nobody_scrapes_does_not_wait() -> None:
    assert LastScrape(None).is_over
    time = FakeTime()
    assert waits_until(time) == 100


def test_two_intervals_are_waited_for_and_never_longer_than_the_bound() -> None:
    time = FakeTime()
    time.scraped_at(100, 102)
    assert waits_until(time) == 106
    time = FakeTime()
    time.scraped_at(100, 160)
    assert waits_until(time) == 160 + LAST_SCRAPE_S


def test_one_that_was_scraped_once_waits_for_the_bound_and_one_that_was_long_ago_for_nothing() -> None:
    time = FakeTime()
    time.scraped_at(100)
    assert waits_until(time) == 100 + LAST_SCRAPE_S
    time = FakeTime()
    time.scraped_at(100, 101)
    time.now_s = 110
    assert waits_until(time) == 110


def test_the_shortest_of_several_intervals_does_not_count() -> None:
    time = FakeTime()
    time.scraped_at(100, 102, 102.25)
    assert waits_until(time) == 106.25


def test_a_page_that_began_before_the_end_is_not_the_last_one() -> None:
    time = FakeTime()
    time.scraped_at(100, 102)
    time.now_s = 103
    last = LastScrape(time)
    time.scrapes.served(102.5)
    assert not last.is_over
    time.scrapes.served(103.5)
    assert last.is_over
