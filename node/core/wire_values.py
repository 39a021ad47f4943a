"""Values on the wire: their dtype, and the one conversion that real nodes and the simulator share.

States: none. In memory values are always float32.
"""

import sys
from enum import Enum
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from node.core.types import Vector

assert sys.byteorder == "little", "frames are views of memory, so the host must be little-endian as they are"

Buffer: TypeAlias = bytes | bytearray | memoryview


class WireDtype(Enum):
    """Type of values on the wire. In memory they are always float32.

    The errors are those of one conversion. A value beyond a type's largest saturates: it travels as the largest of
    its sign, and the sender counts it (``values_saturated``).
    """

    FLOAT32 = "float32"
    """4 bytes a value; exact."""
    FLOAT16 = "float16"
    """2 bytes. Relative error at most 2^-11 from 2^-14 to the largest, 65504; below, absolute at most 2^-25."""
    BFLOAT16 = "bfloat16"
    """2 bytes: float32 without its lower half, rounded to nearest, ties to even. Relative error at most 2^-8
    from 2^-126 to the largest, 3.39e38; below, absolute at most 2^-134."""

    value_bytes: int
    """Bytes a value."""
    largest: float
    """The largest number that the type holds."""

    def __init__(self, name: str) -> None:
        self.value_bytes = 4 if name == "float32" else 2
        # The bits of the largest are all ones but for the last one of the exponent; bfloat16 has float32's upper half.
        bits = {"float32": 0x7F7F_FFFF, "float16": 0x477F_E000, "bfloat16": 0x7F7F_0000}[name]
        self.largest = float(np.uint32(bits).view(np.float32))


def to_wire(values: Vector, dtype: WireDtype) -> memoryview:
    """Convert values to what travels of them, contiguous. Not copied for float32.

    Args:
        values: Shape (k,), float32. Infinite ones and NaN stay so; nodes send none (:mod:`node.core.divergence`).
        dtype: How they are to travel. A value beyond its largest becomes the largest, of the same sign.
    """
    assert values.dtype == np.float32, values.dtype
    match dtype:
        case WireDtype.FLOAT32:
            return np.ascontiguousarray(values).data
        case WireDtype.FLOAT16:
            return _float16(values).data
        case WireDtype.BFLOAT16:
            return _bfloat16(values).data


def from_wire(payload: Buffer, count: int, dtype: WireDtype, offset: int = 0) -> Vector:
    """Convert what travelled back to values. Not copied for float32, whose values keep ``payload`` alive.

    Args:
        payload: Holds the values from ``offset`` on. It must not change afterwards.
        count: Number of values.
        dtype: How they travelled.
        offset: Where they begin, in bytes.

    Returns:
        Read-only, shape (count,), float32.
    """
    match dtype:
        case WireDtype.FLOAT32:
            values = np.frombuffer(payload, np.float32, count, offset)
        case WireDtype.FLOAT16:
            values = np.frombuffer(payload, np.float16, count, offset).astype(np.float32)
        case WireDtype.BFLOAT16:
            bits = np.frombuffer(payload, np.uint16, count, offset).astype(np.uint32)
            bits <<= 16
            values = bits.view(np.float32)
    values.setflags(write=False)
    return values


def through_wire(values: Vector, dtype: WireDtype) -> Vector:
    """Return values as a receiver gets them: the array itself for float32, else a rounded, read-only copy."""
    return values if dtype is WireDtype.FLOAT32 else from_wire(to_wire(values, dtype), len(values), dtype)


def count_saturated(values: Vector, dtype: WireDtype) -> int:
    """Count the finite values that rounding to a type would make infinite, so that they travel as its largest."""
    if dtype is WireDtype.FLOAT32:
        return 0
    beyond = np.abs(values) >= np.float32(_FIRST_BEYOND[dtype])
    return int(np.count_nonzero(beyond & np.isfinite(values))) if beyond.any() else 0


_FIRST_BEYOND: Final = {WireDtype.FLOAT16: 65_520.0, WireDtype.BFLOAT16: float(np.uint32(0x7F7F_8000).view(np.float32))}
"""Half of the last place above the largest: the first number that does not round to it. Ties go to even, upwards."""


def _float16(values: Vector) -> npt.NDArray[np.float16]:
    """Round to nearest, ties to even; finite numbers stay finite."""
    with np.errstate(over="ignore", under="ignore"):
        halves = values.astype(np.float16)
    beyond = np.isinf(halves)
    if beyond.any():
        beyond &= np.isfinite(values)
        halves[beyond] = np.copysign(np.float16(WireDtype.FLOAT16.largest), halves[beyond])
    return halves


def _bfloat16(values: Vector) -> npt.NDArray[np.uint16]:
    """Return the upper halves of float32 numbers, rounded to nearest, ties to even; finite numbers stay finite."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    # Half of the last place that stays, less one unless the upper half is odd; a carry moves into the exponent.
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))
    halves = (rounded >> 16).astype(np.uint16)
    # Rounding carries some NaNs over the sign bit and makes numbers of them.
    nan = np.isnan(values)
    if nan.any():
        halves[nan] = 0x7FC0
    infinite = (halves & np.uint16(0x7FFF)) == 0x7F80
    if infinite.any():
        infinite &= np.isfinite(values)
        halves[infinite] -= np.uint16(1)  # the largest of the same sign is the number before infinity
    return halves
