"""Latency, jitter and loss by the kernel's netem, beside rates.

The tests need a kernel with netem. Where this host's has none, ``test_netem_machine`` runs them in a virtual machine.
"""

import socket
import statistics
import threading
import time
from contextlib import suppress
from dataclasses import replace
from math import inf, sqrt

import pytest
from hypothesis import Phase, given, settings

from node.core.links import NetworkPlan
from node.core.schedule import LinkSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.scheduled_network import scheduled
from orchestrator.shaping.backend import apply_shaping, read_shaping
from orchestrator.shaping.batch import change_to
from orchestrator.shaping.node_shaping import KernelOptions, plan_node
from orchestrator.shaping.tree import NetemLeaf, NodeTree, peer_minor
from tests.integration.namespaces import DEEP_QUEUE_BYTES, FRAMING, PORT, Namespaces, Stream, namespaces
from tests.integration.shaping_host import ShapingHost, need_netem
from tests.unit.orchestrator.shaping.networks import network, networks, pairs

RATE_TOLERANCE = 0.03
"""Of what framing allows."""
MS = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def _needed() -> None:
    need_netem("python -m tests.netem_machine run")


def plan(nodes: Namespaces, node: int, whole: NetworkPlan, dilation: float = 1.0) -> NodeTree:
    options = KernelOptions(queue_bytes=DEEP_QUEUE_BYTES, time_dilation=dilation)
    return plan_node(whole, node, nodes.addresses, options).tree


def shape(nodes: Namespaces, whole: NetworkPlan, dilation: float = 1.0) -> None:
    """Shape all nodes."""
    for node, namespace in nodes.nodes.items():
        assert not apply_shaping(namespace, plan(nodes, node, whole, dilation))


def echo(nodes: Namespaces, node: int) -> None:
    """Send every datagram that comes to a node back, until the namespaces are gone."""
    answering = nodes.open_socket(node, socket.SOCK_DGRAM)
    answering.bind((nodes.addresses[node], PORT))

    def answer() -> None:
        with suppress(OSError):
            while True:
                data, sender = answering.recvfrom(2_048)
                answering.sendto(data, sender)

    threading.Thread(target=answer, daemon=True).start()


def round_trips_ms(nodes: Namespaces, count: int) -> list[float]:
    """Round trips of small datagrams from node 0 to node 1, one after the other, real time."""
    echo(nodes, 1)
    return asked_ms(nodes, count)


def drops(nodes: Namespaces, whole: NetworkPlan) -> int:
    """Packets that were dropped anywhere."""
    found = (read_shaping(namespace, plan(nodes, node, whole)) for node, namespace in nodes.nodes.items())
    devices = (device for reading in found for device in (reading.egress, reading.ingress))
    return sum(counters.dropped_packets for device in devices for counters in device.counters.values())


@settings(max_examples=15, phases=(Phase.generate,))  # each takes a second; a shorter one would take minutes
@given(first=networks(), second=networks())
def test_any_plan_is_found_as_it_was_applied(first: NetworkPlan, second: NetworkPlan) -> None:
    with namespaces(3) as nodes:
        for whole in (first, second):
            wanted = plan(nodes, 0, whole)
            assert not apply_shaping(nodes.nodes[0], wanted)
            assert not change_to(wanted, read_shaping(nodes.nodes[0], wanted))


@pytest.mark.slow
@pytest.mark.parametrize("round_trip_ms", [0, 20, 100])
@pytest.mark.parametrize("mbps", [2, 10, 100])
@pytest.mark.parametrize("limit", ["up", "down", "pair"])
def test_the_matrix(limit: str, mbps: float, round_trip_ms: int, shaping_host: ShapingHost) -> None:
    """Rate within 3 % of what framing allows, median round trip within 1 ms or 3 %."""
    dilation = shaping_host.dilation
    limited = network(
        nodes=2,
        up=[mbps, inf] if limit == "up" else inf,
        down=[inf, mbps] if limit == "down" else inf,
        pair_mbps=pairs(2, inf, {(0, 1): mbps}) if limit == "pair" else None,
        latency_ns=round_trip_ms * MS // 2,
    )
    with namespaces(2) as nodes:
        shape(nodes, limited, dilation)
        found_ms = statistics.median(round_trips_ms(nodes, 11)) / dilation
        # Ten round trips of slow start fill a link of 100 Mbit/s and 100 ms.
        stream = Stream(nodes.connection(0, 1, PORT))
        found_mbps = shaping_host.goodput_mbps(stream, warm_s=1.0 + 10 * round_trip_ms / 1e3)
        dropped = drops(nodes, limited)
    shaping_host.record(
        f"{limit} {mbps} Mbit/s, {round_trip_ms} ms: {found_mbps:.3f} goodput,"
        f" {found_mbps / mbps / FRAMING:.3f} of framing, {found_ms:.2f} ms"
    )
    assert abs(found_ms - round_trip_ms) <= max(1.0, 0.03 * round_trip_ms)
    assert found_mbps == pytest.approx(mbps * FRAMING, rel=RATE_TOLERANCE)
    assert dropped == 0


