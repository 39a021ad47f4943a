"""The runs in progress of this user: a small file for each, which names its process and its directory.

A run enters itself, and takes itself out when it ends. What a killed process left is taken out by whoever sees it.
Nothing here may fail a run: where the folder cannot be written, the run is only not listed.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.core.errors import RunnerError
from node.host.text_files import UnreadableText, parse_json, read_text
from orchestrator.containers.ownership import Fate, Owner, fate_of
from orchestrator.host.state_folder import state_folder
from orchestrator.results.files import write_file

RUNS: Final = "runs"
"""Name of the folder of entries."""

_ENTRY_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class RegisteredRun:
    """One run.

    Attributes:
        path: Its directory.
        fate: Whether its process lives; ``foreign`` where that cannot be told from here.
        words: The same for people.
    """

    path: Path
    fate: Fate
    words: str


@contextmanager
def registered(run: Path, owner: Owner) -> Iterator[None]:
    """List a run, which ``owner`` runs, as in progress for as long as the block lasts."""
    label = owner.to_label()
    # By all that tells the process: machines and containers may share the folder.
    entry = state_folder(RUNS) / f"{owner.pid}-{hashlib.sha256(label.encode()).hexdigest()[:12]}.json"
    with suppress(OSError, RunnerError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_file(entry, json.dumps({"run": os.path.abspath(run), "owner": label}).encode())
    try:
        yield
    finally:
        with suppress(OSError):
            entry.unlink()


def runs_in_progress() -> list[RegisteredRun]:
    """Return the runs in progress, in order of their directories; entries of processes that are gone are removed."""
    here, found = Owner.of_this_process(), []
    for entry in state_folder(RUNS).glob("*.json"):
        run = _read(entry, here)
        if run is not None and run.fate == "gone":
            with suppress(OSError):
                entry.unlink()
        elif run is not None:
            found.append(run)
    return sorted(found, key=lambda run: run.path)


def _read(entry: Path, here: Owner) -> RegisteredRun | None:
    """Read an entry; None where it is none of ours, or has just been removed."""
    try:
        content = parse_json(read_text(entry, _ENTRY_BYTES_MAX))
        return RegisteredRun(Path(content["run"]), *fate_of(Owner.from_label(content["owner"]), here))
    except (UnreadableText, ValueError, KeyError, TypeError):
        return None
