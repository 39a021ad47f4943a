"""The folder of what the testbed remembers of this user between commands, for which no run directory is the place.

Some of its folders hold a file for each process that runs something. Whoever looks there removes those of the dead.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from orchestrator.containers.ownership import Fate, Owner

_Entry = TypeVar("_Entry")


def state_folder(name: str) -> Path:
    """Return the folder for one kind of it, which may not exist yet: below ``$XDG_STATE_HOME/fragmesh``.

    Without that variable it is ``~/.local/state/fragmesh``.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):  # the convention has any other value ignored
        return Path(base) / "fragmesh" / name
    try:
        return Path.home() / ".local" / "state" / "fragmesh" / name
    except RuntimeError:  # no HOME, and a user of whom the host knows nothing, as in many containers
        return Path(tempfile.gettempdir()) / f"fragmesh-state-{os.getuid()}" / name


def own_file(name: str, prefix: str, owner: Owner) -> Path:
    """Return the file of one process in such a folder.

    All that tells the process is in its name: machines and containers may share the folder.
    """
    return state_folder(name) / f"{prefix}-{hashlib.sha256(owner.to_label().encode()).hexdigest()[:12]}.json"


def files_of_the_living(name: str, read: Callable[[Path], tuple[_Entry, Fate] | None]) -> Iterator[_Entry]:
    """Yield what is in such a folder, and remove the files of processes that are gone.

    Args:
        name: The folder.
        read: Reads a file, and tells what became of its process; None where it is none of ours, or was just removed.
    """
    for path in state_folder(name).glob("*.json"):
        if (found := read(path)) is None:
            continue
        entry, fate = found
        if fate != "gone":
            yield entry
            continue
        with suppress(OSError):
            path.unlink()
