"""What nodes handed over becomes totals, figures and tables; over all parts of a run, and without those that died."""

import json
from typing import Any

import numpy as np
import pytest

from node.core.counters import NodeCounters, counter_values
from node.core.errors import DivergedError, ProtocolError, RunnerError
from node.core.framing import Framing
from node.core.links import NetworkPlan
from node.core.schedule import LinkSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.scheduled_network import scheduled
from node.core.types import NodeId, Vector
from node.core.wire_values import WireDtype
from node.runtime.link_measurement import requested_round_trip_ms
from node.runtime.message_records import Records
from node.transport.control_values import ModelSnapshot, NodeStatus, Phase, SnapshotPurpose
from orchestrator.runs.collection import (
    Collection,
    concatenate_tables,
    measured_links,
    node_figures,
    refuse_rejections,
    totals_of,
)
from orchestrator.runs.snapshots import Part
from orchestrator.shaping.line_rates import line_rates
from tests.messages import Kind, make_message

SECOND = 1_000_000_000
PARAMS = np.zeros(2, dtype=np.float32)


def no_model(info: ModelSnapshot, params: Vector) -> None:
    raise AssertionError("a model was kept")


def links(up_mbps: list[float], **more: Any) -> NetworkPlan:
    return NetworkPlan("access", np.array(up_mbps), np.full(len(up_mbps), 8.0), **more)


# --- models and counts of several parts -----------------------------------------------------------------------------


def test_a_model_of_the_first_part_is_kept_as_it_was_told() -> None:
    kept: list[ModelSnapshot] = []
    told = ModelSnapshot(NodeId(1), SnapshotPurpose.EVALUATION, 7, NodeCounters(rounds=3, bytes_sent=10))
    Collection(lambda info, _: kept.append(info)).keep_snapshot(told, PARAMS)
    assert kept == [told]


def test_a_model_of_a_later_part_tells_what_its_node_did_in_all_parts() -> None:
    """Nodes count bytes from 0 again, but go on counting rounds and local steps."""
    kept: list[ModelSnapshot] = []
    before = [NodeCounters(bytes_sent=1_000), NodeCounters(rounds=3, local_steps=6, bytes_sent=100, queued_messages=9)]
    told = NodeCounters(rounds=5, local_steps=10, bytes_sent=40, queued_messages=2)
    collection = Collection(lambda info, _: kept.append(info), before)
    collection.keep_snapshot(ModelSnapshot(NodeId(1), SnapshotPurpose.FINAL, 7, told), PARAMS)
    (info,) = kept
    assert (info.node, info.purpose, info.time_ns) == (1, SnapshotPurpose.FINAL, 7)
    counters = info.counters
    assert (counters.rounds, counters.local_steps, counters.bytes_sent, counters.queued_messages) == (5, 10, 140, 2)


def test_records_replace_earlier_ones_and_unknown_names_are_left_out() -> None:
    collection = Collection(no_model)
    for text in (b"first", b"second"):
        collection.keep_records(NodeId(2), "messages", text)
    collection.keep_records(NodeId(2), "figures", b'{"a": 1}')
    collection.keep_records(NodeId(1), "measurement", b'{"peer": 0}')
    collection.keep_records(NodeId(2), "of a later version", b"not JSON")
    assert collection.records == {(2, 0): b"second"}
    assert collection.figures == {2: {"a": 1}}
    assert collection.measurements == {1: {"peer": 0}}


def test_values_that_saturated_after_a_divergence_do_not_count() -> None:
    """At the same instant nodes come in order, as in a simulation: node 1 diverges, and node 2 has not come yet."""
    collection = Collection(no_model)
    saturated = {0: [[4, 10], [7, 1], [8, 100]], 1: [[7, 2], [9, 5]], 2: [[6, 3], [7, 20]], 3: []}
    for node, times in saturated.items():
        total = sum(count for _, count in times)
        told = {"counters": counter_values(NodeCounters(values_saturated=total)), "saturated": times}
        collection.keep_records(NodeId(node), "figures", json.dumps(told).encode())
    collection.forget_saturated_after(DivergedError(1, 3, time_ns=7))
    statuses = [NodeStatus(NodeId(node), Phase.STOPPING, 9, NodeCounters()) for node in saturated]
    assert [collection.counters(status, 0, 0, 0).values_saturated for status in statuses] == [11, 2, 3, 0]


