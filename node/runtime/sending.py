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

from node.core.effects import Addressed
from node.core.messages import Message
from node.core.outbox import make_outbox
from node.core.types import NodeId
from node.runtime.message_books import MessageBooks, Outgoing
from node.runtime.path import Path
from node.runtime.slots import PeerSlots, QueueTimes, SharedSlots
from node.runtime.story import Story
from node.runtime.time_spent import TimeSpent


class Sending:
    """One node's outbox and transfers; listens to its path (:class:`node.runtime.path.PathEvents`).

    Args:
        node: The sender.
        path: Takes the messages.
        books: Note what happens.
        story: Keeps the last events.
        time_spent: Told when nothing is queued or under way any more. No transfer begins in a pause of the node.
    """

    def __init__(
        self,
        node: NodeId,
        path: Path,
        books: MessageBooks,
        story: Story,
        time_spent: TimeSpent,
    ) -> None:
        self._node = node
        self._path = path
        self._books = books
        self._story = story
        self._outbox = make_outbox(path.sender)
        self._next_number = 0
        self._queue_times = QueueTimes()
        self._transfers: dict[int, Outgoing] = {}  # started ones
        self._slots = PeerSlots() if path.sender.per_peer else SharedSlots(path.sender.transfers)
        self._aborting = 0  # transfers that the path was asked to give up and has said nothing of yet
        self._time_spent = time_spent
        self._gone: set[NodeId] = set()
        self._stopped = False

    def __len__(self) -> int:
        """Messages in the outbox."""
        return len(self._outbox)

    @property
    def is_busy(self) -> bool:
        """True while a message is queued or under way."""
        return self._outbox.is_busy

    def stop(self) -> None:
        """Begin no further transfer."""
        self._stopped = True

    def crash(self, at_ns: int) -> None:
        """Lose all that is queued or under way. How much of it had left, nobody can say any more."""
        self.cancel(abort_in_flight=False, at_ns=at_ns)
        for number, transfer in self._transfers.items():
            self._books.aborted(number, transfer, 0, at_ns)
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
        self._books.queued(self._node, items, at_ns)
        self._outbox.append(items, self._next_number)
        self._queue_times.append(self._next_number, at_ns, self._oldest_queued)
        self._next_number += len(items)
        self._story.tell(at_ns, "queued {} messages", len(items))

    def cancel(self, abort_in_flight: bool, at_ns: int) -> None:
        """Empty the outbox, and ask the path to give up what is under way if that is wanted."""
        cancelled = self._books.cancelled(self._outbox.numbers(), at_ns)
        self._outbox.clear()
        self._queue_times.clear()
        if cancelled:
            self._story.tell(at_ns, "cancelled {} queued messages", cancelled)
        if abort_in_flight:
            for number, transfer in self._transfers.items():
                self._abort(number, transfer)

    def _abort(self, number: int, transfer: Outgoing) -> None:
        if not transfer.aborted:
            transfer.aborted = True
            self._aborting += 1
            self._path.abort(number)

    def replace(self, old: Message, new: Message) -> None:
        """Exchange the content of queued messages; what is under way stays."""
        self._books.replaced(self._outbox.replace(old, new), old, new)

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
            ready_ns = self._time_spent.pauses.runs_from(max(not_before_ns, self._slots.take(receiver), queued_ns))
            transfer = self._transfers[number] = Outgoing(receiver, message.tag, message.body, ready_ns)
            transfer.wire_bytes = path.send(number, receiver, message, ready_ns)
            self._books.started(number, message, transfer)

    def _lose_next(self) -> None:
        """Lose the next message, whose receiver cannot be reached."""
        (receiver, message), number = self._outbox.pop()
        self._outbox.ended(receiver)
        at_ns = max(self._slots.take(receiver), self._queue_times.of(number))
        self._slots.give_back(receiver, at_ns)
        self._books.unreachable(number, message.tag, at_ns)
        self._story.tell(at_ns, "lost message {}: node {} cannot be reached", number, receiver)

    def _oldest_queued(self) -> int:
        return next(numbers.start for numbers in self._outbox.numbers() if numbers)

    # -- called by the path ------------------------------------------------------------------------------------

    def sent(self, number: int, at_ns: int) -> None:
        """See :class:`node.runtime.path.PathEvents`."""
        transfer = self._ended(number, at_ns)
        assert transfer is not None, number
        self._books.sent(number, transfer, at_ns)
        self._story.tell(at_ns, "sent message {} to node {}", number, transfer.receiver)
        self._go_on(at_ns)

    def arrived(self, number: int, at_ns: int) -> None:
        """See :class:`node.runtime.path.PathEvents`."""
        self._books.arrived(number)
        self._go_on(at_ns, not_before_ns=at_ns)

    def room(self, at_ns: int) -> None:
        """See :class:`node.runtime.path.PathEvents`."""
        self._go_on(at_ns, not_before_ns=at_ns)

    def lost(self, number: int, wire_bytes: int, at_ns: int) -> None:
        """See :class:`node.runtime.path.PathEvents`."""
        transfer = self._ended(number, at_ns)  # None where it had left
        self._books.lost(number, transfer, wire_bytes)
        self._story.tell(at_ns, "lost message {}", number)
        self._go_on(at_ns, not_before_ns=at_ns)

    def aborted(self, number: int, sent_bytes: int, at_ns: int) -> None:
        """See :class:`node.runtime.path.PathEvents`."""
        self._books.aborted(number, self._ended(number, at_ns), sent_bytes, at_ns)
        self._story.tell(at_ns, "aborted message {} after {} bytes", number, sent_bytes)
        self._go_on(at_ns)

    def _go_on(self, at_ns: int, not_before_ns: int = 0) -> None:
        self.pull(not_before_ns)
        if not self._outbox.is_busy:
            self._time_spent.sent_all(at_ns)

    def _ended(self, number: int, at_ns: int) -> Outgoing | None:
        """Take out a started transfer, which leaves its place to another one; None where it is not one."""
        transfer = self._transfers.pop(number, None)
        if transfer is not None:
            self._slots.give_back(transfer.receiver, at_ns)
            self._outbox.ended(transfer.receiver)
            self._aborting -= transfer.aborted
        return transfer
