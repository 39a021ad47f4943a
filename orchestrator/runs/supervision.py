"""The life of the nodes of a real run, from the first to register to the last to leave.

:class:`Supervisor` holds the steps in their order; each is a method that can be read and tested alone:

1. ``gather``: all nodes come to two barriers, first with their own address, then with streams to their peers. Then
   links get their rates, which they may not have had while connections were made. No node may die here: an experiment
   that has not begun has nothing to go on with.
2. ``calibrate``: all nodes measure their links at the same time and train meanwhile, so that the host is as busy as it
   will be.
3. ``start``: all learn the same instant at which testbed time begins.
4. ``watch``: until the planned time, until all nodes have done their rounds, or until a request to stop. A node that
   dies ends the run or is left behind, as the experiment says; a run in which nothing moves is ended, and one in which
   a node's model is not finite any more.
5. ``stop``: nodes hand over their last model and records, and leave; those that do not leave in time are killed.
   This step comes whatever happened before.
6. ``conclude``: what nodes said last decides whether the experiment came to its own end.

Every wait has a bound that follows from sizes and rates. The only clock is the event loop's, so that tests run in
virtual time; what the nodes run on is a :class:`~orchestrator.runs.fleet.Fleet`, and how they are reached a
:class:`Control`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from node.core.errors import DivergedError, RunnerError, StalledError
from node.core.types import NodeId, Vector
from node.core.units import ns_to_s, s_to_ns
from node.host.clock import Clock
from node.transport.control_values import (
    MeasureCommand,
    ModelSnapshot,
    NodeStatus,
    Phase,
    StartCommand,
    StopCommand,
)
from orchestrator.host.environment import host_pressure
from orchestrator.host.reserved_port import ReservedPort
from orchestrator.runs.collection import Collection
from orchestrator.runs.fault_executor import FaultExecutor, NodeCommands
from orchestrator.runs.fleet import Fleet
from orchestrator.runs.rules import Rules
from orchestrator.runs.run_readings import RunPhase
from orchestrator.runs.stall import StallWatch, at_rest, stalled
from orchestrator.runs.stopping import StopRequested, StopRequests
from orchestrator.runs.watched import LEAVE_S, Roster, earliest_divergence, reasons_text, story_of

TICK_S = 0.1
"""Interval at which the supervisor looks at its nodes, real time."""

DIVERGED_AFTER_S = 1.5
"""Real time from the first node that says that it diverged to the end of the run: more than a status period, so that
one that had diverged before it has said so too, and the run names the node that a simulation names."""

LOOK_S = 20.0
"""Real time that a last look at the links may take."""

KILL_AFTER_S = 3.0
"""Real time beyond that in which nodes may leave before they are killed."""


class Control(NodeCommands, Protocol):
    """The supervisor's use of a :class:`~orchestrator.runs.control_server.ControlServer`; see there."""

    async def start(self, host: str, port: int, *, reserved: bool = False) -> str: ...
    async def reached(self, point: str, timeout_s: float) -> None: ...
    async def stop(self, grace_s: float) -> None: ...


class Display(Protocol):
    """The supervisor's use of a :class:`~orchestrator.progress.progress.Progress`; see there."""

    def preparing(self, what: str) -> None: ...
    def note(self, text: str) -> None: ...


async def _links_are_set(fleet: Fleet) -> None:
    while not fleet.links_are_set():
        await asyncio.sleep(0.02)


