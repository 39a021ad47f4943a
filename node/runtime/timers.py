"""Timers of an experiment on an event loop, which can all be cancelled at once."""

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
