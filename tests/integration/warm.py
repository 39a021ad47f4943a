"""Runs under test, forked from one process that has imported everything: a run need not load torch again.

Loading torch, scikit-learn and matplotlib takes some two seconds of processor time, as much as many a run. A *warm
parent* loads them once and forks a child for each run, which then is what ``python -m tests.integration.faulty`` would
be: it has its own arguments, environment, working directory, output, limits and session, and it ends as an interpreter
does: threads are waited for, exit handlers are called, output is flushed. Only then it leaves at once: taking apart
all that was loaded for it takes half a second. What makes the fork safe: the warm parent has one thread, has never used
gRPC, and asks for nothing but forks.

Two processes speak over a socket. A request is JSON with the two descriptors of the child's output; the child itself
answers when all that was asked for holds, so that a signal to its process group finds it. The warm parent reaps a
child only when it is asked to, by whoever has seen its end on a pidfd: until then no other process can get its id. It
ends when the other end of the socket closes.

Tests about the start of an interpreter itself use ``subprocess``.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]

MARK = "FRAGMESH_TEST_RUN"
"""In the environment of every process of a run, however it was made."""
MARK_BYTES = 32

READY_S = 120.0
"""For what takes a few seconds at most: the imports, a fork, a reaping."""

ENVIRONMENT = {
    MARK: "-" * MARK_BYTES,  # room for a run's
    "OMP_NUM_THREADS": "1",  # torch, numpy and scipy read it when they are loaded
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # the same of pyarrow's allocator
}
"""The warm parent begins with it on top of the tests' own."""

LIBRARIES = ("sklearn.datasets", "matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg", "psutil")
"""What runs import late besides the code under test."""

_REQUEST_BYTES = 2**20


# --- in the tests' process ------------------------------------------------------------------------------------------


class WarmRun:
    """A child of the warm parent, with the part of :class:`subprocess.Popen` that tests use.

    Attributes:
        pid: Its process, which leads its session.
        returncode: How it ended, negative for a signal; None until that was asked for.
    """

    def __init__(self, parent: "WarmParent", pid: int, output: tuple[int, int]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._parent = parent
        self._end = os.pidfd_open(pid)  # cannot be another's: nobody has asked for its end yet
        self._pipes = dict(zip(output, (bytearray(), bytearray()), strict=True))
        self._read = selectors.DefaultSelector()
        for pipe in output:
            self._read.register(pipe, selectors.EVENT_READ)

    def poll(self) -> int | None:
        """How it ended; None while it runs."""
        if self.returncode is None and select.select([self._end], [], [], 0)[0]:
            self.returncode = self._parent.reap(self.pid)
            os.close(self._end)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        if self.returncode is None:
            select.select([self._end], [], [], timeout)
        code = self.poll()
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(f"run {self.pid}", timeout)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Everything that it and its children wrote, once nobody can write any more and it has ended.

        Raises:
            subprocess.TimeoutExpired: It still runs, or somebody holds its output. Nothing that was read is lost.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while self._read.get_map():
            left = None if end is None else end - time.monotonic()
            if left is not None and left < 0:
                raise subprocess.TimeoutExpired(f"run {self.pid}", timeout or 0.0)
            for key, _ in self._read.select(left):
                if content := os.read(key.fd, 2**16):
                    self._pipes[key.fd] += content
                else:
                    self._read.unregister(key.fd)
                    os.close(key.fd)
        self.wait(None if end is None else max(0.0, end - time.monotonic()))
        out, err = (content.decode().replace("\r\n", "\n") for content in self._pipes.values())
        return out, err

    def so_far(self) -> str:
        """All that it has written to its output until now."""
        with suppress(subprocess.TimeoutExpired):
            self.communicate(0.05)
        return next(iter(self._pipes.values())).decode().replace("\r\n", "\n")

    def close_output(self) -> None:
        """Read no more of its output: what it writes now is told that nobody reads it."""
        pipe = next(iter(self._pipes))
        self._read.unregister(pipe)
        os.close(pipe)

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it by force."""
        self.send_signal(signal.SIGKILL)


class WarmParent:
    """The tests' hold on the warm parent."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(READY_S)
        self._owner = os.getpid()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.warm", str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the tests'
                cwd=ROOT,
                env={**os.environ, **ENVIRONMENT},
            )

    def start(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path = ROOT,
        limits: Mapping[int, tuple[int, int]] | None = None,
    ) -> WarmRun:
        """Fork a run, in a session of its own, and return when it is about to begin.

        Args:
            arguments: Of :mod:`tests.integration.faulty`: the faults and those of the command line.
            environment: All of it; what it says of :data:`MARK` must have :data:`MARK_BYTES` characters.
            cwd: Its working directory.
            limits: For ``setrlimit``.
        """
        out, err = os.pipe(), os.pipe()
        content = {
            "arguments": list(arguments),
            "environment": dict(environment),
            "cwd": str(cwd),
            "limits": [[number, *bounds] for number, bounds in (limits or {}).items()],
        }
        try:
            socket.send_fds(self._socket, [json.dumps(content).encode()], [out[1], err[1]])
        finally:
            os.close(out[1])
            os.close(err[1])
        return WarmRun(self, self._answer(), (out[0], err[0]))

    def reap(self, pid: int) -> int:
        """How a child that has ended did so: its exit code, negative for a signal."""
        self._socket.send(json.dumps({"reap": pid}).encode())
        return self._answer()

    def _answer(self) -> int:
        content = self._socket.recv(_REQUEST_BYTES)
        assert content, f"the warm parent has ended with code {self._process.wait()}"
        return int(content)

    def close(self) -> None:
        """End the warm parent."""
        self._socket.close()
        self._process.wait(READY_S)


