"""AD-PSGD: asynchronous decentralized SGD by pairwise averages.

Paper: Lian et al., "Asynchronous Decentralized Parallel Stochastic Gradient Descent", ICML 2018,
arXiv:1710.06952. Nodes compute at their own speed; whenever one is done it averages its model with that of
one random neighbor, atomically, and applies its possibly stale gradient. ``adpsgd_pingpong`` is the variant
that DivShare's evaluation compares with.

States of a node: training or (``blocking`` only) waiting; as an initiator idle or with one exchange
outstanding.

- local steps done: add their change to the current model, which exchanges may have moved meanwhile; train
  on; if it initiates and is idle, send its model to a random peer as a request;
- request received: reply with the own model, then move half-way towards the received one. Requests are
  answered one by one in order of arrival, also during local steps: their change is added later, nothing is
  lost;
- reply received: move half-way, be idle again.

Parameters (``algorithm.adpsgd``), H is ``algorithm.local_steps``, 1 in the paper:

- ``form``: what "half-way" means when the initiator's model moved between request and reply. ``delta``
  (default): both sides add plus and minus half the difference of the two models *that were exchanged*, so
  the pair's sum is preserved whatever happened between. ``naive``: each goes half-way from its *current*
  model, as public implementations do; the sum is not preserved when the initiator trained in between.
  ``blocking``: the initiator does not compute between request and reply; then both are the same and equal
  the original, at the price of idle time.
- ``exchange``: after a reply wait for the next local steps (``per_step``, default: at most one average for
  each gradient, as in the paper's algorithm) or start another exchange at once (``continuous``, as
  implementations with a gossip thread do; it floods fast links). Not together with ``blocking``, which
  would never train. An exchange that took no time is not repeated before the next local steps, or time
  would stand still.
- ``roles``: who initiates. ``bipartite`` (default, the paper's remedy against cycles of waiting): color 0
  of the topology's two-coloring initiates, color 1 answers; the graph must be bipartite. ``parity``: even
  nodes initiate, odd nodes answer, and edges inside a set are not used. ``everyone``: all do both; under
  ``delta`` a node that answers while it waits can then be carried past both models. With ``blocking`` a
  node does not answer while it waits, so that a cycle of waits can form: the run comes to rest and
  ``waiting_for`` says why.
- ``on_missing_peer``: what becomes of an exchange when the peer has ended. ``wait`` (default): it never ends, so that
  nodes must not end. ``skip``: it is given up when the initiator hears of that, and the peer is not chosen until it is
  heard to be back; who has no peer left trains on alone. A reply that comes after its exchange was given up is dropped.

Details matched: the gradient is taken at the model from which the local steps started and applied to the
current one; the peer is uniform among the neighbors of the other role; the answerer replies with its model
before the average; one exchange outstanding for each initiator.

Departures: "atomically" cannot hold over links that take time, hence ``form``. The change of local steps is
added before the exchange starts rather than after it ended, so that a fresh model is sent. A lost message
would leave an initiator waiting for good; messages must be delivered reliably. ``skip`` is ours. Under it the weights
of every average still sum to 1, but an exchange that the end of a node cuts in two may have moved one side alone: the
pair's sum is not preserved.

Try it: ``fragmesh run deploy/experiments/quickstart.yaml --set algorithm.kind=adpsgd``. The quickstart's topology is
the full one, which is not bipartite, so its file sets ``algorithm.adpsgd.roles: parity``.
"""

from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from functools import lru_cache
from math import inf
from typing import ClassVar

import numpy as np
from pydantic import Field

from node.algorithms.config import AlgorithmConfig, RoundTraffic
from node.core.algorithm import Algorithm, NodeContext, advance
from node.core.attendance import MissingPeer
from node.core.bodies import Whole
from node.core.effects import Aggregated, Effect, Enqueue, StartLocalSteps
from node.core.errors import ConfigError, ProtocolError
from node.core.events import Event, LocalStepsDone, MessageReceived, PeerDown, PeerUp, Started
from node.core.messages import Message, frozen, tag_name
from node.core.topology import Topology, complete_bipartite
from node.core.types import NodeId, Vector

INITIATES = 0
ANSWERS = 1


