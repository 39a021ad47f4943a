"""A node's sending side: the outbox, the transfers under way, and what becomes of every message. Pure.

Knows no clock: every call brings its time. The states of a transfer are those of :mod:`node.runtime.path`; before it a
message is queued, and may leave the outbox for good:

=======  ===============================  ===================================================================
state    event                            next
=======  ===============================  ===================================================================
(new)    :meth:`Sending.enqueue`          queued
queued   :meth:`Sending.cancel`           cancelled, for good
queued   :meth:`Sending.replace`          queued, with another content
queued   a transfer may begin             started; the table in :mod:`node.runtime.path` goes on from here
=======  ===============================  ===================================================================

What is queued for a peer that cannot be reached is lost as soon as it would begin; it takes nothing of any link.

A transfer may begin when the sender policy allows it, which the outbox knows, and the path has room for the message.
Both change only in the calls of this class, and each ends with a look: nothing here waits for a timer. Where each peer
has a queue and the path has no room for one peer, the others' messages begin all the same.

While the path has not said what became of transfers that it was asked to give up, nothing begins: what begins then
begins in the order of the queue, as if the transfers had ended at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from node.core.bodies import Body
from node.core.counters import NodeCounters
from node.core.effects import Addressed
from node.core.message_log import NEVER
from node.core.messages import Message
from node.core.outbox import make_outbox
from node.core.types import NodeId
from node.runtime.accounting import Accounting
from node.runtime.message_records import Records
from node.runtime.path import Path
from node.runtime.slots import PeerSlots, QueueTimes, SharedSlots
from node.runtime.standstills import Standstills
from node.runtime.story import Story


@dataclass(slots=True)
class _Transfer:
    receiver: NodeId
    body: Body
    wire_bytes: int
    aborted: bool = False


class Sending:
    """One node's outbox and transfers; listens to its path (:class:`node.runtime.path.PathEvents`).

    Args:
        node: The sender.
        path: Takes the messages.
        accounting: What a message takes on the wire.
        counters: Counts what happens.
        records: Keeps the life of every message; None where nobody wants it.
        story: Keeps the last events.
        standstills: When the node stands still on purpose; no transfer begins then.
    """

    def __init__(
        self,
        node: NodeId,
        path: Path,
        accounting: Accounting,
        counters: NodeCounters,
        records: Records | None,
        story: Story,
        standstills: Standstills,
    ) -> None:
        self._node = node
        self._path = path
        self._accounting = accounting
        self._counters = counters
        self._records = records
        self._story = story
        self._outbox = make_outbox(path.sender)
        self._next_number = 0
        self._queue_times = QueueTimes()
        self._transfers: dict[int, _Transfer] = {}  # started ones
        self._slots = PeerSlots() if path.sender.per_peer else SharedSlots(path.sender.transfers)
        self._aborting = 0  # transfers that the path was asked to give up and has said nothing of yet
        self._standstills = standstills
        self._gone: set[NodeId] = set()
        self._stopped = False

    def __len__(self) -> int:
        """Messages in the outbox."""
        return len(self._outbox)

    def stop(self) -> None:
        """Begin no further transfer."""
        self._stopped = True

    def crash(self, at_ns: int) -> None:
        """Lose all that is queued or under way. How much of it had left, nobody can say any more."""
        self.cancel(abort_in_flight=False, at_ns=at_ns)
        self._counters.messages_aborted += len(self._transfers)
        if self._records is not None:
            for number in self._transfers:
                self._records.sent.aborted(number, at_ns)
        self._transfers.clear()
        self.stop()

    def peer_changed(self, peer: NodeId, *, is_there: bool) -> None:
        """Give up what is under way to a peer that cannot be reached any more, or reach for one that can again."""
        if is_there:
            self._gone.discard(peer)
            return
        self._gone.add(peer)
        for number, transfer in self._transfers.items():
            if transfer.receiver == peer:
                self._abort(number, transfer)

    # -- called by the driver ----------------------------------------------------------------------------------

    def enqueue(self, items: Sequence[Addressed], at_ns: int) -> None:
        """Append messages to the outbox; :meth:`pull` begins what can begin."""
        if not items:
            return
        self._counters.messages_queued += len(items)
        if self._records is not None:
            self._records.sent.queued(at_ns, self._node, items)
        self._outbox.append(items, self._next_number)
        self._queue_times.append(self._next_number, at_ns, self._oldest_queued)
        self._next_number += len(items)
        self._story.tell(at_ns, "queued {} messages", len(items))

    def cancel(self, abort_in_flight: bool, at_ns: int) -> None:
        """Empty the outbox, and ask the path to give up what is under way if that is wanted."""
        cancelled = len(self._outbox)
        self._counters.messages_cancelled += cancelled
        if self._records is not None:
            for numbers in self._outbox.numbers():
                self._records.sent.cancelled(numbers, at_ns)
        self._outbox.clear()
        self._queue_times.clear()
        if cancelled:
            self._story.tell(at_ns, "cancelled {} queued messages", cancelled)
        if abort_in_flight:
            for number, transfer in self._transfers.items():
                self._abort(number, transfer)

    def _abort(self, number: int, transfer: _Transfer) -> None:
        if not transfer.aborted:
            transfer.aborted = True
            self._aborting += 1
            self._path.abort(number)

    def replace(self, old: Message, new: Message) -> None:
        """Exchange the content of queued messages; what is under way stays."""
        rows = self._outbox.replace(old, new)
        if self._records is not None:
            self._records.sent.replaced(rows, new)

    def pull(self, not_before_ns: int = 0) -> None:
        """Begin the transfers that may begin while the path takes more.

        Each has begun when its message was queued and a transfer was free, which may be a moment ago.
        """
        outbox, path = self._outbox, self._path
        if self._stopped or self._aborting:
            return
        outbox.resume()
        while outbox.startable:
            if outbox.next()[0] in self._gone:
                self._lose_next()
                continue
            if not path.has_room(*outbox.next()):
                outbox.set_aside()  # room(), arrived(), lost() or aborted() looks again
                continue
            (receiver, message), number = outbox.pop()
            queued_ns = self._queue_times.of(number)
            ready_ns = self._standstills.runs_from(max(not_before_ns, self._slots.take(receiver), queued_ns))
            transfer = self._transfers[number] = _Transfer(receiver, message.body, 0)
            transfer.wire_bytes = wire_bytes = path.send(number, receiver, message, ready_ns)
            if self._records is not None:
                self._records.sent.started.extend((number, ready_ns))
                if wire_bytes != self._accounting.wire_bytes(message):
                    self._records.sent.resent[number] = wire_bytes

    def _lose_next(self) -> None:
        """Lose the next message, whose receiver cannot be reached."""
        (receiver, _), number = self._outbox.pop()
        self._outbox.ended(receiver)
        at_ns = max(self._slots.take(receiver), self._queue_times.of(number))
        self._slots.give_back(receiver, at_ns)
        self._counters.messages_lost += 1
        if self._records is not None:
            self._records.sent.started.extend((number, at_ns))
            self._records.sent.sent.extend((number, at_ns, NEVER))
            self._records.sent.lost(number)
        self._story.tell(at_ns, "lost message {}: node {} cannot be reached", number, receiver)

    def _oldest_queued(self) -> int:
        return next(numbers.start for numbers in self._outbox.numbers() if numbers)

    # -- called by the path ------------------------------------------------------------------------------------

    def sent(self, number: int, at_ns: int) -> None:
        """See :class:`node.runtime.path.PathEvents`."""
        transfer = self._ended(number, at_ns)
        assert transfer is not None, number
        count = self._counters
        count.messages_sent += 1
        count.bytes_sent += transfer.wire_bytes
        body = transfer.body
        if body.is_control:
            count.messages_control += 1
        else:
            count.bytes_payload += body.payload_bytes(self._accounting.dtype)
            count.bytes_index += body.index_bytes + body.header_bytes
        if self._records is not None:
            self._records.sent.sent.extend((number, at_ns, NEVER))  # its receiver knows when it arrived
        self._story.tell(at_ns, "sent message {} to node {}", number, transfer.receiver)
        self.pull()

    def arrived(self, number: int, at_ns: int) -> None:
        """See :class:`node.runtime.path.PathEvents`."""
        self.pull(at_ns)

    def room(self, at_ns: int) -> None:
        """See :class:`node.runtime.path.PathEvents`."""
        self.pull(at_ns)

    def lost(self, number: int, wire_bytes: int, at_ns: int) -> None:
        """See :class:`node.runtime.path.PathEvents`."""
        self._ended(number, at_ns)  # where it never left
        self._counters.messages_lost += 1
        self._counters.bytes_lost += wire_bytes
        if self._records is not None:
            self._records.sent.lost(number)
        self._story.tell(at_ns, "lost message {}", number)
        self.pull(at_ns)

    def aborted(self, number: int, sent_bytes: int, at_ns: int) -> None:
        """See :class:`node.runtime.path.PathEvents`."""
        self._ended(number, at_ns)
        count = self._counters
        count.messages_aborted += 1
        count.bytes_wasted += sent_bytes
        count.bytes_sent += sent_bytes
        if self._records is not None:
            self._records.sent.aborted(number, at_ns)
        self._story.tell(at_ns, "aborted message {} after {} bytes", number, sent_bytes)
        self.pull()

    def _ended(self, number: int, at_ns: int) -> _Transfer | None:
        """Take out a started transfer, which leaves its place to another one; None where it is not one."""
        transfer = self._transfers.pop(number, None)
        if transfer is not None:
            self._slots.give_back(transfer.receiver, at_ns)
            self._outbox.ended(transfer.receiver)
            self._aborting -= transfer.aborted
        return transfer
