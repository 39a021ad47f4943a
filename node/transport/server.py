"""What a node hears from its peers: the gRPC server, the checks, and the delay line.

One stream for each peer that sends here. A frame goes through it in this order: envelope, room in the peer's
queue, the checks of :mod:`node.transport.codec`, the wait until it is due, :attr:`PeerServer.on_message`, a
receipt. A frame that fails is counted and dropped, and a receipt covers it too; no frame ends the stream, but
for one so long that gRPC itself refuses it.

All of it runs in one asyncio loop, and nothing here starts a task for a frame.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from node.core.errors import TransportError
from node.core.messages import Message
from node.core.types import NodeId
from node.transport.codec import WIRE_VERSION, FrameRejectedError, RejectReason, WireContext, decode
from node.transport.delay import DelayLine, Lateness
from node.transport.envelope import Framed, parse
from node.transport.pb.peer_pb2 import Echo, Hello, Receipt
from node.transport.tuning import server_options

SERVICE = "fragmesh.v1.Peer"
METHOD = f"/{SERVICE}/Exchange"
HELLO_WITHIN_S = 10.0
"""A stream that has not greeted by then is ended."""

_LOG = logging.getLogger(__name__)

_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


@dataclass(slots=True)
class Arrival:
    """A message that passed all checks and is due. Never modified.

    Attributes:
        sender: Who sent it.
        message: Its values are read-only and, as float32, a view of the bytes received.
        number: The sender's running number.
        frame_bytes: Length of its frame.
        due_ns: When its last byte arrived by the emulation, the host's monotonic clock, nanoseconds; 0 where none.
        received_ns: When it was read from the stream, same clock.
    """

    sender: NodeId
    message: Message
    number: int
    frame_bytes: int
    due_ns: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class ProbeInfo:
    """A probe that is due.

    Attributes:
        sequence: Its number.
        sent_ns: The sender's monotonic clock, nanoseconds, to be echoed.
        padding_bytes: Its ballast, to be echoed.
        due_ns: As in :class:`Arrival`.
        received_ns: As in :class:`Arrival`.
    """

    sequence: int
    sent_ns: int
    padding_bytes: int
    due_ns: int
    received_ns: int


class _Stream:
    """One peer's stream: what has been handed over and what is to be told.

    State:
        frames, frame_bytes, frames_rejected: The receipt's running totals.
        echoes: To be sent, in order; emptied by the writer.
        wake: Set when there is something to tell.
        replaced: A newer stream of the same peer took over.
    """

    __slots__ = ("context", "echoes", "frame_bytes", "frames", "frames_rejected", "replaced", "sender", "task", "wake")

    def __init__(self, sender: NodeId, context: WireContext, task: "asyncio.Task[Any] | None") -> None:
        self.sender = sender
        self.context = context
        self.task = task
        self.frames = 0
        self.frame_bytes = 0
        self.frames_rejected = 0
        self.echoes: deque[Echo] = deque()
        self.wake = asyncio.Event()
        self.replaced = False

    def settle(self, frame_bytes: int) -> None:
        """A frame has been handed over or rejected: the next receipt covers it."""
        self.frames += 1
        self.frame_bytes += frame_bytes
        self.wake.set()


_Held: TypeAlias = "tuple[_Stream, Arrival | ProbeInfo]"


class PeerServer:
    """Serves Peer/Exchange, grpc.health.v1 and reflection.

    Attributes:
        rejected: Frames dropped, by reason; what is not there is 0.
        frames: Frames read, rejected ones included.
        frame_bytes: Sum of their lengths.
        lateness: Of the frames and probes that had a due instant.
    """

    def __init__(
        self,
        node: NodeId,
        run_id: str,
        wire: WireContext,
        queue_frames_max: int,
        on_message: Callable[[Arrival], None],
        on_probe: Callable[[NodeId, ProbeInfo], None],
        window_bytes: int = 0,
    ) -> None:
        """Only store; :meth:`start` begins.

        Args:
            node: This node.
            run_id: The run's name; a peer must greet with the same.
            wire: What a frame must agree with. Its ``senders`` are the peers that may open a stream.
            queue_frames_max: How many frames of one peer may wait until they are due, >= 1.
            on_message: Called in the loop, in order of due instants, never from within another call of itself.
            on_probe: Likewise.
            window_bytes: How far a sender may run ahead of the reader, bytes: the senders' bound in flight.
        """
        self.rejected: Counter[RejectReason] = Counter()
        self.frames = 0
        self.frame_bytes = 0
        self.lateness = Lateness()
        self._node = node
        self._run_id = run_id
        self._wire = wire
        self._queue_frames_max = queue_frames_max
        self._on_message = on_message
        self._on_probe = on_probe
        self._window_bytes = window_bytes
        self._server: grpc.aio.Server | None = None
        self._streams: dict[NodeId, _Stream] = {}
        self._held: DelayLine[_Held] = DelayLine()
        self._held_of: Counter[NodeId] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_ns = 0
        self._logged: set[tuple[NodeId, RejectReason]] = set()

    async def start(self, host: str, port: int) -> str:
        """Bind and serve.

        Args:
            host: Address to listen on.
            port: 0 takes any free one.

        Returns:
            "host:port" of what was bound.

        Raises:
            TransportError: The address cannot be bound.
        """
        raise NotImplementedError

    async def stop(self, grace_s: float) -> None:
        """End all streams, after at most ``grace_s`` seconds. What is held is dropped."""
        raise NotImplementedError

    def echo(self, sender: NodeId, sequence: int, sent_ns: int, padding_bytes: int) -> None:
        """Answer a probe now. Does nothing when the peer's stream is gone."""
        raise NotImplementedError

    def reject(self, sender: NodeId, reason: RejectReason, text: str) -> None:
        """Count a message that is of no use, and log the first of its peer and reason."""
        raise NotImplementedError
