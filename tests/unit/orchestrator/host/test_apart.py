"""Tasks in processes of their own: their exit codes, and signals that are passed on once."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from node.host.forked import ending_signals
from orchestrator.host.apart import INTERRUPTED, KILLED, run_apart


def test_the_exit_code_is_the_tasks() -> None:
    assert [run_apart(lambda code=code: code) for code in (0, 3, 4)] == [0, 3, 4]  # type: ignore[misc]


def test_a_task_has_a_process_and_a_group_of_its_own() -> None:
    parent, group = os.getpid(), os.getpgrp()
    assert run_apart(lambda: int(os.getpid() != parent and os.getpgrp() == os.getpid() != group)) == 1


def test_a_task_that_raises_or_is_killed_has_failed() -> None:
    def fail() -> int:
        raise ZeroDivisionError

    def die() -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert run_apart(fail) == run_apart(die) == KILLED


@pytest.fixture
def hangs_up() -> Iterator[None]:
    """SIGHUP as a terminal has it, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_an_ignored_hang_up_stays_ignored(hangs_up: None) -> None:
    """Whoever starts a run under nohup wants it to outlive the terminal."""
    assert ending_signals() == (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert ending_signals() == (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_and_ends_the_series(number: signal.Signals, hangs_up: None) -> None:
    before = [signal.getsignal(other) for other in (number, signal.SIGCHLD)]
    reading, writing = os.pipe()

    def task() -> int:
        received: list[int] = []
        signal.signal(number, lambda *_: received.append(1))
        os.kill(os.getppid(), number)
        while not received:
            time.sleep(0.01)
        time.sleep(0.05)
        os.write(writing, bytes([len(received)]))
        return 0

    assert run_apart(task) == INTERRUPTED
    assert os.read(reading, 1) == b"\x01"
    assert [signal.getsignal(other) for other in (number, signal.SIGCHLD)] == before
    assert signal.set_wakeup_fd(-1) == -1
    os.close(reading)
    os.close(writing)


def test_a_signal_just_before_the_wait_is_seen_and_reaches_a_task_that_has_just_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The task's own handlers are back when it comes, and without any it ends the task."""
    wait, fork = os.waitpid, os.fork

    def interrupted(child: int, options: int) -> tuple[int, int]:
        ended = wait(child, options)
        if not ended[0] and not sent:
            sent.append(child)
            os.kill(os.getpid(), signal.SIGTERM)
        return ended

    def slow_child() -> int:
        child = fork()
        if child == 0:
            time.sleep(0.1)  # long enough for the signal to come first; it must not matter
        return child

    sent: list[int] = []
    monkeypatch.setattr(os, "waitpid", interrupted)
    monkeypatch.setattr(os, "fork", slow_child)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def task() -> int:
        time.sleep(60)
        return 0

    begun_s = time.monotonic()
    try:
        assert run_apart(task) == INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    assert time.monotonic() - begun_s < 60


def test_a_signal_right_after_the_fork_is_passed_on_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the series' own, and no matter of whoever runs it."""
    outside: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: outside.append(number))

    def fork() -> int:
        pid = real()
        if pid:
            os.kill(os.getpid(), signal.SIGINT)
        return pid

    real = os.fork
    monkeypatch.setattr(os, "fork", fork)
    try:
        assert run_apart(lambda: 0) == INTERRUPTED
        assert outside == []
    finally:
        signal.signal(signal.SIGINT, before)
