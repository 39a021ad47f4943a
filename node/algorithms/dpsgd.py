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

Parameters (``algorithm.dpsgd``), H is ``algorithm.local_steps``, 1 in the paper:

- ``order``: see above.
- ``on_missing_peer``: what becomes of a round when a neighbor has ended. ``wait`` (default): everyone would stand
  still, so that nodes must not end. ``skip``: a node that has heard of it neither waits for the neighbor nor sends to
  it, until it has heard that it is back. A model that had arrived takes part all the same; the weight of one that is
  missing goes to the node's own model. How the one that is back finds the round of its neighbors is in
  ``node/core/attendance.py``; a node that leaves out rounds there sends its model again, under the later one.

Details matched: Metropolis-Hastings weights, symmetric and doubly stochastic on every graph; every model of
a round takes part exactly once.

Departures: weights are computed from the whole graph, where public code sends each node's degree along. A
lost message would stop the neighbors, and then everyone; messages must be delivered reliably. ``skip`` is ours. Under
it every row of the weights still sums to 1. In a round in which any two living neighbors have either both or neither
of the other's model, they are symmetric, hence doubly stochastic among the living, whose mean is kept. The model of a
neighbor that ends may have reached some and not others, and where a node leaves out rounds some may have its model and
not the reverse: the mean of the living then moves by w_ij (x_j - x_i) / n for each model of j that i alone has.

