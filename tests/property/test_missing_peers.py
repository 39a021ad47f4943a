"""Synchronous algorithms while nodes end and come back: whatever happens when, those that are there make rounds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, note, settings
from hypothesis import strategies as st

from node.algorithms.dpsgd import DPsgd
from node.algorithms.epidemic import Epidemic
from node.core.attendance import AWAY
from node.core.schedule import LinkSpan, NodeSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.sender_policy import SenderPolicy
from node.core.topology import Topology, complete_bipartite, from_edges, full, ring, star
from node.core.types import NodeId
from node.sim.world import World
from tests.simulation.build import NUM_PARAMS, SENDERS, network, world
from tests.simulation.test_conservation import check_bytes

MS = 1_000_000
NODES = 6
LAST_CHANGE = 100 * MS
QUIET = 150 * MS
"""Time after the last change in which all that was late has arrived, and all have found their neighbors' round."""

PATH = from_edges(NODES, [(node, node + 1) for node in range(NODES - 1)])
LOLLIPOP = from_edges(NODES, [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 5)])
GRAPHS = [ring(NODES), PATH, star(NODES), LOLLIPOP, full(NODES)]

RUNS: list[tuple[str, dict[str, Any], list[Topology]]] = [
    ("dpsgd", {}, GRAPHS),
    ("dpsgd", {"order": "combine_then_adapt"}, GRAPHS),
    ("epidemic", {}, [full(NODES)]),
    ("epidemic", {"announce": "seed"}, [full(NODES)]),
    ("epidemic", {"graph": "oracle"}, [full(NODES)]),
    ("adpsgd", {}, [ring(NODES), PATH, star(NODES), complete_bipartite(NODES)]),
    ("adpsgd", {"form": "blocking"}, [ring(NODES), PATH, complete_bipartite(NODES)]),
    ("adpsgd", {"roles": "everyone", "exchange": "continuous"}, GRAPHS),
]
SPAN = st.tuples(st.integers(0, 80), st.integers(1, 20)).map(lambda drawn: (drawn[0] * MS, (drawn[0] + drawn[1]) * MS))


@st.composite
def downtimes(draw: st.DrawFn, node: int) -> list[NodeSpan]:
    """Up to four times in which a node is down, apart from each other; the last one may be for good."""
    times = sorted(draw(st.lists(st.integers(0, 100), min_size=2, max_size=8, unique=True)))
    spans = []
    for begin, end in zip(times[::2], times[1::2], strict=False):
        end_ns: int | None = begin * MS + 1 if draw(st.booleans()) else end * MS  # a restart, or a crash
        spans.append(
            NodeSpan(begin * MS, end_ns, node, "down", model=draw(st.sampled_from(["last", "common", "peer"])))
        )
    if draw(st.integers(0, 3)) == 0:
        spans[-1] = NodeSpan(spans[-1].begin_ns, None, node, "down")
    return spans


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Anything that happens to six nodes and their links, over by :data:`LAST_CHANGE` but for those that stay away."""
    nodes: list[NodeSpan] = []
    for node in draw(st.lists(st.integers(0, NODES - 1), min_size=1, max_size=NODES, unique=True)):
        nodes += draw(downtimes(node))
    for node in draw(st.lists(st.integers(0, NODES - 1), max_size=3)):
        nodes.append(NodeSpan(*draw(SPAN), node, "paused"))
    for node in draw(st.lists(st.integers(0, NODES - 1), max_size=2)):
        nodes.append(NodeSpan(*draw(SPAN), node, "slowed", draw(st.sampled_from([1.5, 10.0]))))
    groups = st.lists(st.sampled_from([-1, 0, 1]), min_size=NODES, max_size=NODES).map(tuple)
    partitions = tuple(PartitionSpan(*draw(SPAN), draw(groups)) for _ in range(draw(st.integers(0, 2))))
    places = st.sampled_from([Place("up", 1, -1), Place("down", -1, 2), Place("pair", 0, 3)])
    overlays = st.sampled_from([Overlay(bandwidth_factor=0.2), Overlay(latency_ns=9 * MS), Overlay(jitter_ns=4 * MS)])
    links = tuple(LinkSpan(*draw(SPAN), draw(places), draw(overlays)) for _ in range(draw(st.integers(0, 3))))
    return Schedule(links, partitions, tuple(nodes))


def agreed(w: World, nodes: Sequence[int]) -> None:
    """Each two neighbors that are there count on each other from the same round on, and on nobody else."""
    for node in nodes:
        algorithm = w.nodes[node].algorithm
        assert isinstance(algorithm, DPsgd | Epidemic)
        first_rounds = algorithm._attendance._since
        for peer in algorithm.context.neighbors:
            other = w.nodes[peer].algorithm
            assert isinstance(other, DPsgd | Epidemic)
            if peer in nodes:
                assert (
                    first_rounds.get(peer, 0) == other._attendance._since.get(NodeId(node), 0) <= algorithm._round + 1
                )
                if isinstance(algorithm, DPsgd):  # the other has rounds in which two nodes have nothing to say
                    assert abs(algorithm._round - other._round) <= 1
            else:
                assert first_rounds[peer] == AWAY


def within(w: World, targets: np.ndarray) -> None:
    """Models stay between where all began and what a node's data want, as their averages have weights that sum to 1."""
    low, high = np.minimum(targets.min(axis=0), 0) - 1e-4, np.maximum(targets.max(axis=0), 0) + 1e-4
    for node in w.nodes:
        assert np.all((node.params >= low) & (node.params <= high))


