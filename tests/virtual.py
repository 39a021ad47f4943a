"""A network of real drivers in virtual time: a fake event loop, the simulator's links, and no host in between.

Everything that a driver and its path are given is replaced: loop, monotonic clock, uplink, streams and training.
Frames are encoded and decoded as on a real stream. Events at the same instant come in the simulator's order, so that
a run can be compared with a :class:`node.sim.world.World` to the nanosecond. A host that is late can be imitated.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from node.algorithms.config import AlgorithmConfig
from node.algorithms.registry import ALGORITHMS
from node.build import build_algorithm
from node.config import Beginning, NodeAlgorithm, NodeConfig
from node.core.algorithm import Algorithm, NodeContext
from node.core.compute import ComputePlan, StepTimer
from node.core.errors import DivergedError
from node.core.link_bounds import rate_bounds
from node.core.links import LinkChange, NetworkPlan
from node.core.steps import Steps
from node.core.topology import Topology
from node.core.training import QuadraticTrainer
from node.core.types import NodeId, Vector
from node.core.units import NS_PER_S, ms_to_ns
from node.host.clock import Clock
from node.learning.config import LearningConfig
from node.runtime.accounting import Accounting
from node.runtime.driver import Driver, Rounds
from node.runtime.emulated_path import EmulatedPath
from node.runtime.outgoing import InFlight, OutgoingFrames
from node.sim.event_order import DELIVERY, LINK_CHANGE, STEPS_DONE, TIMER, TRANSFER_ENDED
from node.sim.network import Due, NetworkFlow, change_links, make_network
from node.sim.world import World
from node.transport.delay_line import DelayLine
from node.transport.frames import WireContext, decode, plan_id
from tests.node_files import through_files
from tests.simulation.build import EVERY_ALGORITHM, NUM_PARAMS, graph_for, network

AT_ONCE = -1
"""Class of what follows from the event just handled, before anything else happens."""

EPOCH_NS = 7_000_000_000
"""The monotonic clock when testbed time is 0."""


class Handle:
    """What a loop gives for a planned call."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def __call__(self) -> None:
        if self._callback is not None:
            self._callback()


class Host:
    """A monotonic clock that stands still between events, and what is planned.

    Attributes:
        now_ns: The monotonic clock.
        late_ns: By how much an event comes late, asked for each; 0 by default.
    """

    def __init__(self, late_ns: Callable[[], int] | None = None) -> None:
        self.now_ns = EPOCH_NS
        self.is_ideal = late_ns is None
        self.late_ns = late_ns or (lambda: 0)
        self._heap: list[tuple[int, int, int, int, Callable[[], None]]] = []
        self._sequence = 0

    def plan(self, monotonic_ns: int, event_class: int, node: int, callback: Callable[[], None]) -> None:
        self._sequence += 1
        heappush(self._heap, (monotonic_ns, event_class, node, self._sequence, callback))

    def step(self, until_ns: int) -> bool:
        """Let the next event happen, unless it lies after ``until_ns`` or there is none."""
        if not self._heap or self._heap[0][0] > until_ns:
            self.now_ns = max(self.now_ns, until_ns)
            return False
        time_ns, _, _, _, callback = heappop(self._heap)
        self.now_ns = max(self.now_ns, time_ns)
        callback()
        return True

    def run_until(self, until_ns: int) -> None:
        while self.step(until_ns):
            pass

    @contextmanager
    def is_the_clock(self) -> Iterator[None]:
        """Where drivers and clocks look for the time."""
        fake = SimpleNamespace(monotonic_ns=lambda: self.now_ns)
        with pytest.MonkeyPatch.context() as patch:
            for module in (
                "node.host.clock",
                "node.runtime.driver",
                "node.runtime.emulated_path",
                "node.runtime.link_measurement",
                "node.runtime.direct_path",
            ):
                patch.setattr(f"{module}.time", fake)
            yield


