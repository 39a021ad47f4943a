"""Shaping by the kernel, on namespaces behind a bridge: what is applied is there, and it is what is measured.

All of it needs root and a kernel with HTB, u32, ifb and mirred; netem has tests of its own.
"""

import time
from math import inf

import numpy as np
import pytest
from hypothesis import Phase, given, settings

from node.core.links import CapacityChange, NetworkPlan
from orchestrator.shaping.backend import apply_shaping, read_shaping, remove_shaping
from orchestrator.shaping.batch import change_to
from orchestrator.shaping.node_shaping import KernelOptions, plan_node
from orchestrator.shaping.probe import probe_shaping
from orchestrator.shaping.tree import NodeTree, peer_minor
from tests.integration.namespaces import DEEP_QUEUE_BYTES, FRAMING, Namespaces, Stream, namespaces
from tests.integration.shaping_host import ShapingHost, need_kernel_shaping
from tests.unit.orchestrator.shaping.networks import network, networks, pairs

RATE_TOLERANCE = 0.03
"""Of what framing allows."""


@pytest.fixture(scope="module", autouse=True)
def _needed() -> None:
    need_kernel_shaping()


def plan(nodes: Namespaces, node: int, whole: NetworkPlan, *, time_ns: int = 0, dilation: float = 1.0) -> NodeTree:
    options = KernelOptions(netem=False, queue_bytes=DEEP_QUEUE_BYTES, time_dilation=dilation)
    return plan_node(whole, node, nodes.addresses, options, time_ns=time_ns).tree


def shape(nodes: Namespaces, whole: NetworkPlan, *, time_ns: int = 0, dilation: float = 1.0) -> None:
    """Shape all nodes."""
    for node, namespace in nodes.nodes.items():
        assert not apply_shaping(namespace, plan(nodes, node, whole, time_ns=time_ns, dilation=dilation))


def drops(nodes: Namespaces, whole: NetworkPlan) -> int:
    """Packets that were dropped anywhere."""
    found = (read_shaping(namespace, plan(nodes, node, whole)) for node, namespace in nodes.nodes.items())
    devices = (device for reading in found for device in (reading.egress, reading.ingress))
    return sum(counters.dropped_packets for device in devices for counters in device.counters.values())


# --- applied and read back ------------------------------------------------------------------------------------------


def test_the_probe_finds_what_the_tests_use() -> None:
    found = probe_shaping()
    assert found.tc_version.startswith("tc utility, iproute2")
    assert found.shapes_rates, found.problems


@settings(max_examples=15, phases=(Phase.generate,))  # each takes a second; a shorter one would take minutes
@given(first=networks(), second=networks())
def test_any_plan_is_found_as_it_was_applied(first: NetworkPlan, second: NetworkPlan) -> None:
    """Also over another one, and by the second application nothing is left to do."""
    with namespaces(3) as nodes:
        for whole in (first, second):
            wanted = plan(nodes, 0, whole)
            assert not apply_shaping(nodes.nodes[0], wanted)
            assert not change_to(wanted, read_shaping(nodes.nodes[0], wanted))


def test_removal_leaves_what_was_before() -> None:
    with namespaces(2) as nodes:
        namespace = nodes.nodes[0]
        parts = (
            ("link show eth1", "link show type ifb"),
            ("qdisc show dev eth1 | grep -v ingress", "class show dev eth1"),
        )
        show = ["sh", "-c", "; ".join([*(f"ip -d {part}" for part in parts[0]), *(f"tc {part}" for part in parts[1])])]
        before = namespace.run(show)
        wanted = plan(nodes, 0, network(up=10, nodes=2))
        assert not apply_shaping(namespace, wanted)
        assert namespace.run(show) != before
        for _ in range(2):
            remove_shaping(namespace, wanted)
            assert namespace.run(show) == before


def test_what_belongs_to_others_stays() -> None:
    """Another device with its own root, and a filter of somebody else's on the same ingress."""
    with namespaces(2) as nodes:
        namespace = nodes.nodes[0]
        namespace.run(["sh", "-ec", "ip link add other type veth peer name end; ip link add theirs type ifb"])
        namespace.run(["sh", "-ec", "tc qdisc add dev other root handle 1: htb; tc qdisc add dev eth1 ingress"])
        theirs = "tc filter add dev eth1 ingress prio 7 protocol ip u32 match ip src 192.0.2.0/24"
        namespace.run(["sh", "-ec", f"{theirs} action mirred egress redirect dev theirs"])
        show = ["sh", "-ec", "tc qdisc show dev other; ip -o link show theirs; tc filter show dev eth1 ingress prio 7"]
        before = namespace.run(show)
        wanted = plan(nodes, 0, network(up=10, nodes=2))
        assert not apply_shaping(namespace, wanted)
        assert namespace.run(show) == before
        remove_shaping(namespace, wanted)
        assert namespace.run(show) == before


# --- measured -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mbps", [2, 10, 100])
@pytest.mark.parametrize("limit", ["up", "down", "pair"])
def test_goodput_is_what_framing_allows(limit: str, mbps: float, shaping_host: ShapingHost) -> None:
    limited = network(
        nodes=2,
        up=[mbps, inf] if limit == "up" else inf,
        down=[inf, mbps] if limit == "down" else inf,
        pair_mbps=pairs(2, inf, {(0, 1): mbps}) if limit == "pair" else None,
    )
    with namespaces(2) as nodes:
        shape(nodes, limited, dilation=shaping_host.dilation)
        found = shaping_host.goodput_mbps(Stream(nodes.connection(0, 1, 5_000)))
    assert found == pytest.approx(mbps * FRAMING, rel=RATE_TOLERANCE)
    shaping_host.record(f"{limit} {mbps} Mbit/s: {found:.3f} goodput, {found / mbps / FRAMING:.3f} of framing")