def test_a_nodes_counts_are_those_of_its_end_or_else_of_its_last_status() -> None:
    collection = Collection(no_model)
    status = NodeStatus(NodeId(0), Phase.RUNNING, 5, NodeCounters(rounds=4, local_steps=8, bytes_sent=30))
    found = collection.counters(status, rounds_before=1, steps_before=2, ended_ns=9)
    assert (found.rounds, found.local_steps, found.bytes_sent) == (3, 6, 30)
    told = counter_values(NodeCounters(rounds=6, local_steps=12, bytes_sent=50))
    collection.keep_records(NodeId(0), "figures", json.dumps({"counters": told}).encode())
    found = collection.counters(status, rounds_before=1, steps_before=2, ended_ns=9)
    assert (found.rounds, found.local_steps, found.bytes_sent) == (5, 10, 50)


def test_a_node_that_never_told_anything_has_done_nothing_in_this_part() -> None:
    found = Collection(no_model).counters(
        NodeStatus(NodeId(0), Phase.RUNNING), rounds_before=4, steps_before=8, ended_ns=9
    )
    assert (found.rounds, found.local_steps) == (0, 0)


# --- messages -------------------------------------------------------------------------------------------------------


def sender_records(count: int) -> bytes:
    records = Records(64, WireDtype.FLOAT32)
    records.sent.queued(10, 0, [(NodeId(1), make_message(Kind.MODEL, 4, PARAMS))] * count)
    return records.to_bytes(50)


def test_without_any_records_there_is_no_table() -> None:
    assert Collection(no_model).messages() is None
    assert concatenate_tables([]) is None


def test_damaged_records_name_their_node() -> None:
    collection = Collection(no_model)
    collection.keep_records(NodeId(0), "messages", sender_records(1))
    collection.keep_records(NodeId(3), "messages", b"PK\x03\x04 no archive")
    with pytest.raises(ProtocolError, match="records of node 3: damaged"):
        collection.messages()


def test_tables_of_several_parts_are_numbered_through() -> None:
    tables = []
    for count in (2, 0, 3):
        collection = Collection(no_model)
        collection.keep_records(NodeId(0), "messages", sender_records(count))
        table = collection.messages()
        assert table is not None
        tables.append(table)
    joined = concatenate_tables(tables)
    assert joined is not None
    assert joined["id"].tolist() == [0, 1, 2, 3, 4]
    assert joined["receiver"].tolist() == [1] * 5
    assert set(joined) == set(tables[0])


# --- messages that were refused -------------------------------------------------------------------------------------


def test_refused_messages_are_those_of_a_nodes_end_or_else_of_its_last_status() -> None:
    collection = Collection(no_model)
    collection.keep_records(NodeId(0), "figures", b'{"rejected": {"checksum": 2}}')
    statuses = [
        NodeStatus(NodeId(0), Phase.RUNNING, messages_rejected={"checksum": 1}),
        NodeStatus(NodeId(1), Phase.RUNNING, messages_rejected={"stale": 4}),
    ]
    assert collection.rejected(statuses) == {0: {"checksum": 2}, 1: {"stale": 4}}


def test_a_run_in_which_messages_were_refused_fails() -> None:
    def part(rejected: int) -> Part:
        return Part(0, 1, 1.0, [NodeCounters(messages_rejected=rejected), NodeCounters()])

    refuse_rejections([part(0), part(0)], {0: {}})
    with pytest.raises(RunnerError, match=r"^nodes refused 5 messages of their peers \(.*checksum.*\)$"):
        refuse_rejections([part(2), part(3)], {0: {"checksum": 2}, 1: {"checksum": 1}})
    with pytest.raises(RunnerError, match=r"^nodes refused 2 messages .*\(in an earlier part of the run\)$"):
        refuse_rejections([part(2), part(0)], {0: {}})


# --- totals ---------------------------------------------------------------------------------------------------------


