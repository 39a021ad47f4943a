"""From networks to trees."""

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.errors import ConfigError
from node.core.links import CapacityChange, LinkShape, NetworkPlan
from node.core.schedule import LinkSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.scheduled_network import scheduled
from orchestrator.shaping import kernel_units as units
from orchestrator.shaping.node_shaping import KernelOptions, plan_node, without_limits
from orchestrator.shaping.tree import (
    ACCESS_MINOR,
    DEFAULT_MINOR,
    FifoLeaf,
    GateLeaf,
    NetemLeaf,
    NodeTree,
    ifb_name,
    peer_minor,
)
from tests.unit.orchestrator.shaping.networks import addresses, network, networks, pairs, scheduled_networks, tree

MS = 1_000_000


def test_both_directions_have_their_own_rates() -> None:
    found = tree(network(up=[10, 20, 30], down=[40, 50, inf]), node=0)
    assert found.egress.classes[ACCESS_MINOR].ceil_bps == 10_000_000
    assert found.ingress.classes[ACCESS_MINOR].ceil_bps == 40_000_000
    assert tree(network(up=[10, 20, 30], down=[40, 50, inf]), node=2).ingress.classes[ACCESS_MINOR].rate_bps == (
        units.UNLIMITED_BPS
    )


def test_a_pair_is_limited_where_it_is_sent() -> None:
    plan = network(up=10, pair_mbps=pairs(3, inf, {(0, 1): 2.5, (1, 0): 7}))
    found = tree(plan, node=0)
    assert [found.egress.classes[peer_minor(peer)].ceil_bps for peer in (1, 2)] == [2_500_000, units.UNLIMITED_BPS]
    assert found.ingress.classes[peer_minor(1)].ceil_bps == units.UNLIMITED_BPS


def test_peers_share_their_link_by_borrowing() -> None:
    found = tree(network(up=10, down=2, nodes=9))
    for device, link_bps in ((found.egress, 10_000_000), (found.ingress, 2_000_000)):
        peers = [item for minor, item in device.classes.items() if item.parent == ACCESS_MINOR]
        assert len(peers) == 8
        assert sum(item.rate_bps for item in peers) <= link_bps, "else together they exceed their link"
        assert {(item.rate_bps, item.quantum_bytes, item.burst_bytes) for item in peers} == {(8_000, 1_514, 1_514)}


@pytest.mark.parametrize("nodes", [2, 100, 1_000])
def test_many_peers_on_a_slow_link_are_assured_of_no_more_than_it_has(nodes: int) -> None:
    found = tree(network(up=0.01, down=0.01, nodes=nodes))
    for device in found.devices:
        peers = [item.rate_bps for item in device.classes.values() if item.parent == ACCESS_MINOR]
        assert len(peers) == nodes - 1
        assert sum(peers) <= 10_000 or max(peers) == 8, "a byte a second is the least"


def test_latency_jitter_and_loss_are_the_receivers() -> None:
    plan = network(
        latency_ns=pairs(3, 0, {(1, 0): 20 * MS, (0, 1): 99 * MS}, np.int64),
        jitter_ns=pairs(3, 0, {(1, 0): 3 * MS}, np.int64),
        loss=pairs(3, 0, {(1, 0): 0.015, (2, 0): 0.02}),
    )
    found = tree(plan, node=0).ingress.leaves
    first, second = found[peer_minor(1)], found[peer_minor(2)]
    assert isinstance(first, NetemLeaf)
    assert isinstance(second, NetemLeaf)
    assert (first.latency_us, first.jitter_us, first.loss_percent) == (20_000, 3_000, 1.5)
    assert (second.latency_us, second.jitter_us, second.loss_percent) == (0, 0, 2.0)
    assert all(isinstance(leaf, FifoLeaf) for leaf in tree(plan, node=0).egress.leaves.values())


def test_a_jitter_is_around_a_latency() -> None:
    leaf = tree(network(jitter_ns=MS)).ingress.leaves[peer_minor(1)]
    assert isinstance(leaf, NetemLeaf)
    assert (leaf.latency_us, leaf.jitter_us) == (1, 1_000), "tc refuses it around none"


def test_without_netem_the_rest_is_told() -> None:
    plan = network(up=10, latency_ns=pairs(3, 0, {(1, 0): 20 * MS}, np.int64), loss=pairs(3, 0, {(0, 1): 0.1}))
    options = KernelOptions(netem=False, time_dilation=4)
    found = plan_node(plan, 0, addresses(3), options)
    assert all(isinstance(leaf, FifoLeaf) for leaf in found.tree.ingress.leaves.values())
    assert found.rest == {1: LinkShape(latency_ms=20)}, "of the paths to this node, in testbed time"
    assert plan_node(plan, 1, addresses(3), options).rest == {0: LinkShape(loss_percent=10)}
    assert not plan_node(plan, 0, addresses(3)).rest
    assert found.tree.egress == plan_node(plan, 0, addresses(3), KernelOptions(time_dilation=4)).tree.egress