Try it: ``fragmesh run deploy/experiments/quickstart.yaml --set algorithm.kind=dpsgd``
"""

from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from typing import ClassVar

from pydantic import Field

from node.algorithms.config import AlgorithmConfig, RoundTraffic, check_edges
from node.core.algorithm import Algorithm, NodeContext, advance
from node.core.attendance import Attendance, MissingPeer, Proposal, is_far_behind
from node.core.bodies import EMPTY, Empty, Whole
from node.core.effects import Aggregated, Effect, Enqueue, StartLocalSteps
from node.core.errors import ProtocolError
from node.core.events import Event, LocalStepsDone, MessageReceived, PeerDown, PeerUp, Started
from node.core.inbox import RoundInbox
from node.core.messages import Message, frozen, tag_name
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
    is_synchronous: ClassVar[bool] = True
    small_graph: ClassVar[Callable[[int], Topology]] = staticmethod(ring)

    order: Order = Field(Order.ADAPT_THEN_COMBINE, description="whether local steps come before the average")
    on_missing_peer: MissingPeer = Field(MissingPeer.WAIT, description="what becomes of a round when a neighbor ends")

    @property
    def goes_on_without_peers(self) -> bool:
        """See :attr:`AlgorithmConfig.goes_on_without_peers`."""
        return self.on_missing_peer is MissingPeer.SKIP

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
    FIRST_ROUND = 2
    """No model: the round from which on the sender counts on the receiver, after one of them was away."""


class DPsgd(Algorithm):
    """Synchronous averaging with all neighbors (arXiv:1705.09056).

    State:
        _model: x_i at the start of the round, shape (d,). Replaced, never modified.
        _trained: y_i once the round's local steps have ended; None while they run.
        _inbox: Neighbors' models of this round and later ones.
        _round: Rounds finished or left out; stamped on outgoing models.
        _attendance: From which round on each neighbor takes part. Nothing changes it under ``wait``.
        _expected: Neighbors that take part in this round, in increasing order.
    """

    carries = {DPsgdTag.MODEL: Whole, DPsgdTag.FIRST_ROUND: Empty}

    def __init__(self, context: NodeContext, config: DPsgdConfig) -> None:
        super().__init__(context)
        self._combine_first = config.order is Order.COMBINE_THEN_ADAPT
        self._skips = config.on_missing_peer is MissingPeer.SKIP
        self._weights = dict(metropolis_hastings(context.topology).row(context.node).neighbors)
        self._model: Vector | None = None
        self._trained: Vector | None = None
        self._inbox = RoundInbox(tolerant=True) if self._skips else RoundInbox(ahead=1)
        self._round = 0
        self._attendance = Attendance()
        self._expected: Sequence[NodeId] = context.neighbors

    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        """See :meth:`Algorithm.handle`."""
        match event:
            case Started(params=params):
                return self._begin(params)
            case LocalStepsDone(params=params):
                self._trained = frozen(params)
                sends = [] if self._combine_first else self._send(params)
                return [*sends, *self._combine_if_complete()]
            case MessageReceived(sender=sender, message=message):
                if sender not in self._weights:
                    raise ProtocolError(f"{tag_name(message.tag)} from node {sender}: not a neighbor")
                if self._skips and message.tag is DPsgdTag.FIRST_ROUND:
                    return self._on_proposal(sender, message.round)
                if message.tag is not DPsgdTag.MODEL:
                    raise ProtocolError(f"{tag_name(message.tag)} from node {sender}: not with on_missing_peer: wait")
                self._inbox.keep(event, self._round)
                return self._combine_if_complete()
            case PeerDown(peer=peer) if self._skips:
                self._attendance.ended(peer)
                return self._attend([])
            case PeerUp(peer=peer) if self._skips:
                return self._attend([self._attendance.is_back(peer, self._round + self._is_sent)])
            case _:
                return self.without_effect(event)

    def waits_on(self) -> Sequence[NodeId]:
        """See :meth:`Algorithm.waits_on`."""
        return () if self._trained is None else self._inbox.missing(self._round, self._expected)

    def waiting_for(self) -> str | None:
        """See :meth:`Algorithm.waiting_for`."""
        missing = super().waiting_for()
        return missing and f"models of round {self._round} from {missing}"

    def check_invariants(self) -> None:
        """See :meth:`Algorithm.check_invariants`."""
        assert sum(self._weights.values()) < 1, "nothing is left for the node's own model"
        assert list(self._expected) == list(self._attendance.present(self.context.neighbors, self._round))
        assert self._trained is None or self.waits_on(), "waits for nobody"

    @property
    def _is_sent(self) -> bool:
        """True once this round's model has been sent."""
        return self._combine_first or self._trained is not None

    def _begin(self, model: Vector) -> list[Effect]:
        self._model = frozen(model)
        self._trained = None
        self._expected = self._attendance.present(self.context.neighbors, self._round)
        sends = self._send(model) if self._combine_first else []
        return [*sends, StartLocalSteps(model, self.context.local_steps)]

    def _send(self, model: Vector) -> list[Effect]:
        message = Message(DPsgdTag.MODEL, self._round, Whole(model))
        return [Enqueue([(neighbor, message) for neighbor in self._expected])]

    def _on_proposal(self, sender: NodeId, round_: int) -> list[Effect]:
        proposals = self._attendance.proposed(sender, round_)
        if not proposals or not is_far_behind(self._round + self._is_sent, round_):
            return self._attend(proposals)
        self._round = round_
        self._inbox.forget_before(round_)
        return self._attend(proposals + self._attendance.left_out(self.context.neighbors, round_), again=self._is_sent)

    def _attend(self, proposals: Sequence[Proposal], *, again: bool = False) -> list[Effect]:
        """Go on with this round after a change of who takes part in it.

        Args:
            proposals: To be sent.
            again: Send this round's model, which was sent under an earlier round.
        """
        self._expected = self._attendance.present(self.context.neighbors, self._round)
        told = [(peer, Message(DPsgdTag.FIRST_ROUND, round_, EMPTY)) for peer, round_ in proposals]
        effects: list[Effect] = [Enqueue(told)] if told else []
        model = self._model if self._combine_first else self._trained
        if again and model is not None:
            effects += self._send(model)
        return effects + self._combine_if_complete()

    def _combine_if_complete(self) -> list[Effect]:
        model, trained = self._model, self._trained
        if trained is None or not self._inbox.complete(self._round, self._expected):
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
