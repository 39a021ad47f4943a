"""The two drivers agree: where the host takes no time, a network of real drivers does what the simulator does.

To the nanosecond and to the bit: the life of every message, every model, every counter. The drivers are built from
nodes' files that were written and read back, the simulator from live objects.
"""

import re
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.algorithms.registry import ALGORITHMS
from node.algorithms.swift_divshare import SwiftDivShareTag
from node.core.errors import DivergedError
from node.core.framing import Framing
from node.core.links import CapacityChange
from node.core.message_log import Column
from node.core.schedule import LinkSpan, NodeSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.scheduled_network import scheduled
from node.core.sender_policy import SenderPolicy
from node.core.steps import Steps
from node.core.time_budget import TIME_FIGURES
from node.core.types import NodeId
from node.core.wire_values import WireDtype
from node.runtime.message_records import join
from node.sim.world import World
from tests.simulation.build import EVERY_ALGORITHM, NUM_PARAMS, SENDERS, network
from tests.virtual import Scenario, VirtualNetwork

UNEVEN_MS = (1.0, 1.1, 1.3, 0.9, 2.5, 1.0)
ONE_SIZE = [kind for kind in EVERY_ALGORITHM if kind != "epidemic"]
"""Of one size are the messages of all but this one: the bound of the bytes in flight never holds them back."""
PASSIVE = [kind for kind in EVERY_ALGORITHM if Scenario(kind).algorithms()[0].passive]

COUNTED = (
    "rounds", "local_steps", "messages_queued", "messages_sent", "messages_control", "messages_delivered",
    "messages_aggregated", "messages_cancelled", "messages_aborted", "messages_lost", "bytes_sent", "bytes_payload",
    "bytes_index", "bytes_wasted", "bytes_lost", "values_saturated", "messages_rejected",
)  # fmt: skip


def table_of_world(world: World) -> dict[str, Column]:
    """In the order of joined records: (queued, sender, number)."""
    assert world.trace is not None
    table = world.trace.columns(world.now_ns)
    order = np.lexsort((table["id"], table["sender"], table["queued_ns"]))
    return {**{name: column[order] for name, column in table.items()}, "id": table["id"]}


def table_of_drivers(net: VirtualNetwork) -> dict[str, Column]:
    records = {}
    for node, driver in enumerate(net.drivers):
        assert driver.books.records is not None
        records[NodeId(node), 0] = driver.books.records.to_bytes(net.now_ns)
    return join(records)


def check_equal(world: World, net: VirtualNetwork) -> None:
    simulated, real = table_of_world(world), table_of_drivers(net)
    assert simulated.keys() == real.keys()
    for name, column in simulated.items():
        np.testing.assert_array_equal(real[name], column, err_msg=name)
    arrived = real["delivered_ns"] >= 0
    resent = np.where(arrived, real["wire_bytes"] - real["payload_bytes"] - net.scenario.network.header_bytes, 0)
    for node, driver in zip(world.nodes, net.drivers, strict=True):
        for name in COUNTED:
            assert getattr(driver.counters, name) == getattr(node.counters, name), (node.index, name)
        # Only the sender knows what was transmitted again.
        again = int(resent[real["receiver"] == node.index].sum())
        assert driver.counters.bytes_received == node.counters.bytes_received - again
        np.testing.assert_array_equal(driver.counters.train_loss, node.counters.train_loss)
        counted, expected = driver.current_counters(world.now_ns), node.current_counters()
        assert counted.queued_messages == expected.queued_messages == len(node.outbox)
        for name in TIME_FIGURES.values():
            assert getattr(counted, name) == getattr(expected, name), (node.index, name)
        waited_ns = driver.time_spent.waited_ns.values()
        assert max(waited_ns, default=0) <= counted.waiting_ns <= sum(waited_ns)
        assert driver.waiting_for() == node.algorithm.waiting_for()
        np.testing.assert_array_equal(driver.model(), node.params)
        if node.trained is not None:
            np.testing.assert_array_equal(driver.model(after_training=True), node.trained)
        assert driver.counters.overruns == driver.counters.overrun_ns == 0
    assert not net.refused


def run_both(scenario: Scenario, *instants_ns: int, bounded: bool = False) -> tuple[World, VirtualNetwork]:
    world, net = scenario.world(), VirtualNetwork(scenario, bounded=bounded)
    for instant in instants_ns:
        assert world.advance(instant) == net.advance(instant)
        check_equal(world, net)
    return world, net


