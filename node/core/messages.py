"""What travels between nodes.

One flat value type for all algorithms: a driver can move, count and encode any message without knowing who
made it. A message is a snapshot. Its values are those at the time it was queued, are shared by all its
recipients, and are never modified.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np

from node.core.types import Vector

WHOLE_MODEL = -1
"""``fragment`` of a message that carries the whole model or no values at all."""

NO_VALUES: Vector = np.zeros(0, dtype=np.float32)
NO_VALUES.setflags(write=False)


class MessageKind(Enum):
    """What a message is for."""

    FRAGMENT = "fragment"
    """One fragment of the sender's model."""
    MODEL = "model"
    """The sender's whole model."""
    PING = "ping"
    """A whole model that asks for the receiver's in return."""
    PONG = "pong"
    """The answer to a ping."""
    AVERAGE_REQUEST = "average_request"
    """The first half of a pairwise average: the initiator's model."""
    AVERAGE_REPLY = "average_reply"
    """The second half of a pairwise average: the answerer's model before averaging."""
    NOTICE = "notice"
    """A message without values: control traffic."""


class MessageState(IntEnum):
    """Where a message stands, or how it ended. Drivers keep it; algorithms never see it."""

    QUEUED = 0
    """Still in the sender's outbox."""
    SENDING = 1
    """Being transmitted."""
    IN_FLIGHT = 2
    """Sent, but not yet delivered."""
    DELIVERED = 3
    """Delivered; waits at the receiver."""
    AGGREGATED = 4
    """Delivered, and averaged into the receiver's model."""
    REPLACED = 5
    """Delivered, and replaced by a newer one before it was averaged."""
    CANCELLED = 6
    """Taken out of the outbox before it was sent."""
    ABORTED = 7
    """Given up while it was transmitted; the bytes sent of it are wasted."""
    LOST = 8
    """Sent, but the network dropped it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, without its addressee.

    Attributes:
        kind: What it is for.
        round: The sender's round when it was made.
        values: Shape (k,), float32, read-only: a fragment, a whole model, or empty.
        fragment: Index of the fragment in the plan, or :data:`WHOLE_MODEL`.
        exchange: Number that pairs a reply with its request; 0 where unused.
    """

    kind: MessageKind
    round: int
    values: Vector
    fragment: int = WHOLE_MODEL
    exchange: int = 0


def frozen(values: Vector) -> Vector:
    """Mark an array read-only and return it, so that nobody modifies what was handed over."""
    values.setflags(write=False)
    return values
