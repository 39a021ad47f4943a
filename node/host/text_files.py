"""The one reader of text that comes from outside, and of the numbers in it. Ends at a bound, whatever it is given.

A text is UTF-8. A byte-order mark at its beginning, as spreadsheets write it, is left out; zero bytes are refused. Its
lines end with LF, CR LF or CR. It lies in a regular file or comes through a pipe (``<(...)``, ``/dev/stdin``): devices
are refused before they are opened.
"""

import errno
import json
import os
import re
import select
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from node.core.bounds import JSON_DIGITS_MAX, PIPE_SILENCE_S, SHOWN_LETTERS_MAX
from node.core.errors import ConfigError

_NUMBER: Final = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?(?:inf|nan)", re.ASCII)
_PIECE: Final = 2**16


class UnreadableText(ConfigError):
    """A text cannot be read. The message says why and names no file: whoever asked for it knows what to call it.

    Attributes:
        is_missing: There is nothing of this name.
    """

    def __init__(self, reason: str, *, is_missing: bool = False) -> None:
        """Store why."""
        super().__init__(reason)
        self.is_missing = is_missing


def read_text(path: Path, max_bytes: int) -> str:
    """Read a text, its line ends as LF.

    Args:
        path: The file or pipe.
        max_bytes: The most that it may hold.

    Raises:
        UnreadableText: It is missing, neither a file nor a pipe, too large, or not UTF-8; a few words.
    """
    return decode_text(read_bytes(path, max_bytes))


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Read a file or a pipe; see :func:`read_text`."""
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISDIR(kind):
            raise UnreadableText(os.strerror(errno.EISDIR))
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
            raise UnreadableText("is neither a file nor a pipe")
        # A pipe that nobody writes to would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            size = os.fstat(descriptor).st_size
            if size > max_bytes:
                raise UnreadableText(f"holds {size:,} bytes, must be at most {max_bytes:,}")
            return _read_all(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise UnreadableText(error.strerror or type(error).__name__, is_missing=is_missing) from None
    except ValueError:
        raise UnreadableText("its name holds a zero byte or a letter that no file name has") from None


def _read_all(descriptor: int, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    length = 0
    while length <= max_bytes:
        try:
            piece = os.read(descriptor, _PIECE)
        except BlockingIOError:
            if not select.select([descriptor], [], [], PIPE_SILENCE_S)[0]:
                raise UnreadableText(f"is a pipe that said nothing for {PIPE_SILENCE_S:g} s") from None
            continue
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        length += len(piece)
    raise UnreadableText(f"holds more than {max_bytes:,} bytes")


def decode_text(data: bytes) -> str:
    """Decode a text, its line ends as LF.

    Raises:
        UnreadableText: It is not UTF-8, or holds a zero byte.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableText("is not UTF-8 text") from None
    if "\0" in text:
        raise UnreadableText(f"line {text.count(chr(10), 0, text.index(chr(0))) + 1} holds a zero byte")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def parse_number(word: str) -> float:
    """Read a decimal number: ASCII digits with a point and an exponent, and nothing that only Python takes for one.

    ``inf`` and ``nan`` are read, for whoever checks the bounds to refuse.

    Raises:
        ValueError: It is none. A number beyond all floats is infinite.
    """
    if not _NUMBER.fullmatch(word):
        raise ValueError(f"{shorten(word)} is not a number")
    return float(word)


def parse_json(text: str) -> Any:
    """Read JSON as its standard has it: no key twice, no NaN, no nesting that overflows the stack.

    Raises:
        ValueError: It is not; a :class:`json.JSONDecodeError`, which knows the line, or one short line.
    """
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_constant, parse_int=_whole)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _no_key_twice(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in content if keys.count(key) > 1)
        raise ValueError(f"key given twice: {shorten(twice)}")
    return content


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a number in JSON")


def _whole(digits: str) -> int | float:
    if len(digits) > JSON_DIGITS_MAX:
        raise ValueError(f"a number of {len(digits):,} digits: must have at most {JSON_DIGITS_MAX}")
    return int(digits)


def shorten(text: object, most: int = SHOWN_LETTERS_MAX) -> str:
    """A text as part of a message: on one line, printable, and cut where it is long."""
    line = str(text)[: most + 1]
    line = "".join(letter if letter.isprintable() else " " for letter in line)
    return line if len(line) <= most else f"{line[: most - 3]}..."
