"""D-PSGD: synchronous decentralized SGD on a fixed graph.

Paper: Lian et al., "Can Decentralized Algorithms Outperform Centralized Algorithms?", NeurIPS 2017,
arXiv:1705.09056. In every round each node averages with all its neighbors and waits for them.

States: a node is training, or waiting for its neighbors' models of this round. Round t of node i:

- ``order: adapt_then_combine`` (default, public implementations): local steps lead from x_i to y_i; send
  y_i to all neighbors; once all of theirs are here, x_i <- w_ii y_i + sum_j w_ij y_j.
- ``order: combine_then_adapt`` (the paper's formula): send x_i to all neighbors, then take local steps from
  it, so that communication overlaps with computing; once these have ended with y_i and all models are here,
  x_i <- w_ii x_i + sum_j w_ij x_j + (y_i - x_i).

A neighbor that is done earlier may send its model of the next round; it waits. Nobody can be two rounds
ahead.

Parameters (``algorithm.dpsgd``): ``order``. H is ``algorithm.local_steps``, 1 in the paper.

Details matched: Metropolis-Hastings weights, symmetric and doubly stochastic on every graph; every model of
a round takes part exactly once.

Departures: weights are computed from the whole graph, where public code sends each node's degree along. A
lost message would stop the neighbors, and then everyone; messages must be delivered reliably.

Try it: ``fragmesh run deploy/experiments/quickstart.yaml --set algorithm.kind=dpsgd``
"""

from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from typing import ClassVar

from pydantic import Field

from node.algorithms.config import AlgorithmConfig, RoundTraffic, check_edges
from node.core.algorithm import Algorithm, NodeContext, advance
from node.core.bodies import Whole
from node.core.effects import Aggregated, Effect, Enqueue, StartLocalSteps
from node.core.errors import ProtocolError
from node.core.events import Event, LocalStepsDone, MessageReceived, Started
from node.core.inbox import RoundInbox
from node.core.messages import Message, frozen
from node.core.mixing import metropolis_hastings, weighted_average
from node.core.topology import Topology, ring
from node.core.types import NodeId, Vector


class Order(Enum):
    """Order of the local steps and the average in a round."""

    ADAPT_THEN_COMBINE = "adapt_then_combine"
    """Average the trained models."""
    COMBINE_THEN_ADAPT = "combine_then_adapt"
    """Average the models from which training starts, then add the change that training made."""


class DPsgdConfig(AlgorithmConfig):
    """Parameters of D-PSGD."""

    needs_every_message: ClassVar[bool] = True
    small_graph: ClassVar[Callable[[int], Topology]] = staticmethod(ring)

    order: Order = Field(Order.ADAPT_THEN_COMBINE, description="whether local steps come before the average")

    def check(self, topology: Topology, tensor_sizes: tuple[int, ...]) -> None:
        """See :meth:`AlgorithmConfig.check`."""
        check_edges(topology)

    def traffic(self, topology: Topology, node: NodeId) -> RoundTraffic:
        """See :meth:`AlgorithmConfig.traffic`."""
        degree = topology.degree(node)
        return RoundTraffic(degree, degree, "waited_for")


class DPsgdTag(IntEnum):
    """Messages of D-PSGD."""

    MODEL = 1
    """The sender's whole model."""


class DPsgd(Algorithm):
    """Synchronous averaging with all neighbors (arXiv:1705.09056).

    State:
        _model: x_i at the start of the round, shape (d,). Replaced, never modified.
        _trained: y_i once the round's local steps have ended; None while they run.
        _inbox: Neighbors' models of this round and the next.
        _round: Rounds finished; stamped on outgoing models.
    """

    carries = {DPsgdTag.MODEL: Whole}

    def __init__(self, context: NodeContext, config: DPsgdConfig) -> None:
        super().__init__(context)
        self._combine_first = config.order is Order.COMBINE_THEN_ADAPT
        self._weights = dict(metropolis_hastings(context.topology).row(context.node).neighbors)
        self._model: Vector | None = None
        self._trained: Vector | None = None
        self._inbox = RoundInbox(ahead=1)
        self._round = 0

    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        """See :meth:`Algorithm.handle`."""
        match event:
            case Started(params=params):
                return self._begin(params)
            case LocalStepsDone(params=params):
                self._trained = frozen(params)
                sends = [] if self._combine_first else self._send(params)
                return [*sends, *self._combine_if_complete()]
            case MessageReceived(sender=sender):
                if sender not in self._weights:
                    raise ProtocolError(f"model from node {sender}: not a neighbor")
                self._inbox.keep(event, self._round)
                return self._combine_if_complete()
            case _:
                return self.without_effect(event)

    def waiting_for(self) -> str | None:
        """See :meth:`Algorithm.waiting_for`."""
        missing = self._inbox.missing(self._round, self.context.neighbors)
        if self._trained is None or not missing:
            return None
        return f"models of round {self._round} from nodes {', '.join(map(str, missing))}"

    def _begin(self, model: Vector) -> list[Effect]:
        self._model = frozen(model)
        self._trained = None
        sends = self._send(model) if self._combine_first else []
        return [*sends, StartLocalSteps(model, self.context.local_steps)]

    def _send(self, model: Vector) -> list[Effect]:
        message = Message(DPsgdTag.MODEL, self._round, Whole(model))
        return [Enqueue([(neighbor, message) for neighbor in self._weights])]

    def _combine_if_complete(self) -> list[Effect]:
        model, trained = self._model, self._trained
        if trained is None or not self._inbox.complete(self._round, len(self._weights)):
            return []
        assert model is not None
        received = self._inbox.take(self._round)
        weights = [self._weights[item.sender] for item in received]
        models = [item.message.body.values for item in received]
        effects: list[Effect] = []
        if received:
            effects.append(Aggregated([item.delivery for item in received]))
        self._round += 1
        if not self._combine_first:
            return effects + self._begin(weighted_average(trained, weights, models) if received else trained)
        mixed = weighted_average(model, weights, models) if received else model
        return effects + self._begin(advance(mixed, model, trained))