def test_each_direction_has_a_latency_of_its_own(shaping_host: ShapingHost) -> None:
    dilation = shaping_host.dilation
    latency = pairs(2, 0, {(0, 1): 30 * MS, (1, 0): 5 * MS}, int)
    with namespaces(2) as nodes:
        shape(nodes, network(nodes=2, latency_ns=latency), dilation)
        there = nodes.open_socket(1, socket.SOCK_DGRAM)
        there.bind((nodes.addresses[1], PORT + 1))
        back = nodes.open_socket(0, socket.SOCK_DGRAM)
        back.bind((nodes.addresses[0], PORT + 1))
        found = {}
        for name, source, target, place in (("there", back, there, 1), ("back", there, back, 0)):
            delays = []
            for _ in range(9):
                begin_s = time.monotonic()
                source.sendto(b"?", (nodes.addresses[place], PORT + 1))
                target.recv(16)
                delays.append(1e3 * (time.monotonic() - begin_s) / dilation)
            found[name] = statistics.median(delays)
    assert found["there"] == pytest.approx(30, abs=1)
    assert found["back"] == pytest.approx(5, abs=1)


@pytest.mark.slow
def test_jitter_has_its_standard_deviation_and_keeps_the_order(shaping_host: ShapingHost) -> None:
    """40 ms with a standard deviation of 5: the spread of packets one by one, and a stream that loses no bandwidth."""
    dilation, count = shaping_host.dilation, 150
    jittery = network(
        nodes=2,
        up=[10, inf],
        latency_ns=pairs(2, 0, {(0, 1): 40 * MS}, int),
        jitter_ns=pairs(2, 0, {(0, 1): 5 * MS}, int),
    )
    with namespaces(2) as nodes:
        shape(nodes, jittery, dilation)
        found = [found_ms / dilation for found_ms in round_trips_ms(nodes, count)]
        stream = Stream(nodes.connection(0, 1, PORT))
        found_mbps = shaping_host.goodput_mbps(stream, warm_s=1.5)
    spread_ms = statistics.stdev(found)
    shaping_host.record(f"jitter: {statistics.mean(found):.2f} ms, deviation {spread_ms:.2f}, {found_mbps:.3f} Mbit/s")
    # Five standard errors of a mean and of a deviation.
    assert statistics.mean(found) == pytest.approx(40, abs=1 + 5 * 5 / sqrt(count))
    assert spread_ms == pytest.approx(5, rel=5 / sqrt(2 * count))
    assert found_mbps == pytest.approx(10 * FRAMING, rel=RATE_TOLERANCE)


def test_loss_is_as_frequent_as_asked_for() -> None:
    """4,000 packets of one segment, of which five percent are lost on the way to one peer and none to the other."""
    count, loss = 4_000, 0.05
    lossy = network(nodes=3, loss=pairs(3, 0, {(0, 1): loss}))
    with namespaces(3) as nodes:
        shape(nodes, lossy)
        assert plan(nodes, 0, lossy).gso_segments == 1
        lost = {}
        for peer in (1, 2):
            sender = nodes.open_socket(0, socket.SOCK_DGRAM)
            for _ in range(count):
                sender.sendto(b"packet", (nodes.addresses[peer], PORT))
            lost[peer] = lost_of(nodes, peer, plan(nodes, peer, lossy), count)
    assert lost[2] == 0
    assert abs(lost[1] - loss * count) <= 5 * sqrt(count * loss * (1 - loss))


def lost_of(nodes: Namespaces, peer: int, tree: NodeTree, count: int) -> int:
    """How many of the packets from node 0 were lost, once all have come to the queue that loses them."""
    end_s = time.monotonic() + 60
    while True:
        counters = read_shaping(nodes.nodes[peer], tree).ingress.counters[peer_minor(0)]
        if counters.sent_packets + counters.dropped_packets == count:
            return counters.dropped_packets
        assert time.monotonic() < end_s, f"{counters} of {count}"


