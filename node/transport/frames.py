"""Messages as bytes: a fixed header and raw values, little-endian. Neither gRPC nor protobuf enters.

A frame is made once and the same bytes go to all recipients. Its layout, in the order of the bytes::

    offset  bytes  field
         0      4  magic      b"FRGM"
         4      4  checksum   CRC-32 (zlib's) of all that follows, header and payload
         8      1  version    WIRE_VERSION
         9      1  kind       what the message is for, numbered by KIND_CODES
        10      1  dtype      how values are encoded, numbered by DTYPE_CODES
        11      1  reserved   0
        12      4  sender     node index, unsigned
        16      4  fragment   index in the plan, or -1; signed
        20      4  round      the sender's round, unsigned
        24      4  count      number of values, unsigned; a message's values are always of shape (count,)
        28      8  exchange   unsigned
        36      8  plan id    see plan_id, unsigned
        44         payload    count values; 4-byte aligned within the frame

What arrives is checked before it touches a model, cheapest and most telling checks first. Every failure
raises :class:`FrameRejectedError` and nothing else does. The checksum finds damage, not malice: whoever can
write to the stream can compute it.

States: none. Both directions are functions of their arguments.
"""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NoReturn

import numpy as np

from node.core.errors import ProtocolError
from node.core.fragments import FragmentPlan
from node.core.messages import NO_VALUES, WHOLE_MODEL, Message, MessageKind
from node.core.types import NodeId
from node.core.wire_values import WireDtype, from_wire, to_wire

MAGIC = b"FRGM"
WIRE_VERSION = 1
"""Raised whenever the layout or the meaning of a field changes."""

HEADER_BYTES = 44
MAX_ROUND = 2**32 - 1
MAX_EXCHANGE = 2**64 - 1

_HEADER = struct.Struct("<4sIBBBBIiIIQQ")
_START = struct.Struct("<4sI")
_CHECKED = struct.Struct("<BBBBIiIIQQ")
"""What the checksum covers of the header: all after itself, so that one pass checks header and payload."""
assert _HEADER.size == _START.size + _CHECKED.size == HEADER_BYTES
_CHECKED_FROM = _START.size


class RejectReason(Enum):
    """Why a message was dropped. The values are few and fixed, so that they can label a metric."""

    LENGTH = "length"
    """Shorter than a header."""
    MAGIC = "magic"
    """Not one of our frames."""
    VERSION = "version"
    """Another version of the layout."""
    DTYPE = "dtype"
    """Another encoding than the run's, or a reserved bit is set."""
    SIZE = "size"
    """The payload is shorter or longer than the header says."""
    CHECKSUM = "checksum"
    """Damaged on the way."""
    PLAN = "plan"
    """Made for another fragment plan, model or seed."""
    SENDER = "sender"
    """Not from a node that may send here."""
    KIND = "kind"
    """Unknown, or not one that the algorithm takes."""
    FRAGMENT = "fragment"
    """No such fragment, or not as many values as it has."""
    ROUND = "round"
    """A round that cannot be."""
    NOT_FINITE = "not_finite"
    """An infinity or not a number among the values."""
    ENVELOPE = "envelope"
    """Not an envelope, or not one that may come here. Never raised here."""
    FLOOD = "flood"
    """In order, but the receiver's bounded queue was full. Never raised here."""
    ALGORITHM = "algorithm"
    """In order, but the algorithm has no use for it now. Never raised here."""


