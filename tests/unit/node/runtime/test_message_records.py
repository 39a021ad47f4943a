"""What nodes record of messages, and that their views become one table again."""

import io
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.errors import ProtocolError
from node.core.message_log import LIFE_SHIFT, NEVER, Column
from node.core.messages import MessageState
from node.core.types import NodeId
from node.core.wire_values import WireDtype
from node.runtime.message_records import Records, join
from tests.conformance.test_driver_equals_world import table_of_world
from tests.messages import Kind, make_message
from tests.simulation.build import EVERY_ALGORITHM, network
from tests.virtual import Scenario, VirtualNetwork

MODEL = make_message(Kind.MODEL, 4, np.zeros(3, dtype=np.float32))


def two_nodes() -> tuple[Records, Records]:
    """Node 0 sends two messages to node 1, of which the first is aggregated two rounds later."""
    sender, receiver = Records(64, WireDtype.FLOAT32), Records(64, WireDtype.FLOAT32)
    sender.sent.queued(10, 0, [(NodeId(1), MODEL), (NodeId(1), MODEL)])
    sender.sent.started.extend((0, 11))
    sender.sent.sent.extend((0, 20, 25))
    sender.sent.started.extend((1, 20))
    assert receiver.delivered(0, 0, 4, 25) == 0
    receiver.aggregated([0], 40, 6)
    return sender, receiver


def rows(table: dict[str, Column], *names: str) -> list[tuple[int, ...]]:
    return list(zip(*(table[name].tolist() for name in names), strict=True))


def test_two_views_become_one() -> None:
    sender, receiver = two_nodes()
    table = join({(NodeId(1), 0): receiver.to_bytes(50), (NodeId(0), 0): sender.to_bytes(50)})
    assert rows(table, "id", "sender", "receiver", "round", "payload_bytes") == [(0, 0, 1, 4, 12), (1, 0, 1, 4, 12)]
    assert rows(table, "queued_ns", "started_ns", "sent_ns", "delivered_ns", "aggregated_ns", "staleness") == [
        (10, 11, 20, 25, 40, 2),
        (10, 20, NEVER, NEVER, NEVER, NEVER),
    ]
    assert table["state"].tolist() == [MessageState.AGGREGATED, MessageState.SENDING]
    assert table["wire_bytes"].tolist() == [76, 76]


def test_a_receiver_that_says_nothing_leaves_messages_in_flight() -> None:
    sender, _ = two_nodes()
    table = join({(NodeId(0), 0): sender.to_bytes(50)})
    assert table["state"].tolist() == [MessageState.IN_FLIGHT, MessageState.SENDING]


def test_messages_of_a_sender_that_says_nothing_are_missing() -> None:
    _, receiver = two_nodes()
    table = join({(NodeId(1), 0): receiver.to_bytes(50)})
    assert len(table["id"]) == 0
    assert join({})["state"].tolist() == []


def test_what_arrived_was_not_lost_whatever_its_sender_thinks() -> None:
    sender, receiver = two_nodes()
    sender.sent.lost(0)
    parts = {(NodeId(0), 0): sender.to_bytes(50)}
    assert join(parts)["state"][0] == MessageState.LOST
    assert join({**parts, (NodeId(1), 0): receiver.to_bytes(50)})["state"][0] == MessageState.AGGREGATED


def test_the_lives_of_a_node_are_told_apart() -> None:
    """Node 0 comes back, and numbers its messages from 0 again; its receiver knows which life each is of."""
    receiver = Records(64, WireDtype.FLOAT32)
    lives = {}
    for life, time_ns in ((0, 10), (1, 50)):
        sender = Records(64, WireDtype.FLOAT32)
        sender.sent.queued(time_ns, 0, [(NodeId(1), MODEL), (NodeId(1), MODEL)])
        sender.sent.started.extend((0, time_ns + 1))
        lives[NodeId(0), life] = sender.to_bytes(99)
        receiver.delivered(0, (life << LIFE_SHIFT) + life, 4, time_ns + 5)
    receiver.delivered(0, 2 << LIFE_SHIFT, 4, 77)  # of a life that told nothing
    table = join({**lives, (NodeId(1), 0): receiver.to_bytes(99)})
    assert rows(table, "queued_ns", "started_ns", "delivered_ns") == [
        (10, 11, 15),
        (10, NEVER, NEVER),
        (50, 51, NEVER),
        (50, NEVER, 55),
    ]