def test_every_peer_has_class_leaf_and_filter_and_the_rest_a_class() -> None:
    found = tree(network(nodes=5), node=3)
    peers = {peer_minor(peer) for peer in (0, 1, 2, 4)}
    for device in found.devices:
        assert set(device.classes) == {ACCESS_MINOR, DEFAULT_MINOR} | peers
        assert set(device.leaves) == {DEFAULT_MINOR} | peers
        assert device.filters == {peer_minor(peer): addresses(5)[peer] for peer in (0, 1, 2, 4)}
    assert (found.egress.match, found.ingress.match) == ("dst", "src")
    assert (found.egress.device, found.ingress.device) == ("eth1", "fm-eth1")


def test_only_the_peers_that_are_named_are_shaped() -> None:
    found = plan_node(network(nodes=9), 4, {4: "10.0.0.4", 7: "10.0.0.7"}).tree
    assert found.egress.filters == {peer_minor(7): "10.0.0.7"}
    alone = plan_node(network(up=10), 0, {}).tree
    assert set(alone.egress.classes) == {ACCESS_MINOR, DEFAULT_MINOR}


def test_the_rest_of_the_traffic_is_not_shaped() -> None:
    for device in tree(network(up=2, down=2)).devices:
        other = device.classes[DEFAULT_MINOR]
        assert (other.parent, other.rate_bps, other.ceil_bps) == (0, units.UNLIMITED_BPS, units.UNLIMITED_BPS)


