"""The catalog of everything that an experiment file can name, read from the declarations themselves."""

from typing import Any, get_args

from pydantic import BaseModel

from node.algorithms.registry import ALGORITHMS
from node.learning.config import DatasetConfig, ModelConfig, PartitionConfig
from orchestrator.experiment.networks.config import PresetConfig, SenderConfig
from orchestrator.experiment.runtimes import RUNTIMES
from orchestrator.experiment.schedule import ScheduleEntry
from orchestrator.experiment.topologies import TopologyConfig


def catalog() -> dict[str, dict[str, str]]:
    """Group -> kind -> what it is, in one line."""
    return {
        "algorithm.kind": {kind: entry.summary for kind, entry in ALGORITHMS.items()},
        "topology.kind": _kinds(TopologyConfig),
        "learning.dataset.kind": _kinds(DatasetConfig),
        "learning.model.kind": _kinds(ModelConfig),
        "learning.partition.kind": _kinds(PartitionConfig),
        "network.preset.kind": _kinds(PresetConfig),
        "network.sender.kind": _kinds(SenderConfig),
        "schedule.action": _kinds(ScheduleEntry, tag="action"),
        "runtime": {name: description.summary for name, description in RUNTIMES.items()},
    }


def _kinds(union: Any, tag: str = "kind") -> dict[str, str]:
    """The members of a tagged union: kind -> first paragraph of the docstring."""
    members: list[type[BaseModel]] = list(get_args(get_args(union)[0]))
    return {
        get_args(member.model_fields[tag].annotation)[0]: " ".join((member.__doc__ or "").split("\n\n")[0].split())
        for member in members
    }
