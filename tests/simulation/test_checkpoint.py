"""A world that is saved and restored goes on exactly as if nothing had happened, whatever runs in it."""

import json
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from heapq import heappop

import numpy as np
import pytest

from node.algorithms.config import AlgorithmConfig
from node.algorithms.registry import ALGORITHMS, _entry
from node.algorithms.swift_divshare import SwiftDivShare, SwiftDivShareConfig
from node.core.algorithm import NodeContext
from node.core.compute import ComputePlan
from node.core.counters import FIGURES
from node.core.effects import Effect, StartLocalSteps
from node.core.errors import ConfigError, RunnerError
from node.core.events import Event, LocalStepsDone, MessageReceived
from node.core.fragments import FragmentLayout, fragment_plan
from node.core.links import CapacityChange, NetworkPlan
from node.core.saved_state import State
from node.core.schedule import LinkSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.scheduled_network import scheduled
from node.core.sender_policy import PER_PEER, parallel
from node.core.training import RealTimeTrainer, TrainerAndEvaluator
from node.core.types import NodeId
from node.learning.build import build_trainer, partition_dataset
from node.learning.config import LearningConfig, LogisticRegressionConfig, OptimizerConfig, SyntheticConfig
from node.learning.datasets import load_dataset
from node.sim.event_order import Entry
from node.sim.saved_world import restore_world, save_world
from node.sim.world import World
from tests.simulation.build import EVERY_ALGORITHM, graph_for, network, world

END_NS = 60_000_000
CHANGES = ((9_000_000, CapacityChange("up", 1, -1, 0.05)), (20_000_000, CapacityChange("up", 1, -1, 1.0)))


def plans() -> dict[str, NetworkPlan]:
    plain = network(6, 0.5, latency_ns=300_000, changes=CHANGES)
    lossy = replace(plain, jitter_ns=200_000, loss=0.02)
    pairs = np.full((6, 6), 0.3)
    faults = Schedule(
        links=(LinkSpan(6_000_000, 30_000_000, Place("up", 2, -1), Overlay(bandwidth_factor=0.5, latency_ns=900_000)),),
        partitions=(PartitionSpan(5_000_000, 25_000_000, (0, 0, 0, 1, 1, 1)),),
    )
    return {
        "constant": plain,
        "parallel": replace(lossy, sender=parallel(3)),
        "per_peer": replace(lossy, sender=PER_PEER),
        "per_peer_pairs": replace(plain, sender=PER_PEER, pair_mbps=pairs),
        "scheduled": scheduled(plain, faults),
        "per_peer_scheduled": replace(scheduled(plain, faults), sender=PER_PEER),
        "pairs": replace(plain, pair_mbps=pairs, latency_ns=(pairs * 1e6).astype(np.int64)),
    }


def saved(w: World, trainer: RealTimeTrainer | None = None, more: object = None) -> State:
    """As if it had been in a file."""
    state = save_world(w, trainer or w.steps._trainer, more, ())  # type: ignore[arg-type]
    return State(json.loads(json.dumps(state.structure)), [values.copy() for values in state.arrays])


def outcome(w: World) -> list[object]:
    """All that can be seen of a world."""
    columns = {} if w.trace is None else {name: c.tolist() for name, c in w.trace.columns(w.now_ns).items()}
    nodes = [
        (
            *(getattr(n.counters, name) for name in FIGURES),
            n.params.tobytes(),
            len(n.outbox),
        )
        for n in w.nodes
    ]
    return [w.now_ns, w.totals, columns, nodes]


class Mood(Enum):
    CALM = "calm"
    TENSE = "tense"


@dataclass(slots=True)
class Peer:
    node: NodeId
    heard: int


class NewcomerConfig(AlgorithmConfig):
    mood: Mood = Mood.CALM


class Newcomer(SwiftDivShare):
    """Holds whatever an algorithm may hold, and says nothing about saving it. All of it decides what is sent."""

    def __init__(self, context: NodeContext, config: NewcomerConfig) -> None:
        super().__init__(context, SwiftDivShareConfig(recipients=1))
        self.config = config
        self.mood = Mood.CALM
        self.topology = context.topology
        self.plan = fragment_plan(context.tensor_sizes, 4, FragmentLayout.RANDOM, context.seed)
        self.peers = {node: Peer(node, 0) for node in context.neighbors}
        self.last: deque[tuple[int, float]] = deque(maxlen=3)

    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        if isinstance(event, MessageReceived):
            self.peers[event.sender].heard += 1
            self.mood = Mood.TENSE if self.peers[event.sender].heard % 2 else self.config.mood
            self.last.append((int(self.plan.order[event.delivery % 40]), now_ns / 3))
        if isinstance(event, LocalStepsDone) and self.mood is Mood.TENSE:
            steps = len(self.topology.neighbors(self.context.node)) + sum(place for place, _ in self.last) % 3
            return [StartLocalSteps(event.params, steps)]
        return super().handle(event, now_ns)


