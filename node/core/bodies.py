"""Bodies of messages: what a message carries besides its tag. A small closed set, shared by all algorithms.

A body knows its size on the wire under a given dtype, in three classes of bytes: values (``payload``), positions of
values that the receiver cannot know (``index``), and fields of its own that precede both (``header``). It writes and
reads itself, so that a frame only names its layout, and it knows how its values arrive.

To add one: write the class here, with a new number for its layout, and name it in :data:`Body`. An algorithm sends it
once its ``carries`` says so. Codec, simulator, driver, message table and results ask the body and stay as they are;
``tests/property/test_new_body.py`` does it with a body of its own.
"""

from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import numpy as np

from node.core.errors import ProtocolError
from node.core.types import Vector
from node.core.wire_values import Buffer, WireDtype, from_wire, through_wire, to_wire

WHOLE_MODEL = -1
"""``fragment`` of a body that is not a fragment."""

NO_VALUES: Vector = np.zeros(0, dtype=np.float32)
NO_VALUES.setflags(write=False)


class BodyMismatchError(ProtocolError):
    """Bytes are no body that fits the model and its fragments."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes that all nodes know and that a body read from the wire must fit.

    Attributes:
        num_params: d, values of a whole model.
        fragment_sizes: Values of each fragment, length C; empty where models are not cut.
    """

    num_params: int
    fragment_sizes: tuple[int, ...] = ()


class _Dense:
    """Shared parts of bodies that are plain values: nothing besides them is on the wire.

    State:
        _count: Number of values. A simulation asks every message for its size, and the array is in no cache by then.
    """

    __slots__ = ("_count",)

    values: Vector
    _count: int
    is_control: ClassVar[bool] = False
    index_bytes: ClassVar[int] = 0
    header_bytes: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Count the values."""
        object.__setattr__(self, "_count", len(self.values))

    def payload_bytes(self, dtype: WireDtype) -> int:
        """Bytes of the values on the wire."""
        return self._count * dtype.value_bytes

    def wire_bytes(self, dtype: WireDtype) -> int:
        """Bytes of the whole body on the wire."""
        return self._count * dtype.value_bytes

    def parts(self, dtype: WireDtype) -> tuple[Buffer, ...]:
        """Return the bytes of the body, in pieces, in the order in which they travel."""
        return (to_wire(self.values, dtype),)

    @staticmethod
    def size(count: int, dtype: WireDtype) -> int:
        """Bytes of a body of ``count`` values on the wire."""
        return count * dtype.value_bytes


@dataclass(frozen=True, slots=True)
class Whole(_Dense):
    """The sender's whole model.

    Attributes:
        values: Shape (d,), float32, read-only.
    """

    layout: ClassVar[int] = 1
    fragment: ClassVar[int] = WHOLE_MODEL

    values: Vector
    _received: "Whole | None" = field(default=None, init=False, repr=False, compare=False)

    def received(self, dtype: WireDtype) -> "Whole":
        """Return the body as receivers get it; the same object for all of them, and this one for float32."""
        if dtype is WireDtype.FLOAT32:
            return self
        if self._received is None:
            object.__setattr__(self, "_received", Whole(through_wire(self.values, dtype)))
        assert self._received is not None
        return self._received

    @classmethod
    def read(cls, data: Buffer, offset: int, count: int, fragment: int, dtype: WireDtype, shape: ModelShape) -> "Whole":
        """Read the body that begins at ``offset`` and whose size is right.

        Raises:
            BodyMismatchError: It is not a whole model.
        """
        if fragment != WHOLE_MODEL or count != shape.num_params:
            raise BodyMismatchError(f"model {fragment} of {count} values: not in the plan")
        return cls(from_wire(data, count, dtype, offset))


@dataclass(frozen=True, slots=True)
class FragmentOf(_Dense):
    """One fragment of the sender's model.

    Attributes:
        fragment: Index in the plan that all nodes share, so that no positions travel.
        values: Shape (k,), float32, read-only.
    """

    layout: ClassVar[int] = 2

    fragment: int
    values: Vector
    _received: "FragmentOf | None" = field(default=None, init=False, repr=False, compare=False)

    def received(self, dtype: WireDtype) -> "FragmentOf":
        """See :meth:`Whole.received`."""
        if dtype is WireDtype.FLOAT32:
            return self
        if self._received is None:
            object.__setattr__(self, "_received", FragmentOf(self.fragment, through_wire(self.values, dtype)))
        assert self._received is not None
        return self._received

    @classmethod
    def read(
        cls, data: Buffer, offset: int, count: int, fragment: int, dtype: WireDtype, shape: ModelShape
    ) -> "FragmentOf":
        """See :meth:`Whole.read`.

        Raises:
            BodyMismatchError: There is no such fragment, or it has another number of values.
        """
        sizes = shape.fragment_sizes
        if not (0 <= fragment < len(sizes) and count == sizes[fragment]):
            raise BodyMismatchError(f"fragment {fragment} of {count} values: not in the plan")
        return cls(fragment, from_wire(data, count, dtype, offset))


@dataclass(frozen=True, slots=True)
class Empty:
    """No values: control traffic."""

    layout: ClassVar[int] = 3
    fragment: ClassVar[int] = WHOLE_MODEL
    values: ClassVar[Vector] = NO_VALUES
    is_control: ClassVar[bool] = True
    index_bytes: ClassVar[int] = 0
    header_bytes: ClassVar[int] = 0

    def payload_bytes(self, dtype: WireDtype) -> int:
        """Nothing."""
        return 0

    def wire_bytes(self, dtype: WireDtype) -> int:
        """Nothing."""
        return 0

    def parts(self, dtype: WireDtype) -> tuple[Buffer, ...]:
        """Nothing."""
        return ()

    @staticmethod
    def size(count: int, dtype: WireDtype) -> int:
        """Nothing, whatever a header says: :meth:`read` refuses values."""
        return count * dtype.value_bytes

    def received(self, dtype: WireDtype) -> "Empty":
        """Return this body."""
        return self

    @classmethod
    def read(cls, data: Buffer, offset: int, count: int, fragment: int, dtype: WireDtype, shape: ModelShape) -> "Empty":
        """See :meth:`Whole.read`.

        Raises:
            BodyMismatchError: There are values.
        """
        if fragment != WHOLE_MODEL or count:
            raise BodyMismatchError(f"control message {fragment} of {count} values: must have none")
        return EMPTY


EMPTY = Empty()

Body: TypeAlias = Whole | FragmentOf | Empty
"""Any body. Layouts have numbers of their own, from 1 to 255."""
