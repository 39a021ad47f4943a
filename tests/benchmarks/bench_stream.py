"""Print what the way from node to node costs, beside bare gRPC and beside pickle over ZeroMQ, in one run.

``python -m tests.benchmarks.bench_stream [fragments]``: each figure comes from two processes on loopback; about a
minute. Fragments have 9,000 float32 values. Both comparisons are ratios within this run, because figures of a shared
machine move by half from one hour to the next; each is repeated and the fastest of each kind counts.

- Stream: encode, send, receive, check, decode and average by the real path of DivShare, one recipient, against a
  bare gRPC stream of the same bytes that are thrown away (asyncio's and the threaded one, the faster). Aim: 60 %.
- CPU a delivered fragment, both sides together, six recipients, against the field's habit: a pickled dict with a
  torch tensor for each recipient over ZeroMQ (DEALER to ROUTER), pickled twice because the first serves to count the
  bytes; the receiver unpickles and averages. Aim: a quarter.
- TLS: the same with both sides' certificates, against the same in plain text.
"""

import asyncio
import gc
import multiprocessing
import pickle  # noqa: TID251 - it is what the field does and what we compare with; nothing else here uses it
import queue
import resource
import selectors
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import grpc
import numpy as np

from node.core.events import MessageReceived
from node.core.fragments import FragmentLayout, FragmentPlan, FragmentRounding, fragment_plan, num_fragments
from node.core.inbox import Inbox, average_fragments
from node.core.messages import Message
from node.core.types import NodeId, Vector
from node.host.credentials import Credentials
from node.transport.frames import WireContext, encode
from node.transport.peer_client import EchoInfo, PeerClient
from node.transport.peer_server import METHOD, Arrival, PeerServer, ProbeInfo
from node.transport.window import Window
from orchestrator.runs.certificates import issue_credentials
from tests.messages import CARRIES, Kind, make_message

VALUES = 9_000
FRAGMENTS = 10
RECIPIENTS = 6
WINDOW_MESSAGES = 64
"""In flight for each recipient: 2.3 MB, the bound of a path of 150 Mbit/s and 80 ms. ZeroMQ takes 1,000 at once."""
REPEATS = 4
PLAN_ID = 7
SENDER = NodeId(0)
AVERAGE_EVERY = 60
"""Fragments between two averages: a round of ten fragments from six senders."""


class Meter:
    """Seconds and CPU seconds of one side from the first eighth of its fragments on, so that no start is in it."""

    def __init__(self, fragments: int) -> None:
        self.fragments = fragments
        self._warm = fragments // 8
        self._count = 0

    def tick(self) -> None:
        """One fragment more."""
        self._count += 1
        if self._count == self._warm:
            self._began = time.perf_counter(), _cpu_seconds()
        if self._count == self.fragments:
            self._ended = time.perf_counter()

    def result(self) -> tuple[float, float]:
        """(seconds, CPU seconds) for each fragment of the rest; CPU until now, because other threads lag behind."""
        assert self._count == self.fragments
        rest = self.fragments - self._warm
        return (self._ended - self._began[0]) / rest, (_cpu_seconds() - self._began[1]) / rest


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


Side = Callable[[Connection, int, Meter], Coroutine[Any, Any, None]]


def plan() -> FragmentPlan:
    return fragment_plan((VALUES * FRAGMENTS,), num_fragments(0.1, FragmentRounding.FLOOR), FragmentLayout.RANDOM, 1)


def model() -> Vector:
    return np.random.default_rng(0).standard_normal(VALUES * FRAGMENTS, dtype=np.float32)


class Averager:
    """A receiving node's part of DivShare: keep what arrives, average once a round."""

    def __init__(self) -> None:
        self.received = 0
        self._plan = plan()
        self._inbox = Inbox()
        self._ordered, _ = self._plan.cut(model())

    def take(self, sender: NodeId, message: Message) -> None:
        self._inbox.keep(MessageReceived(sender, message, self.received))
        self.received += 1
        if self.received % AVERAGE_EVERY == 0:
            taken = self._inbox.drain()
            average_fragments(self._plan, self._ordered, [event.message for event in taken])


