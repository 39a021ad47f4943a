"""Cancelling the queue really cancels it: what is in flight is bounded, and the link is busy all the same."""

import sys
from typing import Any

import numpy as np
import pytest

from node.transport.frames import HEADER_BYTES
from tests.integration.started import Room, room, start

__all__ = ["room", "start"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

MBPS, LATENCY_MS = 10.0, 100.0
BOUND_BYTES = 1.5 * MBPS * 1e6 / 8 * 2 * LATENCY_MS / 1e3
"""1.5 times bandwidth times round trip: ten fragments of 36 kB, more than two messages."""

EXPERIMENT: dict[str, Any] = {
    "name": "in-flight",
    "runtime": "processes",
    "nodes": 2,  # nobody else competes for the receiver's link
    # Half as much again as a link carries in a round.
    "algorithm": {"kind": "divshare", "local_steps": 2, "divshare": {"omega": 0.1, "recipients": 1}},
    "learning": {
        "dataset": {"kind": "synthetic", "samples": 200, "test_samples": 20, "features": 9_000, "classes": 10},
        "model": {"kind": "logistic_regression"},
    },
    "compute": {"step_time_ms": 100},
    "network": {"preset": {"kind": "uniform", "bandwidth_mbps": MBPS, "latency_ms": LATENCY_MS}},
    "evaluation": {"interval_s": 5},
    "stop": {"time_s": 4},
    "fidelity": {"allow_unfaithful": True},
}


def test_after_a_replacement_no_more_than_the_bound_of_the_old_round_arrives(room: Room) -> None:
    run = room.done(experiment=EXPERIMENT)
    assert run.messages is not None
    rows = {name: np.asarray(column) for name, column in run.messages.items()}
    sent = rows["started_ns"] >= 0
    flushes = 0
    for node in range(2):
        own = rows["sender"] == node
        for flush_ns in np.unique(rows["cancelled_ns"][own & (rows["cancelled_ns"] >= 0)]):
            arrives_later = (rows["delivered_ns"] > flush_ns) | (rows["delivered_ns"] < 0)
            old = own & sent & (rows["started_ns"] < flush_ns) & arrives_later
            assert rows["wire_bytes"][old].sum() <= BOUND_BYTES
            flushes += 1
        done = own & (rows["sent_ns"] >= 0)
        busy_s = (rows["sent_ns"][done].max() - rows["started_ns"][done].min()) / 1e9
        assert rows["wire_bytes"][done].sum() * 8e-6 / busy_s >= 0.9 * MBPS
    assert flushes >= 20  # two nodes, five rounds a second
    assert run.fidelity is not None
    in_flight = next(check for check in run.fidelity["checks"] if check["name"] == "bytes in flight")
    assert in_flight["requested"] == pytest.approx(BOUND_BYTES)
    assert 0 < in_flight["achieved"] <= in_flight["requested"]


def test_with_a_queue_for_each_peer_each_connection_has_a_bound_of_its_own(room: Room) -> None:
    """Node 3 receives slowly: one message to it is sent and one waits for its receipt, and the others go on."""
    network = {
        "preset": {"kind": "uniform", "bandwidth_mbps": MBPS, "latency_ms": 5},
        "overrides": [{"source": source, "destination": 3, "bandwidth_mbps": 0.4} for source in range(3)],
        "sender": {"kind": "per_peer"},
    }
    algorithm = {"kind": "divshare", "local_steps": 2, "divshare": {"omega": 0.1, "recipients": 2}}
    learning = {**EXPERIMENT["learning"], "dataset": {**EXPERIMENT["learning"]["dataset"], "features": 2_000}}
    experiment = {**EXPERIMENT, "nodes": 4, "algorithm": algorithm, "network": network, "learning": learning}
    run = room.done(experiment=experiment)
    assert run.messages is not None
    rows = {name: np.asarray(column) for name, column in run.messages.items()}
    frame_bytes = int(rows["payload_bytes"].max()) + HEADER_BYTES
    in_flight = next(check for check in run.fidelity["checks"] if check["name"] == "bytes in flight")
    bounds = {2 * frame_bytes, 1.5 * MBPS * 1e6 / 8 * 10 / 1e3}  # of a connection to node 3, and of any other
    assert in_flight["requested"] in bounds
    assert frame_bytes <= in_flight["achieved"] <= in_flight["requested"]
    started, sent, delivered = (rows[f"{name}_ns"] for name in ("started", "sent", "delivered"))
    at_once = 0
    for node in range(4):
        own = (rows["sender"] == node) & (sent >= 0)
        for peer in range(4):
            connection = own & (rows["receiver"] == peer)
            begin, end = np.sort(started[connection]), np.sort(sent[connection])
            assert np.all(begin[1:] >= end[:-1]), "more than one message at a time on a connection"
        begin, end = np.sort(started[own]), np.sort(sent[own])
        at_once = max(at_once, int((np.searchsorted(begin, end, side="left") - np.arange(len(end))).max()))
    assert at_once == 3  # to all peers
    slow = (rows["receiver"] == 3) & (rows["sender"] != 3)
    fast = (rows["receiver"] != 3) & (rows["queued_ns"] < 3.5e9)
    assert np.mean(delivered[fast] >= 0) > 0.9
    assert np.mean(delivered[slow] >= 0) < 0.7
    assert np.any(rows["cancelled_ns"][slow] >= 0)
