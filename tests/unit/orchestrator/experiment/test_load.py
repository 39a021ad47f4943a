"""The load on links, in figures small enough to check by hand, and in words."""

from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.algorithms.config import RoundTraffic
from node.core.compute import ComputePlan
from node.core.links import NetworkPlan
from node.core.topology import Topology, from_edges, full, ring
from node.core.types import NodeId
from node.core.wire_values import WireDtype
from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.load import Load, describe_load, offered_load
from orchestrator.experiment.plan import Plan, make_plan

MBPS = np.array([8.0, 8.0, 8.0, 2.0])
STEP_NS = 100_000_000


def load(
    *,
    models: float = 2.0,
    messages: float = 4.0,
    queue: Any = "kept",
    topology: Topology | None = None,
    step_ns: tuple[int, ...] = (STEP_NS,) * 4,
    **network: Any,
) -> Load:
    """Four nodes, one with a slow link; a model of 50,000 bytes, a round of one second."""
    topology = topology or full(4)
    links: dict[str, Any] = {"model": "access", "up_mbps": MBPS, "down_mbps": MBPS, "header_bytes": 0, **network}
    traffic = [RoundTraffic(models, messages, queue)] * topology.num_nodes
    return offered_load(traffic, 12_500, NetworkPlan(**links), ComputePlan(step_ns), topology, 10)


def test_the_offered_load_is_a_rounds_time_on_a_fast_uplink_over_its_compute() -> None:
    """2 models of 50,000 bytes are 0.8 Mbit, a tenth of a second at 8 Mbit/s; a round computes one second."""
    found = load()
    assert found.offered == pytest.approx(0.1)
    assert found.round_bytes == 100_000
    assert found.up == pytest.approx([0.1, 0.1, 0.1, 0.4])
    assert found.down == pytest.approx([0.1, 0.1, 0.1, 0.4])
    assert found.highest == pytest.approx(0.4)


def test_headers_and_narrower_values_count() -> None:
    assert load(header_bytes=25_000).offered == pytest.approx(0.2)
    assert load(wire_dtype=WireDtype.FLOAT16).offered == pytest.approx(0.05)


def test_who_computes_slowly_sends_less_often() -> None:
    found = load(step_ns=(STEP_NS, STEP_NS, STEP_NS, 4 * STEP_NS))
    assert found.offered == pytest.approx(0.1)  # of a fast node
    assert found.up == pytest.approx([0.1, 0.1, 0.1, 0.1])
    # The slow node hears from three fast ones; each of these from two fast ones and from it.
    assert found.down[3] == pytest.approx(0.4)
    assert found.down[0] == pytest.approx(0.1 * (1 + 1 + 0.25) / 3)


def test_what_arrives_follows_the_topology() -> None:
    star = from_edges(4, [(0, 1), (0, 2), (0, 3)])
    found = load(topology=star)
    assert found.down == pytest.approx([0.3, 0.1 / 3, 0.1 / 3, 0.4 / 3])
    assert load(topology=ring(4)).down == pytest.approx([0.1, 0.1, 0.1, 0.4])


def test_pairs_have_their_own_load() -> None:
    unlimited = np.full(4, inf)
    pairs = np.full((4, 4), 8.0)
    np.fill_diagonal(pairs, inf)
    pairs[0, 1] = 1.0
    found = load(up_mbps=unlimited, down_mbps=unlimited, pair_mbps=pairs)
    assert found.pairs is not None
    assert sorted(found.pairs) == pytest.approx([0.1 / 3] * 11 + [0.8 / 3])
    assert found.offered == pytest.approx(0.1)
    assert found.up.max() == found.down.max() == 0
    on_a_ring = load(up_mbps=unlimited, down_mbps=unlimited, pair_mbps=pairs, topology=ring(4))
    assert on_a_ring.pairs is not None
    assert len(on_a_ring.pairs) == 8  # only those that exchange messages


def test_links_that_carry_nothing_or_everything() -> None:
    assert load(up_mbps=np.full(4, inf), down_mbps=np.full(4, inf)).highest == 0
    assert load(up_mbps=np.array([8.0, 8.0, 8.0, 0.0])).highest == inf
    assert load(models=0, messages=0, up_mbps=np.zeros(4)).highest == 0
    assert load(models=inf, messages=inf).offered == inf