class FrameRejectedError(ProtocolError):
    """A frame failed a check.

    Attributes:
        reason: Which one.
    """

    def __init__(self, reason: RejectReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


KIND_CODES: dict[MessageKind, int] = {
    MessageKind.FRAGMENT: 1,
    MessageKind.MODEL: 2,
    MessageKind.PING: 3,
    MessageKind.PONG: 4,
    MessageKind.AVERAGE_REQUEST: 5,
    MessageKind.AVERAGE_REPLY: 6,
    MessageKind.NOTICE: 7,
}
DTYPE_CODES: dict[WireDtype, int] = {WireDtype.FLOAT32: 1, WireDtype.FLOAT16: 2, WireDtype.BFLOAT16: 3}

_KINDS = {code: kind for kind, code in KIND_CODES.items()}
_FRAGMENT_CODE = KIND_CODES[MessageKind.FRAGMENT]
_NOTICE_CODE = KIND_CODES[MessageKind.NOTICE]

ALL_KINDS = frozenset(MessageKind)


@dataclass(frozen=True)
class WireContext:
    """What a receiver takes for granted, and rejects the rest.

    Made once for a run, or once for a stream with that stream's sender alone in ``senders``, so that a peer
    cannot speak for another one.

    Attributes:
        plan_id: Of the run; see :func:`plan_id`.
        num_params: d, values of a whole model.
        fragment_sizes: Values of each fragment, length C; empty where models are not cut.
        senders: Who may send.
        kinds: What the algorithm takes.
        round_max: The largest round that a sender can be in; rounds start at 0.
        dtype: How values travel in this run.
    """

    plan_id: int
    num_params: int
    fragment_sizes: tuple[int, ...]
    senders: frozenset[NodeId]
    kinds: frozenset[MessageKind] = ALL_KINDS
    round_max: int = MAX_ROUND
    dtype: WireDtype = WireDtype.FLOAT32

    @cached_property
    def kinds_by_code(self) -> dict[int, MessageKind]:
        """The allowed kinds by their number in the header."""
        return {code: kind for code, kind in _KINDS.items() if kind in self.kinds}

    @cached_property
    def dtype_code(self) -> int:
        """The number of ``dtype`` in the header."""
        return DTYPE_CODES[self.dtype]

    @cached_property
    def value_bytes(self) -> int:
        """Bytes a value."""
        return self.dtype.value_bytes

    @cached_property
    def frame_bytes_max(self) -> int:
        """Length of the longest frame that can pass: the bound for a transport's receive buffer."""
        return HEADER_BYTES + self.num_params * self.value_bytes


def plan_id(tensor_sizes: Sequence[int], seed: int, plan: FragmentPlan | None = None) -> int:
    """What all nodes of a run must agree on before their parameters may be mixed, as a number.

    The same on every machine and in every process; different plans share one with probability 2^-64.

    Args:
        tensor_sizes: Scalars in each tensor, in state-dict order.
        seed: The experiment's seed, >= 0.
        plan: How models are cut; None for an algorithm that does not cut them.

    Returns:
        Unsigned, 64 bits.
    """
    digest = hashlib.blake2b(digest_size=8, person=b"fragmesh-plan")
    bounds = () if plan is None else plan.bounds
    # Lengths go first, so that no two different inputs give the same bytes.
    numbers = (len(tensor_sizes), *tensor_sizes, len(bounds), *bounds)
    digest.update(np.array(numbers, dtype="<i8").tobytes())
    if plan is not None:
        digest.update(np.ascontiguousarray(plan.order, dtype="<i8").tobytes())
    digest.update(str(seed).encode())
    return int.from_bytes(digest.digest(), "little")


def encode(message: Message, sender: NodeId, plan_id: int, dtype: WireDtype = WireDtype.FLOAT32) -> bytes:
    """Make a message's frame.

    Float32 values are copied once, into the frame. Values that are not finite are encoded as they are, and the
    receiver rejects them: a model that diverged shows in the receivers' counts.

    Args:
        message: What to send. ``round`` and ``exchange`` must fit the header: at most :data:`MAX_ROUND` and
            :data:`MAX_EXCHANGE`, not negative.
        sender: This node.
        plan_id: Of the run.
        dtype: How the values are to travel.
    """
    payload = to_wire(message.values, dtype)
    checked = _CHECKED.pack(
        WIRE_VERSION,
        KIND_CODES[message.kind],
        DTYPE_CODES[dtype],
        0,
        sender,
        message.fragment,
        message.round,
        len(message.values),
        message.exchange,
        plan_id,
    )
    start = _START.pack(MAGIC, zlib.crc32(payload, zlib.crc32(checked)))
    return b"".join((start, checked, payload))


def decode(frame: bytes | bytearray | memoryview, *, expected: WireContext) -> tuple[NodeId, Message]:
    """Check a frame and read it.

    Args:
        frame: One whole frame. It must not change afterwards: float32 values are a view of it and keep it alive.
        expected: What it must agree with.

    Returns:
        Who sent it, and the message; its values are read-only.

    Raises:
        FrameRejectedError: A check failed; the first that does, in the order of :class:`RejectReason`.
    """
    length = len(frame)
    if length < HEADER_BYTES:
        raise FrameRejectedError(RejectReason.LENGTH, f"frame of {length} bytes: must be at least {HEADER_BYTES}")
    magic, checksum, version, code, dtype, reserved, sender, fragment, round_, count, exchange, plan = (
        _HEADER.unpack_from(frame)
    )
    if magic != MAGIC:
        raise FrameRejectedError(RejectReason.MAGIC, f"frame begins with {magic!r}: must be {MAGIC!r}")
    if version != WIRE_VERSION:
        raise FrameRejectedError(RejectReason.VERSION, f"frame of version {version}: must be {WIRE_VERSION}")
    if dtype != expected.dtype_code or reserved:
        raise FrameRejectedError(
            RejectReason.DTYPE, f"dtype {dtype}, reserved {reserved}: must be {expected.dtype_code} and 0"
        )
    if length - HEADER_BYTES != count * expected.value_bytes:
        raise FrameRejectedError(
            RejectReason.SIZE,
            f"payload of {length - HEADER_BYTES} bytes: must be {count * expected.value_bytes} for {count} values",
        )
    view = memoryview(frame)
    if zlib.crc32(view[_CHECKED_FROM:]) != checksum:
        raise FrameRejectedError(RejectReason.CHECKSUM, f"checksum of {length} bytes is not {checksum:#010x}")
    if plan != expected.plan_id:
        raise FrameRejectedError(RejectReason.PLAN, f"plan {plan:#018x}: must be {expected.plan_id:#018x}")
    if sender not in expected.senders:
        raise FrameRejectedError(RejectReason.SENDER, f"node {sender}: may not send here")
    kind = expected.kinds_by_code.get(code)
    if kind is None:
        _reject_kind(code)
    sizes = expected.fragment_sizes
    if code == _FRAGMENT_CODE:
        fits = 0 <= fragment < len(sizes) and count == sizes[fragment]
    else:
        fits = fragment == WHOLE_MODEL and count == (0 if code == _NOTICE_CODE else expected.num_params)
    if not fits:
        raise FrameRejectedError(RejectReason.FRAGMENT, f"{kind.value} {fragment} of {count} values: not in the plan")
    if round_ > expected.round_max:
        raise FrameRejectedError(RejectReason.ROUND, f"round {round_}: must be at most {expected.round_max}")
    values = from_wire(view, count, expected.dtype, HEADER_BYTES) if count else NO_VALUES
    if count and not np.logical_and.reduce(np.isfinite(values)):
        raise FrameRejectedError(RejectReason.NOT_FINITE, f"{kind.value} of round {round_}: not all values are finite")
    return NodeId(sender), Message(kind, round_, values, fragment, exchange)


def _reject_kind(code: int) -> NoReturn:
    known = _KINDS.get(code)
    text = f"kind {code}: unknown" if known is None else f"kind {known.value}: not one that this algorithm takes"
    raise FrameRejectedError(RejectReason.KIND, text)
