"""The folder of what the testbed remembers of this user between commands, for which no run directory is the place."""

import os
import tempfile
from pathlib import Path


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
