"""Epidemic Learning: synchronous gossip with random peers in every round.

Paper: de Vos et al., "Epidemic Learning: Boosting Decentralized Learning with Randomized Communication",
NeurIPS 2023, arXiv:2310.01972. In every round each node sends its model to s random nodes.

States: a node is training, or waiting to hear from everyone it expects in this round. Round t of node i:
local steps lead from x_i to y_i; send y_i to this round's s peers; once all expected messages are here, x_i
<- (y_i + sum of received) / (1 + number received), with equal weights whatever the graph.

Parameters (``algorithm.epidemic``), H is ``algorithm.local_steps``:

- ``recipients`` (s): models that each node sends a round.
- ``graph``: ``local`` (default, EL-Local): each node draws s others uniformly without replacement, on its
  own. ``oracle`` (EL-Oracle): one random s-regular undirected graph a round, so that everyone also receives
  s.
- ``announce``, under ``local`` only: how a node knows whom to expect. ``notices`` (default, as in the public
  code): the sender tells everyone it did not pick, by a message without values, n (n-1) messages a round.
  ``seed``: all draws come from the shared seed, so every node knows them and no notices travel. An oracle
  graph always comes from the seed, so that ``announce`` must be left out.
- ``redraw``: draw anew each round (default); false keeps the oracle's first graph, which is D-PSGD on that
  graph.
- ``on_missing_peer``: what becomes of a round when a node has ended. ``wait`` (default): everyone would stand still,
  so that nodes must not end. ``skip``: a node that has heard of it neither waits for the one that is missing nor
  sends to it, until it has heard that it is back. Draws are as if all were there, so that those from the shared seed
  stay the same everywhere; what they give to one that is missing is left out, and the mean is over the others. How the
  one that is back finds the round of its peers is in ``node/core/attendance.py``; a node that leaves out rounds there
  sends again, to those drawn for the later round.

Details matched: one draw a round; plain averaging, not Metropolis-Hastings; a node that receives nothing
keeps its model; every node can be picked, so the topology must be the full one.

Departures: the graph is seeded by the pair (seed, round), where the public code uses seed * 100000 + round.
Notices are queued before the models, so that nobody waits for a notice behind a model. The regular graphs
are drawn by pairing stubs, which is close to uniform, and are connected for s >= 2. The variant with a
receive time-out is not offered. The split of the public tutorial is ``learning.partition: {kind: dirichlet, alpha:
0.1, law: balanced}``. A lost message would stop everyone; messages must be delivered reliably. ``skip`` is ours. Under
it the weights of every mean still sum to 1. An oracle's graph without the missing is not regular, so that it keeps the
mean of the living only in expectation, as ``local`` always does.

Try it: ``fragmesh run deploy/experiments/quickstart.yaml --set algorithm.kind=epidemic``
"""

from collections.abc import Mapping, Sequence
from enum import Enum, IntEnum
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from node.algorithms.config import AlgorithmConfig, RoundTraffic, check_recipients
from node.core.algorithm import Algorithm, NodeContext
from node.core.attendance import Attendance, MissingPeer, Proposal, is_far_behind
from node.core.bodies import EMPTY, Empty, Whole
from node.core.bounds import NODES_MAX
from node.core.effects import Addressed, Aggregated, Effect, Enqueue, StartLocalSteps
from node.core.errors import ConfigError, ProtocolError
from node.core.events import Event, LocalStepsDone, MessageReceived, PeerDown, PeerUp, Started
from node.core.inbox import RoundInbox, average_models
from node.core.messages import Message, frozen, tag_name
from node.core.recipients import address, regular_graph, shared_recipients
from node.core.topology import Topology
from node.core.types import NodeId, Vector


class Graph(Enum):
    """Rule for who draws the peers."""

    LOCAL = "local"
    """Each node draws its recipients independently."""
    ORACLE = "oracle"
    """All share one random regular graph a round."""


class Announce(Enum):
    """Source from which a node knows whom to expect."""

    NOTICES = "notices"
    """Senders tell those they did not pick."""
    SEED = "seed"
    """Everyone derives everyone's draws from the shared seed."""


