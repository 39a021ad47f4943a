"""The door to the link emulator: a node comes by an address, so that nothing has to be inherited.

The emulator listens on a UNIX socket; a node connects and says which it is; the emulator admits or refuses it. Of each
node there is one connection at a time, and a node that has gone may come back. The address is an abstract one: it is
no file, so that a run that is killed leaves nothing behind, and it belongs to whoever listens. Both sides ask the
kernel whose process the other one is, and talk to none of another user. Linux only, as the emulator is.
"""

import os
import secrets
import socket
import struct
import time

from node.core.errors import RunnerError
from node.emulation.protocol import RECORD_BYTES, Answer, decode_answer, decode_hello, encode_hello
from node.host.timed_poll import TimedPoll

STRANGERS_MAX = 64
"""Connections that have not said which node they are, at most; of more, the oldest is closed."""

ASK_AGAIN_S = 0.05
"""After so long a node that was refused asks again: the emulator may not have seen the end of its connection before."""

_PREFIX = "fragmesh-links-"
_CREDENTIALS = struct.Struct("3i")


def open_door(num_nodes: int) -> tuple[socket.socket, str]:
    """Listen on an address of its own.

    Args:
        num_nodes: How many may come at the same time.

    Returns:
        The listening socket, and its address as :func:`connect_to_emulator` takes it.

    Raises:
        OSError: The socket cannot be made.
    """
    name = _PREFIX + secrets.token_hex(8)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind("\0" + name)
        listener.listen(num_nodes + STRANGERS_MAX)
    except OSError:
        listener.close()
        raise
    return listener, "@" + name


def connect_to_emulator(address: str, node: int, timeout_s: float) -> socket.socket:
    """Connect a node with the link emulator; blocks.

    Args:
        address: As :func:`open_door` returned it.
        node: Which node this is.
        timeout_s: How long to try, real seconds.

    Returns:
        The connection, for :class:`~node.emulation.uplink.EmulatedUplink`.

    Raises:
        RunnerError: Nobody listens there, or the emulator does not admit the node in time.
    """
    until_s = time.monotonic() + timeout_s
    while True:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            answer = _ask(end, address, node, max(0.001, until_s - time.monotonic()))
        except OSError as error:
            end.close()
            raise RunnerError(f"the link emulator at {address} cannot be reached: {error}") from error
        if answer is Answer.ADMITTED:
            return end
        end.close()
        if answer is not Answer.TAKEN:
            raise RunnerError(f"the link emulator at {address} has no node {node}")
        if time.monotonic() + ASK_AGAIN_S > until_s:
            raise RunnerError(f"the link emulator at {address} has a connection of node {node} already")
        time.sleep(ASK_AGAIN_S)


def _ask(end: socket.socket, address: str, node: int, timeout_s: float) -> Answer | None:
    """Connect, say which node this is, and wait for the answer."""
    end.settimeout(timeout_s)
    end.connect("\0" + address.removeprefix("@"))
    if not _is_own_user(end):
        raise PermissionError("it belongs to another user")
    end.send(encode_hello(node))
    said = end.recv(RECORD_BYTES)
    if not said:
        raise ConnectionError("it hung up")
    return decode_answer(said)


class Door:
    """The emulator's side: takes connections, and finds out which nodes they are.

    State:
        _strangers: Connections that have not said which node they are, by descriptor, oldest first. All are watched.
    """

    def __init__(self, listener: socket.socket, poll: TimedPoll) -> None:
        self._listener = listener
        self._poll = poll
        self._strangers: dict[int, socket.socket] = {}

    def fileno(self) -> int:
        """The descriptor that is ready when somebody comes."""
        return self._listener.fileno()

    def accept(self) -> None:
        """Take a connection, if one is there, and watch it; :meth:`hear` is to be called when it is ready."""
        try:
            stranger, _ = self._listener.accept()
        except OSError:  # it has gone again, or there is no descriptor left for it
            return
        stranger.setblocking(False)
        if not _is_own_user(stranger):
            stranger.close()
            return
        if len(self._strangers) >= STRANGERS_MAX:
            self.turn_away(self._strangers.pop(next(iter(self._strangers))))
        self._strangers[stranger.fileno()] = stranger
        self._poll.watch(stranger.fileno())

    def hear(self, descriptor: int) -> tuple[socket.socket, int | None] | None:
        """Read what a connection that is ready says, which is its only chance.

        Returns:
            The connection, which is the caller's from here on and still watched, and the node that it claims to be;
            None for that if it says nothing of sense, or has left. None alone if there is nothing to read.
        """
        stranger = self._strangers.get(descriptor)
        if stranger is None:
            return None
        try:
            said = stranger.recv(RECORD_BYTES + 1)
        except BlockingIOError:
            return None
        except OSError:
            said = b""
        del self._strangers[descriptor]
        return stranger, decode_hello(said)

    def turn_away(self, stranger: socket.socket) -> None:
        """Close a connection and watch it no longer."""
        self._poll.forget(stranger.fileno())
        stranger.close()


def _is_own_user(end: socket.socket) -> bool:
    """Return whether the other side is a process of the same user."""
    credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == os.getuid())
