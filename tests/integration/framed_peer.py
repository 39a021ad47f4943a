"""One end of a real stream between two nodes, as a process of its own that lives in a network namespace.

``python -m tests.integration.framed_peer receive KEYS`` says where it listens. ``... send KEYS ADDRESS`` takes lines
``FRAGMENT COUNT`` and sends such messages, each when a receipt covers the one before; it answers when all are covered.
KEYS is a file with this node's credentials, or ``-``.
"""

import asyncio
import selectors
import sys
from pathlib import Path

import numpy as np

from node.core.messages import frozen
from node.core.types import NodeId
from node.host.credentials import Credentials, credentials_of, node_name
from node.transport.frames import WireContext, encode
from node.transport.peer_client import EchoInfo, PeerClient
from node.transport.peer_server import Arrival, PeerServer, ProbeInfo
from tests.messages import CARRIES, Kind, make_message

RUN, PLAN = "framed", 7
BODIES = (56, 256, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 10_000_000)
"""Bytes of the fragments that can be sent."""
SENDER, RECEIVER = NodeId(0), NodeId(1)
PORT = 5_999


def _keys(path: str, node: NodeId) -> Credentials | None:
    return None if path == "-" else credentials_of(Path(path), Path(path).read_bytes(), node_name(RUN, node))


async def receive(keys: str) -> None:
    sizes = tuple(body // 4 for body in BODIES)
    wire = WireContext(PLAN, sum(sizes), sizes, frozenset((SENDER,)), CARRIES, round_max=10)

    def on_message(_arrival: Arrival) -> None: ...

    def on_probe(_sender: NodeId, _probe: ProbeInfo) -> None: ...

    server = PeerServer(RECEIVER, RUN, wire, 1_000, on_message, on_probe, credentials=_keys(keys, RECEIVER))
    print(await server.start("0.0.0.0", PORT), flush=True)
    await asyncio.Event().wait()


async def send(keys: str, address: str) -> None:
    covered = asyncio.Event()

    def on_acknowledged(_peer: NodeId, _number: int, _frame_bytes: int) -> None:
        covered.set()

    def on_lost(_peer: NodeId, number: int, _frame_bytes: int, reason: str) -> None:
        sys.exit(f"message {number} is lost: {reason}")

    def on_echo(_peer: NodeId, _echo: EchoInfo) -> None: ...

    client = PeerClient(SENDER, RUN, PLAN, on_acknowledged, on_lost, on_echo, np.random.default_rng(0))
    client.credentials = _keys(keys, SENDER)
    client.set_addresses({RECEIVER: address})
    number = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        fragment, count = map(int, line.split())
        values = frozen(np.random.default_rng(fragment).random(BODIES[fragment] // 4, dtype=np.float32))
        frame = encode(make_message(Kind.FRAGMENT, 1, values, fragment), SENDER, PLAN)
        for _ in range(count):
            covered.clear()
            client.send(RECEIVER, frame, number)
            number += 1
            await covered.wait()
        print(client.frames_rejected, flush=True)
    await client.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(send(*sys.argv[2:]) if sys.argv[1] == "send" else receive(*sys.argv[2:]))