@pytest.mark.parametrize("told_sent_ns", [30, None])
def test_what_arrived_was_sent_by_then_however_late_its_sender_hears_of_it(told_sent_ns: int | None) -> None:
    sender, receiver = Records(64, WireDtype.FLOAT32), Records(64, WireDtype.FLOAT32)
    sender.sent.queued(10, 0, [(NodeId(1), MODEL), (NodeId(1), MODEL)])
    sender.sent.started.extend((0, 11))
    if told_sent_ns is not None:
        sender.sent.sent.extend((0, told_sent_ns, NEVER))
    receiver.delivered(0, 0, 4, 25)
    receiver.delivered(0, 1, 4, 26)  # nonsense: it was never begun
    table = join({(NodeId(0), 0): sender.to_bytes(50), (NodeId(1), 0): receiver.to_bytes(50)})
    assert rows(table, "started_ns", "sent_ns", "delivered_ns") == [(11, 25, 25), (NEVER, NEVER, 26)]
    assert table["state"][0] == MessageState.DELIVERED


def test_numbers_that_its_sender_never_gave_are_left_out() -> None:
    sender, receiver = two_nodes()
    for number in (2, 10**12, -1):
        receiver.delivered(0, number, 4, 30)
    receiver.delivered(77, 0, 4, 30)
    table = join({(NodeId(0), 0): sender.to_bytes(50), (NodeId(1), 0): receiver.to_bytes(50)})
    assert table["delivered_ns"].tolist() == [25, NEVER]


def repacked(data: bytes, **changes: Any) -> bytes:
    with np.load(io.BytesIO(data), allow_pickle=False) as content:
        columns = {name: content[name] for name in content.files}
    buffer = io.BytesIO()
    np.savez(buffer, **{name: column for name, column in {**columns, **changes}.items() if column is not None})
    return buffer.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"lost": None},
        {"sent.id": None},
        {"sent.sent_ns": np.zeros(5, dtype=np.int64)},
        {"sent.sent_ns": np.zeros((2, 2), dtype=np.int64)},
        {"received.number": np.zeros(3, dtype=np.int64)},
        {"received.number": np.array(["x"])},
        {"received.number": np.array([0.5])},
        {"lost": np.array([2])},
        {"lost": np.array([-1])},
        {"lost": np.array([...], dtype=object)},
    ],
    ids=str,
)
def test_records_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    sender, receiver = two_nodes()
    data = repacked(sender.to_bytes(50), **changes)
    with pytest.raises(ProtocolError, match="records of node 0: damaged"):
        join({(NodeId(0), 0): data, (NodeId(1), 0): receiver.to_bytes(50)})


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_harmless(data: st.DataObject) -> None:
    sender, receiver = two_nodes()
    whole = sender.to_bytes(50)
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        at = data.draw(st.integers(0, len(whole) - 1))
        damaged = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    with suppress(ProtocolError):
        assert len(join({(NodeId(0), 0): damaged, (NodeId(1), 0): receiver.to_bytes(50)})["id"]) == 2


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(list(EVERY_ALGORITHM)),
    seed=st.integers(0, 50),
    instant_ns=st.integers(0, 50_000_000),
    silent=st.sets(st.integers(0, 5), max_size=6),
)
def test_joined_at_any_instant_with_any_node_missing(kind: str, seed: int, instant_ns: int, silent: set[int]) -> None:
    """The table is the simulator's, without what the missing nodes sent and with nothing that they received."""
    scenario = Scenario(kind, network=network(6, 1.0, latency_ns=900_000), seed=seed)
    net, world = VirtualNetwork(scenario, bounded=False), scenario.world()
    net.advance(instant_ns)
    world.advance(instant_ns)
    parts = {}
    for node, driver in enumerate(net.drivers):
        assert driver.books.records is not None
        if node not in silent:
            parts[NodeId(node), 0] = driver.books.records.to_bytes(instant_ns)
    table, whole = join(parts), table_of_world(world)
    known = ~np.isin(whole["sender"], list(silent))
    heard = ~np.isin(whole["receiver"][known], list(silent))
    assert table["id"].tolist() == list(range(known.sum()))
    for name, column in whole.items():
        if name in ("delivered_ns", "aggregated_ns", "staleness"):
            np.testing.assert_array_equal(table[name], np.where(heard, column[known], NEVER), err_msg=name)
        elif name == "state":
            assert np.all(table[name][~heard] != MessageState.AGGREGATED)
        elif name != "id":
            np.testing.assert_array_equal(table[name], column[known], err_msg=name)
