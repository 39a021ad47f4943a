"""One run shown by one display, and to other processes through its record.

There is no clock and no thread here. How often something is shown follows from the ``wall_s`` of the
snapshots that the runner hands over.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Literal, TextIO

from rich.console import Console

from orchestrator.progress.displays import (
    Entries,
    JsonDisplay,
    LiveDisplay,
    NoDisplay,
    PlainDisplay,
    ProgressDisplay,
)
from orchestrator.progress.live_file import LiveFile
from orchestrator.progress.run_progress import Pace, RunProgress

Style = Literal["auto", "live", "plain", "json", "quiet"]
LIVE_EVERY_S: Final = 0.1
PLAIN_EVERY_S: Final = 5.0
JSON_EVERY_S: Final = 1.0


class Progress:
    """Shows a run. A context manager around it: leaving it shows the last snapshot and ends the display."""

    def __init__(self, style: Style = "auto", stream: TextIO | None = None) -> None:
        """Choose a display.

        Args:
            style: ``auto``: live on a terminal, plain lines elsewhere.
            stream: Where to; None for standard output with ``json`` and standard error otherwise, so that
                what a command prints stays apart.
        """
        self._display = _display(style, stream)
        self._every_s = {
            LiveDisplay: LIVE_EVERY_S,
            PlainDisplay: PLAIN_EVERY_S,
            JsonDisplay: JSON_EVERY_S,
        }.get(type(self._display), math.inf)
        self._pace = Pace()
        self._schedule: Entries = ()
        self._preparing: str | None = None  # what the last line said is being prepared
        self._shown: RunProgress | None = None
        self._last: RunProgress | None = None
        self._live: LiveFile | None = None

    def __enter__(self) -> "Progress":
        """Begin."""
        return self

    @contextmanager
    def recorded_in(self, live: LiveFile) -> Iterator[None]:
        """Tell other processes too, for as long as the block lasts."""
        self._live = live
        try:
            yield
        finally:
            self._live = None
            live.remove()

    def _say(self, call: Callable[[ProgressDisplay], None]) -> None:
        """Let the display speak. One that cannot, on a full disk, falls silent: the run goes on."""
        try:
            call(self._display)
        except BrokenPipeError:
            raise
        except OSError:
            self._display = NoDisplay()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Show the last snapshot and end the display."""
        if self._last is not None and self._last is not self._shown:
            self._show(self._last)
        self._say(lambda display: display.close())

    def preparing(self, what: str, done: int = 0, total: int = 0) -> None:
        """Tell of slow work before the run, for example decoding a data set.

        One line when it begins and one when it is complete; what comes between would flood a log.

        Args:
            what: What is being done.
            done: How much of it is done.
            total: How much there is; 0 if unknown.
        """
        if self._live is not None and what != self._preparing:
            self._live.preparing(what)
        if total and done >= total:
            self._say(lambda display: display.preparing(f"{what}: {done:,}"))
            self._preparing = None
        elif what != self._preparing:
            self._say(lambda display: display.preparing(f"{what} ..."))
            self._preparing = what

    def note(self, text: str) -> None:
        """Tell at once of something that happened in the run, for example that a node died. One line."""
        line = " ".join(text.split())
        if self._live is not None:
            self._live.note(line)
        self._say(lambda display: display.note(line))

    def concluding(self, what: str) -> None:
        """Tell other processes what is done after the last progress. The display has no line for it."""
        if self._live is not None:
            self._live.preparing(what)

    def expect(self, schedule: Entries) -> None:
        """Show from now on which entries of the run's schedule hold; it follows from the time that the run reached."""
        self._schedule = schedule

    def _show(self, progress: RunProgress) -> None:
        self._say(lambda display: display.show(progress, self._pace, self._schedule))

    def update(self, progress: RunProgress) -> None:
        """Take in a snapshot; cheap, and shown only as often as the display should change."""
        self._last = progress
        if self._live is not None:
            self._live.update(progress)
        self._pace.follow(progress)
        shown = self._shown
        if shown is not None and progress.wall_s - shown.wall_s < self._every_s:
            return
        self._shown = progress
        self._show(progress)


def _display(style: Style, stream: TextIO | None) -> ProgressDisplay:
    if style == "quiet":
        return NoDisplay()
    if style == "json":
        return JsonDisplay(stream or sys.stdout)
    target = stream or sys.stderr
    console = Console(file=target)
    if style == "live" or (style == "auto" and console.is_terminal and not console.is_dumb_terminal):
        return LiveDisplay(console)
    return PlainDisplay(target)
