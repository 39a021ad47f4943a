"""Nodes that only exist as a script, and a host whose clock jumps from one event to the next.

A scenario runs the real supervisor, over a fake fleet and a fake control server, in an event loop in virtual time: a
minute of waiting takes no time, and every run of a scenario is the same.
"""

import asyncio
import json
import selectors
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from node.config import NodeConfig
from node.core.counters import NodeCounters
from node.core.errors import RunnerError
from node.core.schedule import Comeback
from node.core.types import NodeId, Vector
from node.core.units import s_to_ns
from node.emulation.statistics import EmulatorStatistics
from node.transport.control_values import (
    ControlCommand,
    MeasureCommand,
    ModelSnapshot,
    NodeStatus,
    Phase,
    Registration,
    SnapshotPurpose,
    StartCommand,
    StopCommand,
)
from orchestrator.experiment.schedule.fates import Fate
from orchestrator.host.reserved_port import ReservedPort
from orchestrator.runs.collection import Collection
from orchestrator.runs.fault_executor import FaultExecutor
from orchestrator.runs.fleet import NextLife, NodeEnd
from orchestrator.runs.rules import Rules
from orchestrator.runs.stopping import StopRequested, StopRequests
from orchestrator.runs.supervision import Supervisor

EPOCH_S = 1000.0
"""The virtual clock when a scenario begins."""

KILLED = NodeEnd("was killed by SIGKILL", failed=True)
CLEAN = NodeEnd("ended with code 0", failed=False)

RULES = Rules(
    num_nodes=3,
    dilation=1.0,
    begin_ns=0,
    end_ns=s_to_ns(5.0),
    start_timeout_s=10.0,
    block_s=0.1,
    round_trip_s=0.01,
    transfer_s=0.1,
    model_bytes=1_000,
    death_fails=False,
)
"""An experiment of five seconds, without time dilation."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next planned call instead of waiting for it."""

    def __init__(self) -> None:
        self.now_s = EPOCH_S
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        return self.now_s

    def _jump(self, seconds: float) -> None:
        self.now_s += seconds


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everyone waits, and nothing is planned"
        self._jump(max(0.0, timeout))
        return super().select(0)


@dataclass
class Script:
    """One node's behaviour. Times are real seconds after what they follow; None: it never comes to that.

    Attributes:
        ready_s: After the server serves, it comes to the first barrier.
        connected_s: After that, it comes to the second.
        measured_s: After the command, it tells its measurement.
        works_s: After the start it makes progress for so long, and then rests.
        done_s: After the start, its rounds are done.
        leaves_s: After the command to stop, it has handed over everything and ends.
        end: How it ends then.
        dies_s: After the scenario's begin, it ends, told by nobody.
        dies: How it ends then.
        silent_s: After the scenario's begin, its session ends; it says nothing more, and does nothing.
        last_words: The end of its log.
        failure: Its last status before it dies, if it has time to say why.
        waiting_for, story: Parts of all its statuses.
        rests: When it works no more, it says that only a message could wake it.
        sending_to: The receivers of its transfers that have not ended, while it rests.
        unread: Messages that it sent and that never arrive anywhere.
        goes_down: Whether it does so as planned.
        leaves_after_down_s: After it has gone down, it ends.
        ready_again_s: After it was started again, it is ready.
        diverges_s: After the start, it finds its model to be not finite, says so at once, and stands still.
        rejected: Messages that it refused, by reason.
        repeats: How often it hands over each thing.
    """

    ready_s: float | None = 0.1
    connected_s: float | None = 0.1
    measured_s: float | None = 0.5
    works_s: float = 1e9
    done_s: float | None = None
    leaves_s: float | None = 0.2
    end: NodeEnd = CLEAN
    dies_s: float | None = None
    dies: NodeEnd = KILLED
    silent_s: float | None = None
    last_words: str = ""
    failure: str = ""
    waiting_for: str = ""
    story: tuple[str, ...] = ()
    rests: bool = False
    sending_to: tuple[int, ...] = ()
    unread: int = 0
    diverges_s: float | None = None
    goes_down: bool = True
    leaves_after_down_s: float = 0.0
    ready_again_s: float | None = 0.5
    rejected: Mapping[str, int] = field(default_factory=dict)
    repeats: int = 1


