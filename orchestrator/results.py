"""What a run leaves behind: the schema of a run directory, its writer and its reader.

A run directory ``<name>-<YYYYmmdd-HHMMSS>-<hash>/`` holds::

    facts.json        what was known at the start         experiment.yaml   the resolved experiment
    environment.json  versions, commit, host, seeds       partition.csv     samples by node and class
    curve.csv         one line an evaluation, written as the run goes
    nodes.parquet     one row an evaluation and node      messages.parquet  one row a message: its life
    links.csv         utilisation by node                 fidelity.json     how far to trust the emulation
    summary.json      the figures                         report.html       the figures as pictures

Only ``curve.csv`` grows during a run, a whole line at a time, so that whatever stops a run leaves a valid
partial result. The rest of the second half is written at the end, each file under another name first.

Nothing here depends on wall-clock time but ``wall_s`` in the summary and the directory's name: the same run
gives the same bytes in ``curve.csv``, ``nodes.parquet``, ``messages.parquet`` and ``links.csv``.
"""

import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from node.core.errors import ConfigError, RunnerError
from node.core.messages import MessageKind, MessageState
from node.core.types import Float64Vector
from node.core.units import ns_to_s
from orchestrator.analysis import best_index, bytes_to_accuracy, quantiles, time_to_accuracy

Metric: TypeAlias = Literal["accuracy", "rmse"]
Status: TypeAlias = Literal["done", "interrupted", "failed", "partial"]
"""``partial``: the run was killed before it could say how it ended. Found by the reader, never written."""
Column: TypeAlias = npt.NDArray[Any]
JsonObject: TypeAlias = dict[str, Any]

MIN_FREE_BYTES: Final = 16 * 1024 * 1024
"""A run does not start with less free space than this for its results."""

MESSAGE_KINDS: Final = tuple(kind.value for kind in MessageKind)
"""Names of the codes in the column ``kind`` as the recorder gives it."""

MESSAGE_STATES: Final = tuple(state.name.lower() for state in MessageState)
"""Names of the codes in the column ``state`` as the recorder gives it."""

MESSAGE_COLUMNS: Final[Mapping[str, Any]] = {
    "id": pa.int64(),
    "sender": pa.int32(),
    "receiver": pa.int32(),
    "kind": MESSAGE_KINDS,
    "round": pa.int32(),
    "fragment": pa.int32(),
    "payload_bytes": pa.int64(),
    "wire_bytes": pa.int64(),
    "queued_ns": pa.int64(),
    "started_ns": pa.int64(),
    "sent_ns": pa.int64(),
    "delivered_ns": pa.int64(),
    "aggregated_ns": pa.int64(),
    "cancelled_ns": pa.int64(),
    "staleness": pa.int32(),
    "state": MESSAGE_STATES,
}
"""Columns of ``messages.parquet``: the type, or the names of the codes.

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
)

NODE_COLUMNS: Final[Mapping[str, Any]] = {
    "time_ns": pa.int64(),
    "node": pa.int32(),
    "accuracy": pa.float64(),
    "loss": pa.float64(),
    "train_loss": pa.float64(),
    "rounds": pa.int64(),
    "local_steps": pa.int64(),
    "bytes_sent": pa.int64(),
    "queued_messages": pa.int64(),
}


@dataclass(frozen=True, slots=True)
class NodeSample:
    """One node at one evaluation.

    Attributes:
        node: The node.
        accuracy: Share of the test set that its own model gets right, in [0, 1].
        loss: Test loss of its own model; the RMSE for ratings.
        train_loss: Mean training loss of its last round; NaN before the first.
        rounds: Rounds completed.
        local_steps: Local steps taken.
        bytes_sent: Bytes sent so far, all classes.
        queued_messages: Messages in its outbox.
    """

    node: int
    accuracy: float
    loss: float
    train_loss: float
    rounds: int
    local_steps: int
    bytes_sent: int
    queued_messages: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One evaluation instant.

    Attributes:
        time_ns: Testbed time.
        nodes: One entry a node, in node order.
        bytes_sent: Bytes sent by all nodes so far, all classes.
        consensus_distance: Root mean square distance of the nodes' models from their mean.
    """

    time_ns: int
    nodes: tuple[NodeSample, ...]
    bytes_sent: int
    consensus_distance: float


