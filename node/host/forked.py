"""A forked process ends with the process that made it, whatever ends that one."""

import ctypes
import os
import signal
import sys
from collections.abc import Set
from contextlib import suppress

_PR_SET_PDEATHSIG = 1


class ParentGoneError(Exception):
    """The parent ended before the child could tie its life to it."""


def die_with_parent(parent_pid: int) -> None:
    """Let the kernel kill this process when the thread that forked it ends; does nothing but on Linux.

    Args:
        parent_pid: The parent's process id, read before the fork.

    Raises:
        ParentGoneError: The parent has already ended.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the call
        raise ParentGoneError


def ending_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a run to end: Ctrl-C, the end of a job, and a terminal that is closed.

    The last one is left out where it is ignored, as under ``nohup``.
    """
    hang_up = getattr(signal, "SIGHUP", None)  # not on every system
    ignored = hang_up is None or signal.getsignal(hang_up) == signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *(() if ignored else (hang_up,)))


def belong_to(parent_pid: int) -> None:
    """Tie a forked child to its parent. Call this first in every forked child.

    What asks a run to end reaches the whole process group; the parent decides what it means. See also
    :func:`die_with_parent`.
    """
    for number in ending_signals():
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(parent_pid)


def close_all_but(kept: Set[int]) -> None:
    """Close every descriptor that a forked child inherited, except those named.

    What the parent holds open for others, such as the ends of their sockets, would otherwise stay open with the child,
    and nobody would learn of an end. Needs ``/proc``; elsewhere nothing is closed.
    """
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return
    for name in names:
        if int(name) not in kept:
            with suppress(OSError):  # the listing's own
                os.close(int(name))