# ---- our transport


CREDENTIALS = issue_credentials("bench", 1 + RECIPIENTS, timedelta(days=1)).nodes


async def receive_ours(pipe: Connection, recipients: int, meter: Meter) -> None:
    """All recipients' servers in one process."""
    await _receive_ours(pipe, recipients, meter, (None,) * (1 + recipients))


async def receive_encrypted(pipe: Connection, recipients: int, meter: Meter) -> None:
    await _receive_ours(pipe, recipients, meter, CREDENTIALS)


async def _receive_ours(
    pipe: Connection, recipients: int, meter: Meter, credentials: Sequence[Credentials | None]
) -> None:
    averager = Averager()
    wire = WireContext(PLAN_ID, VALUES * FRAGMENTS, (VALUES,) * FRAGMENTS, frozenset((SENDER,)), CARRIES)
    done = asyncio.Event()

    def on_message(arrival: Arrival) -> None:
        averager.take(arrival.sender, arrival.message)
        meter.tick()
        if averager.received == meter.fragments:
            done.set()

    def on_probe(_peer: NodeId, _probe: ProbeInfo) -> None: ...

    servers = [
        PeerServer(NodeId(1 + i), "bench", wire, 1_000, on_message, on_probe, credentials=credentials[1 + i])
        for i in range(recipients)
    ]
    pipe.send([await server.start("127.0.0.1", 0) for server in servers])
    await done.wait()
    assert not any(server.rejected for server in servers)
    for server in servers:
        await server.stop(1.0)


async def send_ours(pipe: Connection, recipients: int, meter: Meter) -> None:
    """Encode each fragment once, send it to all recipients as the window allows."""
    await _send_ours(pipe, recipients, meter, WINDOW_MESSAGES)


async def send_singly(pipe: Connection, recipients: int, meter: Meter) -> None:
    """As on slow links: never two messages of one stream at a time, so that each has its own envelope and receipt."""
    await _send_ours(pipe, recipients, meter, 1)


async def send_encrypted(pipe: Connection, recipients: int, meter: Meter) -> None:
    await _send_ours(pipe, recipients, meter, WINDOW_MESSAGES, CREDENTIALS[SENDER])