class EpidemicConfig(AlgorithmConfig):
    """Parameters of Epidemic Learning."""

    needs_every_message: ClassVar[bool] = True
    is_synchronous: ClassVar[bool] = True
    small_run: ClassVar[Mapping[str, object]] = {"recipients": 2}

    recipients: int = Field(6, ge=1, le=NODES_MAX, description="s: nodes that the model is sent to, a round")
    graph: Graph = Field(Graph.LOCAL, description="who draws the peers")
    announce: Announce | None = Field(
        None, description="how a node knows whom to expect; with graph: local only, where it is notices if left out"
    )
    redraw: bool = Field(True, description="draw the oracle's graph anew each round")
    on_missing_peer: MissingPeer = Field(MissingPeer.WAIT, description="what becomes of a round when a node ends")

    @model_validator(mode="before")
    @classmethod
    def _with_notices(cls, values: Any) -> Any:
        """Fill in the default of ``announce``, which only a local graph has."""
        if not isinstance(values, Mapping) or values.get("announce") is not None:
            return values
        if values.get("graph", Graph.LOCAL) not in (Graph.LOCAL, Graph.LOCAL.value):
            return values
        return {**values, "announce": Announce.NOTICES}

    @property
    def goes_on_without_peers(self) -> bool:
        """See :attr:`AlgorithmConfig.goes_on_without_peers`."""
        return self.on_missing_peer is MissingPeer.SKIP

    def check(self, topology: Topology, tensor_sizes: tuple[int, ...]) -> None:
        """See :meth:`AlgorithmConfig.check`."""
        nodes = topology.num_nodes
        if any(topology.degree(node) != nodes - 1 for node in range(nodes)):
            raise ConfigError("topology: must be full for epidemic, which may pick any node")
        check_recipients("recipients", self.recipients, topology)
        if self.graph is Graph.ORACLE and nodes * self.recipients % 2:
            raise ConfigError(
                f"recipients={self.recipients}: nodes x recipients must be even with graph: oracle (nodes={nodes})"
            )
        if self.graph is Graph.ORACLE and self.announce is not None:
            raise ConfigError(
                f"announce={self.announce.value}: must be left out with graph: oracle, which all know by the seed"
            )
        if self.graph is Graph.LOCAL and not self.redraw:
            raise ConfigError("redraw=false: must be true with graph: local")

    def traffic(self, topology: Topology, node: NodeId) -> RoundTraffic:
        """See :meth:`AlgorithmConfig.traffic`. Notices have no values; with them everyone hears from everyone."""
        if topology.num_nodes == 1:
            return RoundTraffic(0, 0, "waited_for")
        has_notices = self.graph is Graph.LOCAL and self.announce is Announce.NOTICES
        return RoundTraffic(self.recipients, topology.degree(node) if has_notices else self.recipients, "waited_for")


class EpidemicTag(IntEnum):
    """Messages of Epidemic Learning."""

    MODEL = 1
    """The sender's whole model."""
    NOTICE = 2
    """No model this round: the receiver was not picked."""
    FIRST_ROUND = 3
    """No model: the round from which on the sender counts on the receiver, after one of them was away."""


