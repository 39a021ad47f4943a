"""Messages and bytes of a whole network, added up from what its nodes counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class NodeCounters(Protocol):
    """What one node counted so far. Messages; bytes on the wire, headers included, unless it says otherwise."""

    @property
    def queued(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def sent_control(self) -> int: ...
    @property
    def delivered(self) -> int: ...
    @property
    def aggregated(self) -> int: ...
    @property
    def cancelled(self) -> int: ...
    @property
    def aborted(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def payload_sent(self) -> int: ...
    @property
    def index_sent(self) -> int: ...
    @property
    def bytes_wasted(self) -> int: ...
    @property
    def bytes_lost(self) -> int: ...


@dataclass(frozen=True)
class Counters:
    """What happened to messages and bytes so far, over all nodes.

    ``payload``, ``metadata`` (headers, indices) and ``control`` (headers of messages without values) count when a
    message's last byte left its sender; ``retransmitted`` is what loss added on the wire; ``wasted`` counts the
    transmitted part of aborted messages. Their sum is all that was sent. ``bytes_lost`` is the part of it that
    no receiver saw because the message was lost.
    """

    messages: dict[str, int]
    bytes: dict[str, int]
    bytes_lost: int


def add_up(nodes: Sequence[NodeCounters], header_bytes: int) -> Counters:
    """Add up what nodes counted; ``header_bytes`` is on the wire of every message besides its body."""

    def total(name: str) -> int:
        return sum(getattr(node, name) for node in nodes)

    names = ("queued", "sent", "delivered", "aggregated", "cancelled", "aborted", "lost")
    payload, wasted, control = total("payload_sent"), total("bytes_wasted"), total("sent_control")
    headers, index = total("sent") * header_bytes, total("index_sent")
    return Counters(
        messages={name: total(name) for name in names},
        bytes={
            "payload": payload,
            "metadata": headers - control * header_bytes + index,
            "control": control * header_bytes,
            "retransmitted": total("bytes_sent") - wasted - payload - headers - index,
            "wasted": wasted,
        },
        bytes_lost=total("bytes_lost"),
    )
