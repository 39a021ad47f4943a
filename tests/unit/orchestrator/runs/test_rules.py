"""The bounds of supervision follow from the plan: of its slowest link above all."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.experiment.config import ExperimentConfig
from orchestrator.experiment.plan import make_plan
from orchestrator.runs import rules as bounds
from orchestrator.runs.rules import Rules, rules_of

NUM_PARAMS = 25_000
"""100 kB: 0.8 s at 1 Mbit/s."""


def rules(folder: Path, stop: dict[str, Any] | None = None, **network: Any) -> Rules:
    experiment = {
        "name": "small",
        "nodes": 4,
        "runtime": "processes",
        "algorithm": {"kind": "dpsgd"},
        "topology": {"kind": "full"},
        "learning": {"dataset": {"kind": "synthetic"}, "model": {"kind": "logistic_regression"}},
        "compute": {"step_time_ms": 10},
        "network": {"preset": {"kind": "uniform", "bandwidth_mbps": 1, "latency_ms": 0}, **network},
        "stop": stop or {"rounds": 7},
    }
    plan = make_plan(ExperimentConfig.model_validate(experiment), folder)
    return rules_of(plan, num_params=NUM_PARAMS, dilation=2.0, begin_ns=0)


def test_certificates_outlast_the_run(tmp_path: Path) -> None:
    until_s = rules(tmp_path, stop={"time_s": 500}).certified_s
    assert until_s == pytest.approx(2 * 500 + 60 + 4 + bounds.CERTIFIED_S[0])
    assert rules(tmp_path).certified_s == bounds.CERTIFIED_S[1]


def trace(folder: Path, text: str) -> list[dict[str, object]]:
    (folder / "trace.csv").write_text(f"time_s,bandwidth_mbps\n{text}")
    return [{"node": 1, "direction": "up", "file": "trace.csv"}]


def test_a_transfer_takes_what_the_slowest_link_takes_for_every_node(tmp_path: Path) -> None:
    found = rules(tmp_path)
    assert found.transfer_s == pytest.approx(4 * 0.8)
    assert (found.rounds, found.last_change_ns) == (7, -1)
    assert found.stalled_after_s == pytest.approx(bounds.STALL_S + 2 * 2 * (found.block_s + 4 * 0.8))


def test_links_that_slow_down_count_and_a_dead_one_only_until_it_is(tmp_path: Path) -> None:
    """What is on it will never move, so that nobody waits for it in the bound."""
    found = rules(tmp_path, traces=trace(tmp_path, "1,0.1\n2,0\n"))
    assert found.transfer_s == pytest.approx(4 * 8.0)
    assert found.last_change_ns == 2_000_000_000
    assert found.links is not None
    assert [found.links.is_parked(*pair) for pair in ((1, 0), (0, 1), (2, 3))] == [True, False, False]


def test_pairs_and_packets_that_are_sent_again_count(tmp_path: Path) -> None:
    slow = [{"source": 0, "destination": 2, "bandwidth_mbps": 0.2}]
    assert rules(tmp_path, overrides=slow).transfer_s == pytest.approx(4 * 4.0)
    lossy = {"kind": "uniform", "bandwidth_mbps": 1, "latency_ms": 0, "loss_percent": 50}
    assert rules(tmp_path, preset=lossy).transfer_s == pytest.approx(4 * 1.6)


def test_without_limits_a_transfer_takes_no_time(tmp_path: Path) -> None:
    unlimited = {"kind": "uniform", "bandwidth_mbps": None, "latency_ms": 0}
    assert rules(tmp_path, preset=unlimited, stop={"time_s": 1}).transfer_s == 0
