"""The record of a run in progress, from which others see how it stands: values, and their text.

A version stands in it. Another version's record is refused, because what its figures mean may have changed.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from node.core.bounds import INT64_MAX
from node.host.text_files import parse_json, shorten
from orchestrator.containers.ownership import Owner
from orchestrator.progress.run_progress import CurvePoint, NodeRow, RunProgress

VERSION: Final = 1

NOTES_KEPT: Final = 20
"""Notes of a run that its record holds: the last ones."""

_COUNTS: Final = ("time_ns", "rounds_min", "rounds_max", "messages_delivered", "bytes_sent")
"""Whole numbers of a progress that are always there."""


@dataclass(frozen=True, slots=True)
class LiveRecord:
    """State of a run as others see it.

    Attributes:
        owner: The process that runs it.
        name: The experiment's name.
        algorithm: Kind of its algorithm.
        runtime: Where its nodes run.
        nodes: How many there are.
        doing: What is done beside running the nodes, in words; empty while they run.
        progress: How far it is; None before the nodes run. Of the last evaluation only the figures.
        notes: The last of all notes, oldest first.
        notes_told: How many there were.
    """

    owner: Owner
    name: str
    algorithm: str
    runtime: str
    nodes: int
    doing: str = ""
    progress: RunProgress | None = None
    notes: tuple[str, ...] = ()
    notes_told: int = 0

    def with_note(self, text: str) -> "LiveRecord":
        """Add a note."""
        return replace(self, notes=(*self.notes, text)[-NOTES_KEPT:], notes_told=self.notes_told + 1)

    def notes_since(self, told: int) -> tuple[str, ...]:
        """Return the notes after the first ``told``, as far as they are kept."""
        new = max(0, self.notes_told - told)
        return self.notes[-new:] if new else ()


def live_text(record: LiveRecord) -> str:
    """Write a record as the text of a file."""
    content = {
        "version": VERSION,
        "owner": record.owner.to_label(),
        **{name: getattr(record, name) for name in ("name", "algorithm", "runtime", "nodes", "doing")},
        "progress": None if record.progress is None else _progress_to_json(record.progress),
        "notes": record.notes,
        "notes_told": record.notes_told,
    }
    return json.dumps(content, allow_nan=False)


def parse_live(text: str) -> LiveRecord:
    """Read what :func:`live_text` wrote.

    Raises:
        ValueError: It is something else, in a line.
    """
    content = parse_json(text)
    if not isinstance(content, Mapping):
        raise ValueError("not a JSON object")
    if (version := content.get("version")) != VERSION:
        raise ValueError(f"version={shorten(version)}: of another version of fragmesh, which alone can read it")
    try:
        owner, progress = Owner.from_label(content["owner"]), content["progress"]
        if owner is None:
            raise ValueError("owner: names no process")
        return LiveRecord(
            owner=owner,
            name=str(content["name"]),
            algorithm=str(content["algorithm"]),
            runtime=str(content["runtime"]),
            nodes=_count(content["nodes"]),
            doing=str(content["doing"]),
            progress=None if progress is None else _progress_from_json(progress),
            notes=tuple(map(str, content["notes"])),
            notes_told=_count(content["notes_told"]),
        )
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from error
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"a value of the wrong kind: {error}") from error


def _progress_to_json(progress: RunProgress) -> dict[str, Any]:
    point = progress.point
    return {
        **{name: getattr(progress, name) for name in _COUNTS},
        "end_ns": progress.end_ns,
        "wall_s": round(progress.wall_s, 3),
        "dilation": progress.dilation,
        "warnings": progress.warnings,
        "evaluated": None if point is None else {"time_ns": point.time_ns, "figures": _finite_figures(point)},
        "nodes": [_row_to_json(row) for row in progress.nodes],
    }


def _progress_from_json(kept: Mapping[str, Any]) -> RunProgress:
    end_ns, evaluated = kept["end_ns"], kept["evaluated"]
    return RunProgress(
        **{name: _count(kept[name]) for name in _COUNTS},
        end_ns=None if end_ns is None else _count(end_ns),
        wall_s=float(kept["wall_s"]),
        dilation=_number(kept["dilation"]),
        warnings=tuple(map(str, kept["warnings"])),
        sample=None if evaluated is None else CurvePoint(_count(evaluated["time_ns"]), _read_figures(evaluated)),
        nodes=tuple(_row_from_json(row) for row in kept["nodes"]),
    )


def _finite_figures(point: CurvePoint) -> dict[str, dict[str, float | None]]:
    return {name: {which: _finite(value) for which, value in row.items()} for name, row in point.figures.items()}


def _read_figures(evaluated: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    rows = {str(name): (row["mean"], row["min"], row["max"]) for name, row in evaluated["figures"].items()}
    return {
        name: dict(
            zip(("mean", "min", "max"), (math.nan if value is None else float(value) for value in row), strict=True)
        )
        for name, row in rows.items()
    }


def _row_to_json(row: NodeRow) -> dict[str, Any]:
    kept = {name: getattr(row, name) for name in NodeRow.__slots__}
    kept["loss"] = None if row.loss is None else _finite(row.loss)
    return kept


def _row_from_json(kept: Mapping[str, Any]) -> NodeRow:
    return NodeRow(
        node=_count(kept["node"]),
        state=str(kept["state"]),
        rounds=_count(kept["rounds"]),
        loss=_number(kept["loss"]),
        up_mbps=_number(kept["up_mbps"]),
        down_mbps=_number(kept["down_mbps"]),
        queued_messages=_count(kept["queued_messages"]),
        straggler=bool(kept["straggler"]),
        failed=bool(kept["failed"]),
        waits_for=tuple(map(_count, kept["waits_for"])),
    )


def _count(value: Any) -> int:
    count = int(value)
    if not 0 <= count <= INT64_MAX:
        raise ValueError(f"{shorten(value)} is no count")
    return count


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _finite(value: float) -> float | None:
    """A number that JSON knows; None for the others."""
    return value if math.isfinite(value) else None
