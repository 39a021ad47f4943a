"""A shell in a container that stays open: a command through it takes milliseconds, where the engine takes 60 to 100."""

import shlex
import threading
from collections.abc import Sequence
from contextlib import suppress
from uuid import uuid4

from orchestrator.containers.interface import CommandConnection, Engine, EngineError


class ContainerShell:
    """A shell that carries out one command after the other. Threads may share it; they then wait for each other.

    State:
        _connection: Its input and outputs.
        _mark: Ends each output; made anew for each shell, so that no command prints it.
    """

    def __init__(self, engine: Engine, container: str) -> None:
        """Begin it.

        Args:
            engine: Where.
            container: The engine's name for a running container that has ``sh``.

        Raises:
            EngineError: The container does not run, or the engine does not answer.
        """
        self._connection: CommandConnection = engine.begin(container, ["sh"])
        self._mark = f"fragmesh-{uuid4().hex}"
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], text: str = "") -> tuple[int, str, str]:
        """Run a command and return its exit code and what it wrote to its output and to its error output.

        Args:
            command: The command and its arguments.
            text: Its standard input, whole lines.

        Raises:
            EngineError: The shell has ended, or the engine does not answer.
        """
        mark = self._mark
        given = f"<< '{mark}'\n{text}{mark}" if text else "< /dev/null"
        told = f"code=$?; printf '\\n{mark} %s\\n' \"$code\"; printf '\\n{mark}\\n' >&2"
        with self._lock:
            self._connection.send(f"{shlex.join(command)} {given}\n{told}\n".encode())
            output, errors = self._read()
        code = output.rpartition(mark)[2]
        return int(code), output.rpartition(f"\n{mark}")[0], errors.rpartition(f"\n{mark}")[0]

    def _read(self) -> tuple[str, str]:
        """Read both outputs up to their marks."""
        received = {1: bytearray(), 2: bytearray()}
        end = self._mark.encode()
        while not all(end in data and data.endswith(b"\n") for data in received.values()):
            piece = self._connection.receive()
            if piece is None:
                said = " ".join(received[2].decode("utf-8", "replace").split())
                raise EngineError(f"the shell in a container has ended{': ' if said else ''}{said}")
            stream, data = piece
            received[stream] += data
        return received[1].decode("utf-8", "replace"), received[2].decode("utf-8", "replace")

    def close(self) -> None:
        """End it."""
        with suppress(EngineError):
            self._connection.close()
