"""What happens to nodes: they stand still, slow down, go down and come back, and others learn of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.events import Event, PeerDown, PeerUp, Started
from node.core.messages import MessageState
from node.core.schedule import LinkSpan, NodeSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.sender_policy import SenderPolicy
from node.core.topology import star
from node.core.types import NodeId
from node.sim.world import World
from tests.simulation.build import SENDERS, network, world
from tests.simulation.test_conservation import LOSS_TOLERANT, check_bytes

MS = 1_000_000


def only(*nodes: NodeSpan) -> Schedule:
    return Schedule(nodes=nodes)


def told(w: World, node: int) -> list[tuple[Event, int]]:
    """Record what a node's algorithm is told from now on."""
    events: list[tuple[Event, int]] = []
    algorithm = w.nodes[node].algorithm
    handle = algorithm.handle

    def record(event: Event, now_ns: int) -> object:
        events.append((event, now_ns))
        return handle(event, now_ns)

    algorithm.handle = record  # type: ignore[method-assign, assignment]
    return events


def test_local_steps_make_no_progress_while_a_node_stands_still_and_little_while_it_is_slow() -> None:
    w = world(
        "local", nodes=3, schedule=only(NodeSpan(3 * MS, 8 * MS, 1, "paused"), NodeSpan(0, 8 * MS, 2, "slowed", 4))
    )
    w.advance(16 * MS - 1)
    # Rounds of 2 ms: 7 of 16 ms have ended, 5 of those 11 ms that are left, and one of 8 ms before 4 of 2 ms.
    assert [node.counters.rounds for node in w.nodes] == [7, 5, 4]
    w.advance(17 * MS)
    assert [node.counters.rounds for node in w.nodes] == [8, 6, 5]


def test_a_node_that_stands_still_begins_no_transfer_and_takes_what_arrived_when_it_goes_on() -> None:
    w = world(
        "divshare", network_plan=network(6, 8.0, latency_ns=MS), schedule=only(NodeSpan(5 * MS, 20 * MS, 2, "paused"))
    )
    w.advance(19 * MS)
    assert w.trace is not None
    before = w.trace.columns(w.now_ns)
    check_bytes(w)
    own, to = before["sender"] == 2, before["receiver"] == 2
    assert before["started_ns"][own].max() <= 5 * MS
    assert before["delivered_ns"][to].max() <= 5 * MS
    assert w.nodes[2].held
    w.advance(40 * MS)
    check_bytes(w)
    after = w.trace.columns(w.now_ns)
    arrived = after["delivered_ns"][to[: len(before["sender"])].nonzero()[0]]
    assert np.any(arrived == 20 * MS)
    assert not np.any((arrived > 5 * MS) & (arrived < 20 * MS))
    assert np.any(after["started_ns"][after["sender"] == 2] >= 20 * MS)


def test_what_a_node_holds_is_lost_when_it_goes_down_and_what_is_sent_to_it() -> None:
    w = world("divshare", network_plan=network(6, 1.0), schedule=only(NodeSpan(20 * MS, None, 3, "down")))
    w.advance(20 * MS - 1)
    w.advance(60 * MS)
    check_bytes(w)
    node = w.nodes[3]
    assert (len(node.outbox), node.training, node.counters.rounds) == (0, False, 9)
    assert w.trace is not None
    table = w.trace.columns(w.now_ns)
    assert table["delivered_ns"][table["receiver"] == 3].max() <= 20 * MS
    assert np.any(table["state"][table["receiver"] == 3] == MessageState.LOST)
    # Others go on as before.
    assert min(other.counters.rounds for other in w.nodes if other is not node) >= 29


@pytest.mark.parametrize("model", ["last", "common", "peer"])
def test_a_node_comes_back_with_a_model_and_nothing_else(model: str) -> None:
    w = world(
        "divshare",
        learning_rate=0.3,
        schedule=only(NodeSpan(20 * MS, 30 * MS, 3, "down", model=model)),  # type: ignore[arg-type]
    )
    w.advance(18 * MS)
    for node in w.nodes:
        node.handed_over = node.params
    handed_over = [node.handed_over.copy() for node in w.nodes]
    algorithm = w.nodes[3].algorithm
    w.advance(30 * MS)
    node = w.nodes[3]
    assert node.algorithm is not algorithm
    assert node.training
    match model:
        case "last":
            assert np.array_equal(node.params, handed_over[3])
        case "common":
            assert not node.params.any()
        case "peer":
            assert any(np.array_equal(node.params, handed_over[peer]) for peer in (0, 1, 2, 4, 5))
            assert not np.array_equal(node.params, handed_over[3])
    w.advance(60 * MS)
    check_bytes(w)
    assert node.counters.rounds == 9 + 15
    assert w.trace is not None
    table = w.trace.columns(w.now_ns)
    assert np.any(table["delivered_ns"][table["sender"] == 3] > 30 * MS)
    assert np.any(table["delivered_ns"][table["receiver"] == 3] > 30 * MS)


