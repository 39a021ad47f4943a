"""Models that nodes handed over: kept on the disk until they are tested, and to resume from.

Testing takes as long as it takes, after the run or beside it; the experiment does not wait for it. The folder holds a
file a model and two lists that only grow, so that a run that is killed leaves what it had.

``index.jsonl`` has a line for each model, ``tested.jsonl`` one for each instant whose models were tested: with it a
run that is resumed writes its curve anew without testing anything twice. ``parts.jsonl`` and ``messages-<k>.npz`` hold
what the parts of a run counted and recorded that ended before the run did.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from node.config import Beginning
from node.core.counters import NodeCounters, counter_values, counters_from
from node.core.errors import ConfigError, RunnerError
from node.core.types import NodeId, Vector
from node.transport.control_values import ModelSnapshot, SnapshotPurpose
from orchestrator.results.files import first_line_of, to_json_values, write_file
from orchestrator.results.schema import Column, NodeSample, Sample
from orchestrator.runs.evaluation import consensus_distance


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model on the disk and the node's state when it was taken."""

    time_ns: int
    node: int
    counters: NodeCounters
    to_resume: bool = False
    """It is there to resume from only; it is no part of the curve."""


@dataclass(frozen=True, slots=True)
class Part:
    """Counts of a part of a run that ended before the run did.

    Attributes:
        begin_ns, end_ns: From when to when, testbed time.
        wall_s: Real time that it took.
        counters: What each node counted, in node order.
        has_messages: Whether its messages were recorded.
    """

    begin_ns: int
    end_ns: int
    wall_s: float
    counters: list[NodeCounters]
    has_messages: bool = False


@dataclass(frozen=True, eq=False)
class Earlier:
    """The past of a run that goes on.

    Attributes:
        time_ns: Where it goes on.
        models: The model of each node then, in node order.
        samples: The evaluations so far, in order.
        parts: The parts so far, in order.
        messages: Their messages, in order: columns as of :func:`node.runtime.message_records.join`.
    """

    time_ns: int
    models: list[tuple[StoredModel, Vector]]
    samples: list[Sample]
    parts: list[Part]
    messages: list[dict[str, Column]]

    def rounds(self) -> list[int]:
        """Return the number of each node's next round: beyond all that it began, so that a number is given once.

        Rounds whose work is lost, because they came after the model that is gone on with, have their numbers too.
        """
        done = [stored.counters.rounds for stored, _ in self.models]
        for node in range(len(done)):
            done[node] = max(done[node], sum(part.counters[node].rounds for part in self.parts))
        for table in self.messages:
            last = np.full(len(done), -1, dtype=np.int64)
            np.maximum.at(last, table["sender"], table["round"])
            done = [max(own, int(sent) + 1) for own, sent in zip(done, last, strict=True)]
        return done

    def beginnings(self, *, aligned: bool) -> list[Beginning]:
        """Return where each node begins that goes on; ``aligned`` gives all the same round."""
        rounds = self.rounds()
        if aligned:
            rounds = [max(rounds)] * len(rounds)
        return [
            Beginning(params, first, stored.counters.local_steps)
            for first, (stored, params) in zip(rounds, self.models, strict=True)
        ]