class Loop:
    """As much of an event loop as a driver uses."""

    def __init__(self, host: Host, node: int) -> None:
        self._host, self._node = host, node
        self.next_class = TIMER

    def call_at(self, when: float, callback: Callable[..., None], *arguments: Any) -> asyncio.TimerHandle:
        handle = Handle(lambda: callback(*arguments))
        event_class, self.next_class = self.next_class, TIMER
        self._host.plan(round(when * NS_PER_S) + self._host.late_ns(), event_class, self._node, handle)
        return cast(asyncio.TimerHandle, handle)

    def call_later(self, delay_s: float, callback: Callable[..., None], *arguments: Any) -> asyncio.TimerHandle:
        return self.call_at(self._host.now_ns / NS_PER_S + delay_s, callback, *arguments)

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> asyncio.Handle:
        handle = Handle(lambda: callback(*arguments))
        self._host.plan(self._host.now_ns, AT_ONCE, self._node, handle)
        return cast(asyncio.Handle, handle)

    def as_loop(self) -> asyncio.AbstractEventLoop:
        return cast(asyncio.AbstractEventLoop, self)


class Trainer(QuadraticTrainer):
    """Tells the loop that the call which a driver plans next is the end of local steps."""

    def __init__(self, targets: "np.ndarray[Any, np.dtype[np.float32]]", learning_rate: float, loop: Loop) -> None:
        super().__init__(targets, learning_rate)
        self._loop = loop

    def begin(self, node: NodeId, params: Vector, first_step: int, count: int) -> None:
        super().begin(node, params, first_step, count)
        self._loop.next_class = STEPS_DONE


@dataclass(frozen=True)
class Scenario:
    """One small experiment, for either driver."""

    kind: str
    nodes: int = 6
    network: NetworkPlan = field(default_factory=lambda: network(6))
    step_ms: Sequence[float] = ()
    seed: int = 1
    max_rounds: int | None = None
    topology: Topology | None = None
    local_steps: int = 2
    jitter: float = 0.0
    dilation: float = 1.0
    learning_rate: float = 0.1
    parameters: dict[str, object] = field(default_factory=dict)
    speeds: Mapping[int, Steps[float]] = field(default_factory=dict)

    @property
    def compute(self) -> ComputePlan:
        steps = tuple(ms_to_ns(ms) for ms in self.step_ms or [1.0] * self.nodes)
        return ComputePlan(steps, jitter=self.jitter, speeds=self.speeds)

    @property
    def targets(self) -> "np.ndarray[Any, np.dtype[np.float32]]":
        return np.random.default_rng(self.seed).standard_normal((self.nodes, NUM_PARAMS)).astype(np.float32)

    @property
    def graph(self) -> Topology:
        return self.topology or graph_for(self.kind, self.nodes)

    @property
    def algorithm(self) -> AlgorithmConfig:
        return ALGORITHMS[self.kind].config.model_validate({**EVERY_ALGORITHM[self.kind], **self.parameters})

    def algorithms(self) -> list[Algorithm]:
        graph, config = self.graph, self.algorithm
        contexts = (
            NodeContext(NodeId(node), graph, (NUM_PARAMS,), self.local_steps, self.seed) for node in range(self.nodes)
        )
        return [ALGORITHMS[self.kind].make(context, config) for context in contexts]

    def configs(self) -> list[NodeConfig]:
        """What real nodes of the same experiment would be told."""
        graph, compute = self.graph, self.compute
        beginning = Beginning(np.zeros(NUM_PARAMS, dtype=np.float32))
        algorithm = NodeAlgorithm(kind=self.kind, local_steps=self.local_steps, parameters=self.algorithm)
        return [
            NodeConfig(
                run_id="virtual",
                node=NodeId(node),
                seed=self.seed,
                algorithm=algorithm,
                tensor_sizes=(NUM_PARAMS,),
                learning=LearningConfig(),
                emulator_clock=Clock(EPOCH_NS, self.dilation),
                orchestrator="127.0.0.1:1",
                emulator=None,
                data_root=None,
                host="127.0.0.1",
                port=0,
                advertised=None,
                delays_arrivals=False,
                evaluation_interval_ns=NS_PER_S,
                evaluate_after_training=False,
                end_ns=None,
                max_rounds=self.max_rounds,
                keep_messages=True,
                start_timeout_s=1.0,
                metrics_host=None,
                peer_labels=False,
                begin_ns=0,
                down_ns=None,
                pauses=np.zeros((0, 3), dtype=np.int64),
                rates=rate_bounds(self.network, node),
                topology=graph,
                network=self.network,
                compute=compute,
                train_indices=np.arange(1),
                beginning=beginning,
                credentials=None,
            )
            for node in range(self.nodes)
        ]

    def world(self) -> World:
        return World(
            algorithms=self.algorithms(),
            trainer=QuadraticTrainer(self.targets, self.learning_rate),
            network=self.network,
            compute=self.compute,
            seed=self.seed,
            max_rounds=self.max_rounds,
        )


