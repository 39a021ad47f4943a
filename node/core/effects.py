"""Effects: the requests of an algorithm. Neither side modifies their arrays after hand-over."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from node.core.messages import Message
from node.core.types import NodeId, Vector

Addressed: TypeAlias = tuple[NodeId, Message]


@dataclass(frozen=True, slots=True)
class StartLocalSteps:
    """Train. Answered by one ``LocalStepsDone``; at most one may be outstanding.

    Attributes:
        params: The model to start from, shape (num_params,). What a node *is* for evaluation right after
            aggregation.
        count: Number of local steps, >= 1.
    """

    params: Vector
    count: int


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Append messages to the outbox, in this order. The driver pulls the head when the uplink is free."""

    items: Sequence[Addressed]


@dataclass(frozen=True, slots=True)
class CancelQueued:
    """Empty the outbox.

    Attributes:
        abort_in_flight: Also abort what is being transmitted; its bytes count as wasted.
    """

    abort_in_flight: bool = False


@dataclass(frozen=True, slots=True)
class ReplaceQueued:
    """Put ``new`` in the place of every message in the outbox that *is* ``old``; addressees and order stay.

    What is already being transmitted is left alone.
    """

    old: Message
    new: Message


@dataclass(frozen=True, slots=True)
class StartTimer:
    """Ask for a ``TimerFired`` after ``delay_ns`` >= 0."""

    timer: int
    delay_ns: int


@dataclass(frozen=True, slots=True)
class Aggregated:
    """Report that these deliveries have just entered the model. Feeds the staleness and age figures."""

    deliveries: Sequence[int]


Effect: TypeAlias = StartLocalSteps | Enqueue | CancelQueued | ReplaceQueued | StartTimer | Aggregated
