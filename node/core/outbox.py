"""Messages that wait for the uplink, in order. Both drivers pull from it what they send next."""

from collections import deque
from collections.abc import Iterator, Sequence

from node.core.effects import Addressed
from node.core.messages import Message


class Outbox:
    """A first-in first-out queue of batches, each made by one ``Enqueue``.

    A batch keeps the sequence that the algorithm gave, which may be a compact one, and a position in it. Its
    messages have consecutive numbers, chosen by the driver.

    State:
        _batches: Batches after the one being pulled from, each with the number of its first message.
        _items, _position, _first: The batch being pulled from; empty when the outbox is.
        _length: Messages in all batches.
    """

    __slots__ = ("_batches", "_first", "_items", "_length", "_position")

    def __init__(self) -> None:
        self._batches: deque[tuple[Sequence[Addressed], int]] = deque()
        self._items: Sequence[Addressed] = ()
        self._position = 0
        self._first = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, items: Sequence[Addressed], first: int) -> None:
        """Queue a batch; its messages are numbered ``first``, ``first + 1``, ..."""
        if not items:
            return
        if self._length:
            self._batches.append((items, first))
        else:
            self._items, self._first, self._position = items, first, 0
        self._length += len(items)

    def pop(self) -> tuple[Addressed, int]:
        """Take out the message at the head: addressee and message, and its number."""
        position = self._position
        addressed = self._items[position]
        number = self._first + position
        self._length -= 1
        self._position = position = position + 1
        if position == len(self._items):
            self._items, self._first = self._batches.popleft() if self._batches else ((), 0)
            self._position = 0
        return addressed, number

    def head(self) -> Message:
        """The message at the head, which stays there. The outbox must not be empty."""
        return self._items[self._position][1]

    def numbers(self) -> Iterator[range]:
        """The numbers of the queued messages, in order."""
        yield range(self._first + self._position, self._first + len(self._items))
        for items, first in self._batches:
            yield range(first, first + len(items))

    def clear(self) -> None:
        """Drop everything."""
        self._batches.clear()
        self._items, self._position, self._first, self._length = (), 0, 0, 0

    def replace(self, old: Message, new: Message) -> list[int]:
        """Put ``new`` in the place of every queued message that is ``old``; returns their numbers."""
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