class _NoBound(InFlight):
    """Counts what is in flight and bounds nothing."""

    def fits(self, receiver: NodeId, frame_bytes: int) -> bool:
        return True


class _Uplink:
    """One node's way out, into the simulator's network."""

    def __init__(self, net: "VirtualNetwork", node: int) -> None:
        self._net, self._node = net, node
        self._flows: dict[int, NetworkFlow] = {}

    def start(self, number: int, receiver: int, wire_bytes: int, ready_ns: int) -> None:
        now_ns = self._net.clock.now_ns()
        assert ready_ns <= now_ns
        assert ready_ns == now_ns or not self._net.host.is_ideal
        flow = self._net.fluid.start(ready_ns, self._node, receiver, wire_bytes, self)
        flow.number = number
        self._flows[number] = flow

    def ended(self, flow: NetworkFlow, finish_ns: int) -> None:
        del self._flows[flow.number]
        self._tell(lambda path: path.transfer_ended(flow.number, finish_ns), TRANSFER_ENDED)

    def abort(self, number: int) -> None:
        flow = self._flows.pop(number, None)
        if flow is not None:  # or its end is about to be told
            sent_bytes = self._net.fluid.abort(flow, self._net.clock.now_ns())
            self._tell(lambda path: path.transfer_aborted(number, sent_bytes), AT_ONCE)

    def _tell(self, what: Callable[[EmulatedPath], None], event_class: int) -> None:
        host, path = self._net.host, self._net.paths[self._node]
        if host.is_ideal and event_class != AT_ONCE:
            what(path)
        else:
            host.plan(host.now_ns + host.late_ns(), event_class, self._node, lambda: what(path))


class _Streams:
    """One node's streams: frames are decoded as a receiver would, and a receipt follows at once."""

    def __init__(self, net: "VirtualNetwork", node: int) -> None:
        self._net, self._node = net, node

    def send(self, peer: NodeId, frame: bytes, number: int, due_ns: int, deadline_ns: int) -> None:
        host = self._net.host
        assert due_ns >= host.now_ns or not host.is_ideal
        self._net.frames.append((self._node, peer, number, frame))

        def arrive() -> None:
            sender, message = decode(frame, expected=self._net.contexts[peer])
            assert sender == self._node
            self._net.drivers[peer].received(sender, message, number, due_ns, due_ns if self._net.arrivals_wait else 0)
            self._net.paths[self._node].acknowledged(number)

        if self._net.arrivals_wait:
            self._net.waiting[peer].put(due_ns, arrive)
        else:
            host.plan(max(host.now_ns, due_ns) + host.late_ns(), DELIVERY, peer, arrive)

    def probe(self, peer: NodeId, sequence: int, sent_ns: int, padding_bytes: int, due_ns: int) -> None:
        raise AssertionError("nobody measures")


