"""A TCP port that is the run's before anybody listens on it, so that nodes can be told of it before they exist.

The port is bound and not listened on: who connects is refused and tries again. The control server later binds the same
port beside it, which the kernel allows to sockets of one user that all ask for it (``SO_REUSEPORT``). A port that is
free is chosen among those that no socket has, whatever it asks for; so two runs never share one.
"""

import socket
from types import TracebackType

from node.core.errors import RunnerError
from node.host.addresses import host_and_port


class ReservedPort:
    """A port of one address, from its making to :meth:`release`.

    Attributes:
        host: The address.
        port: The port.
    """

    def __init__(self, host: str) -> None:
        """Take any port that is free.

        Raises:
            RunnerError: This host has no such address, or no port is free.
        """
        self.host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.bind((host, 0))
        except OSError as error:
            self._socket.close()
            raise RunnerError(f"{host}: no port for the orchestrator: {error.strerror or error}") from error
        self.port = int(self._socket.getsockname()[1])

    @property
    def address(self) -> str:
        """The address as nodes are told: host:port."""
        return host_and_port(self.host, self.port)

    def release(self) -> None:
        """Let go of the port: whoever has bound it meanwhile keeps it. May be called again."""
        self._socket.close()

    def __enter__(self) -> "ReservedPort":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()
