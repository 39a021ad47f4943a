"""Work beside the main course of a process: started, kept alive, and never failing in silence."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


class SideTasks:
    """Tasks of one event loop that run beside its main one.

    Args:
        on_error: Called in the loop with the error of a task, or of a callback of the loop.

    State:
        _tasks: Those that run. asyncio itself holds tasks weakly, and one that nobody holds may vanish.
    """

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the loop's own errors as well: those of callbacks, which otherwise are only logged."""
        loop.set_exception_handler(self._on_loop_error)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin something in the running loop."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Cancel all that run; their end is not waited for."""
        for task in list(self._tasks):
            task.cancel()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(error)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None:
            log.error("%s", context.get("message"))
        else:
            self._on_error(error)
