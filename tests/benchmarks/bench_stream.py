"""Print what the way from node to node costs, beside bare gRPC and beside pickle over ZeroMQ, in one run.

``python -m tests.benchmarks.bench_stream [fragments]``: each figure comes from two processes on loopback; about a
minute. Fragments have 9,000 float32 values. Both comparisons are ratios within this run, because figures of a shared
machine move by half from one hour to the next; each is repeated and the fastest of each kind counts.

- Stream: encode, send, receive, check, decode and average by the real path of DivShare, one recipient, against a
  bare gRPC stream of the same bytes that are thrown away (asyncio's and the threaded one, the faster). Aim: 60 %.
- CPU a delivered fragment, both sides together, six recipients, against the field's habit: a pickled dict with a
  torch tensor for each recipient over ZeroMQ (DEALER to ROUTER), pickled twice because the first serves to count the
  bytes; the receiver unpickles and averages. Aim: a quarter.
"""

import asyncio
import multiprocessing
import pickle  # noqa: TID251 - it is what the field does and what we compare with; nothing else here uses it
import queue
import resource
import selectors
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import grpc
import numpy as np

from node.core.events import MessageReceived
from node.core.fragments import FragmentLayout, FragmentPlan, FragmentRounding, fragment_plan, num_fragments
from node.core.inbox import Inbox, average_fragments
from node.core.messages import Message, MessageKind
from node.core.types import NodeId, Vector
from node.transport.client import EchoInfo, PeerClient
from node.transport.codec import WireContext, encode
from node.transport.server import METHOD, Arrival, PeerServer, ProbeInfo
from node.transport.window import Window

VALUES = 9_000
FRAGMENTS = 10
RECIPIENTS = 6
WINDOW_MESSAGES = 64
"""In flight: 2.3 MB, the bound of a link of 150 Mbit/s and a round trip of 80 ms."""
PLAN_ID = 7
SENDER = NodeId(0)
AVERAGE_EVERY = 60
"""Fragments between two averages: a round of ten fragments from six senders."""

Side = Callable[[Connection, int, int], Coroutine[Any, Any, None]]


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


async def receive_ours(pipe: Connection, recipients: int, fragments: int) -> None:
    """All recipients' servers in one process."""
    averager = Averager()
    wire = WireContext(PLAN_ID, VALUES * FRAGMENTS, (VALUES,) * FRAGMENTS, frozenset((SENDER,)))
    done = asyncio.Event()

    def on_message(arrival: Arrival) -> None:
        averager.take(arrival.sender, arrival.message)
        if averager.received == fragments * recipients:
            done.set()

    def on_probe(_peer: NodeId, _probe: ProbeInfo) -> None: ...

    servers = [PeerServer(NodeId(1 + i), "bench", wire, 1_000, on_message, on_probe) for i in range(recipients)]
    pipe.send([await server.start("127.0.0.1", 0) for server in servers])
    await done.wait()
    assert not any(server.rejected for server in servers)
    for server in servers:
        await server.stop(1.0)


async def send_ours(pipe: Connection, recipients: int, fragments: int) -> None:
    """Encode each fragment once, send it to all recipients as the window allows."""
    addresses = dict(zip(map(NodeId, range(1, recipients + 1)), pipe.recv(), strict=True))
    window = Window(WINDOW_MESSAGES * (VALUES * 4 + 44))
    pieces = plan().cut(model())[1]
    done = asyncio.Event()
    work = ours(pieces, fragments, tuple(addresses))

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
        pump()

    def on_lost(peer: NodeId, number: int, _bytes: int, reason: str) -> None:
        raise AssertionError(f"{peer} {number} {reason}")

    def on_echo(_peer: NodeId, _echo: EchoInfo) -> None: ...

    client = PeerClient(
        SENDER, "bench", PLAN_ID, on_acknowledged, on_lost, on_echo, np.random.default_rng(0), window.bound_bytes
    )
    client.set_addresses(addresses)
    pump()
    await done.wait()
    await client.close()