class FakeFleet:
    """Nodes by their scripts; a :class:`orchestrator.runs.fleet.Fleet`."""

    host = "127.0.0.1"
    emulates_links = False

    def __init__(self, scripts: Sequence[Script]) -> None:
        self.scripts = scripts
        self.begun: list[tuple[int, int, int | None]] = []
        self.ended: dict[NodeId, NodeEnd] = {}
        self.killed: list[int] = []
        self.asked = 0
        self.broken: str | None = None
        self.looking: Future[None] | None = None
        self.fates: Mapping[NodeId, Fate] = {}
        self.calls: list[tuple[float, str, int]] = []
        self.lives: dict[NodeId, NextLife] = {}
        self.on_start_again: Callable[[NodeId], None] = lambda node: None
        self._news: dict[NodeId, NodeEnd] = {}

    def launch(self, configs: Sequence[NodeConfig]) -> None:
        raise AssertionError("launched by whoever makes the supervisor")

    def links_are_set(self) -> bool:
        self.asked += 1
        return self.asked > 3

    def begin(self, start_monotonic_ns: int, *, begin_ns: int, end_ns: int | None) -> None:
        self.begun.append((start_monotonic_ns, begin_ns, end_ns))

    def look_at_links(self) -> "Future[None] | None":
        return self.looking

    def end(self, node: NodeId, how: NodeEnd) -> None:
        """Let a node end by itself."""
        if node not in self.ended:
            self.ended[node] = self._news[node] = how

    def newly_ended(self) -> Mapping[NodeId, NodeEnd]:
        news, self._news = self._news, {}
        return news

    def failure(self) -> str | None:
        return self.broken

    def last_words(self, node: NodeId) -> str:
        return self.scripts[node].last_words

    def pause(self, node: NodeId) -> None:
        self._note("pause", node)

    def resume(self, node: NodeId) -> None:
        self._note("resume", node)

    def start_again(self, node: NodeId, life: NextLife) -> None:
        self._note("start", node)
        del self.ended[node]
        self.lives[node] = life
        self.on_start_again(node)

    def _note(self, what: str, node: NodeId) -> None:
        self.calls.append((round(asyncio.get_running_loop().time() - EPOCH_S, 3), what, int(node)))

    def kill(self, node: NodeId) -> None:
        self.killed.append(node)
        self.ended.setdefault(node, KILLED)

    def close(self) -> EmulatorStatistics | None:
        return None


