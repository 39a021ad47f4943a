"""The life of every message, as columns that grow.

One row a queued message: who, to whom, what, and when it was queued, started, sent, delivered, aggregated or
cancelled. Times are virtual nanoseconds.

This is written for every event of a simulation, and with a thousand nodes the table is far larger than the
processor's cache. So what is common to a batch or to a message is kept once, and what happens to rows is kept as logs
in order of time, which are put into columns at the end.
"""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from node.core.effects import Addressed
from node.core.messages import Message, MessageState
from node.core.recipients import Fanout
from node.core.wire_values import WireDtype

NEVER = -1

LIFE_SHIFT = 40
"""Bits of a message's number within a life of its sender; those above tell which life that is."""

Column = npt.NDArray[np.int64]


class Trace:
    """The message table. A row's number is its delivery number.

    Args:
        header_bytes: Bytes on the wire besides the body, for messages of which nothing was retransmitted.
        dtype: How values travel.

    Attributes:
        started: Log of (row, time): its first byte left. The driver writes this and the next one.
        sent: Log of (row, time, time of arrival): its last byte left.
        resent: Row -> bytes on the wire, where packets may have been retransmitted.
        held: Row -> when a node that stood still took the message that had arrived; :data:`NEVER` if it has not yet.
    """

    def __init__(self, header_bytes: int = 0, dtype: WireDtype = WireDtype.FLOAT32) -> None:
        self.started = array("q")
        self.sent = array("q")
        self.resent: dict[int, int] = {}
        self.held: dict[int, int] = {}
        self._header_bytes = header_bytes
        self._dtype = dtype
        self._receiver = array("i")
        self._message = array("i")  # number of the row's message
        self._messages = array("q")  # tag, round, fragment, bytes of payload, of body
        self._batches = array("q")  # time, sender, rows of each batch
        self._cancelled = array("q")  # time, first row, rows
        self._given_up = array("q")  # time, row, bytes that had left: aborted while it was transmitted
        self._lost = array("q")
        self._aggregated_rows = array("q")
        self._aggregations = array("q")  # time, current round, rows

    def __len__(self) -> int:
        return len(self._receiver)

    def queued(self, now_ns: int, sender: int, items: Sequence[Addressed]) -> int:
        """Open one row an item; returns the number of the first."""
        first, known = len(self._receiver), len(self._messages) // 5
        if isinstance(items, Fanout):
            messages: Iterable[Message] = items.messages
            self._receiver.extend(items.receivers)
            self._message.frombytes((np.frombuffer(items.which, dtype=np.intc) + np.intc(known)).tobytes())
        else:
            distinct = {id(message): message for _, message in items}
            numbers = {key: known + index for index, key in enumerate(distinct)}
            messages = distinct.values()
            self._receiver.extend([receiver for receiver, _ in items])
            self._message.extend([numbers[id(message)] for _, message in items])
        for message in messages:
            self._describe(message)
        self._batches.extend((now_ns, sender, len(items)))
        return first

    def _describe(self, message: Message) -> None:
        body, dtype = message.body, self._dtype
        sizes = body.payload_bytes(dtype), body.wire_bytes(dtype)
        self._messages.extend((message.tag, message.round, body.fragment, *sizes))

    def replaced(self, rows: Sequence[int], new: Message) -> None:
        """Queued messages were exchanged for another one."""
        number = len(self._messages) // 5
        self._describe(new)
        for row in rows:
            self._message[row] = number

    def cancelled(self, rows: range, now_ns: int) -> None:
        """Queued messages were dropped."""
        self._cancelled.extend((now_ns, rows.start, len(rows)))

    def aborted(self, row: int, now_ns: int, sent_bytes: int) -> None:
        """A message was given up while it was transmitted; so many bytes of it had left."""
        self._given_up.extend((now_ns, row, sent_bytes))

    def lost(self, row: int) -> None:
        """A message that was sent will not arrive."""
        self._lost.append(row)

    def aggregated(self, rows: Sequence[int], now_ns: int, current_round: int) -> None:
        """Messages entered their receiver's model in the receiver's ``current_round``, counted from 0."""
        self._aggregated_rows.extend(rows)
        self._aggregations.extend((now_ns, current_round, len(rows)))

    def columns(self, now_ns: int) -> dict[str, Column]:
        """The table at a time, as copies: name -> shape (rows,), int64; -1 for never; ``kind`` is the tag's number."""
        receiver = _column(self._receiver)
        started_ns, sent_ns, delivered_ns = np.full((3, len(receiver)), NEVER, dtype=np.int64)
        rows, when = _table(self.started, 2).T
        started_ns[rows] = when
        rows, when, arrival_ns = _table(self.sent, 3).T
        sent_ns[rows] = when
        delivered_ns[rows] = np.where(arrival_ns <= now_ns, arrival_ns, NEVER)
        delivered_ns[list(self.held)] = list(self.held.values())
        delivered_ns[_column(self._lost)] = NEVER
        tag, round_, fragment, payload_bytes, body_bytes = _table(self._messages, 5)[_column(self._message)].T
        queued_ns, sender, counts = _table(self._batches, 3).T
        alone_bytes = np.where(started_ns == NEVER, 0, body_bytes + self._header_bytes)
        wire_bytes = alone_bytes.copy()
        wire_bytes[list(self.resent)] = list(self.resent.values())
        resent_bytes = wire_bytes - alone_bytes
        self._count_unfinished(sent_ns, wire_bytes, resent_bytes)
        cancelled_ns = self._cancelled_column(len(receiver))
        aggregated_ns, staleness = self._aggregation_columns(round_)
        table = {
            "id": np.arange(len(receiver), dtype=np.int64),
            "sender": np.repeat(sender, counts),
            "receiver": receiver,
            "kind": tag,
            "round": round_,
            "fragment": fragment,
            "payload_bytes": payload_bytes,
            "wire_bytes": wire_bytes,
            "resent_bytes": resent_bytes,
            "queued_ns": np.repeat(queued_ns, counts),
            "started_ns": started_ns,
            "sent_ns": sent_ns,
            "delivered_ns": delivered_ns,
            "aggregated_ns": aggregated_ns,
            "cancelled_ns": cancelled_ns,
            "staleness": staleness,
        }
        return {**table, "state": message_states(table, _column(self._lost))}

    @property
    def lost_rows(self) -> Column:
        """Messages that were sent and will not arrive, shape (k,)."""
        return _column(self._lost)

    def _count_unfinished(self, sent_ns: Column, wire_bytes: Column, resent_bytes: Column) -> None:
        """Count of an aborted message what had left of it, and nothing of one that was lost before it left."""
        _, given_up, sent_bytes = _table(self._given_up, 3).T
        wire_bytes[given_up] = sent_bytes
        resent_bytes[given_up] = 0
        lost = _column(self._lost)
        unsent = lost[sent_ns[lost] == NEVER]
        wire_bytes[unsent] = resent_bytes[unsent] = 0

    def _cancelled_column(self, rows: int) -> Column:
        when, first, counts = _table(self._cancelled, 3).T
        cancelled_ns = np.full(rows, NEVER, dtype=np.int64)
        # Rows of all ranges: each range's first row, repeated, plus the position inside the range.
        position = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        cancelled_ns[np.repeat(first, counts) + position] = np.repeat(when, counts)
        times, given_up, _ = _table(self._given_up, 3).T
        cancelled_ns[given_up] = times
        return cancelled_ns

    def _aggregation_columns(self, rounds: Column) -> tuple[Column, Column]:
        when, current_round, counts = _table(self._aggregations, 3).T
        rows = _column(self._aggregated_rows)
        aggregated_ns, staleness = np.full((2, len(rounds)), NEVER, dtype=np.int64)
        aggregated_ns[rows] = np.repeat(when, counts)
        staleness[rows] = np.repeat(current_round, counts) - rounds[rows]
        return aggregated_ns, staleness