@pytest.mark.slow
def test_latency_changes_in_flight_and_no_packet_is_lost(shaping_host: ShapingHost) -> None:
    """50 ms, 5, 100 with jitter, 20, while a stream flows: the same queues, and what is sent arrives in order."""
    dilation = shaping_host.dilation
    base = network(nodes=2, up=[10, inf])
    shapes = [(50, 0), (5, 0), (100, 10), (20, 0)]
    with namespaces(2) as nodes:
        shape(nodes, replace(base, latency_ns=50 * MS), dilation)
        stream = Stream(nodes.connection(0, 1, PORT))
        sent_before = 0
        for latency_ms, jitter_ms in shapes:
            changed = replace(base, latency_ns=latency_ms * MS, jitter_ns=jitter_ms * MS)
            shape(nodes, changed, dilation)
            time.sleep(1.5 * dilation)
            counters = read_shaping(nodes.nodes[1], plan(nodes, 1, changed, dilation)).ingress.counters[peer_minor(0)]
            assert counters.sent_bytes > sent_before, "a queue of its own counts anew"
            sent_before = counters.sent_bytes
        assert drops(nodes, base) == 0
        found_ms = statistics.median(round_trips_ms_beside(nodes)) / dilation
        stream.close()
    assert found_ms >= 40 - 1, "20 ms each way, and what waits in a queue"


def test_a_schedule_changes_what_netem_adds_and_nothing_else(shaping_host: ShapingHost) -> None:
    """10 ms there, 60 for a while, with jitter and loss later, and a partition besides: one line for each change."""
    dilation = shaping_host.dilation
    spans = (
        LinkSpan(1, 2, Place("down", -1, 1), Overlay(latency_ns=50 * MS)),
        LinkSpan(3, 4, Place("pair", 0, 1), Overlay(latency_factor=3.0, jitter_ns=2 * MS, loss=0.25)),
    )
    schedule = Schedule(links=spans, partitions=(PartitionSpan(5, 6, (0, 1)),))
    plain = network(nodes=2, up=[10, inf], latency_ns=pairs(2, 0, {(0, 1): 10 * MS}, int))
    whole = scheduled(plain, schedule)
    options = KernelOptions(queue_bytes=DEEP_QUEUE_BYTES, time_dilation=dilation)
    expected = {0: (10, 0, 0.0), 1: (60, 0, 0.0), 2: (10, 0, 0.0), 3: (30, 2, 25.0), 4: (10, 0, 0.0), 5: (10, 0, 0.0)}
    with namespaces(2) as nodes:
        echo(nodes, 1)
        for time_ns, (latency_ms, jitter_ms, loss_percent) in expected.items():
            for node, namespace in nodes.nodes.items():
                wanted = plan_node(whole, node, nodes.addresses, options, time_ns=time_ns).tree
                batch = change_to(wanted, read_shaping(namespace, wanted))
                assert len(batch.shaping) <= 1 or time_ns == 0
                assert not apply_shaping(namespace, wanted)
                if node == 1:
                    leaf = read_shaping(namespace, wanted).ingress.tree.leaves[peer_minor(0)]
                    assert isinstance(leaf, NetemLeaf)
                    assert leaf.latency_us == pytest.approx(1e3 * latency_ms * dilation, abs=1)
                    assert leaf.jitter_us == pytest.approx(1e3 * jitter_ms * dilation, abs=1)
                    assert leaf.loss_percent == pytest.approx(loss_percent)
            if not loss_percent and time_ns < 5:
                found_ms = statistics.median(asked_ms(nodes, 9)) / dilation
                shaping_host.record(f"at {time_ns}: {found_ms:.2f} ms")
                assert found_ms == pytest.approx(latency_ms, abs=1)


def asked_ms(nodes: Namespaces, count: int) -> list[float]:
    """Round trips from node 0 to node 1, which echoes."""
    asking = nodes.open_socket(0, socket.SOCK_DGRAM)
    asking.settimeout(120)
    found = []
    for _ in range(count):
        begin_s = time.monotonic()
        asking.sendto(b"?", (nodes.addresses[1], PORT))
        asking.recv(16)
        found.append(1e3 * (time.monotonic() - begin_s))
    return found


def round_trips_ms_beside(nodes: Namespaces) -> list[float]:
    """Round trips while a stream flows, from the node that it flows to."""
    echo(nodes, 0)
    asking = nodes.open_socket(1, socket.SOCK_DGRAM)
    asking.settimeout(120)
    found = []
    for _ in range(5):
        begin_s = time.monotonic()
        asking.sendto(b"?", (nodes.addresses[0], PORT))
        asking.recv(16)
        found.append(1e3 * (time.monotonic() - begin_s))
    return found
