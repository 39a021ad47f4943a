"""The metrics of a node as values, read from what it counts anyway. Called in the node's loop, so that they agree."""

from collections.abc import Mapping
from typing import Final

from node.config import NodeConfig
from node.core.algorithm import Algorithm
from node.core.counters import NodeCounters, sum_counters
from node.core.messages import tag_name
from node.core.time_budget import TIME_FIGURES
from node.core.units import NS_PER_S, ns_to_s
from node.host.metrics_server import build_reading
from node.metrics import PREFIX, SECONDS, HistogramReading, Readings
from node.runtime.driver import Driver
from node.runtime.message_books import BucketCounts
from node.runtime.peers import Peers
from node.runtime.status import SelfReport
from node.transport.control_values import Phase

_FIGURES: Final = {
    "rounds_total": "rounds",
    "local_steps_total": "local_steps",
    "received_bytes_total": "bytes_received",
    "lost_bytes_total": "bytes_lost",
    "values_saturated_total": "values_saturated",
    "outbox_messages": "queued_messages",
    "in_flight_bytes_max": "in_flight_bytes_max",
    "in_flight_bytes_bound": "in_flight_bytes_bound",
    "overruns_total": "overruns",
}
"""Families that are a figure of the node as it is."""

_SECONDS: Final = {
    "overrun_seconds_total": "overrun_ns",
    "declared_seconds_total": "declared_ns",
    "cpu_seconds_total": "cpu_ns",
}
"""Families that are a figure in seconds."""


class NodeReadings:
    """Reads the metrics of one node.

    Args:
        config: The node.
        algorithm: Its algorithm, which names its messages.
        driver, peers, report: Its parts, which know the values.
    """

    def __init__(
        self, config: NodeConfig, algorithm: Algorithm, driver: Driver, peers: Peers, report: SelfReport
    ) -> None:
        self._config = config
        self._tags = {tag.value: tag_name(tag) for tag in algorithm.carries}
        self._neighbors = algorithm.context.neighbors
        self._driver = driver
        self._peers = peers
        self._report = report
        self._build = build_reading()

    def at(self, phase: Phase, time_ns: int) -> Readings:
        """Read all values as they are now; ``time_ns`` is testbed time, negative before the start."""
        counters = self._report.counters(time_ns)
        until_ns = self._driver.time_spent.until_ns  # after the end: until then
        readings: dict[str, Mapping[tuple[str, ...], float | HistogramReading]] = {
            "node_phase": {(each.value,): float(each is phase) for each in Phase},
            "node_clock_seconds": {(): ns_to_s(time_ns if until_ns is None else until_ns)},
            "node_lives": {(): self._config.beginning.life + 1},
            "node_unreachable_peers": {(): len(self._peers.client.unreachable)},
            **{name: {(): getattr(counters, figure)} for name, figure in _FIGURES.items()},
            **{name: {(): ns_to_s(getattr(counters, figure))} for name, figure in _SECONDS.items()},
            **self._times(counters),
            **self._messages(counters),
            **self._histograms(),
            "in_flight_bytes": {(): self._peers.path.window.bytes},
            "build_info": self._build,
        }
        if counters.rounds > self._config.beginning.rounds:  # else there is no loss yet
            readings["train_loss"] = {(): counters.train_loss}
        return {PREFIX + name: values for name, values in readings.items()}

    def _times(self, counters: NodeCounters) -> dict[str, Mapping[tuple[str, ...], float]]:
        found: dict[str, Mapping[tuple[str, ...], float]] = {
            "activity_seconds_total": {
                (activity,): ns_to_s(getattr(counters, figure)) for activity, figure in TIME_FIGURES.items()
            }
        }
        if self._config.peer_labels:
            waited_ns = self._driver.time_spent.waited_ns
            found["waiting_seconds_total"] = {(str(peer),): ns_to_s(waited_ns.get(peer, 0)) for peer in self._neighbors}
        return found

    def _messages(self, counters: NodeCounters) -> dict[str, Mapping[tuple[str, ...], float]]:
        by_fate = self._driver.books.by_fate.items()
        sent_bytes = sum_counters([counters], self._config.network.header_bytes).bytes
        return {
            **{
                f"messages_{fate}_total": {(name,): counts[tag] for tag, name in self._tags.items()}
                for fate, counts in by_fate
            },
            "messages_rejected_total": {(reason,): times for reason, times in self._report.rejected().items()},
            "sent_bytes_total": {(name,): count for name, count in sent_bytes.items()},
        }

    def _histograms(self) -> dict[str, Mapping[tuple[str, ...], HistogramReading]]:
        books, lateness = self._driver.books, self._peers.server.lateness
        dilation = self._config.emulator_clock.dilation
        late = lateness.within([bound * NS_PER_S * dilation for bound in SECONDS])
        return {
            "local_steps_seconds": {(): _in_seconds(self._driver.steps_ns)},
            "transfer_seconds": {(): _in_seconds(books.transfer_ns)},
            "age_seconds": {(): _in_seconds(books.waited_ns)},
            "staleness_rounds": {(): HistogramReading([*books.staleness.counts], books.staleness.total)},
            "arrival_lateness_seconds": {(): HistogramReading(late, lateness.total / NS_PER_S / dilation)},
        }


def _in_seconds(histogram: BucketCounts) -> HistogramReading:
    return HistogramReading([*histogram.counts], ns_to_s(histogram.total))
