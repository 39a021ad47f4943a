"""The life of every message, as columns that grow.

One row a queued message: who, to whom, what, and when it was queued, started, sent, delivered, aggregated or
cancelled. Times are virtual nanoseconds.

What changes during a message's life lies together in one line of eight numbers, so that an event touches one
cache line: with a thousand nodes the table is far larger than the cache, and this is done for every event.
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

WIDTH = 8
"""Numbers in a line of :attr:`Trace.life`."""
STARTED, WIRE_BYTES, SENT, LOST, DELIVERED, AGGREGATED, STALENESS, CANCELLED = range(WIDTH)
"""Positions in a line: four times, the bytes on the wire, when it was lost, and the staleness in rounds."""

_BLANK_LINE = array("q", [NEVER] * WIDTH)


class Trace:
    """The message table. A row's number is its delivery number.

    Attributes:
        life: :data:`WIDTH` numbers a row; :data:`NEVER` for what has not happened. The driver writes them.
    """

    def __init__(self) -> None:
        self.life = array("q")
        self._sender = array("i")
        self._receiver = array("i")
        self._kind = array("b")
        self._round = array("i")
        self._fragment = array("i")
        self._payload_bytes = array("q")
        self._queued_ns = array("q")

    def __len__(self) -> int:
        return len(self._sender)

    def queued(self, now_ns: int, sender: int, items: Sequence[Addressed]) -> int:
        """Open one row an item, of which there is at least one; returns the number of the first."""
        first, count = len(self._sender), len(items)
        receivers, messages = zip(*items, strict=True)
        self.life.extend(_BLANK_LINE * count)
        self._sender.extend(array("i", [sender]) * count)
        self._receiver.extend(receivers)
        self._kind.extend([_KIND_INDEX[message.kind] for message in messages])
        self._round.extend([message.round for message in messages])
        self._fragment.extend([message.fragment for message in messages])
        self._payload_bytes.extend([message.values.nbytes for message in messages])
        self._queued_ns.extend(array("q", [now_ns]) * count)
        return first

    def retyped(self, rows: Sequence[int], kind: MessageKind) -> None:
        """Queued messages were replaced by ones of another kind."""
        for row in rows:
            self._kind[row] = _KIND_INDEX[kind]

    def aggregated(self, row: int, now_ns: int, current_round: int) -> None:
        """A message entered its receiver's model in the receiver's ``current_round``, counted from 0."""
        base = row * WIDTH
        self.life[base + AGGREGATED] = now_ns
        self.life[base + STALENESS] = current_round - self._round[row]

    def columns(self) -> dict[str, npt.NDArray[np.int64]]:
        """The table, as copies: name -> shape (rows,), int64; -1 for never. ``kind`` indexes :data:`KINDS`."""
        life = np.array(self.life, dtype=np.int64).reshape(-1, WIDTH)
        receiver = np.array(self._receiver, dtype=np.int64)
        payload_bytes = np.array(self._payload_bytes, dtype=np.int64)
        return {
            "id": np.arange(len(self), dtype=np.int64),
            "sender": np.array(self._sender, dtype=np.int64),
            "receiver": receiver,
            "kind": np.array(self._kind, dtype=np.int64),
            "round": np.array(self._round, dtype=np.int64),
            "fragment": np.array(self._fragment, dtype=np.int64),
            "payload_bytes": payload_bytes,
            "wire_bytes": np.maximum(life[:, WIRE_BYTES], 0),
            "queued_ns": np.array(self._queued_ns, dtype=np.int64),
            "started_ns": life[:, STARTED],
            "sent_ns": life[:, SENT],
            "delivered_ns": life[:, DELIVERED],
            "aggregated_ns": life[:, AGGREGATED],
            "cancelled_ns": life[:, CANCELLED],
            "staleness": life[:, STALENESS],
            "state": _states(life, receiver, payload_bytes),
        }


def _states(
    life: npt.NDArray[np.int64], receiver: npt.NDArray[np.int64], payload_bytes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """How far each message came, from what happened to it.

    A message was replaced if it was delivered and passed over by a later aggregation of its receiver: an
    algorithm takes everything out of its inbox when it aggregates. Messages without values are never
    aggregated and stay delivered.
    """
    happened = life != NEVER
    state = np.full(len(life), MessageState.QUEUED, dtype=np.int64)
    state[happened[:, STARTED]] = MessageState.SENDING
    state[happened[:, SENT]] = MessageState.IN_FLIGHT
    state[happened[:, LOST]] = MessageState.LOST
    state[happened[:, CANCELLED]] = MessageState.CANCELLED
    state[happened[:, CANCELLED] & happened[:, STARTED]] = MessageState.ABORTED
    state[happened[:, DELIVERED]] = MessageState.DELIVERED
    last_aggregation = np.full(receiver.max(initial=0) + 1, NEVER, dtype=np.int64)
    np.maximum.at(last_aggregation, receiver, life[:, AGGREGATED])
    passed_over = happened[:, DELIVERED] & (life[:, DELIVERED] <= last_aggregation[receiver])
    state[passed_over & (payload_bytes > 0)] = MessageState.REPLACED
    state[happened[:, AGGREGATED]] = MessageState.AGGREGATED
    return state