def ours(pieces: Any, fragments: int, peers: tuple[NodeId, ...]) -> Iterator[tuple[NodeId, bytes, int]]:
    number = 0
    for index in range(fragments):
        fragment = index % FRAGMENTS
        frame = encode(Message(MessageKind.FRAGMENT, index // FRAGMENTS, pieces[fragment], fragment), SENDER, PLAN_ID)
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


async def receive_bare_aio(pipe: Connection, _recipients: int, _fragments: int) -> None:
    done = asyncio.Event()

    async def take(requests: Any, _context: Any) -> bytes:
        async for _ in requests:
            pass
        done.set()
        return b""

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([_Bare(take)])
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await done.wait()
    await server.stop(1.0)


async def send_bare_aio(pipe: Connection, _recipients: int, fragments: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{pipe.recv()}") as channel:
        call: Any = channel.stream_unary(METHOD)()  # type: ignore[var-annotated]
        for _ in range(fragments):
            await call.write(BARE)
        await call.done_writing()
        await call


async def receive_bare_threads(pipe: Connection, _recipients: int, _fragments: int) -> None:
    done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def take(requests: Any, _context: Any) -> bytes:
        for _ in requests:
            pass
        done.put(None)
        return b""

    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([_Bare(take)])
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    done.get()
    server.stop(1.0).wait()


async def send_bare_threads(pipe: Connection, _recipients: int, fragments: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{pipe.recv()}") as channel:
        channel.stream_unary(METHOD)(BARE for _ in range(fragments))  # type: ignore[var-annotated]


# ---- pickle over ZeroMQ


async def receive_pickled(pipe: Connection, recipients: int, fragments: int) -> None:
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
    total, counts, received = own.clone(), [1] * FRAGMENTS, 0
    while received < fragments * recipients:
        for router, _ in poller.poll():
            _, body = router.recv_multipart()
            message = pickle.loads(body)
            fragment = message["fragment"]
            total[fragment * VALUES : (fragment + 1) * VALUES] += message["params"]
            counts[fragment] += 1
            received += 1
            if received % AVERAGE_EVERY == 0:
                for at, count in enumerate(counts):
                    total[at * VALUES : (at + 1) * VALUES] /= count
                counts = [1] * FRAGMENTS
    context.destroy(linger=1_000)


async def send_pickled(pipe: Connection, recipients: int, fragments: int) -> None:
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
    for index in range(fragments):
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
    context.destroy(linger=60_000)


# ---- two processes


def _side(side: Side, pipe: Connection, recipients: int, fragments: int) -> None:
    import torch

    torch.set_num_threads(1)
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    asyncio.set_event_loop(loop)
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF)
    loop.run_until_complete(side(pipe, recipients, fragments))
    after = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send((time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))


def measure(receive: Side, send: Side, recipients: int, fragments: int) -> tuple[float, float]:
    """Seconds at the sender, and CPU seconds of both sides, with the start of both."""
    # Forked: the parent has loaded torch and has never used gRPC.
    forking = multiprocessing.get_context("fork")
    near, far = forking.Pipe()
    back, forth = forking.Pipe()
    receiver = forking.Process(target=_side, args=(receive, far, recipients, fragments), daemon=True)
    sender = forking.Process(target=_side, args=(send, forth, recipients, fragments), daemon=True)
    receiver.start()
    sender.start()
    for pipe, other in ((near, back),):
        assert pipe.poll(60), "the receiver did not start"
        other.send(pipe.recv())
    assert back.poll(120), "the sender did not end"
    seconds, cpu = back.recv()
    assert near.poll(60), "the receiver did not end"
    cpu += near.recv()[1]
    receiver.join(10)
    sender.join(10)
    return seconds, cpu


def marginal(receive: Side, send: Side, recipients: int, fragments: int, repeats: int = 3) -> tuple[float, float]:
    """Seconds and CPU seconds a delivered fragment without the start: the difference of a long run and a short one."""
    few = fragments // 8
    long = [measure(receive, send, recipients, fragments) for _ in range(repeats)]
    short = [measure(receive, send, recipients, few) for _ in range(repeats)]
    count = (fragments - few) * recipients
    return (
        (min(run[0] for run in long) - min(run[0] for run in short)) / count,
        (min(run[1] for run in long) - min(run[1] for run in short)) / count,
    )


def main() -> None:
    """Measure and print."""
    fragments = int(sys.argv[1]) if len(sys.argv) > 1 else 8_000
    rates = {}
    for name, receive, send in (
        ("this transport", receive_ours, send_ours),
        ("bare gRPC, asyncio", receive_bare_aio, send_bare_aio),
        ("bare gRPC, threads", receive_bare_threads, send_bare_threads),
    ):
        seconds, cpu = marginal(receive, send, 1, fragments)
        rates[name] = 1 / seconds
        print(
            f"stream of 36 kB, 1 recipient   {name:20}  {1 / seconds:8,.0f} fragments/s"
            f"  {VALUES * 4 / seconds / 1e6:7,.0f} MB/s  CPU {cpu * 1e6:6.1f} us"
        )
    bare = max(rate for name, rate in rates.items() if name.startswith("bare"))
    print(f"stream: {rates['this transport'] / bare:.0%} of bare gRPC; aim 60 %")
    _, ours_cpu = marginal(receive_ours, send_ours, RECIPIENTS, fragments // RECIPIENTS)
    _, theirs_cpu = marginal(receive_pickled, send_pickled, RECIPIENTS, fragments // RECIPIENTS)
    print(f"CPU a delivered fragment, both sides, {RECIPIENTS} recipients: this transport {ours_cpu * 1e6:.1f} us")
    print(f"  pickle over ZeroMQ {theirs_cpu * 1e6:.1f} us: {theirs_cpu / ours_cpu:.1f} times; aim 4")


if __name__ == "__main__":
    main()
