"""One experiment with a schedule, as a process of its own: ``python -m tests.integration.scheduled_run RUNTIME OUT``.

A third argument is the time dilation. The schedule is laid over the plan as an experiment's own is.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from node.core.schedule import LinkSpan, NodeSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.scheduled_network import scheduled
from node.core.steps import Steps
from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.plan import Plan, make_plan
from orchestrator.runs.options import RunOptions
from orchestrator.runtimes.registry import start_run

MS = 1_000_000
NODES = 6
STEP_MS, STEPS, SLOWDOWN = 20, 8, 3.0
MBPS, LATENCY_MS, MORE_MS, FACTOR = 1.0, 10, 80, 0.25
ISLANDS = (0, 0, 0, 1, 1, 1)
DEGRADED, FAR, SLOW, PARTED = (1_000, 2_500), (1_500, 3_000), (2_000, 4_000), (3_000, 4_000)
"""When node 0's uplink is slow, node 1 far, node 2's processor slow, and the islands apart; testbed milliseconds."""

SCHEDULE = Schedule(
    links=(
        LinkSpan(DEGRADED[0] * MS, DEGRADED[1] * MS, Place("up", 0, -1), Overlay(bandwidth_factor=FACTOR)),
        LinkSpan(FAR[0] * MS, FAR[1] * MS, Place("down", -1, 1), Overlay(latency_ns=MORE_MS * MS)),
    ),
    partitions=(PartitionSpan(PARTED[0] * MS, PARTED[1] * MS, ISLANDS),),
    nodes=(NodeSpan(SLOW[0] * MS, SLOW[1] * MS, 2, "slowed", SLOWDOWN),),
)

EXPERIMENT: dict[str, Any] = {
    "name": "scheduled",
    "nodes": NODES,
    "algorithm": {"kind": "divshare", "local_steps": STEPS, "divshare": {"omega": 0.25, "recipients": 2}},
    "learning": {
        "dataset": {"kind": "synthetic", "samples": 1_200, "test_samples": 300, "features": 500, "classes": 4},
        "model": {"kind": "logistic_regression"},
        "optimizer": {"learning_rate": 0.02},
    },
    "compute": {"step_time_ms": STEP_MS},
    "network": {"preset": {"kind": "uniform", "bandwidth_mbps": MBPS, "latency_ms": LATENCY_MS}},
    "evaluation": {"interval_s": 0.5},
    "stop": {"time_s": 6},
    "fidelity": {"allow_unfaithful": True},
}


def plan_of(runtime: str, dilation: float | None) -> Plan:
    """The experiment, planned for a runtime."""
    content = {**EXPERIMENT, "runtime": runtime, "time_dilation": dilation}
    plan = make_plan(parse_experiment(content, "scheduled.yaml"), Path())
    speeds = {
        node: Steps(steps.first.speed, steps.times_ns, tuple(state.speed for state in steps.values))
        for node, steps in SCHEDULE.node_states().items()
    }
    return replace(plan, network=scheduled(plan.network, SCHEDULE), compute=replace(plan.compute, speeds=speeds))


def main(runtime: str, out: str, dilation: str | None = None) -> None:
    """Run it; an error ends this process."""
    plan = plan_of(runtime, None if dilation is None else float(dilation))
    outcome = start_run(plan, RunOptions(Path(out), None, 1, "quiet", "scheduled_run"))
    if outcome.error:
        sys.exit(outcome.error)


if __name__ == "__main__":
    main(*sys.argv[1:])
