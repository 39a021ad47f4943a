"""The life of every message, as columns that grow.

One row a queued message: who, to whom, what, and when it was queued, started, sent, delivered, aggregated or
cancelled. Times are virtual nanoseconds; -1 means never.
"""

from array import array
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from node.core.effects import Addressed
from node.core.messages import MessageKind

NEVER = -1
KINDS: tuple[MessageKind, ...] = tuple(MessageKind)
_KIND_INDEX = {kind: index for index, kind in enumerate(KINDS)}


class Fate(IntEnum):
    """Where a message stands, or how it ended."""

    QUEUED = 0
    SENDING = 1
    IN_FLIGHT = 2
    DELIVERED = 3
    AGGREGATED = 4
    CANCELLED = 5
    ABORTED = 6
    LOST = 7


class Trace:
    """Columns of the message table; a row's number is its delivery number."""

    def __init__(self) -> None:
        self.sender = array("i")
        self.receiver = array("i")
        self.kind = array("b")
        self.round = array("i")
        self.fragment = array("i")
        self.payload_bytes = array("q")
        self.wire_bytes = array("q")
        self.queued_ns = array("q")
        self.started_ns = array("q")
        self.sent_ns = array("q")
        self.delivered_ns = array("q")
        self.aggregated_ns = array("q")
        self.cancelled_ns = array("q")
        self.staleness = array("i")
        self.fate = array("b")

    def __len__(self) -> int:
        return len(self.sender)

    def queued(self, now_ns: int, sender: int, items: Sequence[Addressed]) -> int:
        """Open one row an item; returns the number of the first."""
        first, count = len(self.sender), len(items)
        messages = [message for _, message in items]
        never = [NEVER] * count
        self.sender.extend([sender] * count)
        self.receiver.extend([receiver for receiver, _ in items])
        self.kind.extend([_KIND_INDEX[message.kind] for message in messages])
        self.round.extend([message.round for message in messages])
        self.fragment.extend([message.fragment for message in messages])
        self.payload_bytes.extend([message.values.nbytes for message in messages])
        self.wire_bytes.extend([0] * count)
        self.queued_ns.extend([now_ns] * count)
        for column in (self.started_ns, self.sent_ns, self.delivered_ns, self.aggregated_ns, self.cancelled_ns):
            column.extend(never)
        self.staleness.extend(never)
        self.fate.extend([Fate.QUEUED] * count)
        return first

    def columns(self) -> dict[str, npt.NDArray[np.int64]]:
        """The table, as copies: name -> shape (rows,), int64. ``kind`` indexes :data:`KINDS`."""
        names = [name for name, value in vars(self).items() if isinstance(value, array)]
        table = {name: np.array(getattr(self, name), dtype=np.int64) for name in names}
        return {"id": np.arange(len(self), dtype=np.int64), **table}
