"""``live.json`` in a run directory: the record of a run in progress, written once a second and removed at its end.

It is there whole or not at all. A disk that is full costs its readers news, and the run nothing.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from node.core.bounds import RECORD_BYTES_MAX
from node.core.errors import ConfigError, RunnerError
from node.host.text_files import UnreadableText, read_text
from orchestrator.progress.live_record import LiveRecord, live_text, parse_live
from orchestrator.progress.run_progress import RunProgress
from orchestrator.results.files import write_file

LIVE: Final = "live.json"

WRITE_EVERY_S: Final = 1.0
"""Wall-clock time from one record of a running run to the next."""


class LiveFile:
    """Writes the record of one run.

    State:
        _record: What is to be told.
        _written_s: ``wall_s`` of the progress that was written last; None before the first.
        _has_news: Something is to be told that cannot wait for its turn.
    """

    def __init__(self, path: Path, record: LiveRecord) -> None:
        """Store where, and what is known before the run begins."""
        self._path = path
        self._record = record
        self._written_s: float | None = None
        self._has_news = False

    def preparing(self, text: str) -> None:
        """Tell of work beside running the nodes; at once, because nothing else may come for long."""
        self._record = replace(self._record, doing=text)
        self._write()

    def note(self, text: str) -> None:
        """Tell of something that happened; with the next progress, if there is one soon."""
        self._record, self._has_news = self._record.with_note(text), True
        if self._record.doing:
            self._write()

    def update(self, progress: RunProgress) -> None:
        """Tell how far the run is, if it is time for that."""
        was_doing = self._record.doing
        self._record = replace(self._record, doing="", progress=progress)
        written_s = self._written_s
        if was_doing or self._has_news or written_s is None or progress.wall_s - written_s >= WRITE_EVERY_S:
            self._written_s = progress.wall_s
            self._write()

    def remove(self) -> None:
        """Leave the directory as it is without."""
        with suppress(OSError):
            self._path.unlink()

    def _write(self) -> None:
        self._has_news = False
        with suppress(RunnerError):
            write_file(self._path, live_text(self._record).encode())


def read_live(path: Path) -> LiveRecord | None:
    """Read the record of a run directory; None if there is none, because its run is not in progress.

    Raises:
        ConfigError: It is damaged, or of another version of the program.
    """
    file = path / LIVE
    try:
        return parse_live(read_text(file, RECORD_BYTES_MAX))
    except UnreadableText as error:
        if error.is_missing:
            return None
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: damaged: {error}") from error
