"""Reading a run directory, also that of a run that was killed."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from node.core.bounds import INT64_MAX, RECORD_BYTES_MAX
from node.core.errors import ConfigError
from node.core.types import Float64Vector
from node.core.units import NS_PER_S
from node.host.text_files import UnreadableText, parse_json, read_text
from orchestrator.results.fault_instants import FaultInstant
from orchestrator.results.fault_table import read_fault_csv
from orchestrator.results.files import first_line_of, value_at
from orchestrator.results.record_shapes import problem_of_fidelity, problem_of_summary
from orchestrator.results.recorded_schedule import RecordedEntry
from orchestrator.results.schema import (
    ADDED_COLUMNS,
    CURVE_COLUMNS,
    MESSAGE_COLUMNS,
    NODE_COLUMNS,
    Column,
    EndStatus,
    JsonObject,
    RunFacts,
    Status,
)
from orchestrator.yaml_text import parse_yaml

RUNS_NAMED: Final = 3
"""Runs in a folder that a message names: the last ones."""


CURVE_TIME_S_MAX: Final = INT64_MAX / NS_PER_S
"""The latest time that the clock of a run can tell; runs that end by rounds may pass the longest time of a file."""


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
            None if missing or not asked for. Runs of older versions lack :data:`ADDED_COLUMNS`.
        links: Columns of ``links.csv``; None if missing.
        faults: Lines of ``faults.csv``; None if missing.
        summary, fidelity, environment, experiment: The files of these names; None if missing.
    """

    path: Path
    facts: RunFacts
    status: Status
    curve: Mapping[str, Float64Vector]
    nodes: Mapping[str, Column] | None = None
    messages: Mapping[str, Column] | None = None
    links: Mapping[str, Column] | None = None
    faults: tuple[FaultInstant, ...] | None = None
    summary: JsonObject | None = None
    fidelity: JsonObject | None = None
    environment: JsonObject | None = None
    experiment: JsonObject | None = None

    @property
    def label(self) -> str:
        """The experiment's name."""
        return self.facts.name

    @property
    def algorithm(self) -> str:
        """Kind of the algorithm."""
        return self.facts.algorithm

    @property
    def seed(self) -> int:
        """Seed of the run's randomness."""
        return self.facts.seed

    def stated(self, *keys: str) -> Any:
        """A value of the experiment, by the keys that lead to it; None where it has none."""
        return value_at(self.experiment, *keys)

    @property
    def setting(self) -> str | None:
        """The experiment without its name, its seed and the choice of files, as text; None if it is unknown."""
        if self.experiment is None:
            return None
        rest = {key: value for key, value in self.experiment.items() if key not in ("name", "seed", "output")}
        return json.dumps(rest, sort_keys=True, default=str)

    @property
    def stated_targets(self) -> tuple[float, ...]:
        """Targets that the experiment states; empty where they are automatic."""
        return self.facts.targets if self.stated("output", "targets") else ()

    @property
    def metric(self) -> str:
        """The headline figure."""
        return self.facts.metric

    @property
    def higher_is_better(self) -> bool:
        """True where the headline figure should grow."""
        return self.facts.higher_is_better

    @property
    def times_s(self) -> Float64Vector:
        """Evaluation instants, shape (samples,)."""
        return self.curve["time_s"]

    @property
    def headline(self) -> Float64Vector:
        """Node average of the headline figure, shape (samples,)."""
        return self.curve[self.facts.headline_column]

    @property
    def worst_node(self) -> Float64Vector:
        """The worst node's headline figure, shape (samples,)."""
        return self.curve["accuracy_min" if self.metric == "accuracy" else "loss_max"]

    @property
    def averaged_model(self) -> Float64Vector:
        """Headline figure of the averaged model, shape (samples,); NaN in runs of earlier versions."""
        return self.curve["accuracy_averaged" if self.metric == "accuracy" else "loss_averaged"]

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
        raise ConfigError(f"{path}: {_instead_of_a_run(path)}")
    if not (path / "curve.csv").is_file():
        inside = sorted(child.parent.name for child in path.glob("*/curve.csv"))
        more = f" and {len(inside) - RUNS_NAMED} more" if len(inside) > RUNS_NAMED else ""
        hint = f"; runs inside it: {', '.join(inside[-RUNS_NAMED:])}{more}" if inside else ""
        raise ConfigError(f"{path}: not a run directory: curve.csv is missing{hint}")
    summary = _read_json(path / "summary.json")
    facts = _read_facts(path)
    return Run(
        path=path,
        facts=facts,
        status="partial" if summary is None else _status(summary, path),
        curve=_read_curve(path / "curve.csv"),
        nodes=_read_nodes(path / "nodes.parquet"),
        messages=_read_messages(path / "messages.parquet", facts.message_tags) if messages else None,
        links=_read_links(path / "links.csv"),
        faults=_read_faults(path / "faults.csv"),
        summary=summary,
        fidelity=_checked(_read_json(path / "fidelity.json"), problem_of_fidelity, path / "fidelity.json"),
        environment=_read_json(path / "environment.json"),
        experiment=_read_yaml(path / "experiment.yaml"),
    )


