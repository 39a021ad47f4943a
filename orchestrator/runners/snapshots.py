"""Models that nodes handed over: kept on the disk until they are tested, and to resume from.

Testing takes as long as it takes, after the run or beside it; the experiment does not wait for it. The folder holds a
file a model and two lists that only grow, so that a run that is killed leaves what it had.

``index.jsonl`` has a line for each model, ``tested.jsonl`` one for each instant whose models were tested: with it a
run that is resumed writes its curve anew without testing anything twice.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from node.core.errors import ConfigError, RunnerError
from node.core.training import Evaluator
from node.core.types import NodeId, Vector
from node.transport.control_values import SnapshotInfo, SnapshotPurpose
from orchestrator.results.files import plain, reason
from orchestrator.results.schema import NodeSample, Sample
from orchestrator.runners.figures import consensus_distance


@dataclass(frozen=True, slots=True)
class Stored:
    """A model on the disk and the node's state when it was taken."""

    time_ns: int
    node: int
    train_loss: float
    rounds: int
    local_steps: int
    bytes_sent: int
    queued_messages: int


class Snapshots:
    """The folder of one run.

    State:
        _times: instant -> node -> what is stored; instants in no order.
        _tested_ns: The last instant that was handed on for testing; -1 before the first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._times: dict[int, dict[int, Stored]] = {}
        self._final: dict[int, tuple[Stored, Vector]] = {}
        self._tested_ns = -1

    @classmethod
    def create(cls, folder: Path) -> "Snapshots":
        """Make an empty folder.

        Raises:
            RunnerError: It cannot be made.
        """
        try:
            folder.mkdir()
        except OSError as error:
            raise RunnerError(f"{folder}: cannot be made: {reason(error)}") from error
        return cls(folder)

    def keep(self, info: SnapshotInfo, params: Vector) -> None:
        """Store a model. One that marks the end is stored once all of them are there; see :meth:`close_with`.

        Raises:
            RunnerError: The disk is full, or it cannot be written for another reason.
        """
        stored = Stored(
            time_ns=info.time_ns,
            node=info.node,
            train_loss=float("nan") if info.training_loss is None else info.training_loss,
            rounds=info.rounds,
            local_steps=info.local_steps,
            bytes_sent=info.sent_bytes,
            queued_messages=info.outbox_messages,
        )
        if info.purpose is SnapshotPurpose.FINAL:
            self._final[info.node] = (stored, params)
            return
        self._store(stored, params)

    def _store(self, stored: Stored, params: Vector) -> None:
        try:
            np.save(self._file(stored.time_ns, stored.node), params, allow_pickle=False)
            self._append("index.jsonl", asdict(stored))
        except OSError as error:
            raise RunnerError(f"{self._folder}: cannot be written: {reason(error)}") from error
        self._times.setdefault(stored.time_ns, {})[stored.node] = stored

    def close_with_final(self) -> None:
        """Take the nodes' last models as one more instant, the latest of theirs: the run ended by rounds."""
        if not self._final:
            return
        time_ns = max(stored.time_ns for stored, _ in self._final.values())
        for stored, params in self._final.values():
            self._store(Stored(**{**asdict(stored), "time_ns": time_ns}), params)
        self._final.clear()

    def _file(self, time_ns: int, node: int) -> Path:
        return self._folder / f"t{time_ns:019d}-n{node:05d}.npy"

    def _append(self, name: str, value: object) -> None:
        with (self._folder / name).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(plain(value)) + "\n")

    # -- testing ---------------------------------------------------------------------------------------------

    def next_complete(self, alive: frozenset[int]) -> int | None:
        """The next instant in order that all living nodes have handed over, and that was not tested."""
        waiting = sorted(time_ns for time_ns in self._times if time_ns > self._tested_ns)
        if not waiting or not alive <= self._times[waiting[0]].keys():
            return None
        return waiting[0]

    def next_any(self) -> int | None:
        """The next instant in order that was not tested, complete or not."""
        return min((time_ns for time_ns in self._times if time_ns > self._tested_ns), default=None)

    def submit(self, time_ns: int, evaluator: Evaluator) -> Sample:
        """Have an instant's models tested, under its time as the ticket; returns the sample without the results."""
        stored = self._times[time_ns]
        models = {NodeId(node): self._load(time_ns, node) for node in sorted(stored)}
        evaluator.submit(time_ns, models)
        self._tested_ns = time_ns
        nodes = tuple(
            NodeSample(
                node=node,
                accuracy=float("nan"),
                loss=float("nan"),
                train_loss=stored[node].train_loss,
                rounds=stored[node].rounds,
                local_steps=stored[node].local_steps,
                bytes_sent=stored[node].bytes_sent,
                queued_messages=stored[node].queued_messages,
            )
            for node in sorted(stored)
        )
        return Sample(time_ns, nodes, sum(node.bytes_sent for node in nodes), consensus_distance(models))

    def tested(self, sample: Sample) -> None:
        """Note the results of an instant."""
        try:
            self._append("tested.jsonl", asdict(sample))
        except OSError as error:
            raise RunnerError(f"{self._folder}: cannot be written: {reason(error)}") from error

    def _load(self, time_ns: int, node: int) -> Vector:
        path = self._file(time_ns, node)
        try:
            params: Vector = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunnerError(f"{path}: damaged: {reason(error)}") from error
        return params

    # -- the end, and going on -------------------------------------------------------------------------------

    def remove(self) -> None:
        """The run is complete and nothing is to be resumed."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def drop_before_last(self, nodes: int) -> None:
        """Keep the models of the last instant that all nodes handed over; of the others only what was found."""
        last = self._last_complete(nodes)
        for time_ns, stored in self._times.items():
            if time_ns != last and time_ns <= self._tested_ns:
                for node in stored:
                    self._file(time_ns, node).unlink(missing_ok=True)

    def _last_complete(self, nodes: int) -> int | None:
        complete = [time_ns for time_ns, stored in self._times.items() if len(stored) == nodes]
        return max(complete, default=None)

    @classmethod
    def reopen(cls, folder: Path, nodes: int) -> "tuple[Snapshots, int, list[tuple[Stored, Vector]], list[Sample]]":
        """Go on from the last instant that all nodes handed over. What is later is removed.

        Returns:
            The folder; that instant; its models, in node order; and the samples tested so far, in order.

        Raises:
            ConfigError: There is nothing to resume from, or it is damaged.
        """
        self = cls(folder)
        for stored in (Stored(**_with_nan(line)) for line in _lines(folder / "index.jsonl")):
            self._times.setdefault(stored.time_ns, {})[stored.node] = stored
        last = self._last_complete(nodes)
        if last is None:
            raise ConfigError(
                f"{folder}: nothing to resume from: there is no instant that all {nodes} nodes handed over"
            )
        samples = [sample for line in _lines(folder / "tested.jsonl") if (sample := _sample(line)).time_ns <= last]
        self._tested_ns = max((sample.time_ns for sample in samples), default=-1)
        for time_ns in [time_ns for time_ns in self._times if time_ns > last]:
            for node in self._times.pop(time_ns):
                self._file(time_ns, node).unlink(missing_ok=True)
        try:
            models = [(self._times[last][node], self._load(last, node)) for node in range(nodes)]
            for name, values in (("index.jsonl", self._all()), ("tested.jsonl", samples)):
                (folder / name).unlink(missing_ok=True)
                for value in values:
                    self._append(name, asdict(value))
        except RunnerError as error:
            raise ConfigError(str(error)) from error
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written: {reason(error)}") from error
        return self, last, models, samples

    def _all(self) -> Iterator[Stored]:
        for time_ns in sorted(self._times):
            yield from (self._times[time_ns][node] for node in sorted(self._times[time_ns]))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a list; a last one that was cut off does not count."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    complete, _, _ = text.rpartition("\n")
    for number, line in enumerate(complete.splitlines()):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}: damaged: line {number + 1}: {error}") from error


def _with_nan(line: dict[str, Any]) -> dict[str, Any]:
    return {key: float("nan") if value is None else value for key, value in line.items()}


def _sample(line: dict[str, Any]) -> Sample:
    rows = tuple(NodeSample(**_with_nan(node)) for node in line["nodes"])
    return Sample(**{**_with_nan(line), "nodes": rows})
