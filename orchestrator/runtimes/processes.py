"""The ``processes`` runtime: a process a node, and a link emulator between them.

The course of such a run is :class:`~orchestrator.runs.real_run.RealRun`; this file holds its fleet. Everything is
forked before anyone in the parent uses gRPC: the emulator first, to which the nodes connect, then the nodes.
"""

import signal
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from node.config import NodeConfig
from node.config_file import write_comeback_files, write_node_files
from node.core.errors import ConfigError, RunnerError
from node.core.types import NodeId
from node.emulation.emulator import EmulatorHandle, start_emulator
from node.emulation.statistics import EmulatorStatistics
from orchestrator.experiment.plan import Plan, errors_naming
from orchestrator.progress.progress import Progress
from orchestrator.results.reader import Run
from orchestrator.runs.fleet import LOGS, NODES, NextLife, NodeEnd
from orchestrator.runs.options import RunOptions, RunOutcome
from orchestrator.runs.prepare import Prepared
from orchestrator.runs.real_run import RealRun, choose_dilation, conduct_nodes, part_to_resume
from orchestrator.runtimes.fork_server import ForkServer, start_fork_server
from orchestrator.runtimes.forking import NodeHandle, ending, fork_nodes, start_fresh_nodes

HOST = "127.0.0.1"


def run_processes(plan: Plan, options: RunOptions) -> RunOutcome:
    """Run one experiment with a process a node.

    Raises:
        ConfigError, DataError: The experiment cannot start; nothing is left behind.
        RunnerError: The results cannot be written; what was written stays valid.
    """
    return _run(plan, options, None)


def resume_processes(path: Path, options: RunOptions) -> RunOutcome:
    """Go on with an interrupted run, in its directory, from the last models that all nodes handed over.

    Unlike a simulation it does not become what it would have been: messages that were under way are lost, momentum
    begins anew, and algorithms count their rounds from there.

    Args:
        path: The run directory.
        options: ``data_root`` None takes the run's own; ``out`` is not used.

    Raises:
        ConfigError, DataError: The run cannot go on.
        RunnerError: The results cannot be written; what was written stays valid.
    """
    return _run(*part_to_resume(path, options))


def _run(plan: Plan, options: RunOptions, found: Run | None) -> RunOutcome:
    with errors_naming(plan.place):
        _check(plan)

    def make_run(prepared: Prepared, progress: Progress) -> RealRun:
        config = plan.config
        make_fleet = partial(
            ProcessFleet, fresh=config.processes.start == "fresh", emulates_links=config.network.links == "emulated"
        )
        dilation, costs = choose_dilation(plan, prepared, progress)
        return RealRun(plan, prepared, progress, make_fleet, dilation, costs)

    return conduct_nodes(plan, options, make_run, found)


def _check(plan: Plan) -> None:
    config = plan.config
    base = config.processes.base_port
    if base is not None and base + config.nodes - 1 > 65_535:
        raise ConfigError(
            f"processes.base_port={base}: must be at most {65_536 - config.nodes} for {config.nodes} nodes"
        )


