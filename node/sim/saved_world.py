"""A whole simulated run as plain data: the world, and the part of the trainer that lasts.

A world can be saved between two events. Local steps under way are not waited for: what they began from is saved, and
they are begun again, which leads to the same models. So a world that is continued does exactly what it would have
done.
"""

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from node.core.errors import ConfigError
from node.core.saved_state import State, decode, encode, savable_classes
from node.core.training import RealTimeTrainer
from node.sim import flows, level_network, levels, simulated_node
from node.sim import world as world_module
from node.sim.world import World


def save_world(world: World, trainer: RealTimeTrainer, more: Any, more_classes: Iterable[type]) -> State:
    """Take a world apart; it can go on afterwards, once the state has been written and dropped.

    Args:
        world: Between two events.
        trainer: The one that it was made with.
        more: What the caller wants to keep with it; may refer to models that the world refers to.
        more_classes: Further classes of which ``more`` consists.

    Raises:
        CannotSaveError: The world, most likely an algorithm, holds something that cannot be saved.
    """
    momentum = [trainer.momentum(node.index) for node in world.nodes]
    root = {"world": world, "momentum": momentum, "more": more}
    return encode(root, _classes(world) | set(more_classes), _anchors(world))


def restore_world(world: World, trainer: RealTimeTrainer, state: State, more_classes: Iterable[type]) -> Any:
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
    root = decode(state, _classes(world) | set(more_classes), anchors)
    if not isinstance(root, dict) or root.get("world") is not world or _anchors(world) != anchors:
        raise ConfigError("not a state that this version can read (another world)")
    for node, momentum in zip(world.nodes, root["momentum"], strict=True):
        if momentum is not None:
            trainer.set_momentum(node.index, momentum)
    world.steps.begin_again()
    return root["more"]


def _classes(world: World) -> frozenset[type]:
    """Collect the classes of which a world's state may consist: of the core, the simulator, its algorithms' files."""
    algorithms = {type(node.algorithm) for node in world.nodes}
    names = {kind.__module__ for algorithm in algorithms for kind in algorithm.__mro__}
    names |= {name for name in sys.modules if name.startswith("node.core.")}
    modules: list[ModuleType] = [world_module, simulated_node, flows, level_network, levels]
    tags: frozenset[type] = frozenset(type(tag) for algorithm in algorithms for tag in algorithm.carries)
    return tags | savable_classes([*modules, *(sys.modules[name] for name in names if name in sys.modules)])


def _anchors(world: World) -> list[object]:
    """List the objects that a new world has as well. What an algorithm was given is among them: it may keep it."""
    parts: list[object] = [world, world.network, world.network.pairs, world.steps, world._deliveries]
    if world.trace is not None:
        parts.append(world.trace)
    for node in world.nodes:
        context = node.algorithm.context
        parts += [node.algorithm, node.timer, context, context.topology]
    return parts
