"""Nothing appears and nothing disappears: bytes and messages add up at every instant, for every algorithm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.algorithms.registry import ALGORITHMS
from node.core.counters import NodeCounters
from node.core.links import CapacityChange
from node.core.message_log import Column
from node.core.messages import MessageState
from node.core.sender_policy import SenderPolicy
from node.sim.world import World
from tests.simulation.build import EVERY_ALGORITHM, SENDERS, network, world

LOSS_TOLERANT = [kind for kind, entry in ALGORITHMS.items() if not entry.config.needs_every_message]
INSTANTS_NS = np.linspace(0, 80e6, 23).astype(int).tolist()


def check_bytes(w: World) -> None:
    """GEN-5: bytes sent = received + in flight + dropped; messages likewise, per node and in total (DIV-5)."""
    assert w.trace is not None
    table, counters = w.trace.columns(w.now_ns), w.totals
    state, wire = table["state"], table["wire_bytes"]
    sent = sum(node.counters.bytes_sent for node in w.nodes)
    received = sum(node.counters.bytes_received for node in w.nodes)
    in_flight = int(wire[state == MessageState.IN_FLIGHT].sum())
    assert sent == received + in_flight + counters.bytes["wasted"] + counters.bytes_lost
    assert sum(counters.bytes.values()) == sent
    for node in w.nodes:
        own = state[table["sender"] == node.index]
        fates = {fate: int((own == fate).sum()) for fate in MessageState}
        assert node.counters.messages_queued == len(own) == sum(fates.values())
        assert fates[MessageState.QUEUED] == len(node.outbox)
        transfers = w.network.outgoing(node.index)
        assert fates[MessageState.SENDING] == len(transfers) <= w.max_transfers
        if w.sender.per_peer:
            peers = [flow.destination for flow in transfers]
            assert len(set(peers)) == len(peers)
        assert fates[MessageState.CANCELLED] == node.counters.messages_cancelled
        assert fates[MessageState.ABORTED] == node.counters.messages_aborted
        assert fates[MessageState.LOST] == node.counters.messages_lost
        check_what_left(node.counters, {name: column[table["sender"] == node.index] for name, column in table.items()})
    arrived = (MessageState.DELIVERED, MessageState.AGGREGATED, MessageState.REPLACED)
    assert np.isin(state, arrived).sum() == counters.messages["delivered"]
    resent = int(table["resent_bytes"][table["sent_ns"] >= 0].sum())
    assert resent == counters.bytes["retransmitted"]


def check_what_left(counters: NodeCounters, own: dict[str, Column]) -> None:
    """The table tells of a sender what the node counted."""
    wire, sent = own["wire_bytes"], own["sent_ns"] >= 0
    aborted, lost = own["state"] == MessageState.ABORTED, own["state"] == MessageState.LOST
    assert counters.messages_sent == sent.sum()
    assert counters.bytes_sent == wire[sent | aborted].sum()
    assert counters.bytes_payload == own["payload_bytes"][sent].sum()
    assert counters.bytes_wasted == wire[aborted].sum()
    assert counters.bytes_lost == wire[lost].sum()


def step_through(w: World) -> None:
    for instant in INSTANTS_NS:
        w.advance(instant)
        check_bytes(w)
        for node in w.nodes:
            node.algorithm.check_invariants()


@pytest.mark.parametrize("kind", EVERY_ALGORITHM)
def test_gen_5_bytes_are_conserved(kind: str) -> None:
    step_through(world(kind, step_ms=[1.0, 1.1, 1.3, 0.9, 2.5, 1.0]))


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(LOSS_TOLERANT),
    mbps=st.lists(st.floats(0.05, 20), min_size=6, max_size=6),
    transport=st.sampled_from(["reliable", "datagram"]),
    loss=st.sampled_from([0.0, 0.02, 0.4]),
    jitter_ns=st.sampled_from([0, 3_000_000]),
    sender=st.sampled_from(SENDERS),
    seed=st.integers(0, 99),
)
def test_gen_5_under_loss_jitter_and_changing_links(
    kind: str, mbps: list[float], transport: str, loss: float, jitter_ns: int, sender: SenderPolicy, seed: int
) -> None:
    changes = (
        (10_000_000, CapacityChange("up", 1, -1, 0.0)),
        (25_000_000, CapacityChange("down", -1, 2, 0.01)),
        (30_000_000, CapacityChange("up", 1, -1, 3.0)),
        (40_000_000, CapacityChange("pair", 0, 3, 0.02)),
    )
    plan = network(
        6,
        mbps,
        transport=transport,
        loss=loss,
        latency_ns=1_000_000,
        jitter_ns=jitter_ns,
        sender=sender,
        changes=changes,
    )
    step_through(world(kind, network_plan=plan, seed=seed, jitter=0.1))


@pytest.mark.parametrize("flush", ["queued_only", "all", "none"])
@pytest.mark.parametrize("sender", SENDERS, ids=str)
def test_div_5_with_every_flush_and_sender(flush: str, sender: SenderPolicy) -> None:
    slow = network(6, [0.1, 0.1, 5.0, 5.0, 5.0, 0.1], sender=sender)
    w = world("divshare", network_plan=slow, flush=flush)
    step_through(w)
    messages = w.totals.messages
    assert (messages["cancelled"] > 0) == (flush != "none")
    assert (messages["aborted"] > 0) == (flush == "all")


def test_lost_and_retransmitted_bytes_are_counted_apart() -> None:
    lossy = {"loss": 0.3, "latency_ns": 1_000}
    reliable = world("divshare", network_plan=network(6, 5.0, **lossy))
    reliable.advance(50_000_000)
    assert reliable.totals.messages["lost"] == 0
    assert reliable.totals.bytes["retransmitted"] > 0
    datagram = world("divshare", network_plan=network(6, 5.0, transport="datagram", **lossy))
    datagram.advance(50_000_000)
    assert datagram.totals.messages["lost"] > 0
    assert datagram.totals.bytes["retransmitted"] == 0
