"""Files that are there whole or not at all, and values as the plain text that goes into them."""

import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from node.core.errors import RunnerError


def write_file(path: Path, data: bytes) -> None:
    """Write a file under another name and rename it, so that it is there whole or not at all.

    Raises:
        RunnerError: It could not be written.
    """
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file under another name, and rename it.

    Raises:
        RunnerError: It could not be written.
    """
    temporary = temporary_of(path)
    try:
        try:
            write(temporary)
            os.replace(temporary, path)
        except BaseException:  # an interrupt as well leaves nothing behind
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise RunnerError(f"{path}: cannot be written: {first_line_of(error)}") from error


def temporary_of(path: Path) -> Path:
    """The name under which a file is written before it is renamed."""
    return path.with_name(path.name + ".tmp")


def first_line_of(error: Exception) -> str:
    """Return what an error says, in one line."""
    text = getattr(error, "strerror", None) or str(error)
    return (str(text).strip().splitlines() or [type(error).__name__])[0]


def to_json_values(value: Any) -> Any:
    """Numpy and mappings as plain JSON; numbers that JSON does not know become null."""
    if isinstance(value, Mapping):
        return {str(key): to_json_values(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return to_json_values(value.tolist())
    if isinstance(value, set | frozenset):
        return [to_json_values(item) for item in sorted(value)]
    if isinstance(value, list | tuple):
        return [to_json_values(item) for item in value]
    if isinstance(value, np.generic):
        return to_json_values(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def value_at(content: Any, *keys: str) -> Any:
    """A value of a JSON object, by the keys that lead to it; None where there is none."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def to_json(value: Mapping[str, Any]) -> str:
    """A JSON object as the text of a file. Letters of paths that are not UTF-8 are written out, and read back alike."""
    plain = to_json_values(value)
    text = json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        text = json.dumps(plain, indent=2, allow_nan=False) + "\n"
    return text
