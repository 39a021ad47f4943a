"""A process that starts nodes again: forked before anyone in the orchestrator uses gRPC, so that it may always fork.

It does nothing but fork: children of a parent with a learner share its pages as the first nodes do; without one they
become new interpreters. Its owner asks over a pair of sockets and hears from there how children ended; signals it sends
them itself. The children end with this process, and this process with its owner.
"""

import gc
import os
import selectors
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import NoReturn

from node.build import log_to_stderr, run_built
from node.config_file import read_node_config
from node.core.errors import RunnerError
from node.core.training import TrainerAndEvaluator
from node.core.types import NodeId
from node.host.forked import belong_to, close_all_but
from node.learning.trainer import Learner
from orchestrator.runtimes.forking import NodeHandle, become_fresh, enter_child, let_go_of, log_of

_DATAGRAM_BYTES = 8_192
_ANSWER_S = 20.0
"""Time that a fork, or the news of a child that was killed, may take: milliseconds where the host has memory left."""


@dataclass(slots=True)
class AdoptedHandle(NodeHandle):
    """A node's process that is the child of a fork server.

    Attributes:
        server: Whose child it is.
    """

    server: "ForkServer" = field(kw_only=True)

    def poll(self) -> int | None:
        """See :class:`~orchestrator.runtimes.forking.NodeHandle`."""
        if self.exit_code is None:
            self.exit_code = self.server.exit_code(self.pid)
        return self.exit_code

    def kill(self) -> None:
        """See :class:`~orchestrator.runtimes.forking.NodeHandle`."""
        until_s = monotonic() + _ANSWER_S
        self.send(signal.SIGKILL)
        while self.poll() is None and monotonic() < until_s:
            self.server.listen(until_s - monotonic())


class ForkServer:
    """The owner's hold on the process.

    Args:
        pid: The process.
        end: The owner's end of the pair.
        logs: Folder for what nodes write.

    State:
        _ended: Exit codes of children, by process, that nobody has asked for.
    """

    def __init__(self, pid: int, end: socket.socket, logs: Path) -> None:
        self.pid = pid
        self._end = end
        self._logs = logs
        self._ended: dict[int, int] = {}

    def start(self, node: NodeId, file: Path) -> NodeHandle:
        """Start a node from its file.

        Raises:
            RunnerError: The process has ended or cannot fork.
        """
        self._end.settimeout(_ANSWER_S)
        try:
            self._end.send(f"{node} {file.resolve()}".encode())
            while (said := self._receive())[0] != "started":
                pass
        except OSError as error:
            raise RunnerError(f"node {node} cannot be started again: {error}") from error
        if not int(said[1]):
            raise RunnerError(f"node {node} cannot be started again: {' '.join(said[2:])}")
        return AdoptedHandle(node, int(said[1]), log_of(self._logs, node), server=self)

    def exit_code(self, pid: int) -> int | None:
        """Return how a child ended, negative for a signal; None while it runs."""
        self.listen(0.0)
        return self._ended.get(pid)

    def listen(self, within_s: float) -> None:
        """Take the news that there is, or comes in time."""
        self._end.settimeout(within_s)
        with suppress(OSError):
            while True:
                self._receive()
                self._end.settimeout(0.0)

    def close(self) -> None:
        """End the process, and with it all its children; waits until it is gone."""
        self._end.close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _receive(self) -> list[str]:
        said = self._end.recv(_DATAGRAM_BYTES).decode().split(" ")
        if said == [""]:
            raise ConnectionError("the process that starts nodes has ended")
        if said[0] == "ended":
            self._ended[int(said[1])] = int(said[2])
        return said


def start_fork_server(run_id: str, logs: Path, learner: Learner | None, evaluator: TrainerAndEvaluator) -> ForkServer:
    """Fork the process. It ends with the thread that calls this, at the latest.

    Args:
        run_id: The run's name.
        logs: Folder for what nodes write; exists.
        learner: What nodes train with, which they then share; None lets them become new interpreters.
        evaluator: The owner's own workers, which the process lets go of.

    Raises:
        RunnerError: It cannot be made.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    owner = os.getpid()

    def be_node(file: Path) -> int:
        if learner is None:
            become_fresh(file, run_id)
        close_all_but({0, 1, 2})
        config = read_node_config(file, run_id)
        log_to_stderr(config.node)
        return run_built(config, learner)

    try:
        pid = os.fork()
    except OSError as error:
        ours.close()
        its.close()
        raise RunnerError(f"the process that starts nodes again cannot be made: {error}") from error
    if pid == 0:
        _enter(its, logs, owner, be_node, evaluator)
    its.close()
    return ForkServer(pid, ours, logs)


def _enter(
    end: socket.socket, logs: Path, owner: int, be_node: Callable[[Path], int], evaluator: TrainerAndEvaluator
) -> NoReturn:
    """Run the forked child to its end and never return."""
    try:
        belong_to(owner)
        let_go_of(evaluator)
        close_all_but({0, 1, 2, end.fileno()})
        gc.collect()
        gc.freeze()  # children share the pages
        _serve(end, logs, be_node)
    finally:
        os._exit(0)


def _serve(end: socket.socket, logs: Path, be_node: Callable[[Path], int]) -> None:
    """Start nodes and tell of their ends, until the owner hangs up."""
    this = os.getpid()
    with selectors.DefaultSelector() as selector:
        selector.register(end, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not end:
                    selector.unregister(key.fileobj)
                    os.close(key.fd)
                    _, status = os.waitpid(key.data, 0)
                    end.send(f"ended {key.data} {os.waitstatus_to_exitcode(status)}".encode())
                    continue
                asked = end.recv(_DATAGRAM_BYTES).decode()
                if not asked:
                    return
                node, _, file = asked.partition(" ")
                try:
                    pid = os.fork()
                except OSError as error:
                    end.send(f"started 0 {error}".encode())
                    continue
                if pid == 0:
                    enter_child(lambda: be_node(Path(file)), log_of(logs, int(node)), this)  # noqa: B023
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                end.send(f"started {pid}".encode())
