"""The traffic that an algorithm says it has is the traffic that a simulation counts."""

from math import isinf
from typing import Any

import numpy as np
import pytest

from node.algorithms.registry import ALGORITHMS
from node.core.topology import Topology, complete_bipartite, from_edges, full, ring
from node.core.types import NodeId
from tests.simulation.build import EVERY_ALGORITHM, NUM_PARAMS, graph_for, network, world

ROUNDS, NODES = 200, 6
LOLLIPOP = from_edges(NODES, [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 5)])

CASES: list[tuple[str, dict[str, Any], Topology]] = [
    *((kind, parameters, graph_for(kind, NODES)) for kind, parameters in EVERY_ALGORITHM.items()),
    ("divshare", {"omega": 0.3, "recipients": 3, "rounding": "ceil", "flush": "none"}, full(NODES)),
    ("divshare", {"omega": 1, "recipients": 1}, ring(NODES)),
    ("adpsgd_pingpong", {"recipients": 5}, full(NODES)),
    ("adpsgd_pingpong", {"recipients": 2}, ring(NODES)),
    ("adpsgd", {"roles": "everyone"}, full(NODES)),
    ("adpsgd", {"roles": "parity"}, full(NODES)),
    ("adpsgd", {"roles": "parity"}, full(NODES - 1)),
    ("adpsgd", {"roles": "parity"}, LOLLIPOP),
    ("adpsgd", {"form": "blocking"}, complete_bipartite(NODES)),
    ("dpsgd", {"order": "combine_then_adapt"}, LOLLIPOP),
    ("swift", {"sgd_steps": 3}, LOLLIPOP),
    ("epidemic", {"recipients": 2, "announce": "seed"}, full(NODES)),
    ("epidemic", {"recipients": 2, "graph": "oracle"}, full(NODES)),
]


@pytest.mark.parametrize(
    ("kind", "parameters", "topology"), CASES, ids=[f"{index}-{case[0]}" for index, case in enumerate(CASES)]
)
def test_an_algorithm_sends_what_it_says(kind: str, parameters: dict[str, Any], topology: Topology) -> None:
    nodes = topology.num_nodes
    w = world(
        kind,
        nodes=nodes,
        topology=topology,
        network_plan=network(nodes, float("inf")),
        max_rounds=ROUNDS,
        **parameters,
    )
    w.advance(10**15)
    assert w.trace is not None
    table = w.trace.columns(w.now_ns)
    rounds = np.array([node.counters.rounds for node in w.nodes])
    values = np.bincount(table["sender"], weights=table["payload_bytes"], minlength=nodes)
    models = values / (4 * NUM_PARAMS) / rounds
    messages = np.bincount(table["sender"], minlength=nodes) / rounds
    config = ALGORITHMS[kind].config.model_validate({**EVERY_ALGORITHM[kind], **parameters})
    said = [config.traffic(topology, NodeId(node)) for node in range(nodes)]
    assert models == pytest.approx([traffic.models for traffic in said], rel=0.25, abs=0.02)
    assert messages == pytest.approx([traffic.messages for traffic in said], rel=0.25, abs=0.02)
    # Answers go to whoever asked: all together is exact but for what a run begins and ends with.
    assert models.sum() == pytest.approx(sum(traffic.models for traffic in said), rel=0.02, abs=0.02)
    assert messages.sum() == pytest.approx(sum(traffic.messages for traffic in said), rel=0.02, abs=0.02)


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_a_queue_grows_where_the_algorithm_says_so(kind: str) -> None:
    """A tenth of what is queued can be sent: messages pile up if, and only if, they are kept."""
    topology = graph_for(kind, NODES)
    config = ALGORITHMS[kind].config.model_validate(EVERY_ALGORITHM[kind])
    said = config.traffic(topology, NodeId(0))
    queued = []
    for end_ns in (2 * 10**9, 4 * 10**9):
        w = world(kind, nodes=NODES, topology=topology, network_plan=network(NODES, 0.05))
        w.advance(end_ns)
        queued.append(sum(len(node.outbox) for node in w.nodes))
    assert (queued[1] > 1.5 * queued[0] > 100) == (said.queue == "kept"), queued


def test_a_node_alone_sends_nothing() -> None:
    for kind, entry in ALGORITHMS.items():
        if kind != "divshare" and kind != "swift_divshare":  # which refuse a graph without neighbors
            said = entry.config.model_validate(EVERY_ALGORITHM[kind]).traffic(full(1), NodeId(0))
            assert (said.models, said.messages) == (0, 0)


@pytest.mark.parametrize("nodes", [2, 3, 6, 7])
def test_the_full_graph_needs_no_walk(nodes: int) -> None:
    walked = from_edges(nodes, [(a, b) for a in range(nodes) for b in range(a)])
    assert not walked.is_full
    for kind, parameters in [
        *EVERY_ALGORITHM.items(),
        ("adpsgd", {"roles": "parity"}),
        ("adpsgd", {"roles": "everyone"}),
    ]:
        if nodes > 2 and parameters.get("roles") is None and kind == "adpsgd":
            continue  # roles: bipartite
        traffic = ALGORITHMS[kind].config.model_validate(parameters).traffic
        said = [(traffic(full(nodes), NodeId(node)), traffic(walked, NodeId(node))) for node in range(nodes)]
        assert [one.models for one, _ in said] == pytest.approx([other.models for _, other in said]), kind


def test_an_odd_number_of_recipients_is_told() -> None:
    config = ALGORITHMS["adpsgd_pingpong"].config
    said = [config.model_validate({"recipients": count}).traffic(full(9), NodeId(0)) for count in (4, 5)]
    assert [traffic.models for traffic in said] == pytest.approx([4, 4])
    assert not said[0].note
    assert said[1].note == "recipients=5 gives 2 pings, so that it sends less than others with this J"


def test_continuous_exchanges_send_what_the_links_carry() -> None:
    config = ALGORITHMS["adpsgd"].config.model_validate({"exchange": "continuous"})
    assert isinf(config.traffic(complete_bipartite(6), NodeId(0)).models)
