"""Executor of what a schedule does to the nodes of a real run: crashes, returns and pauses, at testbed time.

Each node has a task of its own.

A crash is done by the node itself, which knows its instant: it hangs up on its peers, hands over what it counted and
ends. It is killed here only if it does not. Then it is started again, ahead of the instant at which it comes back,
and told that instant as soon as it is ready. If it is not ready by then it comes back late, which is recorded and
judged, and is no failure of the run.

A pause is done from outside, by a signal or by the engine: a node that stands still can do nothing.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from node.core.schedule import Comeback
from node.core.types import NodeId, Vector
from node.core.units import NS_PER_S, s_to_ns
from node.host.clock import Clock
from node.runtime.process import DOWN_GRACE_NS
from node.transport.control_values import ControlCommand, Phase, Registration, StartCommand
from orchestrator.experiment.schedule.fates import Fate, FateChange, NodeInstant, first_down_ns
from orchestrator.runs.collection import Collection
from orchestrator.runs.fleet import Fleet, NextLife
from orchestrator.runs.watched import Roster, WatchedNode

AWAY: Final = "down"
"""State of a node that is down as planned, for people."""

LOOK_S: Final = 0.01
"""Interval at which it is looked whether a node has ended or is ready, real time."""


class NodeCommands(Protocol):
    """The use of a :class:`~orchestrator.runs.control_server.ControlServer`; see there."""

    @property
    def registered(self) -> Mapping[NodeId, Registration]: ...
    def command(self, command: ControlCommand, nodes: Iterable[NodeId] | None = None) -> None: ...
    def forget(self, node: NodeId) -> None: ...


@dataclass(eq=False)
class _Parts:
    """Everything that is there once the experiment has a clock."""

    clock: Clock
    control: NodeCommands
    roster: Roster
    tasks: dict[NodeId, "asyncio.Task[None]"] = field(default_factory=dict)


class FaultExecutor:
    """Does to nodes what is planned. A run in which nothing is has one that does nothing.

    State:
        instants: What was to happen so far, and when it did.
        _parts: None before :meth:`begin`.
        _paused: Nodes that stand still.
        _lives: How often each node has come back.
    """

    def __init__(
        self,
        fates: Mapping[NodeId, Fate],
        fleet: Fleet,
        collection: Collection,
        model_for: Callable[[NodeId, Comeback, int], Vector],
        note: Callable[[str], None],
        start_within_s: float,
    ) -> None:
        """Store what is needed.

        Args:
            fates: What is to happen to each node.
            fleet: The nodes.
            collection: What they hand over.
            model_for: Gives a node's model: which node, which model, the number of its life.
            note: Tells the user something.
            start_within_s: Real time that a node may take to be ready.
        """
        self.instants: list[NodeInstant] = []
        self._fates = fates
        self._fleet = fleet
        self._collection = collection
        self._model_for = model_for
        self._note = note
        self._start_within_s = start_within_s
        self._parts: _Parts | None = None
        self._paused: set[NodeId] = set()
        self._lives: dict[NodeId, int] = {}

    @property
    def late_ns(self) -> tuple[int | None, ...]:
        """Lateness of each change, testbed time; None for one that never came."""
        return tuple(
            None if instant.actual_ns is None else instant.actual_ns - instant.change.time_ns
            for instant in self.instants
        )

    @property
    def are_over(self) -> bool:
        """True where nothing more will happen to any node."""
        return self._parts is None or all(task.done() for task in self._parts.tasks.values())

    def begin(self, clock: Clock, control: NodeCommands, roster: Roster) -> None:
        """Begin, once the common start is decided; called in the loop."""
        self._parts = parts = _Parts(clock, control, roster)
        for node, fate in self._fates.items():
            parts.tasks[node] = asyncio.create_task(self._follow(parts, node, fate))

    def check(self) -> None:
        """Raise what went wrong.

        Raises:
            RunnerError: A model cannot be read, or a node cannot be started again.
        """
        for task in () if self._parts is None else self._parts.tasks.values():
            if task.done() and not task.cancelled():
                task.result()

    async def end(self) -> None:
        """Do nothing more, let nodes go on that stand still, and end those that were on their way back."""
        if self._parts is None:
            return
        tasks = [*self._parts.tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in self._paused:
            self._fleet.resume(node)
        for node in self._fates:
            watched = self._parts.roster.nodes[node]
            if watched.away and watched.end is None and watched.status.phase in (Phase.PREPARING, Phase.WAITING):
                self._parts.roster.kill(node)

    def note_missed(self, ended_ns: int) -> None:
        """Note all that was planned before the end of the run and did not come to be noted; once all nodes have ended.

        Args:
            ended_ns: Testbed time at which the run ended.
        """
        if self._parts is None:
            return
        noted = {(one.node, one.change.time_ns) for one in self.instants}
        for node, fate in self._fates.items():
            watched = self._parts.roster.nodes[node]
            missed = [one for one in fate if one.time_ns < ended_ns and (node, one.time_ns) not in noted]
            for change in missed:
                down_ns = None
                if change is missed[0] and change.kind == "down" and watched.status.phase is Phase.DOWN:
                    # It went down so late that the run was over meanwhile.
                    down_ns = self._collection.end_life(node, watched.status, change.time_ns).get("down_ns")
                self.instants.append(NodeInstant(node, change, down_ns))

    # -- one node ----------------------------------------------------------------------------------------------

    async def _follow(self, parts: _Parts, node: NodeId, fate: Fate) -> None:
        """Let happen what is planned for a node, one after the other, as long as it lives."""
        watched, kind = parts.roster.nodes[node], ""
        for change, following in zip(fate, [*fate[1:], None], strict=True):
            await asyncio.sleep(parts.clock.monotonic_ns(change.time_ns) / NS_PER_S - _now_s())
            if watched.died:
                return
            if kind == "paused":
                await self._call(parts, node, change, self._fleet.resume)
                self._paused.discard(node)
            if change.kind == "down":
                if not await self._goes_down(parts, watched, change) or following is None:
                    return
                if not await self._starts_again(parts, watched, following):
                    return
            elif kind == "down" and not await self._comes_back(parts, watched, change):
                return
            if change.kind == "paused":
                self._paused.add(node)
                await self._call(parts, node, change, self._fleet.pause)
            kind = change.kind

    async def _call(
        self, parts: _Parts, node: NodeId, change: FateChange, call: Callable[[NodeId], "Future[Any] | None"]
    ) -> None:
        """Pause a node or let it go on, and note when that was done."""
        done = call(node)
        if done is not None:
            await asyncio.wrap_future(done)
        self.instants.append(NodeInstant(node, change, parts.clock.at_ns(s_to_ns(_now_s()))))

    async def _goes_down(self, parts: _Parts, watched: WatchedNode, change: FateChange) -> bool:
        """Wait until a node has ended as planned; returns whether it was there to do so."""
        node = watched.status.node
        watched.away = AWAY
        if not await self._within(DOWN_GRACE_NS / NS_PER_S + 5.0, lambda: bool(watched.end or watched.died)):
            self._note(f"node {node} did not go down by itself and was killed")
            parts.roster.kill(node)
        if watched.died:
            return False
        parts.control.forget(node)
        figures = self._collection.end_life(node, watched.status, change.time_ns)
        watched.status = replace(watched.status, phase=Phase.DOWN)
        self.instants.append(NodeInstant(node, change, figures.get("down_ns")))
        return True

    async def _starts_again(self, parts: _Parts, watched: WatchedNode, change: FateChange) -> bool:
        """Start a node that is to come back, and tell it when; returns whether it is ready for that."""
        node = watched.status.node
        life = self._lives[node] = self._lives.get(node, 0) + 1
        beginning = self._collection.begin_life(node, life, self._model_for(node, change.model, life))
        down_ns = first_down_ns(self._fates[node], change.time_ns)
        port = int(parts.control.registered[node].peer_address.rpartition(":")[2])
        watched.start_again(beginning)
        self._fleet.start_again(node, NextLife(beginning, change.time_ns, down_ns, port))
        await self._within(
            self._start_within_s, lambda: watched.end is not None or watched.status.phase is Phase.WAITING
        )
        if watched.status.phase is not Phase.WAITING or watched.end is not None:
            return self._fails(parts, watched, change, "come back")
        monotonic_ns = parts.clock.monotonic_ns(change.time_ns)
        unix_ns = time.time_ns() + monotonic_ns - s_to_ns(_now_s())
        parts.control.command(StartCommand(unix_ns, monotonic_ns), [node])
        return True

    async def _comes_back(self, parts: _Parts, watched: WatchedNode, change: FateChange) -> bool:
        """Wait until a node runs again; returns whether it does."""
        # Who comes back so late that it is to go down again at once may have told of that alone.
        runs = (Phase.RUNNING, Phase.DONE, Phase.DIVERGED, Phase.DOWN)
        await self._within(self._start_within_s, lambda: watched.end is not None or watched.status.phase in runs)
        if watched.status.phase not in runs:
            return self._fails(parts, watched, change, "go on")
        watched.away = ""
        self.instants.append(NodeInstant(watched.status.node, change, max(change.time_ns, watched.status.time_ns)))
        return True

    def _fails(self, parts: _Parts, watched: WatchedNode, change: FateChange, what: str) -> bool:
        """Leave a node to those who look for deaths."""
        if watched.end is None:
            self._note(f"node {watched.status.node} did not {what} within {self._start_within_s:.0f} s")
            parts.roster.kill(watched.status.node)
        watched.away = ""
        self.instants.append(NodeInstant(watched.status.node, change, None))
        return False

    async def _within(self, seconds: float, is_so: Callable[[], bool]) -> bool:
        """Wait until something is so, but no longer than that."""
        until_s = _now_s() + seconds
        while not is_so() and _now_s() < until_s:
            await asyncio.sleep(LOOK_S)
            assert self._parts is not None
            self._parts.roster.note_ends()
        return is_so()


def _now_s() -> float:
    """The event loop's clock: the host's monotonic one, or a test's."""
    return asyncio.get_running_loop().time()
