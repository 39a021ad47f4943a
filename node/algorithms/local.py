"""Local training: no communication at all, the floor that every other algorithm has to beat.

Paper: none. Every paper's curve without exchange is this one.

States: a node is always training. When local steps are done the next ones start from where they ended.

Parameters (``algorithm.local``): none. H is ``algorithm.local_steps`` and changes nothing but how often the
driver is told.

Details matched: a node alone is plain SGD, bit for bit.

Departures: none; there is no paper.

Try it: ``fragmesh run deploy/experiments/quickstart.yaml --set algorithm.kind=local``
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import ClassVar

from node.algorithms.config import AlgorithmConfig, RoundTraffic
from node.core.algorithm import Algorithm, NodeContext
from node.core.bodies import Body
from node.core.effects import Effect, StartLocalSteps
from node.core.errors import ProtocolError
from node.core.events import Event, LocalStepsDone, MessageReceived, Started
from node.core.topology import Topology
from node.core.types import NodeId


class LocalConfig(AlgorithmConfig):
    """Local training has no parameters."""

    def traffic(self, topology: Topology, node: NodeId) -> RoundTraffic:
        """See :meth:`AlgorithmConfig.traffic`."""
        return RoundTraffic(0, 0, "waited_for")


class Local(Algorithm):
    """Each node trains alone."""

    carries: ClassVar[Mapping[IntEnum, type[Body]]] = {}

    def __init__(self, context: NodeContext, config: LocalConfig) -> None:
        super().__init__(context)

    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        """See :meth:`Algorithm.handle`."""
        match event:
            case Started(params=params) | LocalStepsDone(params=params):
                return [StartLocalSteps(params, self.context.local_steps)]
            case MessageReceived(sender=sender):
                raise ProtocolError(f"message from node {sender}: local training exchanges none")
            case _:
                return self.without_effect(event)