class ProcessFleet:
    """Processes of this host and the link emulator between them; a :class:`~orchestrator.runs.fleet.Fleet`.

    Attributes:
        emulates_links: Whether there is an emulator; links are direct without.

    State:
        _emulator: The emulator's process; None before the launch, and where links are direct.
        _handles: The nodes' processes; empty before the launch.
        _told: What each node was told; empty likewise.
        _forks: Starts nodes again; None where none goes down as planned.
        _reported: Nodes whose end the caller knows.
    """

    host = HOST
    links_name = "user-space emulator (max-min fair fluid)"

    def __init__(self, prepared: Prepared, folder: Path, *, fresh: bool, emulates_links: bool) -> None:
        """Store what is needed.

        Args:
            prepared: What forked nodes inherit: the data and the model, loaded once.
            folder: The run directory, for the nodes' files and output.
            fresh: Start every node as a new interpreter, which inherits nothing.
            emulates_links: Start a link emulator.
        """
        self.emulates_links = emulates_links
        self._prepared = prepared
        self._folder = folder
        self._fresh = fresh
        self._emulator: EmulatorHandle | None = None
        self._handles: dict[NodeId, NodeHandle] = {}
        self._told: Sequence[NodeConfig] = ()
        self._forks: ForkServer | None = None
        self._reported: set[NodeId] = set()

    def open(self) -> None:
        """Do nothing: the host's own loopback is there."""

    def launch(self, configs: Sequence[NodeConfig]) -> None:
        """Start the emulator, where links are emulated, write the nodes' files, and start the nodes."""
        first, prepared = configs[0], self._prepared
        logs = self._folder / LOGS
        # Step 1: the emulator, which listens from here on, so that nodes can be told where.
        told = list(configs)
        if self.emulates_links:
            self._emulator = start_emulator(first.network, first.emulator_clock)
            told = [config.model_copy(update={"emulator": self._emulator.address}) for config in configs]
        # Step 2: the files. Forked nodes are told the same; theirs are for people, and for starting a node again.
        files = write_node_files(self._folder / NODES, told)
        try:
            logs.mkdir(exist_ok=True)
        except OSError as error:
            raise RunnerError(f"{logs}: cannot be made: {error.strerror or error}") from error
        self._told = told
        # Step 3: what starts nodes again, which must not be forked later. Step 4: the nodes.
        if any(config.down_ns is not None for config in told):
            learner = None if self._fresh else prepared.learner
            self._forks = start_fork_server(first.run_id, logs, learner, prepared.trainer)
        if self._fresh:
            handles = start_fresh_nodes(files, first.run_id, logs)
        else:
            handles = fork_nodes(told, prepared.learner, prepared.trainer, logs)
        self._handles = {handle.node: handle for handle in handles}

    def links_are_set(self) -> bool:
        """Return True: connections are no matter of the emulator."""
        return True

    def begin(self, start_monotonic_ns: int, *, begin_ns: int, end_ns: int | None) -> None:
        """Tell the emulator, which makes the plan's changes of capacity from then on."""
        if self._emulator is not None:
            self._emulator.begin(start_monotonic_ns, begin_ns=begin_ns, end_ns=end_ns)

    def look_at_links(self) -> None:
        """Do nothing: the link emulator keeps its own account."""

    def kernel_links(self) -> None:
        """Return None: nothing is shaped by the kernel."""

    def newly_ended(self) -> Mapping[NodeId, NodeEnd]:
        """See :class:`~orchestrator.runs.fleet.Fleet`."""
        ended = {}
        for node, handle in self._handles.items():
            if node not in self._reported and (code := handle.poll()) is not None:
                self._reported.add(node)
                ended[node] = NodeEnd(ending(code), failed=code != 0)
        return ended

    def failure(self) -> str | None:
        """Return how the emulator ended, where there is one: without it no message arrives."""
        code = None if self._emulator is None else self._emulator.exit_code()
        return None if code is None else f"the link emulator {ending(code)}"

    def last_words(self, node: NodeId) -> str:
        """See :class:`~orchestrator.runs.fleet.Fleet`."""
        return self._handles[node].last_words()

    def start_again(self, node: NodeId, life: NextLife) -> None:
        """See :class:`~orchestrator.runs.fleet.Fleet`. It is a child of the process that starts nodes."""
        assert self._forks is not None, "nodes that go down were planned"
        file = write_comeback_files(self._folder / NODES, life.described(self._told[node]))
        self._handles[node] = self._forks.start(node, file)
        self._reported.discard(node)

    def pause(self, node: NodeId) -> None:
        """Stop the node's process by a signal that it cannot catch; its training worker soon has nothing to do."""
        self._handles[node].send(signal.SIGSTOP)

    def resume(self, node: NodeId) -> None:
        """See :class:`~orchestrator.runs.fleet.Fleet`."""
        self._handles[node].send(signal.SIGCONT)

    def kill(self, node: NodeId) -> None:
        """See :class:`~orchestrator.runs.fleet.Fleet`."""
        self._reported.add(node)
        self._handles[node].kill()

    def close(self) -> EmulatorStatistics | None:
        """End the nodes, then the emulator, whose figures cover all that they sent."""
        for node in self._handles:
            self.kill(node)
        if self._forks is not None:
            self._forks.close()
        return None if self._emulator is None else self._emulator.stop()
