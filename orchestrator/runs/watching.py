"""Following a run of another process by its record. Reads only: the run knows nothing of it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from node.core.errors import RunnerError
from orchestrator.containers.ownership import Owner, fate_of
from orchestrator.progress.live_file import LIVE, read_live
from orchestrator.progress.live_record import LiveRecord
from orchestrator.progress.progress import Progress

LOOK_EVERY_S: Final = 0.25
"""Interval at which it is looked whether the record has changed, real time."""

SILENT_S: Final = 60.0
"""Real time without a new record after which a run is given up whose process cannot be judged from here."""


class Follower:
    """Shows a run as it goes on.

    State:
        _told: Notes that have been shown.
        _doing: The work that was told last.
        _shown_s: ``wall_s`` of the progress that was shown last; None before the first.
        _seen: Which file was read last, so that it is not read again.
        _changed_s: When that was.
    """

    def __init__(
        self,
        path: Path,
        progress: Progress,
        here: Owner,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Store what to follow.

        Args:
            path: The run directory.
            progress: Where it is shown.
            here: This process.
            now_s: Real time, of any origin.
            sleep: Lets real time pass.
        """
        self._path = path
        self._progress = progress
        self._here = here
        self._now_s = now_s
        self._sleep = sleep
        self._told = 0
        self._doing = ""
        self._shown_s: float | None = None
        self._seen: tuple[int, int] | None = None
        self._changed_s = now_s()

    def follow(self) -> str | None:
        """Show the run until it is over.

        Returns:
            How its process died; None if the run has ended in good order.

        Raises:
            ConfigError: Its record is damaged, or of another version of the program.
            RunnerError: It says nothing more, and whether its process lives cannot be told from here.
        """
        record: LiveRecord | None = None
        while True:
            stamp = self._stamp()
            if stamp is None:
                return None
            if stamp != self._seen or record is None:
                record = read_live(self._path)
                if record is None:
                    return None
                self._seen, self._changed_s = stamp, self._now_s()
                self._show(record)
            fate, words = fate_of(record.owner, self._here)
            # The last that a run does is to remove its record: a process that has ended since then has not died.
            if fate == "gone" and self._stamp() == stamp:
                return words
            if fate == "foreign" and self._now_s() - self._changed_s > SILENT_S:
                said = f"nothing new for {SILENT_S:.0f} s; whether the run goes on is not known here: {words}"
                raise RunnerError(f"{self._path}: {said}")
            self._sleep(LOOK_EVERY_S)

    def _stamp(self) -> tuple[int, int] | None:
        """Return what changes with every record; None where there is no record."""
        try:
            status = (self._path / LIVE).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _show(self, record: LiveRecord) -> None:
        for note in record.notes_since(self._told):
            self._progress.note(note)
        self._told = record.notes_told
        if record.doing and record.doing != self._doing:
            self._progress.preparing(record.doing)
        self._doing = record.doing
        if record.progress is not None and record.progress.wall_s != self._shown_s:
            self._shown_s = record.progress.wall_s
            self._progress.update(record.progress)
