"""Writing a run directory: line by line while the run goes, the rest when it ends."""

import csv
import fcntl
import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from node.core.errors import ConfigError, RunnerError
from node.core.types import Float64Vector
from node.core.units import ns_to_s
from orchestrator.fidelity import stamp
from orchestrator.results.fault_table import fault_csv
from orchestrator.results.files import first_line_of, to_json, to_json_values, write_atomically, write_file
from orchestrator.results.schema import (
    CRATE_FILE,
    CURVE_COLUMNS,
    MESSAGE_COLUMNS,
    NODE_COLUMNS,
    NODE_FIGURES,
    Column,
    JsonObject,
    RunFacts,
    RunTotals,
    Sample,
)
from orchestrator.results.summary import summarize
from orchestrator.yaml_text import dump_yaml

END_FILES: Final = (
    *("summary.json", "nodes.parquet", "messages.parquet", "links.csv", "faults.csv", "fidelity.json"),
    "report.html",
    CRATE_FILE,
)
"""Files that are written when a run has ended, however it ends."""

MIN_FREE_BYTES: Final = 16 * 1024 * 1024
"""A run does not start with less free space than this for its results."""


_HEADER: Final = ",".join(CURVE_COLUMNS) + "\n"
_EMPTY: Final[Mapping[str, Any]] = {
    "curve_bytes": len(_HEADER),
    "curve_sha256": hashlib.sha256(_HEADER.encode()).hexdigest(),
    "curve": {name: np.zeros(0) for name in CURVE_COLUMNS},
    "nodes": {},
}
"""The state of a writer without evaluations."""


