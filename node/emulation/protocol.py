"""Records between a node and the link emulator: fixed size, little endian, several to a datagram.

A node says which it is, and the emulator answers with :class:`Answer`. From then on the node asks with :class:`Start`
and :class:`Abort`, and the emulator tells it with :class:`Notice`. All times are testbed time in nanoseconds of the
run's clock. The sockets are UNIX sockets of one host, which neither lose nor reorder; the length of a record is
checked, its meaning is the emulator's to judge.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

RECORD_BYTES = 32
"""The size of every record in both directions."""

RECORDS_PER_DATAGRAM = 256
"""Records that a sender puts into one datagram at most."""

DATAGRAM_BYTES = RECORDS_PER_DATAGRAM * RECORD_BYTES
"""No datagram is longer; what is longer is cut."""

AT_ONCE = -(1 << 63)
"""Time of an abort that takes effect when the emulator reads it."""

_START, _ABORT, _HELLO, _ANSWER = 1, 2, 3, 4
_FINISHED, _ABORTED = 1, 2
_START_RECORD = struct.Struct("<B3xiqqq")
_ABORT_RECORD = struct.Struct("<B7xqq8x")
_NOTICE_RECORD = struct.Struct("<B7xqqq")
_GREETING_RECORD = struct.Struct("<B7xq16x")


class Answer(IntEnum):
    """The emulator's answer to a node that says which it is."""

    ADMITTED = 1
    TAKEN = 2
    """This node is connected already."""
    NO_NODE = 3
    """The network has no such node."""


class Start(NamedTuple):
    """Begin a transfer.

    Attributes:
        number: The sender's name for it, not in use by another of its transfers.
        receiver: The receiving node.
        wire_bytes: Bytes on the wire, >= 1.
        ready_ns: When the uplink was free and the message was there; not ahead.
    """

    number: int
    receiver: int
    wire_bytes: int
    ready_ns: int


class Abort(NamedTuple):
    """End a transfer before its last byte.

    Attributes:
        number: As in its start.
        at_ns: When, or :data:`AT_ONCE`; not ahead.
    """

    number: int
    at_ns: int


Request = Start | Abort


class Notice(NamedTuple):
    """The end of a transfer.

    Attributes:
        aborted: Whether it ended before its last byte.
        number: As in its start.
        at_ns: When it ended: its last byte has left, or the abort took effect.
        sent_bytes: Bytes that have left the sender; its size unless it was aborted.
    """

    aborted: bool
    number: int
    at_ns: int
    sent_bytes: int


def encode_hello(node: int) -> bytes:
    """The record in which a node says which it is."""
    return _GREETING_RECORD.pack(_HELLO, node)


def decode_hello(datagram: bytes) -> int | None:
    """The node, in any range; None if the datagram is no such record."""
    if len(datagram) != RECORD_BYTES or datagram[0] != _HELLO:
        return None
    return int(_GREETING_RECORD.unpack(datagram)[1])


def encode_answer(answer: Answer) -> bytes:
    """One record."""
    return _GREETING_RECORD.pack(_ANSWER, answer)


def decode_answer(datagram: bytes) -> Answer | None:
    """The answer; None if the datagram is none."""
    if len(datagram) != RECORD_BYTES or datagram[0] != _ANSWER:
        return None
    code = _GREETING_RECORD.unpack(datagram)[1]
    return Answer(code) if code in list(Answer) else None


def encode_request(request: Request) -> bytes:
    """One record."""
    match request:
        case Start(number, receiver, wire_bytes, ready_ns):
            return _START_RECORD.pack(_START, receiver, number, wire_bytes, ready_ns)
        case Abort(number, at_ns):
            return _ABORT_RECORD.pack(_ABORT, number, at_ns)


def decode_requests(datagram: bytes) -> list[Request | None]:
    """The records of a datagram in order; None stands for one that makes no sense."""
    requests: list[Request | None] = []
    whole = len(datagram) - len(datagram) % RECORD_BYTES
    for offset in range(0, whole, RECORD_BYTES):
        kind = datagram[offset]
        if kind == _START:
            _, receiver, number, wire_bytes, ready_ns = _START_RECORD.unpack_from(datagram, offset)
            requests.append(Start(number, receiver, wire_bytes, ready_ns))
        elif kind == _ABORT:
            requests.append(Abort(*_ABORT_RECORD.unpack_from(datagram, offset)[1:]))
        else:
            requests.append(None)
    if whole != len(datagram):
        requests.append(None)
    return requests


def encode_notice(notice: Notice) -> bytes:
    """One record."""
    return _NOTICE_RECORD.pack(
        _ABORTED if notice.aborted else _FINISHED, notice.number, notice.at_ns, notice.sent_bytes
    )


def decode_notices(datagram: bytes) -> list[Notice]:
    """The records of a datagram from the emulator, in order."""
    return [
        Notice(kind == _ABORTED, number, at_ns, sent_bytes)
        for kind, number, at_ns, sent_bytes in _NOTICE_RECORD.iter_unpack(datagram)
    ]