def _instead_of_a_run(path: Path) -> str:
    """Say what a path is that is no directory, and what to do."""
    if not path.is_file():
        return "no such run directory"
    if (path.parent / "curve.csv").is_file():
        return f"a file of a run, must be its directory: {path.parent}"
    if path.suffix.lower() in (".yaml", ".yml"):
        return "an experiment file, must be a run directory: fragmesh run makes one of it and prints where it is"
    return "a file, must be a run directory"


def _status(summary: JsonObject, path: Path) -> Status:
    status = summary.get("status")
    if status not in get_args(EndStatus):
        raise ConfigError(f"{path / 'summary.json'}: status={status!r}: not one of {', '.join(get_args(EndStatus))}")
    _checked(summary, problem_of_summary, path / "summary.json")
    return cast(Status, status)


def _checked(content: JsonObject | None, find: Callable[[JsonObject], str | None], path: Path) -> JsonObject | None:
    problem = None if content is None else find(content)
    if problem is not None:
        raise ConfigError(f"{path}: damaged: {problem}")
    return content


def _damaged(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path}: damaged: {first_line_of(error)}")


def _read_text(path: Path) -> str | None:
    try:
        return read_text(path, RECORD_BYTES_MAX)
    except UnreadableText as error:
        if error.is_missing:
            return None
        raise _damaged(path, error) from error


def _read_json(path: Path) -> JsonObject | None:
    text = _read_text(path)
    if text is None:
        return None
    try:
        value = parse_json(text)
    except ValueError as error:
        raise _damaged(path, error) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: damaged: not a JSON object")
    return value


def _read_yaml(path: Path) -> JsonObject | None:
    text = _read_text(path)
    if text is None:
        return None
    try:
        value = parse_yaml(text, place="damaged")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: damaged: must hold keys and values, holds {type(value).__name__}")
    return value


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
            message_tags={int(tag): str(name) for tag, name in raw.get("message_tags", {}).items()},
            class_names=names if raw["class_names"] is None else tuple(raw["class_names"]),
            partition_counts=counts,
            num_params=int(raw["num_params"]),
            end_s=None if raw["end_s"] is None else float(raw["end_s"]),
            details={str(key): str(value) for key, value in raw["details"].items()},
            command=str(raw["command"]),
            schedule=tuple(RecordedEntry.from_json(entry) for entry in raw.get("schedule", ())),
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
    if tuple(name for name in CURVE_COLUMNS if name in header or name not in ADDED_COLUMNS) != header:
        raise ConfigError(f"{path}: damaged: the first line does not name the columns {CURVE_COLUMNS[0]}, ...")
    rows = np.empty((len(lines) - 1, len(header)), dtype=np.float64)
    for number, line in enumerate(lines[1:]):
        cells = line.split(",")
        try:
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} values instead of {len(header)}")
            rows[number] = [float(cell) if cell else math.nan for cell in cells]
            if not 0 <= rows[number, 0] <= CURVE_TIME_S_MAX:
                raise ValueError(f"time_s={cells[0]}: must be between 0 and {CURVE_TIME_S_MAX:.3g}")
        except ValueError as error:
            raise ConfigError(f"{path}: damaged: line {number + 2}: {first_line_of(error)}") from error
    curve = {name: np.full(len(rows), math.nan) for name in CURVE_COLUMNS}
    return curve | {name: rows[:, index].copy() for index, name in enumerate(header)}


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


def _read_faults(path: Path) -> tuple[FaultInstant, ...] | None:
    text = _read_text(path)
    if text is None:
        return None
    try:
        return read_fault_csv(text)
    except ValueError as error:
        raise _damaged(path, error) from error


def _read_table(path: Path, columns: Mapping[str, Any]) -> Any | None:
    if not path.is_file():
        return None
    try:
        # From memory and in this thread: Arrow's own threads may still be at work when the interpreter ends, and then
        # they abort it. By its name, besides, Arrow would not find a file whose path is not UTF-8.
        with pq.ParquetFile(pa.BufferReader(path.read_bytes())) as file:
            there = set(file.schema_arrow.names)
            wanted = [name for name in columns if name in there or name not in ADDED_COLUMNS]
            return file.read(columns=wanted, use_threads=False).combine_chunks().select(wanted)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise _damaged(path, error) from error


def _read_nodes(path: Path) -> dict[str, Column] | None:
    table = _read_table(path, NODE_COLUMNS)
    if table is None:
        return None
    empty = {name: np.full(len(table), math.nan) for name in ADDED_COLUMNS if name in NODE_COLUMNS}
    return empty | {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def _read_messages(path: Path, tags: Mapping[int, str]) -> dict[str, Column] | None:
    table = _read_table(path, MESSAGE_COLUMNS)
    if table is None:
        return None
    columns: dict[str, Column] = {}
    for name in table.column_names:
        column, kind = table.column(name), MESSAGE_COLUMNS[name]
        if name == "kind":
            known = tags or dict(enumerate(column.unique().to_pylist()))  # where nobody kept facts.json
            columns[name] = np.array([*known, -1])[_codes(path, name, column, tuple(known.values()))]
        elif isinstance(kind, tuple):
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
        raise ConfigError(f"{path}: damaged: column {name}: {first_line_of(error)}") from error
    codes: npt.NDArray[np.int8] = code_of[array.indices.to_numpy(zero_copy_only=False)]
    return codes
