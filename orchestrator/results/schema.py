"""Schema of a run directory: types and names, without files.

The docstring of the package draws the run directory that these end up in.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from node.core.counters import FIGURES, NodeCounters
from node.core.errors import DivergedError
from node.core.messages import MessageState
from node.core.time_budget import TIME_FIGURES
from node.core.types import Float64Vector
from orchestrator.results.fault_instants import FaultInstant
from orchestrator.results.recorded_schedule import RecordedEntry

Metric: TypeAlias = Literal["accuracy", "rmse"]
EndStatus: TypeAlias = Literal["done", "interrupted", "failed", "stalled", "diverged"]
"""End of a run, in one word. ``stalled``: nothing could happen any more, though nodes had rounds left.
``diverged``: a node's model was not finite any more."""
Status: TypeAlias = EndStatus | Literal["partial"]
"""``partial``: the run was killed before it could say how it ended. Found by the reader, never written."""
Column: TypeAlias = npt.NDArray[Any]
JsonObject: TypeAlias = dict[str, Any]

CRATE_FILE: Final = "ro-crate-metadata.json"
"""The file that describes a run directory for others; RO-Crate gives it this name."""

RUN_FILES: Final[Mapping[str, str]] = {
    "experiment.yaml": "the experiment with every default written out; it can be run again",
    "environment.json": "command, versions, commit, host, when it began and ended, and where the data came from",
    "facts.json": "what was known at the start: stragglers, targets, number of parameters, the plan in words, the"
    " schedule's entries with their times",
    "live.json": "how a run in progress stands, for `fragmesh watch` and `ps`; removed when it ends",
    "partition.csv": "training samples of each class, or of each rating, on each node",
    "curve.csv": "one line an evaluation: time, accuracy, loss, rounds, bytes, consensus distance; grows in the run",
    "nodes.parquet": "one row an evaluation and node",
    "messages.parquet": "one row a message: its life, its staleness and how it ended",
    "links.csv": "how much of its uplink and downlink each node used",
    "faults.csv": "one line a begin or end of an entry of the schedule: when it was planned, and when it happened",
    "fidelity.json": "how far to trust the run: requested, achieved and tolerance of each check, and the verdict",
    "summary.json": "the figures: time and bytes to each target, traffic, staleness, age, faults by action",
    "report.html": "all of it as pictures; `fragmesh report RUN` writes it anew",
    CRATE_FILE: "the directory described for others, if `fragmesh report RUN --crate` was asked to",
    "openmetrics.txt": "its series for Prometheus, once `fragmesh export --openmetrics RUN` has written them",
    "checkpoint.bin": "the state from which an interrupted simulation goes on; removed when the run is complete",
    "snapshots/": "the models from which interrupted real processes go on; removed when the run is complete",
    "logs/": "what the nodes said; of processes, where one of them died",
    "inputs/": "copies of the edge lists, traces and regions that the experiment names, but for those beyond 4 MiB",
    "nodes/": "what each node was told, in files for `python -m node --config`; removed when the run is complete",
}
"""Every file of a run directory and what it holds; ``snapshots/``, ``logs/`` and ``nodes/`` are those of real
runtimes only."""

MESSAGE_STATES: Final = tuple(state.name.lower() for state in MessageState)
"""Names of the codes in the column ``state`` as the recorder gives it."""

MESSAGE_COLUMNS: Final[Mapping[str, Any]] = {
    "id": pa.int64(),
    "sender": pa.int32(),
    "receiver": pa.int32(),
    "kind": pa.string(),
    "round": pa.int32(),
    "fragment": pa.int32(),
    "payload_bytes": pa.int64(),
    "wire_bytes": pa.int64(),
    "resent_bytes": pa.int64(),
    "queued_ns": pa.int64(),
    "started_ns": pa.int64(),
    "sent_ns": pa.int64(),
    "delivered_ns": pa.int64(),
    "aggregated_ns": pa.int64(),
    "cancelled_ns": pa.int64(),
    "staleness": pa.int32(),
    "state": MESSAGE_STATES,
}
"""Columns of ``messages.parquet``: the type, or the names of the codes. Tags in ``kind`` are the algorithm's, by name.

A ``*_ns`` of -1 means never and becomes null; ``staleness`` is null where ``aggregated_ns`` is.
"""

CURVE_COLUMNS: Final = (
    "time_s",
    "accuracy_mean",
    "accuracy_min",
    "accuracy_max",
    "loss_mean",
    "loss_min",
    "loss_max",
    "accuracy_mean_fast",
    "accuracy_mean_stragglers",
    "loss_mean_fast",
    "loss_mean_stragglers",
    "train_loss_mean",
    "rounds_mean",
    "rounds_min",
    "rounds_max",
    "bytes_sent",
    "queued_messages",
    "consensus_distance",
    "accuracy_averaged",
    "loss_averaged",
    "loss_seen_mean",
)

