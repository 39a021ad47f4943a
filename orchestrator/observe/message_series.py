"""Counts of what happened to a run's messages up to each instant, from ``messages.parquet``. Pure.

Each event is counted at the first instant that is not before it, for all nodes and classes at once: a million messages
take a few passes of numpy.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from node.core.message_log import NEVER
from node.core.messages import MessageState
from node.core.units import NS_PER_S
from node.metrics import BYTE_CLASSES, NODE_METRICS, PREFIX, Metric
from orchestrator.observe.openmetrics import AnyTrack, Family, HistogramTrack, Track
from orchestrator.observe.sampled_run import Sampling
from orchestrator.results.schema import Column

Mask = npt.NDArray[np.bool_]

MESSAGE_FAMILIES: Final = (
    *("messages_queued_total", "messages_sent_total", "messages_delivered_total", "messages_aggregated_total"),
    *("messages_cancelled_total", "messages_aborted_total", "messages_lost_total"),
    *("sent_bytes_total", "received_bytes_total", "lost_bytes_total"),
    *("outbox_messages", "transfer_seconds", "staleness_rounds", "age_seconds"),
)
"""Families, without their prefix, that come from the table of messages."""


@dataclass(frozen=True, eq=False)
class _Events:
    """Something that happens to messages.

    Attributes:
        of: The column with the node to which it counts.
        at_ns: When, for each message.
        where: To which messages it happens.
    """

    of: str
    at_ns: Column
    where: Mask


def message_families(sampling: Sampling, messages: Mapping[str, Column]) -> Iterator[Family]:
    """Yield all families that the table of messages tells of.

    Bytes are left out where the table is that of an older version, which does not tell what left of each message.
    """
    counter = _MessageCounter(sampling, messages)
    events = _events(messages)
    for fate in ("queued", "sent", "delivered", "aggregated", "cancelled", "aborted", "lost"):
        yield _metric(f"messages_{fate}_total"), counter.by_tag(events[fate])
    if "resent_bytes" in messages:
        yield from _byte_families(sampling, messages, counter, events)
    yield _metric("outbox_messages"), counter.outbox(events)
    yield from _histograms(counter, messages, events)


def _metric(name: str) -> Metric:
    return NODE_METRICS[PREFIX + name]


def _events(messages: Mapping[str, Column]) -> dict[str, _Events]:
    """Return what happens to messages, by the names of the counters."""
    state, started, sent = messages["state"], messages["started_ns"], messages["sent_ns"]
    cancelled_ns, lost = messages["cancelled_ns"], state == MessageState.LOST
    return {
        "queued": _Events("sender", messages["queued_ns"], np.ones(len(state), dtype=bool)),
        "started": _Events("sender", started, started != NEVER),
        "sent": _Events("sender", sent, sent != NEVER),
        "delivered": _Events("receiver", messages["delivered_ns"], messages["delivered_ns"] != NEVER),
        "aggregated": _Events("receiver", messages["aggregated_ns"], messages["aggregated_ns"] != NEVER),
        "cancelled": _Events("sender", cancelled_ns, state == MessageState.CANCELLED),
        "aborted": _Events("sender", cancelled_ns, state == MessageState.ABORTED),
        # Nobody records when a message was lost: it counts from when it left, or could not leave.
        "lost": _Events("sender", np.maximum(sent, started), lost),
    }


def _byte_families(
    sampling: Sampling, messages: Mapping[str, Column], counter: "_MessageCounter", events: Mapping[str, _Events]
) -> Iterator[Family]:
    wire, payload, resent = messages["wire_bytes"], messages["payload_bytes"], messages["resent_bytes"]
    has_values = payload > 0
    sizes = {
        "payload": payload,
        "metadata": np.where(has_values, wire - payload - resent, 0),
        "control": np.where(has_values, 0, wire - resent),
        "retransmitted": resent,
        "wasted": wire,
    }
    counted = {
        name: counter.counted(events["aborted" if name == "wasted" else "sent"], sizes[name]) for name in BYTE_CLASSES
    }
    yield (
        _metric("sent_bytes_total"),
        (
            Track(sampling.of_node(node, **{"class": name}), counted[name][node])
            for node in range(sampling.num_nodes)
            for name in BYTE_CLASSES
        ),
    )
    # Real nodes count what they receive without packets that came twice.
    received = wire if sampling.run.facts.runtime == "simulation" else wire - resent
    yield _metric("received_bytes_total"), counter.of_nodes(counter.counted(events["delivered"], received))
    yield _metric("lost_bytes_total"), counter.of_nodes(counter.counted(events["lost"], wire))


def _histograms(
    counter: "_MessageCounter", messages: Mapping[str, Column], events: Mapping[str, _Events]
) -> Iterator[Family]:
    spans = {
        "transfer_seconds": ("sent", messages["sent_ns"] - messages["started_ns"]),
        "age_seconds": ("aggregated", messages["aggregated_ns"] - messages["delivered_ns"]),
    }
    for name, (event, values_ns) in spans.items():
        yield _metric(name), counter.histograms(events[event], values_ns, _metric(name).buckets, NS_PER_S)
    rounds = _metric("staleness_rounds")
    yield rounds, counter.histograms(events["aggregated"], messages["staleness"], rounds.buckets, 1)


class _MessageCounter:
    """Counts events of all nodes up to each instant."""

    def __init__(self, sampling: Sampling, messages: Mapping[str, Column]) -> None:
        self._sampling = sampling
        self._nodes = {name: np.asarray(messages[name], dtype=np.int64) for name in ("sender", "receiver")}
        known, kinds = sampling.run.facts.message_tags, np.asarray(messages["kind"], dtype=np.int64)
        codes = np.union1d(kinds, list(known)).astype(np.int64)  # those of which there was none as well, as nodes do
        self._tag_of = np.searchsorted(codes, kinds)
        self._tags = [known.get(code, str(code)) for code in codes.tolist()]

    def counted(self, events: _Events, sizes: Column | None = None) -> Column:
        """Return how many events there were of each node, or the sum of their sizes: shape (nodes, instants)."""
        where = events.where
        weights = None if sizes is None else sizes[where]
        return self._cumulated(events.at_ns[where], self._nodes[events.of][where], self._sampling.num_nodes, weights)

    def of_nodes(self, counts: Column) -> Iterator[AnyTrack]:
        """Yield one track a node, without labels of its own."""
        for node, values in enumerate(counts):
            yield Track(self._sampling.of_node(node), values)

    def by_tag(self, events: _Events) -> Iterator[AnyTrack]:
        """Yield one track for each node and tag that the run has."""
        where, tags = events.where, len(self._tags)
        keys = self._nodes[events.of][where] * tags + self._tag_of[where]
        counts = self._cumulated(events.at_ns[where], keys, self._sampling.num_nodes * tags)
        for key, values in enumerate(counts):
            node, tag = divmod(key, tags)
            yield Track(self._sampling.of_node(node, **{"class": self._tags[tag]}), values)

    def outbox(self, events: Mapping[str, _Events]) -> Iterator[AnyTrack]:
        """Yield how many messages wait at each node."""
        counts = [self.counted(events[name]) for name in ("queued", "started", "cancelled")]
        yield from self.of_nodes(counts[0] - counts[1] - counts[2])

    def histograms(self, events: _Events, values: Column, bounds: tuple[float, ...], units: int) -> Iterator[AnyTrack]:
        """Yield one histogram a node.

        Args:
            events: What is counted.
            values: The value of each message, in whole small units.
            bounds: Upper bounds of the buckets, in the metric's unit.
            units: Small units in one of the metric's.
        """
        where, buckets = events.where, len(bounds) + 1
        whole_bounds = np.rint(np.array(bounds) * units).astype(np.int64)
        bucket = np.searchsorted(whole_bounds, values[where])
        keys = self._nodes[events.of][where] * buckets + bucket
        counts = self._cumulated(events.at_ns[where], keys, self._sampling.num_nodes * buckets)
        totals = self.counted(events, values) / units
        for node, total in enumerate(totals):
            own = counts[node * buckets : (node + 1) * buckets]
            yield HistogramTrack(self._sampling.of_node(node), own, total)

    def _cumulated(self, at_ns: Column, keys: Column, num_keys: int, weights: Column | None = None) -> Column:
        """Return the number of events with each key up to each instant, or the sum of weights: int64."""
        instants = self._sampling.instants_ns
        bins = len(instants) + 1  # the last one for what happens later
        places = keys * bins + np.searchsorted(instants, at_ns)
        found = np.bincount(places, weights, minlength=num_keys * bins).reshape(num_keys, bins)[:, :-1]
        return np.cumsum(found, axis=1).astype(np.int64)