@dataclass(frozen=True, eq=False)
class RunFacts:
    """What is known at the start of a run, and kept in its directory.

    Attributes:
        name: The experiment's name.
        algorithm: Its kind, for example ``divshare``.
        runtime: ``simulation``, ``processes``, ``docker`` or ``kubernetes``.
        nodes: Number of nodes.
        seed: The run's seed.
        metric: The headline figure: ``accuracy`` (higher is better), or ``rmse`` (the loss of ratings, lower
            is better).
        stragglers: Nodes slowed on purpose.
        targets: Values of the headline figure whose first crossing the summary tells.
        class_names: Names of the classes; None for ratings.
        partition_counts: Training samples, shape (nodes, classes); None where there are no classes.
        num_params: Parameters of the model; 0 if unknown.
        end_s: When the run is to stop, in testbed seconds; None if it stops by another rule.
        details: Further rows of the report's table of facts, in order: data set, topology, network.
        command: What to type to run it again.
    """

    name: str
    algorithm: str
    runtime: str
    nodes: int
    seed: int
    metric: Metric = "accuracy"
    stragglers: frozenset[int] = frozenset()
    targets: tuple[float, ...] = ()
    class_names: tuple[str, ...] | None = None
    partition_counts: npt.NDArray[np.int64] | None = None
    num_params: int = 0
    end_s: float | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    command: str = ""

    @property
    def higher_is_better(self) -> bool:
        """Whether the headline figure should grow."""
        return self.metric == "accuracy"


@dataclass(frozen=True, eq=False)
class RunTotals:
    """What is known at the end of a run.

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
    """

    status: Literal["done", "interrupted", "failed"]
    time_ns: int
    bytes: Mapping[str, int]
    messages: Mapping[str, int]
    train_steps: int
    wall_s: float
    uplink_utilization: Float64Vector | None = None
    downlink_utilization: Float64Vector | None = None
    error: str | None = None


# --- writing ------------------------------------------------------------------------------------------------