@settings(max_examples=150, deadline=None, print_blob=True)
@given(
    run=st.sampled_from(RUNS),
    data=st.data(),
    schedule=schedules(),
    mbps=st.lists(st.sampled_from([0.5, 3.0, 20.0]), min_size=NODES, max_size=NODES),
    step_ms=st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=NODES, max_size=NODES),
    latency_ms=st.sampled_from([0.0, 0.5, 7.0]),
    jitter_ms=st.sampled_from([0.0, 3.0]),
    sender=st.sampled_from(SENDERS),
    seed=st.integers(0, 2**31),
)
def test_nodes_that_are_there_go_on(
    run: tuple[str, dict[str, Any], list[Topology]],
    data: st.DataObject,
    schedule: Schedule,
    mbps: list[float],
    step_ms: list[float],
    latency_ms: float,
    jitter_ms: float,
    sender: SenderPolicy,
    seed: int,
) -> None:
    kind, parameters, graphs = run
    note(f"seed {seed}")
    plan = network(NODES, mbps, latency_ns=round(latency_ms * MS), jitter_ns=round(jitter_ms * MS), sender=sender)
    w = world(
        kind,
        network_plan=plan,
        topology=data.draw(st.sampled_from(graphs)),
        step_ms=step_ms,
        seed=seed,
        schedule=schedule,
        on_missing_peer="skip",
        **parameters,
    )
    away_for_good = {span.node for span in schedule.nodes if span.kind == "down" and span.end_ns is None}
    there = [node for node in range(NODES) if node not in away_for_good]
    if not there:
        return
    targets = np.random.default_rng(seed).standard_normal((NODES, NUM_PARAMS)).astype(np.float32)
    end = LAST_CHANGE + QUIET
    for instant in range(0, end, 10 * MS):
        w.advance(instant)
        check_bytes(w)
        for node in w.nodes:
            node.algorithm.check_invariants()
            node.handed_over = node.params
        if parameters.get("order") != "combine_then_adapt" and kind != "adpsgd":
            within(w, targets)
    w.advance(end)
    before = [w.nodes[node].counters.rounds for node in there]
    w.advance(end + 60 * MS)
    after = [w.nodes[node].counters.rounds for node in there]
    assert all(late > early for early, late in zip(before, after, strict=True)), (before, after)
    if kind != "adpsgd":
        agreed(w, there)


@settings(max_examples=25, deadline=None, print_blob=True)
@given(
    run=st.sampled_from(RUNS),
    data=st.data(),
    mbps=st.lists(st.sampled_from([0.5, 3.0, 20.0]), min_size=NODES, max_size=NODES),
    jitter_ms=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 2**31),
)
def test_while_nobody_is_missing_the_rule_changes_nothing(
    run: tuple[str, dict[str, Any], list[Topology]],
    data: st.DataObject,
    mbps: list[float],
    jitter_ms: float,
    seed: int,
) -> None:
    kind, parameters, graphs = run
    topology = data.draw(st.sampled_from(graphs))
    plan = network(NODES, mbps, latency_ns=MS, jitter_ns=round(jitter_ms * MS))
    outcomes = []
    for rule in ("wait", "skip"):
        w = world(kind, network_plan=plan, topology=topology, seed=seed, on_missing_peer=rule, **parameters)
        w.advance(60 * MS)
        assert w.trace is not None
        outcomes.append((w.trace.columns(w.now_ns), [node.params.tobytes() for node in w.nodes]))
    (first, models), (second, same_models) = outcomes
    assert models == same_models
    assert all(np.array_equal(first[name], second[name]) for name in first)
