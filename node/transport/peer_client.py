"""The sending side of the peer transport: one stream a peer, opened on demand and re-opened when it breaks.

``send`` never waits: what is in flight is bounded by the caller's :class:`node.transport.window.Window`. Every frame
handed over ends in exactly one of three ways: it is taken back (``withdraw``), a receipt covers it
(``on_acknowledged``), or it is lost (``on_lost``):

- its stream broke before a receipt came; it may have arrived all the same;
- the peer could not be reached, or was found unreachable by an attempt less than the back-off ago;
- its deadline passed.

So a dead peer holds a part of the window for a bounded time, and traffic to others goes on.

States of a peer: idle -> connecting -> open -> idle (broken) or unreachable (no attempt until the back-off has
passed; then idle). The next frame for an idle peer starts an attempt.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from node.core.message_log import LIFE_SHIFT
from node.core.types import NodeId
from node.host.credentials import Credentials, node_name
from node.transport import tls
from node.transport.envelope import pack
from node.transport.frames import WIRE_VERSION
from node.transport.grpc_options import ENVELOPE_BYTES, channel_options
from node.transport.pb.peer_pb2 import Envelope, Hello, Probe, Receipt
from node.transport.peer_server import METHOD

DEADLINE_S = 60.0
"""For frames that were given none, seconds."""
CONNECT_WITHIN_S = 10.0
"""An attempt that has not been accepted by then has failed."""
BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 5.0
"""An attempt waits between half of it and all of it; each failure doubles it."""

_LOG = logging.getLogger(__name__)
_NO_NUMBER = -1
"""In the place of a probe's number: nobody asks when it is written."""

_Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"


@dataclass(frozen=True, slots=True)
class EchoInfo:
    """The answer to a probe.

    Attributes:
        sequence: The probe's number.
        sent_ns: What the probe said, this node's monotonic clock, nanoseconds.
        padding_bytes: Size of its padding.
        received_ns: When the answer was read, same clock.
    """

    sequence: int
    sent_ns: int
    padding_bytes: int
    received_ns: int


@dataclass(slots=True)
class _Item:
    """A frame or a probe on its way: waiting, then unacknowledged. A probe ends when it is written."""

    number: int
    payload: bytes
    due_ns: int
    deadline_ns: int
    is_probe: bool = False


class _Link:
    """One peer.

    State:
        waiting: Not yet written to a stream, in order.
        unacknowledged: Written to the stream that is open, and not covered by a receipt, in order. Emptied when the
            stream ends.
        settled, rejected: The totals of the last receipt on the stream that is open.
        wake: Set when there is something to write.
        task: While connecting or open.
        call: While open.
        life: The latest life that it has greeted from.
        is_there: Whether it could be reached when that was tried last; taken for granted before.
        failures: Attempts since the last one that led to a receipt.
        retry_ns: No attempt before this reading of the monotonic clock.
        timer: For the deadline of the oldest item.
        told: Troubles that have been logged.
    """

    __slots__ = (
        "address", "call", "failures", "is_there", "life", "peer", "rejected", "retry_ns", "settled", "task", "timer",
        "told", "unacknowledged", "waiting", "wake",
    )  # fmt: skip

    def __init__(self, peer: NodeId, address: str) -> None:
        self.peer = peer
        self.address = address
        self.waiting: deque[_Item] = deque()
        self.unacknowledged: deque[_Item] = deque()
        self.settled = 0
        self.rejected = 0
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.is_there = True
        self.life = 0
        self.call: _Call | None = None
        self.failures = 0
        self.retry_ns = 0
        self.timer: asyncio.TimerHandle | None = None
        self.told: set[str] = set()

    def hang_up(self) -> None:
        """End the stream that is open, if one is."""
        call, self.call = self.call, None
        if call is not None:
            call.cancel()

    def withdraw(self, number: int) -> bool:
        """Take a frame out that waits; returns whether it did."""
        for item in self.waiting:
            if item.number == number and not item.is_probe:
                self.waiting.remove(item)
                return True
        return False

    def take(self) -> list[_Item]:
        """Take from the waiting frames what fills one envelope, at least one."""
        items, room = [], ENVELOPE_BYTES
        while self.waiting and room > 0 and not self.waiting[0].is_probe:
            items.append(self.waiting.popleft())
            room -= len(items[-1].payload)
        self.unacknowledged.extend(items)
        return items

    def back_off(self, trouble: str, rng: np.random.Generator) -> None:
        """Let no attempt be made for a while."""
        if trouble.startswith("refused"):
            self.failures = 32  # what it refuses now it will refuse again
        self.retry_ns = time.monotonic_ns() + int(self.pause_s(rng) * 1e9)

    def pause_s(self, rng: np.random.Generator) -> float:
        """Draw how long to wait before the next attempt."""
        longest = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0 ** min(self.failures - 1, 32))
        return longest * float(rng.uniform(0.5, 1.0))

    @property
    def oldest(self) -> _Item | None:
        """Return the frame that has been on its way for longest; None without frames."""
        queue = self.unacknowledged or self.waiting
        return queue[0] if queue else None