def test_neighbors_learn_of_it_after_the_latency_of_the_way() -> None:
    latency = np.full((6, 6), 2 * MS, dtype=np.int64)
    latency[3, 0] = 5 * MS
    w = world(
        "divshare", network_plan=network(6, latency_ns=latency), schedule=only(NodeSpan(20 * MS, 40 * MS, 3, "down"))
    )
    events = {node: told(w, node) for node in (0, 1)}
    w.advance(24 * MS)
    assert [node.gone for node in w.nodes[:2]] == [{}, {3: None}]
    w.advance(60 * MS)
    assert [node.gone for node in w.nodes[:2]] == [{}, {}]
    heard = {node: [item for item in events[node] if isinstance(item[0], PeerDown | PeerUp)] for node in events}
    assert heard == {
        0: [(PeerDown(NodeId(3)), 25 * MS), (PeerUp(NodeId(3)), 45 * MS)],
        1: [(PeerDown(NodeId(3)), 22 * MS), (PeerUp(NodeId(3)), 42 * MS)],
    }


def test_of_two_news_the_later_one_counts_whichever_comes_first() -> None:
    schedule = Schedule(
        links=(LinkSpan(15 * MS, 21 * MS, Place("up", 3, -1), Overlay(latency_ns=30 * MS)),),
        nodes=(NodeSpan(20 * MS, 22 * MS, 3, "down"),),
    )
    w = world("divshare", network_plan=network(6, latency_ns=MS), schedule=schedule)
    events = told(w, 0)
    w.advance(60 * MS)
    heard = [item for item in events if isinstance(item[0], PeerDown | PeerUp)]
    # Of the end it hears with the return: what it sent meanwhile is lost, which it has to know.
    assert heard == [(PeerDown(NodeId(3)), 23 * MS), (PeerUp(NodeId(3)), 23 * MS)]
    assert w.nodes[0].gone == {}


def test_a_neighbor_sends_again_to_one_of_whose_end_it_heard_with_its_return() -> None:
    """Node 3 is down from 20 to 22 ms; its way to node 0 is long when it ends, and as short as ever at its return."""
    schedule = Schedule(
        links=(LinkSpan(15 * MS, 21 * MS, Place("pair", 3, 0), Overlay(latency_ns=30 * MS)),),
        nodes=(NodeSpan(20 * MS, 22 * MS, 3, "down"),),
    )
    plan = network(6, 20.0, latency_ns=MS)
    w = world("dpsgd", network_plan=plan, topology=star(6), schedule=schedule, on_missing_peer="skip")
    w.advance(100 * MS)
    before = [node.counters.rounds for node in w.nodes]
    w.advance(120 * MS)
    assert all(node.counters.rounds > rounds for node, rounds in zip(w.nodes, before, strict=True))


def test_a_return_before_a_node_s_own_is_no_news_to_it() -> None:
    w = world(
        "divshare",
        network_plan=network(6, latency_ns=5 * MS),
        schedule=only(NodeSpan(10 * MS, 20 * MS, 3, "down"), NodeSpan(12 * MS, 22 * MS, 0, "down")),
    )
    w.advance(22 * MS)
    events = told(w, 0)
    w.advance(60 * MS)
    assert not [event for event, _ in events if isinstance(event, PeerDown | PeerUp)]


def test_nobody_learns_of_it_through_a_partition() -> None:
    schedule = Schedule(
        nodes=(NodeSpan(20 * MS, None, 3, "down"),), partitions=(PartitionSpan(10 * MS, 30 * MS, (0, 0, 0, 1, 1, 1)),)
    )
    w = world("divshare", network_plan=network(6, latency_ns=MS), schedule=schedule)
    w.advance(29 * MS)
    assert [3 in node.gone for node in w.nodes] == [False, False, False, False, True, True]
    w.advance(31 * MS)
    assert [3 in node.gone for node in w.nodes] == [True, True, True, False, True, True]


