"""Messages between nodes: a tag, which belongs to the algorithm, a round and a body.

One value type for all algorithms: a driver can move, count and encode any message without knowing who made it. What a
driver needs to know it asks the body. A message is a snapshot. Its values are those at the time it was queued, are
shared by all its recipients, and are never modified.
"""

from dataclasses import dataclass
from enum import IntEnum

from node.core.bodies import Body
from node.core.types import Vector


class MessageState(IntEnum):
    """Stage of a message on its way, or its end. Drivers keep it; algorithms never see it."""

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
        tag: What it is for: a member of the algorithm's own enumeration, from 1 to 255.
        round: The sender's round when it was made.
        body: What it carries.
        exchange: Number that pairs a reply with its request; 0 where unused.
    """

    tag: IntEnum
    round: int
    body: Body
    exchange: int = 0


def tag_name(tag: IntEnum) -> str:
    """Return a tag's name in tables, traces and errors, which is in lower case."""
    return tag.name.lower()


def frozen(values: Vector) -> Vector:
    """Mark an array read-only and return it, so that nobody modifies what was handed over."""
    values.setflags(write=False)
    return values