@pytest.mark.parametrize("instant", [None, 0, 7_300_000, 21_000_000, 45_000_001])
def test_an_algorithm_that_says_nothing_about_saving_is_saved(
    instant: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALGORITHMS, "newcomer", _entry(NewcomerConfig, Newcomer, "new"))
    monkeypatch.setitem(EVERY_ALGORITHM, "newcomer", {"mood": "calm"})
    whole, part, restored = (world("newcomer", network_plan=plans()["constant"], jitter=0.2) for _ in range(3))
    whole.advance(END_NS)
    assert whole.totals.messages["delivered"] > 30
    if instant is not None:
        part.advance(instant)
    restore_world(restored, restored.steps._trainer, saved(part), ())  # type: ignore[arg-type]
    restored.advance(END_NS)
    assert outcome(restored) == outcome(whole)


@pytest.mark.parametrize("name", plans())
@pytest.mark.parametrize("kind", EVERY_ALGORITHM)
def test_a_restored_world_goes_on_as_the_saved_one(kind: str, name: str) -> None:
    """Saved before the start, in the first round, while transfers run, and late; the saved world goes on as well."""
    plan = plans()[name]
    if ALGORITHMS[kind].config.needs_every_message:
        assert plan.transport == "reliable"
    whole = world(kind, network_plan=plan, jitter=0.2)
    whole.advance(END_NS)
    expected = outcome(whole)
    continued = world(kind, network_plan=plan, jitter=0.2)
    for instant in (None, 0, 1_500_000, 7_300_000, 21_000_000, 45_000_001):
        if instant is not None:
            continued.advance(instant)
        restored = world(kind, network_plan=plan, jitter=0.2)
        assert restore_world(restored, restored.steps._trainer, saved(continued, more=[1]), {}) == [1]  # type: ignore[arg-type]
        restored.advance(END_NS)
        assert outcome(restored) == expected, instant
    continued.advance(END_NS)
    assert outcome(continued) == expected
    if kind != "local":
        assert whole.totals.messages["aggregated"] > 0


