"""Addresses of a run's metrics, in a file for Prometheus' ``file_sd``: a small one for each run in progress.

Prometheus watches the folder, :data:`TARGETS` of the state folder. A file is there whole or not at all. A label that
Prometheus does not keep names the process that wrote it: what a killed one left is removed by the next run.

Nothing here may fail a run: where the folder cannot be written, the run is only not found.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from node.core.errors import RunnerError
from node.host.text_files import UnreadableText, parse_json, read_text
from orchestrator.containers.ownership import Fate, Owner, fate_of
from orchestrator.host.state_folder import files_of_the_living, own_file
from orchestrator.results.files import write_file

TARGETS: Final = "targets"
"""Name of the folder."""

OWNER_LABEL: Final = "__fragmesh_owner"
"""Label of the process; Prometheus drops what begins so."""

_FILE_BYTES_MAX: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ScrapeTarget:
    """Something that serves metrics.

    Attributes:
        address: Where, host:port.
        labels: What its series are told apart by.
    """

    address: str
    labels: Mapping[str, str]


class ScrapeTargets:
    """The file of one run.

    Args:
        run: The run's name.
        owner: The process that runs it.
        tell: Tells the user that the file cannot be written; called once at most.
    """

    def __init__(self, run: str, owner: Owner, tell: Callable[[str], None]) -> None:
        self._owner = owner.to_label()
        self._path = own_file(TARGETS, run, owner)
        self._tell: Callable[[str], None] | None = tell

    def write(self, targets: Sequence[ScrapeTarget]) -> None:
        """Write what there is to scrape now, in place of what there was."""
        content = [
            {"targets": [target.address], "labels": {**target.labels, OWNER_LABEL: self._owner}} for target in targets
        ]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_file(self._path, json.dumps(content, indent=1).encode())
        except (OSError, RunnerError) as error:
            if self._tell is not None:
                self._tell(f"Prometheus will not find this run: {error}")
                self._tell = None

    def remove(self) -> None:
        """Remove the file, if it is there."""
        with suppress(OSError):
            self._path.unlink()


def remove_dead_targets() -> None:
    """Remove the files of processes that are gone; those that cannot be judged from here stay."""
    for _ in files_of_the_living(TARGETS, partial(_read, here=Owner.of_this_process())):
        pass


def _read(path: Path, here: Owner) -> tuple[Path, Fate] | None:
    try:
        first = parse_json(read_text(path, _FILE_BYTES_MAX))[0]
        return path, fate_of(Owner.from_label(first["labels"][OWNER_LABEL]), here)[0]
    except (UnreadableText, ValueError, LookupError, TypeError):
        return None
