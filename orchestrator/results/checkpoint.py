"""The file from which an interrupted run goes on: a header, JSON, and arrays as they lie in memory.

::

    8 bytes    magic, the last one counts versions of this format
    8 bytes    length of the JSON text, little-endian
    32 bytes   SHA-256 of all that follows
    JSON       what the checkpoint is of; structure of the state; type and shape of each array
    bytes      the arrays, one after the other

Nothing in it names code: :mod:`node.core.saved_state` says what a state may consist of.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import numpy as np

from node.core.errors import ConfigError
from node.core.saved_state import State
from orchestrator.results.files import first_line_of, temporary_of, write_atomically
from orchestrator.results.schema import JsonObject

CHECKPOINT: Final = "checkpoint.bin"
"""Its name in a run directory. It is there until the run is complete."""

SNAPSHOTS: Final = "snapshots"
"""Folder in a run directory that a run with real nodes has in its place; gone when the run is complete."""

_MAGIC: Final = b"FRAGMSH\x03"
_HEADER: Final = struct.Struct("<8sQ32s")
_BUFFER_BYTES: Final = 2**20


def write_checkpoint(path: Path, about: Mapping[str, Any], state: State) -> None:
    """Write a checkpoint in place of the last one, whole or not at all.

    Args:
        path: The file.
        about: What it is of, for whoever reads it.
        state: What is to be saved; dropped by the caller afterwards.

    Raises:
        RunnerError: It could not be written.
    """
    arrays = [[values.dtype.str, values.shape] for values in state.arrays]
    text = json.dumps({"about": about, "structure": state.structure, "arrays": arrays}, separators=(",", ":")).encode()

    def write(temporary: Path) -> None:
        digest = hashlib.sha256(text)
        with temporary.open("wb", buffering=_BUFFER_BYTES) as file:
            file.write(bytes(_HEADER.size))
            file.write(text)
            for values in state.arrays:
                data = values.reshape(-1).view(np.uint8).data
                digest.update(data)
                file.write(data)
            file.seek(0)
            file.write(_HEADER.pack(_MAGIC, len(text), digest.digest()))

    write_atomically(path, write)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, and what is left of one that was being written by a run that was killed."""
    for name in (path, temporary_of(path)):
        name.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> tuple[JsonObject, State]:
    """Read a checkpoint: what it is of, and the state.

    Raises:
        ConfigError: There is none, it is damaged, or another version wrote it.
    """
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except FileNotFoundError:
        raise ConfigError(f"{path.parent}: no checkpoint to go on from") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {first_line_of(error)}") from error


def _read(path: Path, file: BufferedReader) -> tuple[JsonObject, State]:
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or header[:7] != _MAGIC[:7]:
        raise ConfigError(f"{path}: damaged: not a checkpoint")
    magic, length, expected = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise ConfigError(f"{path}: made by another version of fragmesh")
    if hashlib.file_digest(file, "sha256").digest() != expected:
        raise ConfigError(f"{path}: damaged: its checksum does not match")
    file.seek(_HEADER.size)
    content = json.loads(file.read(length))
    arrays = []
    for dtype, shape in content["arrays"]:
        size = int(np.prod(shape, dtype=np.int64))
        arrays.append(np.fromfile(file, np.dtype(dtype), size).reshape(shape))
    return content["about"], State(content["structure"], arrays)
