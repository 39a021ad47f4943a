"""A container's output in a file of this machine: complete once the container has ended.

An engine's stream of what is being written may break off before the last lines: Docker 20.10 does so when a container
ends soon after its start, on a busy host one time in thirty. So what came is counted, and when the container has ended,
the rest is read once more.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from node.core.units import NS_PER_S
from orchestrator.containers.interface import Engine, EngineError, OutputStream

_STREAM_S: Final = 5.0
"""Time in which the stream of a container that has ended must end; then it is closed."""
_REST_S: Final = 30.0
"""Longest time for which the rest of the output is waited for then."""
_AGAIN_S: Final = 1.0
"""Pause before a stream is opened again that broke off while its container runs."""
_DISORDER_NS: Final = 10 * NS_PER_S
"""Time that the output and the error output of a container may be out of order."""


class OutputPlace:
    """The end of what was copied of an output, found again by the instants at which its pieces were written.

    State:
        since_ns: The engine is asked for what was written from here on, Unix time; 0 is the beginning.
        _copied: Pieces of that which were copied.
        _next_ns: The next ``since_ns``, later than all that was copied when it was chosen; it is put in force when
            nothing earlier can come any more.
        _next_copied: Pieces that were copied from there on.
        _newest_ns: The latest piece.
    """

    def __init__(self) -> None:
        """Begin at the beginning."""
        self.since_ns = 0
        self._copied = 0
        self._next_ns = 0
        self._next_copied = 0
        self._newest_ns = 0

    def rest_of(self, pieces: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
        """Return what is new and move on.

        Args:
            pieces: What the engine has from ``since_ns`` on, always in the same order.
        """
        known = self._copied
        for time_ns, data in pieces:
            if known:
                known -= 1
                continue
            self._pass(time_ns)
            yield data

    def _pass(self, time_ns: int) -> None:
        self._newest_ns = max(self._newest_ns, time_ns)
        self._copied += 1
        if time_ns >= self._next_ns:
            self._next_copied += 1
        if time_ns > self._next_ns + _DISORDER_NS:
            self.since_ns, self._copied = self._next_ns, self._next_copied
            self._next_ns, self._next_copied = self._newest_ns + 1, 0


class OutputCopy:
    """A thread that copies what a container writes into a file, as it comes, from one start to its end.

    State:
        _place: The end of what was copied, also of earlier starts.
        _stream: The stream that is being followed; None while there is none.
        _has_ended: Whether the container has.
        _is_complete: Whether all that it wrote is in the file.
    """

    def __init__(self, engine: Engine, container: str, path: Path, before: "OutputCopy | None") -> None:
        """Store what is needed.

        Args:
            engine: Where.
            container: The engine's name for it.
            path: The file, which is continued.
            before: The copy of its start before; None of its first.
        """
        self._engine, self._container, self._path, self._before = engine, container, path, before
        self._place: OutputPlace = OutputPlace() if before is None else before._place
        self._stream: OutputStream | None = None
        self._has_ended = threading.Event()
        self._is_complete = False
        self._thread = threading.Thread(target=self._run, name=f"output of {path.stem}", daemon=True)

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def tell_end(self) -> None:
        """Tell it that the container has ended, so that there is nothing more to come."""
        self._has_ended.set()

    def finish(self) -> bool:
        """Wait until all is copied that a container wrote which has ended, but not for ever.

        Returns:
            Whether it is.
        """
        self._has_ended.set()
        self._thread.join(_STREAM_S)
        if self._thread.is_alive():
            if (stream := self._stream) is not None:
                stream.close()
            self._thread.join(_REST_S)
        return self._is_complete

    def _run(self) -> None:
        if self._before is not None:
            self._before.finish()
            self._before = None
        # A full disk ends the copy: then it is not complete.
        with suppress(OSError), self._path.open("ab", buffering=0) as file:
            while True:
                has_ended = self._has_ended.is_set()
                is_whole = self._copy(file, follow=not has_ended)
                if has_ended:
                    self._is_complete = is_whole
                    return
                self._has_ended.wait(_AGAIN_S)

    def _copy(self, file: BinaryIO, *, follow: bool) -> bool:
        """Copy what is there, and with ``follow`` what comes; return whether the engine gave all of it."""
        try:
            stream = self._engine.output(self._container, self._place.since_ns, follow=follow)
            self._stream = stream if follow else None
            for data in self._place.rest_of(stream):
                file.write(data)
        except EngineError:
            return False
        finally:
            self._stream = None
        return True
