"""Message records of a real node, and how the nodes' records become one table.

A sender knows when a message was queued, started, sent or cancelled; the receiver knows when it arrived and when it
entered a model. Both name it by the sender's number of it, which travels with it. Where a transport tells its sender
late that a message has left, the receiver may have it already: it was sent at its arrival at the latest, so that
queued <= started <= sent <= delivered <= aggregated in every row. The joined table has the columns
that the simulator's :class:`node.core.message_log.Trace` gives.
"""

import io
from array import array
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from node.core.errors import ProtocolError
from node.core.message_log import LIFE_SHIFT, NEVER, Trace, message_states
from node.core.types import NodeId
from node.core.wire_values import WireDtype

Column = npt.NDArray[np.int64]

_SENT = (
    "id", "sender", "receiver", "kind", "round", "fragment", "payload_bytes", "wire_bytes",
    "resent_bytes", "queued_ns", "started_ns", "sent_ns", "cancelled_ns",
)  # fmt: skip
_RECEIVED = ("from", "number", "delivered_ns", "aggregated_ns", "staleness")


class Records:
    """One node's view of the messages that it sends and receives.

    Attributes:
        sent: The messages that it queued; a message's row is its number.
    """

    def __init__(self, header_bytes: int, dtype: WireDtype) -> None:
        self.sent = Trace(header_bytes, dtype)
        self._arrivals = array("q")  # sender, number, time, round of the sender
        self._aggregations = array("q")  # arrival, time, current round

    def delivered(self, sender: int, number: int, round_: int, now_ns: int) -> int:
        """A message arrived; returns the number of this delivery."""
        self._arrivals.extend((sender, number, now_ns, round_))
        return len(self._arrivals) // 4 - 1

    def aggregated(self, deliveries: Sequence[int], now_ns: int, current_round: int) -> None:
        """Deliveries entered the model in the node's ``current_round``, counted from 0."""
        for delivery in deliveries:
            self._aggregations.extend((delivery, now_ns, current_round))

    def to_bytes(self, now_ns: int) -> bytes:
        """All of it as an npz file without objects; ``now_ns`` is the testbed time at the end."""
        sent = self.sent.columns(now_ns)
        arrivals = np.array(self._arrivals, dtype=np.int64).reshape(-1, 4)
        deliveries, times, rounds = np.array(self._aggregations, dtype=np.int64).reshape(-1, 3).T
        aggregated_ns, staleness = np.full((2, len(arrivals)), NEVER, dtype=np.int64)
        aggregated_ns[deliveries] = times
        staleness[deliveries] = rounds - arrivals[deliveries, 3]
        received = (arrivals[:, 0], arrivals[:, 1], arrivals[:, 2], aggregated_ns, staleness)
        content = {f"sent.{name}": sent[name] for name in _SENT}
        content |= {f"received.{name}": column for name, column in zip(_RECEIVED, received, strict=True)}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **content, lost=self.sent.lost_rows)
        return buffer.getvalue()


def join(lives: Mapping[tuple[NodeId, int], bytes]) -> dict[str, Column]:
    """The table of all messages of a run, from what each node recorded.

    Rows are in order of (queued, sender, number). What a node that is not given sent is missing; what it received
    counts as not delivered.

    Args:
        lives: Node and the number of its life -> what :meth:`Records.to_bytes` of it gave.

    Returns:
        The columns of :meth:`Trace.columns`.

    Raises:
        ProtocolError: A node's records are damaged.
    """
    parts = {life: _read(life[0], lives[life]) for life in sorted(lives)}
    first_row: dict[tuple[int, int], int] = {}
    counts: dict[tuple[int, int], int] = {}
    rows = 0
    for life, part in parts.items():
        first_row[life] = rows
        part["sent.id"] += life[1] << LIFE_SHIFT  # in order of the lives, where the other columns do not tell
        counts[life] = len(part["sent.id"])
        rows += counts[life]
    table = {name: _joined([part[f"sent.{name}"] for part in parts.values()]) for name in _SENT}
    lost = _joined([first_row[life] + part["lost"] for life, part in parts.items()])
    ends = np.full((3, rows), NEVER, dtype=np.int64)
    for part in parts.values():
        at, known = _rows_of(part, first_row, counts)
        for end, name in zip(ends, _RECEIVED[2:], strict=True):
            end[at] = part[f"received.{name}"][known]
    table["delivered_ns"], table["aggregated_ns"], table["staleness"] = ends
    table["sent_ns"] = _sent_by_arrival(table)
    # A receiver may have seen what its sender gave up as lost when the connection broke.
    lost = lost[table["delivered_ns"][lost] == NEVER]
    state = message_states(table, lost)
    order = np.lexsort((table["id"], table["sender"], table["queued_ns"]))
    ordered = {name: column[order] for name, column in {**table, "state": state}.items()}
    return {**ordered, "id": np.arange(rows, dtype=np.int64)}


def _rows_of(
    part: Mapping[str, Column], first_row: Mapping[tuple[int, int], int], counts: Mapping[tuple[int, int], int]
) -> tuple[Column, npt.NDArray[np.bool_]]:
    """Return the rows of the messages that a node received, and which of its arrivals have one."""
    number = part["received.number"] & ((1 << LIFE_SHIFT) - 1)
    senders = [*zip(part["received.from"].tolist(), (part["received.number"] >> LIFE_SHIFT).tolist(), strict=True)]
    first = np.array([first_row.get(sender, -1) for sender in senders], dtype=np.int64)
    known = (first >= 0) & (number < np.array([counts.get(sender, 0) for sender in senders], dtype=np.int64))
    return (first + number)[known], known


def _sent_by_arrival(table: Mapping[str, Column]) -> Column:
    """Return when each message was sent, at its arrival at the latest; a started message that arrived has been sent."""
    sent_ns, delivered_ns = table["sent_ns"], table["delivered_ns"]
    arrived = (delivered_ns != NEVER) & (table["started_ns"] != NEVER)
    late = arrived & ((sent_ns == NEVER) | (sent_ns > delivered_ns))
    return np.where(late, delivered_ns, sent_ns)


def _read(node: NodeId, data: bytes) -> dict[str, Column]:
    sent, received = [f"sent.{name}" for name in _SENT], [f"received.{name}" for name in _RECEIVED]
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as content:
            part = {name: content[name] for name in (*sent, *received, "lost")}
    except Exception as error:  # zip files and headers of arrays can be wrong in a dozen ways
        raise ProtocolError(f"records of node {node}: damaged: {error}") from error
    if any(column.dtype != np.int64 or column.ndim != 1 for column in part.values()):
        raise ProtocolError(f"records of node {node}: damaged: columns must be lists of int64")
    rows = len(part["sent.id"])
    if {len(part[name]) for name in sent} != {rows} or len({len(part[name]) for name in received}) != 1:
        raise ProtocolError(f"records of node {node}: damaged: columns differ in length")
    lost = part["lost"]
    if lost.size and not 0 <= lost.min() <= lost.max() < rows:
        raise ProtocolError(f"records of node {node}: damaged: a row that does not exist was lost")
    return part


def _joined(columns: list[Column]) -> Column:
    return np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)
