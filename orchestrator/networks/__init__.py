"""Networks of the experiment file: presets, overrides, traces, and the plan they become."""

from orchestrator.networks.config import NetworkConfig
from orchestrator.networks.presets import build_network

__all__ = ["NetworkConfig", "build_network"]
