"""The life of the nodes of a real run, from the first to register to the last to leave.

:class:`Supervisor` holds the steps in their order; each is a method that can be read and tested alone:

1. ``gather``: all nodes come to two barriers, first with their own address, then with streams to their peers. No node
   may die here: an experiment that has not begun has nothing to go on with.
2. ``calibrate``: all nodes measure their links at the same time and train meanwhile, so that the host is as busy as it
   will be.
3. ``start``: all learn the same instant at which testbed time begins.
4. ``watch``: until the planned time, until all nodes have done their rounds, or until a request to stop. A node that
   dies ends the run or is left behind, as the experiment says; a run in which nothing moves is ended.
5. ``stop``: nodes hand over their last model and records, and leave; those that do not leave in time are killed.
   This step comes whatever happened before.

Every wait has a bound that follows from sizes and rates. The only clock is the event loop's, so that tests run in
virtual time; what the nodes run on is a :class:`~orchestrator.runs.fleet.Fleet`, and how they are reached a
:class:`Control`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from math import inf, isfinite
from typing import Protocol

import numpy as np

from node.core.errors import RunnerError
from node.core.links import NetworkPlan
from node.core.types import NodeId, Vector
from node.core.units import NS_PER_S, mbps_to_bytes_per_ns, ns_to_s, s_to_ns
from node.host.clock import Clock
from node.transport.control_values import (
    ControlCommand,
    MeasureCommand,
    NodeStatus,
    Phase,
    SnapshotInfo,
    StartCommand,
    StopCommand,
)
from orchestrator.experiment.plan import Plan
from orchestrator.host.environment import host_pressure
from orchestrator.runs.collection import Collection
from orchestrator.runs.fleet import Fleet, NodeEnd
from orchestrator.runs.stopping import StopRequested, StopRequests
from orchestrator.runs.watched import WatchedNode, doing_all, living, progress_made

TICK_S = 0.1
"""How often the supervisor looks at its nodes, real time."""

START_A_NODE_S = 1.0
"""Time that each node adds to the limit until all are ready, real time: they load nothing, but share the cores."""

START_LEAD_S = (0.3, 0.01)
"""How far the common start lies ahead when it is told, real time: at least, and for each node."""

MEASURE_REAL_S = 8.0
"""How long the measurement of the links may take, real time, where that is enough for :data:`MEASURE_TESTBED_S`."""

MEASURE_TESTBED_S = (0.4, 2.0)
"""The least and the most testbed time of the measurement."""

HAND_OVER_S = 20.0
"""Real time that nodes have for their last snapshot and records, beyond what the bytes take."""

HAND_OVER_BYTES_PER_S = 20e6
RECORD_BYTES = 250
"""Size of the record of one message, at most."""

KILL_AFTER_S = 3.0
"""Real time beyond that in which nodes may leave before they are killed."""

LEAVE_S = 5.0
"""Time that a node may take from the end of its session to the end of its process."""

STALL_S = 60.0
"""Real time without any progress after which a run has come to rest, beyond what its slowest step takes."""


class Control(Protocol):
    """The supervisor's use of a :class:`~orchestrator.runs.control_server.ControlServer`; see there."""

    async def start(self, host: str, port: int) -> str: ...
    async def reached(self, point: str, timeout_s: float) -> None: ...
    def command(self, command: ControlCommand, nodes: Iterable[NodeId] | None = None) -> None: ...
    def forget(self, node: NodeId) -> None: ...
    async def stop(self, grace_s: float) -> None: ...


