"""Frames: their layout, what each check rejects and in which order, and what the encodings do to values."""

import struct
import zlib
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from node.core.bodies import NO_VALUES, Body
from node.core.errors import ProtocolError
from node.core.fragments import FragmentLayout, FragmentPlan, fragment_plan
from node.core.messages import frozen
from node.core.types import NodeId, Vector
from node.core.wire_values import WireDtype, count_saturated
from node.transport.frames import (
    DTYPE_CODES,
    HEADER_BYTES,
    MAX_EXCHANGE,
    MAX_ROUND,
    FrameRejectedError,
    RejectReason,
    WireContext,
    decode,
    encode,
    plan_id,
)
from tests.benchmarks.fuzz_codec import fuzz
from tests.messages import CARRIES, Kind, make_message

PLAN_ID = 0x0123_4567_89AB_CDEF
CONTEXT = WireContext(
    plan_id=PLAN_ID,
    num_params=7,
    fragment_sizes=(2, 2, 3),
    senders=frozenset({NodeId(3), NodeId(5)}),
    carries={kind: body for kind, body in CARRIES.items() if kind is not Kind.PONG},
    round_max=1_000,
)
VALUES = frozen(np.array([1.5, -2.0, 0.0], dtype=np.float32))
FRAGMENT = make_message(Kind.FRAGMENT, 9, VALUES, fragment=2, exchange=4)
FRAME = encode(FRAGMENT, NodeId(5), PLAN_ID)


def header(**changes: int) -> bytes:
    """The header of a frame as the module docstring draws it, written down a second time."""
    fields = {
        "version": 2,
        "tag": 1,
        "layout": 2,
        "dtype": 1,
        "sender": 5,
        "fragment": 2,
        "round": 9,
        "count": 3,
        "exchange": 4,
        "plan_id": PLAN_ID,
    }
    return struct.pack("<BBBBIiIIQQ", *(fields | changes).values())


def frame(payload: bytes = VALUES.tobytes(), **changes: int) -> bytes:
    """A frame with the right checksum and some fields changed."""
    body = header(**changes) + payload
    return b"FRGM" + struct.pack("<I", zlib.crc32(body)) + body


def floats(*values: float) -> Vector:
    return frozen(np.array(values, dtype=np.float32))


def reason(data: bytes, context: WireContext = CONTEXT) -> RejectReason:
    with pytest.raises(FrameRejectedError) as caught:
        decode(data, expected=context)
    return caught.value.reason


def test_the_layout_is_that_of_the_docstring() -> None:
    assert frame() == FRAME
    assert len(FRAME) == HEADER_BYTES + 12


def test_a_frame_is_read_as_it_was_written() -> None:
    sender, message = decode(FRAME, expected=CONTEXT)
    assert sender == 5
    assert (message.tag, message.round, message.body.fragment, message.exchange) == (Kind.FRAGMENT, 9, 2, 4)
    np.testing.assert_array_equal(message.body.values, VALUES)


def test_every_layout_and_dtype_has_a_number_of_its_own() -> None:
    bodies = get_args(Body)
    assert sorted(body.layout for body in bodies) == list(range(1, len(bodies) + 1))
    assert sorted(DTYPE_CODES.values()) == list(range(1, len(WireDtype) + 1))


def test_float32_values_are_a_read_only_view_of_the_frame() -> None:
    for data in (FRAME, bytearray(FRAME), memoryview(b"head" + FRAME)[4:]):
        _, message = decode(data, expected=CONTEXT)
        assert np.shares_memory(message.body.values, np.frombuffer(data, np.uint8))
        assert not message.body.values.flags.writeable
        assert message.body.values.dtype == np.float32


def test_a_message_without_values_is_a_header() -> None:
    data = encode(make_message(Kind.NOTICE, 2, NO_VALUES), NodeId(3), PLAN_ID)
    assert len(data) == HEADER_BYTES
    assert decode(data, expected=CONTEXT)[1].body.values is NO_VALUES


def test_the_largest_numbers_fit() -> None:
    message = make_message(Kind.NOTICE, MAX_ROUND, NO_VALUES, exchange=MAX_EXCHANGE)
    wide = replace(CONTEXT, round_max=MAX_ROUND)
    assert decode(encode(message, NodeId(3), PLAN_ID), expected=wide)[1] == message


