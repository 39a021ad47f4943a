"""The table of Prometheus metrics: name, kind, unit, labels and help of everything that nodes and orchestrators show.

Pure: nothing here counts, serves or reads a clock, and prometheus-client does not enter. A node fills
:data:`NODE_METRICS` when it is scraped, the orchestrator fills :data:`RUN_METRICS`, and an exported run has the same
names with the times of its own clock. Rules, alerts and dashboards are checked against this table.

Names follow Prometheus: the prefix ``fragmesh_``, base units, counters end in ``_total``. Durations are testbed time,
as everywhere in results, unless the help says real time. The labels ``run``, ``node`` and ``group`` (``fast`` or
``straggler``) come with the target; ``node`` and ``group`` stand in the table where the orchestrator tells of nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

PREFIX: Final = "fragmesh_"

LAST_SCRAPE_S: Final = 10.0
"""The longest wait of somebody who leaves for a last scrape, real time."""

MetricKind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of metrics.

    Attributes:
        name: Its name, without what a kind adds (``_bucket``, ``_sum``, ``_count``); a counter's ends in ``_total``.
        kind: How its values move. A counter only grows, from 0 at the node's or the orchestrator's start.
        help: One sentence for people.
        labels: Labels besides those of the target, in order.
        buckets: Upper bounds of a histogram's buckets, increasing, without the infinite one.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class HistogramReading:
    """State of a histogram.

    Attributes:
        counts: How many values are in each bucket, not cumulated, and last those beyond all bounds.
        total: Sum of the values.
    """

    counts: Sequence[int]
    total: float


Readings: TypeAlias = Mapping[str, Mapping[tuple[str, ...], float | HistogramReading]]
"""Values at one instant: name of the family -> values of its labels, in their order -> value.

A family that is left out, or that has no values, has nothing to tell yet.
"""

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Bucket bounds for durations: from a short message on a fast link to a model on a straggler's."""

ROUNDS: Final = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0, 89.0)
"""Bucket bounds for staleness."""

ACTIVITIES: Final = ("computing", "waiting", "sending", "idle", "paused", "down")
"""Values of the label ``activity``; ``node/core/time_budget.py`` says what they are."""

BYTE_CLASSES: Final = ("payload", "metadata", "control", "retransmitted", "wasted")
"""Values of the label ``class`` of bytes, as in ``summary.json``; that of messages is their tag, as ``fragment``."""


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"{PREFIX}{name}_total", "counter", help, labels)


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, "gauge", help, labels)


def _histogram(name: str, buckets: tuple[float, ...], help: str) -> Metric:
    return Metric(PREFIX + name, "histogram", help, (), buckets)


def _table(*metrics: Metric) -> Mapping[str, Metric]:
    assert len({metric.name for metric in metrics}) == len(metrics)
    return {metric.name: metric for metric in metrics}


NODE_METRICS: Final = _table(
    # Where the node stands.
    _gauge("node_phase", "1 for the phase of the node's life, 0 for the others.", "phase"),
    _gauge(
        "node_clock_seconds", "Testbed time of the node: negative before the start, and at its end that of the end."
    ),
    _gauge("node_lives", "How often the node has begun: 1, and one more for each return after a crash."),
    _gauge("node_unreachable_peers", "Peers that could not be reached at the last attempt."),
    # Training.
    _counter("rounds", "Rounds completed."),
    _counter("local_steps", "Local steps completed or under way."),
    _gauge("train_loss", "Mean training loss of the last round."),
    _histogram(
        "local_steps_seconds", SECONDS, "Time that the local steps of a round took, the declared pace included."
    ),
    # Where the time goes.
    _counter(
        "activity_seconds", "Time spent on each activity; the sum is the node's clock since its last crash.", "activity"
    ),
    _counter("waiting_seconds", "Time in which the node could not go on without this peer, among others.", "peer"),
    # Messages, by the tag of the algorithm's messages.
    _counter("messages_queued", "Messages that were put into the outbox.", "class"),
    _counter("messages_sent", "Messages whose last byte has left the node.", "class"),
    _counter("messages_delivered", "Messages that arrived and passed all checks.", "class"),
    _counter("messages_aggregated", "Messages received that were averaged in.", "class"),
    _counter("messages_cancelled", "Messages taken out of the outbox before they were sent.", "class"),
    _counter("messages_aborted", "Messages given up while they were transmitted.", "class"),
    _counter("messages_lost", "Messages sent that never reached their receiver.", "class"),
    _counter("messages_rejected", "Messages that arrived and were refused, by reason.", "reason"),
    # Bytes on the wire.
    _counter("sent_bytes", "Bytes that have left the node.", "class"),
    _counter("received_bytes", "Bytes of the messages that arrived."),
    _counter("lost_bytes", "Bytes of the messages that were lost."),
    _counter("values_saturated", "Values of messages queued that travel as the largest of the wire's type."),
    # Queues and transfers.
    _gauge("outbox_messages", "Messages in the outbox now."),
    _gauge("in_flight_bytes", "Bytes in flight; where each peer has a window, in the one that was fullest."),
    _gauge("in_flight_bytes_max", "The most bytes that were ever in flight, in that window."),
    _gauge("in_flight_bytes_bound", "The most bytes that may be in flight, in that window."),
    _histogram("transfer_seconds", SECONDS, "Time from a message's first byte to its last byte, as they left."),
    _histogram("staleness_rounds", ROUNDS, "Receiver's round minus the stamped round of a message averaged in."),
    _histogram(
        "age_seconds", SECONDS, "Time from a message's arrival to its averaging: the age that a receiver knows."
    ),
    # The host.
    _counter("overruns", "Blocks of local steps that took longer than declared."),
    _counter("overrun_seconds", "Time by which blocks of local steps took longer than declared."),
    _counter("declared_seconds", "Declared time of all blocks of local steps."),
    _counter("cpu_seconds", "Processor time of the node's process, real time, without training."),
    _histogram("arrival_lateness_seconds", SECONDS, "Time by which the host was late with what arrived."),
    _gauge("build_info", "1; the release is in the labels.", "version", "python", "torch"),
)
"""Families of one node."""