class PeerClient:
    """Sends to peers.

    Attributes:
        unreachable: The peers whose last attempt failed. Not to be changed.
        troubles: Why the last attempt that failed did, for every peer that could not be reached once.
        frames_sent: Frames written to a stream.
        frame_bytes_sent: Sum of their lengths.
        frames_lost: Frames that ended without a receipt.
        frames_rejected: Frames that their receiver dropped, by its receipts.
        receipts_within_ms: How late a receipt may come, told to a peer when its stream is opened. 0: it is waited for.
        credentials: This node's; None calls in plain text. Set before the first ``send``, if at all.
        queues_s: Returns how long a handshake may wait behind what is under way, besides its own time; real seconds.
        life: How often this node has come back, told to peers; the numbers of frames on the wire differ between lives.
        on_peer: Called with (peer, is_there) in the loop when a peer that was there cannot be reached any more, and
            when one is there again. None: nobody wants to know; a stream that breaks is opened when it is needed next.
        on_written: Called with (peer, number) when gRPC has taken a frame or a numbered probe, in the loop, never from
            within a method. The receipt may be told before. None: nobody wants to know.
    """

    def __init__(
        self,
        node: NodeId,
        run_id: str,
        plan_id: int,
        on_acknowledged: Callable[[NodeId, int, int], None],
        on_lost: Callable[[NodeId, int, int, str], None],
        on_echo: Callable[[NodeId, EchoInfo], None],
        rng: np.random.Generator,
        window_bytes: int = 0,
    ) -> None:
        """Only store; nothing connects before the first ``send``.

        Args:
            node: This node.
            run_id: The run's name.
            plan_id: Of the run; see :func:`node.transport.frames.plan_id`.
            on_acknowledged: (peer, number, frame_bytes): a receipt covers that many frames, oldest first. Called in
                the loop, never from within ``send``.
            on_lost: (peer, number, frame_bytes, reason): likewise, once for each frame that is lost.
            on_echo: (peer, echo).
            rng: Draws the jitter of the back-off.
            window_bytes: The bound on bytes in flight.
        """
        self.unreachable: set[NodeId] = set()
        self.troubles: dict[NodeId, str] = {}
        self.frames_sent = 0
        self.frame_bytes_sent = 0
        self.frames_lost = 0
        self.frames_rejected = 0
        self.receipts_within_ms = 0
        self.credentials: Credentials | None = None
        self.queues_s: Callable[[], float] = lambda: 0.0
        self.on_written: Callable[[NodeId, int], None] | None = None
        self.on_peer: Callable[[NodeId, bool], None] | None = None
        self.life = 0
        self._node = node
        self._hello = Hello(
            wire_version=WIRE_VERSION, run_id=run_id, sender=node, plan_id=plan_id, window_bytes=window_bytes
        )
        self._on_acknowledged = on_acknowledged
        self._on_lost = on_lost
        self._on_echo = on_echo
        self._rng = rng
        self._options = channel_options(window_bytes)
        self._links: dict[NodeId, _Link] = {}

    def set_addresses(self, addresses: Mapping[NodeId, str]) -> None:
        """Take the addresses of the peers, "host:port". Call once, in the running loop, before the first ``send``."""
        assert not self._links
        self._links = {peer: _Link(peer, address) for peer, address in addresses.items()}

    def send(self, peer: NodeId, frame: bytes, number: int, due_ns: int = 0, deadline_ns: int = 0) -> None:
        """Hand a frame over. Never waits.

        Args:
            peer: To whom; its address must be known.
            frame: From :func:`node.transport.frames.encode`. Not copied before it is written.
            number: This node's running number of the message, >= 0, not in flight already.
            due_ns: When its last byte arrives, the host's monotonic clock, nanoseconds; 0: at once.
            deadline_ns: Same clock: without a receipt by then it is lost, and its stream with it, because a stream
                that does not move is broken. 0: :data:`DEADLINE_S` from now.
        """
        deadline_ns = deadline_ns or time.monotonic_ns() + int(DEADLINE_S * 1e9)
        self._push(self._links[peer], _Item(number, frame, due_ns, deadline_ns))

    def withdraw(self, peer: NodeId, number: int) -> bool:
        """Take a frame back that no stream has begun to write: nothing more is told of it.

        Returns:
            Whether it could be taken back; if not, a receipt or a loss follows, or has been told.
        """
        return self._links[peer].withdraw(number)

    def probe(
        self,
        peer: NodeId,
        sequence: int,
        sent_ns: int,
        padding_bytes: int,
        due_ns: int = 0,
        number: int = _NO_NUMBER,
    ) -> None:
        """Send a probe. It is lost without a word where a frame would be lost.

        Args:
            peer: To whom.
            sequence: Comes back in the echo.
            sent_ns: Comes back in the echo: this host's monotonic clock when the probe was handed to the link.
            padding_bytes: Ballast; at most the longest frame.
            due_ns: As for :meth:`send`.
            number: Told to ``on_written``; left out where nobody asks.
        """
        probe = Probe(sequence=sequence, sent_ns=sent_ns, padding=bytes(padding_bytes))
        envelope = Envelope(probe=probe, due_ns=[due_ns]).SerializeToString()
        deadline_ns = time.monotonic_ns() + int(DEADLINE_S * 1e9)
        self._push(self._links[peer], _Item(number, envelope, due_ns, deadline_ns, is_probe=True))

    def greeted(self, peer: NodeId, life: int) -> None:
        """Note that a peer, which may have come back, has opened a stream to here: it is tried again at once."""
        link = self._links.get(peer)
        if link is None or self.on_peer is None:
            return
        if life > link.life:
            link.life = life
            link.hang_up()
            self._tell(link, is_there=False)
        if link.task is None and not link.is_there:
            link.failures, link.retry_ns = 0, 0
            link.task = asyncio.create_task(self._run(link))

    async def close(self) -> None:
        """End all streams. What no receipt covers is dropped without a word."""
        links, self._links = self._links, {}
        tasks = [link.task for link in links.values() if link.task is not None]
        for link in links.values():
            if link.timer is not None:
                link.timer.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tell(self, link: _Link, *, is_there: bool) -> None:
        if link.is_there != is_there:
            link.is_there = is_there
            if self.on_peer is not None:
                self.on_peer(link.peer, is_there)

    def _push(self, link: _Link, item: _Item) -> None:
        if link.task is None:
            if time.monotonic_ns() < link.retry_ns:
                asyncio.get_running_loop().call_soon(self._lose, link, item, "unreachable")
                return
            link.task = asyncio.create_task(self._run(link))
        link.waiting.append(item)
        link.wake.set()
        if link.timer is None:
            self._watch(link)

    async def _run(self, link: _Link) -> None:
        """Keep a stream open while there is something to send; end when the peer cannot be reached."""
        try:
            while True:
                trouble = await self._stream(link)
                link.failures += 1
                self._lose_all(link, link.unacknowledged, trouble)
                if link.peer in self.unreachable:
                    self._back_off(link, trouble)
                    self._lose_all(link, link.waiting, trouble)
                    self._tell(link, is_there=False)
                    return
                _LOG.info("node %d: stream to node %d ended: %s", self._node, link.peer, trouble)
                if not link.waiting and self.on_peer is None:
                    return
                if link.failures > 1:  # an open stream that never brought a receipt: do not spin
                    await asyncio.sleep(link.pause_s(self._rng))
        finally:
            link.task = None

    async def _stream(self, link: _Link) -> str:
        """Open a stream and serve it until it ends.

        Returns:
            Why it ended. The peer is in ``unreachable`` if it was never accepted.
        """
        name = node_name(self._hello.run_id, link.peer)
        channel = tls.channel(link.address, name, self.credentials, self._options)
        writer: asyncio.Task[None] | None = None
        try:
            call: _Call = channel.stream_stream(METHOD)()
            try:
                async with asyncio.timeout(within_s := CONNECT_WITHIN_S + self.queues_s()):
                    with suppress(asyncio.InvalidStateError):  # it has failed already; reading says why
                        self._hello.receipts_within_ms, self._hello.life = self.receipts_within_ms, self.life
                        await call.write(Envelope(hello=self._hello).SerializeToString())
                    first = await call.read()
            except TimeoutError:
                self.unreachable.add(link.peer)
                return f"no answer: {within_s:.3g} s passed"
            if not isinstance(first, bytes):  # grpc.aio.EOF
                self.unreachable.add(link.peer)
                return "ended by the peer"
            self.unreachable.discard(link.peer)
            self._tell(link, is_there=True)
            link.call, link.settled, link.rejected = call, 0, 0
            writer = asyncio.create_task(self._write(link, call))
            return await self._read(link, call)
        except grpc.aio.AioRpcError as error:
            if link.call is None:
                self.unreachable.add(link.peer)
            return _failure(error, link.call is None, self.credentials)
        finally:
            link.call = None
            if writer is not None:
                writer.cancel()
            await channel.close()

    async def _write(self, link: _Link, call: _Call) -> None:
        """Write what waits. A failure shows in the reader, which learns the status."""
        waiting = link.waiting
        try:
            while True:
                while waiting:
                    if waiting[0].is_probe:
                        items = [waiting.popleft()]
                        await call.write(items[0].payload)
                    else:
                        items, first = link.take(), self.life << LIFE_SHIFT
                        self.frames_sent += len(items)
                        self.frame_bytes_sent += sum(len(item.payload) for item in items)
                        await call.write(pack((item.payload, first + item.number, item.due_ns) for item in items))
                    for item in items:
                        if item.number != _NO_NUMBER and self.on_written is not None:
                            self.on_written(link.peer, item.number)
                link.wake.clear()
                await link.wake.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return

    async def _read(self, link: _Link, call: _Call) -> str:
        """Take receipts until the stream ends, and say why it ended."""
        while True:
            try:
                data = await call.read()
            except asyncio.CancelledError:
                if link.call is not None:
                    raise
                return "deadline passed"
            if not isinstance(data, bytes):  # grpc.aio.EOF
                return "ended by the peer"
            try:
                receipt = Receipt.FromString(data)
            except DecodeError:
                return "a receipt that cannot be read"
            self._settle(link, receipt)

    def _settle(self, link: _Link, receipt: Receipt) -> None:
        link.failures = 0
        self.frames_rejected += receipt.frames_rejected - link.rejected
        link.rejected = receipt.frames_rejected
        while link.settled < receipt.frames and link.unacknowledged:
            link.settled += 1
            item = link.unacknowledged.popleft()
            self._on_acknowledged(link.peer, item.number, len(item.payload))
        if receipt.HasField("echo"):
            echo = receipt.echo
            self._on_echo(link.peer, EchoInfo(echo.sequence, echo.sent_ns, echo.padding_bytes, time.monotonic_ns()))

    def _watch(self, link: _Link) -> None:
        """Act on the oldest item's deadline, and come back for the next."""
        link.timer = None
        now_ns = time.monotonic_ns()
        while (oldest := link.oldest) is not None and oldest.deadline_ns <= now_ns:
            if link.unacknowledged:
                link.hang_up()
                self._lose_all(link, link.unacknowledged, "deadline passed")
            else:
                self._lose(link, link.waiting.popleft(), "deadline passed")
        if oldest is not None:
            link.timer = asyncio.get_running_loop().call_at(oldest.deadline_ns / 1e9, self._watch, link)

    def _lose_all(self, link: _Link, queue: deque[_Item], reason: str) -> None:
        while queue:
            self._lose(link, queue.popleft(), reason)

    def _lose(self, link: _Link, item: _Item, reason: str) -> None:
        if item.is_probe:
            return
        self.frames_lost += 1
        self._on_lost(link.peer, item.number, len(item.payload), reason)

    def _back_off(self, link: _Link, trouble: str) -> None:
        """Let no attempt be made for a while; say why, once for each kind of trouble."""
        link.back_off(trouble, self._rng)
        self.troubles[link.peer] = trouble
        kind = trouble.partition(":")[0]
        if kind not in link.told:
            link.told.add(kind)
            _LOG.warning("node %d: node %d at %s: %s", self._node, link.peer, link.address, trouble)


def _failure(error: grpc.aio.AioRpcError, at_opening: bool, credentials: Credentials | None) -> str:
    """Say why a stream could not be opened, or ended."""
    details = error.details() or ""
    if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
        return f"refused: {details}"
    why = tls.trouble(details, credentials) if at_opening else None
    return f"{error.code().name.lower()}: {why or details}"