def _column(values: "array[int]") -> Column:
    return np.array(values, dtype=np.int64)


def _table(values: "array[int]", width: int) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64).reshape(-1, width)


def message_states(table: dict[str, Column], lost: Column) -> Column:
    """Derive how far each message came from what happened to it.

    Messages without values are never aggregated and stay delivered.

    Args:
        table: All columns of :meth:`Trace.columns` but ``state``, of all nodes.
        lost: Rows of messages that were sent and will not arrive.
    """
    started, cancelled = table["started_ns"] != NEVER, table["cancelled_ns"] != NEVER
    receiver, delivered_ns, aggregated_ns = table["receiver"], table["delivered_ns"], table["aggregated_ns"]
    delivered = delivered_ns != NEVER
    state = np.full(len(receiver), MessageState.QUEUED, dtype=np.int64)
    state[started] = MessageState.SENDING
    state[table["sent_ns"] != NEVER] = MessageState.IN_FLIGHT
    state[lost] = MessageState.LOST
    state[cancelled] = MessageState.CANCELLED
    state[cancelled & started] = MessageState.ABORTED
    state[delivered] = MessageState.DELIVERED
    last_aggregation = np.full(receiver.max(initial=0) + 1, NEVER, dtype=np.int64)
    np.maximum.at(last_aggregation, receiver, aggregated_ns)
    aggregated = aggregated_ns != NEVER
    passed_over = delivered & (delivered_ns <= last_aggregation[receiver]) & ~aggregated
    state[_replaced(table, passed_over & (table["payload_bytes"] > 0))] = MessageState.REPLACED
    state[aggregated] = MessageState.AGGREGATED
    return state


def _replaced(table: dict[str, Column], passed_over: npt.NDArray[np.bool_]) -> Column:
    """Find the messages that were replaced, among those that an aggregation of their receiver passed over.

    Those of whose sender a message of the same or a later round, or one that arrived later, was aggregated. What
    is neither is early: a synchronous algorithm keeps it for its own round.
    """
    rows, aggregated = np.flatnonzero(passed_over), np.flatnonzero(table["aggregated_ns"] != NEVER)
    pair = table["sender"] * (table["receiver"].max(initial=0) + 1) + table["receiver"]
    pairs, of_row = np.unique(pair[rows], return_inverse=True)
    aggregated = aggregated[np.isin(pair[aggregated], pairs)]
    last_round, last_arrival = np.full((2, len(pairs)), NEVER, dtype=np.int64)
    np.maximum.at(last_round, np.searchsorted(pairs, pair[aggregated]), table["round"][aggregated])
    np.maximum.at(last_arrival, np.searchsorted(pairs, pair[aggregated]), table["delivered_ns"][aggregated])
    newer = (table["round"][rows] <= last_round[of_row]) | (table["delivered_ns"][rows] <= last_arrival[of_row])
    return rows[newer]