class FakeControl:
    """The control server and the nodes behind it, in one; a :class:`orchestrator.runs.supervision.Control`.

    Attributes:
        commands: What all nodes were told, with the virtual time.
        forgotten: Nodes that are not waited for any more.
        stopped: It serves no more.
    """

    def __init__(self, supervisor: Supervisor, fleet: FakeFleet) -> None:
        self._listener = supervisor
        self._fleet = fleet
        self._arrived: dict[str, set[NodeId]] = {"ready": set(), "connected": set()}
        self._started_s: float | None = None
        self._silent: set[NodeId] = set()
        self._running_again: set[NodeId] = set()
        self._down: set[NodeId] = set()
        fleet.on_start_again = lambda node: self._later(fleet.scripts[node].ready_again_s, self._wait_again, node)
        self.commands: list[tuple[float, ControlCommand]] = []
        self.forgotten: list[int] = []
        self.stopped = False
        self.address = ""

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def _later(self, seconds: float | None, call: Callable[..., object], *arguments: object) -> None:
        if seconds is not None:
            self._loop.call_later(seconds, call, *arguments)

    def _lives(self, node: NodeId) -> bool:
        return node not in self._fleet.ended and node not in self._silent

    # -- as the supervisor calls it

    async def start(self, host: str, port: int, *, reserved: bool = False) -> str:
        assert reserved
        for index, script in enumerate(self._fleet.scripts):
            node = NodeId(index)
            self._later(script.dies_s, self._die, node)
            self._later(script.silent_s, self._fall_silent, node)
            self._later(script.ready_s, self._arrive, "ready", node)
            if script.ready_s is not None and script.connected_s is not None:
                self._later(script.ready_s + script.connected_s, self._arrive, "connected", node)
        self.address = f"{host}:{port}"
        return self.address

    async def reached(self, point: str, timeout_s: float) -> None:
        until_s = self._loop.time() + timeout_s
        expected = {NodeId(node) for node in range(len(self._fleet.scripts))}
        while missing := expected - self._arrived[point]:
            if self._loop.time() >= until_s:
                raise RunnerError(f"nodes {sorted(missing)} did not come to '{point}' within {timeout_s:g} s")
            await asyncio.sleep(0.01)

    @property
    def registered(self) -> Mapping[NodeId, Registration]:
        nodes = range(len(self._fleet.scripts))
        return {NodeId(node): Registration(NodeId(node), f"127.0.0.1:{4000 + node}", 1, 8, 1, "0") for node in nodes}

    def command(self, command: ControlCommand, nodes: Iterable[NodeId] | None = None) -> None:
        if nodes is not None:
            assert isinstance(command, StartCommand)
            assert command.start_monotonic_ns is not None
            for node in nodes:
                due_s = max(self._loop.time(), command.start_monotonic_ns / 1e9)
                self._loop.call_at(due_s, self._run_again, node)
            return
        self.commands.append((self._loop.time(), command))
        for index, script in enumerate(self._fleet.scripts):
            node = NodeId(index)
            match command:
                case MeasureCommand():
                    self._later(script.measured_s, self._tell, node, "measurement", {"peer": (index + 1) % 3})
                case StartCommand():
                    self._started_s = self._loop.time()
                    self._speak(node)
                    self._later(script.diverges_s, self._say, node)
                    assert command.start_monotonic_ns is not None
                    for change in self._fleet.fates.get(node, ()):
                        if change.kind == "down" and script.goes_down:
                            at_s = (command.start_monotonic_ns + change.time_ns) / 1e9
                            self._loop.call_at(at_s, self._go_down, node, change.time_ns)
                case StopCommand(snapshot=final):
                    self._later(script.leaves_s, self._leave, node, final)

    def forget(self, node: NodeId) -> None:
        self.forgotten.append(node)

    async def stop(self, grace_s: float) -> None:
        self.stopped = True

    # -- what nodes do

    def _arrive(self, point: str, node: NodeId) -> None:
        if self._lives(node):
            self._arrived[point].add(node)

    def _tell(self, node: NodeId, name: str, content: Mapping[str, Any]) -> None:
        if self._lives(node):
            for _ in range(self._fleet.scripts[node].repeats):
                self._listener.on_records(node, name, json.dumps(content).encode())

    def _status(self, node: NodeId, phase: Phase, failure: str = "") -> NodeStatus:
        script = self._fleet.scripts[node]
        elapsed_s = 0.0 if self._started_s is None else self._loop.time() - self._started_s
        works_s = min(script.works_s, 1e9 if script.diverges_s is None else script.diverges_s)
        steps = int(10 * min(elapsed_s, works_s))
        diverged = script.diverges_s is not None and elapsed_s >= script.diverges_s
        rejected = sum(script.rejected.values())
        return NodeStatus(
            node,
            phase,
            time_ns=s_to_ns(elapsed_s),
            counters=NodeCounters(
                rounds=steps // 2,
                local_steps=steps,
                messages_sent=steps + script.unread + rejected,
                messages_delivered=steps,
                messages_rejected=rejected,
            ),
            messages_rejected=script.rejected,
            at_rest=script.rests and elapsed_s >= works_s,
            sending_to=tuple(map(NodeId, script.sending_to)),
            diverged_ns=s_to_ns(script.diverges_s) if diverged and script.diverges_s is not None else None,
            failure=failure,
            waiting_for=script.waiting_for,
            story=script.story,
        )

    def _speak(self, node: NodeId) -> None:
        """Send a status every second, as long as it lives."""
        if (
            self._lives(node)
            and node not in self._down
            and (node not in self._fleet.lives or node in self._running_again)
        ):
            self._say(node)
            self._later(1.0, self._speak, node)

    def _go_down(self, node: NodeId, time_ns: int) -> None:
        if self._lives(node):
            self._running_again.discard(node)
            self._down.add(node)
            self._listener.on_status(self._status(node, Phase.DOWN))
            self._tell(node, "figures", {"counters": {"local_steps": 7, "messages_sent": 3}, "down_ns": time_ns})
            self._later(self._fleet.scripts[node].leaves_after_down_s, self._leave_down, node)

    def _leave_down(self, node: NodeId) -> None:
        self._listener.on_session_end(node)
        self._fleet.end(node, NodeEnd("ended with code 5", failed=True))

    def _wait_again(self, node: NodeId) -> None:
        if self._lives(node):
            self._listener.on_status(replace(self._status(node, Phase.WAITING), time_ns=-1))

    def _run_again(self, node: NodeId) -> None:
        self._down.discard(node)
        self._running_again.add(node)
        self._speak(node)

    def _say(self, node: NodeId) -> None:
        """Send a status."""
        script = self._fleet.scripts[node]
        assert self._started_s is not None
        elapsed_s = self._loop.time() - self._started_s
        done = script.done_s is not None and elapsed_s >= script.done_s
        diverged = script.diverges_s is not None and elapsed_s >= script.diverges_s
        self._listener.on_status(
            self._status(node, Phase.DIVERGED if diverged else Phase.DONE if done else Phase.RUNNING)
        )

    def _die(self, node: NodeId) -> None:
        script = self._fleet.scripts[node]
        if script.failure:
            self._listener.on_status(self._status(node, Phase.FAILED, script.failure))
        self._fleet.end(node, script.dies)

    def _fall_silent(self, node: NodeId) -> None:
        self._silent.add(node)
        self._listener.on_session_end(node)

    def _leave(self, node: NodeId, final: bool) -> None:
        """Hand over everything, and end."""
        if not self._lives(node) or node in self._down:
            return
        script = self._fleet.scripts[node]
        self._listener.on_status(self._status(node, Phase.STOPPING))
        if final:
            params: Vector = np.full(2, node, dtype=np.float32)
            for _ in range(script.repeats):
                counters = NodeCounters(rounds=2, local_steps=3)
                self._listener.on_snapshot(ModelSnapshot(node, SnapshotPurpose.FINAL, 1, counters), params)
        self._tell(node, "figures", {"counters": {"local_steps": 10 + node}})
        self._listener.on_session_end(node)
        self._fleet.end(node, script.end)


