"""The base of all algorithms: a state machine that is told events and returns effects.

An algorithm decides, a driver does. Inside an algorithm there is no clock, no I/O, no torch, no logging and
no global randomness. The same object runs under virtual time and in a real node.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import ClassVar

import numpy as np

from node.core.bodies import Body
from node.core.effects import Effect
from node.core.events import Event, PeerDown, PeerUp
from node.core.fragments import FragmentPlan
from node.core.rng import stream
from node.core.topology import Topology
from node.core.types import NodeId, Vector


@dataclass(frozen=True)
class NodeContext:
    """Everything that a node knows when it is made.

    Attributes:
        node: The node's own index.
        topology: Who may exchange with whom; the same object for all nodes.
        tensor_sizes: Scalars in each tensor of the model, in state-dict order.
        local_steps: H, local steps in a round, >= 1.
        seed: The experiment's seed.
        stream_key: Which node's random streams to use; the node's own unless a test relabels nodes.
    """

    rebuilt_attributes: ClassVar[frozenset[str]] = frozenset(
        {"node", "topology", "tensor_sizes", "local_steps", "seed", "stream_key", "num_params"}
    )

    node: NodeId
    topology: Topology
    tensor_sizes: tuple[int, ...]
    local_steps: int
    seed: int
    stream_key: int | None = None

    @cached_property
    def num_params(self) -> int:
        """d, the length of the flat parameter vector."""
        return sum(self.tensor_sizes)

    @property
    def num_nodes(self) -> int:
        """n."""
        return self.topology.num_nodes

    @property
    def neighbors(self) -> tuple[NodeId, ...]:
        """The node's neighbors, in increasing order."""
        return self.topology.neighbors(self.node)

    def rng(self, purpose: str) -> np.random.Generator:
        """This node's private random stream for one purpose."""
        key = self.node if self.stream_key is None else self.stream_key
        return stream(self.seed, purpose, key)


class Algorithm(ABC):
    """One node's part of a decentralized learning algorithm.

    ``passive`` says that a received message never has effects at once. A driver may then hand it over late, but
    before the node's next event and in order of arrival. ``rebuilt_attributes`` names attributes that the constructor
    makes and nothing changes: a saved run leaves them out. Few need it: those whose type cannot be saved, and large
    ones. All other attributes are saved.

    ``carries`` names the tags of the algorithm's messages, and the body that each has: a real node rejects others
    before they reach the algorithm. ``answers`` names the tags that a receiver answers at once with a message of the
    same size, and the tag of that answer.
    """

    passive: ClassVar[bool] = False
    rebuilt_attributes: ClassVar[frozenset[str]] = frozenset()
    carries: ClassVar[Mapping[IntEnum, type[Body]]]
    answers: ClassVar[Mapping[IntEnum, IntEnum]] = {}

    def __init_subclass__(cls) -> None:
        """Refuse an algorithm that does not name its messages: real nodes would drop all of them."""
        super().__init_subclass__()
        if not hasattr(cls, "carries"):
            raise TypeError(f"{cls.__name__}: must name its messages, such as carries = {{Tag.MODEL: Whole}}")

    def __init__(self, context: NodeContext) -> None:
        self.context = context

    @abstractmethod
    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        """Take one event and say what is to be done.

        Args:
            event: What happened. Arrays in it must not be modified.
            now_ns: Testbed time, nanoseconds since the start of the run.

        Returns:
            Effects, to be executed in order.
        """

    def without_effect(self, event: Event) -> Sequence[Effect]:
        """Take an event that the algorithm has no use for: news of peers. It must set no timer."""
        assert isinstance(event, PeerDown | PeerUp), f"{type(self).__name__} sets no timer"
        return ()

    @property
    def fragments(self) -> FragmentPlan | None:
        """The cut of models into fragments, the same on all nodes; None where it sends whole ones."""
        return None

    def waits_on(self) -> Sequence[NodeId]:
        """Return the peers without whom the node cannot go on; empty while it needs nobody.

        An event without effects, other than the end of local steps, never changes whether there are any: a driver may
        not ask after it.
        """
        return ()

    def waiting_for(self) -> str | None:
        """Say in words what the node cannot go on without; None while it waits on nobody.

        The driver asks when a run comes to rest before its end, so that a deadlock is explained.
        """
        missing = self.waits_on()
        return f"nodes {', '.join(map(str, missing))}" if missing else None

    def check_invariants(self) -> None:  # noqa: B027 - most algorithms have none beyond the shared ones
        """Assert what must hold between events. Called by tests after every event."""


def advance(current: Vector, started_from: Vector, trained: Vector) -> Vector:
    """Apply the change that local steps made to a model that moved on meanwhile.

    ``current + (trained - started_from)``; exactly ``trained`` when the model did not move, so that a node
    nobody talks to follows plain SGD bit for bit.

    Args:
        current: The model now, shape (d,).
        started_from: The model from which the local steps began. Compared by identity.
        trained: The model that they led to.

    Returns:
        A vector of shape (d,); ``trained`` itself when nothing moved, else a new one.

    Source: arXiv:1710.06952, Algorithm 1 (a gradient at an old model applied to the current one),
        generalized from one step to a block of steps.
    """
    if current is started_from:
        return trained
    change = trained - started_from
    change += current
    return change
