"""AD-PSGD by pings and pongs: the variant that DivShare's evaluation compares with.

Paper: Biswas et al., WWW '25, arXiv:2410.12918 (the baseline called AD-PSGD there), after Lian et al., ICML
2018, arXiv:1710.06952. Not bipartite, no locks, several exchanges a round, no atomic averages. AD-PSGD
itself is ``adpsgd``.

States: a node is always training. Three events matter:

- local steps done: remember the trained model as the ``latest``; queue J // 2 pings that carry it, each to
  a neighbor drawn uniformly with replacement; average the models that arrived since the last average; train
  on;
- ping received: keep its model, and queue a pong that carries the own ``latest``;
- pong received: keep its model.

Parameters (``algorithm.adpsgd_pingpong``): ``recipients`` (J; J // 2 pings and about as many pongs make
about J models a round, the traffic of DivShare with the same J; an odd J gives one model less, as in the public
code: ``traffic`` says so wherever it is compared), ``replacement``, ``alias_bug``. H is
``algorithm.local_steps``.

Details matched: ``latest`` is the model after training and before averaging, and the initial model in the
first round; one model for each sender is kept, whether ping or pong; x <- (x + sum) / (1 + count); the
queue is first-in first-out and **never flushed**, so a slow node's queue and the age of what it delivers
grow without bound.

Departures: messages are snapshots. In the public code the pings and pongs of a round share one mutable
record: queueing a pong turns the round's pings that still wait in the queue into plain models, which nobody
answers. ``alias_bug: true`` reproduces that traffic, exactly so where the outbox is what the code's own
queue is; the code's socket library takes messages out of that queue early. ``replacement`` compares rounds
unless told otherwise (the code keeps the ``last_arrival``). ``recipients`` is bounded as for DivShare,
although pings may repeat a neighbor.

Try it: ``fragmesh run deploy/experiments/quickstart.yaml --set algorithm.kind=adpsgd_pingpong``
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import ClassVar

import numpy as np
from pydantic import Field

from node.algorithms.config import AlgorithmConfig, RoundTraffic, check_recipients, requests_received
from node.core.algorithm import Algorithm, NodeContext
from node.core.bodies import Whole
from node.core.bounds import NODES_MAX
from node.core.effects import Aggregated, Effect, Enqueue, ReplaceQueued, StartLocalSteps
from node.core.errors import ProtocolError
from node.core.events import Event, LocalStepsDone, MessageReceived, Started
from node.core.inbox import Inbox, Replacement, average_models
from node.core.messages import Message, frozen, tag_name
from node.core.topology import Topology
from node.core.types import NodeId, Vector


class AdPsgdPingPongConfig(AlgorithmConfig):
    """Parameters of the AD-PSGD variant of DivShare's evaluation."""

    small_run: ClassVar[Mapping[str, object]] = {"recipients": 2}

    recipients: int = Field(6, ge=2, le=NODES_MAX, description="J: J // 2 pings are sent a round")
    replacement: Replacement = Field(
        Replacement.NEWEST_ROUND, description="which of two models of one sender stays in the inbox"
    )
    alias_bug: bool = Field(
        False, description="let a pong turn the round's queued pings into models that nobody answers"
    )

    def check(self, topology: Topology, tensor_sizes: tuple[int, ...]) -> None:
        """See :meth:`AlgorithmConfig.check`."""
        check_recipients("recipients", self.recipients, topology)

    def traffic(self, topology: Topology, node: NodeId) -> RoundTraffic:
        """See :meth:`AlgorithmConfig.traffic`. Every ping that arrives is answered by a pong."""
        pings = self.recipients // 2 if topology.degree(node) else 0
        models = pings + requests_received(topology, node, self.recipients // 2)
        note = ""
        if self.recipients % 2:
            note = f"recipients={self.recipients} gives {pings} pings, so that it sends less than others with this J"
        return RoundTraffic(models, models, "kept", note)


class AdPsgdPingPongTag(IntEnum):
    """Messages of the AD-PSGD variant."""

    MODEL = 1
    """A ping that the alias bug rewrote: nobody answers it."""
    PING = 2
    """A whole model that asks for the receiver's in return."""
    PONG = 3
    """The answer to a ping."""


class AdPsgdPingPong(Algorithm):
    """Asynchronous exchange of whole models by pings and pongs (the baseline "AD-PSGD" of arXiv:2410.12918).

    State:
        _ping: The last round's ping, or what the alias bug made of it; None in the first round.
        _pong: Carries ``latest``; what every ping is answered with until the next round ends.
        _inbox: Models received since the last average, one for each sender.
        _round: Rounds finished; stamped on outgoing models.
    """

    carries = {AdPsgdPingPongTag.PING: Whole, AdPsgdPingPongTag.PONG: Whole, AdPsgdPingPongTag.MODEL: Whole}
    answers = {AdPsgdPingPongTag.PING: AdPsgdPingPongTag.PONG}

    def __init__(self, context: NodeContext, config: AdPsgdPingPongConfig) -> None:
        super().__init__(context)
        self._num_pings = config.recipients // 2
        self._alias_bug = config.alias_bug
        self._inbox = Inbox(config.replacement)
        self._neighbors = np.array(context.neighbors, dtype=np.int64)
        self._rng = context.rng("recipients")
        self._ping: Message | None = None
        self._pong: Message | None = None
        self._round = 0

    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        """See :meth:`Algorithm.handle`."""
        match event:
            case MessageReceived():
                return self._on_message(event)
            case Started(params=params):
                self._pong = Message(AdPsgdPingPongTag.PONG, 0, Whole(frozen(params)))
                return [StartLocalSteps(params, self.context.local_steps)]
            case LocalStepsDone(params=params):
                return self._share_and_average(params)
            case _:
                return self.without_effect(event)

    def _on_message(self, event: MessageReceived) -> list[Effect]:
        match event.message.tag:
            case AdPsgdPingPongTag.PING:
                self._inbox.keep(event)
                assert self._pong is not None, "before Started"
                effects: list[Effect] = []
                if self._alias_bug and self._ping is not None:
                    plain = Message(AdPsgdPingPongTag.MODEL, self._ping.round, self._ping.body)
                    effects.append(ReplaceQueued(self._ping, plain))
                    self._ping = None
                effects.append(Enqueue([(event.sender, self._pong)]))
                return effects
            case AdPsgdPingPongTag.PONG | AdPsgdPingPongTag.MODEL:
                self._inbox.keep(event)
                return []
            case tag:
                raise ProtocolError(f"{tag_name(tag)} from node {event.sender}: not a message of adpsgd_pingpong")

    def _share_and_average(self, params: Vector) -> list[Effect]:
        self._ping = Message(AdPsgdPingPongTag.PING, self._round, Whole(frozen(params)))
        self._pong = Message(AdPsgdPingPongTag.PONG, self._round, Whole(params))
        self._round += 1
        effects: list[Effect] = []
        if len(self._neighbors) > 0:
            drawn = self._rng.integers(len(self._neighbors), size=self._num_pings)
            effects.append(Enqueue([(peer, self._ping) for peer in self._neighbors[drawn].tolist()]))
        received = self._inbox.drain()
        if received:
            params = average_models(params, [item.message for item in received])
            effects.append(Aggregated([item.delivery for item in received]))
        effects.append(StartLocalSteps(params, self.context.local_steps))
        return effects
