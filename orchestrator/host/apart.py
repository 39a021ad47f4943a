"""Tasks in processes of their own, one after the other.

Several runs of one command must not share a process: a run of real processes is forked before anyone uses gRPC, which
holds only once. A process that has loaded neither torch nor gRPC forks in a moment.
"""

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

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
    parent_pid, child = os.getpid(), 0
    received: list[int] = []
    waiting: deque[int] = deque()  # not passed on yet

    def pass_all_on() -> None:
        while waiting:
            with suppress(ProcessLookupError, IndexError):  # the handler may have taken the last one
                os.kill(child, waiting.popleft())

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        waiting.append(number)
        if child:
            pass_all_on()

    # Before the fork: a signal that comes while there are two processes must not be lost, nor end one of them alone.
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        child = os.fork()
        if child == 0:
            _be_task(task, parent_pid, before)
        pass_all_on()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        return INTERRUPTED
    return KILLED if code < 0 else code


def _be_task(task: Callable[[], int], parent_pid: int, handlers: Mapping[signal.Signals, Any]) -> NoReturn:
    """Run the forked child to its end and never return: nothing may escape into the parent's code."""
    code = KILLED
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.setpgid(0, 0)
        die_with_parent(parent_pid)
        code = task()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code)