class VirtualNetwork:
    """All drivers of a scenario.

    Args:
        scenario: The experiment.
        late_ns: By how much the host is late, asked for each event.
        bounded: Keep the bound of the bytes in flight, of which the simulator knows nothing. Messages of different
            sizes, jitter and repeated packets can reach it.
        arrivals_wait: Messages wait until a driver asks for them, as those for passive algorithms may.
    """

    def __init__(
        self,
        scenario: Scenario,
        late_ns: Callable[[], int] | None = None,
        *,
        bounded: bool = True,
        arrivals_wait: bool = False,
    ) -> None:
        self.arrivals_wait = arrivals_wait
        self.waiting: list[DelayLine[Callable[[], None]]] = [DelayLine() for _ in range(scenario.nodes)]
        self.scenario = scenario
        self.host = Host(late_ns)
        self.clock = Clock(EPOCH_NS, scenario.dilation)
        self.fluid = make_network(scenario.network, self._schedule)
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.refused: list[tuple[int, int]] = []
        self.unfinished = scenario.nodes
        self.diverged: DivergedError | None = None
        configs = through_files(scenario.configs())
        algorithms = [build_algorithm(config) for config in configs]
        number = plan_id((NUM_PARAMS,), scenario.seed, algorithms[0].fragments)
        self.loops = [Loop(self.host, node) for node in range(scenario.nodes)]
        self.contexts = [self._context(algorithm, number) for algorithm in algorithms]
        self.paths = [
            EmulatedPath(
                node=config.node,
                network=config.network,
                seed=config.seed,
                emulator_clock=config.emulator_clock,
                loop=self.loops[node].as_loop(),
                uplink=_Uplink(self, node),
                streams=_Streams(self, node),
                frames=OutgoingFrames(config.node, number, config.network.wire_dtype, config.num_params),
            )
            for node, config in enumerate(configs)
        ]
        self.drivers = [
            Driver(
                algorithm=algorithm,
                trainer=Trainer(scenario.targets, scenario.learning_rate, self.loops[node]),
                timer=StepTimer(config.compute, node, config.seed),
                path=self.paths[node],
                accounting=Accounting(config.network.header_bytes, config.network.wire_dtype),
                rounds=Rounds(most=config.max_rounds),
                reject=lambda sender, node=node: self.refused.append((node, sender)),  # type: ignore[misc]
                on_end=self._one_ended,
            )
            for node, (algorithm, config) in enumerate(zip(algorithms, configs, strict=True))
        ]
        for node, driver in enumerate(self.drivers):
            driver.take_arrivals = lambda until_ns, node=node: self._hand_over(node, until_ns)  # type: ignore[misc]
        for path, config in zip(self.paths, configs, strict=True):
            bound = InFlight if bounded else _NoBound
            path.in_flight = bound(config.network, config.node, config.rates)
        self._started = False
        for time_ns, change in scenario.network.changes:
            self._plan(time_ns, LINK_CHANGE, 0, lambda change=change: self._change(change))  # type: ignore[misc]

    @property
    def now_ns(self) -> int:
        """Testbed time."""
        return self.clock.at_ns(self.host.now_ns)

    def advance(self, until_ns: int) -> bool:
        """As :meth:`World.advance`: up to an instant, or until all nodes are done, or one has diverged."""
        with self.host.is_the_clock():
            if not self._started:
                self._started = True
                self._start()
            until_ns = self.clock.monotonic_ns(until_ns)
            while self.unfinished and self.diverged is None and self.host.step(until_ns):
                pass
        if self.diverged is not None:
            raise self.diverged
        return self.unfinished > 0

    def _start(self) -> None:
        for node, driver in enumerate(self.drivers):
            driver.start(
                np.zeros(NUM_PARAMS, dtype=np.float32),
                at_ns=0,
                clock=self.clock,
                loop=self.loops[node].as_loop(),
            )

    def _hand_over(self, node: int, until_ns: int) -> None:
        until_ns = min(until_ns, self.host.now_ns)  # whoever asks from outside has another clock
        while (arrive := self.waiting[node].pop_due(until_ns)) is not None:
            arrive()

    def _one_ended(self, diverged: DivergedError | None) -> None:
        if diverged is None:
            self.unfinished -= 1
        else:
            self.diverged = self.diverged or diverged

    def _context(self, algorithm: Algorithm, number: int) -> WireContext:
        plan, context = algorithm.fragments, algorithm.context
        return WireContext(
            plan_id=number,
            num_params=NUM_PARAMS,
            fragment_sizes=() if plan is None else tuple(np.diff(plan.bounds).tolist()),
            senders=frozenset(NodeId(node) for node in range(self.scenario.nodes) if node != context.node),
            carries=algorithm.carries,
            dtype=self.scenario.network.wire_dtype,
        )

    def _plan(self, time_ns: int, event_class: int, node: int, callback: Callable[[], None]) -> None:
        self.host.plan(self.clock.monotonic_ns(time_ns), event_class, node, callback)

    def _schedule(self, time_ns: int, what: Due) -> None:
        self._plan(time_ns, TRANSFER_ENDED, what.source, lambda: self._finish(what, time_ns))

    def _finish(self, what: Due, time_ns: int) -> None:
        for flow in self.fluid.finish(what, time_ns):
            flow.token.ended(flow, time_ns)

    def _change(self, change: LinkChange) -> None:
        change_links(self.fluid, change, self.now_ns)
