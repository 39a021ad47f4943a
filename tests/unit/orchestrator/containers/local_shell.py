"""A command of this machine in the place of one in a container."""

import os
import selectors
import subprocess
from collections.abc import Sequence

from orchestrator.containers.interface import EngineError


class LocalCommand:
    """A process of this machine; a :class:`~orchestrator.containers.interface.CommandConnection`."""

    def __init__(self, command: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(list(command), stdin=pipe, stdout=pipe, stderr=pipe)
        self._selector = selectors.DefaultSelector()
        for number, stream in ((1, self.process.stdout), (2, self.process.stderr)):
            assert stream is not None
            self._selector.register(stream, selectors.EVENT_READ, number)

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except OSError as error:
            raise EngineError(str(error)) from error

    def receive(self) -> tuple[int, bytes] | None:
        while self._selector.get_map():
            for key, _ in self._selector.select():
                if data := os.read(key.fd, 65_536):
                    return int(key.data), data
                self._selector.unregister(key.fileobj)
        return None

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._selector.close()
