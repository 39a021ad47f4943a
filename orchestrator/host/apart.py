"""Tasks in processes of their own, one after the other.

Several runs of one command must not share a process: a run of real processes is forked before anyone uses gRPC, which
holds only once. A process that has loaded neither torch nor gRPC forks in a moment.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from node.host.forked import die_with_parent

KILLED = 3
"""The exit code of a task whose process was killed."""

INTERRUPTED = 130
"""The exit code of a task that was asked to end."""


def run_apart(task: Callable[[], int]) -> int:
    """Run a task in a forked process, and wait for it. SIGINT and SIGTERM are passed on, each once.

    The task has a process group of its own: Ctrl-C reaches this process alone, so that one request stays one.

    Args:
        task: Returns its exit code. What it raises counts as :data:`KILLED`, and it has said why itself.

    Returns:
        The task's exit code; :data:`INTERRUPTED` if a signal has come, :data:`KILLED` if the process was killed.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or both processes would write what is still buffered
    parent_pid = os.getpid()
    child = os.fork()
    if child == 0:
        code = KILLED
        try:
            os.setpgid(0, 0)
            die_with_parent(parent_pid)
            code = task()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:
            os._exit(code)
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        with suppress(ProcessLookupError):
            os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        return INTERRUPTED
    return KILLED if code < 0 else code
