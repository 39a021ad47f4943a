"""A node's metrics, served while it lives. They never stop a node: where they cannot be served, it says so and goes on.

Values are read in the node's loop, between two events, so that they agree with each other. A page waits for that no
longer than :data:`READ_WITHIN_S`, and then is none: a node whose loop stands still shows as one that does not answer.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from node.host.metrics_server import LastScrape, MetricsServer, NotReadableError
from node.metrics import NODE_METRICS, Readings

READ_WITHIN_S: Final = 2.0
"""Real time within which the loop must come to read the values."""

LOOK_S: Final = 0.02
"""Interval at which it is looked whether the last scrape has come, real time."""

log = logging.getLogger(__name__)


class MetricsEndpoint:
    """The page of one node.

    Args:
        host: The address to listen on; None serves nothing.
        read: Gives the values; called in the loop.
        loop: The running loop.
    """

    def __init__(self, host: str | None, read: Callable[[], Readings], loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._read = read
        self._loop = loop
        self._server: MetricsServer | None = None

    def open(self) -> str:
        """Serve from now on, and return where, host:port; empty where nothing is served."""
        if self._host is None:
            return ""
        server = MetricsServer(NODE_METRICS, self._read_in_loop)
        try:
            address = server.start(self._host)
        except OSError as error:
            log.warning("metrics cannot be served on %s: %s", self._host, error.strerror or error)
            return ""
        self._server = server
        return address

    async def last_scrape(self) -> None:
        """Wait until whoever scrapes this node has the values as they are now, but not for long."""
        last = LastScrape(self._server)
        while not last.is_over:
            await asyncio.sleep(LOOK_S)

    def close(self) -> None:
        """Serve nothing more."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _read_in_loop(self) -> Readings:
        """Read the values; called in a thread of the server."""
        values: Future[Readings] = Future()

        def read() -> None:
            if values.set_running_or_notify_cancel():
                try:
                    values.set_result(self._read())
                except Exception as error:
                    values.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(read)
            return values.result(READ_WITHIN_S)
        except TimeoutError:
            values.cancel()
            raise NotReadableError(f"the node did not answer within {READ_WITHIN_S:g} s") from None
        except RuntimeError:
            raise NotReadableError("the node has ended") from None
