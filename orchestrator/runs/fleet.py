"""The interface between the course of a run and whatever its nodes run on.

A fleet starts nodes, tells how they ended, and ends them. It knows nothing of rounds, models or results, and the
course of a run knows nothing of processes or containers. One fleet serves one part of one run.

The supervisor is the only caller, from one thread, in this order:

1. ``open``, once, then ``launch``, once. No control server listens yet, so that a fleet may fork; nodes ask until it
   does.
2. ``newly_ended``, ``failure``, ``last_words``, ``kill``: many times a second, in any order.
3. ``links_are_set``, until it says so, when all nodes have reached their peers; step 2 goes on meanwhile.
4. ``begin``, once, when the common start is decided; then step 2 again, and ``pause``, ``resume`` and ``start_again``.
5. ``look_at_links``, once after ``begin``, when the experiment is over; then step 2 again.
6. ``close``, once, whatever happened before; also after an ``open`` or ``launch`` that failed.

Calls of the second step run between two events of the supervisor's loop, beside the control server. They must
return within milliseconds: what takes longer is begun by one call and reported by ``newly_ended`` later.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from node.config import Beginning, NodeConfig
from node.core.types import NodeId
from node.emulation.statistics import EmulatorStatistics
from orchestrator.kernel_fidelity import KernelLinks

LOGS = "logs"
"""Folder in the run directory with the nodes' output; of processes it is gone when a run is complete and none died."""

NODES = "nodes"
"""Folder in the run directory with the files that say what each node is; gone when the run is complete."""


@dataclass(frozen=True, slots=True)
class NodeEnd:
    """End of a node.

    Attributes:
        how: In words that follow the node's name in a message: ``was killed by SIGKILL``, ``ended with code 1``.
        failed: It ended by a signal or with an exit code other than 0.
    """

    how: str
    failed: bool


@dataclass(frozen=True, eq=False)
class NextLife:
    """Changes in the description of a node that is started again.

    Attributes:
        beginning: Where it begins.
        begin_ns: When it comes back, testbed time.
        down_ns: When it goes down again; None if it does not.
        port: Where its peers know it to listen.
    """

    beginning: Beginning
    begin_ns: int
    down_ns: int | None
    port: int

    def described(self, config: NodeConfig) -> NodeConfig:
        """Return the description of the node in this life, from that of one before."""
        update = {"beginning": self.beginning, "begin_ns": self.begin_ns, "down_ns": self.down_ns, "port": self.port}
        return config.model_copy(update=update)


class Fleet(Protocol):
    """The nodes of one part of a run, and what carries their traffic."""

    @property
    def host(self) -> str:
        """Address on which the control server listens, so that every node can reach it. Asked after ``open``."""

    @property
    def emulates_links(self) -> bool:
        """True where links are emulated in user space, so that the emulator must tell in the end what it measured."""

    @property
    def links_name(self) -> str:
        """Name of what gives links their rates and latencies, for people and for ``fidelity.json``."""

    def open(self) -> None:
        """Make what must be there before nodes can be described, such as networks. Called first; may block for seconds.

        Raises:
            ConfigError: This host cannot run such nodes at all.
            RunnerError: It cannot be made; ``close`` removes the rest.
        """

    def launch(self, configs: Sequence[NodeConfig]) -> None:
        """Make all nodes, and whatever carries their messages. May block for seconds.

        Args:
            configs: The nodes, in order of their numbers. Where links are emulated is the fleet's to add.

        Raises:
            ConfigError: This host cannot run such nodes at all.
            RunnerError: A node or the backend cannot be started; ``close`` ends the others.
        """

    def links_are_set(self) -> bool:
        """Give the links the rates of the experiment, and return whether they have them. Never waits.

        Until then connections are made, over links that may be faster. The first call begins.

        Raises:
            RunnerError: That is not possible.
        """

    def begin(self, start_monotonic_ns: int, *, begin_ns: int, end_ns: int | None) -> None:
        """Learn when the experiment begins, so that planned changes of the links happen at their instants.

        Called once, as soon as the nodes have been told; may block for milliseconds.

        Args:
            start_monotonic_ns: The host's monotonic clock when the experiment begins, nanoseconds.
            begin_ns: Testbed time then; not 0 in a run that goes on.
            end_ns: When the experiment ends, testbed time; None if only rounds end it.

        Raises:
            RunnerError: The backend has ended or does not answer.
        """

    def look_at_links(self) -> "Future[Any] | None":
        """Learn that the experiment is over, before any node does. Returns at once.

        Returns:
            Done when nodes may be told, because links are looked at as long as all are there; None if none are.
        """

    def kernel_links(self) -> KernelLinks | None:
        """Return what became of links that the kernel shapes; None where it shapes none. Asked after ``close``."""

    def newly_ended(self) -> Mapping[NodeId, NodeEnd]:
        """Return the nodes that have ended since the last call, each once. Those that ``kill`` ended are left out."""

    def failure(self) -> str | None:
        """Return why no node can go on, in words: ``the link emulator was killed by SIGKILL``; None if all is well.

        Asked while the experiment is prepared and runs, and not while it is stopped.
        """

    def last_words(self, node: NodeId) -> str:
        """Return the end of a node's log, on one line; empty if it wrote nothing. Asked once it has ended."""

    def pause(self, node: NodeId) -> "Future[None] | None":
        """Stop a node in the middle of whatever it does, without telling it. Does nothing if it has ended.

        Returns:
            Done when it stands still; None if it does already.
        """

    def resume(self, node: NodeId) -> "Future[None] | None":
        """Let a paused node go on. Does nothing if it has ended or was not paused. Returns as :meth:`pause`."""

    def start_again(self, node: NodeId, life: NextLife) -> None:
        """Start a node again that has ended, as another life of it. If it cannot be, ``newly_ended`` tells.

        Raises:
            RunnerError: Its files cannot be written.
        """

    def kill(self, node: NodeId) -> None:
        """End a node by force, paused or not, with all that it started. Does nothing if it has ended."""

    def close(self) -> EmulatorStatistics | None:
        """End all that was started and wait for it; may block for seconds. Nothing may be left behind.

        Returns:
            What the link emulator measured of itself; None if there is none or it could not answer.
        """
