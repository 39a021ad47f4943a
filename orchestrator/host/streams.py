"""Standard streams that are closed, full, or cannot say every letter: what is printed never decides over a run."""

import errno
import os
import sys
from contextlib import suppress
from typing import Final, TextIO

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def open_standard_streams() -> None:
    """Make all three standard streams writable or readable, whatever this process was started with.

    A stream that is closed leads nowhere from here on: else the next file that is opened would take its number, and
    what is printed would end up in it. Letters that a stream cannot say, such as those of a path that is not UTF-8, are
    written out.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def is_of_printing(error: BaseException) -> bool:
    """Tell whether an error is of a stream that cannot be written. Those of the testbed's files name a file, or why."""
    return isinstance(error, OSError) and error.filename is None and error.errno in _FULL


def let_lead_nowhere(stream: TextIO) -> None:
    """Drop what a stream holds and all that is printed to it later."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    with suppress(OSError, ValueError):
        stream.flush()