class RunWriter:
    """Writes one run directory. Made by :meth:`create`."""

    def __init__(self, path: Path, facts: RunFacts) -> None:
        """Store; use :meth:`create`."""
        self.path = path
        """The run directory."""
        self._facts = facts
        self._complete_bytes = 0  # length of curve.csv up to its last complete line
        self._node_rows: list[dict[str, Column]] = []  # one entry a sample: columns of nodes.parquet
        self._curve_rows: list[dict[str, float | int | None]] = []

    @classmethod
    def create(
        cls,
        root: Path,
        facts: RunFacts,
        resolved_experiment: Mapping[str, Any],
        environment: Mapping[str, Any],
    ) -> "RunWriter":
        """Make a new run directory under ``root`` and write what is known at the start.

        Raises:
            ConfigError: The directory cannot be made or written, or the disk is full; nothing is left behind.
        """
        path = _make_directory(root, facts.name, resolved_experiment)
        writer = cls(path, facts)
        try:
            _write(path / "experiment.yaml", _yaml(resolved_experiment))
            _write(path / "environment.json", _json(environment))
            _write(path / "facts.json", _json(_facts_to_json(facts)))
            if facts.partition_counts is not None:
                _write(path / "partition.csv", _partition_csv(facts))
            writer._append(",".join(CURVE_COLUMNS) + "\n")
        except RunnerError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise ConfigError(f"out={root}: cannot be written: {error}") from error
        return writer

    def add(self, sample: Sample) -> None:
        """Append one evaluation to ``curve.csv``.

        Raises:
            RunnerError: It could not be written, for example because the disk is full. The file then ends
                with the last complete line.
        """
        columns = _node_columns(sample)
        row = _curve_row(sample, columns, self._facts.stragglers)
        self._append(",".join(_cell(row[name]) for name in CURVE_COLUMNS) + "\n")
        self._node_rows.append(columns)
        self._curve_rows.append(row)

    def finish(
        self,
        totals: RunTotals,
        messages: Mapping[str, Column] | None = None,
        fidelity: Mapping[str, Any] | None = None,
        *,
        report: bool = True,
    ) -> JsonObject:
        """Write everything that is known only at the end, and the report.

        Args:
            totals: The run's totals.
            messages: Columns of ``messages.parquet`` as integer arrays (see :data:`MESSAGE_COLUMNS`): codes
                for ``kind`` and ``state``, -1 for a time that never came. None: no such file.
            fidelity: What ``fidelity.json`` says; None: no such file.
            report: Whether to write ``report.html``.

        Returns:
            The summary, as written.

        Raises:
            RunnerError: Something could not be written; what was already written stays valid.
        """
        if self._node_rows:
            _write_parquet(self.path / "nodes.parquet", _nodes_table(self._node_rows))
        if messages is not None:
            _write_parquet(self.path / "messages.parquet", _messages_table(messages))
        if totals.uplink_utilization is not None and totals.downlink_utilization is not None:
            _write(self.path / "links.csv", _links_csv(totals.uplink_utilization, totals.downlink_utilization))
        if fidelity is not None:
            _write(self.path / "fidelity.json", _json(fidelity))
        curve = {name: _float_column([row[name] for row in self._curve_rows]) for name in CURVE_COLUMNS}
        summary = summarize(self._facts, totals, curve, messages)
        _write(self.path / "summary.json", _json(summary))
        if report:
            # Imported here: matplotlib takes half a second, which no other command should pay.
            from orchestrator.report import write_report

            write_report(load_run(self.path))
        return summary

    def _append(self, line: str) -> None:
        path = self.path / "curve.csv"
        data = line.encode()
        try:
            # Opened for each line: nothing stays open or buffered when a run is killed.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                written = 0
                while written < len(data):
                    written += os.write(descriptor, data[written:])
            except OSError:
                with suppress(OSError):  # the first error is the one to tell
                    os.ftruncate(descriptor, self._complete_bytes)
                raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise RunnerError(f"{path}: cannot be written: {_reason(error)}") from error
        self._complete_bytes += len(data)


def experiment_hash(resolved_experiment: Mapping[str, Any]) -> str:
    """Six hexadecimal digits that name a resolved experiment."""
    canonical = json.dumps(_plain(resolved_experiment), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:6]


def _make_directory(root: Path, name: str, resolved_experiment: Mapping[str, Any]) -> Path:
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    stem = f"{readable[:80]}-{datetime.now():%Y%m%d-%H%M%S}-{experiment_hash(resolved_experiment)}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
        if free < MIN_FREE_BYTES:
            raise ConfigError(
                f"out={root}: {free // 2**20} MiB free: results need at least {MIN_FREE_BYTES // 2**20} MiB"
            )
        attempt = 1
        while True:
            path = root / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                path.mkdir()
            except FileExistsError:
                attempt += 1
            else:
                return path
    except OSError as error:
        raise ConfigError(f"out={root}: cannot be written: {_reason(error)}") from error


