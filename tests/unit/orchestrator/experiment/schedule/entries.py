"""Schedules for tests: entries as a file has them, and what they become on a small network."""

from pathlib import Path
from typing import Any

from node.core.links import NetworkPlan
from node.core.units import s_to_ns
from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.input_files import InputFiles
from orchestrator.experiment.networks import NetworkConfig, build_network
from orchestrator.experiment.schedule import Surroundings, resolve_schedule
from orchestrator.experiment.schedule.resolve import ResolvedSchedule

S = 10**9


def network_of(nodes: int = 8, folder: Path = Path(), **fields: Any) -> NetworkPlan:
    """Equal access links of 10 Mbit/s and 1 ms, unless the fields say otherwise."""
    preset = {"kind": "uniform", "bandwidth_mbps": 10, "latency_ms": 1}
    return build_network(NetworkConfig.model_validate({"preset": preset, **fields}), nodes, 1, InputFiles([folder]))


def resolved(
    *entries: dict[str, Any],
    network: NetworkPlan | None = None,
    time_s: float | None = 20,
    folder: Path = Path(),
    **around: Any,
) -> ResolvedSchedule:
    """Resolve entries in a run of 20 s, in which nodes 1 and 5 are slow."""
    network = network or network_of()
    stop = {"rounds": 5} if time_s is None else {"time_s": time_s}
    content = {"name": "t", "nodes": network.num_nodes, "learning": {}, "network": {}, "stop": stop}
    config = parse_experiment({**content, "schedule": list(entries)}, "f.yaml")
    given: dict[str, Any] = {
        "network": network,
        "is_direct": False,
        "stragglers": frozenset({1, 5}),
        "seed": 1,
        "end_ns": None if time_s is None else s_to_ns(time_s),
        "runtime": "simulation",
        "files": InputFiles([folder]),
    }
    return resolve_schedule(config.schedule, Surroundings(**{**given, **around}))