def test_values_that_are_not_contiguous_are_sent_in_their_order() -> None:
    every_other = np.arange(6, dtype=np.float32)[::2]
    for dtype in WireDtype:
        data = encode(make_message(Kind.FRAGMENT, 9, every_other, fragment=2), NodeId(5), PLAN_ID, dtype)
        _, message = decode(data, expected=replace(CONTEXT, dtype=dtype))
        np.testing.assert_array_equal(message.body.values, [0, 2, 4])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", RejectReason.LENGTH),
        (FRAME[: HEADER_BYTES - 1], RejectReason.LENGTH),
        (b"X" + FRAME[1:], RejectReason.MAGIC),
        (frame(version=1), RejectReason.VERSION),
        (frame(dtype=0), RejectReason.DTYPE),
        (frame(dtype=2), RejectReason.DTYPE),
        (frame(dtype=255), RejectReason.DTYPE),
        (FRAME[:-1], RejectReason.SIZE),
        (FRAME + b"\0", RejectReason.SIZE),
        (frame(count=2**32 - 1), RejectReason.SIZE),
        (FRAME[:-1] + b"\1", RejectReason.CHECKSUM),
        (FRAME[:4] + b"\0\0\0\0" + FRAME[8:], RejectReason.CHECKSUM),
        (frame(plan_id=PLAN_ID + 1), RejectReason.PLAN),
        (frame(sender=4), RejectReason.SENDER),
        (frame(sender=2**32 - 1), RejectReason.SENDER),
        (frame(tag=0), RejectReason.KIND),
        (frame(tag=8), RejectReason.KIND),
        (frame(tag=Kind.PONG, layout=1), RejectReason.KIND),
        (frame(layout=0), RejectReason.KIND),
        (frame(layout=4), RejectReason.KIND),
        (frame(layout=1), RejectReason.KIND),  # a fragment is not a whole model
        (frame(tag=Kind.NOTICE), RejectReason.KIND),  # nor is a notice a fragment
        (frame(fragment=3), RejectReason.FRAGMENT),
        (frame(fragment=-1), RejectReason.FRAGMENT),
        (frame(fragment=-(2**31)), RejectReason.FRAGMENT),
        (frame(fragment=0), RejectReason.FRAGMENT),  # it has two values, not three
        (frame(b"", count=0), RejectReason.FRAGMENT),
        (frame(tag=2, layout=1, fragment=-1), RejectReason.FRAGMENT),  # a model has seven values
        (frame(bytes(28), tag=2, layout=1, fragment=0, count=7), RejectReason.FRAGMENT),  # a model is not a fragment
        (frame(tag=7, layout=3, fragment=-1), RejectReason.FRAGMENT),  # a notice has no values
        (frame(round=1_001), RejectReason.ROUND),
        (frame(floats(0, np.nan, 0).tobytes()), RejectReason.NOT_FINITE),
        (frame(floats(np.inf, 0, 0).tobytes()), RejectReason.NOT_FINITE),
        (frame(floats(0, 0, -np.inf).tobytes()), RejectReason.NOT_FINITE),
    ],
)
def test_what_is_wrong_is_rejected_for_what_it_is(data: bytes, expected: RejectReason) -> None:
    assert reason(data) is expected


def test_checks_are_in_the_order_of_the_reasons() -> None:
    """Of two faults the one earlier in the enumeration is named."""
    faults: dict[RejectReason, dict[str, int]] = {
        RejectReason.VERSION: {"version": 3},
        RejectReason.DTYPE: {"dtype": 9},
        RejectReason.SIZE: {"count": 4},
        RejectReason.PLAN: {"plan_id": 0},
        RejectReason.SENDER: {"sender": 0},
        RejectReason.KIND: {"tag": 99},
        RejectReason.FRAGMENT: {"fragment": 9},
        RejectReason.ROUND: {"round": 5_000},
        RejectReason.NOT_FINITE: {},
    }
    order = list(RejectReason)
    assert list(faults) == sorted(faults, key=order.index)
    bad_values = floats(0, np.nan, 0).tobytes()
    wrong: dict[str, int] = {}
    for fault, change in reversed(faults.items()):
        wrong |= change
        assert reason(frame(bad_values, **wrong)) is fault


def test_a_rejection_is_a_protocol_error_that_says_value_and_bound() -> None:
    with pytest.raises(ProtocolError, match=r"^round 1001: must be at most 1000$"):
        decode(frame(round=1_001), expected=CONTEXT)


def test_a_peer_cannot_speak_for_another_one() -> None:
    """A stream's context names its sender alone."""
    assert reason(FRAME, replace(CONTEXT, senders=frozenset({NodeId(3)}))) is RejectReason.SENDER


def test_reasons_are_fit_for_a_label() -> None:
    assert all(r.value == r.name.lower() for r in RejectReason)


def through(values: Vector, dtype: WireDtype) -> Vector:
    """Values as they arrive; the message is a model of as many."""
    context = replace(CONTEXT, num_params=len(values), dtype=dtype)
    data = encode(make_message(Kind.MODEL, 0, values), NodeId(5), PLAN_ID, dtype)
    assert len(data) == HEADER_BYTES + dtype.value_bytes * len(values) == context.frame_bytes_max
    _, message = decode(data, expected=context)
    assert message.body.values.dtype == np.float32
    assert not message.body.values.flags.writeable
    return message.body.values