def words(found: Load, *, slow: bool = True, is_serial: bool = False) -> dict[str, str]:
    rows = describe_load(found, frozenset({3} if slow else ()), is_serial=is_serial)
    assert not any(str(nan) in text for text in rows.values())
    return rows


def test_the_load_in_words() -> None:
    rows = words(load())
    assert rows == {
        "offered load": "0.1: 0.1 s at 8 Mbit/s over 1 s of local steps; 2 models in 4 messages a round",
        "demand on links": "fast nodes: 10 % of the uplink, 10 % of the downlink;"
        " stragglers: 40 % of the uplink, 40 % of the downlink",
    }
    alike = words(load(up_mbps=np.full(4, 8.0), down_mbps=np.full(4, 8.0)), slow=False)
    assert alike["demand on links"] == "all nodes: 10 % of the uplink, 10 % of the downlink"


def test_a_queue_that_must_grow_is_warned_of() -> None:
    assert "warning" not in words(load(models=4))  # 80 % of the slow link
    over = words(load(models=8))
    assert over["demand on links"].endswith("stragglers: 160 % of the uplink, 160 % of the downlink")
    assert over["warning"] == (
        "queues must grow: unsent messages are kept, and links of 1 of 4 nodes are given up to 160 % of what they carry"
    )
    assert "warning" not in words(load(models=8, queue="flushed"))
    assert words(load(models=8, queue="waited_for"))["warning"] == (
        "nodes wait for messages: a round takes up to 1.6 times as long as its local steps"
    )


def test_a_serial_sender_is_warned_of_sooner() -> None:
    """Head-of-line blocking: about half of an uplink is all that it gets, even if all links are equal."""
    alike = np.full(4, 8.0)
    for models, warned in ((9, False), (11, True)):
        found = load(models=models, up_mbps=alike, down_mbps=alike)
        assert ("warning" in words(found, slow=False, is_serial=True)) == warned
        assert "warning" not in words(found, slow=False)


def test_nothing_and_no_bound_in_words() -> None:
    assert words(load(models=0, messages=0)) == {"offered load": "0: nothing is sent"}
    assert words(load(models=inf, messages=inf)) == {"offered load": "as much as the links carry"}
    unlimited = load(up_mbps=np.full(4, inf), down_mbps=np.full(4, inf))
    assert words(unlimited) == {"offered load": "0: 2 models in 4 messages a round; nothing limits the links"}


def plan(nodes: int = 16, **algorithm: Any) -> Plan:
    """The links, the steps and the model size of the experiment with CIFAR-10 and stragglers."""
    preset = {"kind": "stragglers", "bandwidth_mbps": 60, "count": 8, "factor": 5, "jitter_mbps": 0}
    content = {
        "name": "t",
        "nodes": nodes,
        "algorithm": algorithm,
        "learning": {},
        "network": {"preset": preset},
        "stop": {"rounds": 1},
    }
    return make_plan(parse_experiment(content, "f.yaml"), Path())


GN_LENET = 89_834


@pytest.mark.parametrize("kind", ["divshare", "swift_divshare", "adpsgd_pingpong"])
def test_a_plan_states_the_load_of_the_published_setting(kind: str) -> None:
    """Four models of 359,336 bytes at 60 Mbit/s in a round of 16 steps of 20 ms: a load of 0.6, 3 for a straggler."""
    planned = plan(kind=kind, **{kind: {"recipients": 4}})
    rows = planned.sizes(GN_LENET)
    assert rows["offered load"].startswith("0.6: 0.19")
    found = planned.load(GN_LENET)
    assert found is not None
    assert found.up[sorted(planned.stragglers)] == pytest.approx([3.0] * 8, rel=0.02)
    assert ("warning" in rows) == (kind != "divshare")


def test_a_plan_tells_of_an_odd_number_of_recipients() -> None:
    rows = plan(kind="adpsgd_pingpong", adpsgd_pingpong={"recipients": 5}).sizes(GN_LENET)
    assert rows["offered load"].endswith("; recipients=5 gives 2 pings, so that it sends less than others with this J")


def test_the_load_of_many_nodes_takes_no_walk_along_all_edges() -> None:
    large = plan(nodes=1000, kind="adpsgd_pingpong")
    found = large.load(GN_LENET)
    assert found is not None
    assert found.models == pytest.approx(6)
    assert large.algorithm.traffic(large.topology, NodeId(0)).models == pytest.approx(6)
