"""Runs over direct links: real processes, streams alone, no emulator, nothing shaped."""

from typing import Any

import numpy as np
import pytest

from node.core.messages import MessageState
from node.transport.frames import HEADER_BYTES
from orchestrator.fidelity import DIRECT_LINKS
from orchestrator.results.reader import Run
from tests.integration.started import Start, done, start

__all__ = ["start"]

EXPERIMENT: dict[str, Any] = {
    "name": "direct",
    "runtime": "processes",
    "nodes": 4,
    "time_dilation": 2,
    "learning": {
        "dataset": {"kind": "synthetic", "samples": 200, "test_samples": 20, "features": 900, "classes": 10},
        "model": {"kind": "logistic_regression"},
    },
    "compute": {"step_time_ms": 20},
    "network": {"links": "direct", "preset": {"kind": "uniform", "bandwidth_mbps": None, "latency_ms": 0}},
    "evaluation": {"interval_s": 1},
    "stop": {"rounds": 12},
    "fidelity": {"allow_unfaithful": True},
}


def run(start: Start, algorithm: dict[str, Any], **network: Any) -> Run:
    """One run to its end, on a host where no emulator can be started."""
    experiment = {**EXPERIMENT, "algorithm": {"local_steps": 2, **algorithm}}
    experiment["network"] = {**EXPERIMENT["network"], **network}
    return done(start(experiment=experiment, faults="no_emulator"))


@pytest.mark.parametrize(
    ("algorithm", "network"),
    [
        ({"kind": "dpsgd"}, {}),
        ({"kind": "adpsgd", "adpsgd": {"roles": "parity"}}, {}),
        ({"kind": "swift"}, {"sender": {"kind": "parallel", "transfers": 3}}),
        ({"kind": "divshare", "divshare": {"omega": 0.1, "recipients": 2, "flush": "all"}}, {}),
        ({"kind": "divshare", "divshare": {"omega": 0.1, "recipients": 2}}, {"sender": {"kind": "per_peer"}}),
    ],
    ids=lambda value: value.get("kind", "") if isinstance(value, dict) else "",
)
def test_a_run_ends_done_and_its_message_table_is_in_order(
    start: Start, algorithm: dict[str, Any], network: dict[str, Any]
) -> None:
    found = run(start, algorithm, **network)
    assert found.summary is not None
    assert found.summary["status"] == "done"
    assert found.messages is not None
    rows = {name: np.asarray(column) for name, column in found.messages.items()}
    queued, started, sent, delivered, aggregated = (
        rows[f"{name}_ns"] for name in ("queued", "started", "sent", "delivered", "aggregated")
    )
    arrived = delivered >= 0
    assert arrived.sum() >= 4 * 10
    assert np.all((queued <= started)[started >= 0])
    assert np.all(((started >= 0) & (started <= sent))[sent >= 0])
    assert np.all(((sent >= 0) & (sent <= delivered))[arrived])
    assert np.all((delivered <= aggregated)[aggregated >= 0])
    assert (rows["state"] == MessageState.LOST).sum() == 0
    transfers = network.get("sender", {}).get("transfers", 1)
    fidelity = found.fidelity
    assert fidelity is not None
    assert fidelity["links"] == DIRECT_LINKS
    assert "not shaped" in fidelity["statement"]
    assert "emulator" not in fidelity["figures"]
    assert 0 < fidelity["figures"]["round_trip_ms_median"] < 1_000
    in_flight = next(check for check in fidelity["checks"] if check["name"] == "bytes in flight")
    frame_bytes = int(rows["payload_bytes"].max()) + HEADER_BYTES
    assert in_flight["requested"] == (transfers + 1) * frame_bytes
    assert frame_bytes <= in_flight["achieved"] <= in_flight["requested"]


DIRECT = "network={links: direct, preset: {kind: uniform, bandwidth_mbps: null, latency_ms: 0}}"


def test_a_node_is_killed_and_what_it_was_sent_is_lost(start: Start) -> None:
    started = start("stop={time_s: 3}", DIRECT)
    started.until_it_runs()
    started.nodes()[1].kill()
    code, _, err = started.end()
    assert code == 0
    assert "node 1 was killed by SIGKILL; going on without it" in err
    found = started.run()
    assert found.status == "done"
    assert found.messages is not None
    rows = {name: np.asarray(column) for name, column in found.messages.items()}
    lost = rows["state"] == MessageState.LOST
    assert lost.any()
    assert set(rows["receiver"][lost].tolist()) == {1}
    assert rows["queued_ns"][rows["sender"] == 0].max() > 2.5e9  # the others went on


def test_a_run_that_was_interrupted_goes_on(start: Start) -> None:
    """Connections are made anew, and both parts' messages stand in one table."""
    # At the first model of 0.5 s of testbed time: those of 0.25 s are there.
    started = start("stop={time_s: 2}", DIRECT, faults="no_emulator,interrupt:kept:7")
    code, _, err = started.end()
    assert code == 130, err
    before = started.run()
    assert before.status == "interrupted"
    assert before.messages is not None
    sent_before = len(before.messages["id"])
    assert sent_before > 0
    found = done(start(resume=started.path, faults="no_emulator"))
    assert found.path == started.path
    assert found.times_s.tolist() == [0.25 * step for step in range(9)]
    known = len(before.times_s)
    np.testing.assert_array_equal(found.curve["loss_mean"][:known], before.curve["loss_mean"])
    for name in ("rounds_min", "rounds_max", "bytes_sent"):
        assert np.all(np.diff(found.curve[name]) >= 0), name
    assert found.curve["rounds_min"][-1] > found.curve["rounds_max"][known - 1]
    assert found.messages is not None
    rows = {name: np.asarray(column) for name, column in found.messages.items()}
    assert np.all(np.diff(rows["id"]) == 1)
    np.testing.assert_array_equal(rows["queued_ns"][:sent_before], before.messages["queued_ns"])
    later = rows["queued_ns"][sent_before:]
    assert later.min() >= 0.25e9
    assert later.max() > 1.5e9
    arrived = rows["delivered_ns"][sent_before:] >= 0
    assert set(rows["receiver"][sent_before:][arrived].tolist()) == {0, 1, 2}
    assert found.fidelity is not None
    assert found.fidelity["links"] == DIRECT_LINKS