@pytest.mark.parametrize("kind", ["divshare", "adpsgd"])
def test_a_world_that_is_asked_to_stop_can_be_saved_after_any_event(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal comes within an event; here within each of the first ones."""
    plan = plans()["parallel"]
    whole = world(kind, network_plan=plan)
    whole.advance(END_NS)
    current = world(kind, network_plan=plan)

    def stop_and_pop(heap: list[Entry]) -> Entry:
        current.stop_requested = True
        return heappop(heap)

    with monkeypatch.context() as patch:
        patch.setattr("node.sim.world.heappop", stop_and_pop)
        for _ in range(80):
            assert not current.advance(END_NS)
            following = world(kind, network_plan=plan)
            restore_world(following, following.steps._trainer, saved(current), ())  # type: ignore[arg-type]
            current = following
    assert current.nodes[0].counters.rounds > 0
    current.advance(END_NS)
    assert outcome(current) == outcome(whole)


def test_parameters_that_keep_more_state() -> None:
    """The exchanges that AD-PSGD puts off, the pings that the alias bug rewrites, the models that SWIFT stores."""
    variants: list[tuple[str, dict[str, object]]] = [
        ("adpsgd", {"form": "blocking", "roles": "everyone"}),
        ("adpsgd", {"form": "naive", "exchange": "continuous", "roles": "parity"}),
        ("adpsgd_pingpong", {"alias_bug": True, "recipients": 4}),
        ("swift", {"memory": "fresh_only", "missing_weight": "rescale", "flush": "queued_only"}),
        ("swift", {"broadcast": "after_gradient", "sgd_steps": 2}),
        ("dpsgd", {"order": "combine_then_adapt"}),
        ("epidemic", {"announce": "seed"}),
        ("epidemic", {"graph": "oracle"}),
        ("divshare", {"flush": "all", "layout": "strided", "replacement": "last_arrival"}),
    ]
    for kind, parameters in variants:
        for instant in (5_000_000, 19_000_000):
            whole, part, restored = (
                world(kind, network_plan=plans()["constant"], local_steps=1, **parameters) for _ in range(3)
            )
            until_rest(whole, END_NS)
            until_rest(part, instant)
            restore_world(restored, restored.steps._trainer, saved(part), ())  # type: ignore[arg-type]
            until_rest(restored, END_NS)
            assert outcome(restored) == outcome(whole), (kind, parameters, instant)


def until_rest(w: World, instant: int) -> None:
    """AD-PSGD's blocking form with roles for everyone comes to rest in a cycle of waits."""
    with suppress(RunnerError):
        w.advance(instant)


def test_rounds_that_are_over_stay_over_and_a_world_without_a_trace_has_none() -> None:
    whole, part, restored = (world("divshare", max_rounds=4) for _ in range(3))
    assert not whole.advance(END_NS)
    for w in (part, restored):
        w.trace = None
    while not any(node.finished for node in part.nodes):
        part.advance(part.now_ns + 500_000)
    restore_world(restored, restored.steps._trainer, saved(part), ())  # type: ignore[arg-type]
    assert not restored.advance(END_NS)
    assert restored.finished
    assert restored.now_ns == whole.now_ns
    assert [node.params.tobytes() for node in restored.nodes] == [node.params.tobytes() for node in whole.nodes]


def test_the_state_of_another_world_is_refused() -> None:
    state = saved(world("divshare"))
    for other in (world("divshare", nodes=5), world("swift_divshare"), world("dpsgd")):
        with pytest.raises(ConfigError, match="not a state that this version can read"):
            restore_world(other, other.steps._trainer, state, ())  # type: ignore[arg-type]


# -- with real training ----------------------------------------------------------------------------------------------

LEARNING = LearningConfig(
    dataset=SyntheticConfig(samples=240, test_samples=20, features=8, classes=3),
    model=LogisticRegressionConfig(),
    optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9),
)


def trained_world(workers: int, trainers: list[TrainerAndEvaluator]) -> World:
    dataset = load_dataset(LEARNING.dataset, None, 1)
    split = partition_dataset(LEARNING, dataset, 4, 1)
    trainer = build_trainer(LEARNING, dataset, split, 1, 4, workers)
    trainers.append(trainer)
    entry = ALGORITHMS["divshare"]
    config = entry.config.model_validate({"recipients": 2})
    topology = graph_for("divshare", 4)
    return World(
        algorithms=[entry.make(NodeContext(NodeId(i), topology, trainer.tensor_sizes, 3, 1), config) for i in range(4)],
        trainer=trainer,
        network=network(4, 0.5),
        compute=ComputePlan((1_000_000, 1_100_000, 1_300_000, 2_900_000)),
        seed=1,
    )


@pytest.fixture
def trainers() -> Iterator[list[TrainerAndEvaluator]]:
    made: list[TrainerAndEvaluator] = []
    yield made
    for trainer in made:
        trainer.close()


def test_training_that_is_under_way_is_begun_again(trainers: list[TrainerAndEvaluator]) -> None:
    """With momentum, and from processes to none and back."""
    whole = trained_world(0, trainers)
    whole.advance(END_NS)
    current = trained_world(2, trainers)
    for instant, workers in ((5_000_000, 0), (23_456_789, 1), (40_000_000, 2)):
        current.advance(instant)
        assert all(node.training for node in current.nodes)
        state = saved(current, trainers[-1])
        current = trained_world(workers, trainers)
        restore_world(current, trainers[-1], state, ())
    current.advance(END_NS)
    assert outcome(current) == outcome(whole)


def test_a_world_whose_workers_have_been_killed_can_be_saved(trainers: list[TrainerAndEvaluator]) -> None:
    """A batch system ends all processes at once."""
    whole = trained_world(0, trainers)
    whole.advance(END_NS)
    killed = trained_world(2, trainers)
    pool = trainers[-1]
    killed.advance(20_000_000)
    for pid in pool.worker_pids:  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(RunnerError, match="training worker"):
        killed.advance(END_NS)
    state = saved(killed, pool)
    restored = trained_world(0, trainers)
    restore_world(restored, trainers[-1], state, ())
    restored.advance(END_NS)
    assert outcome(restored) == outcome(whole)
