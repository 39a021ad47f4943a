"""SWIFT: wait-free decentralized SGD with stored models of neighbors.

Paper: Bornstein et al., "SWIFT: Rapid Decentralized Federated Learning via Wait-Free Model Communication",
ICLR 2023, arXiv:2210.14026. A client broadcasts its model at every iteration, averages with the newest
model it has of every neighbor, and never waits. ``swift_divshare`` is the variant that DivShare's
evaluation compares with.

States: a node is always training. One iteration of node i, with x_i the model at its start:

1. compute the change g that local steps make to x_i;
2. broadcast x_i, the model *before* that change, to all neighbors;
3. if the count of iterations is a multiple of ``sgd_steps``: x_i <- w_ii x_i + sum_j w_ij mailbox_i[j];
4. add the change: x_i <- x_i + g (the gradient at the model before averaging).

A received model waits in the mailbox, in place of an older one of the same sender.

Parameters (``algorithm.swift``), H is ``algorithm.local_steps``, 1 in the paper:

- ``sgd_steps`` (s): average at every s-th iteration; 1 is the paper's C_0, 2 its C_1.
- ``memory``: ``mailbox`` (default, the original) averages with the stored model of every neighbor, the
  common initial model until one has arrived; ``fresh_only`` leaves out neighbors that sent nothing since
  the last average.
- ``missing_weight``, used with ``fresh_only``: the weight of a neighbor left out goes to the node itself
  (``to_self``) or the remaining weights are divided by their sum (``rescale``).
- ``broadcast``: step 2 happens ``before_gradient`` (default) or ``after_gradient``. The same models are
  sent in both, the second sends each one compute time later. The paper's global view, in which an active
  client averages with its neighbors' *current* models, is met by the first over a fast network, and the
  broadcast overlaps with computing; the second is the order of the public code's loop. In lockstep over an
  instantaneous network the first is D-PSGD (``combine_then_adapt``), the second uses models one iteration
  older.
- ``flush``: ``none`` (default, as in the public code) or ``queued_only``: drop what is still queued at each
  broadcast, because the newest model makes it worthless to the receiver.

Details matched: the weights are the paper's client communication weights for equal influence scores; the
broadcast also happens at iterations that do not average; several models of one neighbor count once, the
newest.

Departures: weights are computed from the whole graph instead of by messages between neighbors. Where neighbors of
equal degree offer each other different weights, the smaller one counts for their edge alone; the public code takes
a node's smallest offer for all edges it has left, which is the same on regular graphs, gives 0.25 instead of 0.2667
on some edges of a ring of cliques, and is not symmetric on some irregular graphs. ``rescale``
divides by the actual sum of the remaining weights; the public code multiplies by (r+1)/(deg+1), which sums
to one only on regular graphs and shrinks the model elsewhere. Influence scores other than equal ones are
not offered, as in the code.

Try it: ``fragmesh run deploy/experiments/quickstart.yaml --set algorithm.kind=swift``
"""

from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from typing import ClassVar

from pydantic import Field

from node.algorithms.config import AlgorithmConfig, RoundTraffic, check_edges
from node.core.algorithm import Algorithm, NodeContext, advance
from node.core.bodies import Whole
from node.core.bounds import COUNT_MAX
from node.core.effects import Aggregated, CancelQueued, Effect, Enqueue, StartLocalSteps
from node.core.errors import ConfigError, ProtocolError
from node.core.events import Event, LocalStepsDone, MessageReceived, Started
from node.core.inbox import Inbox
from node.core.messages import Message, frozen
from node.core.mixing import ccw, weighted_average
from node.core.topology import Topology, ring
from node.core.types import NodeId, Vector


class Memory(Enum):
    """Stand-in for a neighbor that sent nothing new."""

    MAILBOX = "mailbox"
    """Its last model, at first the common initial model."""
    FRESH_ONLY = "fresh_only"
    """Nothing: it is left out of this average."""


class MissingWeight(Enum):
    """Receiver of the weight of a neighbor that is left out."""

    TO_SELF = "to_self"
    """The node itself."""
    RESCALE = "rescale"
    """All that take part, in proportion to their weights."""


class Broadcast(Enum):
    """Moment at which a model is broadcast, relative to the local steps that start from it."""

    BEFORE_GRADIENT = "before_gradient"
    """Broadcast when they start."""
    AFTER_GRADIENT = "after_gradient"
    """Broadcast when they have ended."""


class SwiftFlush(Enum):
    """Policy of a broadcast for messages that are still queued."""

    NONE = "none"
    """Nothing: all are delivered."""
    QUEUED_ONLY = "queued_only"
    """They are dropped; the message being transmitted completes."""


