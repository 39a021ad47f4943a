"""Cancelling the queue really cancels it: what is in flight is bounded, and the link is busy all the same."""

import sys

import numpy as np
import pytest

from tests.integration.started import Start, done_in_time, start

__all__ = ["start"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

MBPS, LATENCY_MS = 10.0, 100.0
BOUND_BYTES = 1.5 * MBPS * 1e6 / 8 * 2 * LATENCY_MS / 1e3
"""1.5 times bandwidth times round trip: ten fragments of 36 kB, more than two messages."""

EXPERIMENT = {
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


def test_after_a_replacement_no_more_than_the_bound_of_the_old_round_arrives(start: Start) -> None:
    run = done_in_time(start, experiment=EXPERIMENT)
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