ADDED_COLUMNS: Final = frozenset(
    {"loss_seen_mean", "loss_seen", "accuracy_averaged", "loss_averaged", "resent_bytes", *TIME_FIGURES.values()}
)
"""Columns that runs of older versions lack; of the curve and of nodes they are read as empty."""

NODE_FIGURES: Final = tuple(figure for figure in FIGURES.values() if figure.shown == "nodes")
"""The figures of a node that are columns of ``nodes.parquet``, in order."""

NODE_COLUMNS: Final[Mapping[str, Any]] = {
    "time_ns": pa.int64(),
    "node": pa.int32(),
    "accuracy": pa.float64(),
    "loss": pa.float64(),
    "loss_seen": pa.float64(),
    **{figure.name: pa.int64() if figure.is_whole else pa.float64() for figure in NODE_FIGURES},
}

FAULT_COLUMNS: Final = ("entry", "action", "node", "what", "planned_s", "actual_s", "late_ms")
"""Columns of ``faults.csv``, in order."""

COLUMN_MEANINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "messages.parquet": {
        "id": "number of the message, in order of queueing",
        "sender": "the node that queued it",
        "receiver": "the node that it is addressed to",
        "kind": "kind of message",
        "round": "the sender's round that is stamped on it",
        "fragment": "number of the fragment; -1 where a message is not a fragment",
        "payload_bytes": "bytes of its values",
        "wire_bytes": "bytes that it takes on the link, header included; of an aborted one those that had left, and 0"
        " where it never began",
        "resent_bytes": "those among them that are packets sent again",
        "queued_ns": "when it entered the sender's queue",
        "started_ns": "when its first byte left",
        "sent_ns": "when its last byte left",
        "delivered_ns": "when its last byte arrived",
        "aggregated_ns": "when the receiver averaged it into its model",
        "cancelled_ns": "when it was dropped from the queue or aborted on the way",
        "staleness": "the receiver's round at aggregation minus the stamped round",
        "state": "how it ended, or where it was when the run ended",
    },
    "nodes.parquet": {
        "time_ns": "testbed time of the evaluation",
        "node": "the node",
        "accuracy": "share of its test samples that its own model gets right, in [0, 1]; null without test samples",
        "loss": "test loss of its own model; the RMSE for ratings",
        "loss_seen": "the RMSE over test ratings of items that some node has a training rating of; ratings only",
        **{figure.name: figure.help[0].lower() + figure.help[1:].rstrip(".") for figure in NODE_FIGURES},
    },
    "curve.csv": {
        "time_s": "testbed time of the evaluation",
        "accuracy_mean": "mean over the nodes' own models, of the nodes that have test samples, as all that follow",
        "accuracy_min": "the lowest of these",
        "accuracy_max": "the highest of these",
        "loss_mean": "mean test loss over the nodes' own models; the RMSE for ratings",
        "loss_min": "the lowest of these",
        "loss_max": "the highest of these",
        "accuracy_mean_fast": "mean accuracy of the nodes that are no stragglers",
        "accuracy_mean_stragglers": "mean accuracy of the stragglers",
        "loss_mean_fast": "mean loss of the nodes that are no stragglers",
        "loss_mean_stragglers": "mean loss of the stragglers",
        "train_loss_mean": "mean over the nodes of the training loss of their last round",
        "rounds_mean": "mean of the rounds completed",
        "rounds_min": "the fewest rounds of a node",
        "rounds_max": "the most rounds of a node",
        "bytes_sent": "bytes sent by all nodes so far, all classes",
        "queued_messages": "messages in all outboxes",
        "consensus_distance": "(1/n) sum of ||x_i - mean||^2 over the nodes' models",
        "accuracy_averaged": "accuracy of the averaged model, the mean of the nodes' models; where each node has its"
        " own test set, the mean over these",
        "loss_averaged": "loss of the averaged model; the RMSE for ratings",
        "loss_seen_mean": "mean RMSE over test ratings of items with a training rating, which alone a model can learn;"
        " ratings only",
    },
    "faults.csv": {
        "entry": "the entry's place in the schedule, from 0",
        "action": "the entry's",
        "node": "to which node it happens; empty of an entry over links",
        "what": "`begin` or `end`",
        "planned_s": "when it was planned, testbed time",
        "actual_s": "when it happened; empty if it never did",
        "late_ms": "the difference of both, in milliseconds",
    },
}
"""One sentence for each column of the tables."""


@dataclass(frozen=True, slots=True)
class NodeSample:
    """One node at one evaluation.

    Attributes:
        node: The node.
        accuracy: Share of its test samples that its own model gets right, in [0, 1]; not a number if it has none.
        loss: Test loss of its own model; the RMSE for ratings.
        counters: Its figures then.
        loss_seen: The loss over test ratings of items with a training rating; not a number if there are none.
    """

    node: int
    accuracy: float
    loss: float
    counters: NodeCounters
    loss_seen: float = float("nan")

    @property
    def is_tested(self) -> bool:
        """True where it has test samples. A model that diverged has an accuracy, of 0 or by chance more."""
        return not math.isnan(self.accuracy)

    @classmethod
    def untested(cls, node: int, counters: NodeCounters) -> "NodeSample":
        """A node whose model is still to be tested."""
        return cls(node, float("nan"), float("nan"), counters)


