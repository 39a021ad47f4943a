"""A node's uplink under emulation, on asyncio: ask the emulator for transfers, hear when they end."""

import asyncio
import socket
from collections.abc import Callable

from node.emulation.protocol import (
    AT_ONCE,
    DATAGRAM_BYTES,
    Abort,
    Request,
    Start,
    decode_notices,
    encode_request,
)


class EmulatedUplink:
    """One node's end of the link emulator.

    For every start exactly one of ``on_finished`` and ``on_aborted`` is called, later and never from within a
    method of this class, unless the emulator is gone before. Methods do nothing after :meth:`close` or
    ``on_gone``.

    Args:
        sock: The node's end, from :func:`~node.emulation.door.connect_to_emulator`. The uplink closes it.
        loop: The loop that calls back.
        on_finished: Called with (number, finish_ns): the last byte left then, in testbed time, which is the exact
            instant and lies some 100 us back.
        on_aborted: Called with (number, sent_bytes): whole bytes that had left.
        on_gone: Called once if the emulator's end closes.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_finished: Callable[[int, int], None],
        on_aborted: Callable[[int, int], None],
        on_gone: Callable[[], None] = lambda: None,
    ) -> None:
        self._socket = sock
        self._loop = loop
        self._on_finished = on_finished
        self._on_aborted = on_aborted
        self._on_gone = on_gone
        self._unsent = bytearray()  # what a full socket did not take; then the loop watches it for writing
        self._closed = False

    def open(self) -> None:
        """Begin to listen; before that nothing is called back."""
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._read)

    def start(self, number: int, receiver: int, wire_bytes: int, ready_ns: int) -> None:
        """Begin a transfer.

        Args:
            number: A name for it that no transfer under way has, in [0, 2^63).
            receiver: The receiving node, another one.
            wire_bytes: Bytes on the wire, >= 1.
            ready_ns: Testbed time at which the uplink was free and the message was there: the finish of the
                transfer before, if the message waited for it. So the host's lateness takes no bandwidth.
        """
        self._send(Start(number, receiver, wire_bytes, ready_ns))

    def abort(self, number: int, at_ns: int | None = None) -> None:
        """End a transfer before its last byte, unless that has left meanwhile.

        Args:
            number: As in its start.
            at_ns: Testbed time, not ahead; None: when the emulator reads it.
        """
        self._send(Abort(number, AT_ONCE if at_ns is None else at_ns))

    def close(self) -> None:
        """Leave: the emulator aborts what is under way. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()

    def _send(self, request: Request) -> None:
        if self._closed:
            return
        waiting = bool(self._unsent)
        self._unsent += encode_request(request)
        if waiting:
            return
        self._flush()
        if self._unsent:
            self._loop.add_writer(self._socket, self._resume)

    def _resume(self) -> None:
        self._flush()
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _flush(self) -> None:
        """Hand the socket what it takes, in order."""
        try:
            while self._unsent:
                self._socket.send(self._unsent[:DATAGRAM_BYTES])
                del self._unsent[:DATAGRAM_BYTES]
        except BlockingIOError:
            pass
        except OSError:  # it is gone, and the reader will find out
            self._unsent.clear()

    def _read(self) -> None:
        """Take one datagram; the loop reports those behind it again."""
        try:
            datagram = self._socket.recv(DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            datagram = b""
        if not datagram:
            self.close()
            self._on_gone()
            return
        for notice in decode_notices(datagram):
            if self._closed:  # a callback left
                return
            if notice.aborted:
                self._on_aborted(notice.number, notice.sent_bytes)
            else:
                self._on_finished(notice.number, notice.at_ns)
