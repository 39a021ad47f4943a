"""Made-up runs for the tests of results, analysis, report and progress. No training, no clock."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from node.core.counters import NodeCounters
from node.core.messages import MessageState, tag_name
from node.core.times import Times
from orchestrator.results.fault_instants import FaultInstant
from orchestrator.results.recorded_schedule import RecordedEntry
from orchestrator.results.schema import NodeSample, RunFacts, RunTotals, Sample
from orchestrator.results.writer import RunWriter
from tests.messages import Kind

ENVIRONMENT = {"versions": {"python": "3.11"}, "seeds": {"run": 1}}
EXPERIMENT: dict[str, Any] = {
    "name": "synthetic",
    "nodes": 6,
    "algorithm": {"kind": "divshare", "divshare": {}},
}


def facts(*, nodes: int = 6, metric: Any = "accuracy", slow: int = 2, name: str = "synthetic") -> RunFacts:
    rng = np.random.default_rng(3)
    ratings = metric == "rmse"
    return RunFacts(
        name=name,
        algorithm="divshare",
        runtime="simulation",
        nodes=nodes,
        seed=1,
        metric=metric,
        stragglers=frozenset(range(slow)),
        message_tags={kind.value: tag_name(kind) for kind in Kind},
        targets=(1.2, 1.0) if ratings else (0.3, 0.5, 0.9),
        class_names=None if ratings else tuple(f"class {index}" for index in range(10)),
        partition_counts=None
        if ratings
        else rng.multinomial(830, rng.dirichlet(np.full(10, 0.3)), size=nodes).astype(np.int64),
        num_params=89834,
        end_s=100.0,
        details={"data set": "synthetic, 10 classes", "topology": "fully connected", "network": "60 Mbit/s"},
        command="fragmesh run experiment.yaml --seed 1",
    )


def sample(index: int, *, nodes: int = 6, slow: int = 2, speed: float = 0.05, seed: int = 0) -> Sample:
    rng = np.random.default_rng((seed, index))
    time_s = 10.0 * index
    entries = []
    for node in range(nodes):
        pace = speed * (0.6 if node < slow else 1.0)
        accuracy = 0.1 + 0.6 * (1 - np.exp(-pace * time_s)) + float(rng.normal(0, 0.01))
        rounds = int(time_s * (0.5 if node < slow else 2.0))
        entries.append(
            NodeSample(
                node=node,
                accuracy=accuracy,
                loss=2.4 - 2.0 * accuracy,
                counters=NodeCounters(
                    train_loss=float("nan") if index == 0 else 2.2 - 2.0 * accuracy,
                    rounds=rounds,
                    local_steps=8 * rounds,
                    bytes_sent=36_000 * rounds,
                    queued_messages=int(rng.integers(0, 9)) + (40 if node < slow else 0),
                ),
            )
        )
    return Sample(
        time_ns=round(time_s * 1e9),
        nodes=tuple(entries),
        bytes_sent=sum(entry.counters.bytes_sent for entry in entries),
        consensus_distance=5.0 * float(np.exp(-0.02 * time_s)),
        averaged_accuracy=max(entry.accuracy for entry in entries) + 0.02,
        averaged_loss=min(entry.loss for entry in entries) - 0.04,
    )


def messages(count: int = 500, *, nodes: int = 6, slow: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    ids = np.arange(count, dtype=np.int64)
    sender = rng.integers(0, nodes, count)
    state = rng.choice([s.value for s in MessageState], count, p=[0.01, 0.01, 0.01, 0.07, 0.55, 0.06, 0.25, 0.02, 0.02])
    is_state = {s: state == s.value for s in MessageState}
    queued = np.sort(rng.integers(0, 100_000_000_000, count))
    wait = rng.exponential(np.where(sender < slow, 3e9, 3e8)).astype(np.int64)
    started = np.where(is_state[MessageState.CANCELLED] | is_state[MessageState.QUEUED], -1, queued + wait)
    arrived = is_state[MessageState.DELIVERED] | is_state[MessageState.AGGREGATED] | is_state[MessageState.REPLACED]
    sent = np.where(arrived | is_state[MessageState.IN_FLIGHT], started + 5_000_000, -1)
    delivered = np.where(arrived, sent + 1_000_000, -1)
    aggregated = np.where(is_state[MessageState.AGGREGATED], delivered + rng.integers(1, 5 * 10**8, count), -1)
    cancelled = np.where(
        is_state[MessageState.CANCELLED] | is_state[MessageState.ABORTED],
        np.maximum(started, queued) + wait,
        -1,
    )
    staleness = np.where(aggregated >= 0, rng.poisson(np.where(sender < slow, 9, 1)) - 1, -1)
    return {
        "id": ids,
        "sender": sender,
        "receiver": (sender + 1) % nodes,
        "kind": np.full(count, Kind.FRAGMENT),
        "round": rng.integers(0, 100, count),
        "fragment": rng.integers(0, 10, count),
        "payload_bytes": np.full(count, 35_936),
        "wire_bytes": np.where(started < 0, 0, 36_000),
        "resent_bytes": np.zeros(count, dtype=np.int64),
        "queued_ns": queued,
        "started_ns": started,
        "sent_ns": sent,
        "delivered_ns": delivered,
        "aggregated_ns": aggregated,
        "cancelled_ns": cancelled,
        "staleness": staleness,
        "state": state,
    }


def totals(*, nodes: int = 6, slow: int = 2, status: Any = "done", error: str | None = None) -> RunTotals:
    up = np.where(np.arange(nodes) < slow, 0.97, 0.42) + 0.02 * np.cos(np.arange(nodes))
    return RunTotals(
        status=status,
        time_ns=100_000_000_000,
        bytes={
            "payload": 18_000_000,
            "metadata": 120_000,
            "control": 0,
            "wasted": 640_000,
            "retransmitted": 0,
        },
        messages={"queued": 500, "sent": 370, "delivered": 350, "cancelled": 125, "lost": 10, "aborted": 10},
        train_steps=12345,
        wall_s=4.2,
        uplink_utilization=up,
        downlink_utilization=0.5 * up,
        error=error,
        spent_ns=np.array([[60, 40, 0, 0, 0, 0] if node < slow else [90, 0, 6, 4, 0, 0] for node in range(nodes)]),
    )


S = 10**9
SCHEDULE = (
    RecordedEntry(0, "crash", "3,5", "", 2, Times(10 * S, 10 * S, 40 * S, 2)),
    RecordedEntry(1, "partition", "0-2 / 3-5", "", 6, Times(20 * S, 30 * S)),
    RecordedEntry(2, "degrade", "1 up", "x0.1", 1, Times(60 * S, None)),
    RecordedEntry(3, "restart", "0", "", 1, Times(70 * S, 0)),
)
"""Entries of every form: again and again, once, to the end, at an instant."""


def instants(schedule: Sequence[RecordedEntry] = SCHEDULE, *, late_ms: float = 0.0) -> tuple[FaultInstant, ...]:
    """All begins and ends of a schedule, each as late; to nodes where its targets are nodes."""
    late_ns = round(late_ms * 1e6)
    found = []
    for entry in schedule:
        to_nodes = entry.action in ("crash", "restart", "pause")
        for node in map(int, entry.targets.split(",")) if to_nodes else (None,):
            for begin_ns, end_ns in entry.times:
                ends = () if end_ns is None else (("end", end_ns),)
                for what, planned_ns in (("begin", begin_ns), *ends):
                    found.append(FaultInstant(entry.number, node, entry.action, what, planned_ns, planned_ns + late_ns))
    return tuple(found)


FIDELITY = {
    "faithful": True,
    "backend": "virtual time: exact by construction",
    "links": [{"profile": "normal", "requested_mbps": 60.0, "achieved_mbps": 60.0, "deviation_percent": 0.0}],
    "pacing_overruns": 0,
}


def write_run(
    root: Path,
    *,
    nodes: int = 6,
    slow: int = 2,
    samples: int = 11,
    num_messages: int = 500,
    metric: Any = "accuracy",
    speed: float = 0.05,
    name: str = "synthetic",
    status: Any = "done",
    error: str | None = None,
    fidelity: Mapping[str, Any] = FIDELITY,
    runtime: str = "simulation",
    dies: Mapping[int, int] | None = None,
    seed: int = 1,
    experiment: Mapping[str, Any] = EXPERIMENT,
    schedule: Sequence[RecordedEntry] = (),
    late_ms: float = 0.0,
) -> Path:
    """A whole run directory.

    ``dies`` gives, for nodes that die, the first evaluation that they miss.
    """
    described = replace(facts(nodes=nodes, metric=metric, slow=slow, name=name), runtime=runtime, seed=seed)
    described = replace(described, schedule=tuple(schedule))
    algorithm = experiment.get("algorithm", {}).get("kind", "divshare")
    described = replace(described, algorithm=algorithm)
    writer = RunWriter.create(root, described, experiment, ENVIRONMENT)
    for index in range(samples):
        taken = sample(index, nodes=nodes, slow=slow, speed=speed, seed=seed - 1)
        alive = tuple(entry for entry in taken.nodes if index < (dies or {}).get(entry.node, samples))
        writer.add(replace(taken, nodes=alive))
    ended = totals(nodes=nodes, slow=slow, status=status, error=error)
    writer.finish(
        replace(ended, fault_instants=instants(schedule, late_ms=late_ms)),
        messages(num_messages, nodes=nodes, slow=slow),
        fidelity,
    )
    return writer.path