class Form(Enum):
    """Treatment of models that moved between request and reply."""

    DELTA = "delta"
    """Both sides move by half the difference of the exchanged models: the pair's sum is preserved."""
    NAIVE = "naive"
    """Each side goes half-way from its current model: what public implementations do."""
    BLOCKING = "blocking"
    """The initiator does not compute between request and reply."""


class Exchange(Enum):
    """Moment at which an initiator starts its next exchange."""

    PER_STEP = "per_step"
    """Start when local steps end and no exchange is outstanding."""
    CONTINUOUS = "continuous"
    """Immediately after the last one has ended."""


class Roles(Enum):
    """Rule for which nodes initiate and which answer."""

    BIPARTITE = "bipartite"
    """One side of a bipartite topology initiates, the other answers."""
    PARITY = "parity"
    """Even nodes initiate, odd nodes answer; edges inside a set are not used."""
    EVERYONE = "everyone"
    """All nodes do both."""


class AdPsgdConfig(AlgorithmConfig):
    """Parameters of AD-PSGD."""

    needs_every_message: ClassVar[bool] = True
    small_graph: ClassVar[Callable[[int], Topology]] = staticmethod(complete_bipartite)

    form: Form = Field(Form.DELTA, description="how models that moved during an exchange are averaged")
    exchange: Exchange = Field(Exchange.PER_STEP, description="when the next exchange starts")
    roles: Roles = Field(Roles.BIPARTITE, description="who initiates and who answers")
    on_missing_peer: MissingPeer = Field(MissingPeer.WAIT, description="what becomes of an exchange when the peer ends")

    @property
    def goes_on_without_peers(self) -> bool:
        """See :attr:`AlgorithmConfig.goes_on_without_peers`."""
        return self.on_missing_peer is MissingPeer.SKIP

    def check(self, topology: Topology, tensor_sizes: tuple[int, ...]) -> None:
        """See :meth:`AlgorithmConfig.check`."""
        if self.form is Form.BLOCKING and self.exchange is Exchange.CONTINUOUS:
            raise ConfigError("exchange=continuous: must be per_step with form: blocking, or no node ever trains")
        if self.roles is Roles.BIPARTITE and _two_coloring(topology) is None:
            raise ConfigError(
                "roles=bipartite: the topology must be bipartite and is not; use roles: parity, which ignores"
                " edges between two even or two odd nodes, or another topology"
            )
        if topology.num_nodes > 1:
            for node, count in enumerate(_peer_counts(topology, self.roles)):
                if not count:
                    raise ConfigError(f"roles={self.roles.value}: leaves node {node} without a peer of the other role")

    def traffic(self, topology: Topology, node: NodeId) -> RoundTraffic:
        """See :meth:`AlgorithmConfig.traffic`. At most one request a round, and a reply to each that arrives."""
        if not _peer_counts(topology, self.roles)[node]:
            return RoundTraffic(0, 0, "waited_for")
        if self.exchange is Exchange.CONTINUOUS:
            return RoundTraffic(inf, inf, "waited_for", "exchange: continuous sends as much as the links carry")
        everyone = self.roles is Roles.EVERYONE
        initiates = everyone or _role(topology, node, self.roles) == INITIATES
        answers = everyone or not initiates
        replies = _asked_by_each(topology, self.roles)[node] if answers else 0.0
        models = initiates + replies
        return RoundTraffic(models, models, "waited_for")


class AdPsgdTag(IntEnum):
    """Messages of AD-PSGD."""

    AVERAGE_REQUEST = 1
    """The first half of a pairwise average: the initiator's model."""
    AVERAGE_REPLY = 2
    """The second half: the answerer's model before averaging."""


