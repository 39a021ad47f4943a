"""A node that only receives, as a process of its own: ``python -m tests.integration.transport_peer PORT``.

It says where it listens, and then the number of every message that it gets.
"""

import asyncio
import selectors
import sys

from node.transport.peer_server import Arrival, PeerServer, ProbeInfo
from tests.integration.test_transport import RUN, WIRE, NodeId


async def main() -> None:
    def on_message(arrival: Arrival) -> None:
        print(arrival.number, flush=True)

    def on_probe(_sender: NodeId, _probe: ProbeInfo) -> None: ...

    server = PeerServer(NodeId(1), RUN, WIRE, 1_000, on_message, on_probe)
    print(await server.start("127.0.0.1", int(sys.argv[1])), flush=True)
    await asyncio.sleep(60)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(main())
