"""The last events of a node, for the message of a run that stalls or a node that dies.

An event costs one tuple: it is put into words only when somebody asks.
"""

from collections import deque
from typing import Final

from node.core.units import NS_PER_S

EVENTS_KEPT: Final = 24
"""A few rounds of a small node: enough to see what it did last and what did not follow."""


class Story:
    """A ring of events.

    State:
        _events: (testbed time, text with places, what belongs into them); the oldest gives way.
    """

    __slots__ = ("_events",)

    def __init__(self, events_kept: int = EVENTS_KEPT) -> None:
        self._events: deque[tuple[int, str, tuple[object, ...]]] = deque(maxlen=events_kept)

    def tell(self, time_ns: int, text: str, *values: object) -> None:
        """Keep one event.

        Args:
            time_ns: Testbed time.
            text: One line, with a ``{}`` for each value.
            values: Small and immutable.
        """
        self._events.append((time_ns, text, values))

    def lines(self) -> tuple[str, ...]:
        """The events kept, oldest first: ``12.345678 s: sent message 7 to node 3``."""
        return tuple(f"{time_ns / NS_PER_S:.6f} s: {text.format(*values)}" for time_ns, text, values in self._events)