def _node_columns(sample: Sample) -> dict[str, Column]:
    nodes = sample.nodes
    return {
        "time_ns": np.full(len(nodes), sample.time_ns, dtype=np.int64),
        "node": np.array([n.node for n in nodes], dtype=np.int32),
        "accuracy": np.array([n.accuracy for n in nodes], dtype=np.float64),
        "loss": np.array([n.loss for n in nodes], dtype=np.float64),
        "train_loss": np.array([n.train_loss for n in nodes], dtype=np.float64),
        "rounds": np.array([n.rounds for n in nodes], dtype=np.int64),
        "local_steps": np.array([n.local_steps for n in nodes], dtype=np.int64),
        "bytes_sent": np.array([n.bytes_sent for n in nodes], dtype=np.int64),
        "queued_messages": np.array([n.queued_messages for n in nodes], dtype=np.int64),
    }


def _curve_row(
    sample: Sample, columns: Mapping[str, Column], stragglers: frozenset[int]
) -> dict[str, float | int | None]:
    """One line of ``curve.csv``. None where a figure does not apply, which is not the same as NaN."""
    slow = np.isin(columns["node"], sorted(stragglers))
    # Without stragglers there are no two groups to tell apart.
    fast = ~slow if slow.any() else np.zeros_like(slow)
    accuracy, loss, rounds = columns["accuracy"], columns["loss"], columns["rounds"]
    trained = columns["train_loss"][~np.isnan(columns["train_loss"])]
    everyone = np.ones_like(slow)
    return {
        "time_s": ns_to_s(sample.time_ns),
        "accuracy_mean": _mean(accuracy, everyone),
        "accuracy_min": float(accuracy.min()) if accuracy.size else None,
        "accuracy_max": float(accuracy.max()) if accuracy.size else None,
        "loss_mean": _mean(loss, everyone),
        "loss_min": float(loss.min()) if loss.size else None,
        "loss_max": float(loss.max()) if loss.size else None,
        "accuracy_mean_fast": _mean(accuracy, fast),
        "accuracy_mean_stragglers": _mean(accuracy, slow),
        "loss_mean_fast": _mean(loss, fast),
        "loss_mean_stragglers": _mean(loss, slow),
        "train_loss_mean": float(trained.mean()) if trained.size else None,
        "rounds_mean": _mean(rounds, everyone),
        "rounds_min": int(rounds.min()) if rounds.size else None,
        "rounds_max": int(rounds.max()) if rounds.size else None,
        "bytes_sent": sample.bytes_sent,
        "queued_messages": int(columns["queued_messages"].sum()),
        "consensus_distance": None if math.isnan(sample.consensus_distance) else sample.consensus_distance,
    }


def _mean(values: Column, where: npt.NDArray[np.bool_]) -> float | None:
    return float(values[where].mean()) if where.any() else None


def _cell(value: float | int | None) -> str:
    """The shortest text that reads back as the same number; empty where there is none."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, int) else repr(float(value))


def _nodes_table(rows: Sequence[Mapping[str, Column]]) -> Any:
    arrays = []
    for name, kind in NODE_COLUMNS.items():
        values = np.concatenate([row[name] for row in rows])
        mask = np.isnan(values) if values.dtype.kind == "f" else None
        arrays.append(pa.array(values, type=kind, mask=mask))
    return pa.table(arrays, names=list(NODE_COLUMNS))


def _messages_table(messages: Mapping[str, Column]) -> Any:
    missing = [name for name in MESSAGE_COLUMNS if name not in messages]
    assert not missing, f"messages lack the columns {missing}"
    arrays = []
    for name, kind in MESSAGE_COLUMNS.items():
        values = np.asarray(messages[name])
        if isinstance(kind, tuple):
            codes = pa.array(values.astype(np.int8))
            arrays.append(pa.DictionaryArray.from_arrays(codes, pa.array(kind, type=pa.string())))
            continue
        mask: npt.NDArray[np.bool_] | None = None
        if name.endswith("_ns"):
            mask = values < 0
        elif name == "staleness":
            mask = np.asarray(messages["aggregated_ns"]) < 0
        arrays.append(pa.array(values.astype(kind.to_pandas_dtype()), type=kind, mask=mask))
    return pa.table(arrays, names=list(MESSAGE_COLUMNS))


def _write_parquet(path: Path, table: Any) -> None:
    _atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def _write(path: Path, text: str) -> None:
    _atomically(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def write_file(path: Path, data: bytes) -> None:
    """Write a file under another name and rename it, so that it is there whole or not at all.

    Raises:
        RunnerError: It could not be written.
    """
    _atomically(path, lambda temporary: Path(temporary).write_bytes(data))


def _atomically(path: Path, write: Callable[[str], object]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        try:
            write(str(temporary))
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise RunnerError(f"{path}: cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Why, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).strip().splitlines()[0]


def _plain(value: Any) -> Any:
    """Numpy and mappings as plain JSON; numbers that JSON does not know become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, set | frozenset):
        return [_plain(item) for item in sorted(value)]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True)


