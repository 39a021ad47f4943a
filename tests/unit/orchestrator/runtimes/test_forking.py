"""Processes of nodes: started each with a log of its own, watched, ended, and none left where one cannot be made."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.core.errors import ConfigError, RunnerError
from node.core.types import NodeId
from node.runtime.process import EXIT_FAILED
from orchestrator.runtimes import forking
from orchestrator.runtimes.forking import NodeHandle, ending, start_fresh_nodes

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


def until_ended(handle: NodeHandle) -> None:
    """Wait for its end, and leave it to the handle to ask how it was."""
    os.waitid(os.P_PID, handle.pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., list[NodeHandle]]]:
    """Fork nodes that do what they are told; afterwards none of them is left."""
    begun: list[NodeHandle] = []

    def begin(be_node: Callable[[int], int], count: int = 1) -> list[NodeHandle]:
        handles = forking._start_all(range(count), tmp_path, be_node)
        begun.extend(handles)
        return handles

    yield begin
    for handle in begun:
        handle.kill()


def wait_for_ever(_: int) -> int:
    while True:
        signal.pause()


# --- one process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended with code 0"), (3, "ended with code 3"), (-9, "was killed by SIGKILL"), (-99, "was killed by 99")],
)
def test_how_a_process_ended_in_words(code: int, words: str) -> None:
    assert ending(code) == words


def test_a_node_that_ends_tells_its_code_again_and_again(run: Callable[..., list[NodeHandle]]) -> None:
    handles = run(lambda index: 5 + index, count=2)
    for handle in handles:
        until_ended(handle)
        assert handle.exit_code is None  # nobody has asked
    assert [handle.poll() for handle in handles] == [5, 6]
    assert [handle.poll() for handle in handles] == [5, 6]
    handles[0].send(signal.SIGTERM)  # nobody: its process id may be another's by now
    handles[0].kill()
    assert handles[0].exit_code == 5


def test_a_node_that_is_killed(run: Callable[..., list[NodeHandle]]) -> None:
    (handle,) = run(wait_for_ever)
    assert handle.poll() is None
    handle.kill()
    assert handle.exit_code == -signal.SIGKILL
    with pytest.raises(ChildProcessError):
        os.waitpid(handle.pid, os.WNOHANG)  # it was waited for


def test_a_node_whose_end_somebody_else_was_told(run: Callable[..., list[NodeHandle]]) -> None:
    """How it ended is not known any more, but that it did is."""
    (handle,) = run(lambda _: 3)
    os.waitpid(handle.pid, 0)
    assert handle.poll() == 0


def test_its_last_words(tmp_path: Path) -> None:
    handle = NodeHandle(NodeId(0), 0, tmp_path / "node-0000.log")
    assert handle.last_words() == ""
    handle.log.write_bytes(b"one\ntwo\n  three \xff \nfour\n\n")
    assert handle.last_words() == "two | three � | four"


# --- what a child does ------------------------------------------------------------------------------------------------


def test_each_writes_to_its_own_log_and_hears_no_ctrl_c(run: Callable[..., list[NodeHandle]]) -> None:
    """Which reaches the whole process group, and is the orchestrator's to judge."""

    def say(index: int) -> int:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        print(f"node {index}")
        print(f"read {os.read(0, 1)!r}", file=sys.stderr)
        return 0

    handles = run(say, count=2)
    for handle in handles:
        until_ended(handle)
        assert handle.poll() == 0
    assert [handle.log.read_text() for handle in handles] == [f"node {index}\nread b''\n" for index in range(2)]


def test_a_node_that_cannot_go_on_says_why_in_one_line(run: Callable[..., list[NodeHandle]]) -> None:
    def fail(_: int) -> int:
        raise ConfigError("node-0001.json: damaged")

    (handle,) = run(fail)
    until_ended(handle)
    assert handle.poll() == EXIT_FAILED
    assert handle.log.read_text() == "error: node-0001.json: damaged\n"


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, SystemExit])
def test_a_bug_leaves_a_traceback_and_never_goes_on_as_the_parent(
    error: type[BaseException], run: Callable[..., list[NodeHandle]], tmp_path: Path
) -> None:
    def fail(_: int) -> int:
        raise error("something that nobody thought of")

    parent = os.getpid()
    try:
        (handle,) = run(fail)
    finally:
        (tmp_path / f"was-here-{os.getpid()}").touch()
    until_ended(handle)
    assert handle.poll() == EXIT_FAILED
    assert "Traceback" in handle.log.read_text()
    assert "something that nobody thought of" in handle.log.read_text()
    assert [path.name for path in tmp_path.glob("was-here-*")] == [f"was-here-{parent}"]


# --- all or none ------------------------------------------------------------------------------------------------------


def test_where_one_cannot_be_made_the_others_are_ended(
    run: Callable[..., list[NodeHandle]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def fork() -> int:
        if len(made) == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        pid = real()
        if pid:
            made.append(pid)
        return pid

    real = os.fork
    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(RunnerError, match=r"^cannot start node 2 of 4: .*Resource temporarily unavailable"):
        run(wait_for_ever, count=4)
    assert len(made) == 2
    for pid in made:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # ended and waited for


def test_a_fresh_node_gets_its_file_this_code_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program stands for the interpreter and says what it was given."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "$*"\necho "$PYTHONPATH"\nls /proc/self/fd | tr "\\n" " "\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    monkeypatch.chdir(tmp_path)
    read, write = os.pipe()
    os.set_inheritable(write, True)
    handles = start_fresh_nodes([Path("a.json"), Path("b.json")], "run-1", tmp_path)
    for handle, name in zip(handles, ("a.json", "b.json"), strict=True):
        until_ended(handle)
        assert handle.poll() == 0
        arguments, path, descriptors = handle.log.read_text().splitlines()
        assert arguments == f"-P -m node --config {tmp_path / name} --run run-1"
        assert path == f"{Path(forking.__file__).resolve().parents[2]}:/somewhere/else"
        assert descriptors.split() == ["0", "1", "2", "3"]  # the last one is the listing's own
    os.close(read)
    os.close(write)