class AdPsgd(Algorithm):
    """Asynchronous pairwise averaging (arXiv:1710.06952).

    State:
        _model: x, the current model, shape (d,). Replaced, never modified.
        _started_from: The model at which the running local steps began; None while none run.
        _outstanding: The exchange that has been asked for and not been answered.
        _postponed: Requests that wait for our own reply, in order of arrival (``blocking``, ``everyone``).
        _present: Peers of which the node does not know that they have ended, in increasing order.
        _exchanges: Exchanges initiated so far; the last one's number.
        _round: Rounds of local steps finished; stamped on outgoing models.
    """

    carries = {AdPsgdTag.AVERAGE_REQUEST: Whole, AdPsgdTag.AVERAGE_REPLY: Whole}
    answers = {AdPsgdTag.AVERAGE_REQUEST: AdPsgdTag.AVERAGE_REPLY}

    def __init__(self, context: NodeContext, config: AdPsgdConfig) -> None:
        super().__init__(context)
        self._form = config.form
        self._continuous = config.exchange is Exchange.CONTINUOUS
        self._skips = config.on_missing_peer is MissingPeer.SKIP
        self._peers = self._present = _peers(context.topology, context.node, config.roles)
        everyone = config.roles is Roles.EVERYONE
        role = INITIATES if everyone else _role(context.topology, context.node, config.roles)
        self._initiates = role == INITIATES and len(self._peers) > 0
        self._answers = role == ANSWERS or everyone
        self._rng = context.rng("recipients")
        self._model: Vector | None = None
        self._started_from: Vector | None = None
        self._outstanding: _Outstanding | None = None
        self._postponed: list[MessageReceived] = []
        self._exchanges = 0
        self._round = 0

    @property
    def model(self) -> Vector:
        """The current model, without the change that running local steps will make. Read-only."""
        assert self._model is not None, "before Started"
        return self._model

    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        """See :meth:`Algorithm.handle`."""
        match event:
            case Started(params=params):
                self._model = frozen(params)
                return [self._train()]
            case LocalStepsDone(params=params):
                return self._apply(params, now_ns)
            case MessageReceived(message=message):
                if message.tag is AdPsgdTag.AVERAGE_REQUEST:
                    return self._on_request(event)
                if message.tag is AdPsgdTag.AVERAGE_REPLY:
                    return self._on_reply(event, now_ns)
                raise ProtocolError(f"{tag_name(message.tag)} from node {event.sender}: not a message of adpsgd")
            case PeerDown(peer=peer) if self._skips:
                return self._without(peer, now_ns)
            case PeerUp(peer=peer) if self._skips:
                self._present = tuple(each for each in self._peers if each == peer or each in self._present)
                return []
            case _:
                return self.without_effect(event)

    def waits_on(self) -> Sequence[NodeId]:
        """See :meth:`Algorithm.waits_on`."""
        return () if self._form is not Form.BLOCKING or self._outstanding is None else (self._outstanding.peer,)

    def waiting_for(self) -> str | None:
        """See :meth:`Algorithm.waiting_for`."""
        if not self.waits_on() or self._outstanding is None:
            return None
        text = f"node {self._outstanding.peer}'s reply to exchange {self._outstanding.number}"
        if self._postponed:
            held = ", ".join(str(request.sender) for request in self._postponed)
            text += f"; until then (form: blocking) it does not answer the requests of nodes {held}"
        return text

    def check_invariants(self) -> None:
        """See :meth:`Algorithm.check_invariants`."""
        if self._form is Form.BLOCKING and self._outstanding is not None:
            assert self._started_from is None, "computes between request and reply"
        assert not self._postponed or self._outstanding is not None, "requests are held without a reason"
        assert self._initiates or self._outstanding is None

    def _train(self) -> Effect:
        self._started_from = self.model
        return StartLocalSteps(self.model, self.context.local_steps)

    def _apply(self, trained: Vector, now_ns: int) -> list[Effect]:
        assert self._started_from is not None
        self._model = frozen(advance(self.model, self._started_from, trained))
        self._started_from = None
        self._round += 1
        effects: list[Effect] = []
        if self._initiates and self._outstanding is None and self._present:
            effects.append(self._request(now_ns))
            if self._form is Form.BLOCKING:
                return effects
        effects.append(self._train())
        return effects

    def _request(self, now_ns: int) -> Effect:
        peer = self._present[int(self._rng.integers(len(self._present)))]
        self._exchanges += 1
        self._outstanding = _Outstanding(peer, self._exchanges, self.model, now_ns)
        request = Message(AdPsgdTag.AVERAGE_REQUEST, self._round, Whole(self.model), exchange=self._exchanges)
        return Enqueue([(peer, request)])

    def _on_request(self, event: MessageReceived) -> list[Effect]:
        if not self._answers:
            raise ProtocolError(f"request from node {event.sender}: this node only initiates")
        if self._form is Form.BLOCKING and self._outstanding is not None:
            self._postponed.append(event)
            return []
        return self._answer(event)

    def _answer(self, event: MessageReceived) -> list[Effect]:
        request = event.message
        reply = Message(AdPsgdTag.AVERAGE_REPLY, self._round, Whole(self.model), exchange=request.exchange)
        self._model = _halfway(self.model, self.model, request.body.values)
        return [Enqueue([(event.sender, reply)]), Aggregated([event.delivery])]

    def _on_reply(self, event: MessageReceived, now_ns: int) -> list[Effect]:
        ours = self._outstanding
        if ours is None or (ours.peer, ours.number) != (event.sender, event.message.exchange):
            if self._skips:
                return []
            raise ProtocolError(f"reply {event.message.exchange} from node {event.sender}: not asked for")
        mine = self.model if self._form is Form.NAIVE else ours.model
        self._model = _halfway(self.model, mine, event.message.body.values)
        return [Aggregated([event.delivery]), *self._end_exchange(ours, now_ns)]

    def _without(self, peer: NodeId, now_ns: int) -> list[Effect]:
        """Go on without a peer: give up the exchange with it, and do not answer what it has asked."""
        self._present = tuple(each for each in self._present if each != peer)
        self._postponed = [request for request in self._postponed if request.sender != peer]
        ours = self._outstanding
        return self._end_exchange(ours, now_ns) if ours is not None and ours.peer == peer else []

    def _end_exchange(self, ours: "_Outstanding", now_ns: int) -> list[Effect]:
        self._outstanding = None
        effects: list[Effect] = []
        postponed, self._postponed = self._postponed, []
        for request in postponed:
            effects += self._answer(request)
        if self._form is Form.BLOCKING:
            effects.append(self._train())
        elif self._continuous and now_ns > ours.since_ns and self._present:
            effects.append(self._request(now_ns))
        return effects