def _facts_to_json(facts: RunFacts) -> JsonObject:
    return {
        "name": facts.name,
        "algorithm": facts.algorithm,
        "runtime": facts.runtime,
        "nodes": facts.nodes,
        "seed": facts.seed,
        "metric": facts.metric,
        "stragglers": sorted(facts.stragglers),
        "targets": list(facts.targets),
        "class_names": facts.class_names,
        "num_params": facts.num_params,
        "end_s": facts.end_s,
        "details": dict(facts.details),
        "command": facts.command,
    }


def _partition_csv(facts: RunFacts) -> str:
    assert facts.partition_counts is not None
    counts = np.asarray(facts.partition_counts)
    names = facts.class_names or tuple(str(index) for index in range(counts.shape[1]))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["node", *names])
    lines.writerows([node, *row] for node, row in enumerate(counts.tolist()))
    return text.getvalue()


def _links_csv(uplink: Float64Vector, downlink: Float64Vector) -> str:
    lines = ["node,uplink_utilization,downlink_utilization"]
    lines += [
        f"{node},{float(up)!r},{float(down)!r}" for node, (up, down) in enumerate(zip(uplink, downlink, strict=True))
    ]
    return "\n".join(lines) + "\n"


# --- the summary --------------------------------------------------------------------------------------------


def target_key(target: float) -> str:
    """How a target is spelled as a key: two decimals, or as many as it needs."""
    short = f"{target:.2f}"
    return short if float(short) == target else repr(target)


def summarize(
    facts: RunFacts,
    totals: RunTotals,
    curve: Mapping[str, Float64Vector],
    messages: Mapping[str, Column] | None,
) -> JsonObject:
    """The figures of a run, as in ``summary.json``.

    Staleness is in rounds of the receiver; age is from a message's queueing to its aggregation, in seconds.
    """
    values = curve["accuracy_mean" if facts.metric == "accuracy" else "loss_mean"]
    better = facts.higher_is_better
    best = best_index(values, higher_is_better=better)
    suffix = facts.metric
    queued, cancelled = totals.messages.get("queued", 0), totals.messages.get("cancelled", 0)
    summary: JsonObject = {
        "name": facts.name,
        "algorithm": facts.algorithm,
        "runtime": facts.runtime,
        "nodes": facts.nodes,
        "seed": facts.seed,
        "metric": facts.metric,
        "status": totals.status,
        "error": totals.error,
        "time_s": ns_to_s(totals.time_ns),
        "evaluations": int(values.size),
        "final": _at(curve, values.size - 1 if values.size else None, time=False),
        "best": _at(curve, best, time=True),
        f"time_to_{suffix}_s": {
            target_key(target): time_to_accuracy(curve["time_s"], values, target, higher_is_better=better)
            for target in facts.targets
        },
        f"bytes_to_{suffix}": {
            target_key(target): bytes_to_accuracy(curve["bytes_sent"], values, target, higher_is_better=better)
            for target in facts.targets
        },
        "bytes_sent": int(sum(totals.bytes.values())),
        "bytes": dict(totals.bytes),
        "messages": dict(totals.messages),
        "cancelled_share": cancelled / queued if queued else None,
        "train_steps": totals.train_steps,
        "wall_s": totals.wall_s,
    }
    if totals.uplink_utilization is not None and totals.downlink_utilization is not None:
        summary["uplink_utilization_mean"] = _mean_or_none(totals.uplink_utilization)
        summary["downlink_utilization_mean"] = _mean_or_none(totals.downlink_utilization)
    if messages is not None:
        aggregated = np.asarray(messages["aggregated_ns"]) >= 0
        rounds = curve["rounds_mean"][-1] * facts.nodes if values.size else 0.0
        summary["aggregated_per_round"] = int(aggregated.sum()) / rounds if rounds else None
        summary["staleness"] = _by_sender(facts, messages, staleness(messages), aggregated)
        summary["age_s"] = _by_sender(facts, messages, age_s(messages), aggregated)
    return cast(JsonObject, _plain(summary))


