"""The metrics of a run follow from its state: what is known is told, and what is not known yet is left out."""

from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest

from node.core.counters import NodeCounters
from node.core.types import NodeId
from node.core.units import NS_PER_S
from node.host.metrics_server import TableCollector
from node.metrics import PREFIX, RUN_METRICS
from node.transport.control_values import NodeStatus, Phase
from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.fidelity import MeasuredLink
from orchestrator.results.schema import NodeSample, Sample
from orchestrator.runs.fleet import NodeEnd
from orchestrator.runs.run_readings import RunPhase, RunReadings, RunState
from orchestrator.runs.watched import WatchedNode

EXPERIMENT: dict[str, Any] = {
    "name": "seen",
    "nodes": 3,
    "runtime": "processes",
    "algorithm": {"kind": "local"},
    "learning": {"dataset": {"kind": "synthetic"}, "model": {"kind": "logistic_regression"}},
    "network": {
        "preset": {
            "kind": "stragglers",
            "bandwidth_mbps": 8,
            "count": 1,
            "factor": 4,
            "jitter_mbps": 0,
            "latency_ms": 5,
        }
    },
    "schedule": [
        {"action": "partition", "at_s": 10, "for_s": 2, "every_s": 20, "until_s": 45, "groups": [[0], [1, 2]]},
        {"action": "crash", "at_s": 50, "nodes": [1]},
    ],
    "stop": {"time_s": 100},
}
NOTHING = RunState(RunPhase.STARTING, None, None, {}, 3, None, (), (), None, None)


def readings_of(**changes: Any) -> RunReadings:
    plan = make_plan(parse_experiment({**EXPERIMENT, **changes}, "f.yaml"), Path())
    return RunReadings(plan, 2.0, 0, {("1", "3", "2"): 1})


def read(state: RunState, readings: RunReadings | None = None) -> dict[str, dict[tuple[str, ...], Any]]:
    """The readings without the prefix of their names; the table has all of them, with these labels."""
    found = (readings or readings_of()).of(state)
    list(TableCollector(RUN_METRICS, lambda: found).collect())
    return {name.removeprefix(PREFIX): {**values} for name, values in found.items()}


def test_before_anything_is_known_only_the_experiment_is_told() -> None:
    found = read(NOTHING)
    assert found["run_info"] == {("seen", "local", "processes", "1"): 1}
    assert found["barrier_missing_nodes"] == {(): 3}
    assert found["run_end_seconds"] == {(): 100}
    assert sum(found["run_phase"].values()) == found["run_phase"]["starting",] == 1
    for name in ("run_clock_seconds", "test_accuracy", "fault_active", "host_cpu_pressure_ratio"):
        assert name not in found
    assert found["fidelity_ok"] == found["link_measured_rtt_seconds"] == {}


def test_a_run_that_only_rounds_end_has_no_end() -> None:
    assert "run_end_seconds" not in read(NOTHING, readings_of(stop={"rounds": 5}, schedule=[]))


@pytest.mark.parametrize("phase", RunPhase)
def test_one_phase_holds(phase: RunPhase) -> None:
    told = read(replace(NOTHING, phase=phase))["run_phase"]
    assert {name for (name,), value in told.items() if value} == {phase.value}
    assert len(told) == len(RunPhase)


@pytest.mark.parametrize(
    ("change", "is_up"),
    [
        ({}, True),
        ({"status": NodeStatus(NodeId(0), Phase.PREPARING)}, False),
        ({"died": "was killed"}, False),
        ({"away": "down"}, False),
        ({"end": NodeEnd("ended with code 0", failed=False)}, False),
    ],
)
def test_a_node_is_up_while_it_takes_part(change: dict[str, Any], is_up: bool) -> None:
    watched = replace(WatchedNode.new(NodeId(0)), **{"status": NodeStatus(NodeId(0), Phase.RUNNING), **change})
    readings = readings_of()
    group = readings.group_of(0)
    assert read(replace(NOTHING, nodes={NodeId(0): watched}), readings)["node_up"] == {("0", group): is_up}


@pytest.mark.parametrize(("labels", "told"), [("auto", True), ("always", True), ("never", False)])
def test_for_whom_a_node_waits_is_told_where_there_are_labels_of_peers(labels: str, told: bool) -> None:
    status = NodeStatus(NodeId(2), Phase.RUNNING, waits_on=(NodeId(0), NodeId(1)))
    nodes = {NodeId(2): replace(WatchedNode.new(NodeId(2)), status=status), NodeId(1): WatchedNode.new(NodeId(1))}
    found = read(replace(NOTHING, nodes=nodes), readings_of(observe={"peer_labels": labels}))
    assert found["node_waits_for"] == ({("2", "0"): 1, ("2", "1"): 1} if told else {})


