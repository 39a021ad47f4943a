"""The SWIFT variant that DivShare's evaluation compares with.

Paper: Biswas et al., WWW '25, arXiv:2410.12918 (the baseline called Swift there), after Bornstein et al.,
ICLR 2023, arXiv:2210.14026. Despite its name it is closer to an asynchronous Epidemic Learning: no fixed
graph, no stored models of neighbors, no client communication weights. SWIFT itself is ``swift``.

States: a node is always training. Two events matter:

- local steps done: queue the trained model for J random distinct nodes, drawn anew each round; average what
  arrived since the last average, with equal weights; train on;
- model received: keep it until the next average, in place of an older one of the same sender.

Parameters (``algorithm.swift_divshare``): ``recipients`` (J), ``replacement``. H is
``algorithm.local_steps``.

Details matched: what is sent is the model after training and before averaging; x <- (x + sum) / (1 + count)
over what arrived since the last average; the queue is first-in first-out and **never flushed**, so a slow
node's queue and the age of what it delivers grow without bound.

Departures: ``replacement`` compares rounds unless told otherwise (the public code keeps the
``last_arrival``; over links that keep the order both are the same). The recipients' order is shuffled after they are
drawn, as in the public code.

It is DivShare with ``omega: 1`` and ``flush: none``, and draws from the random streams in the same way, so
that under one seed both give the same run bit for bit.

Try it: ``fragmesh run deploy/experiments/quickstart.yaml --set algorithm.kind=swift_divshare``
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import ClassVar

import numpy as np
from pydantic import Field

from node.algorithms.config import AlgorithmConfig, RoundTraffic, check_recipients
from node.core.algorithm import Algorithm, NodeContext
from node.core.bodies import Whole
from node.core.bounds import NODES_MAX
from node.core.effects import Aggregated, Effect, Enqueue, StartLocalSteps
from node.core.events import Event, LocalStepsDone, MessageReceived, Started
from node.core.inbox import Inbox, Replacement, average_models
from node.core.messages import Message, frozen
from node.core.recipients import address
from node.core.topology import Topology
from node.core.types import NodeId, Vector


class SwiftDivShareConfig(AlgorithmConfig):
    """Parameters of the SWIFT variant of DivShare's evaluation."""

    small_run: ClassVar[Mapping[str, object]] = {"recipients": 2}

    recipients: int = Field(6, ge=1, le=NODES_MAX, description="J: nodes that the model is sent to, a round")
    replacement: Replacement = Field(
        Replacement.NEWEST_ROUND, description="which of two models of one sender stays in the inbox"
    )

    def check(self, topology: Topology, tensor_sizes: tuple[int, ...]) -> None:
        """See :meth:`AlgorithmConfig.check`."""
        check_recipients("recipients", self.recipients, topology)

    def traffic(self, topology: Topology, node: NodeId) -> RoundTraffic:
        """See :meth:`AlgorithmConfig.traffic`."""
        return RoundTraffic(self.recipients, self.recipients, "kept")


class SwiftDivShareTag(IntEnum):
    """Messages of the SWIFT variant."""

    MODEL = 1
    """The sender's whole model."""


class SwiftDivShare(Algorithm):
    """Asynchronous gossip of whole models (the baseline "Swift" of arXiv:2410.12918).

    State:
        _inbox: Models received since the last average, one for each sender.
        _round: Rounds finished; stamped on outgoing models.
    """

    passive = True
    carries = {SwiftDivShareTag.MODEL: Whole}

    def __init__(self, context: NodeContext, config: SwiftDivShareConfig) -> None:
        super().__init__(context)
        self._recipients = config.recipients
        self._inbox = Inbox(config.replacement)
        self._neighbors = np.array(context.neighbors, dtype=np.int64)
        self._rng = context.rng("recipients")
        self._round = 0

    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        """See :meth:`Algorithm.handle`."""
        match event:
            case MessageReceived():
                self._inbox.keep(event)
                return ()
            case Started(params=params):
                return [StartLocalSteps(params, self.context.local_steps)]
            case LocalStepsDone(params=params):
                return self._share_and_average(params)
            case _:
                return self.without_effect(event)

    def _share_and_average(self, params: Vector) -> list[Effect]:
        model = Message(SwiftDivShareTag.MODEL, self._round, Whole(frozen(params)))
        effects: list[Effect] = [Enqueue(address(self._rng, self._neighbors, [model], self._recipients))]
        self._round += 1
        received = self._inbox.drain()
        if received:
            params = average_models(params, [item.message for item in received])
            effects.append(Aggregated([item.delivery for item in received]))
        effects.append(StartLocalSteps(params, self.context.local_steps))
        return effects
