"""Frames of all kinds and encodings survive the way; what was damaged or made up does not get through."""

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from node.core.bodies import WHOLE_MODEL
from node.core.messages import Message, frozen
from node.core.types import NodeId, Vector
from node.core.wire_values import WireDtype
from node.transport.frames import (
    HEADER_BYTES,
    MAGIC,
    MAX_EXCHANGE,
    MAX_ROUND,
    FrameRejectedError,
    WireContext,
    decode,
    encode,
)
from tests.messages import CARRIES, Kind, make_message

CONTEXT = WireContext(
    plan_id=7,
    num_params=10,
    fragment_sizes=(1, 4, 5),
    senders=frozenset(NodeId(node) for node in range(4)),
    carries=CARRIES,
)
LARGEST = {WireDtype.FLOAT32: 3.4e38, WireDtype.FLOAT16: 65_504.0, WireDtype.BFLOAT16: 3.38e38}


def contexts(dtype: WireDtype) -> WireContext:
    return replace(CONTEXT, dtype=dtype)


def vectors(size: int, dtype: WireDtype) -> st.SearchStrategy[Vector]:
    """Finite values that the encoding can hold, tiny ones included."""
    bound = float(np.float32(LARGEST[dtype]))
    return arrays(np.float32, size, elements=st.floats(-bound, bound, width=32)).map(frozen)


@st.composite
def messages(draw: st.DrawFn, dtype: WireDtype) -> Message:
    """Any message that fits the plan."""
    kind = draw(st.sampled_from(Kind))
    fragment = draw(st.integers(0, 2)) if kind is Kind.FRAGMENT else WHOLE_MODEL
    match kind:
        case Kind.FRAGMENT:
            size = CONTEXT.fragment_sizes[fragment]
        case Kind.NOTICE:
            size = 0
        case _:
            size = CONTEXT.num_params
    values = draw(vectors(size, dtype))
    return make_message(kind, draw(st.integers(0, MAX_ROUND)), values, fragment, draw(st.integers(0, MAX_EXCHANGE)))


@st.composite
def sent(draw: st.DrawFn) -> tuple[Message, WireDtype, NodeId, bytes]:
    dtype = draw(st.sampled_from(WireDtype))
    message = draw(messages(dtype))
    sender = NodeId(draw(st.integers(0, 3)))
    return message, dtype, sender, encode(message, sender, CONTEXT.plan_id, dtype)


@given(sent())
def test_round_trip(case: tuple[Message, WireDtype, NodeId, bytes]) -> None:
    message, dtype, sender, frame = case
    found, decoded = decode(frame, expected=contexts(dtype))
    assert found == sender
    assert (decoded.tag, decoded.round, decoded.exchange) == (message.tag, message.round, message.exchange)
    assert (type(decoded.body), decoded.body.fragment) == (type(message.body), message.body.fragment)
    assert len(frame) == HEADER_BYTES + message.body.wire_bytes(dtype)
    # The simulator rounds what it delivers in the same way.
    assert message.body.received(dtype).values.tobytes() == decoded.body.values.tobytes()
    wanted, got = message.body.values.astype(np.float64), decoded.body.values.astype(np.float64)
    match dtype:
        case WireDtype.FLOAT32:
            assert decoded.body.values.tobytes() == message.body.values.tobytes()
        case WireDtype.FLOAT16:
            assert np.all(np.abs(got - wanted) <= np.maximum(np.abs(wanted) * 2.0**-11, 2.0**-25))
        case WireDtype.BFLOAT16:
            assert np.all(np.abs(got - wanted) <= np.maximum(np.abs(wanted) * 2.0**-8, 2.0**-134))
    # A second conversion changes nothing more.
    assert encode(decoded, sender, CONTEXT.plan_id, dtype) == frame


def slow_bfloat16(value: float) -> float:
    """The nearer of the two neighbors, on a tie the even one: by search, not by bits."""
    bits = int(np.float32(value).view(np.uint32)) & 0xFFFF_0000
    below, above = (float(np.uint32(b).view(np.float32)) for b in (bits, bits + 0x1_0000))
    if abs(value - below) == abs(above - value):
        return below if bits & 0x1_0000 == 0 else above
    return below if abs(value - below) < abs(above - value) else above


@given(vectors(CONTEXT.num_params, WireDtype.BFLOAT16))
def test_bfloat16_is_the_nearest(values: Vector) -> None:
    frame = encode(make_message(Kind.MODEL, 0, values), NodeId(0), CONTEXT.plan_id, WireDtype.BFLOAT16)
    _, message = decode(frame, expected=contexts(WireDtype.BFLOAT16))
    assert message.body.values.tolist() == [slow_bfloat16(float(v)) for v in values]


@given(sent(), st.data())
def test_any_single_byte_that_changes_is_found(
    case: tuple[Message, WireDtype, NodeId, bytes], data: st.DataObject
) -> None:
    _, dtype, _, frame = case
    position = data.draw(st.integers(0, len(frame) - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = bytearray(frame)
    damaged[position] ^= flip
    with pytest.raises(FrameRejectedError):
        decode(bytes(damaged), expected=contexts(dtype))


def test_every_position_of_one_frame_matters() -> None:
    message = make_message(Kind.FRAGMENT, 3, frozen(np.ones(4, dtype=np.float32)), 1)
    frame = encode(message, NodeId(1), CONTEXT.plan_id)
    for position in range(len(frame)):
        for bit in range(8):
            damaged = bytearray(frame)
            damaged[position] ^= 1 << bit
            with pytest.raises(FrameRejectedError):
                decode(bytes(damaged), expected=CONTEXT)


@given(st.sampled_from(WireDtype), st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(MAGIC.__add__)))
def test_bytes_that_are_no_frame_are_rejected(dtype: WireDtype, data: bytes) -> None:
    with pytest.raises(FrameRejectedError):
        decode(data, expected=contexts(dtype))


BYTE = st.integers(0, 255)
U32 = st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1))
I32 = st.one_of(st.integers(-2, 4), st.integers(-(2**31), 2**31 - 1))
U64 = st.one_of(st.just(7), st.integers(0, 2**64 - 1))


@given(
    st.tuples(st.just(2), st.one_of(st.integers(0, 8), BYTE), st.integers(0, 4), st.integers(0, 3)),
    st.tuples(U32, I32, U32, st.integers(0, 12)),
    st.tuples(U64, U64),
    st.binary(max_size=48),
)
def test_a_forged_frame_is_rejected_or_fits_the_plan(
    start: tuple[int, ...], middle: tuple[int, ...], end: tuple[int, ...], payload: bytes
) -> None:
    """With a right checksum, so that the checks behind it are reached."""
    payload = payload.ljust(4 * middle[3], b"\0")[: 4 * middle[3]]
    body = struct.pack("<BBBBIiIIQQ", *start, *middle, *end) + payload
    frame = MAGIC + struct.pack("<I", zlib.crc32(body)) + body
    try:
        sender, message = decode(frame, expected=CONTEXT)
    except FrameRejectedError:
        return
    assert sender in CONTEXT.senders
    assert np.isfinite(message.body.values).all()
    if message.tag is Kind.FRAGMENT:
        assert len(message.body.values) == CONTEXT.fragment_sizes[message.body.fragment]
    else:
        assert message.body.fragment == WHOLE_MODEL
        assert len(message.body.values) == (0 if message.tag is Kind.NOTICE else CONTEXT.num_params)
    assert len(frame) == HEADER_BYTES + 4 * len(message.body.values)