class RunWriter:
    """Writes one run directory, which nobody else writes meanwhile. Made by :meth:`create` or :meth:`reopen`."""

    def __init__(self, path: Path, facts: RunFacts) -> None:
        """Take the directory; use :meth:`create`.

        Raises:
            ConfigError: A run is writing it.
        """
        self.path = path
        """The run directory."""
        self._facts = facts
        self._lock: int | None = _lock(path)
        self._complete_bytes = 0  # length of curve.csv up to its last complete line
        self._complete = hashlib.sha256()  # of these bytes
        self._node_rows: list[dict[str, Column]] = []  # one entry a sample: columns of nodes.parquet
        self._curve_rows: list[dict[str, float | int | None]] = []

    @classmethod
    def create(
        cls,
        root: Path,
        facts: RunFacts,
        resolved_experiment: Mapping[str, Any],
        environment: Mapping[str, Any],
        copies: Mapping[str, bytes] | None = None,
    ) -> "RunWriter":
        """Make a new run directory under ``root`` and write what is known at the start.

        Args:
            root: Where.
            facts: What is known of the run.
            resolved_experiment: The experiment with all its defaults.
            environment: What the results depend on besides.
            copies: Files that the experiment names, by their path in the directory.

        Raises:
            ConfigError: The directory cannot be made or written, or the disk is full; nothing is left behind.
        """
        path = _make_directory(root, facts.name, resolved_experiment)
        writer = cls(path, facts)
        try:
            _write(path / "experiment.yaml", _yaml(resolved_experiment))
            _write(path / "environment.json", to_json(environment))
            for name, content in (copies or {}).items():
                (path / name).parent.mkdir(exist_ok=True)
                write_file(path / name, content)
            _write(path / "facts.json", to_json(_facts_to_json(facts)))
            if facts.partition_counts is not None:
                _write(path / "partition.csv", _partition_csv(facts))
            writer._append(_HEADER)
        except (RunnerError, OSError) as error:
            writer.close()
            shutil.rmtree(path, ignore_errors=True)
            raise ConfigError(f"out={root}: cannot be written: {error}") from error
        return writer

    @classmethod
    def reopen(
        cls, path: Path, facts: RunFacts, state: Mapping[str, Any] | None, environment: Mapping[str, Any]
    ) -> "RunWriter":
        """Go on with a run from where :meth:`state` was asked for.

        What was written later is removed, until it is written again: lines of the curve, and what only an end writes.

        Args:
            path: The run directory.
            facts: Those of the run.
            state: From :meth:`state`; None begins the curve anew.
            environment: What the rest of the run depends on; added to ``environment.json``, under ``resumed``.

        Raises:
            ConfigError: A run is writing the directory, its curve is another one, or it cannot be written.
        """
        writer = cls(path, facts)
        state = _EMPTY if state is None else state
        curve, complete_bytes = path / "curve.csv", state["curve_bytes"]
        try:
            with curve.open("rb") as file:
                writer._complete.update(file.read(complete_bytes))
            if writer._complete.hexdigest() != state["curve_sha256"]:
                raise ConfigError(f"{curve}: changed since the run was interrupted")
            recorded = _recorded_environment(path)
            recorded.pop("ended_at", None)
            recorded["resumed"] = [*recorded.get("resumed", ()), environment]
            _write(path / "environment.json", to_json(recorded))
            for name in END_FILES:
                (path / name).unlink(missing_ok=True)
            os.truncate(curve, complete_bytes)
        except (OSError, ValueError, RunnerError) as error:
            writer.close()
            raise ConfigError(f"{path}: cannot be continued: {first_line_of(error)}") from error
        except ConfigError:
            writer.close()
            raise
        writer._complete_bytes = complete_bytes
        writer._node_rows = [state["nodes"]] if state["nodes"] else []
        rows = zip(*(state["curve"][name].tolist() for name in CURVE_COLUMNS), strict=True)
        writer._curve_rows = [dict(zip(CURVE_COLUMNS, row, strict=True)) for row in rows]
        return writer

    def state(self) -> dict[str, Any]:
        """Return plain values and arrays from which :meth:`reopen` goes on."""
        return {
            "curve_bytes": self._complete_bytes,
            "curve_sha256": self._complete.hexdigest(),
            "curve": self._curve_columns(),
            "nodes": {name: np.concatenate([row[name] for row in self._node_rows]) for name in NODE_COLUMNS}
            if self._node_rows
            else {},
        }

    def close(self) -> None:
        """Let others write the directory. May be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def add(self, sample: Sample) -> None:
        """Append one evaluation to ``curve.csv``.

        Raises:
            RunnerError: It could not be written, for example because the disk is full. The file then ends
                with the last complete line.
        """
        columns = _node_columns(sample)
        row = _curve_row(sample, columns, self._facts)
        self._append(",".join(_cell(row[name]) for name in CURVE_COLUMNS) + "\n")
        self._node_rows.append(columns)
        self._curve_rows.append(row)

    def finish(
        self,
        totals: RunTotals,
        messages: Mapping[str, Column] | None = None,
        fidelity: Mapping[str, Any] | None = None,
    ) -> JsonObject:
        """Write everything that is known only at the end.

        Args:
            totals: The run's totals.
            messages: Columns of ``messages.parquet`` as integer arrays (see :data:`MESSAGE_COLUMNS`): codes
                for ``kind`` (the facts' ``message_tags``) and ``state``, -1 for a time that never came. None: no such
                file.
            fidelity: What ``fidelity.json`` says; None: no such file.

        Returns:
            The summary, as written.

        Raises:
            RunnerError: Something could not be written; what was already written stays valid.
        """
        if self._node_rows:
            _write_parquet(self.path / "nodes.parquet", _nodes_table(self._node_rows))
        if messages is not None:
            _write_parquet(self.path / "messages.parquet", _messages_table(messages, self._facts.message_tags))
        if totals.uplink_utilization is not None and totals.downlink_utilization is not None:
            _write(self.path / "links.csv", _links_csv(totals.uplink_utilization, totals.downlink_utilization))
        if totals.fault_instants:
            _write(self.path / "faults.csv", fault_csv(totals.fault_instants))
        if fidelity is not None:
            _write(self.path / "fidelity.json", to_json(fidelity))
        summary = summarize(self._facts, totals, self._curve_columns(), messages, self._rounds())
        summary["fidelity"] = stamp(fidelity)
        _write(self.path / "summary.json", to_json(summary))
        return summary

    def add_to_environment(self, more: Mapping[str, Any]) -> None:
        """Add to ``environment.json`` what was not known at the start.

        Raises:
            RunnerError: It could not be written; what was written stays valid.
        """
        path = self.path / "environment.json"
        try:
            recorded = _recorded_environment(self.path)
        except (OSError, ValueError) as error:
            raise RunnerError(f"{path}: cannot be read: {first_line_of(error)}") from error
        _write(path, to_json({**recorded, **more}))

    def _curve_columns(self) -> dict[str, Float64Vector]:
        return {name: _float_column([row[name] for row in self._curve_rows]) for name in CURVE_COLUMNS}

    def _rounds(self) -> int:
        """Rounds of all nodes, of one that died those it had completed when it was seen last."""
        last: dict[int, int] = {}
        for row in self._node_rows:
            last.update(zip(row["node"].tolist(), row["rounds"].tolist(), strict=True))
        return sum(last.values())

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
            raise RunnerError(f"{path}: cannot be written: {first_line_of(error)}") from error
        self._complete_bytes += len(data)
        self._complete.update(data)


def _lock(path: Path) -> int:
    """Keep others from writing a run directory until the descriptor is closed or this process has ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {first_line_of(error)}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(f"{path}: the run is under way, in another process") from None
    except OSError:
        pass  # a file system without locks
    return descriptor


def _recorded_environment(path: Path) -> JsonObject:
    """The content of ``environment.json``; OSError or ValueError where it has none."""
    recorded = json.loads((path / "environment.json").read_text(encoding="utf-8"))
    if not isinstance(recorded, dict):
        raise ValueError("environment.json is not a JSON object")
    return recorded


def experiment_hash(resolved_experiment: Mapping[str, Any]) -> str:
    """Six hexadecimal digits that name a resolved experiment."""
    canonical = json.dumps(to_json_values(resolved_experiment), sort_keys=True, separators=(",", ":"))
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
        raise ConfigError(f"out={root}: cannot be written: {first_line_of(error)}") from error


def _node_columns(sample: Sample) -> dict[str, Column]:
    nodes = sample.nodes
    return {
        "time_ns": np.full(len(nodes), sample.time_ns, dtype=np.int64),
        "node": np.array([n.node for n in nodes], dtype=np.int32),
        "accuracy": np.array([n.accuracy for n in nodes], dtype=np.float64),
        "loss": np.array([n.loss for n in nodes], dtype=np.float64),
        "loss_seen": np.array([n.loss_seen for n in nodes], dtype=np.float64),
        **{
            figure.name: np.array(
                [getattr(n.counters, figure.name) for n in nodes], dtype=np.int64 if figure.is_whole else np.float64
            )
            for figure in NODE_FIGURES
        },
    }


def _curve_row(sample: Sample, columns: Mapping[str, Column], facts: RunFacts) -> dict[str, float | int | None]:
    """One line of ``curve.csv``. None where a figure does not apply, which is not the same as NaN."""
    stragglers = facts.stragglers
    slow = np.isin(columns["node"], sorted(stragglers))
    # Without stragglers there are no two groups to tell apart. Stragglers that have all died leave the other group.
    fast = ~slow if stragglers else np.zeros_like(slow)
    accuracy, loss, rounds = columns["accuracy"], columns["loss"], columns["rounds"]
    trained = columns["train_loss"][~np.isnan(columns["train_loss"])]
    everyone = np.ones_like(slow)
    # A node without test samples has no figures. The loss of a tested one may be not a number: its model diverged.
    tested = np.array([node.is_tested for node in sample.nodes], dtype=bool)
    has_seen = tested & (np.isnan(loss) | ~np.isnan(columns["loss_seen"]))
    any_tested = bool(tested.any())
    return {
        "time_s": ns_to_s(sample.time_ns),
        "accuracy_mean": _mean(accuracy, tested),
        "accuracy_min": float(accuracy[tested].min()) if any_tested else None,
        "accuracy_max": float(accuracy[tested].max()) if any_tested else None,
        "loss_mean": _mean(loss, tested),
        "loss_min": float(loss[tested].min()) if any_tested else None,
        "loss_max": float(loss[tested].max()) if any_tested else None,
        "accuracy_mean_fast": _mean(accuracy, tested & fast),
        "accuracy_mean_stragglers": _mean(accuracy, tested & slow),
        "loss_mean_fast": _mean(loss, tested & fast),
        "loss_mean_stragglers": _mean(loss, tested & slow),
        "train_loss_mean": float(trained.mean()) if trained.size else None,
        "rounds_mean": _mean(rounds, everyone),
        "rounds_min": int(rounds.min()) if rounds.size else None,
        "rounds_max": int(rounds.max()) if rounds.size else None,
        "bytes_sent": sample.bytes_sent,
        "queued_messages": int(columns["queued_messages"].sum()),
        "consensus_distance": _unless_nan(sample.consensus_distance),
        "loss_seen_mean": _mean(columns["loss_seen"], has_seen) if facts.metric == "rmse" else None,
        "accuracy_averaged": _unless_nan(sample.averaged_accuracy),
        "loss_averaged": _unless_nan(sample.averaged_loss),
    }


def _unless_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


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


def _messages_table(messages: Mapping[str, Column], tags: Mapping[int, str]) -> Any:
    missing = [name for name in MESSAGE_COLUMNS if name not in messages]
    assert not missing, f"messages lack the columns {missing}"
    arrays = []
    for name, kind in MESSAGE_COLUMNS.items():
        values = np.asarray(messages[name])
        if name == "kind":
            values, kind = _tag_codes(values, sorted(tags)), tuple(tags[tag] for tag in sorted(tags))
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


def _tag_codes(values: Column, numbers: Sequence[int]) -> Column:
    """Tags' numbers as places among all numbers, which are increasing."""
    places = np.searchsorted(numbers, values)
    assert np.isin(values, numbers).all(), "a message has a tag that the run's facts do not name"
    return places


def _float_column(values: Sequence[float | int | None]) -> Float64Vector:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _write_parquet(path: Path, table: Any) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # by its name Arrow would not find a file whose path is not UTF-8
            pq.write_table(table, file, compression="zstd")

    write_atomically(path, write)


def _write(path: Path, text: str) -> None:
    write_file(path, text.encode())


def _yaml(value: Mapping[str, Any]) -> str:
    return dump_yaml(to_json_values(value))


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
        "message_tags": dict(facts.message_tags),
        "class_names": facts.class_names,
        "num_params": facts.num_params,
        "end_s": facts.end_s,
        "details": dict(facts.details),
        "command": facts.command,
        "schedule": [entry.to_json() for entry in facts.schedule],
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