@pytest.mark.parametrize(
    ("given_addresses", "text"),
    [
        ({1: "fd00::1"}, "address of node 1=fd00::1: must be an IPv4 address"),
        ({1: "10.0.0.300"}, "address of node 1=10.0.0.300: must be an IPv4 address"),
        ({3: "10.0.0.1"}, "address of node 3: must be of one of the first 3 nodes"),
        ({0: "10.0.0.1", 2: "10.0.0.1"}, "address of node 2=10.0.0.1: must not be that of node 0"),
    ],
)
def test_bad_addresses(given_addresses: dict[int, str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_node(network(), 0, given_addresses)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("plan", "dilation", "text"),
    [
        (network(up=[0.001, 1, 1]), 1, "uplink of node 0: bandwidth_mbps=0.001: must be 0.01 to 10000 "),
        (network(down=[1, 20_000, 1]), 1, "downlink of node 1: bandwidth_mbps=20000: must be 0.01 to 10000 "),
        (
            network(pair_mbps=pairs(3, inf, {(2, 0): 0.02})),
            4,
            "link from node 2 to node 0: bandwidth_mbps=0.02: must be 0.04 to 40000 where the kernel shapes at"
            " time_dilation=4, 0 or unlimited",
        ),
        (
            network(latency_ns=11_000 * MS),
            1,
            "link from node 1 to node 0: latency_ms=11000: must be at most 10000 where the kernel shapes",
        ),
        (
            network(jitter_ns=1_001 * MS),
            2,
            "link from node 1 to node 0: jitter_ms=1001: must be at most 1000 where the kernel shapes at"
            " time_dilation=2",
        ),
        (
            network(up=10, changes=((5, CapacityChange("up", 0, -1, 0.001)),)),
            1,
            "uplink of node 0: bandwidth_mbps=0.001: must be 0.01 to 10000 ",
        ),
    ],
)
def test_what_the_kernel_cannot_be_told(plan: NetworkPlan, dilation: float, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_node(plan, 0, addresses(3), KernelOptions(time_dilation=dilation))
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_time_dilation_divides_rates_and_multiplies_times() -> None:
    plan = network(up=40, latency_ns=20 * MS, jitter_ns=2 * MS)
    found = tree(plan, time_dilation=4)
    assert found.egress.classes[ACCESS_MINOR].ceil_bps == 10_000_000
    leaf = found.ingress.leaves[peer_minor(1)]
    assert isinstance(leaf, NetemLeaf)
    assert (leaf.latency_us, leaf.jitter_us) == (80_000, 8_000)


@given(networks(), st.integers(0, 3), st.booleans())
def test_between_two_times_nothing_but_rates_of_classes_changes(plan: NetworkPlan, second: int, netem: bool) -> None:
    def but_classes(found: NodeTree) -> object:
        return [(item.leaves, item.filters, item.classes.keys()) for item in found.devices], found.gso_segments

    before, after = (tree(plan, netem=netem, time_ns=time_ns) for time_ns in (0, second * 10**9))
    assert but_classes(before) == but_classes(after)


def test_a_change_is_the_rate_of_its_time() -> None:
    changes = ((1, CapacityChange("up", 0, -1, 5.0)), (2, CapacityChange("down", -1, 0, 0.0)))
    changes += ((3, CapacityChange("pair", 0, 1, 4.0)),)
    plan = network(up=10, down=20, changes=changes)

    def rates(time_ns: int) -> tuple[int, int, int]:
        found = tree(plan, time_ns=time_ns)
        access = tuple(device.classes[ACCESS_MINOR].ceil_bps for device in found.devices)
        return *access, found.egress.classes[peer_minor(1)].ceil_bps  # type: ignore[return-value]

    assert rates(0) == (10_000_000, 20_000_000, units.UNLIMITED_BPS)
    assert rates(1) == (5_000_000, 20_000_000, units.UNLIMITED_BPS)
    assert rates(2) == (5_000_000, units.PARKED_BPS, units.UNLIMITED_BPS)
    assert rates(3) == (5_000_000, units.PARKED_BPS, 4_000_000)


def test_packets_have_one_segment_where_each_counts() -> None:
    assert tree(network(up=1_000, loss=pairs(3, 0, {(0, 2): 0.01}))).gso_segments == 1
    assert tree(network(up=1_000, loss=pairs(3, 0, {(2, 0): 0.01}))).gso_segments == units.GSO_SEGMENTS_MAX
    assert tree(network(jitter_ns=1)).gso_segments == 1
    assert tree(network(latency_ns=1)).gso_segments == units.GSO_SEGMENTS_MAX


@pytest.mark.parametrize(
    "plan",
    [
        network(up=[60, 1, 1]),
        network(down=[1, 60, 60]),
        network(pair_mbps=pairs(3, inf, {(0, 1): 60, (1, 0): 1})),
        network(up=1_000, changes=((7, CapacityChange("up", 0, -1, 60.0)),)),
        network(changes=((7, CapacityChange("down", -1, 2, 60.0)), (8, CapacityChange("down", -1, 0, 1.0)))),
    ],
)
def test_packets_fit_the_slowest_link_that_they_pass_at_any_time(plan: NetworkPlan) -> None:
    assert tree(plan).gso_segments == 9


def test_names_of_ifb_devices_are_short_enough() -> None:
    assert ifb_name("eth1") == "fm-eth1"
    assert len(ifb_name("a-device-name15")) <= 15


def test_without_limits_only_rates_are_others() -> None:
    limited = tree(network(5.0, 7.0, pair_mbps=pairs(3, inf, {(0, 1): 2.0}), latency_ns=10**6))
    free = without_limits(limited)
    for before, after in zip(limited.devices, free.devices, strict=True):
        assert (after.leaves, after.filters, after.classes.keys()) == (
            before.leaves,
            before.filters,
            before.classes.keys(),
        )
        assert {item.ceil_bps for item in after.classes.values()} == {10**11}
        assert [item.parent for item in after.classes.values()] == [item.parent for item in before.classes.values()]
    assert free.gso_segments == limited.gso_segments


ISLANDS = (0, 0, 1)
"""Node 2 is set apart."""


def laid_over(*spans: LinkSpan, partitions: tuple[PartitionSpan, ...] = (), **links: Any) -> NetworkPlan:
    return scheduled(network(**links), Schedule(links=spans, partitions=partitions))


def netem_of(found: NodeTree, peer: int) -> NetemLeaf:
    leaf = found.ingress.leaves[peer_minor(peer)]
    assert isinstance(leaf, NetemLeaf)
    return leaf


def test_what_is_laid_over_a_path_is_its_receivers_at_its_time() -> None:
    span = LinkSpan(5, 9, Place("up", 1, -1), Overlay(latency_ns=30 * MS, jitter_ns=4 * MS, loss=0.5))
    plan = laid_over(span, latency_ns=20 * MS, loss=0.02)
    shapes = {}
    for time_ns in (4, 5, 8, 9):
        leaf = netem_of(tree(plan, time_ns=time_ns), 1)
        shapes[time_ns] = leaf.latency_us, leaf.jitter_us, leaf.loss_percent
    usual, more = (20_000, 0, 2.0), (50_000, 4_000, 51.0)
    assert shapes == {4: usual, 5: more, 8: more, 9: usual}
    other = netem_of(tree(plan, time_ns=5), 2)
    assert (other.latency_us, other.jitter_us, other.loss_percent) == usual


def test_queues_and_packets_are_those_of_the_worst_time() -> None:
    span = LinkSpan(5, 9, Place("down", -1, 0), Overlay(latency_ns=300 * MS, jitter_ns=4 * MS))
    plan = laid_over(span, up=100, latency_ns=20 * MS)
    limits = {netem_of(tree(plan, time_ns=time_ns), 1).limit_packets for time_ns in (0, 5, 9)}
    always = network(up=100, latency_ns=320 * MS, jitter_ns=4 * MS)
    assert limits == {netem_of(tree(always), 1).limit_packets}
    # Packets to node 0 are delayed one by one for a while, so that they are of one segment all the time.
    assert {tree(plan, node=1, time_ns=time_ns).gso_segments for time_ns in (0, 5)} == {1}
    assert tree(plan, node=0).gso_segments > 1


def test_before_an_experiment_nothing_is_laid_over_its_links() -> None:
    span = LinkSpan(0, 9, Place("up", 1, -1), Overlay(latency_ns=30 * MS, bandwidth_factor=0.5))
    plan = laid_over(span, up=10)
    options = KernelOptions()
    before = plan_node(plan, 0, addresses(3), options, time_ns=3, path_ns=-1).tree
    begun = plan_node(plan, 0, addresses(3), options, time_ns=3).tree
    assert (netem_of(before, 1).latency_us, netem_of(begun, 1).latency_us) == (0, 30_000)
    assert netem_of(before, 1).limit_packets == netem_of(begun, 1).limit_packets
    assert before.egress == begun.egress


def test_a_partition_shuts_gates_and_changes_no_class() -> None:
    parted = (PartitionSpan(5, 9, ISLANDS), PartitionSpan(7, 11, (0, 1, 1)))
    plan = laid_over(partitions=parted, up=10, pair_mbps=pairs(3, inf, {(0, 2): 2}))

    def gates(time_ns: int, node: int = 0) -> dict[int, bool]:
        leaves = tree(plan, node, time_ns=time_ns).egress.leaves
        return {peer: leaf.is_shut for peer in range(3) if isinstance(leaf := leaves.get(peer_minor(peer)), GateLeaf)}

    assert gates(4) == {1: False, 2: False}
    assert gates(5) == {1: False, 2: True}
    assert gates(7) == {1: True, 2: True}
    assert gates(9) == {1: True, 2: True}
    assert gates(11) == {1: False, 2: False}
    assert [gates(5, node=2), gates(7, node=1)] == [{0: True, 1: True}, {0: True, 2: True}]
    for device in ("egress", "ingress"):
        classes = [getattr(tree(plan, time_ns=time_ns), device).classes for time_ns in (4, 5, 7)]
        assert classes[0] == classes[1] == classes[2]
    leaves = tree(plan, time_ns=5).egress.leaves
    assert leaves[peer_minor(2)] == GateLeaf(65_536, is_shut=True), "the queue of two Mbit/s"


def test_a_peer_that_is_never_cut_off_has_no_gate() -> None:
    plan = laid_over(partitions=(PartitionSpan(5, 9, (0, 0, 1)), PartitionSpan(5, 9, (0, -1, 0))))
    leaves = tree(plan).egress.leaves
    assert isinstance(leaves[peer_minor(1)], FifoLeaf)
    assert isinstance(leaves[peer_minor(2)], GateLeaf)
    held = replace(network(), partitions=(ISLANDS,))
    assert tree(held).egress.leaves[peer_minor(2)] == GateLeaf(units.QUEUE_BYTES_MAX, is_shut=True)
    assert without_limits(tree(held)).egress.leaves[peer_minor(2)] == GateLeaf(units.QUEUE_BYTES_MAX, is_shut=False)


def test_what_the_kernel_cannot_be_told_is_refused_at_whatever_time_it_comes() -> None:
    slow = laid_over(LinkSpan(5, 9, Place("up", 0, -1), Overlay(bandwidth_factor=0.0001)), up=10)
    late = laid_over(LinkSpan(5, 9, Place("down", -1, 0), Overlay(latency_ns=11_000 * MS)))
    for plan, text in (
        (slow, "uplink of node 0: bandwidth_mbps=0.001: must be 0.01 to 10000 "),
        (late, "link from node 1 to node 0: latency_ms=11000: must be at most 10000 where the kernel shapes"),
    ):
        with pytest.raises(ConfigError) as caught:
            tree(plan)
        assert str(caught.value).startswith(text)


@given(scheduled_networks(), st.integers(0, 4), st.booleans())
def test_between_two_times_of_a_schedule_only_values_change(plan: NetworkPlan, second: int, netem: bool) -> None:
    def but_values(found: NodeTree) -> object:
        kept = [(item.filters, item.classes.keys(), item.leaves.keys()) for item in found.devices]
        sizes = [
            leaf.limit_packets if isinstance(leaf, NetemLeaf) else (type(leaf), leaf.limit_bytes)
            for item in found.devices
            for leaf in item.leaves.values()
        ]
        return kept, sizes, found.gso_segments

    before, after = (tree(plan, netem=netem, time_ns=time_ns) for time_ns in (0, second * 10**9))
    assert but_values(before) == but_values(after)
