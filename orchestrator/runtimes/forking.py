"""The processes of a run: forked from a warmed parent, watched, and gone when the run is.

The parent has loaded torch and the data once; nodes share these pages with it. Everything is forked before anyone in
the parent uses gRPC.

Nothing outlives a run: a node ends when its orchestrator does (the kernel sees to it, and its session breaks), a
training worker when its node does.
"""

import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from node.build import log_to_stderr, run_built
from node.config import NodeConfig
from node.core.errors import RunnerError
from node.core.training import TrainerAndEvaluator
from node.core.types import NodeId
from node.emulation.emulator import EmulatorHandle
from node.host.forked import belong_to, close_all_but
from node.learning.pool import PoolTrainer
from node.learning.trainer import Learner
from node.runtime.process import EXIT_FAILED

LOG_LINES_SHOWN = 3


@dataclass(slots=True)
class NodeHandle:
    """A node's process, as its parent sees it.

    Attributes:
        node: Which node.
        pid: Its process.
        log: Where its output goes.
        address_pipe: The write end of the pipe on which it waits for the orchestrator's address; -1 once told.
        exit_code: How it ended, negative for a signal; None while it runs.
    """

    node: NodeId
    pid: int
    log: Path
    address_pipe: int
    exit_code: int | None = None

    def tell_address(self, address: str) -> None:
        """Say where the orchestrator serves."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, which is noticed elsewhere
            os.write(self.address_pipe, address.encode() + b"\n")
        os.close(self.address_pipe)
        self.address_pipe = -1

    def poll(self) -> int | None:
        """How it ended; None while it runs."""
        if self.exit_code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # someone else asked first
                pid, status = self.pid, 0
            if pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
        return self.exit_code

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it by force; its worker follows."""
        if self.poll() is None:
            self.send(signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def last_words(self) -> str:
        """The end of its log, on one line; empty if it said nothing."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        return " | ".join(line.strip() for line in lines[-LOG_LINES_SHOWN:])


def ending(exit_code: int) -> str:
    """How a process ended, in words; ``exit_code`` is negative for a signal."""
    if exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in list(signal.Signals) else str(-exit_code)
        return f"was killed by {name}"
    return f"ended with code {exit_code}"


def fork_nodes(
    configs: Sequence[NodeConfig],
    learner: Learner,
    emulator: EmulatorHandle,
    evaluator: TrainerAndEvaluator,
    logs: Path,
) -> list[NodeHandle]:
    """Fork one process a node. Each waits for :meth:`NodeHandle.tell_address`.

    Args:
        configs: The nodes, in order.
        learner: What they train with.
        emulator: The link emulator; the parent's ends of the nodes' sockets are closed afterwards.
        evaluator: The parent's own workers, which the children let go of.
        logs: Folder for their output; exists.

    Raises:
        RunnerError: A process cannot be made; those made before are ended.
    """
    handles: list[NodeHandle] = []
    owner = os.getpid()
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page of the parent's
    try:
        for config in configs:
            log = logs / f"node-{config.node:04d}.log"
            read_end, write_end = os.pipe()
            pid = os.fork()
            if pid == 0:
                _enter(config, learner, emulator, evaluator, log, read_end, owner)
            os.close(read_end)
            handles.append(NodeHandle(config.node, pid, log, write_end))
    except OSError as error:
        for handle in handles:
            handle.kill()
        raise RunnerError(f"cannot start node {len(handles)} of {len(configs)}: {error}") from error
    finally:
        gc.unfreeze()
    emulator.release()
    return handles


def _enter(
    config: NodeConfig,
    learner: Learner,
    emulator: EmulatorHandle,
    evaluator: TrainerAndEvaluator,
    log: Path,
    read_end: int,
    owner: int,
) -> NoReturn:
    """What a forked child does instead of returning; nothing may escape into the parent's code."""
    code = EXIT_FAILED
    try:
        belong_to(owner)
        _write_to(log)
        if isinstance(evaluator, PoolTrainer):
            evaluator.abandon()
        end = emulator.take(config.node)
        close_all_but({0, 1, 2, end.fileno(), read_end})
        log_to_stderr(config.node)
        code = run_built(config, learner, end, lambda: _read_line(read_end))
    except BaseException:  # the last frame of this process
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _write_to(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _read_line(descriptor: int) -> str:
    """What the parent writes; ends with the parent, whose end of the pipe then closes."""
    data = b""
    while not data.endswith(b"\n"):
        piece = os.read(descriptor, 256)
        if not piece:
            raise RunnerError("the orchestrator ended before it said where it is")
        data += piece
    os.close(descriptor)
    return data.decode().strip()
