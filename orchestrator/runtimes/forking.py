"""The processes of a run: started, watched, and gone when the run is.

Forked nodes share the pages of a parent that has loaded torch and the data once. Fresh ones are new interpreters that
load them again. Either is forked before anyone in the parent uses gRPC.

Nothing outlives a run: a node ends when its orchestrator does (the kernel sees to it, and its session breaks), a
training worker when its node does.
"""

import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import node
from node.build import log_to_stderr, run_built
from node.config import NodeConfig
from node.core.errors import RunnerError, TestbedError
from node.core.training import TrainerAndEvaluator
from node.core.types import NodeId
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
        exit_code: How it ended, negative for a signal; None while it runs.
    """

    node: NodeId
    pid: int
    log: Path
    exit_code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
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
        return last_words_of(self.log)


def last_words_of(log: Path) -> str:
    """Return the end of a node's log, on one line; empty if it said nothing."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return " | ".join(line.strip() for line in lines[-LOG_LINES_SHOWN:])


def ending(exit_code: int) -> str:
    """Put into words how a process ended; ``exit_code`` is negative for a signal."""
    if exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in list(signal.Signals) else str(-exit_code)
        return f"was killed by {name}"
    return f"ended with code {exit_code}"


def fork_nodes(
    configs: Sequence[NodeConfig], learner: Learner, evaluator: TrainerAndEvaluator, logs: Path
) -> list[NodeHandle]:
    """Fork one process a node. They share the learner, and so the libraries and the data, with this process.

    Args:
        configs: The nodes, in order.
        learner: What they train with.
        evaluator: The parent's own workers, which the children let go of.
        logs: Folder for their output; exists.

    Raises:
        RunnerError: A process cannot be made; those made before are ended.
    """

    def be_node(config: NodeConfig) -> int:
        let_go_of(evaluator)
        close_all_but({0, 1, 2})  # only now: the evaluator closes its own
        log_to_stderr(config.node)
        return run_built(config, learner)

    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page of the parent's
    try:
        return _start_all(configs, logs, lambda node: be_node(configs[node]))
    finally:
        gc.unfreeze()


def let_go_of(evaluator: TrainerAndEvaluator) -> None:
    """Leave the workers of a process alone from which this one was forked."""
    if isinstance(evaluator, PoolTrainer):
        evaluator.abandon()


def start_fresh_nodes(files: Sequence[Path], run_id: str, logs: Path) -> list[NodeHandle]:
    """Start a new interpreter a node, which inherits nothing and learns all from its file.

    Args:
        files: The nodes' JSON files, in order.
        run_id: The run's name.
        logs: Folder for their output; exists.

    Raises:
        RunnerError: A process cannot be made; those made before are ended.
    """
    return _start_all(files, logs, lambda index: become_fresh(files[index], run_id))


def become_fresh(file: Path, run_id: str) -> NoReturn:
    """Turn this process into a new interpreter that runs a node, and inherits nothing."""
    # The same code as here, whatever lies in the working directory.
    root = str(Path(node.__file__).resolve().parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    close_all_but({0, 1, 2})
    command = [sys.executable, "-P", "-m", "node", "--config", str(file.resolve()), "--run", run_id]
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})


def _start_all(nodes: Sequence[object], logs: Path, be_node: Callable[[int], int]) -> list[NodeHandle]:
    """Fork a process a node, in order, each with a log of its own."""
    handles: list[NodeHandle] = []
    owner = os.getpid()
    try:
        for index in range(len(nodes)):
            log = log_of(logs, index)
            pid = os.fork()
            if pid == 0:
                enter_child(lambda: be_node(index), log, owner)  # noqa: B023  # the child never sees another index
            handles.append(NodeHandle(NodeId(index), pid, log))
    except OSError as error:
        for handle in handles:
            handle.kill()
        raise RunnerError(f"cannot start node {len(handles)} of {len(nodes)}: {error}") from error
    return handles


def log_of(logs: Path, node: int) -> Path:
    """Return the file in a folder for what a node writes."""
    return logs / f"node-{node:04d}.log"


def enter_child(be_node: Callable[[], int], log: Path, owner: int) -> NoReturn:
    """Run the forked child to its end and never return: nothing may escape into the parent's code."""
    code = EXIT_FAILED
    try:
        belong_to(owner)  # which a new program under the same process keeps
        _write_to(log)
        code = be_node()
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
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
