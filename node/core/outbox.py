"""Messages that wait for the uplink. Both drivers pull from an outbox what they send next.

An outbox knows the sender policy: which message may begin next, given those that are under way. There are two:
:class:`SharedOutbox`, one queue for all peers, for serial and parallel senders, and :class:`PeerOutbox`, a queue for
each peer. One message, as the outbox sees it:

=========  =======================================  ==========================================================
state      event                                    next
=========  =======================================  ==========================================================
(new)      :meth:`Outbox.append`                    queued, or may begin where the policy allows it
queued     :meth:`Outbox.ended` of another one      may begin, if it is the first in its queue
may begin  :meth:`Outbox.pop`                       under way, until :meth:`Outbox.ended`; no longer in the outbox
may begin  :meth:`Outbox.set_aside`                 queued, until :meth:`Outbox.resume`
=========  =======================================  ==========================================================

:meth:`Outbox.clear` drops all messages that are not under way.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence

from node.core.effects import Addressed
from node.core.messages import Message
from node.core.sender_policy import SenderPolicy
from node.core.types import NodeId


class Outbox(ABC):
    """The interface. Messages of a batch, which one ``Enqueue`` makes, have consecutive numbers, chosen by the driver.

    Attributes:
        startable: How many messages may begin now. Read before every :meth:`pop`.
    """

    __slots__ = ("startable",)

    startable: int

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of messages that are not under way."""

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """True while a message is queued or under way."""

    @abstractmethod
    def append(self, items: Sequence[Addressed], first: int) -> None:
        """Queue a batch; its messages are numbered ``first``, ``first + 1``, ..."""

    @abstractmethod
    def next(self) -> Addressed:
        """Return what :meth:`pop` would take out. Some message must be startable."""

    @abstractmethod
    def pop(self) -> tuple[Addressed, int]:
        """Take out the next message that may begin, which is under way from here on: what it is, and its number."""

    @abstractmethod
    def ended(self, receiver: NodeId) -> None:
        """Note that a message to ``receiver`` is no longer under way."""

    @abstractmethod
    def set_aside(self) -> None:
        """Keep the next message, and what waits behind it, from beginning until :meth:`resume`."""

    @abstractmethod
    def resume(self) -> None:
        """Let what was set aside begin where the policy allows it."""

    @abstractmethod
    def numbers(self) -> Iterator[range]:
        """Iterate over the numbers of the messages, in increasing order."""

    @abstractmethod
    def clear(self) -> None:
        """Drop all messages."""

    @abstractmethod
    def replace(self, old: Message, new: Message) -> list[int]:
        """Put ``new`` in the place of every message that is ``old``; returns their numbers in increasing order."""


class SharedOutbox(Outbox):
    """A first-in first-out queue of batches; a number of messages may be under way, whoever receives them.

    A batch keeps the sequence that the algorithm gave, which may be a compact one, and a position in it.

    Args:
        transfers: Messages that may be under way at a time, >= 1.

    State:
        _batches: Batches after the one being pulled from, each with the number of its first message.
        _items, _position, _first: The batch being pulled from; empty when the outbox is.
        _end: Items in the batch being pulled from, wherever the position is.
        _length: Messages in all batches.
        _transfers: Messages that may be under way at a time.
        _free: Messages that may begin besides those under way.
        _aside: Whether the head is set aside.
    """

    __slots__ = ("_aside", "_batches", "_end", "_first", "_free", "_items", "_length", "_position", "_transfers")

    def __init__(self, transfers: int) -> None:
        self.startable = 0
        self._batches: deque[tuple[Sequence[Addressed], int]] = deque()
        self._items: Sequence[Addressed] = ()
        self._position = 0
        self._first = 0
        self._end = 0
        self._length = 0
        self._transfers = self._free = transfers
        self._aside = False

    def __len__(self) -> int:
        """See :class:`Outbox`."""
        return self._length

    @property
    def is_busy(self) -> bool:
        """See :class:`Outbox`."""
        return self._length > 0 or self._free < self._transfers

    def append(self, items: Sequence[Addressed], first: int) -> None:
        """See :class:`Outbox`."""
        if not items:
            return
        if self._length:
            self._batches.append((items, first))
        else:
            self._items, self._first, self._position, self._end = items, first, 0, len(items)
        self._length += len(items)
        self._count_startable()

    def next(self) -> Addressed:
        """See :class:`Outbox`."""
        return self._items[self._position]

    def pop(self) -> tuple[Addressed, int]:
        """See :class:`Outbox`."""
        position = self._position
        addressed = self._items[position]
        number = self._first + position
        self._length -= 1
        self._free -= 1
        self.startable -= 1
        self._position = position = position + 1
        if position == self._end:
            self._items, self._first = self._batches.popleft() if self._batches else ((), 0)
            self._position, self._end = 0, len(self._items)
        return addressed, number

    def ended(self, receiver: NodeId) -> None:
        """See :class:`Outbox`."""
        self._free = free = self._free + 1
        length = self._length
        if length and not self._aside:
            # As in _count_startable, written out: this is called for every message of a simulation.
            self.startable = free if free < length else length

    def set_aside(self) -> None:
        """See :class:`Outbox`."""
        self._aside = True
        self.startable = 0

    def resume(self) -> None:
        """See :class:`Outbox`."""
        if self._aside:
            self._aside = False
            self._count_startable()

    def numbers(self) -> Iterator[range]:
        """See :class:`Outbox`."""
        yield range(self._first + self._position, self._first + self._end)
        for items, first in self._batches:
            yield range(first, first + len(items))

    def clear(self) -> None:
        """See :class:`Outbox`."""
        self._batches.clear()
        self._items, self._position, self._first, self._end, self._length = (), 0, 0, 0, 0
        self._aside = False
        self.startable = 0

    def replace(self, old: Message, new: Message) -> list[int]:
        """See :class:`Outbox`."""
        replaced = []
        batches = [(self._items, self._first), *self._batches]
        for index, (items, first) in enumerate(batches):
            start = self._position if index == 0 else 0
            found = [at for at in range(start, len(items)) if items[at][1] is old]
            if found:
                replaced += [first + at for at in found]
                batches[index] = ([(to, new if what is old else what) for to, what in items], first)
        (self._items, self._first), self._batches = batches[0], deque(batches[1:])
        return replaced

    def _count_startable(self) -> None:
        self.startable = 0 if self._aside else min(self._free, self._length)