class Display(Protocol):
    """The supervisor's use of a :class:`~orchestrator.progress.Progress`; see there."""

    def preparing(self, what: str) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that the supervisor has to know of an experiment. Pure; see :func:`rules_of`.

    Attributes:
        num_nodes: Nodes of the run.
        dilation: Real seconds a testbed second.
        begin_ns: Testbed time at which this part begins.
        end_ns: When the experiment ends, testbed time; None if only rounds end it.
        start_timeout_s: Real time until all nodes must be ready.
        block_s: Longest block of local steps of any node, testbed seconds.
        round_trip_s: Longest round trip between two nodes, testbed seconds.
        transfer_s: Longest transfer of a whole model to every node, testbed seconds; inf if a link may stand still.
        model_bytes: Bytes of the models of all nodes.
        death_fails: The run fails when a node dies.
        death_reason: Why, in words that end the message; empty if the experiment says so.
    """

    num_nodes: int
    dilation: float
    begin_ns: int
    end_ns: int | None
    start_timeout_s: float
    block_s: float
    round_trip_s: float
    transfer_s: float
    model_bytes: int
    death_fails: bool
    death_reason: str = ""

    @property
    def measure_s(self) -> float:
        """Duration of the measurement of the links, testbed seconds."""
        least, most = MEASURE_TESTBED_S
        return min(most, max(least, MEASURE_REAL_S / self.dilation))

    @property
    def measured_within_s(self) -> float:
        """Real time until all nodes must have told their measurement: probes come back and a block ends first."""
        return self.dilation * (self.measure_s + 3 * self.round_trip_s + 2 * self.block_s) + 30.0

    @property
    def start_lead_ns(self) -> int:
        """How far ahead of the command the common start lies, real time."""
        least, each = START_LEAD_S
        return s_to_ns(least + each * self.num_nodes)

    @property
    def stalled_after_s(self) -> float:
        """Real time without progress after which every node must be waiting for another one."""
        return STALL_S + self.dilation * (2 * (self.block_s + self.transfer_s) + self.round_trip_s)

    def hand_over_s(self, messages: int) -> float:
        """Real time that nodes have to hand over their models and the records of so many messages."""
        return HAND_OVER_S + (2 * self.model_bytes + RECORD_BYTES * messages) / HAND_OVER_BYTES_PER_S


def rules_of(plan: Plan, *, num_params: int, dilation: float, begin_ns: int) -> Rules:
    """Derive the supervisor's rules from a plan."""
    config = plan.config
    kind, policy = config.algorithm.kind, config.processes.on_node_death
    waits = plan.algorithm.needs_every_message
    return Rules(
        num_nodes=config.nodes,
        dilation=dilation,
        begin_ns=begin_ns,
        end_ns=plan.end_ns,
        start_timeout_s=config.processes.start_timeout_s + START_A_NODE_S * config.nodes,
        block_s=ns_to_s(max(plan.compute.step_ns) * config.algorithm.local_steps),
        round_trip_s=ns_to_s(int(np.max(plan.network.round_trip_ns))),
        transfer_s=config.nodes * _slowest_transfer_s(plan.network, 4 * num_params),
        model_bytes=4 * num_params * config.nodes,
        death_fails=policy == "fail" or (policy == "auto" and waits),
        death_reason=f"{kind} waits for every message" if waits else "",
    )


def _slowest_transfer_s(network: NetworkPlan, size: int) -> float:
    """How long ``size`` bytes take on the slowest access link, testbed seconds."""
    slowest = float(np.concatenate([network.up_mbps, network.down_mbps]).min())
    if not isfinite(slowest):
        return 0.0
    if slowest == 0:
        return inf  # parked until a change, which may never come
    return size / mbps_to_bytes_per_ns(slowest) / NS_PER_S


