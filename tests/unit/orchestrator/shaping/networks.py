"""Networks for the tests of shaping, and where their nodes are."""

from math import inf
from typing import Any

import numpy as np
from hypothesis import strategies as st

from node.core.links import CapacityChange, NetworkPlan
from node.core.schedule import LinkSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.scheduled_network import scheduled
from orchestrator.shaping.node_shaping import KernelOptions, plan_node
from orchestrator.shaping.tree import NodeTree

RATES = st.one_of(st.just(inf), st.just(0.0), st.floats(0.01, 10_000.0))
TIMES_NS = st.integers(0, 10_000_000_000)
JITTERS_NS = st.integers(0, 2_000_000_000)


def network(up: object = inf, down: object = inf, nodes: int = 3, **others: Any) -> NetworkPlan:
    """A network whose nodes have these capacities, one for all or one each."""
    return NetworkPlan("access", np.full(nodes, up, float), np.full(nodes, down, float), **others)


def pairs(nodes: int, default: float, entries: dict[tuple[int, int], float], dtype: type = float) -> Any:
    """A matrix of pairs with a value for all and others for some."""
    matrix = np.full((nodes, nodes), default, dtype)
    for place, value in entries.items():
        matrix[place] = value
    return matrix


def addresses(nodes: int) -> dict[int, str]:
    """Addresses of all nodes."""
    return {node: f"10.1.{node // 200}.{2 + node % 200}" for node in range(nodes)}


def tree(plan: NetworkPlan, node: int = 0, *, netem: bool = True, time_ns: int = 0, **others: Any) -> NodeTree:
    """The tree of a node."""
    options = KernelOptions(netem=netem, **others)
    return plan_node(plan, node, addresses(plan.num_nodes), options, time_ns=time_ns).tree


OVERLAYS = st.builds(
    Overlay,
    bandwidth_factor=st.sampled_from([1.0, 0.5]),
    bandwidth_mbps_max=st.sampled_from([inf, 0.0]),
    latency_factor=st.floats(0.0, 1.0),
    latency_ns=st.integers(0, 100_000_000),
    jitter_ns=st.floats(0.0, 100_000_000.0),
    loss=st.floats(0.0, 0.9),
)
PLACES = st.sampled_from([Place("up", 0, -1), Place("up", 1, -1), Place("down", -1, 0), Place("pair", 1, 0)])


@st.composite
def schedules(draw: st.DrawFn, nodes: int = 3) -> Schedule:
    """Any schedule of a few seconds that the kernel can be told over a network of no more than ten Gbit/s and 9 s."""
    times = st.lists(st.integers(0, 4), min_size=2, max_size=2, unique=True).map(sorted)
    links = st.builds(lambda both, *rest: LinkSpan(both[0] * 10**9, both[1] * 10**9, *rest), times, PLACES, OVERLAYS)
    groups = st.lists(st.integers(-1, 1), min_size=nodes, max_size=nodes).map(tuple)
    cuts = st.builds(lambda both, who: PartitionSpan(both[0] * 10**9, both[1] * 10**9, who), times, groups)
    return Schedule(links=tuple(draw(st.lists(links, max_size=3))), partitions=tuple(draw(st.lists(cuts, max_size=2))))


@st.composite
def scheduled_networks(draw: st.DrawFn) -> NetworkPlan:
    """Any network within those bounds and any schedule over it."""
    rates = st.lists(st.sampled_from([inf, 0.0, 7.0, 10_000.0]), min_size=3, max_size=3)
    latency_ns = draw(st.integers(0, 9_000_000_000))
    plain = network(draw(rates), draw(rates), latency_ns=latency_ns, jitter_ns=draw(st.sampled_from([0, 10**9])))
    return scheduled(plain, draw(schedules()))


@st.composite
def networks(draw: st.DrawFn, nodes: int = 3) -> NetworkPlan:
    """Any network of a few nodes that the kernel can be told, with changes."""
    vector = st.lists(RATES, min_size=nodes, max_size=nodes)
    square = nodes * nodes

    def matrix(values: st.SearchStrategy[Any], dtype: type) -> Any:
        drawn = draw(st.one_of(values, st.lists(values, min_size=square, max_size=square)))
        return np.array(drawn, dtype).reshape(nodes, nodes) if isinstance(drawn, list) else drawn

    kinds = {"up": (0, -1), "down": (-1, 1), "pair": (0, 1)}
    changes = draw(
        st.lists(st.tuples(st.sampled_from(sorted(kinds)), RATES.filter(lambda rate: rate < inf)), max_size=3)
    )
    return NetworkPlan(
        model="access",
        up_mbps=np.array(draw(vector)),
        down_mbps=np.array(draw(vector)),
        pair_mbps=draw(
            st.one_of(
                st.none(),
                st.lists(RATES, min_size=square, max_size=square).map(
                    lambda rates: np.array(rates).reshape(nodes, nodes)
                ),
            )
        ),
        latency_ns=matrix(TIMES_NS, np.int64),
        jitter_ns=matrix(JITTERS_NS, np.int64),
        loss=matrix(st.floats(0.0, 0.99), np.float64),
        changes=tuple(
            (second * 10**9, CapacityChange(kind, *kinds[kind], mbps))  # type: ignore[arg-type]
            for second, (kind, mbps) in enumerate(changes)
        ),
    )