RUN_METRICS: Final = _table(
    # The run and its course.
    _gauge("run_info", "1; the experiment is in the labels.", "experiment", "algorithm", "runtime", "seed"),
    _gauge("run_phase", "1 for what the run does now, 0 for the others.", "phase"),
    _gauge("run_start_timestamp_seconds", "Wall clock at testbed time 0."),
    _gauge("run_clock_seconds", "Testbed time of the run."),
    _gauge("run_end_seconds", "Testbed time at which the run is to end; absent where another rule ends it."),
    _gauge("run_time_dilation", "Real seconds of a testbed second."),
    _gauge("run_nodes", "Nodes of the experiment."),
    _gauge("barrier_missing_nodes", "Nodes that the barrier before the start still waits for."),
    _gauge(
        "node_up", "1 while the node takes part, 0 while it is away, has died or has not come yet.", "node", "group"
    ),
    _gauge("node_waits_for", "1 while the node cannot go on without the peer.", "node", "peer"),
    # Evaluation.
    _gauge("test_accuracy", "Share of its test samples that the node's own model gets right.", "node", "group"),
    _gauge("test_loss", "Test loss of the node's own model; the RMSE for ratings.", "node", "group"),
    _gauge("averaged_test_accuracy", "Test accuracy of the averaged model."),
    _gauge("averaged_test_loss", "Test loss of the averaged model."),
    _gauge("consensus_distance", "Mean squared distance of the nodes' models from their mean."),
    _gauge("evaluation_clock_seconds", "Testbed time of the last evaluation."),
    # Links: what was asked for, and what was measured before the start.
    _gauge("link_configured_rate_bytes_per_second", "Rate that a node's access link is to have.", "node", "direction"),
    _gauge("link_measured_rate_bytes_per_second", "Rate measured before the start.", "node", "direction"),
    _gauge("link_configured_rtt_seconds", "Round-trip time that links of this node are to have.", "node"),
    _gauge("link_measured_rtt_seconds", "Median round-trip time measured before the start.", "node"),
    # Faults.
    _gauge("fault_active", "1 while the entry of the schedule holds, else 0.", "entry", "action", "target"),
    _gauge(
        "fault_begin_timestamp_seconds", "Wall clock of the entry's next or last begin.", "entry", "action", "target"
    ),
    _gauge("fault_end_timestamp_seconds", "Wall clock of that begin's end.", "entry", "action", "target"),
    _gauge("fault_lateness_seconds_max", "Most time by which a begin or end of a fault of a node was late."),
    # Fidelity.
    _gauge("host_cpu_pressure_ratio", "Share of the last ten seconds in which processes waited for a processor."),
    _gauge("fidelity_requested", "What a check of fidelity asks for, in the check's unit.", "check"),
    _gauge("fidelity_achieved", "What was achieved, in the check's unit.", "check"),
    _gauge("fidelity_ok", "1 where a check is within its tolerance, else 0; set at the run's end.", "check"),
    _gauge("build_info", "1; the release is in the labels.", "version", "python", "torch"),
)
"""Families of one orchestrator: of a whole run."""
