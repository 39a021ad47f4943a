"""Packets between two readings, and which of their drops nobody asked for."""

from dataclasses import replace

import pytest

from orchestrator.shaping.reading import DeviceReading, NodeReading, QueueCounters, parse_counters, parse_namespace
from orchestrator.shaping.traffic import QueueTraffic, traffic_between
from orchestrator.shaping.tree import peer_minor
from tests.unit.orchestrator.shaping.test_reading import RECORDED, recording


def reading() -> NodeReading:
    found = parse_namespace(recording("6.1.0"), RECORDED)
    assert found is not None
    return found


def with_counters(found: NodeReading, minor: int, sent: int, dropped: int) -> NodeReading:
    """A reading with counters of one peer's queues in place of what it has."""

    def changed(device: DeviceReading) -> DeviceReading:
        return replace(device, counters={**device.counters, minor: QueueCounters(1500 * sent, sent, dropped, 0)})

    return replace(found, egress=changed(found.egress), ingress=changed(found.ingress))


def test_all_queues_count_and_only_what_came_since() -> None:
    before = with_counters(reading(), peer_minor(2), 100, 7)
    after = with_counters(reading(), peer_minor(2), 1_100, 9)
    found = {each.place: each for each in traffic_between(RECORDED, before.counters, after.counters)}
    assert len(found) == len(RECORDED.egress.leaves) + len(RECORDED.ingress.leaves)
    sent, received = found["eth1 queue of fa01:102"], found["fm-eth1 queue of fa01:102"]
    assert (sent.sent_packets, sent.dropped_packets, sent.loss_percent) == (1_000, 2, 0)
    assert received.loss_percent == 1.5  # of the recorded plan
    others = [each for place, each in found.items() if not place.endswith("102")]
    assert {(each.packets, each.unasked_packets) for each in others} == {(0, 0)}


def test_a_queue_that_was_made_anew_counts_from_then_on_and_one_that_is_gone_does_not() -> None:
    before = with_counters(reading(), peer_minor(1), 1_000, 0)
    after = with_counters(reading(), peer_minor(1), 10, 1)
    found = {each.place: each for each in traffic_between(RECORDED, before.counters, after.counters)}
    assert found["eth1 queue of fa01:101"].packets == 11
    without = replace(after, egress=replace(after.egress, counters={}))
    assert {each.place.partition(" ")[0] for each in traffic_between(RECORDED, before.counters, without.counters)} == {
        "fm-eth1"
    }


@pytest.mark.parametrize(
    ("sent", "dropped", "loss_percent", "unasked"),
    [
        (1_000, 0, 0.0, 0),
        (1_000, 3, 0.0, 3),
        (9_900, 100, 1.0, 0),
        (9_870, 130, 1.0, 0),  # three standard deviations above 100
        (9_700, 300, 1.0, 161),  # 300 - (100 + 4 * 9.95)
        (0, 0, 5.0, 0),
        (0, 20, 99.9, 0),
    ],
)
def test_losses_that_were_asked_for_are_told_from_others(
    sent: int, dropped: int, loss_percent: float, unasked: int
) -> None:
    assert QueueTraffic("eth1 queue", sent, dropped, loss_percent).unasked_packets == unasked


def test_counters_alone_are_read_from_less_text() -> None:
    text = recording("6.1.0")
    parts = text.split("\n@@ ")
    fewer = "".join(f"\n@@ {part}" for part in parts[1:] if part.startswith("qdisc "))
    assert parse_counters(fewer, RECORDED) == reading().counters
