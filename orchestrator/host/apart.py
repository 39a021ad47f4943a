"""Tasks in processes of their own, one after the other.

Several runs of one command must not share a process: a run of real processes is forked before anyone uses gRPC, which
holds only once. A process that has loaded neither torch nor gRPC forks in a moment.
"""

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from node.host.forked import die_with_parent, ending_signals

KILLED = 3
"""The exit code of a task whose process was killed."""

INTERRUPTED = 130
"""The exit code of a task that was asked to end."""


def run_apart(task: Callable[[], int]) -> int:
    """Run a task in a forked process, and wait for it. The signals that end a run are passed on, each once.

    The task has a process group of its own: Ctrl-C reaches this process alone, so that one request stays one.

    Args:
        task: Returns its exit code. What it raises counts as :data:`KILLED`, and it has said why itself.

    Returns:
        The task's exit code; :data:`INTERRUPTED` if a signal has come, :data:`KILLED` if the process was killed.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or both processes would write what is still buffered
    received: list[int] = []
    passing = ending_signals()
    with _woken_by_signals(received, passing) as wake:
        parent_pid = os.getpid()
        # A signal that is passed on at once must wait until the child has its own handlers again.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, passing)
        child = os.fork()
        if child == 0:
            code = KILLED
            try:
                wake.undo()
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                os.setpgid(0, 0)
                die_with_parent(parent_pid)
                code = task()
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
            finally:
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        passed_on = 0
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            for number in received[passed_on:]:
                os.kill(child, number)  # it has not been waited for, so that its number is still its own
                passed_on += 1
            wake.wait()
    if received:
        return INTERRUPTED
    code = os.waitstatus_to_exitcode(ended[1])
    return KILLED if code < 0 else code


class _Wake:
    """Waits for signals through a pipe. A signal just before a wait for a process alone would not end that wait."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)  # the interpreter demands it
        self._descriptor_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self.handlers_before: dict[int, Any] = {}

    def wait(self) -> None:
        """Return as soon as a signal has come since the last call."""
        select.select([self._reading], [], [])
        with suppress(BlockingIOError):
            os.read(self._reading, 4096)

    def undo(self) -> None:
        """Put everything back as it was."""
        for number, handler in self.handlers_before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._descriptor_before)
        os.close(self._reading)
        os.close(self._writing)


@contextmanager
def _woken_by_signals(received: list[int], passing: Sequence[int]) -> Iterator[_Wake]:
    """Collect the signals ``passing`` in ``received``, and be woken by them and by the end of a child."""
    wake = _Wake()

    def receive(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            received.append(number)

    wake.handlers_before = {number: signal.signal(number, receive) for number in (*passing, signal.SIGCHLD)}
    try:
        yield wake
    finally:
        wake.undo()