def test_one_node_of_three_is_the_straggler() -> None:
    readings = readings_of()
    assert sorted(readings.group_of(node) for node in range(3)) == ["fast", "fast", "straggler"]


def test_what_was_not_tested_has_no_accuracy() -> None:
    counters = NodeCounters()
    nodes = (NodeSample(0, 0.5, 1.5, counters), NodeSample.untested(1, counters), NodeSample(2, 0.25, nan, counters))
    sample = Sample(3 * NS_PER_S, nodes, 10, 0.125, averaged_accuracy=0.75)
    readings = readings_of()
    groups = [readings.group_of(node) for node in range(3)]
    found = read(replace(NOTHING, sample=sample), readings)
    assert found["test_accuracy"] == {("0", groups[0]): 0.5, ("2", groups[2]): 0.25}
    assert found["test_loss"] == {("0", groups[0]): 1.5}
    assert found["averaged_test_accuracy"] == {(): 0.75}
    assert "averaged_test_loss" not in found
    assert found["consensus_distance"] == {(): 0.125}
    assert found["evaluation_clock_seconds"] == {(): 3}


def test_what_was_measured_is_told_of_the_link_that_held_it_back() -> None:
    readings = readings_of()
    (slow,) = [node for node in range(3) if readings.group_of(node) == "straggler"]
    one, other = (node for node in range(3) if node != slow)
    links = [
        MeasuredLink(slow, one, 2.0, 1.75, 10.0, 10.5, 12.0, 50),
        MeasuredLink(one, other, 8.0, 7.5, 10.0, None, None, 0),
        MeasuredLink(other, slow, None, None, 10.0, 11.0, 12.0, 50),
    ]
    found = read(replace(NOTHING, links=links), readings)
    wanted = found["link_configured_rate_bytes_per_second"]
    assert wanted[str(slow), "up"] == 250_000
    assert wanted[str(one), "down"] == 1_000_000
    assert found["link_measured_rate_bytes_per_second"] == {
        (str(slow), "up"): 218_750,
        (str(one), "up"): 937_500,
        (str(other), "down"): 937_500,
    }
    assert found["link_configured_rtt_seconds"] == {(str(node),): 0.01 for node in range(3)}
    assert found["link_measured_rtt_seconds"] == {(str(slow),): 0.0105, (str(other),): 0.011}


@pytest.mark.parametrize(
    ("time_s", "active", "begin_s"), [(0, 0, 10), (10, 1, 10), (12, 0, 30), (31, 1, 30), (90, 0, 30)]
)
def test_a_fault_is_told_that_holds_or_comes_next_or_was_the_last(time_s: int, active: int, begin_s: int) -> None:
    """In wall-clock time, of which a testbed second takes two."""
    found = read(replace(NOTHING, time_ns=time_s * NS_PER_S, start_unix_s=1_000.0))
    partition, crash = ("0", "partition", "0 / 1-2"), ("1", "crash", "1")
    assert found["fault_active"][partition] == active
    assert found["fault_begin_timestamp_seconds"] == {partition: 1_000 + 2 * begin_s, crash: 1_100}
    assert found["fault_end_timestamp_seconds"] == {partition: 1_000 + 2 * (begin_s + 2)}
    assert found["fault_active"][crash] == (time_s >= 50)
    assert found["run_clock_seconds"] == {(): time_s}
    assert found["run_start_timestamp_seconds"] == {(): 1_000}


def test_fidelity_is_told_as_far_as_it_is_known() -> None:
    checks = [
        {"name": "rate", "requested": 1.0, "achieved": 0.9, "ok": False},
        {"name": "round trip", "requested": 10, "achieved": None, "ok": False},
        {"name": "delay", "requested": 0, "achieved": 0, "ok": True},
    ]
    found = read(replace(NOTHING, faults_late_ns=(5, 10**9), pressure=25.0, fidelity={"checks": checks}))
    assert found["fault_lateness_seconds_max"] == {(): 1}
    assert found["host_cpu_pressure_ratio"] == {(): 0.25}
    assert found["fidelity_requested"] == {("rate",): 1, ("round trip",): 10, ("delay",): 0}
    assert found["fidelity_achieved"] == {("rate",): 0.9, ("delay",): 0}
    assert found["fidelity_ok"] == {("rate",): 0, ("round trip",): 0, ("delay",): 1}