@dataclass(frozen=True, slots=True)
class Sample:
    """One evaluation instant.

    Attributes:
        time_ns: Testbed time.
        nodes: One entry a node, in node order.
        bytes_sent: Bytes sent by all nodes so far, all classes.
        consensus_distance: D(x) = (1/n) sum of ||x_i - mean||^2 over the nodes' models.
        averaged_accuracy: Accuracy of the averaged model, the mean of the nodes' models; NaN until it is tested.
        averaged_loss: Its loss; NaN until it is tested.
    """

    time_ns: int
    nodes: tuple[NodeSample, ...]
    bytes_sent: int
    consensus_distance: float
    averaged_accuracy: float = float("nan")
    averaged_loss: float = float("nan")


@dataclass(frozen=True, eq=False)
class RunFacts:
    """Facts that are known at the start of a run; they are kept in its directory.

    Attributes:
        name: The experiment's name.
        algorithm: Its kind, for example ``divshare``.
        runtime: ``simulation``, ``processes``, ``docker`` or ``kubernetes``.
        nodes: Number of nodes.
        seed: The run's seed.
        metric: The headline figure: ``accuracy`` (higher is better), or ``rmse`` (the loss of ratings, lower
            is better).
        stragglers: Nodes slowed on purpose.
        message_tags: Number of each tag of the algorithm's messages -> its name. The numbers are the codes in the
            column ``kind`` of the message table.
        targets: Values of the headline figure whose first crossing the summary tells.
        class_names: Names of the classes, or the values of a rating; None if unknown.
        partition_counts: Training samples, shape (nodes, classes); None if unknown.
        num_params: Parameters of the model; 0 if unknown.
        end_s: When the run is to stop, in testbed seconds; None if it stops by another rule.
        details: Further rows of the report's table of facts, in order: data set, topology, network.
        command: What to type to run it again.
        schedule: The entries of the schedule, in the file's order.
    """

    name: str
    algorithm: str
    runtime: str
    nodes: int
    seed: int
    metric: Metric = "accuracy"
    stragglers: frozenset[int] = frozenset()
    targets: tuple[float, ...] = ()
    message_tags: Mapping[int, str] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    partition_counts: npt.NDArray[np.int64] | None = None
    num_params: int = 0
    end_s: float | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    schedule: tuple[RecordedEntry, ...] = ()

    @property
    def higher_is_better(self) -> bool:
        """True where the headline figure should grow."""
        return self.metric == "accuracy"

    @property
    def headline_column(self) -> str:
        """The column of ``curve.csv`` with the node average of the headline figure."""
        return "accuracy_mean" if self.metric == "accuracy" else "loss_mean"


@dataclass(frozen=True, eq=False)
class RunTotals:
    """Totals that are known at the end of a run.

    Attributes:
        status: How it ended.
        time_ns: Testbed time reached.
        bytes: Bytes by class: ``payload``, ``metadata``, ``control``, ``wasted``, ``retransmitted``.
        messages: Messages by fate: ``queued`` (ever), ``sent``, ``delivered``, ``cancelled``, ``lost``,
            ``aborted``, ``replaced``, ...
        train_steps: Local steps of all nodes.
        wall_s: How long the run took on the wall clock.
        uplink_utilization: Share of each node's uplink that was in use, shape (nodes,), in [0, 1].
        downlink_utilization: The same for the downlink.
        error: Why it failed; None if it did not.
        bytes_lost: Bytes sent that no receiver saw because their message was lost; a part of ``bytes``.
        values_saturated: Values of messages that travelled as the largest of the wire's type.
        divergence: Which node's model was not finite any more, after which round, and when; None unless one was.
        checkpoint_error: Why its last checkpoint could not be written; None if it was, or if none was needed.
        spent_ns: Time that each node spent on each activity, shape (nodes, activities), in the order of
            :data:`node.core.time_budget.TIME_FIGURES`; None if unknown.
        fault_instants: Begins and ends of entries of the schedule, up to the time reached: in a simulation all, in a
            real run those of the faults that the orchestrator executes.
    """

    status: EndStatus
    time_ns: int
    bytes: Mapping[str, int]
    messages: Mapping[str, int]
    train_steps: int
    wall_s: float
    uplink_utilization: Float64Vector | None = None
    downlink_utilization: Float64Vector | None = None
    error: str | None = None
    checkpoint_error: str | None = None
    bytes_lost: int = 0
    values_saturated: int = 0
    divergence: DivergedError | None = None
    spent_ns: npt.NDArray[np.int64] | None = None
    fault_instants: tuple[FaultInstant, ...] = ()