def staleness(messages: Mapping[str, Column]) -> npt.NDArray[np.int64]:
    """Receiver's round minus the stamped round of each message; meaningless where it was never aggregated."""
    return np.asarray(messages["staleness"], dtype=np.int64)


def age_s(messages: Mapping[str, Column]) -> Float64Vector:
    """Seconds from queueing to aggregation of each message; meaningless where it was never aggregated."""
    age_ns = np.asarray(messages["aggregated_ns"], np.int64) - np.asarray(messages["queued_ns"], np.int64)
    return age_ns / 1e9


def _by_sender(
    facts: RunFacts,
    messages: Mapping[str, Column],
    values: npt.NDArray[np.int64] | Float64Vector,
    aggregated: npt.NDArray[np.bool_],
) -> JsonObject:
    slow = np.isin(messages["sender"], sorted(facts.stragglers))
    result: JsonObject = {"overall": quantiles(values[aggregated])}
    if facts.stragglers:
        result["fast_senders"] = quantiles(values[aggregated & ~slow])
        result["straggler_senders"] = quantiles(values[aggregated & slow])
    return result


def _at(curve: Mapping[str, Float64Vector], index: int | None, *, time: bool) -> JsonObject:
    names = {"accuracy": "accuracy_mean", "loss": "loss_mean"} | ({"time_s": "time_s"} if time else {})
    return {key: None if index is None else float(curve[column][index]) for key, column in names.items()}


def _mean_or_none(values: Float64Vector) -> float | None:
    return float(values.mean()) if values.size else None


def _float_column(values: Sequence[float | int | None]) -> Float64Vector:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


# --- reading ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Run:
    """A run directory, read.

    Attributes:
        path: The directory.
        facts: What was known at the start.
        status: How it ended; ``partial`` if it was killed before it could say.
        curve: Columns of ``curve.csv`` (:data:`CURVE_COLUMNS`), float64, NaN where empty.
        nodes: Columns of ``nodes.parquet``; None if missing.
        messages: Columns of ``messages.parquet`` exactly as the recorder gave them: codes, and -1 for never;
            None if missing or not asked for.
        links: Columns of ``links.csv``; None if missing.
        summary, fidelity, environment, experiment: The files of these names; None if missing.
    """

    path: Path
    facts: RunFacts
    status: Status
    curve: Mapping[str, Float64Vector]
    nodes: Mapping[str, Column] | None = None
    messages: Mapping[str, Column] | None = None
    links: Mapping[str, Column] | None = None
    summary: JsonObject | None = None
    fidelity: JsonObject | None = None
    environment: JsonObject | None = None
    experiment: JsonObject | None = None

    @property
    def label(self) -> str:
        """The experiment's name."""
        return self.facts.name

    @property
    def metric(self) -> str:
        """The headline figure."""
        return self.facts.metric

    @property
    def higher_is_better(self) -> bool:
        """Whether the headline figure should grow."""
        return self.facts.higher_is_better

    @property
    def times_s(self) -> Float64Vector:
        """Evaluation instants, shape (samples,)."""
        return self.curve["time_s"]

    @property
    def headline(self) -> Float64Vector:
        """Node average of the headline figure, shape (samples,)."""
        return self.curve["accuracy_mean" if self.facts.metric == "accuracy" else "loss_mean"]

    @property
    def bytes_sent(self) -> Float64Vector:
        """Bytes sent by all nodes so far, shape (samples,)."""
        return self.curve["bytes_sent"]