class Epidemic(Algorithm):
    """Synchronous averaging with random peers (arXiv:2310.01972).

    State:
        _trained: y_i once the round's local steps have ended; None while they run.
        _senders: Nodes of which this round's draws let it hear, if they are there; in increasing order.
        _expected: Those of them that take part in this round.
        _inbox: Models and notices of this round and later ones.
        _round: Rounds finished or left out; stamped on outgoing messages.
        _attendance: From which round on each peer takes part. Nothing changes it under ``wait``.
    """

    carries = {EpidemicTag.MODEL: Whole, EpidemicTag.NOTICE: Empty, EpidemicTag.FIRST_ROUND: Empty}

    def __init__(self, context: NodeContext, config: EpidemicConfig) -> None:
        super().__init__(context)
        self._config = config
        self._skips = config.on_missing_peer is MissingPeer.SKIP
        self._neighbors = np.array(context.neighbors, dtype=np.int64)
        self._rng = context.rng("recipients")
        self._trained: Vector | None = None
        self._senders: Sequence[NodeId] = ()
        self._expected: Sequence[NodeId] = ()
        self._inbox = RoundInbox(tolerant=self._skips)
        self._round = 0
        self._attendance = Attendance()

    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        """See :meth:`Algorithm.handle`."""
        match event:
            case Started(params=params):
                return [StartLocalSteps(params, self.context.local_steps)]
            case LocalStepsDone(params=params):
                self._trained = frozen(params)
                return [*self._send(params), *self._average_if_complete()]
            case MessageReceived(sender=sender, message=message):
                if self._skips and message.tag is EpidemicTag.FIRST_ROUND:
                    return self._on_proposal(sender, message.round)
                if message.tag not in (EpidemicTag.MODEL, EpidemicTag.NOTICE):
                    raise ProtocolError(f"{tag_name(message.tag)} from node {sender}: not a message of epidemic")
                self._inbox.keep(event, self._round)
                return self._average_if_complete()
            case PeerDown(peer=peer) if self._skips:
                self._attendance.ended(peer)
                return self._attend([])
            case PeerUp(peer=peer) if self._skips:
                return self._attend([self._attendance.is_back(peer, self._next_round)])
            case _:
                return self.without_effect(event)

    def waits_on(self) -> Sequence[NodeId]:
        """See :meth:`Algorithm.waits_on`."""
        return () if self._trained is None else self._inbox.missing(self._round, self._expected)

    def waiting_for(self) -> str | None:
        """See :meth:`Algorithm.waiting_for`."""
        missing = super().waiting_for()
        return missing and f"messages of round {self._round} from {missing}"

    def check_invariants(self) -> None:
        """See :meth:`Algorithm.check_invariants`."""
        assert self._trained is None or self.waits_on(), "waits for nobody"

    @property
    def _next_round(self) -> int:
        """The round of the next messages."""
        return self._round + (self._trained is not None)

    def _send(self, trained: Vector) -> list[Effect]:
        """Send this round's messages to those that are there; sets whom to expect in return."""
        items = self._address(Message(EpidemicTag.MODEL, self._round, Whole(trained)))
        self._expected = self._present(self._senders)
        there = frozenset(self._present(self.context.neighbors)) if self._skips else None
        return [Enqueue(items if there is None else [item for item in items if item[0] in there])]

    def _address(self, model: Message) -> list[Addressed]:
        """This round's messages, if all are there; sets of whom there are some in return."""
        config = self._config
        if len(self._neighbors) == 0:
            return []
        node, num_nodes, seed = self.context.node, self.context.num_nodes, self.context.seed
        if config.graph is Graph.ORACLE:
            graph = self._round if config.redraw else 0
            self._senders = regular_graph(num_nodes, config.recipients, seed, graph).neighbors(node)
            return [(peer, model) for peer in self._senders]
        if config.announce is Announce.SEED:
            to, self._senders = shared_recipients(num_nodes, config.recipients, seed, self._round)[node]
            return [(peer, model) for peer in to]
        models = address(self._rng, self._neighbors, [model], config.recipients)
        picked = {peer for peer, _ in models}
        notice = Message(EpidemicTag.NOTICE, self._round, EMPTY)
        self._senders = self.context.neighbors
        return [*((peer, notice) for peer in self._senders if peer not in picked), *models]

    def _present(self, peers: Sequence[NodeId]) -> Sequence[NodeId]:
        return self._attendance.present(peers, self._round)

    def _on_proposal(self, sender: NodeId, round_: int) -> list[Effect]:
        proposals = self._attendance.proposed(sender, round_)
        if not proposals or not is_far_behind(self._next_round, round_):
            return self._attend(proposals)
        self._round = round_
        self._inbox.forget_before(round_)
        return self._attend(proposals + self._attendance.left_out(self.context.neighbors, round_), again=True)

    def _attend(self, proposals: Sequence[Proposal], *, again: bool = False) -> list[Effect]:
        """Go on with this round after a change of who takes part in it.

        Args:
            proposals: To be sent.
            again: Send this round's messages, if they were sent under an earlier round.
        """
        told = [(peer, Message(EpidemicTag.FIRST_ROUND, round_, EMPTY)) for peer, round_ in proposals]
        effects: list[Effect] = [Enqueue(told)] if told else []
        if again and self._trained is not None:
            effects += self._send(self._trained)
        self._expected = self._present(self._senders)
        return effects + self._average_if_complete()

    def _average_if_complete(self) -> list[Effect]:
        trained = self._trained
        if trained is None or not self._inbox.complete(self._round, self._expected):
            return []
        received = [item for item in self._inbox.take(self._round) if item.message.tag is EpidemicTag.MODEL]
        self._trained = None
        self._round += 1
        effects: list[Effect] = []
        if received:
            effects.append(Aggregated([item.delivery for item in received]))
        model = average_models(trained, [item.message for item in received])
        effects.append(StartLocalSteps(model, self.context.local_steps))
        return effects
