"""A small second driver, so that algorithms are not only checked by the simulator that runs them.

A dictionary of algorithm objects, a heap of events and, for each node, an outbox that is pulled one message
at a time. Times are plain integers. By default every round takes 1,000 and messages take no time, so that all
nodes run in lockstep: at equal times local steps end first, then messages arrive, in the order in which they
were queued.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from node.algorithms.config import AlgorithmConfig
from node.algorithms.registry import ALGORITHMS
from node.core.algorithm import Algorithm, NodeContext
from node.core.effects import (
    Aggregated,
    CancelQueued,
    Effect,
    Enqueue,
    ReplaceQueued,
    StartLocalSteps,
    StartTimer,
)
from node.core.events import Event, LocalStepsDone, MessageReceived, PeerDown, PeerUp, Started, TimerFired
from node.core.messages import Message
from node.core.topology import Topology
from node.core.types import NodeId, Vector

ROUND = 1000
STEPS_DONE, TRANSFERRED, ARRIVED, TIMER = range(4)

StepFunction = Callable[[int, int, Vector], Vector]
"""(node, its round, params) -> trained params."""


def identity(node: int, round_: int, params: Vector) -> Vector:
    """Training with a learning rate of zero."""
    return params


def quadratic(num_nodes: int, num_params: int, *, rate: float = 0.25, seed: int = 0) -> StepFunction:
    """A gradient step on ``|x - c_i|^2 / 2``, with another random center c_i for each node."""
    centers = np.random.default_rng(seed).normal(size=(num_nodes, num_params)).astype(np.float32)

    def step(node: int, round_: int, params: Vector) -> Vector:
        return params - np.float32(rate) * (params - centers[node])

    return step


def starting_at(initial: Sequence[Vector], then: StepFunction = identity) -> StepFunction:
    """Make the first round lead each node to its own model, as if trained from the common one."""

    def step(node: int, round_: int, params: Vector) -> Vector:
        return initial[node] if round_ == 0 else then(node, round_, params)

    return step


def random_models(num_nodes: int, num_params: int, seed: int = 0) -> list[Vector]:
    """Independent normal models."""
    return list(np.random.default_rng(seed).normal(size=(num_nodes, num_params)).astype(np.float32))


def zeros(num_params: int) -> Vector:
    """The usual common initial model of these tests."""
    return np.zeros(num_params, dtype=np.float32)


def build(
    kind: str,
    topology: Topology,
    tensor_sizes: tuple[int, ...] = (8,),
    *,
    seed: int = 0,
    stream_keys: Sequence[int] | None = None,
    check: bool = True,
    **parameters: Any,
) -> list[Algorithm]:
    """All nodes of one algorithm, made as an experiment file would."""
    entry = ALGORITHMS[kind]
    config: AlgorithmConfig = entry.config.model_validate(parameters)
    if check:
        config.check(topology, tensor_sizes)
    return [
        entry.make(
            NodeContext(
                node=NodeId(node),
                topology=topology,
                tensor_sizes=tensor_sizes,
                local_steps=1,
                seed=seed,
                stream_key=None if stream_keys is None else stream_keys[node],
            ),
            config,
        )
        for node in range(topology.num_nodes)
    ]


@dataclass
class Counters:
    """What became of messages, of one node or of all."""

    queued: int = 0
    cancelled: int = 0
    aborted: int = 0
    completed: int = 0


@dataclass(frozen=True)
class Queued:
    """A record of one message entering an outbox."""

    time: int
    sender: int
    receiver: int
    message: Message


@dataclass(frozen=True)
class Delivered(Queued):
    """A record of one message arriving; ``time`` is that of arrival."""

    sender_round: int
    """Rounds the sender had finished when the transfer ended."""


@dataclass
class _Node:
    algorithm: Algorithm
    outbox: deque[tuple[NodeId, Message]] = field(default_factory=deque)
    transfer: tuple[int, NodeId, Message] | None = None
    training: bool = False
    halted: bool = False
    is_there: bool = True
    life: int = 0
    rounds: int = 0
    starts: list[Vector] = field(default_factory=list)
    pending: dict[int, int] = field(default_factory=dict)
    aggregated: list[int] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)


class Harness:
    """Run algorithms against each other until nothing is left to happen or a limit is met."""

    def __init__(
        self,
        algorithms: Sequence[Algorithm],
        initial: Vector | Sequence[Vector],
        *,
        step: StepFunction = identity,
        compute: Callable[[int, int], int] = lambda node, round_: ROUND,
        transfer: Callable[[int, Message], int] = lambda sender, message: 0,
        latency: Callable[[int, int], int] = lambda sender, receiver: 0,
        lose: Callable[[Queued], bool] = lambda queued: False,
    ) -> None:
        self.nodes = [_Node(algorithm) for algorithm in algorithms]
        shared = isinstance(initial, np.ndarray)
        self.initial = [initial if shared else initial[i] for i in range(len(self.nodes))]
        self.now = 0
        self.queued: list[Queued] = []
        self.delivered: list[Delivered] = []
        self.effects: list[tuple[int, int, Effect]] = []
        self.in_flight: dict[int, tuple[int, int, Message]] = {}
        self._step, self._compute, self._transfer = step, compute, transfer
        self._latency, self._lose = latency, lose
        self._heap: list[tuple[int, int, int, int, Any]] = []
        self._sequence = count()
        self._rounds_max: int | None = None
        self._is_started = False

    def run(
        self,
        *,
        rounds: int | None = None,
        until: int | None = None,
        stop: Callable[[], bool] = lambda: False,
        after_event: Callable[[], None] = lambda: None,
    ) -> "Harness":
        """Run on. ``rounds``: each node stands still once it finished as many; messages still arrive."""
        self._rounds_max = rounds
        if not self._is_started:
            self._is_started = True
            for node, params in enumerate(self.initial):
                self._handle(node, Started(params))
        else:
            for node, state in enumerate(self.nodes):
                if state.halted and (rounds is None or state.rounds < rounds):
                    state.halted = False
                    self._schedule_steps(node)
        while self._heap and not stop():
            if until is not None and self._heap[0][0] > until:
                break
            self.now, event_class, _, node, data = heapq.heappop(self._heap)
            self._dispatch(event_class, node, data)
            after_event()
        return self

    def end(self, node: int) -> None:
        """End a node: what it holds is lost, and its neighbors learn of it at once."""
        state = self.nodes[node]
        state.is_there, state.training, state.transfer = False, False, None
        state.life += 1
        state.counters.cancelled += len(state.outbox)
        state.outbox.clear()
        self._tell_neighbors(node, PeerDown(NodeId(node)))

    def come_back(self, node: int, algorithm: Algorithm, params: Vector) -> None:
        """Begin a node anew, with an algorithm that knows of nothing; its neighbors learn of it at once."""
        state = self.nodes[node]
        state.is_there, state.algorithm = True, algorithm
        self._handle(node, Started(params))
        self._tell_neighbors(node, PeerUp(NodeId(node)))

    def _tell_neighbors(self, node: int, news: PeerDown | PeerUp) -> None:
        for peer in self.nodes[node].algorithm.context.neighbors:
            if self.nodes[peer].is_there:
                self._handle(peer, news)

    def model(self, node: int) -> Vector:
        """What a node is: the model that it started its last local steps from."""
        return self.nodes[node].starts[-1]

    def models(self) -> np.ndarray:
        """All of them, shape (n, d), float64."""
        return np.array([self.model(node) for node in range(len(self.nodes))], dtype=np.float64)

    def waiting(self) -> dict[int, str]:
        """Which nodes cannot go on, and why."""
        found = {node: state.algorithm.waiting_for() for node, state in enumerate(self.nodes)}
        return {node: reason for node, reason in found.items() if reason is not None}

    def check_conservation(self) -> None:
        """Every message that was queued is somewhere, exactly once."""
        for state in self.nodes:
            c = state.counters
            held = len(state.outbox) + (state.transfer is not None)
            assert c.queued == c.completed + c.aborted + c.cancelled + held

    def _dispatch(self, event_class: int, node: int, data: Any) -> None:
        state = self.nodes[node]
        if event_class == STEPS_DONE:
            life, trained = data
            if life == state.life:
                state.training = False
                state.rounds += 1
                self._handle(node, LocalStepsDone(trained))
        elif event_class == TRANSFERRED:
            if state.transfer is not None and state.transfer[0] == data:
                self._complete(node)
                self._pull(node)
        elif event_class == ARRIVED:
            sender, message, sender_round = data[0], data[1], data[2]
            del self.in_flight[data[3]]
            if not state.is_there:
                return
            delivery = len(self.delivered)
            self.delivered.append(Delivered(self.now, sender, node, message, sender_round))
            state.pending[delivery] = sender
            self._handle(node, MessageReceived(NodeId(sender), message, delivery))
        elif data[0] == state.life:
            self._handle(node, TimerFired(data[1]))

    def _handle(self, node: int, event: Event) -> None:
        state = self.nodes[node]
        waited = bool(state.algorithm.waits_on())
        effects = state.algorithm.handle(event, self.now)
        _check_waiting(state.algorithm, waited, may_change=bool(effects) or isinstance(event, LocalStepsDone))
        for effect in effects:
            self.effects.append((self.now, node, effect))
            self._execute(node, state, effect)
        self._pull(node)
        state.algorithm.check_invariants()

    def _execute(self, node: int, state: _Node, effect: Effect) -> None:
        match effect:
            case StartLocalSteps(params=params, count=steps):
                assert steps >= 1
                assert not state.training, "local steps overlap"
                state.starts.append(params)
                self._schedule_steps(node)
            case Enqueue(items=items):
                for receiver, message in items:
                    assert receiver != node
                    assert not message.body.values.flags.writeable
                    queued = Queued(self.now, node, receiver, message)
                    self.queued.append(queued)
                    state.counters.queued += 1
                    if self._lose(queued):
                        state.counters.cancelled += 1
                    else:
                        state.outbox.append((receiver, message))
            case CancelQueued(abort_in_flight=abort):
                state.counters.cancelled += len(state.outbox)
                state.outbox.clear()
                if abort and state.transfer is not None:
                    state.transfer = None
                    state.counters.aborted += 1
            case ReplaceQueued(old=old, new=new):
                state.outbox = deque((to, new if m is old else m) for to, m in state.outbox)
            case StartTimer(timer=timer, delay_ns=delay):
                self._push(self.now + delay, TIMER, node, (state.life, timer))
            case Aggregated(deliveries=deliveries):
                for delivery in deliveries:
                    del state.pending[delivery]  # delivered here, and not aggregated before
                state.aggregated += deliveries

    def _schedule_steps(self, node: int) -> None:
        state = self.nodes[node]
        if self._rounds_max is not None and state.rounds >= self._rounds_max:
            state.halted = True
            return
        state.training = True
        params = state.starts[-1]
        done = self.now + self._compute(node, state.rounds)
        self._push(done, STEPS_DONE, node, (state.life, self._step(node, state.rounds, params)))

    def _pull(self, node: int) -> None:
        state = self.nodes[node]
        while state.transfer is None and state.outbox:
            receiver, message = state.outbox.popleft()
            duration = self._transfer(node, message)
            number = next(self._sequence)
            state.transfer = (number, receiver, message)
            if duration > 0:
                self._push(self.now + duration, TRANSFERRED, node, number)
            else:
                self._complete(node)

    def _complete(self, node: int) -> None:
        state = self.nodes[node]
        assert state.transfer is not None
        number, receiver, message = state.transfer
        state.transfer = None
        state.counters.completed += 1
        self.in_flight[number] = (node, receiver, message)
        arrival = self.now + self._latency(node, receiver)
        self._push(arrival, ARRIVED, receiver, (node, message, state.rounds, number))

    def _push(self, time: int, event_class: int, node: int, data: Any) -> None:
        heapq.heappush(self._heap, (time, event_class, next(self._sequence), node, data))


def spread(models: np.ndarray) -> float:
    """D(x), the consensus distance."""
    return float(((models - models.mean(axis=0)) ** 2).sum(axis=1).mean())


def by_sender(queued: Iterable[Queued]) -> Mapping[int, list[Queued]]:
    """Group records by sender, in order."""
    groups: dict[int, list[Queued]] = {}
    for item in queued:
        groups.setdefault(item.sender, []).append(item)
    return groups


def _check_waiting(algorithm: Algorithm, waited: bool, *, may_change: bool) -> None:
    """What an algorithm promises of those for whom it waits; see ``Algorithm.waits_on``."""
    peers, words = algorithm.waits_on(), algorithm.waiting_for()
    assert (words is not None) == bool(peers)
    assert all(peer in algorithm.context.neighbors and str(peer) in str(words) for peer in peers)
    assert may_change or waited == bool(peers), "whether it waits changed without effects"
