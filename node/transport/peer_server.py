"""The receiving side of the peer transport: the gRPC server, the checks, and the delay line.

One stream for each peer that sends here. A frame goes through it in this order: envelope, room in the peer's
queue, the checks of :mod:`node.transport.frames`, the wait until it is due, :attr:`PeerServer.on_message`, a
receipt. A frame that fails is counted and dropped, and a receipt covers it too; no frame ends the stream, but
for one so long that gRPC itself refuses it: gRPC ends that stream with RESOURCE_EXHAUSTED, which only its sender is
told, who opens another.

All of it runs in one asyncio loop, and nothing here starts a task for a frame.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from node.core.errors import TransportError
from node.core.lateness import LatenessHistogram
from node.core.messages import Message
from node.core.types import NodeId
from node.host.addresses import host_and_port
from node.host.credentials import Credentials, node_name
from node.transport import tls
from node.transport.arrival_delays import ArrivalDelays
from node.transport.delay_line import DelayLine
from node.transport.envelope import Content, Framed, parse
from node.transport.frames import WIRE_VERSION, FrameRejectedError, RejectReason, WireContext, decode
from node.transport.grpc_options import server_options
from node.transport.pb.peer_pb2 import Echo, Hello, Receipt

SERVICE = "fragmesh.v1.Peer"
METHOD = f"/{SERVICE}/Exchange"
HELLO_WITHIN_S = 10.0
"""A stream that has not greeted by then is ended."""

ECHOES_MAX = 1_000
"""Echoes that wait for one peer; the oldest gives way. More than any measurement has under way."""
FAREWELL_S = 1.0
"""Time that a stream which this side ends may take to tell what was handed over."""
RECEIPT_DELAY_S = 0.001
"""Time that a receipt may wait for others, so that one tells of many frames."""
RECEIPT_DELAY_S_MAX = 5.0
"""The same where the sender waits for none, however late it says that they may come."""
RECEIPT_SHARE = 4
"""It does not wait when this part of the sender's window is untold, for then it may be what the sender waits for."""

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
        untold_bytes: Of frames in the totals that no receipt has told yet.
        receipt_bytes: When so many are untold, a receipt is sent at once.
        receipt_delay_s: How long a receipt may wait for others.
        timer: Sends a receipt that waits for others; None when none waits.
        wake: Set when there is something to tell now.
        ended: Why this side ended it; empty while it did not.
    """

    __slots__ = (
        "context", "echoes", "ended", "frame_bytes", "frames", "frames_rejected", "receipt_bytes", "receipt_delay_s",
        "sender", "task", "timer", "untold_bytes", "wake",
    )  # fmt: skip

    def __init__(self, hello: Hello, context: WireContext, task: "asyncio.Task[Any] | None") -> None:
        self.sender = NodeId(hello.sender)
        self.context = context
        self.task = task
        self.frames = 0
        self.frame_bytes = 0
        self.frames_rejected = 0
        self.untold_bytes = 0
        self.receipt_bytes: float = hello.window_bytes // RECEIPT_SHARE
        self.receipt_delay_s = RECEIPT_DELAY_S
        if hello.receipts_within_ms:
            self.receipt_bytes = inf
            self.receipt_delay_s = min(hello.receipts_within_ms / 1e3, RECEIPT_DELAY_S_MAX)
        self.timer: asyncio.TimerHandle | None = None
        self.echoes: deque[Echo] = deque(maxlen=ECHOES_MAX)
        self.wake = asyncio.Event()
        self.ended = ""

    def end(self, why: str) -> None:
        """End it from this side; the peer is told why."""
        self.ended = why
        self.wake.set()
        if self.task is not None:
            self.task.cancel()

    def settle(self, frame_bytes: int) -> None:
        """A frame has been handed over or rejected: the next receipt covers it."""
        self.frames += 1
        self.frame_bytes += frame_bytes
        self.untold_bytes += frame_bytes
        if self.untold_bytes >= self.receipt_bytes:
            self.wake.set()
        elif self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(self.receipt_delay_s, self.wake.set)

    def receipt(self) -> bytes:
        """The totals as they are now, and one echo if there is any."""
        self.wake.clear()
        self.untold_bytes = 0
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        receipt = Receipt(frames=self.frames, frame_bytes=self.frame_bytes, frames_rejected=self.frames_rejected)
        if self.echoes:
            receipt.echo.CopyFrom(self.echoes.popleft())
        if self.echoes:
            self.wake.set()
        return receipt.SerializeToString()


_Held: TypeAlias = "tuple[_Stream, Arrival | ProbeInfo]"


class PeerServer:
    """Serves Peer/Exchange, grpc.health.v1 and reflection.

    Attributes:
        rejected: Frames dropped and streams refused as another node's, by reason; what is not there is 0.
        frames: Frames read, rejected ones included.
        frame_bytes: Sum of their lengths.
        lateness: Of the frames and probes that had a due instant.
        prompt: Whether what is held is handed over by a timer of its own. If not, it is handed over with the next frame
            or by :meth:`release`, which saves a wake-up, and counts as late only if it was read too late. May be
            changed while nothing is held.
        on_greeting: Called in the loop with a peer that has opened a stream to here, and how often it has come back.
        stood_still: Tells of a sender and an instant of the host's monotonic clock whether this node or the sender
            stood still on purpose: what was due then is not late.
        delays: What arrives is held for them; None where links have their own latency. Set before :meth:`start`.
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
        credentials: Credentials | None = None,
    ) -> None:
        """Only store; :meth:`start` begins.

        Args:
            node: This node.
            run_id: The run's name; a peer must greet with the same.
            wire: What a frame must agree with. Its ``senders`` are the peers that may open a stream.
            queue_frames_max: How many frames and probes of one peer may wait until they are due, >= 1.
            on_message: Called in the loop, in order of due instants, never from within another call of itself.
            on_probe: Likewise.
            window_bytes: How far a sender may run ahead of the reader, bytes: the senders' bound in flight.
            credentials: This node's; None serves in plain text.
        """
        self.rejected: Counter[RejectReason] = Counter()
        self.frames = 0
        self.frame_bytes = 0
        self.lateness = LatenessHistogram()
        self.prompt = True
        self.delays: ArrivalDelays | None = None
        self.on_greeting: Callable[[NodeId, int], None] = lambda peer, life: None
        self.stood_still: Callable[[NodeId, int], bool] = lambda sender, monotonic_ns: False
        self._node = node
        self._run_id = run_id
        self._wire = wire
        self._queue_frames_max = queue_frames_max
        self._on_message = on_message
        self._on_probe = on_probe
        self._window_bytes = window_bytes
        self._credentials = credentials
        self._server: grpc.aio.Server | None = None
        self._health: health.aio.HealthServicer
        self._streams: dict[NodeId, _Stream] = {}
        self._held: DelayLine[_Held] = DelayLine()
        self._held_of: Counter[NodeId] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_ns = 0
        self._logged: set[tuple[NodeId, RejectReason]] = set()

    async def start(self, host: str, port: int, advertised: str | None = None) -> str:
        """Bind and serve.

        Args:
            host: Address to listen on.
            port: 0 takes any free one.
            advertised: Host by which peers reach the server; None is ``host``.

        Returns:
            "host:port" for peers.

        Raises:
            TransportError: The address cannot be bound.
        """
        server = grpc.aio.server(options=server_options(self._wire.frame_bytes_max, self._window_bytes))
        server.add_generic_rpc_handlers([_Handler(self._exchange)])
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        address = host_and_port(host, port)
        try:
            bound = tls.bind(server, address, self._credentials)
        except RuntimeError as error:
            raise TransportError(f"{address}: the port is taken or the address is not this host's") from error
        await server.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server = server
        return host_and_port(advertised or host, bound)

    async def stop(self, grace_s: float) -> None:
        """End all streams, after at most ``grace_s`` seconds. What is held is dropped."""
        if self._timer is not None:
            self._timer.cancel()
        self._held = DelayLine()
        for stream in self._streams.values():
            stream.end("the node stops")
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace_s)

    def echo(self, sender: NodeId, sequence: int, sent_ns: int, padding_bytes: int) -> None:
        """Answer a probe now. Does nothing when the peer's stream is gone."""
        stream = self._streams.get(sender)
        if stream is not None:
            stream.echoes.append(Echo(sequence=sequence, sent_ns=sent_ns, padding_bytes=padding_bytes))
            stream.wake.set()

    def reject(self, sender: NodeId, reason: RejectReason, text: str) -> None:
        """Count a message that is of no use, and log the first of its peer and reason."""
        self.rejected[reason] += 1
        if (sender, reason) not in self._logged:
            self._logged.add((sender, reason))
            _LOG.warning("node %d: dropped a message of node %d (%s): %s", self._node, sender, reason.value, text)

    async def _exchange(self, _requests: object, context: _Context) -> None:
        """Serve one stream until it ends."""
        try:
            async with asyncio.timeout(HELLO_WITHIN_S):
                greeting = await context.read()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no greeting within {HELLO_WITHIN_S:g} s")
        hello = parse(greeting) if isinstance(greeting, bytes) else None  # else it is grpc.aio.EOF
        refusal = self._refusal(hello)
        if refusal or not isinstance(hello, Hello):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal)
        if (why := tls.impostor(context, node_name(self._run_id, hello.sender), self._credentials)) is not None:
            self.reject(NodeId(hello.sender), RejectReason.IDENTITY, why)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"sender {hello.sender}: {why}")
        sender = NodeId(hello.sender)
        of_sender = replace(self._wire, senders=frozenset((sender,)))
        stream = _Stream(hello, of_sender, asyncio.current_task())
        older = self._streams.get(sender)
        if older is not None:
            older.end("a newer stream of the same node")
        self._streams[sender] = stream
        self.on_greeting(sender, hello.life)
        writer = asyncio.create_task(_write_receipts(stream, context))
        try:
            while isinstance(data := await context.read(), bytes):  # else it is grpc.aio.EOF
                self._take(stream, data)
        except asyncio.CancelledError:
            if not stream.ended:
                raise
            await asyncio.wait((writer,), timeout=FAREWELL_S)
            await context.abort(grpc.StatusCode.ABORTED, stream.ended)
        finally:
            writer.cancel()
            if stream.timer is not None:
                stream.timer.cancel()
            if self._streams.get(sender) is stream:
                del self._streams[sender]

    def _refusal(self, hello: object) -> str:
        """Return why a greeting is not accepted; empty when it is."""
        if not isinstance(hello, Hello):
            return "the first envelope must be a Hello"
        if hello.wire_version != WIRE_VERSION:
            return f"wire_version {hello.wire_version}: must be {WIRE_VERSION}"
        if hello.run_id != self._run_id:
            return f"run_id {hello.run_id[:64]!r}: must be {self._run_id!r}"
        if hello.plan_id != self._wire.plan_id:
            return f"plan_id {hello.plan_id:#018x}: must be {self._wire.plan_id:#018x}"
        if hello.sender == self._node or hello.sender not in self._wire.senders:
            return f"sender {hello.sender}: may not send to node {self._node}"
        return ""

    def _take(self, stream: _Stream, data: bytes) -> None:
        """One envelope. Never raises, whatever it holds."""
        received_ns = time.monotonic_ns()
        content = parse(data)
        if isinstance(content, list):
            for framed in content:
                self._take_frame(stream, framed, received_ns)
        else:
            self._take_other(stream, content, len(data), received_ns)

    def _take_frame(self, stream: _Stream, framed: Framed, received_ns: int) -> None:
        frame = framed.frame
        frame_bytes = len(frame)
        self.frames += 1
        self.frame_bytes += frame_bytes
        sender = stream.sender
        if frame_bytes > self._wire.frame_bytes_max:
            text = f"frame of {frame_bytes} bytes: must be at most {self._wire.frame_bytes_max}"
            self._drop(stream, frame_bytes, RejectReason.SIZE, text)
            return
        if self._held_of.get(sender, 0) >= self._queue_frames_max:
            text = f"{self._queue_frames_max} of its frames wait already"
            self._drop(stream, frame_bytes, RejectReason.FLOOD, text)
            return
        try:
            _, message = decode(frame, expected=stream.context)
        except FrameRejectedError as error:
            self._drop(stream, frame_bytes, error.reason, str(error))
            return
        due_ns = framed.due_ns if self.delays is None else self.delays.due_ns(sender, received_ns)
        arrival = Arrival(sender, message, framed.number, frame_bytes, due_ns, received_ns)
        if due_ns:
            self._hold(stream, arrival)
        else:
            self._hand_over(stream, arrival)

    def _take_other(self, stream: _Stream, content: Content, data_bytes: int, received_ns: int) -> None:
        """Take an envelope without frames: a probe, or nothing that belongs here."""
        if isinstance(content, tuple):
            probe, due_ns = content
            if self._held_of.get(stream.sender, 0) >= self._queue_frames_max:
                self.reject(stream.sender, RejectReason.FLOOD, f"a probe; {self._queue_frames_max} of its wait already")
                return
            if self.delays is not None:
                due_ns = self.delays.due_ns(stream.sender, received_ns)
            info = ProbeInfo(probe.sequence, probe.sent_ns, len(probe.padding), due_ns, received_ns)
            if due_ns:
                self._hold(stream, info)
            else:
                self._on_probe(stream.sender, info)
            return
        self.frames += 1
        self.frame_bytes += data_bytes
        self._drop(stream, data_bytes, RejectReason.ENVELOPE, f"{data_bytes} bytes that are no frame")

    def _drop(self, stream: _Stream, frame_bytes: int, reason: RejectReason, text: str) -> None:
        stream.frames_rejected += 1
        self.reject(stream.sender, reason, text)
        self._settle(stream, frame_bytes)

    def release(self, until_ns: int) -> None:
        """Hand over what is due by an instant of the host's monotonic clock, which has come."""
        while (held := self._held.pop_due(until_ns)) is not None:
            self._hand_over_held(*held, until_ns)

    def _hold(self, stream: _Stream, item: Arrival | ProbeInfo) -> None:
        """Put it into the delay line, and release what is due: perhaps this."""
        self._held.put(item.due_ns, (stream, item))
        self._held_of[stream.sender] += 1
        if not self.prompt:
            self.release(item.received_ns)
        elif item.due_ns <= item.received_ns or item.due_ns < self._timer_due_ns or not self._timer_due_ns:
            self._release_by_timer()

    def _release_by_timer(self) -> None:
        """Hand over what is due and set the timer for the next."""
        while True:
            now_ns = time.monotonic_ns()
            held = self._held.pop_due(now_ns)
            if held is None:
                break
            self._hand_over_held(*held, now_ns)
        due_ns = self._held.next_due_ns
        if due_ns != self._timer_due_ns:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_due_ns = due_ns or 0
            self._timer = None
            if due_ns is not None:
                self._timer = asyncio.get_running_loop().call_at(due_ns / 1e9, self._on_timer)

    def _hand_over_held(self, stream: _Stream, item: Arrival | ProbeInfo, now_ns: int) -> None:
        self._held_of[stream.sender] -= 1
        seen_ns = now_ns if self.prompt else max(item.due_ns, item.received_ns)
        if not self.stood_still(stream.sender, item.due_ns):
            self.lateness.add(seen_ns - item.due_ns)
        if isinstance(item, Arrival):
            self._hand_over(stream, item)
        else:
            self._on_probe(stream.sender, item)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_due_ns = 0
        self._release_by_timer()

    def _hand_over(self, stream: _Stream, arrival: Arrival) -> None:
        self._on_message(arrival)
        self._settle(stream, arrival.frame_bytes)

    def _settle(self, stream: _Stream, frame_bytes: int) -> None:
        """Let a receipt cover a frame, now or when the way back is over."""
        if self.delays is not None and (later_s := self.delays.way_back_s(stream.sender, time.monotonic_ns())):
            asyncio.get_running_loop().call_later(later_s, stream.settle, frame_bytes)
        else:
            stream.settle(frame_bytes)


class _Handler(grpc.GenericRpcHandler):
    """Finds the one method. Its bytes are neither parsed nor made by gRPC."""

    def __init__(self, exchange: Callable[[object, _Context], Any]) -> None:
        self._method: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(exchange)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """See :class:`grpc.GenericRpcHandler`."""
        return self._method if handler_call_details.method == METHOD else None


async def _write_receipts(stream: _Stream, context: _Context) -> None:
    """Tell the peer the totals, at first those of nothing; what is settled while one is written goes with the next.

    Ends after a last receipt when the stream was ended from this side.
    """
    try:
        while True:
            last = bool(stream.ended)
            await context.write(stream.receipt())
            if last:
                return
            await stream.wake.wait()
    except grpc.aio.BaseError:
        return  # the stream broke, and its reader learns that too
