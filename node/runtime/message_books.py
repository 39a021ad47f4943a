"""A node's books on its messages: figures, the same by tag, histograms, and records where they are kept.

Whatever happens to a message is noted here, once, in plain numbers: a few additions a message. Whoever wants more makes
it of these numbers when it is asked for, as :mod:`node.runtime.readings` does for a scrape.

By tag there is one thing more to know than by message: which tag waits how often in the outbox, and which tag a message
had that has left and may still be lost.
"""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from node.core.bodies import Body
from node.core.counters import NodeCounters
from node.core.effects import Addressed
from node.core.message_log import NEVER
from node.core.messages import Message
from node.core.recipients import Fanout
from node.core.types import NodeId
from node.core.units import s_to_ns
from node.metrics import ROUNDS, SECONDS
from node.runtime.accounting import Accounting
from node.runtime.message_records import Records

TAGS: Final = 256
"""A tag is one byte of a frame."""

DELIVERIES_KEPT: Final = 2**18
"""Deliveries of which tag, round and arrival are kept until they are averaged in. The oldest give way: one that is
averaged in after so many others have arrived counts as the one that took its place."""


class BucketCounts:
    """Counts of whole numbers in buckets.

    Args:
        bounds: The upper bounds of the buckets, increasing, in the unit of the numbers.

    Attributes:
        counts: How many numbers are in each bucket, and last those beyond all bounds.
        total: Their sum.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Iterable[int]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0

    def add(self, value: int) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add_all(self, values: Sequence[int]) -> None:
        """Count several."""
        counts, bounds = self.counts, self.bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.total += sum(values)


@dataclass(slots=True)
class Outgoing:
    """A transfer that has begun and not ended.

    Attributes:
        receiver: To whom.
        tag: The message's.
        body: Its body.
        started_ns: When it began, testbed time.
        wire_bytes: What it takes on the wire.
        aborted: The path was asked to give it up.
    """

    receiver: NodeId
    tag: int
    body: Body
    started_ns: int
    wire_bytes: int = 0
    aborted: bool = False


class MessageBooks:
    """The books of one node.

    Args:
        accounting: What a message takes on the wire, and whether records are kept.
        counters: The node's figures.

    Attributes:
        records: The life of every message; None where they are not kept.
        by_fate: For each fate, such as ``queued``, how many messages of each tag met it. The sum over all tags is the
            figure ``messages_`` and the fate.
        transfer_ns: From the first to the last byte of each message sent.
        waited_ns: From the arrival to the averaging of each message averaged in.
        staleness: The node's round minus the stamped one of each message averaged in.
    """

    def __init__(self, accounting: Accounting, counters: NodeCounters) -> None:
        self.records = Records(accounting.header_bytes, accounting.dtype) if accounting.keep_messages else None
        self.transfer_ns = BucketCounts(s_to_ns(bound) for bound in SECONDS)
        self.waited_ns = BucketCounts(s_to_ns(bound) for bound in SECONDS)
        self.staleness = BucketCounts(int(bound) for bound in ROUNDS)
        self._accounting = accounting
        self._counters = counters
        self._queued, self._sent, self._delivered, self._aggregated = ([0] * TAGS for _ in range(4))
        self._cancelled, self._aborted, self._lost = ([0] * TAGS for _ in range(3))
        self._waiting: Counter[int] = Counter()  # tag -> messages in the outbox
        self._left: dict[int, int] = {}  # message that has left and may be lost -> its tag
        self._deliveries = 0
        self._arrivals = array("q")  # tag, round and time of the last deliveries; a ring once it is full

    @property
    def by_fate(self) -> dict[str, list[int]]:
        """See the class."""
        return {
            "queued": self._queued,
            "sent": self._sent,
            "delivered": self._delivered,
            "aggregated": self._aggregated,
            "cancelled": self._cancelled,
            "aborted": self._aborted,
            "lost": self._lost,
        }

    # -- sent by the node --------------------------------------------------------------------------------------

    def queued(self, node: NodeId, items: Sequence[Addressed], at_ns: int) -> None:
        """Messages were appended to the outbox."""
        self._counters.messages_queued += len(items)
        if self.records is not None:
            self.records.sent.queued(at_ns, node, items)
        for tag, count in _count_tags(items):
            self._queued[tag] += count
            self._waiting[tag] += count

    def replaced(self, rows: Sequence[int], old: Message, new: Message) -> None:
        """Queued messages were exchanged for another one."""
        self._waiting[old.tag] -= len(rows)
        self._waiting[new.tag] += len(rows)
        if self.records is not None:
            self.records.sent.replaced(rows, new)

    def cancelled(self, numbers: Iterable[range], at_ns: int) -> int:
        """All that was in the outbox was taken out of it; returns how many messages that were."""
        cancelled = self._waiting.total()
        for tag, count in self._waiting.items():
            self._cancelled[tag] += count
        self._waiting.clear()
        self._counters.messages_cancelled += cancelled
        if self.records is not None:
            for rows in numbers:
                self.records.sent.cancelled(rows, at_ns)
        return cancelled

    def started(self, number: int, message: Message, transfer: Outgoing) -> None:
        """A message has left the outbox, and its transfer has begun."""
        self._waiting[transfer.tag] -= 1
        if self.records is not None:
            self.records.sent.started.extend((number, transfer.started_ns))
            if transfer.wire_bytes != self._accounting.wire_bytes(message):
                self.records.sent.resent[number] = transfer.wire_bytes

    def unreachable(self, number: int, tag: int, at_ns: int) -> None:
        """A message has left the outbox and is lost, because its receiver cannot be reached."""
        self._waiting[tag] -= 1
        self._lost[tag] += 1
        self._counters.messages_lost += 1
        if self.records is not None:
            self.records.sent.started.extend((number, at_ns))
            self.records.sent.lost(number)

    def sent(self, number: int, transfer: Outgoing, at_ns: int) -> None:
        """The last byte of a message has left."""
        count, body = self._counters, transfer.body
        count.messages_sent += 1
        count.bytes_sent += transfer.wire_bytes
        if body.is_control:
            count.messages_control += 1
        else:
            count.bytes_payload += body.payload_bytes(self._accounting.dtype)
            count.bytes_index += body.index_bytes + body.header_bytes
        self._sent[transfer.tag] += 1
        self._left[number] = transfer.tag
        self.transfer_ns.add(at_ns - transfer.started_ns)
        if self.records is not None:
            self.records.sent.sent.extend((number, at_ns, NEVER))  # its receiver knows when it arrived

    def arrived(self, number: int) -> None:
        """A message has arrived, by what the sender knows."""
        self._left.pop(number, None)

    def lost(self, number: int, transfer: Outgoing | None, wire_bytes: int) -> None:
        """A message will not arrive; ``transfer`` is None where it had left."""
        tag = self._left.pop(number, 0) if transfer is None else transfer.tag
        self._lost[tag] += 1
        self._counters.messages_lost += 1
        self._counters.bytes_lost += wire_bytes
        if self.records is not None:
            self.records.sent.lost(number)

    def aborted(self, number: int, transfer: Outgoing | None, sent_bytes: int, at_ns: int) -> None:
        """A transfer was given up after so many bytes."""
        count = self._counters
        count.messages_aborted += 1
        count.bytes_wasted += sent_bytes
        count.bytes_sent += sent_bytes
        self._aborted[0 if transfer is None else transfer.tag] += 1
        if self.records is not None:
            self.records.sent.aborted(number, at_ns, sent_bytes)

    # -- received by the node ----------------------------------------------------------------------------------

    def delivered(self, sender: NodeId, number: int, message: Message, at_ns: int) -> int:
        """A message has arrived here; returns the number of this delivery."""
        self._counters.messages_delivered += 1
        self._counters.bytes_received += self._accounting.wire_bytes(message)
        self._delivered[message.tag] += 1
        delivery, arrivals = self._deliveries, self._arrivals
        self._deliveries += 1
        if delivery < DELIVERIES_KEPT:
            arrivals.extend((message.tag, message.round, at_ns))
        else:
            at = 3 * (delivery % DELIVERIES_KEPT)
            arrivals[at], arrivals[at + 1], arrivals[at + 2] = message.tag, message.round, at_ns
        if self.records is not None:
            self.records.delivered(sender, number, message.round, at_ns)
        return delivery

    def aggregated(self, deliveries: Sequence[int], at_ns: int, current_round: int) -> None:
        """Deliveries have entered the model in the node's ``current_round``, counted from 0."""
        arrivals = self._arrivals
        self._counters.messages_aggregated += len(deliveries)
        rows = [3 * (delivery % DELIVERIES_KEPT) for delivery in deliveries]
        for row in rows:
            self._aggregated[arrivals[row]] += 1
        self.staleness.add_all([current_round - arrivals[row + 1] for row in rows])
        self.waited_ns.add_all([at_ns - arrivals[row + 2] for row in rows])
        if self.records is not None:
            self.records.aggregated(deliveries, at_ns, current_round)


def _count_tags(items: Sequence[Addressed]) -> Iterable[tuple[int, int]]:
    """Count how many of some addressed messages have each tag."""
    if isinstance(items, Fanout):
        tags = [int(message.tag) for message in items.messages]
        if len(set(tags)) == 1:  # as a round's fragments have
            return [(tags[0], len(items))]
        of_items = [tags[index] for index in items.which]
    else:
        of_items = [int(message.tag) for _, message in items]
    return [(tag, of_items.count(tag)) for tag in set(of_items)]