def test_totals_are_over_all_parts() -> None:
    """Two parts of two nodes on links of 8 Mbit/s, a megabyte a second."""
    first = [
        NodeCounters(local_steps=3, bytes_sent=1_000_000, messages_sent=2, idle_ns=4),
        NodeCounters(bytes_received=500_000),
    ]
    later = [
        NodeCounters(local_steps=4, bytes_sent=1_000_000, messages_sent=1, idle_ns=5),
        NodeCounters(bytes_lost=7, down_ns=6),
    ]
    parts = [Part(0, 1 * SECOND, 2.0, first), Part(1 * SECOND, 4 * SECOND, 6.5, later)]
    totals = totals_of(
        parts, links([8.0, 8.0]), begin_ns=0, wall_s=99.0, status="failed", error=RunnerError("node 1 died")
    )
    assert (totals.status, totals.error, totals.divergence) == ("failed", "node 1 died", None)
    assert (totals.time_ns, totals.wall_s) == (4 * SECOND, 8.5)
    assert (totals.train_steps, totals.messages["sent"], totals.bytes_lost) == (7, 3, 7)
    assert sum(totals.bytes.values()) == 2_000_000
    assert totals.uplink_utilization is not None
    assert totals.downlink_utilization is not None
    np.testing.assert_allclose(totals.uplink_utilization, [0.5, 0.0])
    np.testing.assert_allclose(totals.downlink_utilization, [0.0, 0.125])
    assert totals.spent_ns is not None
    assert totals.spent_ns.tolist() == [[0, 0, 0, 9, 0, 0], [0, 0, 0, 0, 0, 6]]


def test_a_run_that_diverged_says_so_besides_its_error() -> None:
    diverged = DivergedError(1, 7, 3 * SECOND)
    totals = totals_of([], links([8.0]), begin_ns=0, wall_s=1.0, status="diverged", error=diverged)
    assert (totals.error, totals.divergence) == (str(diverged), diverged)


def test_a_run_of_which_nothing_is_known_has_totals_all_the_same() -> None:
    totals = totals_of([], links([8.0]), begin_ns=3 * SECOND, wall_s=1.5, status="interrupted", error=None)
    assert (totals.time_ns, totals.wall_s, totals.train_steps) == (3 * SECOND, 1.5, 0)
    assert set(totals.messages.values()) == set(totals.bytes.values()) == {0}
    assert totals.uplink_utilization is None


# --- figures of fidelity --------------------------------------------------------------------------------------------


def test_senders_tell_round_trips_and_receivers_rates() -> None:
    network = links([1.0, 2.0, 8.0])
    measurements: dict[NodeId, dict[str, Any]] = {
        NodeId(2): {"peer": 0, "round_trips_ms": [], "received_from": 1, "received_mbps": 1.9},
        NodeId(0): {"peer": 1, "round_trips_ms": [4.0, 1.0, 2.0], "received_from": 2, "received_mbps": 7.5},
        NodeId(1): {"peer": 2, "round_trips_ms": [5.0], "received_from": 2, "received_mbps": 3.3},
    }
    first, second, third = measured_links(network, measurements)
    assert [(link.source, link.destination) for link in (first, second, third)] == [(0, 1), (1, 2), (2, 0)]
    assert [link.requested_mbps for link in (first, second, third)] == [1.0, 2.0, 8.0]
    assert first.achieved_mbps is None  # node 1 received from somebody else
    assert (second.achieved_mbps, third.achieved_mbps) == (1.9, 7.5)
    assert (first.rtt_p50_ms, first.probes) == (2.0, 3)
    assert first.rtt_p99_ms == pytest.approx(3.96)
    assert (third.rtt_p50_ms, third.rtt_p99_ms, third.probes) == (None, None, 0)
    assert first.requested_rtt_ms == requested_round_trip_ms(network, 0, 1)


def test_rates_of_lines_are_compared_as_what_messages_get() -> None:
    network = links([1.0, 2.0])
    lines = line_rates(network, {10_000: 1}, tls=True, mtu=1_500)
    told = {"received_from": 1, "received_mbps": 2.1, "received_bytes": 6_000.0}
    measurements: dict[NodeId, dict[str, Any]] = {
        NodeId(0): {"peer": 1, "round_trips_ms": [1.0], **told},
        NodeId(1): {"peer": 0, "round_trips_ms": [1.0], "received_from": -1, "received_mbps": None},
    }
    there, back = measured_links(network, measurements, lines)
    assert there.achieved_mbps is None
    expected = 2.1 * Framing().queued_probe_bytes(6_000) / 6_000 * 10_064 / Framing().link_bytes(10_000)
    assert back.achieved_mbps == pytest.approx(expected)


