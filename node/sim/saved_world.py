"""A whole simulated run as plain data: the world, and the part of the trainer that lasts.

A world can be saved between two events. Local steps under way are not waited for: what they began from is saved, and
they are begun again, which leads to the same models. So a world that is continued does exactly what it would have
done.
"""

from typing import Any

from node.algorithms.state import ALGORITHM_STATE
from node.core.compute import StepTimer
from node.core.delivery import DeliveryModel
from node.core.errors import ConfigError
from node.core.links import CapacityChange
from node.core.message_log import Trace
from node.core.saved_state import LEAVE_NOTHING, Classes, State, decode, encode
from node.core.training import RealTimeTrainer
from node.sim.fluid_network import Flow, FluidNetwork
from node.sim.world import Arrivals, SimulatedNode, World

_WORLD_STATE: Classes = {
    **ALGORITHM_STATE,
    Arrivals: LEAVE_NOTHING,
    CapacityChange: LEAVE_NOTHING,
    DeliveryModel: frozenset({"_latency", "_jitter", "_loss"}),  # matrices of the plan
    Flow: LEAVE_NOTHING,
    FluidNetwork: frozenset({"_schedule", "_pair_mbps"}),
    SimulatedNode: LEAVE_NOTHING,
    StepTimer: LEAVE_NOTHING,
    Trace: LEAVE_NOTHING,
    World: frozenset({"_after_steps", "_trainer", "stop_requested"}),
}


def save_world(world: World, trainer: RealTimeTrainer, more: Any, more_classes: Classes) -> State:
    """Take a world apart; it can go on afterwards, once the state has been written and dropped.

    Args:
        world: Between two events.
        trainer: The one that it was made with.
        more: What the caller wants to keep with it; may refer to models that the world refers to.
        more_classes: Further classes of which ``more`` consists.
    """
    momentum = [trainer.momentum(node.index) for node in world.nodes]
    return encode(
        {"world": world, "momentum": momentum, "more": more}, {**_WORLD_STATE, **more_classes}, _anchors(world)
    )


def restore_world(world: World, trainer: RealTimeTrainer, state: State, more_classes: Classes) -> Any:
    """Bring a new world to where another one was saved, and begin the local steps that were under way.

    Args:
        world: Made from the same input as the saved one, and not advanced.
        trainer: The one that it was made with; it has done nothing.
        state: From :func:`save_world`.
        more_classes: As for :func:`save_world`.

    Returns:
        The caller's part.

    Raises:
        ConfigError: It is not the state of such a world. The world is of no use then.
    """
    anchors = _anchors(world)
    root = decode(state, {**_WORLD_STATE, **more_classes}, anchors)
    if not isinstance(root, dict) or root.get("world") is not world or _anchors(world) != anchors:
        raise ConfigError("not a state that this version can read (another world)")
    for node, momentum in zip(world.nodes, root["momentum"], strict=True):
        if momentum is not None:
            trainer.set_momentum(node.index, momentum)
    world.begin_again()
    return root["more"]


def _anchors(world: World) -> list[object]:
    parts: list[object] = [world, world._network, world._deliveries]
    if world.trace is not None:
        parts.append(world.trace)
    for node in world.nodes:
        parts += [node.algorithm, node.timer]
    return parts