class _Outstanding:
    """An exchange that was asked for: with whom, its number, the model sent and when."""

    __slots__ = ("model", "number", "peer", "since_ns")

    def __init__(self, peer: NodeId, number: int, model: Vector, since_ns: int) -> None:
        self.peer = peer
        self.number = number
        self.model = model
        self.since_ns = since_ns


def _halfway(current: Vector, mine: Vector, theirs: Vector) -> Vector:
    """``current + (theirs - mine) / 2``. The peer adds exactly the negative, up to the rounding of its sum.

    Source: arXiv:1710.06952, the pairwise average, written as a difference so that it can be applied late.
    """
    moved = theirs - mine
    moved *= np.float32(0.5)
    moved += current
    return frozen(moved)


def _role(topology: Topology, node: NodeId, roles: Roles) -> int:
    if roles is Roles.PARITY:
        return node % 2
    colors = _two_coloring(topology)
    assert colors is not None, "refused by AdPsgdConfig.check"
    return colors[node]


@lru_cache(maxsize=8)
def _two_coloring(topology: Topology) -> tuple[int, ...] | None:
    """Cached: every node of a process asks for the same one."""
    return topology.two_coloring()


@lru_cache(maxsize=8)
def _peer_counts(topology: Topology, roles: Roles) -> tuple[int, ...]:
    """The number of each node's peers. Cached, as it is asked for every node."""
    nodes = range(topology.num_nodes)
    if roles is not Roles.PARITY:
        return tuple(topology.degree(node) for node in nodes)
    if topology.is_full:  # whose edges would take long to walk: even nodes have the odd ones, and the other way round
        return tuple((topology.num_nodes + node % 2) // 2 for node in nodes)
    return tuple(len(_peers(topology, NodeId(node), roles)) for node in nodes)


@lru_cache(maxsize=8)
def _asked_by_each(topology: Topology, roles: Roles) -> tuple[float, ...]:
    """Requests that each node gets where each of its peers asks one of its own, on average. Cached as well."""
    counts = _peer_counts(topology, roles)
    if topology.is_full:  # all peers of a node have as many peers as its neighbor by number
        return tuple(count / counts[node - 1 if node else 1] if count else 0.0 for node, count in enumerate(counts))
    return tuple(
        sum(1 / counts[peer] for peer in _peers(topology, NodeId(node), roles)) for node in range(topology.num_nodes)
    )


def _peers(topology: Topology, node: NodeId, roles: Roles) -> tuple[NodeId, ...]:
    neighbors = topology.neighbors(node)
    if roles is Roles.PARITY:
        return tuple(peer for peer in neighbors if (peer - node) % 2)
    return neighbors