def _common_model(node: NodeId, model: Comeback, life: int) -> Vector:
    return np.zeros(2, dtype=np.float32)


@dataclass
class Outcome:
    """What came of a scenario.

    Attributes:
        supervisor, control, fleet: As they were at the end.
        error: What ended it; None if the experiment's own rule did.
        seconds: Virtual time that it took.
        notes: What the display was told.
        models: The models that were kept, in order of their arrival.
        fates: What was done to nodes as planned.
    """

    supervisor: Supervisor
    control: FakeControl
    fleet: FakeFleet
    collection: Collection
    error: BaseException | None
    seconds: float
    notes: list[str]
    models: list[tuple[ModelSnapshot, Vector]]
    fates: FaultExecutor

    @property
    def message(self) -> str:
        """Why the run failed, which it must have."""
        assert isinstance(self.error, RunnerError), self.error
        assert "\n" not in str(self.error)
        return str(self.error)

    @property
    def died(self) -> dict[int, str]:
        """Who died, and how."""
        return {int(node): watched.died for node, watched in self.supervisor.nodes.items() if watched.died}

    def told(self, kind: type) -> list[Any]:
        """The commands of a kind."""
        return [command for _, command in self.control.commands if isinstance(command, kind)]

    def told_s(self, kind: type) -> float:
        """When the one command of a kind was given, after the scenario's begin."""
        (time_s,) = [time_s for time_s, command in self.control.commands if isinstance(command, kind)]
        return time_s - EPOCH_S


@dataclass
class Scenario:
    """Nodes, rules, and what else happens when.

    Attributes:
        scripts: The nodes.
        rules: The experiment; the number of nodes follows from the scripts.
        interrupts_s: When the user interrupts, after the begin.
        backend_fails_s: When the fleet's backend fails, after the begin.
        fates: What is planned to happen to nodes.
        looks_s: When the fleet's last look at the links is over, after the begin; None if it never is.
    """

    scripts: Sequence[Script] = field(default_factory=lambda: [Script(), Script(), Script()])
    rules: Rules = RULES
    interrupts_s: Sequence[float] = ()
    backend_fails_s: float | None = None
    looks_s: float | None = 0.0
    fates: Mapping[NodeId, Fate] = field(default_factory=dict)

    def run(self) -> Outcome:
        """Supervise these nodes to their end."""
        loop = VirtualLoop()
        fleet = FakeFleet(self.scripts)
        models: list[tuple[ModelSnapshot, Vector]] = []
        notes: list[str] = []
        collection = Collection(lambda info, params: models.append((info, params)))
        requests = StopRequests(levels=2, now_s=loop.time)
        rules = replace(self.rules, num_nodes=len(self.scripts))
        fleet.fates = self.fates
        fates = FaultExecutor(self.fates, fleet, collection, _common_model, notes.append, rules.start_timeout_s)
        supervisor = Supervisor(rules, fleet, collection, requests, _Display(notes), on_tick=lambda: None, fates=fates)
        control = FakeControl(supervisor, fleet)
        for interrupt_s in self.interrupts_s:
            loop.call_later(interrupt_s, requests.request)
        fleet.looking = looking = Future()
        if self.looks_s is not None:
            loop.call_later(self.looks_s, looking.set_result, None)
        if self.backend_fails_s is not None:
            loop.call_later(self.backend_fails_s, setattr, fleet, "broken", "the link emulator was killed by SIGKILL")
        error: BaseException | None = None
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                with ReservedPort(fleet.host) as reserved:
                    runner.run(supervisor.supervise(control, reserved))
                    assert control.address == reserved.address
            except (RunnerError, StopRequested) as failure:
                error = failure
            seconds = loop.now_s - EPOCH_S
        assert control.stopped
        assert all(watched.end is not None for watched in supervisor.nodes.values())
        return Outcome(supervisor, control, fleet, collection, error, seconds, notes, models, fates)


class _Display:
    """Remembers what it was told."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def preparing(self, what: str) -> None:
        pass

    def note(self, text: str) -> None:
        self._notes.append(text)
