"""Local steps in virtual time: training is real, and takes the time that is declared."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from node.core.divergence import check_trained
from node.core.effects import Effect
from node.core.errors import RunnerError
from node.core.events import LocalStepsDone
from node.core.training import Trainer
from node.core.types import Vector
from node.sim.event_order import STEPS_DONE
from node.sim.simulated_node import SimulatedNode


class TrainingWorld(Protocol):
    """The use of a :class:`~node.sim.world.World`."""

    now_ns: int
    nodes: list[SimulatedNode]

    def push(self, time_ns: int, event_class: int, node: int, payload: Any) -> None: ...
    def execute(self, node: SimulatedNode, effects: Sequence[Effect]) -> None: ...


class LocalSteps:
    """The local steps of all nodes.

    Args:
        world: In which the nodes are.
        trainer: Does the steps.
        max_rounds: A node stops training after so many rounds; None for no limit.
        after_steps: Called after each block of local steps; for progress displays.

    Attributes:
        unfinished: Nodes that have not done all their rounds.
    """

    rebuilt_attributes: ClassVar[frozenset[str]] = frozenset({"_after_steps", "_trainer", "_world"})

    def __init__(
        self,
        world: TrainingWorld,
        trainer: Trainer,
        max_rounds: int | None,
        after_steps: Callable[[], None] | None,
    ) -> None:
        self._world = world
        self._trainer = trainer
        self._max_rounds = max_rounds
        self._after_steps = after_steps
        self.unfinished = len(world.nodes)

    def start(self, node: SimulatedNode, params: Vector, count: int) -> None:
        """Begin a node's local steps from a model, unless it has done all its rounds."""
        assert not node.training, "local steps are outstanding already"
        node.params = params
        if self._max_rounds is not None and node.counters.rounds >= self._max_rounds:
            if not node.finished:
                node.finished = True
                self.unfinished -= 1
            return
        node.training = True
        node.block = count
        self._trainer.begin(node.index, params, node.counters.local_steps, count)
        node.counters.local_steps += count
        self._world.push(
            self._world.now_ns + node.timer.duration_ns(count, self._world.now_ns), STEPS_DONE, node.index, node.life
        )

    def done(self, node: SimulatedNode) -> None:
        """Take the result of a node's local steps, whose time is over, and tell its algorithm.

        Raises:
            DivergedError: Its model is not finite any more.
            RunnerError: Training failed.
        """
        node.hand_over_arrivals(self._world.now_ns)
        try:
            result = self._trainer.finish(node.index)
        except RunnerError:
            # It did not happen: the world can still be saved.
            self._world.push(self._world.now_ns, STEPS_DONE, node.index, node.life)
            raise
        node.training = False
        node.counters.rounds += 1
        node.counters.train_loss = result.loss
        node.trained = result.params
        check_trained(result.params, node.index, node.counters, self._world.now_ns)
        self._world.execute(node, node.algorithm.handle(LocalStepsDone(result.params), self._world.now_ns))
        if self._after_steps is not None:
            self._after_steps()

    def begin_again(self) -> None:
        """Begin the local steps that are outstanding, with a trainer that does not know of them."""
        for node in self._world.nodes:
            if node.training:
                self._trainer.begin(node.index, node.params, node.counters.local_steps - node.block, node.block)
