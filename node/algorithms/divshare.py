"""DivShare: asynchronous gossip of model fragments.

Paper: Biswas et al., "Boosting Asynchronous Decentralized Learning with Model Fragmentation", WWW '25,
arXiv:2410.12918. Each node cuts its model into fragments and sends every fragment to its own random sample of
nodes, in parallel with training. Nobody waits.

States: a node is always training. Two events matter:

- local steps done: drop what is still queued (a slow link must not deliver last round's model), queue this
  round's fragments, average what arrived, train on;
- fragment received: keep it until the next average, in place of an older one of the same sender.

Parameters (``algorithm.divshare``): ``omega`` (Omega, default 0.1), ``recipients`` (J), ``flush``,
``layout``, ``rounding``, ``replacement``. H, the local steps in a round, is ``algorithm.local_steps``.

Details matched: the fragments sent are of the model after training and before averaging; recipients are drawn
without replacement, anew for every fragment; the C*J messages are shuffled; averaging is parameter-wise with
equal weights and no discount for staleness; the first round begins with training.

Departures: none from the paper that we know of. Where the public code differs from it, both are options:
``flush`` (the code closes its sockets, which also drops the message on the wire: ``all``; the natural reading of
the paper is ``queued_only``), ``replacement`` (the code ignores the round number: ``last_arrival``),
``rounding`` (the code takes the floor of 1/Omega). The code also shuffles a node's samples anew at each round, which
is ``learning.reshuffle: round`` here. The paper's loop begins with averaging and the code's with
sharing. Averaging takes no time, so both give the same run: what is shared is the trained model in either.

Try it: ``fragmesh run deploy/experiments/quickstart.yaml``
"""

from collections.abc import Mapping, Sequence
from enum import Enum, IntEnum
from typing import ClassVar

import numpy as np
from pydantic import Field

from node.algorithms.config import AlgorithmConfig, RoundTraffic, check_recipients
from node.core.algorithm import Algorithm, NodeContext
from node.core.bodies import FragmentOf
from node.core.bounds import NODES_MAX
from node.core.effects import Aggregated, CancelQueued, Effect, Enqueue, StartLocalSteps
from node.core.errors import ConfigError
from node.core.events import Event, LocalStepsDone, MessageReceived, Started
from node.core.fragments import FragmentLayout, FragmentPlan, FragmentRounding, fragment_plan, num_fragments
from node.core.inbox import Inbox, Replacement, average_fragments
from node.core.messages import Message
from node.core.recipients import address
from node.core.topology import Topology
from node.core.types import NodeId, Vector


class Flush(Enum):
    """Policy of a new round for the messages of the old one."""

    QUEUED_ONLY = "queued_only"
    """Drop what is queued; the message being transmitted completes."""
    ALL = "all"
    """Also abort the message being transmitted; its bytes are wasted."""
    NONE = "none"
    """Drop nothing: the queue of a slow node grows, and so does the age of what it delivers."""


class DivShareConfig(AlgorithmConfig):
    """Parameters of DivShare."""

    small_run: ClassVar[Mapping[str, object]] = {"omega": 0.25, "recipients": 2}

    omega: float = Field(0.1, gt=0, le=1, description="Omega: fraction of the model in one fragment")
    recipients: int = Field(6, ge=1, le=NODES_MAX, description="J: nodes that each fragment is sent to, a round")
    flush: Flush = Field(Flush.QUEUED_ONLY, description="what a new round does to queued messages")
    layout: FragmentLayout = Field(FragmentLayout.RANDOM, description="which scalars share a fragment")
    rounding: FragmentRounding = Field(FragmentRounding.FLOOR, description="how 1/omega becomes a count")
    replacement: Replacement = Field(
        Replacement.NEWEST_ROUND, description="which of two copies of a fragment stays in the inbox"
    )

    def check(self, topology: Topology, tensor_sizes: tuple[int, ...]) -> None:
        """See :meth:`AlgorithmConfig.check`."""
        check_recipients("recipients", self.recipients, topology)
        count = num_fragments(self.omega, self.rounding)
        bound = sum(tensor_sizes)
        if self.layout is FragmentLayout.RANDOM:
            bound = max(tensor_sizes)  # below that, all fragments but the last would be empty
        if count > bound:
            raise ConfigError(f"omega={self.omega}: gives {count} fragments, must be at most {bound} here")

    def traffic(self, topology: Topology, node: NodeId) -> RoundTraffic:
        """See :meth:`AlgorithmConfig.traffic`. Each of C fragments goes to J nodes: J whole models in C J messages."""
        messages = num_fragments(self.omega, self.rounding) * self.recipients
        return RoundTraffic(self.recipients, messages, "kept" if self.flush is Flush.NONE else "flushed")


class DivShareTag(IntEnum):
    """Messages of DivShare."""

    FRAGMENT = 1
    """One fragment of the sender's model."""


class DivShare(Algorithm):
    """Asynchronous gossip of model fragments (arXiv:2410.12918).

    State:
        _plan: The partition that all nodes share.
        _inbox: Fragments received since the last average, one for each (sender, fragment).
        _round: Rounds finished; stamped on outgoing fragments.
    """

    passive = True
    carries = {DivShareTag.FRAGMENT: FragmentOf}

    def __init__(self, context: NodeContext, config: DivShareConfig) -> None:
        super().__init__(context)
        self._flush = config.flush
        self._recipients = config.recipients
        self._plan = fragment_plan(
            context.tensor_sizes, num_fragments(config.omega, config.rounding), config.layout, context.seed
        )
        self._inbox = Inbox(config.replacement)
        self._neighbors = np.array(context.neighbors, dtype=np.int64)
        self._rng = context.rng("recipients")
        self._round = 0

    @property
    def fragments(self) -> FragmentPlan:
        """See :attr:`Algorithm.fragments`."""
        return self._plan

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
        effects: list[Effect] = []
        if self._flush is not Flush.NONE:
            effects.append(CancelQueued(abort_in_flight=self._flush is Flush.ALL))
        ordered, pieces = self._plan.cut(params)
        fragments = [
            Message(DivShareTag.FRAGMENT, self._round, FragmentOf(fragment, values))
            for fragment, values in enumerate(pieces)
        ]
        effects.append(Enqueue(address(self._rng, self._neighbors, fragments, self._recipients)))
        self._round += 1
        received = self._inbox.drain()
        if received:
            params = average_fragments(self._plan, ordered, [item.message for item in received])
            effects.append(Aggregated([item.delivery for item in received]))
        effects.append(StartLocalSteps(params, self.context.local_steps))
        return effects