@pytest.mark.parametrize("dilation", [1.0, 2.7])
@pytest.mark.parametrize("kind", EVERY_ALGORITHM)
def test_every_algorithm(kind: str, dilation: float) -> None:
    scenario = Scenario(kind, network=network(6, 1.6, latency_ns=700_000), step_ms=UNEVEN_MS, dilation=dilation)
    world, _ = run_both(scenario, 0, 1_999_999, 2_000_000, 37_000_000, 120_000_000, bounded=kind in ONE_SIZE)
    if kind != "local":
        assert world.totals.messages["aggregated"] > 50


@pytest.mark.parametrize("kind", EVERY_ALGORITHM)
def test_where_nearly_everything_happens_at_the_same_instants(kind: str) -> None:
    # 200 bytes at 1.6 Mbit/s take 1 ms, as long as a local step and the latency.
    run_both(Scenario(kind, network=network(6, 1.6, latency_ns=1_000_000)), 60_000_000, bounded=kind in ONE_SIZE)


@pytest.mark.parametrize("dilation", [1.0, 2.7])
@pytest.mark.parametrize("kind", PASSIVE)
def test_messages_for_a_passive_algorithm_may_wait_until_it_is_asked(kind: str, dilation: float) -> None:
    for latency_ns in (700_000, 1_000_000):
        scenario = Scenario(kind, network=network(6, 1.6, latency_ns=latency_ns), step_ms=UNEVEN_MS, dilation=dilation)
        world, net = scenario.world(), VirtualNetwork(scenario, arrivals_wait=True)
        for instant in (0, 1_999_999, 2_000_000, 37_000_000, 120_000_000):
            assert world.advance(instant) == net.advance(instant)
            for driver in net.drivers:
                driver.current_counters(instant)  # reading the figures asks as well
            check_equal(world, net)
        assert world.totals.messages["aggregated"] > 50


@pytest.mark.parametrize("kind", EVERY_ALGORITHM)
def test_rounds_end_it(kind: str) -> None:
    scenario = Scenario(kind, network=network(6, 5.0), step_ms=UNEVEN_MS, max_rounds=9)
    world, net = run_both(scenario, 10**12)
    assert world.finished
    assert all(driver.done for driver in net.drivers)


@pytest.mark.parametrize("sender", SENDERS, ids=str)
@pytest.mark.parametrize("flush", ["queued_only", "all", "none"])
def test_what_divshare_cancels_and_aborts(flush: str, sender: SenderPolicy) -> None:
    slow = network(6, [0.1, 0.1, 5.0, 5.0, 5.0, 0.1], sender=sender)
    for framing in (None, Framing()):
        framed = replace(slow, framing=framing)
        world, _ = run_both(Scenario("divshare", network=framed, parameters={"flush": flush}), 80_000_000)
        assert (world.totals.messages["aborted"] > 0) == (flush == "all")


LOSS_TOLERANT = [kind for kind, entry in ALGORITHMS.items() if not entry.config.needs_every_message]
CHANGES = (
    (10_000_000, CapacityChange("up", 1, -1, 0.0)),
    (25_000_000, CapacityChange("down", -1, 2, 0.01)),
    (30_000_000, CapacityChange("up", 1, -1, 3.0)),
    (40_000_000, CapacityChange("pair", 0, 3, 0.02)),
)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(list(EVERY_ALGORITHM)),
    mbps=st.lists(st.floats(0.05, 20), min_size=6, max_size=6),
    latency_ns=st.integers(0, 4_000_000),
    transport=st.sampled_from(["reliable", "datagram"]),
    loss=st.sampled_from([0.0, 0.02, 0.4]),
    changes=st.sampled_from([(), CHANGES]),
    compute_jitter=st.sampled_from([0.0, 0.2]),
    framing=st.sampled_from([None, Framing(), Framing(tls=False, mtu=600, segments=4)]),
    sender=st.sampled_from(SENDERS),
    dilation=st.sampled_from([1.0, 1.3, 7.0]),
    seed=st.integers(0, 99),
)
def test_any_network(
    kind: str,
    mbps: list[float],
    latency_ns: int,
    transport: str,
    loss: float,
    changes: tuple[Any, ...],
    compute_jitter: float,
    framing: Framing | None,
    sender: SenderPolicy,
    dilation: float,
    seed: int,
) -> None:
    plan = network(
        6,
        mbps,
        latency_ns=latency_ns,
        transport=transport if kind in LOSS_TOLERANT else "reliable",
        loss=loss,
        changes=changes,
        framing=framing,
        sender=sender,
    )
    run_both(Scenario(kind, network=plan, jitter=compute_jitter, seed=seed, dilation=dilation), 15_000_000, 60_000_000)


