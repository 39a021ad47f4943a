"""Waiting on an event loop for an experiment's instants and for news, until there is nothing to wait for any more."""

import asyncio
from collections.abc import Callable

from node.core.units import NS_PER_S
from node.host.clock import Clock


class Timers:
    """Timers in testbed time.

    State:
        _handles: Those that have not fired.
    """

    def __init__(self) -> None:
        self._handles: set[asyncio.TimerHandle] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock = Clock(0)

    def __len__(self) -> int:
        """Return how many are set."""
        return len(self._handles)

    def begin(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        """Take the loop and the experiment's clock; nothing is planned before."""
        self._loop, self._clock = loop, clock

    def call_at(self, time_ns: int, callback: Callable[[], None]) -> None:
        """Call back when a testbed time has come."""

        def fire() -> None:
            self._handles.discard(handle)
            callback()

        assert self._loop is not None, "nothing is planned before the start"
        handle = self._loop.call_at(self._clock.monotonic_ns(time_ns) / NS_PER_S, fire)
        self._handles.add(handle)

    def cancel(self) -> None:
        """Cancel all that are set."""
        for handle in self._handles:
            handle.cancel()
        self._handles.clear()


class ReaderWatch:
    """A descriptor that a loop watches: at most one at a time."""

    def __init__(self) -> None:
        self._watched: tuple[asyncio.AbstractEventLoop, int] | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, descriptor: int, callback: Callable[[], None]) -> None:
        """Call back whenever a descriptor can be read, until :meth:`end`."""
        self._watched = loop, descriptor
        loop.add_reader(descriptor, callback)

    def end(self) -> None:
        """Watch no longer, if at all."""
        if self._watched is not None:
            loop, descriptor = self._watched
            loop.remove_reader(descriptor)
            self._watched = None
