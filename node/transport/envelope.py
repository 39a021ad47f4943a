"""Envelopes as bytes, without protobuf for the one content that matters: frames.

A frame is made once and goes to many recipients; what differs is its number and instant. Generated code would copy
the frame into a message object, out of it, and the same again at the receiver. Here a fixed prefix is put before
each frame, and the receiver takes views between the prefixes. The whole is ordinary protobuf (parsers take repeated
fields in any order and lengths with leading zeros), so that any other client or server understands it. Once for
each frame::

    offset  bytes  content
         0      1  tag of number, 0x21
         1      8  number, fixed64
         9      1  tag of due_ns, 0x29
        10      8  due_ns, fixed64
        18      1  tag of frame, 0x0a
        19      5  length of the frame, a varint padded to five bytes
        24         the frame: aligned to 4 bytes if those before it are as long, and so are its values

Whatever else arrives goes through the generated parser.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from node.core.framing import ENVELOPE_BYTES
from node.transport.pb.peer_pb2 import Envelope, Hello, Probe

PREFIX_BYTES = ENVELOPE_BYTES

_PREFIX = struct.Struct("<BQBQBIB")
assert _PREFIX.size == PREFIX_BYTES
_NUMBER_TAG, _DUE_TAG, _FRAME_TAG = 4 << 3 | 1, 5 << 3 | 1, 1 << 3 | 2
_CONTINUED = 0x80808080
"""The bit of each of a varint's first four bytes that says that more follow."""


@dataclass(slots=True)
class Framed:
    """A frame and what its envelope says of it.

    Attributes:
        frame: A view of the bytes received, or a copy where the generated parser made one.
        number: The sender's number of the message.
        due_ns: When its last byte arrives, the host's monotonic clock, nanoseconds; 0 is at once.
    """

    frame: bytes | memoryview
    number: int
    due_ns: int


Content: TypeAlias = list[Framed] | Hello | tuple[Probe, int] | None
"""Content of an envelope: frames, a greeting, a probe with its due_ns, or nothing that can be read."""


def pack(frames: Iterable[tuple[bytes, int, int]]) -> bytes:
    """The envelope of some frames. Copies each once.

    Args:
        frames: (frame, number, due_ns) of each, at least one; a frame of less than 2^31 bytes, which is protobuf's
            own bound, and numbers of 0 to 2^64 - 1.
    """
    parts: list[bytes] = []
    for frame, number, due_ns in frames:
        size = len(frame)
        low = size & 0x7F | (size & 0x3F80) << 1 | (size & 0x1FC000) << 2 | (size & 0xFE00000) << 3 | _CONTINUED
        parts += (_PREFIX.pack(_NUMBER_TAG, number, _DUE_TAG, due_ns, _FRAME_TAG, low, size >> 28), frame)
    return b"".join(parts)


def parse(data: bytes) -> Content:
    """Read an envelope. Never raises, whatever the bytes are."""
    view, end, offset = memoryview(data), len(data), 0
    frames: list[Framed] = []
    while offset < end:
        start = offset + PREFIX_BYTES
        if start > end:
            return _parse_any(data)
        number_tag, number, due_tag, due_ns, frame_tag, low, high = _PREFIX.unpack_from(data, offset)
        size = low & 0x7F | (low & 0x7F00) >> 1 | (low & 0x7F0000) >> 2 | (low & 0x7F000000) >> 3 | high << 28
        offset = start + size
        if (
            number_tag != _NUMBER_TAG
            or due_tag != _DUE_TAG
            or frame_tag != _FRAME_TAG
            or low & _CONTINUED != _CONTINUED
            or offset > end
        ):
            return _parse_any(data)
        frames.append(Framed(view[start:offset], number, due_ns))
    return frames or None


def _parse_any(data: bytes) -> Content:
    try:
        envelope = Envelope.FromString(data)
    except DecodeError:
        return None
    kinds = (bool(envelope.frame), envelope.HasField("hello"), envelope.HasField("probe"))
    match kinds:
        case (True, False, False):
            if not len(envelope.frame) == len(envelope.number) == len(envelope.due_ns):
                return None
            return [Framed(*item) for item in zip(envelope.frame, envelope.number, envelope.due_ns, strict=True)]
        case (False, True, False):
            return envelope.hello
        case (False, False, True):
            return envelope.probe, envelope.due_ns[0] if envelope.due_ns else 0
        case _:
            return None
