"""Where a node's time goes, against an obvious count: at each instant one activity, and the sum is the clock.

The obvious one looks at every node after every instant at which anything happens, and sets what the node then does
against the time until the next.
"""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.algorithms.registry import ALGORITHMS
from node.core.counters import NodeCounters
from node.core.errors import DivergedError, StalledError
from node.core.schedule import RUNNING, NodeSpan, Schedule
from node.core.sender_policy import SenderPolicy
from node.core.time_budget import TIME_FIGURES, Activity, TimeBudget
from node.sim.simulated_node import SimulatedNode
from node.sim.world import World
from tests.simulation.build import EVERY_ALGORITHM, SENDERS, network, world

NODES = 6
END_NS = 60_000_000

WAITING: dict[str, dict[str, object]] = {
    "adpsgd": {"form": "blocking"},
    "dpsgd": {"order": "combine_then_adapt"},
    "epidemic": {"graph": "oracle", "announce": None},
}
"""Parameters under which nodes wait otherwise than by default."""


def spent(counters: NodeCounters) -> dict[str, int]:
    return {activity: getattr(counters, TIME_FIGURES[activity]) for activity in TIME_FIGURES}


def activity_now(w: World, node: SimulatedNode, schedule: Schedule) -> Activity:
    steps = schedule.node_states().get(node.index)
    state = RUNNING if steps is None else steps.at(w.now_ns)
    if state.is_down:
        return "down"
    if state.is_paused:
        return "paused"
    if node.training:
        return "computing"
    if node.algorithm.waiting_for() is not None:
        return "waiting"
    return "sending" if len(node.outbox) or list(w.network.outgoing(node.index)) else "idle"


def check(w: World, schedule: Schedule) -> list[dict[str, int]]:
    """Run to the end, one instant at a time; returns what each node spent."""
    expected = [dict.fromkeys(TIME_FIGURES, 0) for _ in w.nodes]
    with suppress(StalledError, DivergedError):
        w.advance(0)
        while w.now_ns < END_NS:
            before_ns, doing = w.now_ns, [activity_now(w, node, schedule) for node in w.nodes]
            goes_on = w.advance(min(w._heap[0][0], END_NS) if w._heap else END_NS)
            for node, activity, amounts in zip(w.nodes, doing, expected, strict=True):
                amounts[activity] += w.now_ns - before_ns
                assert spent(node.counters) == amounts
                assert sum(amounts.values()) == w.now_ns
            if not goes_on:
                break
    return [dict(amounts) for amounts in expected]


TIMES = st.lists(st.integers(0, 60).map(lambda ms: 1_000_000 * ms), min_size=2, max_size=2, unique=True).map(sorted)
SPANS = st.lists(
    st.builds(
        lambda times, node, kind: NodeSpan(*times, node, kind, 4.0 if kind == "slowed" else 1.0),
        TIMES,
        st.integers(0, NODES - 1),
        st.sampled_from(["down", "paused", "paused", "slowed"]),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None, print_blob=True)
@given(
    kind=st.sampled_from(list(EVERY_ALGORITHM)),
    otherwise=st.booleans(),
    spans=SPANS,
    mbps=st.lists(st.sampled_from([0.1, 0.5, 3.0]), min_size=NODES, max_size=NODES),
    latency_ns=st.sampled_from([0, 700_000]),
    sender=st.sampled_from(SENDERS),
    max_rounds=st.sampled_from([None, 4]),
    seed=st.integers(0, 99),
)
def test_the_times_of_a_node_add_up_to_its_clock(
    kind: str,
    otherwise: bool,
    spans: list[NodeSpan],
    mbps: list[float],
    latency_ns: int,
    sender: SenderPolicy,
    max_rounds: int | None,
    seed: int,
) -> None:
    if ALGORITHMS[kind].config.needs_every_message:
        spans = [span for span in spans if span.kind != "down"]
    schedule = Schedule(nodes=tuple(spans))
    parameters: dict[str, Any] = WAITING.get(kind, {}) if otherwise else {}
    plan = network(NODES, mbps, latency_ns=latency_ns, sender=sender)
    w = world(kind, network_plan=plan, seed=seed, schedule=schedule, max_rounds=max_rounds, jitter=0.1, **parameters)
    check(w, schedule)


@pytest.mark.parametrize("kind", ["dpsgd", "epidemic", "adpsgd"])
def test_the_time_of_being_down_counts_as_such_and_as_nothing_else(kind: str) -> None:
    schedule = Schedule(nodes=(NodeSpan(9_000_000, 30_000_000, 1, "down"), NodeSpan(14_000_000, None, 2, "down")))
    parameters: dict[str, Any] = {**(WAITING[kind] if kind == "adpsgd" else {}), "on_missing_peer": "skip"}
    amounts = check(world(kind, schedule=schedule, network_plan=network(NODES, 0.5), **parameters), schedule)
    assert [one["down"] for one in amounts] == [0, 21_000_000, 46_000_000, 0, 0, 0]
    # Of adpsgd, only those on one side of the graph ask others.
    assert {node for node, one in enumerate(amounts) if one["waiting"]} >= ({0, 2, 4} if kind == "adpsgd" else {0, 3})


def test_who_has_a_slow_peer_waits_and_who_waits_for_nobody_computes() -> None:
    slow = {"step_ms": [1.0] * 5 + [4.0], "network_plan": network(NODES, 5.0)}
    for kind, waits in (("dpsgd", True), ("divshare", False)):
        *fast, straggler = check(world(kind, **slow), Schedule())  # type: ignore[arg-type]
        assert straggler["computing"] > 0.8 * END_NS
        assert all((one["waiting"] > 0.4 * END_NS) == waits for one in fast)
        assert all((one["computing"] == END_NS) == (not waits) for one in fast)


def test_who_has_done_all_its_rounds_sends_what_is_left_and_is_idle() -> None:
    plan = network(NODES, 0.4)
    amounts = check(world("swift_divshare", network_plan=plan, max_rounds=3, step_ms=[1.0] * 5 + [9.0]), Schedule())
    assert [one["computing"] for one in amounts] == [6_000_000] * 5 + [54_000_000]
    assert all(one["sending"] > 0 and one["idle"] > 0 for one in amounts[:5])
    assert all(one["waiting"] == one["paused"] == one["down"] == 0 for one in amounts)


def test_time_that_was_counted_is_not_taken_back() -> None:
    counters = NodeCounters()
    budget = TimeBudget(counters)
    budget.turn_to("computing", 5)
    budget.count_until(12)
    budget.turn_to("waiting", 10)  # an event that comes late
    budget.turn_to("sending", 20)
    assert spent(counters) == {"computing": 7, "waiting": 8, "sending": 0, "idle": 5, "paused": 0, "down": 0}