class Supervisor:
    """Leads the nodes of one part of a run through their life.

    State:
        nodes: What is known of each node.
        phase: The step that is under way.
        clock: The experiment's clock; None before the common start is decided.
        ended_ns: Testbed time at which the part ended; None before.
        is_over: The experiment's own rule ended it, and not a failure or a request to stop.
        pressure: How much processes waited for the host's cores at the start and at the end; None where unknown.
    """

    def __init__(
        self,
        rules: Rules,
        fleet: Fleet,
        collection: Collection,
        requests: StopRequests,
        display: Display,
        on_tick: Callable[[], None],
        fates: FaultExecutor,
    ) -> None:
        """Store what is needed.

        Args:
            rules: The experiment.
            fleet: The nodes; launched.
            collection: Where what nodes hand over is collected.
            requests: The user's requests to end the run.
            display: Where milestones and deaths are told.
            on_tick: Called at every look at the running nodes, to show and test meanwhile. Must be quick.
            fates: Does to nodes what is planned.
        """
        self._rules = rules
        self._fleet = fleet
        self._collection = collection
        self._requests = requests
        self._display = display
        self._on_tick = on_tick
        self._fates = fates
        self._roster = Roster(rules.num_nodes, fleet, self._now_s)
        self.nodes = self._roster.nodes
        self.phase = RunPhase.STARTING
        self.clock: Clock | None = None
        self.ended_ns: int | None = None
        self.is_over = False
        self.pressure: tuple[float | None, float | None] = (None, None)
        self._refusals_told: set[NodeId] = set()

    async def supervise(self, control: Control, at: ReservedPort) -> None:
        """Take all steps.

        Args:
            control: The control server, not started.
            at: Where it is to serve, as the nodes have been told.

        Raises:
            StopRequested: The user wanted the run to end; the nodes have handed over what they had.
            DivergedError: A node's model is not finite any more.
            StalledError: Nothing moved any more.
            RunnerError: The run failed: a node did not come or died, or the backend failed.
            TransportError: The control server cannot listen.
        """
        await control.start(at.host, at.port, reserved=True)
        at.release()
        try:
            await self.gather(control)
            self.phase = RunPhase.MEASURING
            await self.calibrate(control)
            self.phase = RunPhase.RUNNING
            self.start(control)
            await self.watch(control)
        finally:
            self.phase = RunPhase.STOPPING
            await self.stop(control)
        self.conclude()

    # -- step 1: gather ----------------------------------------------------------------------------------------

    async def gather(self, control: Control) -> None:
        """Wait until all nodes are ready, and then until they have reached their peers."""
        self._display.preparing(f"starting {self._rules.num_nodes} nodes")
        # A node that cannot connect says why when its own time is over, so that the second wait is longer.
        for point, more_s in (("ready", 0.0), ("connected", LEAVE_S)):
            await self._while_all_live(control.reached(point, self._rules.start_timeout_s + more_s))
        await self._while_all_live(_links_are_set(self._fleet))

    async def _while_all_live(self, work: Awaitable[None]) -> None:
        """Wait for something before the start, where a node's end is a failure."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=TICK_S)
                # Deaths first: a barrier that waits for a dead node only says that the node did not come.
                for node in self._roster.newly_died():
                    raise RunnerError(self._roster.obituary(node, " before the start"))
                if self._requests.requested:
                    raise StopRequested
            task.result()
        finally:
            task.cancel()

    # -- step 2: calibrate -------------------------------------------------------------------------------------

    async def calibrate(self, control: Control) -> None:
        """Let all nodes measure their links at the same time. A single node has none."""
        if self._rules.num_nodes == 1:
            return
        self._display.preparing("measuring the links")
        control.command(MeasureCommand(s_to_ns(self._rules.measure_s)))
        await self._while_all_live(self._all_measured(self._rules.measured_within_s))

    async def _all_measured(self, within_s: float) -> None:
        until_s = self._now_s() + within_s
        while missing := self.nodes.keys() - self._collection.measurements.keys():
            if self._now_s() > until_s:
                names = ", ".join(str(node) for node in sorted(missing)[:5])
                raise RunnerError(
                    f"the links of {len(missing)} nodes ({names}) were not measured within {within_s:.0f} s"
                )
            await asyncio.sleep(0.02)

    # -- step 3: start -----------------------------------------------------------------------------------------

    def start(self, control: Control) -> None:
        """Tell the common start to all nodes, and then to whatever changes the links."""
        lead_ns, rules = self._rules.start_lead_ns, self._rules
        monotonic_ns = s_to_ns(self._now_s()) + lead_ns
        self.clock = Clock(monotonic_ns - int(rules.begin_ns * rules.dilation), rules.dilation)
        control.command(StartCommand(time.time_ns() + lead_ns, monotonic_ns))
        self._fleet.begin(monotonic_ns, begin_ns=rules.begin_ns, end_ns=rules.end_ns)
        self._fates.begin(self.clock, control, self._roster)

    # -- step 4: watch -----------------------------------------------------------------------------------------

    async def watch(self, control: Control) -> None:
        """Look at the nodes until the experiment is over.

        Raises:
            StopRequested: The user wants it to end before.
            StalledError, RunnerError: It cannot go on.
        """
        end_ns = self._rules.end_ns
        stall, diverged_s = StallWatch(self._rules, self._now_s()), None
        self.pressure = (host_pressure(), None)
        while not self._requests.requested:
            await asyncio.sleep(TICK_S)
            # Deaths first: a node that has died is neither waited for nor does it move.
            for node in self._roster.newly_died():
                self._on_death(node, control)
            self._fates.check()
            self._on_tick()
            self._tell_refusals()
            if end_ns is not None and self.now_ns() >= end_ns:
                self.ended_ns = end_ns
                break
            alive = self._roster.living()
            # Who is away may come back, and who stands still goes on: what others wait for is then still to come.
            if self._fates.are_over and not alive:
                seconds = ns_to_s(self.now_ns())
                raise StalledError(f"all nodes are down at {seconds:.3f} s of testbed time, and none comes back")
            if self._fates.are_over and all(status.phase in (Phase.DONE, Phase.STOPPING) for status in alive):
                break
            # Others wait for a node that has diverged: that is no stall.
            if self.diverged is None:
                stall.look(alive, self._now_s(), self.now_ns())
            elif diverged_s is None:
                diverged_s = self._now_s()
            elif self._now_s() - diverged_s >= DIVERGED_AFTER_S:
                break
        if self._requests.requested:
            raise StopRequested
        self.is_over = True

    def _on_death(self, node: NodeId, control: Control) -> None:
        """Decide what a node's death means for the run."""
        control.forget(node)
        if story := story_of(self.nodes[node].status):
            self._display.note(f"node {node} before its end:{story}")
        if self._rules.death_fails:
            reason = f"; {self._rules.death_reason}" if self._rules.death_reason else ""
            raise RunnerError(self._roster.obituary(node, reason))
        if all(other.died for other in self.nodes.values()):
            raise RunnerError(f"all nodes have ended; the last, {self._roster.obituary(node)}")
        self._display.note(self._roster.obituary(node, "; going on without it"))

    def _tell_refusals(self) -> None:
        """Tell of each node's first refused messages, which will cost the run its verdict."""
        for node, watched in self.nodes.items():
            rejected = watched.status.messages_rejected
            if rejected and node not in self._refusals_told:
                self._refusals_told.add(node)
                self._display.note(f"node {node} refused messages of its peers: {reasons_text(rejected)}")

    # -- step 5: stop ------------------------------------------------------------------------------------------

    async def stop(self, control: Control) -> None:
        """Stop the nodes, wait for what they hand over, and end those that do not end by themselves."""
        has_begun = self.clock is not None
        await self._fates.end()
        if has_begun:
            await self._look_at_links()
            self.pressure = (self.pressure[0], host_pressure())  # nodes that hand over are not the experiment's load
            if self.ended_ns is None:
                self.ended_ns = max(self._rules.begin_ns, self.now_ns())
        statuses = [watched.status for watched in self.nodes.values()]
        messages = sum(status.counters.messages_sent + status.counters.messages_cancelled for status in statuses)
        # Before the start nodes have nothing to hand over, and are not waited for.
        grace_s = self._rules.hand_over_s(messages) if has_begun else 0.0
        # A model at the very end is wanted where no planned instant is the end.
        final = has_begun and self.ended_ns != self._rules.end_ns and self.diverged is None
        control.command(StopCommand("the run is over", s_to_ns(grace_s), final))
        until_s = self._now_s() + (grace_s + self._rules.last_scrape_s + KILL_AFTER_S if has_begun else 0.0)
        self._roster.note_ends()
        while any(not watched.end for watched in self.nodes.values()) and self._now_s() < until_s:
            if self._requests.in_a_hurry:
                break
            await asyncio.sleep(0.02)
            self._roster.note_ends()
        # Only now are deaths judged: a node that ended with code 0 has done what it was told.
        for node, watched in self.nodes.items():
            if watched.end is None:
                if has_begun and not self._requests.in_a_hurry:
                    watched.died, watched.hung = f"did not end within {grace_s:.0f} s and was killed", True
                    self._display.note(f"node {node} {watched.died}")
                self._roster.kill(node)
            elif watched.end.failed and not (watched.died or watched.away or watched.status.phase is Phase.DOWN):
                watched.died = watched.end.how
                self._display.note(self._roster.obituary(node))
        if self.ended_ns is not None:
            self._fates.note_missed(self.ended_ns)
        await control.stop(0.5)

    async def _look_at_links(self) -> None:
        """Let the fleet look at the links while all nodes are there, but not for ever."""
        looking = self._fleet.look_at_links()
        until_s = self._now_s() + LOOK_S
        while looking is not None and not looking.done() and self._now_s() < until_s and not self._requests.in_a_hurry:
            await asyncio.sleep(0.02)

    # -- step 6: conclude --------------------------------------------------------------------------------------

    def conclude(self) -> None:
        """Judge the end of a run that came to its planned end, by what the nodes said last.

        Raises:
            DivergedError: A node's model was not finite any more.
            StalledError: Nothing could happen any more, though nodes had rounds left.
            RunnerError: A node did not end by itself, in an experiment that cannot do without it.
        """
        if (diverged := self.diverged) is not None:
            self.ended_ns = diverged.time_ns
            raise diverged
        statuses = self._roster.living()
        assert self.ended_ns is not None, "the nodes were stopped"
        if at_rest(statuses, self._rules, self.ended_ns):
            raise stalled(statuses)
        for node in self.nodes if self._rules.death_fails else ():
            if self.nodes[node].hung:
                reason = f"; {self._rules.death_reason}" if self._rules.death_reason else ""
                raise RunnerError(self._roster.obituary(node, reason))

    # -- nodes and what they say -------------------------------------------------------------------------------

    @property
    def diverged(self) -> DivergedError | None:
        """The first divergence of which a node has told; None while there is none."""
        return earliest_divergence(watched.status for watched in self.nodes.values())

    def on_status(self, status: NodeStatus) -> None:
        """Take a node's status; called by the control server."""
        self._roster.update(status)

    def on_snapshot(self, info: ModelSnapshot, params: Vector) -> None:
        """Keep a model that a node handed over; called by the control server."""
        self._collection.keep_snapshot(info, params)

    def on_records(self, node: NodeId, name: str, data: bytes) -> None:
        """Keep records that a node handed over; called by the control server."""
        self._collection.keep_records(node, name, data)

    def on_session_end(self, node: NodeId) -> None:
        """Note that a node has left, or was silent for longer than a session may be; called by the control server."""
        self._roster.session_ended(node)

    def now_ns(self) -> int:
        """Testbed time; the common start must be decided."""
        assert self.clock is not None, "testbed time begins with the common start"
        return self.clock.at_ns(s_to_ns(self._now_s()))

    @staticmethod
    def _now_s() -> float:
        """The event loop's clock: the host's monotonic one, or a test's."""
        return asyncio.get_running_loop().time()