class Supervisor:
    """Leads the nodes of one part of a run through their life.

    State:
        nodes: What is known of each node.
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
    ) -> None:
        """Store what is needed.

        Args:
            rules: The experiment.
            fleet: The nodes; launched.
            collection: Where what nodes hand over is collected.
            requests: The user's requests to end the run.
            display: Where milestones and deaths are told.
            on_tick: Called at every look at the running nodes, to show and test meanwhile. Must be quick.
        """
        self._rules = rules
        self._fleet = fleet
        self._collection = collection
        self._requests = requests
        self._display = display
        self._on_tick = on_tick
        self.nodes = {NodeId(node): WatchedNode.new(NodeId(node)) for node in range(rules.num_nodes)}
        self.clock: Clock | None = None
        self.ended_ns: int | None = None
        self.is_over = False
        self.pressure: tuple[float | None, float | None] = (None, None)
        self._moved_s = 0.0
        self._moved = -1

    async def supervise(self, control: Control) -> None:
        """Take all steps.

        Raises:
            StopRequested: The user wanted the run to end; the nodes have handed over what they had.
            RunnerError: The run failed: a node did not come or died, the backend failed, or nothing moved.
            TransportError: The control server cannot listen.
        """
        self._fleet.tell_address(await control.start(self._fleet.host, 0))
        try:
            await self.gather(control)
            await self.calibrate(control)
            self.start(control)
            await self.watch(control)
        finally:
            await self.stop(control)

    # -- step 1: gather ----------------------------------------------------------------------------------------

    async def gather(self, control: Control) -> None:
        """Wait until all nodes are ready, and then until they have reached their peers."""
        self._display.preparing(f"starting {self._rules.num_nodes} nodes")
        # A node that cannot connect says why when its own time is over, so that the second wait is longer.
        for point, more_s in (("ready", 0.0), ("connected", LEAVE_S)):
            await self._while_all_live(control.reached(point, self._rules.start_timeout_s + more_s))

    async def _while_all_live(self, work: Awaitable[None]) -> None:
        """Wait for something before the start, where a node's end is a failure."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=TICK_S)
                # Deaths first: a barrier that waits for a dead node only says that the node did not come.
                for node in self._look_at_fleet():
                    raise RunnerError(f"node {node} {self.nodes[node].died} before the start{self._why(node)}")
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

    # -- step 4: watch -----------------------------------------------------------------------------------------

    async def watch(self, control: Control) -> None:
        """Look at the nodes until the experiment is over.

        Raises:
            StopRequested: The user wants it to end before.
            RunnerError: It cannot go on.
        """
        end_ns = self._rules.end_ns
        self._moved_s, self._moved = self._now_s(), -1
        self.pressure = (host_pressure(), None)
        while not self._requests.requested:
            await asyncio.sleep(TICK_S)
            # Deaths first: a node that has died is neither waited for nor does it move.
            for node in self._look_at_fleet():
                self._on_death(node, control)
            self._on_tick()
            # The planned end before the check for a stall: a run may rest until its time is over.
            if end_ns is not None and self.now_ns() >= end_ns:
                self.ended_ns = end_ns
                break
            alive = living(self.nodes)
            if all(status.phase in (Phase.DONE, Phase.STOPPING) for status in alive):
                break
            self._check_progress(alive)
        if self._requests.requested:
            raise StopRequested
        self.is_over = True

    def _on_death(self, node: NodeId, control: Control) -> None:
        """Decide what a node's death means for the run."""
        control.forget(node)
        died, why = self.nodes[node].died, self._why(node)
        if self._rules.death_fails:
            reason = f"; {self._rules.death_reason}" if self._rules.death_reason else ""
            raise RunnerError(f"node {node} {died}{reason}{why}")
        if all(other.died for other in self.nodes.values()):
            raise RunnerError(f"all nodes have ended; the last, node {node}, {died}{why}")
        self._display.note(f"node {node} {died}; going on without it{why}")

    def _check_progress(self, alive: list[NodeStatus]) -> None:
        """End a run in which nothing moves, for longer than its slowest step can take."""
        moved = progress_made(alive)
        if moved != self._moved:
            self._moved_s, self._moved = self._now_s(), moved
            return
        resting_s = self._now_s() - self._moved_s
        if resting_s > self._rules.stalled_after_s:
            raise RunnerError(
                f"nothing has moved for {resting_s:.0f} s of real time: every node waits for another one"
                f" ({doing_all(alive)})"
            )

    # -- step 5: stop ------------------------------------------------------------------------------------------

    async def stop(self, control: Control) -> None:
        """Stop the nodes, wait for what they hand over, and end those that do not end by themselves."""
        has_begun = self.clock is not None
        if has_begun:
            self.pressure = (self.pressure[0], host_pressure())  # nodes that hand over are not the experiment's load
            if self.ended_ns is None:
                self.ended_ns = max(self._rules.begin_ns, self.now_ns())
        statuses = [watched.status for watched in self.nodes.values()]
        messages = sum(status.messages_sent + status.messages_cancelled for status in statuses)
        # Before the start nodes have nothing to hand over, and are not waited for.
        grace_s = self._rules.hand_over_s(messages) if has_begun else 0.0
        # A model at the very end is wanted where no planned instant is the end.
        final = has_begun and self.ended_ns != self._rules.end_ns
        control.command(StopCommand("the run is over", s_to_ns(grace_s), final))
        until_s = self._now_s() + (grace_s + KILL_AFTER_S if has_begun else 0.0)
        self._note_ends()
        while any(not watched.end for watched in self.nodes.values()) and self._now_s() < until_s:
            if self._requests.in_a_hurry:
                break
            await asyncio.sleep(0.02)
            self._note_ends()
        # Only now are deaths judged: a node that ended with code 0 has done what it was told.
        for node, watched in self.nodes.items():
            if watched.end is None:
                if has_begun and not self._requests.in_a_hurry:
                    watched.died = f"did not end within {grace_s:.0f} s and was killed"
                    self._display.note(f"node {node} {watched.died}")
                self._kill(node)
            elif watched.end.failed and not watched.died:
                watched.died = watched.end.how
                self._display.note(f"node {node} {watched.died}{self._why(node)}")
        await control.stop(0.5)

    # -- nodes and what they say -------------------------------------------------------------------------------

    def on_status(self, status: NodeStatus) -> None:
        """Take a node's status; called by the control server."""
        self.nodes[status.node].update(status)

    def on_snapshot(self, info: SnapshotInfo, params: Vector) -> None:
        """Keep a model that a node handed over; called by the control server."""
        self._collection.keep_snapshot(info, params)

    def on_records(self, node: NodeId, name: str, data: bytes) -> None:
        """Keep records that a node handed over; called by the control server."""
        self._collection.keep_records(node, name, data)

    def on_session_end(self, node: NodeId) -> None:
        """Note that a node has left, or was silent for longer than a session may be; called by the control server."""
        self.nodes[node].silent_since_s = self._now_s()

    def _look_at_fleet(self) -> list[NodeId]:
        """Find the nodes that have died since the last look, and mark them.

        Raises:
            RunnerError: The backend failed, so that no node can go on.
        """
        if failure := self._fleet.failure():
            raise RunnerError(failure)
        self._note_ends()
        died = []
        for node, watched in self.nodes.items():
            if watched.died:
                continue
            silent_s = watched.silent_since_s
            if watched.end is not None:
                watched.died = watched.end.how
            elif silent_s is not None and self._now_s() - silent_s > LEAVE_S:
                self._kill(node)
                watched.died = "did not answer any more and was killed"
            if watched.died:
                died.append(node)
        return died

    def _note_ends(self) -> None:
        for node, end in self._fleet.newly_ended().items():
            self.nodes[node].end = end

    def _kill(self, node: NodeId) -> None:
        self._fleet.kill(node)
        self.nodes[node].end = NodeEnd("was killed", failed=True)

    def _why(self, node: NodeId) -> str:
        """Why a node ended, as far as it said; begins with a separator, or is empty."""
        status = self.nodes[node].status
        if status.phase is Phase.FAILED and status.failure:
            return f": {status.failure}"
        words = self._fleet.last_words(node)
        return f"; it said last: {words}" if words else ""

    def now_ns(self) -> int:
        """Testbed time; the common start must be decided."""
        assert self.clock is not None, "testbed time begins with the common start"
        return self.clock.at_ns(s_to_ns(self._now_s()))

    @staticmethod
    def _now_s() -> float:
        """The event loop's clock: the host's monotonic one, or a test's."""
        return asyncio.get_running_loop().time()
