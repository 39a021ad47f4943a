"""Feed the decoder broken frames: ``python -m tests.benchmarks.fuzz_codec [frames] [seed]``, a million by default.

Frames are damaged, cut, spliced, made up, or forged with a right checksum. Each must be rejected with a reason,
or fit the plan; memory must not grow. Prints what became of them.
"""

import os
import struct
import sys
import zlib
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import psutil

from node.core.bodies import NO_VALUES
from node.core.messages import frozen
from node.core.types import NodeId
from node.core.wire_values import WireDtype
from node.transport.frames import (
    HEADER_BYTES,
    MAGIC,
    MAX_ROUND,
    FrameRejectedError,
    WireContext,
    decode,
    encode,
)
from tests.messages import CARRIES, Kind, make_message

GROWTH_BYTES_MAX = 8 * 2**20
"""Of resident memory after the first tenth; what an allocator may keep, and far below a leak of every frame."""

CONTEXT = WireContext(
    plan_id=0x5EED,
    num_params=24,
    fragment_sizes=(7, 8, 9),
    senders=frozenset(NodeId(node) for node in range(8)),
    carries={kind: body for kind, body in CARRIES.items() if kind is not Kind.PONG},
    round_max=MAX_ROUND // 2,
)
CONTEXTS = [replace(CONTEXT, dtype=dtype) for dtype in WireDtype]
BY_CODE = {context.dtype_code: context for context in CONTEXTS}
FIELDS = ((8, 1), (9, 1), (10, 1), (11, 1), (12, 4), (16, 4), (20, 4), (24, 4), (28, 8), (36, 8))
"""Offset and size of all that the checksum covers in a header."""
EDGES = (b"\0", b"\1", b"\2", b"\x7f", b"\x80", b"\xff")
NOT_FINITE = (b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\1\0\xc0\x7f")


def corpus() -> list[bytes]:
    """Sound frames of every kind, fragment and encoding."""
    rng = np.random.default_rng(0)
    messages = [make_message(Kind.NOTICE, 1, NO_VALUES)]
    for kind in set(CONTEXT.carries) - {Kind.NOTICE, Kind.FRAGMENT}:
        values = frozen(rng.standard_normal(CONTEXT.num_params, dtype=np.float32))
        messages.append(make_message(kind, 2, values, exchange=5))
    for fragment, size in enumerate(CONTEXT.fragment_sizes):
        messages.append(make_message(Kind.FRAGMENT, 3, frozen(rng.standard_normal(size, dtype=np.float32)), fragment))
    messages.sort(key=lambda message: (message.tag.name, message.body.fragment))
    return [encode(m, NodeId(1), CONTEXT.plan_id, dtype) for dtype in WireDtype for m in messages]


def sealed(frame: bytearray) -> bytes:
    """The frame with the checksum that it should have."""
    frame[4:8] = struct.pack("<I", zlib.crc32(memoryview(frame)[8:]))
    return bytes(frame)


def broken(rng: Random, frames: list[bytes]) -> bytes:
    """One frame that is wrong in some way, or by chance is not."""
    frame = bytearray(rng.choice(frames))
    match rng.randrange(8):
        case 0:
            frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
            return bytes(frame)
        case 1:
            return bytes(frame[: rng.randrange(len(frame))])
        case 2:
            return bytes(frame + rng.randbytes(rng.randrange(1, 64)))
        case 3:
            return rng.choice((b"", MAGIC)) + rng.randbytes(rng.randrange(200))
        case 4:
            other = rng.choice(frames)
            return bytes(frame[: rng.randrange(len(frame))]) + other[rng.randrange(len(other)) :]
        case 5:
            for _ in range(rng.randrange(1, 3)):
                offset, size = rng.choice(FIELDS)
                frame[offset : offset + size] = rng.choice((rng.randbytes(size), rng.choice(EDGES) * size))
            return sealed(frame)
        case 6:
            offset, size = rng.choice(FIELDS)
            number = int.from_bytes(frame[offset : offset + size], "little") + rng.choice((-1, 1))
            frame[offset : offset + size] = (number % 256**size).to_bytes(size, "little")
            return sealed(frame)
        case _:
            if len(frame) > HEADER_BYTES:
                value = rng.choice((rng.choice(NOT_FINITE), rng.randbytes(4)))
                at = rng.randrange(HEADER_BYTES, len(frame) - 3, 2)
                frame[at : at + 4] = value
            return sealed(frame)


def context_of(frame: bytes, rng: Random) -> WireContext:
    """Mostly that of the encoding the frame claims, so that it gets past that check; now and then another one."""
    claimed = frame[11] if len(frame) > 11 else 0
    if claimed in BY_CODE and rng.random() < 0.95:
        return BY_CODE[claimed]
    return rng.choice(CONTEXTS)


def fuzz(count: int, seed: int) -> Counter[str]:
    """Decode broken frames; the same arguments always give the same ones.

    Returns:
        How many were accepted, and rejected for each reason.

    Raises:
        AssertionError: One was accepted that does not fit, or memory grew.
    """
    rng = Random(seed)
    frames = corpus()
    process = psutil.Process(os.getpid())
    outcomes: Counter[str] = Counter()
    resident = 0
    for number in range(count):
        if number == count // 10:
            resident = process.memory_info().rss
        frame = broken(rng, frames)
        context = context_of(frame, rng)
        try:
            sender, message = decode(frame, expected=context)
        except FrameRejectedError as error:
            outcomes[error.reason.value] += 1
            continue
        outcomes["accepted"] += 1
        assert np.isfinite(message.body.values).all(), frame
        # All that a receiver goes by is in the frame and nothing else is: it can be made again.
        assert encode(message, sender, context.plan_id, context.dtype) == frame, frame
    growth = process.memory_info().rss - resident
    assert growth < GROWTH_BYTES_MAX, f"memory grew by {growth} bytes in {count} frames"
    return outcomes


def main() -> None:
    """Run and print."""
    count, seed = [*(int(word) for word in sys.argv[1:]), *(1_000_000, 1)[len(sys.argv) - 1 :]]
    for outcome, times in sorted(fuzz(count, seed).items(), key=lambda item: -item[1]):
        print(f"{outcome:12} {times:9,d}")


if __name__ == "__main__":
    main()
