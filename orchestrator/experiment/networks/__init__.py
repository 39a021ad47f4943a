"""Networks of the experiment file: presets, overrides, traces, and the plan they become."""

from orchestrator.experiment.networks.config import NetworkConfig
from orchestrator.experiment.networks.presets import build_network

__all__ = ["NetworkConfig", "build_network"]
