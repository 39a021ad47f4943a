"""The bounds of supervision follow from the plan: of its slowest link above all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.core.schedule import LinkSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.scheduled_network import scheduled
from node.core.steps import Steps
from orchestrator.experiment.config import ExperimentConfig
from orchestrator.experiment.plan import Plan, make_plan
from orchestrator.runs import rules as bounds
from orchestrator.runs.rules import Rules, rules_of

NUM_PARAMS = 25_000
"""100 kB: 0.8 s at 1 Mbit/s."""


def plan_of(folder: Path, stop: dict[str, Any] | None = None, **network: Any) -> Plan:
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
    return make_plan(ExperimentConfig.model_validate(experiment), folder)


def rules(folder: Path, stop: dict[str, Any] | None = None, **network: Any) -> Rules:
    return rules_of(plan_of(folder, stop, **network), num_params=NUM_PARAMS, dilation=2.0, begin_ns=0)


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


SECOND = 1_000_000_000


def scheduled_rules(folder: Path, schedule: Schedule, speeds: dict[int, Steps[float]] | None = None) -> Rules:
    """Of the same experiment with a schedule."""
    plan = plan_of(folder)
    compute = replace(plan.compute, speeds=speeds or {})
    changed = replace(plan, network=scheduled(plan.network, schedule), compute=compute)
    return rules_of(changed, num_params=NUM_PARAMS, dilation=2.0, begin_ns=0)


def test_bounds_hold_under_the_most_that_is_laid_over_links(tmp_path: Path) -> None:
    """Two spans at different times: each as if it always held."""
    spans = (
        LinkSpan(SECOND, 2 * SECOND, Place("up", 1, -1), Overlay(bandwidth_factor=0.1, loss=0.5)),
        LinkSpan(5 * SECOND, 6 * SECOND, Place("down", -1, 2), Overlay(latency_ns=3 * SECOND)),
    )
    found = scheduled_rules(tmp_path, Schedule(links=spans))
    assert found.round_trip_s == 3.0
    assert found.transfer_s == pytest.approx(4 * 8.0 / (1 - 0.5))
    assert found.last_change_ns == 2 * SECOND


def test_until_the_last_partition_has_healed_nothing_is_a_stall(tmp_path: Path) -> None:
    partitions = tuple(PartitionSpan(at * SECOND, (at + 100) * SECOND, (0, 0, 1, 1)) for at in (10, 1_000))
    found = scheduled_rules(tmp_path, Schedule(partitions=partitions))
    assert found.last_change_ns == 1_100 * SECOND
    assert found.links is not None
    assert not found.links.is_parked(0, 2)
    forever = scheduled_rules(tmp_path, Schedule(partitions=(PartitionSpan(7 * SECOND, None, (0, 0, 1, 1)),)))
    assert forever.last_change_ns == 7 * SECOND
    assert forever.links is not None
    assert [forever.links.is_parked(0, peer) for peer in (1, 2)] == [False, True]


def test_a_block_is_as_long_as_at_the_slowest_speed_and_a_pause_is_waited_for(tmp_path: Path) -> None:
    usual = rules(tmp_path)
    speeds = {1: Steps(1.0, (5, 9), (0.125, 1.0)), 2: Steps(1.0, (3, 70), (0.0, 1.0)), 3: Steps(1.0, (80,), (0.5,))}
    found = scheduled_rules(tmp_path, Schedule(), speeds)
    assert found.block_s == pytest.approx(8 * usual.block_s)
    assert (found.last_pause_ns, usual.last_pause_ns) == (70, -1)