class Snapshots:
    """The folder of one run.

    State:
        _times: instant -> node -> what is stored; instants in no order.
        _tested_ns: The last instant that was handed on for testing; -1 before the first.
    """

    def __init__(self, folder: Path, is_down: Callable[[int, int], bool] = lambda node, time_ns: False) -> None:
        """Only store; ``is_down`` tells whether a node is planned to be down at a time, and so hands over nothing."""
        self._folder = folder
        self._is_down = is_down
        self._times: dict[int, dict[int, StoredModel]] = {}
        self._final: dict[int, tuple[StoredModel, Vector]] = {}
        self._tested_ns = -1

    @classmethod
    def create(cls, folder: Path, is_down: Callable[[int, int], bool] = lambda node, time_ns: False) -> "Snapshots":
        """Make an empty folder; ``is_down`` as of the class.

        Raises:
            RunnerError: It cannot be made.
        """
        try:
            folder.mkdir()
        except OSError as error:
            raise RunnerError(f"{folder}: cannot be made: {first_line_of(error)}") from error
        return cls(folder, is_down)

    def keep(self, snapshot: ModelSnapshot, params: Vector) -> None:
        """Store a model. One that marks the end is stored once all of them are there; see
        :meth:`close_with_final`.

        Raises:
            RunnerError: The disk is full, or it cannot be written for another reason.
        """
        stored = StoredModel(snapshot.time_ns, snapshot.node, snapshot.counters)
        if snapshot.purpose is SnapshotPurpose.FINAL:
            self._final[snapshot.node] = (stored, params)
            return
        self._store(stored, params)

    def _store(self, stored: StoredModel, params: Vector) -> None:
        try:
            np.save(self._file(stored.time_ns, stored.node), params, allow_pickle=False)
            self._append("index.jsonl", stored)
        except OSError as error:
            raise RunnerError(f"{self._folder}: cannot be written: {first_line_of(error)}") from error
        self._times.setdefault(stored.time_ns, {})[stored.node] = stored

    def close_with_final(self, *, to_resume: bool) -> None:
        """Take the nodes' last models as one more instant, the latest of theirs.

        ``to_resume``: the run was interrupted; else its rounds are over, and the instant is the curve's last.
        """
        if not self._final:
            return
        time_ns = max(stored.time_ns for stored, _ in self._final.values())
        if time_ns not in self._times:
            for stored, params in self._final.values():
                self._store(replace(stored, time_ns=time_ns, to_resume=to_resume), params)
        self._final.clear()

    def _file(self, time_ns: int, node: int) -> Path:
        return self._folder / f"t{time_ns:019d}-n{node:05d}.npy"

    def _append(self, name: str, value: object) -> None:
        with (self._folder / name).open("a", encoding="utf-8") as lines:
            lines.write(_line(value) + "\n")

    def last_model(self, node: int) -> Vector | None:
        """Return the model that a node handed over last for evaluation; None if it has not.

        Raises:
            RunnerError: It cannot be read.
        """
        last = max((time_ns for time_ns, stored in self._times.items() if node in stored), default=None)
        return None if last is None else self._load(last, node)

    # -- testing ---------------------------------------------------------------------------------------------

    def next_complete(self, expected: Callable[[int], frozenset[int]]) -> int | None:
        """The next instant in order that all nodes expected then have handed over, and that was not tested."""
        time_ns = self.next_any()
        return time_ns if time_ns is not None and expected(time_ns) <= self._times[time_ns].keys() else None

    def next_any(self) -> int | None:
        """The next instant in order that was not tested, complete or not."""
        waiting = (time_ns for time_ns, stored in self._times.items() if time_ns > self._tested_ns and _counts(stored))
        return min(waiting, default=None)

    def take(self, time_ns: int) -> tuple[Sample, dict[NodeId, Vector]]:
        """Return an instant's sample without results, and the models that are to be tested for it. Each once.

        Raises:
            RunnerError: A model cannot be read.
        """
        stored = self._times[time_ns]
        models = {NodeId(node): self._load(time_ns, node) for node in sorted(stored)}
        self._tested_ns = time_ns
        nodes = tuple(NodeSample.untested(node, stored[node].counters) for node in sorted(stored))
        return Sample(time_ns, nodes, self._bytes_sent(time_ns), consensus_distance(models)), models

    def _bytes_sent(self, time_ns: int) -> int:
        """By all nodes until an instant; of one that has died, until it handed over its last model."""
        last: dict[int, int] = {}
        for instant in sorted(self._times):
            if instant <= time_ns:
                last |= {node: stored.counters.bytes_sent for node, stored in self._times[instant].items()}
        return sum(last.values())

    def tested(self, sample: Sample) -> None:
        """Note the results of an instant."""
        try:
            self._append("tested.jsonl", sample)
        except OSError as error:
            raise RunnerError(f"{self._folder}: cannot be written: {first_line_of(error)}") from error

    def _load(self, time_ns: int, node: int) -> Vector:
        path = self._file(time_ns, node)
        try:
            params: Vector = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunnerError(f"{path}: damaged: {first_line_of(error)}") from error
        return params

    # -- the end, and going on -------------------------------------------------------------------------------

    def remove(self) -> None:
        """The run is complete and nothing is to be resumed."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def drop_before_last(self, nodes: int) -> None:
        """Keep the models of the last instant that all nodes handed over; of the others only what was found."""
        last = self._last_complete(nodes)
        kept = {} if last is None else _models_at(self._times, last, nodes)
        for time_ns, stored in self._times.items():
            if time_ns != last and time_ns <= self._tested_ns:
                for node in stored:
                    if kept.get(node) is not stored[node]:
                        self._file(time_ns, node).unlink(missing_ok=True)

    def _last_complete(self, nodes: int) -> int | None:
        """The last instant that all nodes have handed over which are not planned to be down then."""
        complete = (
            time_ns
            for time_ns, stored in self._times.items()
            if all(node in stored or self._is_down(node, time_ns) for node in range(nodes))
        )
        return max(complete, default=None)

    def end_part(self, part: Part, messages: Mapping[str, Column] | None) -> None:
        """Keep what a part did that ended before the run did."""
        number = sum(1 for _ in _lines(self._folder / "parts.jsonl"))
        try:
            if messages is not None:
                np.savez(self._folder / f"messages-{number}.npz", allow_pickle=False, **messages)
            self._append("parts.jsonl", replace(part, has_messages=messages is not None))
        except OSError as error:
            raise RunnerError(f"{self._folder}: cannot be written: {first_line_of(error)}") from error

    @classmethod
    def reopen(
        cls, folder: Path, nodes: int, is_down: Callable[[int, int], bool] = lambda node, time_ns: False
    ) -> "tuple[Snapshots, Earlier]":
        """Go on from the last instant that all nodes handed over. What is later is removed.

        Returns:
            The folder, and what the run has behind it.

        Raises:
            ConfigError: There is nothing to resume from, or it is damaged.
        """
        self = cls(folder, is_down)
        try:
            for stored in (StoredModel(**_with_counters(line)) for line in _lines(folder / "index.jsonl")):
                self._times.setdefault(stored.time_ns, {})[stored.node] = stored
            samples = [_sample(line) for line in _lines(folder / "tested.jsonl")]
            parts = [
                Part(**{**line, "counters": [counters_from(values) for values in line["counters"]]})
                for line in _lines(folder / "parts.jsonl")
            ]
        except (TypeError, KeyError, ValueError) as error:
            raise ConfigError(f"{folder}: damaged: {first_line_of(error)}") from error
        last = self._last_complete(nodes)
        if last is None:
            raise ConfigError(f"{folder}: nothing to resume from: no instant that all {nodes} nodes handed over")
        samples = [sample for sample in samples if sample.time_ns <= last]
        self._tested_ns = max((sample.time_ns for sample in samples), default=-1)
        try:
            models = [
                (stored, self._load(stored.time_ns, stored.node))
                for stored in _models_at(self._times, last, nodes).values()
            ]
            messages = [
                _messages(folder / f"messages-{number}.npz") for number, part in enumerate(parts) if part.has_messages
            ]
            self.forget_from(last + 1)
            kept = [stored for _, each in sorted(self._times.items()) for _, stored in sorted(each.items())]
            for name, values in (("index.jsonl", kept), ("tested.jsonl", samples)):
                lines = "".join(_line(value) + "\n" for value in values)
                write_file(folder / name, lines.encode())
        except RunnerError as error:
            raise ConfigError(str(error)) from error
        return self, Earlier(last, models, samples, parts, messages)

    def forget_from(self, time_ns: int) -> None:
        """Drop the models of an instant and of all later ones: the experiment had ended by then."""
        for instant in [instant for instant in self._times if instant >= time_ns]:
            for node in self._times.pop(instant):
                self._file(instant, node).unlink(missing_ok=True)


def _models_at(times: Mapping[int, Mapping[int, StoredModel]], time_ns: int, nodes: int) -> dict[int, StoredModel]:
    """Return the model of each node at an instant: of one that is down, the last one before."""
    found: dict[int, StoredModel] = {}
    for instant in sorted(times):
        if instant <= time_ns:
            found |= times[instant]
    return {node: found[node] for node in range(nodes)}


def _counts(stored: dict[int, StoredModel]) -> bool:
    return not any(one.to_resume for one in stored.values())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a list; a last one that was cut off does not count."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    complete, _, _ = text.rpartition("\n")
    for number, line in enumerate(complete.splitlines()):
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}: damaged: line {number + 1}: {error}") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: damaged: line {number + 1}: must hold keys and values")
        yield content


def _messages(path: Path) -> dict[str, Column]:
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ConfigError(f"{path}: damaged: {first_line_of(error)}") from error


def _line(value: object) -> str:
    """Write a value as one line of JSON; of a node's figures only what is not as at the start."""
    return json.dumps(to_json_values(_fields(value)))


def _fields(value: object) -> object:
    if isinstance(value, NodeCounters):
        return counter_values(value)
    if isinstance(value, list | tuple):
        return [_fields(one) for one in value]
    if is_dataclass(value):
        return {field.name: _fields(getattr(value, field.name)) for field in fields(value)}
    return value


def _with_counters(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "counters": counters_from(line["counters"])}


def _with_nan(line: dict[str, Any]) -> dict[str, Any]:
    return {key: float("nan") if value is None else value for key, value in line.items()}


def _sample(line: dict[str, Any]) -> Sample:
    rows = tuple(NodeSample(**_with_counters(_with_nan(node))) for node in line["nodes"])
    return Sample(**{**_with_nan(line), "nodes": rows})