@cache
def warm_parent() -> WarmParent:
    """The warm parent of this process, started when it is first asked for; :func:`close_warm_parent` ends it."""
    return WarmParent()


def close_warm_parent() -> None:
    """End it, if there is one."""
    if warm_parent.cache_info().currsize:
        warm_parent().close()
        warm_parent.cache_clear()


# --- in the warm parent and its children ----------------------------------------------------------------------------


class Request(NamedTuple):
    """A run that was asked for."""

    content: dict[str, Any]
    out: int
    err: int


def serve(ears: socket.socket) -> Request:
    """Fork a child for every request; return in that child, with its request, and nowhere else.

    Raises:
        SystemExit: Nobody will ask any more.
    """
    while True:
        content, descriptors, _, _ = socket.recv_fds(ears, _REQUEST_BYTES, 2)
        if not content:
            sys.exit(0)
        request = json.loads(content)
        if "reap" in request:
            ears.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1]))
            continue
        assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not fork"
        if os.fork() == 0:
            return Request(request, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def become(request: Request, ears: socket.socket, added: Mapping[str, str]) -> None:
    """Let this fresh child be what was asked for, and say so.

    Args:
        request: What was asked for.
        ears: Whoever asked hears from here.
        added: What imports added to the environment; they do so where nobody has set it.
    """
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
    os.chdir(request.content["cwd"])
    for descriptor, standard in ((request.out, 1), (request.err, 2)):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1, errors="backslashreplace")
    environment = request.content["environment"]
    os.environ.clear()
    os.environ.update({**added, **environment})
    if MARK in environment:
        write_mark(environment[MARK])
    for number, soft, hard in request.content["limits"]:
        resource.setrlimit(number, (soft, hard))
    ears.send(b"%d" % os.getpid())
    ears.close()


def write_mark(mark: str) -> None:
    """Let ``/proc/PID/environ`` tell the run, of this process and of all that it forks.

    The kernel shows the environment with which a program began, wherever that lies in its memory.
    """
    assert len(mark) == MARK_BYTES
    begin = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[47])  # env_start
    name = f"{MARK}=".encode()
    offset = (b"\0" + Path("/proc/self/environ").read_bytes()).index(b"\0" + name)
    ctypes.memmove(begin + offset + len(name), mark.encode(), MARK_BYTES)


def load_everything() -> None:
    """Import all that a run may need."""
    import node
    import orchestrator

    for package in (node, orchestrator):
        for name in _modules_of(package):
            importlib.import_module(name)
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page


def _modules_of(package: ModuleType) -> list[str]:
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [module.name for module in found if not module.name.endswith(".__main__")]


def main() -> None:
    """Serve; a child goes on as the run that was asked for."""
    from tests.integration import faulty

    ears = socket.socket(fileno=int(sys.argv[1]))
    ended: list[int] = []
    atexit.register(leave, ended)  # the first to be registered is the last to be called
    before = dict(os.environ)
    load_everything()
    added = {name: value for name, value in os.environ.items() if name not in before}
    request = serve(ears)
    become(request, ears, added)
    sys.argv = [faulty.__file__, *request.content["arguments"]]
    try:
        faulty.main()
    except SystemExit as end:
        ended.append(int(end.code or 0))
        raise


def leave(ended: list[int]) -> None:
    """End a child with its run's exit code, before its interpreter takes all modules apart."""
    if ended:  # else this is the warm parent, or a bug, whose traceback has been printed
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0])


if __name__ == "__main__":
    main()
