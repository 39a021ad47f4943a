"""Messages as bytes: a fixed header and raw values, little-endian. Neither gRPC nor protobuf enters.

A frame is made once and the same bytes go to all recipients. Its layout, in the order of the bytes::

    offset  bytes  field
         0      4  magic      b"FRGM"
         4      4  checksum   CRC-32 (zlib's) of all that follows, header and payload
         8      1  version    WIRE_VERSION
         9      1  tag        what the message is for: a number of the algorithm's
        10      1  layout     what the body is: a number of node.core.bodies
        11      1  dtype      how values are encoded, numbered by DTYPE_CODES
        12      4  sender     node index, unsigned
        16      4  fragment   index in the plan, or -1; signed
        20      4  round      the sender's round, unsigned
        24      4  count      number of values, unsigned
        28      8  exchange   unsigned
        36      8  plan id    see plan_id, unsigned
        44         body       as its layout says; 4-byte aligned within the frame

The body writes and reads itself; a new layout or a new algorithm changes nothing here.

What arrives is checked before it touches a model, cheapest and most telling checks first. Every failure
raises :class:`FrameRejectedError` and nothing else does. The checksum finds damage, not malice: whoever can
write to the stream can compute it.

States: none. Both directions are functions of their arguments.
"""

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cached_property

import numpy as np

from node.core.bodies import Body, BodyMismatchError, ModelShape
from node.core.errors import ProtocolError
from node.core.fragments import FragmentPlan
from node.core.framing import FRAME_HEADER_BYTES
from node.core.messages import Message, tag_name
from node.core.types import NodeId
from node.core.wire_values import WireDtype

MAGIC = b"FRGM"
WIRE_VERSION = 2
"""Raised whenever the layout or the meaning of a field changes."""

HEADER_BYTES = FRAME_HEADER_BYTES
MAX_ROUND = 2**32 - 1
MAX_EXCHANGE = 2**64 - 1

_HEADER = struct.Struct("<4sIBBBBIiIIQQ")
_START = struct.Struct("<4sI")
_CHECKED = struct.Struct("<BBBBIiIIQQ")
"""The header's part under the checksum: all after itself, so that one pass checks header and payload."""
assert _HEADER.size == _START.size + _CHECKED.size == HEADER_BYTES
_CHECKED_FROM = _START.size


class RejectReason(Enum):
    """Reason for which a message was dropped. The values are few and fixed, so that they can label a metric."""

    LENGTH = "length"
    """Shorter than a header."""
    MAGIC = "magic"
    """Not one of our frames."""
    VERSION = "version"
    """Another version of the layout."""
    DTYPE = "dtype"
    """Another encoding than the run's."""
    SIZE = "size"
    """The body is shorter or longer than the header says."""
    CHECKSUM = "checksum"
    """Damaged on the way."""
    PLAN = "plan"
    """Made for another fragment plan, model or seed."""
    SENDER = "sender"
    """Not from a node that may send here."""
    KIND = "kind"
    """A tag or a layout that is unknown, or not one that the algorithm takes with the other."""
    FRAGMENT = "fragment"
    """No such fragment, or not as many values as it has."""
    ROUND = "round"
    """A round that cannot be."""
    NOT_FINITE = "not_finite"
    """An infinity or not a number among the values."""
    IDENTITY = "identity"
    """From a stream whose certificate is another node's. Never raised here."""
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


DTYPE_CODES: dict[WireDtype, int] = {WireDtype.FLOAT32: 1, WireDtype.FLOAT16: 2, WireDtype.BFLOAT16: 3}


@dataclass(frozen=True)
class WireContext:
    """The receiver's expectations of a frame; it rejects everything else.

    Made once for a run, or once for a stream with that stream's sender alone in ``senders``, so that a peer
    cannot speak for another one.

    Attributes:
        plan_id: Of the run; see :func:`plan_id`.
        num_params: d, values of a whole model.
        fragment_sizes: Values of each fragment, length C; empty where models are not cut.
        senders: Who may send.
        carries: The tags that the algorithm takes, and the body that each has.
        round_max: The largest round that a sender can be in; rounds start at 0.
        dtype: How values travel in this run.
    """

    plan_id: int
    num_params: int
    fragment_sizes: tuple[int, ...]
    senders: frozenset[NodeId]
    carries: Mapping[IntEnum, type[Body]]
    round_max: int = MAX_ROUND
    dtype: WireDtype = WireDtype.FLOAT32

    @cached_property
    def tags(self) -> dict[int, tuple[IntEnum, type[Body]]]:
        """The tags by their number in the header, and what each carries."""
        return {tag.value: (tag, body) for tag, body in self.carries.items()}

    @cached_property
    def layouts(self) -> dict[int, type[Body]]:
        """The bodies by the number of their layout in the header."""
        return {body.layout: body for body in self.carries.values()}

    @cached_property
    def shape(self) -> ModelShape:
        """Sizes that a body must fit."""
        return ModelShape(self.num_params, self.fragment_sizes)

    @cached_property
    def dtype_code(self) -> int:
        """The number of ``dtype`` in the header."""
        return DTYPE_CODES[self.dtype]

    @cached_property
    def frame_bytes_max(self) -> int:
        """Length of the longest frame that can pass: the bound for a transport's receive buffer."""
        bodies = (body.size(self.num_params, self.dtype) for body in self.carries.values())
        return HEADER_BYTES + max(self.num_params * self.dtype.value_bytes, max(bodies, default=0))


