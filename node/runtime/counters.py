"""Figures that a real node counts, and what a message counts as."""

from dataclasses import dataclass

from node.core.messages import Message
from node.core.wire_values import WireDtype


@dataclass(slots=True)
class Counters:
    """Counts of a node so far; messages and bytes as in :class:`node.sim.world.SimulatedNode`."""

    rounds: int = 0
    local_steps: int = 0
    train_loss: float = float("nan")
    queued: int = 0
    sent: int = 0
    sent_control: int = 0
    delivered: int = 0
    aggregated: int = 0
    cancelled: int = 0
    aborted: int = 0
    lost: int = 0
    bytes_sent: int = 0
    payload_sent: int = 0
    index_sent: int = 0
    bytes_wasted: int = 0
    bytes_lost: int = 0
    bytes_received: int = 0
    overruns: int = 0
    """Blocks of local steps that took longer than declared."""
    overrun_ns: int = 0
    """By how much, testbed time."""
    declared_ns: int = 0
    """Declared time of all blocks, testbed time."""


@dataclass(frozen=True, slots=True)
class Accounting:
    """How messages are counted.

    Attributes:
        header_bytes: Added to every message's body.
        dtype: How values travel.
        keep_messages: Record the life of every message.
    """

    header_bytes: int
    dtype: WireDtype = WireDtype.FLOAT32
    keep_messages: bool = True

    def wire_bytes(self, message: Message) -> int:
        """Bytes of a message on the wire, of which nothing is retransmitted."""
        return message.body.wire_bytes(self.dtype) + self.header_bytes
