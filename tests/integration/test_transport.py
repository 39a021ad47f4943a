"""Servers and clients over real sockets: what arrives, what is refused, what is lost, and that nothing blocks."""

import asyncio
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from node.core.errors import TransportError
from node.core.messages import frozen
from node.core.types import NodeId
from node.host.credentials import Credentials
from node.transport import peer_client as client_module
from node.transport import peer_server as server_module
from node.transport.envelope import pack
from node.transport.frames import WIRE_VERSION, RejectReason, WireContext, encode
from node.transport.pb.peer_pb2 import Envelope, Hello, Probe, Receipt
from node.transport.peer_client import EchoInfo, PeerClient
from node.transport.peer_server import METHOD, SERVICE, Arrival, PeerServer, ProbeInfo
from node.transport.window import Window
from tests.messages import CARRIES, Kind, make_message

RUN = "test"
PLAN = 7
SIZE = 9_000
WIRE = WireContext(PLAN, 2 * SIZE, (SIZE, SIZE), frozenset(map(NodeId, range(4))), CARRIES, round_max=10)
ME, PEER, OTHER = NodeId(0), NodeId(1), NodeId(2)
VALUES = frozen(np.arange(SIZE, dtype=np.float32))
FRAME = encode(make_message(Kind.FRAGMENT, 3, VALUES, 1), ME, PLAN)
WITHIN_S = 60.0
"""Every wait of these tests ends by then; none takes so long unless something is broken, on whatever host."""


def run(test: Coroutine[Any, Any, None]) -> None:
    """In the kind of loop that nodes use; nothing of a test may go on after it."""

    async def bounded() -> None:
        async with asyncio.timeout(3 * WITHIN_S):
            await test
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(bounded())


class HeldClock:
    """The clock of one side, which a test can hold: what is due later is then due when the test says so."""

    def __init__(self) -> None:
        self._held_ns: int | None = None

    def hold(self) -> int:
        """Stand still; returns the time."""
        self._held_ns = time.monotonic_ns()
        return self._held_ns

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() if self._held_ns is None else self._held_ns

    def release(self) -> None:
        self._held_ns = None


@pytest.fixture
def servers_clock(monkeypatch: pytest.MonkeyPatch) -> HeldClock:
    """Holds back what servers hand over when it is due."""
    clock = HeldClock()
    monkeypatch.setattr(server_module, "time", clock)
    return clock


@pytest.fixture
def clients_clock(monkeypatch: pytest.MonkeyPatch) -> HeldClock:
    """Holds back the deadlines of clients."""
    clock = HeldClock()
    monkeypatch.setattr(client_module, "time", clock)
    return clock


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.002)


