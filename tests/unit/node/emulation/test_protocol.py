import random
import struct

import pytest

from node.emulation.protocol import (
    AT_ONCE,
    RECORD_BYTES,
    Abort,
    Notice,
    Request,
    Start,
    decode_notices,
    decode_requests,
    encode_notice,
    encode_request,
)

REQUESTS: list[Request] = [
    Start(number=7, receiver=3, wire_bytes=36_064, ready_ns=-5),
    Start(number=(1 << 63) - 1, receiver=999, wire_bytes=1 << 40, ready_ns=(1 << 63) - 1),
    Abort(number=7, at_ns=AT_ONCE),
    Abort(number=0, at_ns=12),
]


def test_requests_survive_the_way_one_by_one_and_together() -> None:
    for request in REQUESTS:
        assert len(encode_request(request)) == RECORD_BYTES
        assert decode_requests(encode_request(request)) == [request]
    assert decode_requests(b"".join(map(encode_request, REQUESTS))) == REQUESTS


def test_notices_survive_the_way() -> None:
    notices = [Notice(False, 7, 123, 36_064), Notice(True, 1 << 62, -4, 0)]
    assert all(len(encode_notice(notice)) == RECORD_BYTES for notice in notices)
    assert decode_notices(b"".join(map(encode_notice, notices))) == notices


def test_the_layout_is_little_endian_and_fixed() -> None:
    """Pinned, so that a change of the layout is a decision."""
    assert encode_request(REQUESTS[0]) == struct.pack("<IIqqq", 1, 3, 7, 36_064, -5)
    assert encode_request(REQUESTS[3]) == struct.pack("<Iiqqq", 2, 0, 0, 12, 0)
    assert encode_notice(Notice(True, 9, 8, 7)) == struct.pack("<qqqq", 2, 9, 8, 7)


@pytest.mark.parametrize("size", [1, RECORD_BYTES - 1, RECORD_BYTES + 1, 1000])
def test_what_makes_no_sense_is_marked_and_does_not_hide_the_rest(size: int) -> None:
    good = encode_request(REQUESTS[0])
    assert decode_requests(good + bytes(RECORD_BYTES) + good) == [REQUESTS[0], None, REQUESTS[0]]
    assert decode_requests(good + good[:-1]) == [REQUESTS[0], None]
    noise = random.Random(size)
    for _ in range(200):
        decoded = decode_requests(noise.randbytes(size))
        assert len(decoded) == -(-size // RECORD_BYTES)
    assert decode_requests(b"\x03\x03" + bytes(RECORD_BYTES - 2)) == [None]