class PeerOutbox(Outbox):
    """A first-in first-out queue for each peer; one message to each peer may be under way.

    Heads of several queues that may begin do so in the order in which they were queued.

    State:
        _heads: Messages that may begin: receiver, message, number; in order of number, at most one a receiver.
        _taken: Peers with a head, or with a message under way or set aside.
        _waiting: What waits behind these, by peer: message, number. No entry is empty.
        _aside: Heads that were set aside, in the order in which they were.
        _length: Messages in all of these.
    """

    __slots__ = ("_aside", "_heads", "_length", "_taken", "_waiting")

    def __init__(self) -> None:
        self.startable = 0
        self._heads: deque[tuple[NodeId, Message, int]] = deque()
        self._taken: dict[NodeId, None] = {}
        self._waiting: dict[NodeId, deque[tuple[Message, int]]] = {}
        self._aside: list[tuple[NodeId, Message, int]] = []
        self._length = 0

    def __len__(self) -> int:
        """See :class:`Outbox`."""
        return self._length

    @property
    def is_busy(self) -> bool:
        """See :class:`Outbox`."""
        return bool(self._taken)

    def append(self, items: Sequence[Addressed], first: int) -> None:
        """See :class:`Outbox`."""
        heads, taken, waiting = self._heads, self._taken, self._waiting
        number = first
        for receiver, message in items:
            if receiver not in taken:
                taken[receiver] = None
                heads.append((receiver, message, number))
            elif receiver in waiting:
                waiting[receiver].append((message, number))
            else:
                waiting[receiver] = deque([(message, number)])
            number += 1
        self._length += len(items)
        self.startable = len(heads)

    def next(self) -> Addressed:
        """See :class:`Outbox`."""
        receiver, message, _ = self._heads[0]
        return receiver, message

    def pop(self) -> tuple[Addressed, int]:
        """See :class:`Outbox`."""
        receiver, message, number = self._heads.popleft()
        self._length -= 1
        self.startable -= 1
        return (receiver, message), number

    def ended(self, receiver: NodeId) -> None:
        """See :class:`Outbox`."""
        queue = self._waiting.get(receiver)
        if queue is None:
            del self._taken[receiver]
            return
        message, number = queue.popleft()
        if not queue:
            del self._waiting[receiver]
        self._insert_head((receiver, message, number))

    def set_aside(self) -> None:
        """See :class:`Outbox`."""
        self._aside.append(self._heads.popleft())
        self.startable -= 1

    def resume(self) -> None:
        """See :class:`Outbox`."""
        if self._aside:
            for head in self._aside:
                self._insert_head(head)
            self._aside.clear()

    def numbers(self) -> Iterator[range]:
        """See :class:`Outbox`."""
        heads = [number for _, _, number in (*self._heads, *self._aside)]
        numbers = sorted([*heads, *(number for queue in self._waiting.values() for _, number in queue)])
        begin = 0
        for at in range(1, len(numbers) + 1):
            if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
                yield range(numbers[begin], numbers[at - 1] + 1)
                begin = at

    def clear(self) -> None:
        """See :class:`Outbox`."""
        for receiver, _, _ in (*self._heads, *self._aside):
            del self._taken[receiver]
        self._heads.clear()
        self._aside.clear()
        self._waiting.clear()
        self._length = self.startable = 0

    def replace(self, old: Message, new: Message) -> list[int]:
        """See :class:`Outbox`."""
        replaced = []
        for heads in (self._heads, self._aside):
            for at, (receiver, message, number) in enumerate(heads):
                if message is old:
                    heads[at] = (receiver, new, number)
                    replaced.append(number)
        for queue in self._waiting.values():
            for at, (message, number) in enumerate(queue):
                if message is old:
                    queue[at] = (new, number)
                    replaced.append(number)
        return sorted(replaced)

    def _insert_head(self, head: tuple[NodeId, Message, int]) -> None:
        heads = self._heads
        place = len(heads)
        while place and heads[place - 1][2] > head[2]:
            place -= 1
        heads.insert(place, head)
        self.startable += 1


def make_outbox(policy: SenderPolicy) -> Outbox:
    """Return an empty outbox that keeps to a sender policy."""
    return PeerOutbox() if policy.per_peer else SharedOutbox(policy.transfers)