def plan_id(tensor_sizes: Sequence[int], seed: int, plan: FragmentPlan | None = None) -> int:
    """Compute a number for everything that all nodes must agree on before their parameters may be mixed.

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
    receiver rejects them; a node sends none (:mod:`node.core.divergence`).

    Args:
        message: What to send. ``round`` and ``exchange`` must fit the header: at most :data:`MAX_ROUND` and
            :data:`MAX_EXCHANGE`, not negative.
        sender: This node.
        plan_id: Of the run.
        dtype: How the values are to travel.
    """
    body = message.body
    parts = body.parts(dtype)
    checked = _CHECKED.pack(
        WIRE_VERSION,
        message.tag,
        body.layout,
        DTYPE_CODES[dtype],
        sender,
        body.fragment,
        message.round,
        len(body.values),
        message.exchange,
        plan_id,
    )
    checksum = zlib.crc32(checked)
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join((_START.pack(MAGIC, checksum), checked, *parts))


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
    # Step 1: is it one of our frames at all? Comparisons only, so that garbage costs next to nothing.
    length = len(frame)
    if length < HEADER_BYTES:
        raise FrameRejectedError(RejectReason.LENGTH, f"frame of {length} bytes: must be at least {HEADER_BYTES}")
    magic, checksum, version, code, layout, dtype, sender, fragment, round_, count, exchange, plan = (
        _HEADER.unpack_from(frame)
    )
    if magic != MAGIC:
        raise FrameRejectedError(RejectReason.MAGIC, f"frame begins with {magic!r}: must be {MAGIC!r}")
    if version != WIRE_VERSION:
        raise FrameRejectedError(RejectReason.VERSION, f"frame of version {version}: must be {WIRE_VERSION}")
    if dtype != expected.dtype_code:
        raise FrameRejectedError(RejectReason.DTYPE, f"dtype {dtype}: must be {expected.dtype_code}")
    body_type = expected.layouts.get(layout)
    # The size under an unknown layout is not known either: it is named below, once the checksum is right.
    size = length - HEADER_BYTES if body_type is None else body_type.size(count, expected.dtype)
    if length - HEADER_BYTES != size:
        raise FrameRejectedError(
            RejectReason.SIZE, f"body of {length - HEADER_BYTES} bytes: must be {size} for {count} values"
        )
    # Step 2: is it whole? Only now do the header's other fields mean anything, so that a damaged one is not mistaken
    # for a foreign one.
    view = memoryview(frame)
    if zlib.crc32(view[_CHECKED_FROM:]) != checksum:
        raise FrameRejectedError(RejectReason.CHECKSUM, f"checksum of {length} bytes is not {checksum:#010x}")
    # Step 3: does it belong here?
    if plan != expected.plan_id:
        raise FrameRejectedError(RejectReason.PLAN, f"plan {plan:#018x}: must be {expected.plan_id:#018x}")
    if sender not in expected.senders:
        raise FrameRejectedError(RejectReason.SENDER, f"node {sender}: may not send here")
    tag, carried = expected.tags.get(code, (None, None))
    if tag is None:
        raise FrameRejectedError(RejectReason.KIND, f"tag {code}: not one that this algorithm takes")
    if body_type is None or body_type is not carried:
        raise FrameRejectedError(RejectReason.KIND, f"layout {layout}: not one that {tag_name(tag)} carries")
    # Step 4: does its content fit the model? The values come last: to look at all of them costs the most.
    try:
        body = body_type.read(view, HEADER_BYTES, count, fragment, expected.dtype, expected.shape)
    except BodyMismatchError as error:
        raise FrameRejectedError(RejectReason.FRAGMENT, str(error)) from error
    if round_ > expected.round_max:
        raise FrameRejectedError(RejectReason.ROUND, f"round {round_}: must be at most {expected.round_max}")
    if count and not np.logical_and.reduce(np.isfinite(body.values)):
        raise FrameRejectedError(
            RejectReason.NOT_FINITE, f"{tag_name(tag)} of round {round_}: not all values are finite"
        )
    return NodeId(sender), Message(tag, round_, body, exchange)