async def _send_ours(
    pipe: Connection, recipients: int, meter: Meter, window_messages: int, credentials: Credentials | None = None
) -> None:
    addresses = dict(zip(map(NodeId, range(1, recipients + 1)), pipe.recv(), strict=True))
    window = Window(window_messages * recipients * (VALUES * 4 + 44))
    pieces = plan().cut(model())[1]
    done = asyncio.Event()
    work = ours(pieces, meter.fragments // recipients, tuple(addresses))

    def pump() -> None:
        while window.fits(VALUES * 4 + 44):
            item = next(work, None)
            if item is None:
                if not len(window):
                    done.set()
                return
            peer, frame, number = item
            window.add(number, len(frame))
            client.send(peer, frame, number)

    def on_acknowledged(_peer: NodeId, number: int, _bytes: int) -> None:
        window.remove(number)
        meter.tick()
        pump()

    def on_lost(peer: NodeId, number: int, _bytes: int, reason: str) -> None:
        raise AssertionError(f"{peer} {number} {reason}")

    def on_echo(_peer: NodeId, _echo: EchoInfo) -> None: ...

    client = PeerClient(
        SENDER, "bench", PLAN_ID, on_acknowledged, on_lost, on_echo, np.random.default_rng(0), window.bound_bytes
    )
    client.credentials = credentials
    client.set_addresses(addresses)
    pump()
    await done.wait()
    await client.close()


def ours(pieces: Any, fragments: int, peers: tuple[NodeId, ...]) -> Iterator[tuple[NodeId, bytes, int]]:
    number = 0
    for index in range(fragments):
        fragment = index % FRAGMENTS
        frame = encode(make_message(Kind.FRAGMENT, index // FRAGMENTS, pieces[fragment], fragment), SENDER, PLAN_ID)
        for peer in peers:
            yield peer, frame, number
            number += 1


# ---- bare gRPC: the same bytes, thrown away


BARE = bytes(VALUES * 4 + 44 + 24)


class _Bare(grpc.GenericRpcHandler):
    def __init__(self, method: Any) -> None:
        self._method = grpc.stream_unary_rpc_method_handler(method)  # type: ignore[var-annotated]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._method


async def receive_bare_aio(pipe: Connection, _recipients: int, meter: Meter) -> None:
    done = asyncio.Event()

    async def take(requests: Any, _context: Any) -> bytes:
        async for _ in requests:
            meter.tick()
        done.set()
        return b""

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([_Bare(take)])
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await done.wait()
    await server.stop(1.0)


async def send_bare_aio(pipe: Connection, _recipients: int, meter: Meter) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{pipe.recv()}") as channel:
        call: Any = channel.stream_unary(METHOD)()  # type: ignore[var-annotated]
        for _ in range(meter.fragments):
            await call.write(BARE)
            meter.tick()
        await call.done_writing()
        await call


async def receive_bare_threads(pipe: Connection, _recipients: int, meter: Meter) -> None:
    done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def take(requests: Any, _context: Any) -> bytes:
        for _ in requests:
            meter.tick()
        done.put(None)
        return b""

    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([_Bare(take)])
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    done.get()
    server.stop(1.0).wait()


async def send_bare_threads(pipe: Connection, _recipients: int, meter: Meter) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{pipe.recv()}") as channel:

        def frames() -> Iterator[bytes]:
            for _ in range(meter.fragments):
                meter.tick()
                yield BARE

        channel.stream_unary(METHOD)(frames())  # type: ignore[var-annotated]


# ---- pickle over ZeroMQ


async def receive_pickled(pipe: Connection, recipients: int, meter: Meter) -> None:
    """A ROUTER a recipient, all in one process."""
    import torch
    import zmq

    context = zmq.Context()
    poller, ports = zmq.Poller(), []
    for _ in range(recipients):
        router = context.socket(zmq.ROUTER)
        ports.append(router.bind_to_random_port("tcp://127.0.0.1"))
        poller.register(router, zmq.POLLIN)
    pipe.send(ports)
    own = torch.from_numpy(model())
    order = torch.tensor(plan().order)
    total, counts, received = own.clone(), [1] * FRAGMENTS, 0
    while received < meter.fragments:
        for router, _ in poller.poll():
            _, body = router.recv_multipart()
            message = pickle.loads(body)
            fragment = message["fragment"]
            total[fragment * VALUES : (fragment + 1) * VALUES] += message["params"]
            counts[fragment] += 1
            received += 1
            meter.tick()
            if received % AVERAGE_EVERY == 0:
                for at, count in enumerate(counts):
                    total[at * VALUES : (at + 1) * VALUES] /= count
                counts = [1] * FRAGMENTS
                total[order] = total.clone()  # from the order of the plan to that of the model, as we do
                total = own.clone()
    context.destroy(linger=1_000)


async def send_pickled(pipe: Connection, recipients: int, meter: Meter) -> None:
    """A DEALER a recipient; ZeroMQ keeps what its sockets do not take."""
    import torch
    import zmq

    context = zmq.Context()
    dealers = []
    for port in pipe.recv():
        dealer = context.socket(zmq.DEALER)
        dealer.connect(f"tcp://127.0.0.1:{port}")
        dealers.append(dealer)
    own = torch.from_numpy(model())
    sent_bytes = 0
    for index in range(meter.fragments // recipients):
        fragment = index % FRAGMENTS
        for dealer in dealers:
            message = {
                "params": own[fragment * VALUES : (fragment + 1) * VALUES].clone(),
                "fragment": fragment,
                "round": index // FRAGMENTS,
                "sender": 0,
            }
            sent_bytes += len(pickle.dumps(message))
            dealer.send(pickle.dumps(message))
            meter.tick()
    context.destroy(linger=60_000)


# ---- two processes


def _side(side: Side, pipe: Connection, recipients: int, fragments: int) -> None:
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # torch's many objects are not what is measured
    meter = Meter(fragments)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(side(pipe, recipients, meter))
    pipe.send(meter.result())


def measure(receive: Side, send: Side, recipients: int, fragments: int) -> tuple[float, float]:
    """Seconds a fragment at the receiver, and CPU seconds a fragment of both sides."""
    # Forked before gRPC has been used.
    forking = multiprocessing.get_context("fork")
    pipes, processes = [], []
    for side in (receive, send):
        near, far = forking.Pipe()
        process = forking.Process(target=_side, args=(side, far, recipients, fragments), daemon=True)
        process.start()
        pipes.append(near)
        processes.append(process)
    receiver, sender = pipes
    assert receiver.poll(60), "the receiver did not start"
    sender.send(receiver.recv())
    assert receiver.poll(120), "the receiver did not end"
    seconds, cpu = receiver.recv()
    assert sender.poll(60), "the sender did not end"
    cpu += sender.recv()[1]
    for process in processes:
        process.join(10)
    return seconds, cpu


def main() -> None:
    """Measure and print."""
    fragments = int(sys.argv[1]) if len(sys.argv) > 1 else 8_000
    fragments -= fragments % RECIPIENTS
    ways: dict[str, tuple[Side, Side, int]] = {
        "this transport": (receive_ours, send_ours, 1),
        "bare gRPC, asyncio": (receive_bare_aio, send_bare_aio, 1),
        "bare gRPC, threads": (receive_bare_threads, send_bare_threads, 1),
        "this transport to 6": (receive_ours, send_ours, RECIPIENTS),
        "this, one at a time": (receive_ours, send_singly, RECIPIENTS),
        "this with TLS": (receive_encrypted, send_encrypted, 1),
        "this with TLS to 6": (receive_encrypted, send_encrypted, RECIPIENTS),
        "pickle, ZeroMQ to 6": (receive_pickled, send_pickled, RECIPIENTS),
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(REPEATS):  # in turn, so that a busy minute of the machine hits all alike
        for name, (receive, send, recipients) in ways.items():
            runs[name].append(measure(receive, send, recipients, fragments))
    seconds = {name: min(run[0] for run in of) for name, of in runs.items()}
    cpu = {name: min(run[1] for run in of) for name, of in runs.items()}
    for name in ways:
        print(
            f"stream of 36 kB  {name:20} {1 / seconds[name]:8,.0f} fragments/s"
            f" {VALUES * 4 / seconds[name] / 1e6:6,.0f} MB/s   CPU of both sides {cpu[name] * 1e6:6.1f} us a fragment"
        )
    bare = min(seconds["bare gRPC, asyncio"], seconds["bare gRPC, threads"])
    print(f"throughput, 1 recipient: {bare / seconds['this transport']:.0%} of bare gRPC's; aim 60 %")
    ratio = cpu["pickle, ZeroMQ to 6"] / cpu["this transport to 6"]
    print(f"CPU, {RECIPIENTS} recipients: a pickle over ZeroMQ costs {ratio:.1f} times as much; aim 4")
    share = seconds["this transport"] / seconds["this with TLS"]
    more = cpu["this with TLS to 6"] - cpu["this transport to 6"]
    print(
        f"TLS: {share:.0%} of the throughput to 1 recipient; {1e6 * more:.0f} us more CPU a fragment to {RECIPIENTS},"
        f" {cpu['this with TLS to 6'] / cpu['this transport to 6']:.2f} times as much"
    )


if __name__ == "__main__":
    main()