def test_messages_are_held_against_what_a_line_alone_takes() -> None:
    network = links([1.0, 2.0])
    lines = line_rates(network, {10_000: 1}, tls=True, mtu=1_500)
    told = {"answered_bytes": [10_000, 12_500], "answered_ms": [81.0, None]}
    measurements: dict[NodeId, dict[str, Any]] = {NodeId(0): {"peer": 1, "round_trips_ms": [1.0], **told}}
    (link,) = measured_links(network, measurements, lines)
    message, burst = link.timed
    # A message of the experiment has 1 Mbit/s; its acknowledgements go the other way.
    round_trip_ms = requested_round_trip_ms(network, 0, 1)
    assert 0.96 * 80 < message.requested_ms - round_trip_ms < 80
    assert (message.size_bytes, message.achieved_ms, burst.size_bytes, burst.achieved_ms) == (
        10_000,
        81.0,
        12_500,
        None,
    )
    assert message.saved_bytes == 2 * 1_514
    (unshaped,) = measured_links(network, measurements)
    assert unshaped.timed == ()


def test_a_receiver_that_told_nothing_and_links_that_request_nothing() -> None:
    unlimited = NetworkPlan("access", np.full(2, np.inf), np.full(2, np.inf))
    (link,) = measured_links(unlimited, {NodeId(0): {"peer": 1, "round_trips_ms": [1.0]}})
    assert (link.requested_mbps, link.achieved_mbps) == (None, None)
    shut = links([0.0, 8.0])
    (link,) = measured_links(shut, {NodeId(0): {"peer": 1, "round_trips_ms": [1.0]}})
    assert (link.requested_mbps, link.achieved_mbps) == (0.0, 0.0)  # nothing could arrive, which is as requested


def test_what_a_node_told_of_itself() -> None:
    told: dict[str, Any] = {
        "counters": counter_values(NodeCounters(rounds=9, bytes_sent=5)),
        "first_round": 4,
        "loop_late_p99_ns": 1,
        "arrivals": 2,
        "late_p99_ns": 3,
        "late_max_ns": 4,
        "memory_bytes": 0,
    }
    found = node_figures(NodeId(7), told)
    assert (found.node, found.blocks, found.counters.bytes_sent) == (7, 5, 5)
    assert (found.loop_late_p99_ns, found.arrivals, found.late_p99_ns, found.late_max_ns) == (1, 2, 3, 4)
    assert found.memory_bytes is None  # it could not be read
    assert node_figures(NodeId(7), {**told, "memory_bytes": 8}).memory_bytes == 8


def test_a_part_is_measured_with_the_capacities_and_the_partition_of_its_beginning_and_no_overlay() -> None:
    spans = (LinkSpan(5, 99, Place("up", 0, -1), Overlay(bandwidth_factor=0.5, latency_ns=SECOND, jitter_ns=SECOND)),)
    schedule = Schedule(links=spans, partitions=(PartitionSpan(7, 9, (0, 0, 1)),))
    network = scheduled(links([4.0, 4.0, 4.0], latency_ns=1_000_000), schedule)
    measurements: dict[NodeId, dict[str, Any]] = {
        NodeId(node): {"peer": (node + 1) % 3, "round_trips_ms": [2.0], "received_from": -1} for node in range(3)
    }
    expected = {0: [4.0, 4.0, 4.0], 6: [2.0, 4.0, 4.0], 8: [2.0, 0.0, 0.0], 9: [2.0, 4.0, 4.0], 99: [4.0, 4.0, 4.0]}
    for at_ns, mbps in expected.items():
        found = list(measured_links(network.at_time(at_ns), measurements))
        assert [link.requested_mbps for link in found] == mbps
        assert {link.rtt_jitter_ms for link in found} == {0.0}
        assert max(link.requested_rtt_ms for link in found) < 2.2
