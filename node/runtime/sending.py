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

A transfer may begin when fewer than the path's transfers are started and the path has room for the head of the
outbox. Both change only in the calls of this class, and each ends with a look: nothing waits for a timer.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from node.core.bodies import Body
from node.core.counters import NodeCounters
from node.core.effects import Addressed
from node.core.message_log import NEVER
from node.core.messages import Message
from node.core.outbox import Outbox
from node.core.types import NodeId
from node.runtime.accounting import Accounting
from node.runtime.message_records import Records
from node.runtime.path import Path
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
    """

    def __init__(
        self,
        node: NodeId,
        path: Path,
        accounting: Accounting,
        counters: NodeCounters,
        records: Records | None,
        story: Story,
    ) -> None:
        self._node = node
        self._path = path
        self._accounting = accounting
        self._counters = counters
        self._records = records
        self._story = story
        self._outbox = Outbox()
        self._next_number = 0
        self._batches: deque[tuple[int, int]] = deque()  # first number and time of each batch in the outbox
        self._transfers: dict[int, _Transfer] = {}  # started ones
        self._free_since_ns = [0] * path.transfers  # a heap: since when each transfer that may be begun could be
        self._stopped = False

    def __len__(self) -> int:
        """Messages in the outbox."""
        return len(self._outbox)

    def stop(self) -> None:
        """Begin no further transfer."""
        self._stopped = True

    # -- called by the driver ----------------------------------------------------------------------------------

    def enqueue(self, items: Sequence[Addressed], at_ns: int) -> None:
        """Append messages to the outbox; :meth:`pull` begins what can begin."""
        if not items:
            return
        self._counters.messages_queued += len(items)
        if self._records is not None:
            self._records.sent.queued(at_ns, self._node, items)
        self._outbox.append(items, self._next_number)
        self._batches.append((self._next_number, at_ns))
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
        self._batches.clear()
        if cancelled:
            self._story.tell(at_ns, "cancelled {} queued messages", cancelled)
        if abort_in_flight:
            for number, transfer in self._transfers.items():
                if not transfer.aborted:
                    transfer.aborted = True
                    self._path.abort(number)

    def replace(self, old: Message, new: Message) -> None:
        """Exchange the content of queued messages; what is under way stays."""
        rows = self._outbox.replace(old, new)
        if self._records is not None:
            self._records.sent.replaced(rows, new)

    def pull(self, not_before_ns: int = 0) -> None:
        """Begin transfers from the head of the outbox while the path takes more.

        Each has begun when its message was queued and a transfer was free, which may be a moment ago.
        """
        outbox, path = self._outbox, self._path
        while outbox and len(self._transfers) < path.transfers and not self._stopped:
            if not path.has_room(outbox.head()):
                return  # arrived(), lost() or aborted() looks again
            (receiver, message), number = outbox.pop()
            ready_ns = max(not_before_ns, heappop(self._free_since_ns), self._queued_ns(number))
            transfer = self._transfers[number] = _Transfer(receiver, message.body, 0)
            transfer.wire_bytes = wire_bytes = path.send(number, receiver, message, ready_ns)
            if self._records is not None:
                self._records.sent.started.extend((number, ready_ns))
                if wire_bytes != self._accounting.wire_bytes(message):
                    self._records.sent.resent[number] = wire_bytes

    def _queued_ns(self, number: int) -> int:
        """When a message that leaves the outbox was queued; numbers leave it in increasing order."""
        batches = self._batches
        while len(batches) > 1 and batches[1][0] <= number:
            batches.popleft()
        return batches[0][1]

    # -- called by the path ------------------------------------------------------------------------------------

    def sent(self, number: int, at_ns: int) -> None:
        """See :class:`node.runtime.path.PathEvents`."""
        transfer = self._transfers.pop(number)
        heappush(self._free_since_ns, at_ns)
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

    def lost(self, number: int, wire_bytes: int, at_ns: int) -> None:
        """See :class:`node.runtime.path.PathEvents`."""
        if self._transfers.pop(number, None) is not None:  # it never left
            heappush(self._free_since_ns, at_ns)
        self._counters.messages_lost += 1
        self._counters.bytes_lost += wire_bytes
        if self._records is not None:
            self._records.sent.lost(number)
        self._story.tell(at_ns, "lost message {}", number)
        self.pull(at_ns)

    def aborted(self, number: int, sent_bytes: int, at_ns: int) -> None:
        """See :class:`node.runtime.path.PathEvents`."""
        del self._transfers[number]
        heappush(self._free_since_ns, at_ns)
        count = self._counters
        count.messages_aborted += 1
        count.bytes_wasted += sent_bytes
        count.bytes_sent += sent_bytes
        if self._records is not None:
            self._records.sent.aborted(number, at_ns)
        self._story.tell(at_ns, "aborted message {} after {} bytes", number, sent_bytes)
        self.pull()
