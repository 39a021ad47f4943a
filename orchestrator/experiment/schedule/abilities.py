"""The table of actions that each runtime executes."""

from collections.abc import Mapping
from typing import Final

from orchestrator.experiment.runtimes import RuntimeName
from orchestrator.experiment.schedule.config import Action

LINK_ACTIONS: Final[tuple[Action, ...]] = ("degrade", "trace", "partition", "isolate")
"""Actions on links, which links that nothing shapes cannot have."""

NODE_ACTIONS: Final[tuple[Action, ...]] = ("crash", "restart", "pause", "slow_cpu")
"""Actions on nodes."""

ABILITIES: Final[Mapping[RuntimeName, tuple[Action, ...]]] = {
    "simulation": (*LINK_ACTIONS, *NODE_ACTIONS),
    "processes": (*LINK_ACTIONS, *NODE_ACTIONS),
    "docker": (*LINK_ACTIONS, *NODE_ACTIONS),
}
"""Actions that a runtime can do; others are refused before anything starts."""