def load_run(path: Path, *, messages: bool = True) -> Run:
    """Read a run directory, also that of a run that was killed.

    Args:
        path: The directory.
        messages: Whether to read ``messages.parquet``, the one file that can be large.

    Raises:
        ConfigError: There is no run there, or a file of it is damaged.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: no such run directory")
    if not (path / "curve.csv").is_file():
        inside = sorted(child.parent.name for child in path.glob("*/curve.csv"))
        hint = f"; runs inside it: {', '.join(inside[-3:])}" if inside else ""
        raise ConfigError(f"{path}: not a run directory: curve.csv is missing{hint}")
    summary = _read_json(path / "summary.json")
    return Run(
        path=path,
        facts=_read_facts(path),
        status="partial" if summary is None else _status(summary, path),
        curve=_read_curve(path / "curve.csv"),
        nodes=_read_nodes(path / "nodes.parquet"),
        messages=_read_messages(path / "messages.parquet") if messages else None,
        links=_read_links(path / "links.csv"),
        summary=summary,
        fidelity=_read_json(path / "fidelity.json"),
        environment=_read_json(path / "environment.json"),
        experiment=_read_yaml(path / "experiment.yaml"),
    )


def _status(summary: JsonObject, path: Path) -> Status:
    status = summary.get("status")
    if status not in ("done", "interrupted", "failed"):
        raise ConfigError(f"{path / 'summary.json'}: status={status!r}: not done, interrupted or failed")
    return cast(Status, status)


def _damaged(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path}: damaged: {_reason(error)}")


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error


def _read_json(path: Path) -> JsonObject | None:
    text = _read_text(path)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _damaged(path, error) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: damaged: not a JSON object")
    return value


def _read_yaml(path: Path) -> JsonObject | None:
    text = _read_text(path)
    if text is None:
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _damaged(path, error) from error
    return value if isinstance(value, dict) else None


def _read_facts(path: Path) -> RunFacts:
    raw = _read_json(path / "facts.json")
    if raw is None:  # somebody kept only the curve: still worth a look
        return RunFacts(name=path.resolve().name, algorithm="unknown", runtime="unknown", nodes=0, seed=0)
    names, counts = _read_partition(path / "partition.csv")
    try:
        return RunFacts(
            name=str(raw["name"]),
            algorithm=str(raw["algorithm"]),
            runtime=str(raw["runtime"]),
            nodes=int(raw["nodes"]),
            seed=int(raw["seed"]),
            metric="rmse" if raw["metric"] == "rmse" else "accuracy",
            stragglers=frozenset(int(node) for node in raw["stragglers"]),
            targets=tuple(float(target) for target in raw["targets"]),
            class_names=names if raw["class_names"] is None else tuple(raw["class_names"]),
            partition_counts=counts,
            num_params=int(raw["num_params"]),
            end_s=None if raw["end_s"] is None else float(raw["end_s"]),
            details={str(key): str(value) for key, value in raw["details"].items()},
            command=str(raw["command"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path / "facts.json", error) from error


def _read_partition(path: Path) -> tuple[tuple[str, ...] | None, npt.NDArray[np.int64] | None]:
    text = _read_text(path)
    if text is None:
        return None, None
    try:
        header, *rows = csv.reader(io.StringIO(text))
        counts = np.array([[int(cell) for cell in row[1:]] for row in rows], dtype=np.int64)
        if counts.shape != (len(rows), len(header) - 1):
            raise ValueError("lines of different length")
    except ValueError as error:
        raise _damaged(path, error) from error
    return tuple(header[1:]), counts


def _read_curve(path: Path) -> dict[str, Float64Vector]:
    text = _read_text(path) or ""
    complete, _, _ = text.rpartition("\n")  # a run killed while writing leaves half a line: it does not count
    lines = complete.split("\n")
    header = tuple(lines[0].split(","))
    if header != CURVE_COLUMNS:
        raise ConfigError(f"{path}: damaged: the first line does not name the columns {CURVE_COLUMNS[0]}, ...")
    rows = np.empty((len(lines) - 1, len(header)), dtype=np.float64)
    for number, line in enumerate(lines[1:]):
        cells = line.split(",")
        try:
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} values instead of {len(header)}")
            rows[number] = [float(cell) if cell else math.nan for cell in cells]
        except ValueError as error:
            raise ConfigError(f"{path}: damaged: line {number + 2}: {_reason(error)}") from error
    return {name: rows[:, index].copy() for index, name in enumerate(header)}


def _read_links(path: Path) -> dict[str, Column] | None:
    text = _read_text(path)
    if text is None:
        return None
    try:
        rows = [[float(cell) for cell in line.split(",")] for line in text.splitlines()[1:]]
        table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    except ValueError as error:
        raise _damaged(path, error) from error
    return {"node": table[:, 0].astype(np.int64), "uplink": table[:, 1], "downlink": table[:, 2]}


def _read_table(path: Path, columns: Mapping[str, Any]) -> Any | None:
    if not path.is_file():
        return None
    try:
        return pq.read_table(path, columns=list(columns)).combine_chunks().select(list(columns))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise _damaged(path, error) from error


def _read_nodes(path: Path) -> dict[str, Column] | None:
    table = _read_table(path, NODE_COLUMNS)
    if table is None:
        return None
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in NODE_COLUMNS}


def _read_messages(path: Path) -> dict[str, Column] | None:
    table = _read_table(path, MESSAGE_COLUMNS)
    if table is None:
        return None
    columns: dict[str, Column] = {}
    for name, kind in MESSAGE_COLUMNS.items():
        column = table.column(name)
        if isinstance(kind, tuple):
            columns[name] = _codes(path, name, column, kind)
        else:
            columns[name] = column.fill_null(-1).to_numpy(zero_copy_only=False)
    return columns


def _codes(path: Path, name: str, column: Any, names: Sequence[str]) -> npt.NDArray[np.int8]:
    """Dictionary-encoded strings as the recorder's codes: a file may order its names otherwise."""
    if len(column) == 0:
        return np.zeros(0, dtype=np.int8)
    encoded = column.dictionary_encode() if not pa.types.is_dictionary(column.type) else column
    array = encoded.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    try:
        code_of = np.array([names.index(value) for value in array.dictionary.to_pylist()], dtype=np.int8)
    except ValueError as error:
        raise ConfigError(f"{path}: damaged: column {name}: {_reason(error)}") from error
    codes: npt.NDArray[np.int8] = code_of[array.indices.to_numpy(zero_copy_only=False)]
    return codes


# --- words and figures --------------------------------------------------------------------------------------


def metric_name(metric: str) -> str:
    """The headline figure as people write it."""
    return "RMSE" if metric == "rmse" else metric


def headline_text(metric: str, value: float) -> str:
    """A headline figure: accuracy in percent, RMSE as it is."""
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.4f}"


def byte_unit(largest: float) -> tuple[float, str]:
    """The decimal unit in which an amount of bytes reads best: (bytes in it, its name)."""
    for divisor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if largest >= divisor:
            return divisor, unit
    return 1.0, "B"


def format_bytes(amount: float) -> str:
    """Bytes in decimal units, three significant digits: ``1.23 GB``."""
    divisor, unit = byte_unit(amount)
    value = amount / divisor
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"