def test_what_is_sent_to_a_node_that_is_known_to_be_down_takes_nothing_of_the_links() -> None:
    w = world("divshare", network_plan=network(6, 1.0), schedule=only(NodeSpan(20 * MS, None, 3, "down")))
    w.advance(21 * MS)
    lost = w.totals.bytes_lost
    messages = sum(node.counters.messages_lost for node in w.nodes)
    w.advance(60 * MS)
    assert w.totals.bytes_lost == lost
    assert sum(node.counters.messages_lost for node in w.nodes) > messages
    check_bytes(w)


def test_a_node_that_comes_back_learns_who_has_gone_meanwhile() -> None:
    schedule = only(NodeSpan(10 * MS, 30 * MS, 3, "down"), NodeSpan(15 * MS, None, 4, "down"))
    w = world("divshare", network_plan=network(6, latency_ns=MS), schedule=schedule)
    w.advance(30 * MS)
    assert w.nodes[3].gone == {}
    w.advance(31 * MS)
    assert w.nodes[3].gone == {4: None}


def test_an_end_of_steps_at_the_instant_of_a_pause_waits_for_its_end() -> None:
    w = world("local", nodes=2, schedule=only(NodeSpan(4 * MS, 9 * MS, 0, "paused")))
    events = told(w, 0)
    w.advance(20 * MS)
    assert [at_ns for event, at_ns in events if not isinstance(event, Started)][:4] == [
        2 * MS,
        9 * MS,
        11 * MS,
        13 * MS,
    ]


SPAN = st.tuples(st.integers(0, 70), st.integers(1, 40)).map(lambda drawn: (drawn[0] * MS, (drawn[0] + drawn[1]) * MS))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any schedule of six nodes; a node goes down and comes back at most twice, apart from each other."""
    nodes: list[NodeSpan] = []
    for node in draw(st.lists(st.integers(0, 5), max_size=3, unique=True)):
        times = sorted(draw(st.lists(st.integers(0, 90), min_size=4, max_size=4, unique=True)))
        model = draw(st.sampled_from(["last", "common", "peer"]))
        nodes.append(NodeSpan(times[0] * MS, times[1] * MS, node, "down", model=model))
        if draw(st.booleans()):
            nodes.append(NodeSpan(times[2] * MS, draw(st.sampled_from([times[3] * MS, None])), node, "down"))
    for node in draw(st.lists(st.integers(0, 5), max_size=3)):
        nodes.append(NodeSpan(*draw(SPAN), node, "paused"))
    for node in draw(st.lists(st.integers(0, 5), max_size=2)):
        nodes.append(NodeSpan(*draw(SPAN), node, "slowed", draw(st.sampled_from([1.5, 10.0]))))
    groups = st.lists(st.sampled_from([-1, 0, 1]), min_size=6, max_size=6).map(tuple)
    partitions = tuple(PartitionSpan(*draw(SPAN), draw(groups)) for _ in range(draw(st.integers(0, 2))))
    places = st.sampled_from([Place("up", 1, -1), Place("down", -1, 2), Place("pair", 0, 3)])
    overlays = st.sampled_from(
        [Overlay(bandwidth_factor=0.2), Overlay(bandwidth_mbps_max=0.0), Overlay(latency_ns=3 * MS, loss=0.2)]
    )
    links = tuple(LinkSpan(*draw(SPAN), draw(places), draw(overlays)) for _ in range(draw(st.integers(0, 3))))
    return Schedule(links, partitions, tuple(nodes))


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(LOSS_TOLERANT),
    schedule=schedules(),
    sender=st.sampled_from(SENDERS),
    transport=st.sampled_from(["reliable", "datagram"]),
    seed=st.integers(0, 99),
)
def test_messages_and_bytes_add_up_whatever_happens(
    kind: str, schedule: Schedule, sender: SenderPolicy, transport: str, seed: int
) -> None:
    plan = network(6, [0.3, 1.0, 5.0, 0.3, 1.0, 20.0], latency_ns=MS, sender=sender, transport=transport)
    w = world(kind, network_plan=plan, schedule=schedule, seed=seed)
    for instant in range(0, 120 * MS, 7 * MS):
        w.advance(instant)
        check_bytes(w)
        for node in w.nodes:
            node.handed_over = node.params
            node.algorithm.check_invariants()
