"""Values that change at instants and hold in between."""

from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Steps(Generic[Value]):
    """A value at any time.

    Attributes:
        first: Before the first change.
        times_ns: When it changes, in increasing order.
        values: What it becomes then and holds until the next change, itself included.
    """

    first: Value
    times_ns: tuple[int, ...] = ()
    values: tuple[Value, ...] = ()

    def at(self, time_ns: int) -> Value:
        """Return the value at a time; at the instant of a change it is the new one."""
        index = bisect_right(self.times_ns, time_ns)
        return self.values[index - 1] if index else self.first

    def after(self, time_ns: int) -> Iterator[tuple[int, Value]]:
        """Walk through the changes after a time."""
        begin = bisect_right(self.times_ns, time_ns)
        for index in range(begin, len(self.times_ns)):
            yield self.times_ns[index], self.values[index]

    def __iter__(self) -> Iterator[tuple[int, Value]]:
        """Walk through the changes."""
        return zip(self.times_ns, self.values, strict=True)


class Span(Protocol):
    """Something that holds for a while.

    Attributes:
        begin_ns: Its first instant.
        end_ns: The first instant after it; None if it holds for ever.
    """

    @property
    def begin_ns(self) -> int:
        """See the class."""

    @property
    def end_ns(self) -> int | None:
        """See the class."""


AnySpan = TypeVar("AnySpan", bound=Span)


def steps_of(spans: Sequence[AnySpan], value_of: Callable[[Sequence[AnySpan]], Value]) -> Steps[Value]:
    """Return what follows from the spans that hold, at any time.

    Costs the number of spans, times the logarithm of that and how many hold at once.

    Args:
        spans: In the order in which ``value_of`` is to see them.
        value_of: From the spans that hold at a time to the value; called with none for the time before all of them.
    """
    instants: dict[int, list[tuple[int, bool]]] = {}
    for number, span in enumerate(spans):
        instants.setdefault(span.begin_ns, []).append((number, True))
        if span.end_ns is not None:
            instants.setdefault(span.end_ns, []).append((number, False))
    held: list[int] = []
    value = first = value_of(())
    changes: list[tuple[int, Value]] = []
    for time_ns in sorted(instants):
        for number, begins in instants[time_ns]:
            if begins:
                insort(held, number)
            else:
                held.remove(number)
        found = value_of([spans[number] for number in held])
        if found != value:
            value = found
            changes.append((time_ns, value))
    return Steps(first, tuple(time_ns for time_ns, _ in changes), tuple(value for _, value in changes))
