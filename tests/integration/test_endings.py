"""Bad ends: a model that is not finite, or too large for the wire; a dead link. Both runtimes agree."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.results.reader import Run
from tests.integration.started import Start, start

__all__ = ["start"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

DIVERGES = (
    "algorithm.kind=dpsgd",
    "topology={kind: full}",
    "learning.dataset={kind: synthetic_ratings}",
    "learning.model={kind: matrix_factorization}",
    "learning.optimizer.learning_rate=100",
    "network.preset={kind: uniform, bandwidth_mbps: 20, latency_ms: 1}",
    "stop={time_s: 20}",
)
"""Matrix factorization with a learning rate far too high: not finite within a few rounds."""

SIMULATED, REAL = ("runtime=simulation", "time_dilation=null"), ("time_dilation=4",)


def end(start: Start, *settings: str) -> tuple[int, list[str], Run, dict[str, Any]]:
    """A run that ended in whatever way: exit code, the lines of what it said, its results, its fidelity."""
    started = start(*settings)
    code, _, err = started.end()
    content: dict[str, Any] = json.loads((started.path / "fidelity.json").read_text())
    return code, err.splitlines(), started.run(), content


def diverged(start: Start, *settings: str) -> tuple[dict[str, Any], Run]:
    """Where both runtimes say that the run diverged, which must be the same, and the real run."""
    told = []
    for runtime in (SIMULATED, REAL):
        code, lines, run, fidelity = end(start, *DIVERGES, *settings, *runtime)
        assert (code, run.status) == (5, "diverged"), lines
        assert run.summary is not None
        where = run.summary["diverged"]
        said = f"node {where['node']}: its model is not finite after round {where['round']} (learning rate too high?)"
        assert f"diverged: {said}" in lines
        assert run.summary["error"] == said
        # What was measured until then is kept and reported, and nothing of what came after it.
        assert run.times_s[-1] < where["time_s"] < 20
        assert np.isfinite(run.headline).all()
        assert run.messages is not None
        assert len(run.messages["id"]) > 0
        assert (run.path / "report.html").is_file()
        assert fidelity["verdict"] is None or (runtime is REAL and fidelity["verdict"] == "unfaithful"), fidelity
        assert run.summary["fidelity"] == fidelity["verdict"]
        assert "The run diverged: this is of the time until then" in fidelity["statement"]
        assert runtime is SIMULATED or fidelity["figures"]["rejected"] == {}
        told.append({"node": where["node"], "round": where["round"]})
    assert told[0] == told[1]
    return told[0], run


def test_a_model_that_is_not_finite_ends_both_runtimes_alike(start: Start) -> None:
    diverged(start)


def test_values_too_large_for_the_wire_saturate_in_both_runtimes(start: Start) -> None:
    """float16 ends at 65,504: messages arrive all the same, until the model itself is not finite."""
    where, run = diverged(start, "learning.optimizer.learning_rate=25", "wire.dtype=float16")
    assert run.summary is not None
    assert run.summary["values_saturated"] > 0
    assert run.summary["messages"]["rejected"] == 0
    assert where["round"] >= 2, "what is too large for the wire ends no run by itself"


@pytest.mark.parametrize("stop", ["time_s: 2", "rounds: 1000"])
def test_a_dead_link_stalls_both_runtimes(stop: str, tmp_path: Path, start: Start) -> None:
    """From some instant on nothing leaves node 1, and all wait; whatever would have ended the run."""
    (tmp_path / "dead.csv").write_text("time_s,bandwidth_mbps\n0.3,0\n")
    dead = (
        "algorithm.kind=dpsgd",
        "topology={kind: full}",
        "network.traces=[{node: 1, direction: up, file: dead.csv}]",
        f"stop={{{stop}}}",
    )
    for runtime in (SIMULATED, ("time_dilation=1",)):
        code, lines, run, fidelity = end(start, *dead, *runtime)
        assert (code, run.status) == (3, "stalled"), lines
        (line,) = [line for line in lines if line.startswith("stalled: ")]
        assert re.search(r"node 0.* waits for models of round \d+ from nodes 1", line)
        assert run.times_s[0] == 0.0
        assert np.isfinite(run.headline[0])
        assert fidelity["verdict"] == (None if runtime is SIMULATED else "unfaithful")
        assert "The run stalled: this is of the time until then" in fidelity["statement"]