class SwiftConfig(AlgorithmConfig):
    """Parameters of SWIFT."""

    small_graph: ClassVar[Callable[[int], Topology]] = staticmethod(ring)

    sgd_steps: int = Field(1, ge=1, le=COUNT_MAX, description="s: average at every s-th iteration")
    memory: Memory = Field(Memory.MAILBOX, description="what stands for a neighbor that sent nothing new")
    missing_weight: MissingWeight = Field(
        MissingWeight.TO_SELF, description="who gets the weight of a neighbor left out (memory: fresh_only)"
    )
    broadcast: Broadcast = Field(
        Broadcast.BEFORE_GRADIENT, description="when a model is sent, relative to the steps from it"
    )
    flush: SwiftFlush = Field(SwiftFlush.NONE, description="what a broadcast does to queued messages")

    def check(self, topology: Topology, tensor_sizes: tuple[int, ...]) -> None:
        """See :meth:`AlgorithmConfig.check`."""
        check_edges(topology)
        if self.memory is Memory.MAILBOX and self.missing_weight is MissingWeight.RESCALE:
            raise ConfigError("missing_weight=rescale: must be to_self with memory: mailbox, which leaves nobody out")

    def traffic(self, topology: Topology, node: NodeId) -> RoundTraffic:
        """See :meth:`AlgorithmConfig.traffic`. A round is one iteration, at each of which the model is broadcast."""
        degree = topology.degree(node)
        return RoundTraffic(degree, degree, "kept" if self.flush is SwiftFlush.NONE else "flushed")


class SwiftTag(IntEnum):
    """Messages of SWIFT."""

    MODEL = 1
    """The sender's whole model."""


class Swift(Algorithm):
    """Wait-free averaging with stored models (arXiv:2210.14026).

    State:
        _model: x_i at the start of the running iteration, shape (d,). Replaced, never modified.
        _inbox: The newest model of each neighbor since the last average.
        _mailbox: The last model taken of each neighbor (``mailbox`` only).
        _iteration: Iterations finished; stamped on outgoing models.
    """

    passive = True
    carries = {SwiftTag.MODEL: Whole}

    def __init__(self, context: NodeContext, config: SwiftConfig) -> None:
        super().__init__(context)
        self._config = config
        self._weights = dict(ccw(context.topology).row(context.node).neighbors)
        self._inbox = Inbox()
        self._model: Vector | None = None
        self._mailbox: dict[NodeId, Vector] = {}
        self._iteration = 0

    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        """See :meth:`Algorithm.handle`."""
        match event:
            case MessageReceived(sender=sender):
                if sender not in self._weights:
                    raise ProtocolError(f"model from node {sender}: not a neighbor")
                self._inbox.keep(event)
                return ()
            case Started(params=params):
                if self._config.memory is Memory.MAILBOX:
                    self._mailbox = dict.fromkeys(self._weights, params)
                return self._begin(params)
            case LocalStepsDone(params=params):
                return self._finish(params)
            case _:
                return self.without_effect(event)

    def check_invariants(self) -> None:
        """See :meth:`Algorithm.check_invariants`."""
        assert len(self._inbox) <= len(self._weights)

    def _begin(self, model: Vector) -> list[Effect]:
        self._model = frozen(model)
        effects: list[Effect] = []
        if self._config.broadcast is Broadcast.BEFORE_GRADIENT:
            effects += self._send(model)
        effects.append(StartLocalSteps(model, self.context.local_steps))
        return effects

    def _finish(self, trained: Vector) -> list[Effect]:
        model = self._model
        assert model is not None
        effects: list[Effect] = []
        if self._config.broadcast is Broadcast.AFTER_GRADIENT:
            effects += self._send(model)
        self._iteration += 1
        mixed = model
        if self._iteration % self._config.sgd_steps == 0:
            mixed, deliveries = self._average(model)
            if deliveries:
                effects.append(Aggregated(deliveries))
        return effects + self._begin(advance(mixed, model, trained))

    def _send(self, model: Vector) -> list[Effect]:
        effects: list[Effect] = []
        if self._config.flush is SwiftFlush.QUEUED_ONLY:
            effects.append(CancelQueued())
        message = Message(SwiftTag.MODEL, self._iteration, Whole(model))
        effects.append(Enqueue([(neighbor, message) for neighbor in self._weights]))
        return effects

    def _average(self, model: Vector) -> tuple[Vector, list[int]]:
        """The weighted average, and the deliveries that are new in it."""
        fresh = self._inbox.drain()
        deliveries = [item.delivery for item in fresh]
        models = {item.sender: item.message.body.values for item in fresh}
        if self._config.memory is Memory.MAILBOX:
            self._mailbox.update(models)
            models = self._mailbox
        if not models:
            return model, deliveries
        weights = [self._weights[neighbor] for neighbor in models]
        if self._config.memory is Memory.FRESH_ONLY and self._config.missing_weight is MissingWeight.RESCALE:
            left_out = sum(weight for neighbor, weight in self._weights.items() if neighbor not in models)
            weights = [weight / (1.0 - left_out) for weight in weights]
        # weighted_average gives the own model what the neighbors' weights leave of one: this is to_self.
        return weighted_average(model, weights, list(models.values())), deliveries
