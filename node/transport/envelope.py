"""Envelopes as bytes, without protobuf for the one content that matters: a frame.

A frame is made once and goes to many recipients; what differs is its envelope's number and instant. Generated
code would copy the frame into a message object, out of it, and the same again at the receiver. Here a fixed
prefix is put before the frame, and the receiver takes a view behind it. The prefix is ordinary protobuf (parsers take
fields in any order and lengths with leading zeros), so that any other client or server understands it::

    offset  bytes  content
         0      1  tag of number, 0x21
         1      8  number, fixed64
         9      1  tag of due_ns, 0x29
        10      8  due_ns, fixed64
        18      1  tag of frame, 0x0a
        19      5  length of the frame, a varint padded to five bytes
        24         the frame: 4-byte aligned, so that its values are too

Whatever else arrives goes through the generated parser.
"""

import struct
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from node.transport.pb.peer_pb2 import Envelope, Hello, Probe

PREFIX_BYTES = 24

_PREFIX = struct.Struct("<BQBQBIB")
assert _PREFIX.size == PREFIX_BYTES
_NUMBER_TAG, _DUE_TAG, _FRAME_TAG = 4 << 3 | 1, 5 << 3 | 1, 1 << 3 | 2


@dataclass(slots=True)
class Framed:
    """An envelope with a frame.

    Attributes:
        frame: A view of the bytes received, or a copy where the generated parser made one.
        number: The sender's number of the message.
        due_ns: When its last byte arrives, the host's monotonic clock, nanoseconds; 0 is at once.
    """

    frame: bytes | memoryview
    number: int
    due_ns: int


Content: TypeAlias = Framed | Hello | tuple[Probe, int] | None
"""What an envelope holds: a frame, a greeting, a probe with its due_ns, or nothing that can be read."""


def pack_frame(frame: bytes, number: int, due_ns: int) -> bytes:
    """The envelope of a frame. Copies the frame once.

    Args:
        frame: Less than 2^31 bytes, which is protobuf's own bound.
        number: 0 to 2^64 - 1.
        due_ns: 0 to 2^64 - 1.
    """
    return b"".join((_PREFIX.pack(_NUMBER_TAG, number, _DUE_TAG, due_ns, _FRAME_TAG, *_length(len(frame))), frame))


def parse(data: bytes) -> Content:
    """Read an envelope. Never raises, whatever the bytes are."""
    if len(data) >= PREFIX_BYTES:
        number_tag, number, due_tag, due_ns, frame_tag, low, high = _PREFIX.unpack_from(data)
        if (
            number_tag == _NUMBER_TAG
            and due_tag == _DUE_TAG
            and frame_tag == _FRAME_TAG
            and (low, high) == _length(len(data) - PREFIX_BYTES)
        ):
            return Framed(memoryview(data)[PREFIX_BYTES:], number, due_ns)
    return _parse_any(data)


def _length(size: int) -> tuple[int, int]:
    """A length as a varint of five bytes: the first four as one little-endian number, and the last."""
    groups = size & 0x7F | (size & 0x3F80) << 1 | (size & 0x1FC000) << 2 | (size & 0xFE00000) << 3
    return groups | 0x80808080, size >> 28


def _parse_any(data: bytes) -> Content:
    try:
        envelope = Envelope.FromString(data)
    except DecodeError:
        return None
    match envelope.WhichOneof("content"):
        case "frame":
            return Framed(envelope.frame, envelope.number, envelope.due_ns)
        case "hello":
            return envelope.hello
        case "probe":
            return envelope.probe, envelope.due_ns
        case _:
            return None
