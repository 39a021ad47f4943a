"""Counting of a real node's messages."""

from dataclasses import dataclass

from node.core.messages import Message
from node.core.wire_values import WireDtype


@dataclass(frozen=True, slots=True)
class Accounting:
    """Rules by which messages are counted.

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