def test_bfloat16_rounds_to_nearest_and_ties_to_even() -> None:
    ulp = 2.0**-7  # of numbers from 1 to 2
    values = floats(1 + 0.5 * ulp, 1 + 1.5 * ulp, 1 + 0.49 * ulp, 1 + 0.51 * ulp, -(1 + 1.5 * ulp), 2 - 0.25 * ulp)
    expected = [1, 1 + 2 * ulp, 1, 1 + ulp, -(1 + 2 * ulp), 2]
    np.testing.assert_array_equal(through(values, WireDtype.BFLOAT16), expected)


@pytest.mark.parametrize("bits", [0x7F80_0001, 0x7FC0_0000, 0x7FFF_8000, 0x7FFF_FFFF, 0xFFFF_FFFF, 0xFF80_0001])
def test_no_nan_becomes_a_number_on_the_way(bits: int) -> None:
    values = np.array([bits], dtype=np.uint32).view(np.float32)
    for dtype in WireDtype:
        with pytest.raises(FrameRejectedError) as caught:
            through(values, dtype)
        assert caught.value.reason is RejectReason.NOT_FINITE


@pytest.mark.parametrize(
    ("dtype", "largest", "beyond"),
    [
        (WireDtype.FLOAT16, 65_504.0, 65_520.0),
        (WireDtype.BFLOAT16, 3.3895313892515355e38, 3.3961775292304957e38),
    ],
)
def test_what_is_too_large_travels_as_the_largest(dtype: WireDtype, largest: float, beyond: float) -> None:
    """From the first number on that would not round to it; what is not finite stays so."""
    assert dtype.largest == largest
    below = np.nextafter(np.float32(beyond), np.float32(0))
    values = floats(largest, -largest, beyond, -beyond, below, -below, 3.4e38, -3.4e38, 0)
    signs = np.sign(values)
    np.testing.assert_array_equal(through(values, dtype), signs * np.float32(largest))
    assert count_saturated(values, dtype) == 4
    for not_finite in (np.inf, -np.inf, np.nan):
        assert count_saturated(floats(not_finite), dtype) == 0
        with pytest.raises(FrameRejectedError) as caught:
            through(floats(not_finite), dtype)
        assert caught.value.reason is RejectReason.NOT_FINITE


def test_float32_holds_all_that_a_model_holds() -> None:
    assert WireDtype.FLOAT32.largest == float(np.finfo(np.float32).max)
    assert count_saturated(floats(3.4e38, -3.4e38, np.inf), WireDtype.FLOAT32) == 0


SIZES = (5, 2)
PINNED = 0x8F72_FEBB_F7F6_BB52
"""Of the plan below, written down when it was first computed. A new value needs a new WIRE_VERSION."""


def cut(seed: int = 1, count: int = 3, layout: FragmentLayout = FragmentLayout.RANDOM) -> FragmentPlan:
    return fragment_plan(SIZES, count, layout, seed)


def test_the_plan_id_is_the_same_everywhere() -> None:
    contiguous = FragmentPlan(order=np.arange(7), bounds=(0, 3, 5, 7))
    assert plan_id(SIZES, 1, contiguous) == PINNED
    assert plan_id(list(SIZES), 1, replace(contiguous, order=np.arange(14)[::2] // 2)) == PINNED


def test_the_plan_id_differs_where_anything_differs() -> None:
    ids = [
        plan_id(SIZES, 1),
        plan_id(SIZES, 2),
        plan_id((2, 5), 1),
        plan_id((7,), 1),
        plan_id(SIZES, 1, cut()),
        plan_id(SIZES, 2, cut()),
        plan_id(SIZES, 1, cut(seed=2)),
        plan_id(SIZES, 1, cut(count=2)),
        plan_id(SIZES, 1, cut(layout=FragmentLayout.STRIDED)),
        plan_id((2, 5), 1, cut(layout=FragmentLayout.STRIDED)),
    ]
    assert len(set(ids)) == len(ids)
    assert all(0 <= i < 2**64 for i in ids)


def test_twenty_thousand_broken_frames_do_no_harm() -> None:
    """A short run of tests/benchmarks/fuzz_codec.py, whose full length is a million."""
    outcomes = fuzz(20_000, seed=1)
    elsewhere = {RejectReason.IDENTITY, RejectReason.ENVELOPE, RejectReason.FLOOD, RejectReason.ALGORITHM}
    reachable = set(RejectReason) - elsewhere
    assert set(outcomes) == {"accepted"} | {r.value for r in reachable}
