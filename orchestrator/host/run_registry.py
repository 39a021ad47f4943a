"""The runs in progress of this user: a small file for each, which names its process and its directory.

A run enters itself, and takes itself out when it ends. What a killed process left is taken out by whoever sees it.
Nothing here may fail a run: where the folder cannot be written, the run is only not listed.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from node.core.errors import RunnerError
from node.host.text_files import UnreadableText, parse_json, read_text
from orchestrator.containers.ownership import Fate, Owner, fate_of
from orchestrator.host.state_folder import files_of_the_living, own_file
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
    entry = own_file(RUNS, str(owner.pid), owner)
    with suppress(OSError, RunnerError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_file(entry, json.dumps({"run": os.path.abspath(run), "owner": owner.to_label()}).encode())
    try:
        yield
    finally:
        with suppress(OSError):
            entry.unlink()


def runs_in_progress() -> list[RegisteredRun]:
    """Return the runs in progress, in order of their directories; entries of processes that are gone are removed."""
    found = files_of_the_living(RUNS, partial(_read, here=Owner.of_this_process()))
    return sorted(found, key=lambda run: run.path)


def _read(entry: Path, here: Owner) -> tuple[RegisteredRun, Fate] | None:
    try:
        content = parse_json(read_text(entry, _ENTRY_BYTES_MAX))
        fate, words = fate_of(Owner.from_label(content["owner"]), here)
        return RegisteredRun(Path(content["run"]), fate, words), fate
    except (UnreadableText, ValueError, KeyError, TypeError):
        return None
