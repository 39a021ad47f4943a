"""Import matplotlib as it comes, whatever its user has set for it.

matplotlib reads its settings while it is imported: a backend from ``MPLBACKEND``, and a file ``matplotlibrc`` from the
working directory, from ``MATPLOTLIBRC`` or from the user's folder. A notebook leaves a backend to its children that
they cannot load, and one wrong line in a file stops the import. Figures of a run depend on none of it.
"""

import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

_SETTINGS: Final = {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
"""Environment of the import: a backend that draws into memory, and an empty file of settings."""


def import_matplotlib() -> ModuleType:
    """Import the module matplotlib, without the user's settings unless somebody has imported it before.

    Raises:
        ImportError: It is not installed, or a library that it needs is not.
        OSError: It finds no folder to keep its list of fonts in.
    """
    if "matplotlib" not in sys.modules:
        # Advice on settings that are not used, and on fonts, is no output of ours.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        with _environment(), _away_from_a_file_of_settings():
            return importlib.import_module("matplotlib")
    return sys.modules["matplotlib"]


@contextmanager
def _environment() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _SETTINGS}
    os.environ.update(_SETTINGS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _away_from_a_file_of_settings() -> Iterator[None]:
    """Leave the working directory where it holds a file that matplotlib would read before all others."""
    if not os.path.lexists("matplotlibrc"):
        yield
        return
    back = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chdir(Path(__file__).parent)
        yield
    finally:
        os.fchdir(back)
        os.close(back)