@pytest.mark.slow
def test_peers_share_a_link_equally_and_what_one_leaves_goes_to_the_others(shaping_host: ShapingHost) -> None:
    """12 Mbit/s up to three peers, one of which takes 2; and 6 down from two."""
    shared = network(nodes=4, up=[12, inf, inf, inf], pair_mbps=pairs(4, inf, {(0, 1): 2}))
    with namespaces(4) as nodes:
        shape(nodes, shared, dilation=shaping_host.dilation)
        streams = [Stream(nodes.connection(0, peer, 5_000)) for peer in (1, 2, 3)]
        found = shaping_host.goodputs_mbps(streams)
    assert found == pytest.approx([2 * FRAMING, 5 * FRAMING, 5 * FRAMING], rel=RATE_TOLERANCE)
    with namespaces(3) as nodes:
        shape(nodes, network(nodes=3, down=[6, inf, inf]), dilation=shaping_host.dilation)
        found = shaping_host.goodputs_mbps([Stream(nodes.connection(peer, 0, 5_000 + peer)) for peer in (1, 2)])
    assert found == pytest.approx([3 * FRAMING, 3 * FRAMING], rel=RATE_TOLERANCE)


@pytest.mark.slow
def test_rates_change_in_flight_and_no_packet_is_lost(shaping_host: ShapingHost) -> None:
    """Up from 20 to 5, to a standstill, to 10: the queues stay the same ones, with all that they have counted."""
    mbps = {0: 20.0, 1: 5.0, 2: 0.0, 3: 10.0}
    changes = tuple((second, CapacityChange("up", 0, -1, rate)) for second, rate in mbps.items() if second)
    changing = network(nodes=2, up=[mbps[0], inf], down=[inf, 50], changes=changes)
    with namespaces(2) as nodes:
        shape(nodes, changing, dilation=shaping_host.dilation)
        stream = Stream(nodes.connection(0, 1, 5_000))
        wanted = plan(nodes, 0, changing, dilation=shaping_host.dilation)
        sent_before = 0
        for second, rate in mbps.items():
            shape(nodes, changing, time_ns=second, dilation=shaping_host.dilation)
            if rate:
                assert shaping_host.goodput_mbps(stream, close=False) == pytest.approx(
                    rate * FRAMING, rel=RATE_TOLERANCE
                )
            else:
                time.sleep(0.5)
                count = len(stream.received)
                time.sleep(2 * shaping_host.dilation)
                assert len(stream.received) - count <= 4, "a thousand bytes a second"
            sent = read_shaping(nodes.nodes[0], wanted).egress.counters[peer_minor(1)].sent_bytes
            assert sent > sent_before
            sent_before = sent
        stream.close()
        assert drops(nodes, changing) == 0


def test_a_short_message_is_not_let_through_unshaped(shaping_host: ShapingHost) -> None:
    """100 kB at 10 Mbit/s after a pause, which a bucket of 256 KB would let pass at once."""
    size = 100_000
    with namespaces(2) as nodes:
        shape(nodes, network(nodes=2, up=[10, inf]), dilation=shaping_host.dilation)
        sender, receiver = nodes.connection(0, 1, 5_000)
        begin_s = time.monotonic()
        sender.sendall(bytes(size))
        left = size
        while left:
            left -= len(receiver.recv(65_536))
        took_ms = 1e3 * (time.monotonic() - begin_s) / shaping_host.dilation
    least_ms = 8 * size / FRAMING / 10e3
    assert took_ms >= least_ms - 3 - 1.3, "a bucket of 2 ms, and a frame"
    assert took_ms <= 1.1 * least_ms


def test_other_traffic_of_the_device_is_not_shaped() -> None:
    """A node that is no peer."""
    with namespaces(3) as nodes:
        apart = {node: nodes.addresses[node] for node in (0, 1)}
        wanted = plan_node(network(nodes=3, up=0.01, down=0.01), 0, apart, KernelOptions(netem=False)).tree
        assert not apply_shaping(nodes.nodes[0], wanted)
        sender, receiver = nodes.connection(0, 2, 5_000)
        sender.sendall(bytes(100_000))  # which would take 80 s
        left = 100_000
        while left:
            left -= len(receiver.recv(65_536))
        found = read_shaping(nodes.nodes[0], wanted)
        assert found.egress.counters[2].sent_bytes > 100_000
        assert found.egress.counters[peer_minor(1)].sent_bytes == 0


def test_a_peer_that_joins_later_and_one_that_has_another_address() -> None:
    with namespaces(3) as nodes:
        first = {0: nodes.addresses[0], 1: "10.77.0.99"}
        options = KernelOptions(netem=False)
        limited = network(nodes=3, up=np.array([10, inf, inf]))
        assert not apply_shaping(nodes.nodes[0], plan_node(limited, 0, first, options).tree)
        wanted = plan_node(limited, 0, nodes.addresses, options).tree
        assert not apply_shaping(nodes.nodes[0], wanted)
        sender, receiver = nodes.connection(0, 1, 5_000)
        sender.sendall(b"hello")
        assert receiver.recv(5) == b"hello"
        assert read_shaping(nodes.nodes[0], wanted).egress.counters[peer_minor(1)].sent_packets >= 3
