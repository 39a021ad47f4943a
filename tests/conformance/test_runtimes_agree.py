"""One experiment, simulated and in real processes: the same messages, bytes, rounds and curve, within what a host adds.

What differs is who meets whom: a delay of microseconds decides which of two messages shares a link with a third. So
totals are compared, and the curve, not single messages. Where that fails and the host was late, which the real run says
of itself, it is given more room and the run is made again; the last one counts.
"""

from typing import Any

import numpy as np
import pytest

from tests.integration.started import Room, Start, done, room, start

__all__ = ["room", "start"]

EXPERIMENT: dict[str, Any] = {
    "name": "agree",
    "nodes": 6,
    "algorithm": {
        "local_steps": 8,
        "divshare": {"omega": 0.25, "recipients": 2},
        "adpsgd_pingpong": {"recipients": 2},
        "adpsgd": {"roles": "parity"},
    },
    "learning": {
        "dataset": {"kind": "synthetic", "samples": 1_200, "test_samples": 300, "features": 500, "classes": 4},
        "model": {"kind": "logistic_regression"},
        "partition": {"kind": "k_shards", "shards": 2},
        "optimizer": {"learning_rate": 0.02},
    },
    "compute": {"step_time_ms": 20, "stragglers": {"count": 1, "factor": 2}},
    # A fast node's link carries about a round's fragments, a straggler's a third of them.
    "network": {
        "preset": {
            "kind": "stragglers",
            "bandwidth_mbps": 1,
            "count": 2,
            "factor": 3,
            "jitter_mbps": 0,
            "latency_ms": 10,
        }
    },
    "evaluation": {"interval_s": 0.5},
    "stop": {"time_s": 5},
    "fidelity": {"allow_unfaithful": True},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "framing"),
    [("divshare", "none"), ("divshare", "ethernet"), ("adpsgd_pingpong", "none"), ("dpsgd", "none")],
)
def test_simulation_and_processes_agree(kind: str, framing: str, start: Start, room: Room) -> None:
    options: dict[str, Any] = {"experiment": EXPERIMENT, "workers": 1}
    keys = (f"algorithm.kind={kind}", f"network.framing={framing}")
    simulated = done(start(*keys, "runtime=simulation", **options))
    real = room.done(*keys, "runtime=processes", **options)
    assert simulated.summary is not None
    assert real.summary is not None
    for figures in ("messages", "bytes"):
        key = {"messages": "delivered", "bytes": "payload"}[figures]
        expected = simulated.summary[figures][key]
        assert real.summary[figures][key] == pytest.approx(expected, rel=0.05), figures
    assert real.curve["time_s"].tolist() == simulated.curve["time_s"].tolist()
    assert np.abs(real.curve["rounds_mean"] - simulated.curve["rounds_mean"]).max() <= 1
    assert np.abs(real.headline - simulated.headline).max() <= 0.08
    assert real.headline[-1] > simulated.headline[0] + 0.1  # something was learnt