PLACES = st.sampled_from(
    [
        *(Place("up", 0, -1), Place("up", 4, -1), Place("down", -1, 0), Place("down", -1, 3)),
        *(Place("pair", 0, 1), Place("pair", 2, 0)),
    ]
)
OVERLAYS = st.builds(
    Overlay,
    bandwidth_factor=st.sampled_from([1.0, 0.1, 4.0]),
    bandwidth_mbps_max=st.sampled_from([inf, 0.0, 0.3]),
    latency_factor=st.sampled_from([1.0, 0.0, 3.0]),
    latency_ns=st.sampled_from([0, 400_000, 9_000_000]),
    jitter_ns=st.sampled_from([0.0, 300_000.0]),
    loss=st.sampled_from([0.0, 0.3]),
)
TIMES = st.lists(st.integers(0, 60).map(lambda ms: 1_000_000 * ms), min_size=2, max_size=2, unique=True).map(sorted)
LINK_SPANS = st.lists(st.builds(lambda times, *rest: LinkSpan(*times, *rest), TIMES, PLACES, OVERLAYS), max_size=6)
GROUPS = st.lists(st.integers(-1, 2), min_size=6, max_size=6).map(tuple)
PARTITIONS = st.lists(st.builds(lambda times, groups: PartitionSpan(*times, groups), TIMES, GROUPS), max_size=3)
SLOW = st.lists(
    st.builds(
        lambda times, node, slowdown: NodeSpan(*times, node, "slowed", slowdown),
        TIMES,
        st.integers(0, 5),
        st.sampled_from([1.5, 4.0]),
    ),
    max_size=4,
)


def speeds_of(schedule: Schedule) -> dict[int, Steps[float]]:
    return {
        node: Steps(steps.first.speed, steps.times_ns, tuple(state.speed for state in steps.values))
        for node, steps in schedule.node_states().items()
    }


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(EVERY_ALGORITHM)),
    links=LINK_SPANS,
    partitions=PARTITIONS,
    nodes=SLOW,
    latency_ns=st.sampled_from([0, 700_000]),
    transport=st.sampled_from(["reliable", "datagram"]),
    sender=st.sampled_from(SENDERS),
    dilation=st.sampled_from([1.0, 1.3, 7.0]),
    seed=st.integers(0, 99),
)
def test_any_schedule(
    kind: str,
    links: list[LinkSpan],
    partitions: list[PartitionSpan],
    nodes: list[NodeSpan],
    latency_ns: int,
    transport: str,
    sender: SenderPolicy,
    dilation: float,
    seed: int,
) -> None:
    """Whatever is laid over links, whoever is set apart and slow: in the middle of it and behind."""
    schedule = Schedule(links=tuple(links), partitions=tuple(partitions), nodes=tuple(nodes))
    transport = transport if kind in LOSS_TOLERANT else "reliable"
    plain = network(6, 1.6, latency_ns=latency_ns, transport=transport, sender=sender)
    scenario = Scenario(
        kind,
        network=scheduled(plain, schedule),
        step_ms=UNEVEN_MS,
        speeds=speeds_of(schedule),
        seed=seed,
        dilation=dilation,
    )
    run_both(scenario, 7_000_000, 30_000_000, 31_500_000, 90_000_000)


ISLANDS = (0, 0, 0, 1, 1, 1)


@pytest.mark.parametrize("sender", SENDERS, ids=str)
@pytest.mark.parametrize("kind", EVERY_ALGORITHM)
def test_every_algorithm_in_a_partition_that_heals(kind: str, sender: SenderPolicy) -> None:
    """What has left arrives; nothing else crosses before the partition heals."""
    ms = 1_000_000
    slower = Overlay(latency_ns=2 * ms, bandwidth_factor=0.5)
    schedule = Schedule(
        links=(LinkSpan(5 * ms, 50 * ms, Place("up", 1, -1), slower),),
        partitions=(PartitionSpan(20 * ms, 60 * ms, ISLANDS),),
        nodes=(NodeSpan(10 * ms, 40 * ms, 2, "slowed", 3.0),),
    )
    plan = scheduled(network(6, 1.6, latency_ns=700_000, sender=sender), schedule)
    scenario = Scenario(kind, network=plan, step_ms=UNEVEN_MS, speeds=speeds_of(schedule))
    world, _ = run_both(scenario, 20 * ms, 35 * ms, 60 * ms, 140 * ms)
    table = table_of_world(world)
    delivered_ns, across = table["delivered_ns"], (table["sender"] < 3) != (table["receiver"] < 3)
    assert not (across & (delivered_ns > 22.7 * ms) & (delivered_ns <= 60 * ms)).any()
    if kind != "local":
        assert (across & (delivered_ns > 60 * ms)).any()
        assert (across & (delivered_ns > 0) & (delivered_ns < 20 * ms)).any()