@dataclass
class Receiver:
    """A server and what it was told."""

    node: NodeId = PEER
    queue_frames_max: int = 100
    wire: WireContext = WIRE
    credentials: Credentials | None = None
    arrivals: list[Arrival] = field(default_factory=list)
    handed_ns: list[int] = field(default_factory=list)
    probes: list[tuple[NodeId, ProbeInfo]] = field(default_factory=list)
    address: str = ""

    @property
    def numbers(self) -> list[int]:
        return [arrival.number for arrival in self.arrivals]

    async def __aenter__(self) -> "Receiver":
        self.server = PeerServer(
            self.node,
            RUN,
            self.wire,
            self.queue_frames_max,
            self._on_message,
            lambda *told: self.probes.append(told),
            credentials=self.credentials,
        )
        host, port = (self.address or "127.0.0.1:0").split(":")
        self.address = await self.server.start(host, int(port))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop(1.0)

    def _on_message(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        self.handed_ns.append(time.monotonic_ns())


@dataclass
class Sender:
    """A client and what it was told. Nothing may be told from within ``send``."""

    addresses: dict[NodeId, str]
    run_id: str = RUN
    window_bytes: int = 0
    credentials: Credentials | None = None
    acknowledged: list[int] = field(default_factory=list)
    lost: list[tuple[int, str]] = field(default_factory=list)
    echoes: list[EchoInfo] = field(default_factory=list)
    next_number: int = 0
    _sending: bool = False

    async def __aenter__(self) -> "Sender":
        rng = np.random.default_rng(0)
        self.client = PeerClient(
            ME, self.run_id, PLAN, self._on_acknowledged, self._on_lost, self._on_echo, rng, self.window_bytes
        )
        self.client.credentials = self.credentials
        self.client.set_addresses(self.addresses)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    def send(self, peer: NodeId = PEER, frame: bytes = FRAME, due_ns: int = 0, within_s: float = 600.0) -> int:
        number = self.next_number
        self.next_number += 1
        self._sending = True
        self.client.send(peer, frame, number, due_ns, time.monotonic_ns() + int(within_s * 1e9))
        self._sending = False
        return number

    @property
    def ended(self) -> list[int]:
        return sorted([*self.acknowledged, *(number for number, _ in self.lost)])

    def _on_acknowledged(self, _peer: NodeId, number: int, frame_bytes: int) -> None:
        assert not self._sending
        assert frame_bytes > 0
        self.acknowledged.append(number)

    def _on_lost(self, _peer: NodeId, number: int, frame_bytes: int, reason: str) -> None:
        assert not self._sending
        assert frame_bytes > 0
        self.lost.append((number, reason))

    def _on_echo(self, _peer: NodeId, echo: EchoInfo) -> None:
        self.echoes.append(echo)


Scene = Callable[[Receiver, Sender], Awaitable[None]]


def with_both(scene: Scene, **settings: Any) -> None:
    async def test() -> None:
        async with Receiver(**settings) as receiver, Sender({PEER: receiver.address}) as sender:
            await scene(receiver, sender)

    run(test())


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


# ---- what arrives


def test_messages_arrive_whole_in_order_and_are_acknowledged() -> None:
    async def scene(receiver: Receiver, sender: Sender) -> None:
        sent = [sender.send() for _ in range(50)]
        await until(lambda: len(sender.acknowledged) == 50)
        assert receiver.numbers == sender.acknowledged == sent
        for arrival in receiver.arrivals:
            assert (arrival.sender, arrival.frame_bytes, arrival.due_ns) == (ME, len(FRAME), 0)
            assert arrival.message.body.values.tobytes() == VALUES.tobytes()
            assert not arrival.message.body.values.flags.writeable
        assert receiver.server.frames == sender.client.frames_sent == 50
        assert receiver.server.frame_bytes == sender.client.frame_bytes_sent == 50 * len(FRAME)
        assert not receiver.server.rejected
        assert not sender.lost

    with_both(scene)


def tcp_user_timeouts_ms() -> list[int]:
    """Of all connections of this process: how long sent bytes may be unacknowledged; 0 is as long as TCP likes."""
    found = []
    for connection in psutil.Process().net_connections("tcp"):
        if connection.status == psutil.CONN_ESTABLISHED:
            with socket.socket(fileno=os.dup(connection.fd)) as its:
                found.append(its.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
    return found


def test_no_connection_ends_for_what_waits_behind_a_slow_link() -> None:
    """Receipts may be unacknowledged for as long as messages of the other direction take before them."""

    async def scene(receiver: Receiver, sender: Sender) -> None:
        sender.send()
        await until(lambda: sender.acknowledged)
        assert tcp_user_timeouts_ms() == [0, 0]

    with_both(scene)


def test_a_server_is_reached_by_the_host_that_it_advertises() -> None:
    async def test() -> None:
        receiver = Receiver()
        async with receiver:
            pass
        address = await receiver.server.start("0.0.0.0", 0, "localhost")
        assert address.startswith("localhost:")
        async with Sender({PEER: address}) as sender:
            sender.send()
            await until(lambda: sender.acknowledged)
        await receiver.server.stop(0)

    run(test())


def test_every_frame_and_every_numbered_probe_is_told_once_when_it_is_written() -> None:
    async def scene(receiver: Receiver, sender: Sender) -> None:
        written: list[int] = []
        sender.client.on_written = lambda _peer, number: written.append(number)
        frames = [sender.send() for _ in range(20)]
        sender.client.probe(PEER, 5, 0, 3, 0, number=77)
        sender.client.probe(PEER, 6, 0, 3, 0)
        frames += [sender.send() for _ in range(20)]
        await until(lambda: len(sender.acknowledged) == 40 and len(written) == 41)
        assert written == [*frames[:20], 77, *frames[20:]]

    with_both(scene)


def test_a_frame_can_be_taken_back_until_a_stream_writes_it() -> None:
    async def scene(receiver: Receiver, sender: Sender) -> None:
        kept, taken = sender.send(), sender.send()  # the stream is not open yet
        assert sender.client.withdraw(PEER, taken)
        assert not sender.client.withdraw(PEER, taken)
        last = sender.send()
        await until(lambda: len(sender.acknowledged) == 2)
        assert receiver.numbers == sender.acknowledged == [kept, last]
        assert not sender.client.withdraw(PEER, last)
        assert not sender.lost

    with_both(scene)


def test_the_same_bytes_go_to_all_recipients() -> None:
    async def test() -> None:
        async with (
            Receiver(PEER) as first,
            Receiver(OTHER) as second,
            Sender({PEER: first.address, OTHER: second.address}) as sender,
        ):
            for peer in (PEER, OTHER):
                sender.send(peer)
            await until(lambda: len(sender.acknowledged) == 2)
            assert first.arrivals[0].message.body.values.tobytes() == second.arrivals[0].message.body.values.tobytes()

    run(test())


def test_what_is_not_due_is_held_and_handed_over_in_order_of_due(servers_clock: HeldClock) -> None:
    async def scene(receiver: Receiver, sender: Sender) -> None:
        sender.send()  # opens the stream
        await until(lambda: sender.acknowledged)
        now_ns = servers_clock.hold()
        after_ms = [80, 40, 60, 40, 20]
        for delay in after_ms:
            sender.send(due_ns=now_ns + delay * 1_000_000)
        past = sender.send(due_ns=now_ns - 1)
        at_once = sender.send()
        await until(lambda: receiver.server.frames == 8)
        # Held frames are not acknowledged: what is in the delay line is in flight.
        assert len(sender.acknowledged) <= len(receiver.arrivals) == 3
        servers_clock.release()
        await until(lambda: len(sender.acknowledged) == 8)
        assert receiver.numbers[1:] == [past, at_once, 5, 2, 4, 3, 1]
        for arrival, handed_ns in zip(receiver.arrivals, receiver.handed_ns, strict=True):
            assert handed_ns >= arrival.due_ns
            assert arrival.received_ns <= handed_ns
        lateness = receiver.server.lateness.summary()
        assert lateness.count == 6
        assert lateness.max > 0  # one was due before it was sent

    with_both(scene)


def test_what_was_due_while_its_sender_stood_still_is_not_late() -> None:
    async def scene(receiver: Receiver, sender: Sender) -> None:
        past_ns = time.monotonic_ns() - 10**9
        asked: list[tuple[int, int]] = []

        def stood_still(peer: int, due_ns: int) -> bool:
            asked.append((peer, due_ns))
            return due_ns == past_ns

        receiver.server.stood_still = stood_still
        sender.send(due_ns=past_ns)
        sender.send(due_ns=past_ns + 1)
        await until(lambda: len(receiver.arrivals) == 2)
        assert asked == [(receiver.arrivals[0].sender, past_ns), (receiver.arrivals[0].sender, past_ns + 1)]
        assert receiver.server.lateness.summary().count == 1

    with_both(scene)


def test_what_wakes_nobody_is_handed_over_when_asked_for_or_with_the_next_frame() -> None:
    async def scene(receiver: Receiver, sender: Sender) -> None:
        receiver.server.prompt = False
        begin_ns = time.monotonic_ns()
        later = sender.send(due_ns=begin_ns + 3_600 * 10**9)
        first = sender.send(due_ns=begin_ns + 1)
        await until(lambda: receiver.numbers == [first])  # it was due when it was read
        second = sender.send(due_ns=time.monotonic_ns() + 30_000_000_000)
        await until(lambda: receiver.server.frames == 3)
        receiver.server.release(receiver.arrivals[0].received_ns)
        assert receiver.numbers == [first]
        receiver.server.release(begin_ns + 40 * 10**9)  # as if it had come
        assert receiver.numbers == [first, second]
        lateness = receiver.server.lateness.summary()
        # Counted from the reading, not from the asking, which is the node's own choice.
        assert lateness.count == 2
        assert lateness.max < 10 * 10**9
        receiver.server.release(begin_ns + 4_000 * 10**9)
        assert receiver.numbers == [first, second, later]
        await until(lambda: len(sender.acknowledged) == 3)

    with_both(scene)


def test_a_sender_that_waits_for_no_receipt_is_sent_few(monkeypatch: pytest.MonkeyPatch) -> None:
    receipts: list[int] = []
    settle = PeerClient._settle
    monkeypatch.setattr(
        PeerClient,
        "_settle",
        lambda self, link, receipt: (receipts.append(receipt.frames), settle(self, link, receipt)),
    )

    async def scene(receiver: Receiver, sender: Sender) -> None:
        sender.client.receipts_within_ms = 200
        begun_s = time.monotonic()
        for count in range(1, 31):
            sender.send()
            await until(lambda count=count: len(receiver.arrivals) == count)  # one frame an envelope
        await until(lambda: len(sender.acknowledged) == 30)
        assert receipts[-1] == 30
        assert len(receipts) <= 1 + (time.monotonic() - begun_s) / 0.2

    with_both(scene)


def test_a_timer_set_for_later_does_not_delay_what_is_due_earlier() -> None:
    """For whoever waits for the timer that was set first, the early one would come in an hour."""

    async def scene(receiver: Receiver, sender: Sender) -> None:
        sender.send(due_ns=time.monotonic_ns() + 3600 * 10**9)
        await until(lambda: receiver.server.frames == 1)
        late = sender.send(due_ns=time.monotonic_ns() + 60_000_000)
        early = sender.send(due_ns=time.monotonic_ns() + 30_000_000)
        await until(lambda: len(receiver.numbers) == 2)
        assert receiver.numbers == [early, late]

    with_both(scene)


def test_held_frames_survive_the_end_of_their_stream(servers_clock: HeldClock) -> None:
    async def test() -> None:
        servers_clock.hold()
        async with Receiver() as receiver:
            async with Sender({PEER: receiver.address}) as sender:
                sender.send(due_ns=time.monotonic_ns() + 100_000_000)
                await until(lambda: receiver.server.frames == 1)
            assert not receiver.arrivals
            servers_clock.release()
            await until(lambda: receiver.numbers == [0])

    run(test())


def test_probes_are_held_too_and_echoed() -> None:
    async def scene(receiver: Receiver, sender: Sender) -> None:
        start_ns = time.monotonic_ns()
        for sequence in range(3):
            sender.client.probe(PEER, sequence, start_ns + sequence, 1_000 * sequence, start_ns + 50_000_000)
        await until(lambda: len(receiver.probes) == 3)
        assert time.monotonic_ns() >= start_ns + 50_000_000
        for peer, probe in receiver.probes:
            assert peer == ME
            receiver.server.echo(peer, probe.sequence, probe.sent_ns, probe.padding_bytes)
        receiver.server.echo(OTHER, 0, 0, 0)  # nobody there: nothing happens
        await until(lambda: len(sender.echoes) == 3)
        assert [(e.sequence, e.sent_ns - start_ns, e.padding_bytes) for e in sender.echoes] == [
            (0, 0, 0),
            (1, 1, 1_000),
            (2, 2, 2_000),
        ]
        assert not receiver.arrivals

    with_both(scene)


def test_receipts_tell_of_many_frames_where_the_window_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "RECEIPT_DELAY_S", 0.5)  # or a slow writer gets one for each

    async def test() -> None:
        async with Receiver() as receiver, raw_stream(receiver, window_bytes=10**9) as call:
            for number in range(20):
                await call.write(pack([(FRAME, number, 0)]))
            receipts = 0
            while (await read_receipt(call)).frames < 20:
                receipts += 1
            assert receipts < 15

    run(test())


# ---- what is refused and rejected


@asynccontextmanager
async def raw_stream(receiver: Receiver, accepted: bool = True, **greeting: Any) -> AsyncIterator[Any]:
    """A stream of any bytes."""
    fields: dict[str, Any] = {"wire_version": WIRE_VERSION, "run_id": RUN, "sender": ME, "plan_id": PLAN}
    hello = Hello(**(fields | greeting))
    async with grpc.aio.insecure_channel(receiver.address) as channel:
        call: Any = channel.stream_stream(METHOD)()  # type: ignore[var-annotated]
        await call.write(Envelope(hello=hello).SerializeToString())
        if accepted:
            assert await read_receipt(call) == Receipt()
        yield call
        call.cancel()


async def read_receipt(call: Any) -> Receipt:
    async with asyncio.timeout(WITHIN_S):
        return Receipt.FromString(await call.read())


@pytest.mark.parametrize(
    ("greeting", "text"),
    [
        ({"wire_version": 99}, "wire_version 99: must be 2"),
        ({"run_id": "an earlier one"}, "run_id 'an earlier one': must be 'test'"),
        ({"plan_id": 8}, "plan_id 0x0000000000000008: must be 0x0000000000000007"),
        ({"sender": 9}, "sender 9: may not send to node 1"),
        ({"sender": PEER}, "sender 1: may not send to node 1"),
    ],
)
def test_a_wrong_greeting_is_refused_with_a_reason(greeting: dict[str, Any], text: str) -> None:
    async def test() -> None:
        async with Receiver() as receiver, raw_stream(receiver, accepted=False, **greeting) as call:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call.read()
            assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert error.value.details() == text

    run(test())


@pytest.mark.parametrize(
    "first", [b"", b"\xff\xff", Envelope(probe=Probe()).SerializeToString(), pack([(FRAME, 0, 0)])]
)
def test_whoever_does_not_greet_is_refused(first: bytes) -> None:
    async def test() -> None:
        async with Receiver() as receiver, grpc.aio.insecure_channel(receiver.address) as channel:
            call: Any = channel.stream_stream(METHOD)()  # type: ignore[var-annotated]
            await call.write(first)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call.read()
            assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert not receiver.arrivals

    run(test())


def test_a_refused_client_loses_at_once_and_does_not_insist(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with Receiver() as receiver, Sender({PEER: receiver.address}, run_id="other") as sender:
            sender.send()
            await until(lambda: sender.lost)
            assert sender.lost == [(0, "refused: run_id 'other': must be 'test'")]
            assert sender.client.unreachable == {PEER}
            for _ in range(5):
                sender.send()
            await until(lambda: len(sender.lost) == 6)
            assert {reason for _, reason in sender.lost[1:]} == {"unreachable"}

    run(test())
    assert sum("refused" in record.getMessage() for record in caplog.records) == 1


BAD_CHECKSUM = FRAME[:-1] + bytes([FRAME[-1] ^ 1])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xff\xff", RejectReason.ENVELOPE),
        (b"", RejectReason.ENVELOPE),
        (Envelope(hello=Hello()).SerializeToString(), RejectReason.ENVELOPE),
        (pack([(b"short", 0, 0)]), RejectReason.LENGTH),
        (pack([(bytes(WIRE.frame_bytes_max + 1), 0, 0)]), RejectReason.SIZE),
        (pack([(BAD_CHECKSUM, 0, 0)]), RejectReason.CHECKSUM),
        (
            pack([(encode(make_message(Kind.FRAGMENT, 3, VALUES, 1), OTHER, PLAN), 0, 0)]),
            RejectReason.SENDER,
        ),
    ],
)
def test_a_bad_message_is_counted_and_the_stream_lives(
    data: bytes, reason: RejectReason, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with Receiver() as receiver, raw_stream(receiver) as call:
            for number in (1, 2):
                await call.write(data)
                await call.write(pack([(FRAME, number, 0)]))
            receipt = await read_receipt(call)
            while receipt.frames < 4:
                receipt = await read_receipt(call)
            assert receipt.frames_rejected == 2
            assert receiver.server.rejected == {reason: 2}
            assert receiver.numbers == [1, 2]
            receiver.server.reject(ME, RejectReason.ALGORITHM, "no use for it")
            assert receiver.server.rejected[RejectReason.ALGORITHM] == 1

    run(test())
    logged = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(logged) == 2  # once for the reason of this test, once for "algorithm"


def test_what_grpc_refuses_as_too_long_is_lost_and_the_next_message_arrives() -> None:
    async def scene(receiver: Receiver, sender: Sender) -> None:
        sender.send()
        await until(lambda: sender.acknowledged == [0])
        sender.send(frame=bytes(10 * (WIRE.frame_bytes_max + 2**20)))
        await until(lambda: sender.lost)
        assert sender.lost[0][1].startswith("resource_exhausted")
        sender.send()
        await until(lambda: sender.acknowledged == [0, 2])
        assert not sender.client.unreachable

    with_both(scene)


def test_a_flood_is_dropped_and_told(servers_clock: HeldClock) -> None:
    async def scene(receiver: Receiver, sender: Sender) -> None:
        due_ns = servers_clock.hold() + 10_000_000
        for _ in range(10):
            sender.send(due_ns=due_ns)
        await until(lambda: receiver.server.frames == 10)
        servers_clock.release()
        await until(lambda: len(sender.acknowledged) == 10)
        assert receiver.server.rejected == {RejectReason.FLOOD: 6}
        assert sender.client.frames_rejected == 6
        assert receiver.numbers == [0, 1, 2, 3]

    with_both(scene, queue_frames_max=4)


def test_probes_that_wait_are_bounded_too(servers_clock: HeldClock) -> None:
    async def scene(receiver: Receiver, sender: Sender) -> None:
        due_ns = servers_clock.hold() + 10_000_000
        for sequence in range(10):
            sender.client.probe(PEER, sequence, 0, 10, due_ns)
        await until(lambda: receiver.server.rejected == {RejectReason.FLOOD: 6})
        servers_clock.release()
        await until(lambda: len(receiver.probes) == 4)
        assert [probe.sequence for _, probe in receiver.probes] == [0, 1, 2, 3]
        assert receiver.server.rejected == {RejectReason.FLOOD: 6}

    with_both(scene, queue_frames_max=4)


def test_a_newer_stream_replaces_the_older() -> None:
    async def test() -> None:
        async with Receiver() as receiver, raw_stream(receiver) as older, raw_stream(receiver) as newer:
            assert await read_receipt(older) == Receipt()  # the last before the end
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await read_receipt(older)
            assert error.value.code() is grpc.StatusCode.ABORTED
            await newer.write(pack([(FRAME, 5, 0)]))
            assert (await read_receipt(newer)).frames == 1
            assert receiver.numbers == [5]

    run(test())


# ---- the server's life


def test_a_taken_port_is_one_clear_line() -> None:
    async def test() -> None:
        async with Receiver() as receiver:
            second = Receiver(OTHER, address=receiver.address)
            with pytest.raises(TransportError, match=rf"^{receiver.address}: the port is taken") as error:
                await second.__aenter__()
            assert "\n" not in str(error.value)

    run(test())


def test_health_and_reflection_answer() -> None:
    async def test() -> None:
        async with Receiver() as receiver:
            async with grpc.aio.insecure_channel(receiver.address) as channel:
                health: Any = health_pb2_grpc.HealthStub(channel)
                for service in ("", SERVICE):
                    reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
                    assert reply.status == health_pb2.HealthCheckResponse.SERVING

            def ask() -> tuple[list[str], str]:
                with grpc.insecure_channel(receiver.address) as channel:
                    database = ProtoReflectionDescriptorDatabase(channel)
                    file = database.FindFileContainingSymbol(SERVICE)
                    return list(database.get_services()), file.service[0].method[0].name

            services, method = await asyncio.to_thread(ask)
            assert SERVICE in services
            assert method == "Exchange"

    run(test())


def test_stopping_tells_of_what_was_handed_over() -> None:
    async def test() -> None:
        async with Receiver() as receiver, Sender({PEER: receiver.address}, window_bytes=10**9) as sender:
            sender.send()
            await until(lambda: receiver.arrivals)
            await receiver.server.stop(1.0)
            await until(lambda: sender.acknowledged or sender.lost)
            assert sender.acknowledged == [0]

    run(test())


# ---- peers that are not there


def test_nobody_there_is_found_at_once() -> None:
    async def test() -> None:
        async with Sender({PEER: free_address()}) as sender:
            sender.send()  # whose deadline is not waited for
            await until(lambda: sender.lost)
            assert sender.client.unreachable == {PEER}
            assert sender.lost[0][1].startswith("unavailable")
            sender.client.probe(PEER, 0, 0, 10)  # lost without a word

    run(test())


def test_a_peer_that_comes_late_is_found() -> None:
    async def test() -> None:
        address = free_address()
        async with Sender({PEER: address}) as sender:
            for _ in range(4):
                sender.send()
                await asyncio.sleep(0.03)
            async with Receiver(address=address) as receiver:
                while not sender.acknowledged:
                    sender.send()
                    await asyncio.sleep(0.02)
                assert not sender.client.unreachable
                await until(lambda: len(sender.ended) == sender.next_number)
                assert receiver.numbers == sender.acknowledged

    run(test())


def test_a_peer_that_never_answers_holds_up_nobody_else() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections and says nothing
            address = f"127.0.0.1:{mute.getsockname()[1]}"
            async with Receiver(OTHER) as other, Sender({PEER: address, OTHER: other.address}) as sender:
                started = time.monotonic()
                dead = [sender.send(PEER, within_s=0.3) for _ in range(3)]
                alive = [sender.send(OTHER) for _ in range(3)]
                await until(lambda: sender.acknowledged == alive)
                await until(lambda: len(sender.lost) == 3)
                assert time.monotonic() - started >= 0.3
                assert sender.lost == [(number, "deadline passed") for number in dead]

    run(test())


def test_an_attempt_without_an_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CONNECT_WITHIN_S", 0.2)

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            async with Sender({PEER: f"127.0.0.1:{mute.getsockname()[1]}"}) as sender:
                sender.send()
                await until(lambda: sender.lost)
                assert sender.client.unreachable == {PEER}

    run(test())


@pytest.mark.parametrize("seed", range(3))
def test_every_frame_ends_once_whatever_happens_to_the_peer(seed: int) -> None:
    async def test() -> None:
        rng = np.random.default_rng(seed)
        address = free_address()
        received: list[int] = []
        async with Sender({PEER: address}) as sender:
            for _ in range(4):
                async with Receiver(address=address) as receiver:
                    for _ in range(int(rng.integers(1, 40))):
                        due_ns = int(rng.integers(0, 2)) * (time.monotonic_ns() + int(rng.integers(0, 30_000_000)))
                        sender.send(due_ns=due_ns)
                        await asyncio.sleep(float(rng.uniform(0, 0.004)))
                    received += receiver.numbers
                await asyncio.sleep(float(rng.uniform(0, 0.05)))
                sender.send()
            await until(lambda: len(sender.ended) >= sender.next_number)
            await asyncio.sleep(0.05)
            assert sender.ended == list(range(sender.next_number))
            assert sender.acknowledged

    run(test())


# ---- another process


@asynccontextmanager
async def peer_process(port: int = 0) -> AsyncIterator[tuple["subprocess.Popen[bytes]", str]]:
    """A receiving node in a process of its own, and its address."""
    command = [sys.executable, "-m", "tests.integration.transport_peer", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process, (await asyncio.to_thread(process.stdout.readline)).decode().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_peer_that_stops_reading_holds_no_more_than_the_window(clients_clock: HeldClock) -> None:
    """The promise: what is handed to the transport and not acknowledged stays below the bound, wherever it lies."""

    async def test() -> None:
        async with peer_process() as (process, address):
            window = Window(5 * len(FRAME))
            async with Sender({PEER: address}, window_bytes=window.bound_bytes) as sender:
                taken = 0

                def pump(until_number: int) -> None:
                    nonlocal taken
                    while taken < len(sender.ended):
                        window.remove(sender.ended[taken])
                        taken += 1
                    while sender.next_number < until_number and window.fits(len(FRAME)):
                        window.add(sender.send(within_s=1.0), len(FRAME))

                def all_sent(count: int) -> bool:
                    pump(count)
                    return len(sender.acknowledged) == count

                await until(lambda: all_sent(20))
                clients_clock.hold()
                os.kill(process.pid, signal.SIGSTOP)
                await until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
                before = len(sender.acknowledged)

                def is_full() -> bool:
                    pump(100)
                    return not window.fits(len(FRAME))

                await until(is_full)
                for _ in range(20):  # and stays so
                    await asyncio.sleep(0.01)
                    pump(100)
                assert len(sender.acknowledged) == before == 20
                assert len(window) == 5
                assert sender.next_number == 25
                assert sender.client.frames_sent <= 25
                # At its deadline the stream counts as broken, so that the window is free for others.
                clients_clock.release()
                await until(lambda: len(sender.lost) == 5)
                assert {reason for _, reason in sender.lost} == {"deadline passed"}
                os.kill(process.pid, signal.SIGCONT)

                def again() -> bool:
                    pump(sender.next_number + 1)
                    return len(sender.acknowledged) > 20

                await until(again)
                assert window.bytes_max == window.bound_bytes

    run(test())


def test_a_peer_that_is_killed_and_comes_back() -> None:
    async def test() -> None:
        async with peer_process() as (process, address), Sender({PEER: address}) as sender:
            sender.send()
            await until(lambda: sender.acknowledged == [0])
            held = sender.send(due_ns=time.monotonic_ns() + 3600 * 10**9)
            await until(lambda: sender.client.frames_sent == 2)
            process.kill()
            await until(lambda: sender.lost)
            assert sender.lost[0][0] == held
            sender.send()
            await until(lambda: len(sender.lost) == 2)
            assert sender.client.unreachable == {PEER}
            async with peer_process(int(address.rsplit(":", 1)[1])) as (_, again):
                assert again == address
                while len(sender.acknowledged) < 2:
                    sender.send()
                    await asyncio.sleep(0.02)
            assert sender.ended == sorted(set(sender.ended))

    run(test())


def test_the_kernel_ends_no_connection_on_which_nothing_is_acknowledged() -> None:
    """Over a link that stands still, for however long; a server of gRPC lets it do so after 20 s unless told."""

    async def test() -> None:
        async with Receiver() as receiver, Sender({PEER: receiver.address}) as sender:
            sender.client.send(PEER, FRAME, 0)
            await until(lambda: sender.acknowledged)
            found = [
                (connection.laddr, timeout)
                for connection in psutil.Process().net_connections("tcp")
                for timeout in [user_timeout_ms(connection.fd)]
            ]
            port = int(receiver.address.rpartition(":")[2])
            assert len([place for place, _ in found if place.port == port]) == 2, "it listens, and has a connection"
            assert [timeout for _, timeout in found] == [0] * len(found)

    run(test())


def user_timeout_ms(descriptor: int) -> int:
    """The time of a socket of this process after which the kernel gives it up; 0: as it does by itself."""
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


def test_threads_do_not_grow_with_the_number_of_peers() -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    async def test() -> None:
        async with Receiver() as first, Sender({PEER: first.address}) as sender, AsyncExitStack() as stack:
            sender.send()
            await until(lambda: sender.acknowledged)
            before = threads()
            for _ in range(8):
                receiver = await stack.enter_async_context(Receiver())
                other = await stack.enter_async_context(Sender({PEER: receiver.address}))
                other.send()
                await until(lambda other=other: other.acknowledged)  # type: ignore[misc]
            assert threads() <= before + 2

    run(test())
