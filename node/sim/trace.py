"""The life of every message, as columns that grow.

One row a queued message: who, to whom, what, and when it was queued, started, sent, delivered, aggregated or
cancelled. Times are virtual nanoseconds; -1 means never.
"""

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from node.core.effects import Addressed
from node.core.messages import MessageKind, MessageState

NEVER = -1
KINDS: tuple[MessageKind, ...] = tuple(MessageKind)
_KIND_INDEX = {kind: index for index, kind in enumerate(KINDS)}



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
        self.state = array("b")

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
        self.state.extend([MessageState.QUEUED] * count)
        return first

    def columns(self) -> dict[str, npt.NDArray[np.int64]]:
        """The table, as copies: name -> shape (rows,), int64. ``kind`` indexes :data:`KINDS`."""
        names = [name for name, value in vars(self).items() if isinstance(value, array)]
        table = {name: np.array(getattr(self, name), dtype=np.int64) for name in names}
        table["state"] = _with_replaced(table)
        return {"id": np.arange(len(self), dtype=np.int64), **table}


def _with_replaced(table: dict[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Find the replaced messages: delivered, passed over by a later aggregation of their receiver.

    An algorithm takes everything out of its inbox when it aggregates, so what it left behind had been replaced
    by a newer message of the same sender. Messages without values are never aggregated and stay delivered.
    """
    state, receiver, delivered = table["state"].copy(), table["receiver"], table["delivered_ns"]
    last_aggregation = np.full(receiver.max(initial=0) + 1, NEVER, dtype=np.int64)
    np.maximum.at(last_aggregation, receiver, table["aggregated_ns"])
    passed_over = (state == MessageState.DELIVERED) & (delivered <= last_aggregation[receiver])
    state[passed_over & (table["payload_bytes"] > 0)] = MessageState.REPLACED
    return state