def test_latencies_that_differ_and_jitter() -> None:
    latency = np.random.default_rng(0).integers(0, 9_000_000, (6, 6))
    plan = network(6, 1.0, latency_ns=latency, jitter_ns=500_000)
    for kind in EVERY_ALGORITHM:
        run_both(Scenario(kind, network=plan, step_ms=UNEVEN_MS), 90_000_000)


@pytest.mark.parametrize("dtype", [WireDtype.FLOAT16, WireDtype.BFLOAT16])
@pytest.mark.parametrize("kind", EVERY_ALGORITHM)
def test_narrow_values_are_counted_and_rounded_alike(kind: str, dtype: WireDtype) -> None:
    plan = network(6, 0.5, latency_ns=300_000, loss=0.02, wire_dtype=dtype)
    narrow, _ = run_both(Scenario(kind, network=plan, step_ms=UNEVEN_MS), 15_000_000, 60_000_000)
    if kind != "local":
        wide = Scenario(kind, network=replace(plan, wire_dtype=WireDtype.FLOAT32), step_ms=UNEVEN_MS).world()
        wide.advance(60_000_000)
        sent, payload = narrow.totals.messages["sent"], narrow.totals.bytes["payload"]
        controls = sum(node.counters.messages_control for node in narrow.nodes)
        assert payload < 2 * NUM_PARAMS * (sent - controls) + 1
        assert any((a.params != b.params).any() for a, b in zip(narrow.nodes, wide.nodes, strict=True))


@pytest.mark.parametrize("kind", EVERY_ALGORITHM)
@pytest.mark.parametrize("dtype", list(WireDtype))
def test_a_model_that_diverges_ends_both_at_the_same_node_round_and_instant(kind: str, dtype: WireDtype) -> None:
    """And with the same messages until then."""
    plan = network(6, 1.6, latency_ns=700_000, wire_dtype=dtype)
    scenario = Scenario(kind, network=plan, step_ms=UNEVEN_MS, learning_rate=1e5)
    world, net = scenario.world(), VirtualNetwork(scenario, bounded=False)
    with pytest.raises(DivergedError) as simulated:
        world.advance(10**12)
    with pytest.raises(DivergedError) as real:
        net.advance(10**12)
    assert str(real.value) == str(simulated.value)
    assert re.fullmatch(
        r"node \d: its model is not finite after round \d+ \(learning rate too high\?\)", str(real.value)
    )
    assert (real.value.node, real.value.round) == (simulated.value.node, simulated.value.round)
    assert real.value.time_ns == simulated.value.time_ns == world.now_ns
    check_equal(world, net)
    others = [node for node in world.nodes if node.index != real.value.node]
    assert all(np.isfinite(node.params).all() for node in others), "nothing of it was handed on"
    if kind != "local":
        assert (world.totals.values_saturated > 0) == (dtype is WireDtype.FLOAT16)


@pytest.mark.parametrize("dtype", [WireDtype.FLOAT16, WireDtype.BFLOAT16])
def test_half_the_bytes_take_half_the_time(dtype: WireDtype) -> None:
    """A network without headers and with twice the rate has the same times for whole values."""
    half = network(6, 1.0, header_bytes=0, wire_dtype=dtype)
    full = network(6, 2.0, header_bytes=0)
    net = VirtualNetwork(Scenario("swift_divshare", network=half))
    world = Scenario("swift_divshare", network=full).world()
    net.advance(60_000_000)
    world.advance(60_000_000)
    real, simulated = table_of_drivers(net), table_of_world(world)
    for name, column in simulated.items():
        np.testing.assert_array_equal(real[name] * (2 if name.endswith("_bytes") else 1), column, err_msg=name)
    assert SwiftDivShareTag(real["kind"][0]).name == "MODEL"
    for driver, node in zip(net.drivers, world.nodes, strict=True):
        np.testing.assert_allclose(driver.model(), node.params, rtol=0.05, atol=0.02)
        assert not np.array_equal(driver.model(), node.params)
