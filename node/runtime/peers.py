"""A node's traffic with its peers, connected: a server, a client, and the path that the driver sends on.

The one place that knows which kinds of path there are. Everything that differs between them is here and in their own
files: what they are made of, who tells them what, and what is closed at the end.
"""

import asyncio
from collections.abc import Callable
from socket import socket

import numpy as np

from node.config import NodeConfig
from node.core.algorithm import Algorithm
from node.core.errors import TransportError
from node.core.events import PeerDown, PeerUp
from node.core.link_bounds import round_trip_ns_max
from node.core.rng import stream
from node.core.types import NodeId
from node.core.units import NS_PER_MS, NS_PER_S
from node.emulation.uplink import EmulatedUplink
from node.host.clock import Clock
from node.runtime.direct_path import DirectPath
from node.runtime.emulated_path import RECEIPTS_WITHIN_MS, EmulatedPath
from node.runtime.link_measurement import on_ring
from node.runtime.outgoing import UNLIMITED_MBPS, InFlight, OutgoingFrames
from node.runtime.standstills import peers_standstills
from node.transport.arrival_delays import ArrivalDelays
from node.transport.control_values import some_nodes
from node.transport.frames import HEADER_BYTES, RejectReason, WireContext, plan_id
from node.transport.peer_client import EchoInfo, PeerClient
from node.transport.peer_server import Arrival, PeerServer, ProbeInfo

QUEUE_FRAMES_MIN = 64
"""Frames of one peer that may wait for their due instant, at least; more where the links hold more."""

OPENING = (1 << 64) - 1
"""Number of the probe that opens a stream; it is answered at once."""

OPEN_AGAIN_S = 5.0
"""After so long without an answer an opening probe is sent again, real time."""

OPENED_AT_ONCE = 8
"""Streams that a node opens at the same time. Sixty nodes that open all theirs at once, with a handshake each, keep
each other from answering in time, and begin again."""

STREAMS_OPENED_MAX = 128
"""Streams that are opened before the start, at most; others when they are needed first."""

WINDOWS = 4
"""Messages that gRPC may buffer a stream."""


class Peers:
    """One node's traffic.

    Args:
        config: The node.
        algorithm: Says which messages may arrive.
        emulator: The node's end of the socket to the link emulator; None where links are direct.
        loop: The running loop.
        on_message: Called with every message that arrives.
        on_probe: Called with every probe but opening ones.
        on_emulator_gone: Called once if the emulator's end closes.

    Attributes:
        plan_id: Number of what all nodes must agree on.
        message_bytes: The largest message, header included.
        server, client: The streams in both directions.
        path: The way to the peers.
    """

    def __init__(
        self,
        config: NodeConfig,
        algorithm: Algorithm,
        emulator: socket | None,
        loop: asyncio.AbstractEventLoop,
        *,
        on_message: Callable[[Arrival], None],
        on_probe: Callable[[NodeId, ProbeInfo], None],
        on_emulator_gone: Callable[[], None],
    ) -> None:
        # Step 1: the sizes that both directions are bounded by.
        self.plan_id = plan_id(config.tensor_sizes, config.seed, algorithm.fragments)
        self.message_bytes = _largest_message_bytes(config, algorithm)
        self._config = config
        self._neighbors = algorithm.context.neighbors
        self._loop = loop
        self._on_probe = on_probe
        self._unopened: set[NodeId] = set()  # peers whose stream is to be opened and is not yet
        window_bytes = WINDOWS * self.message_bytes
        # Step 2: both directions of the transport. The client calls the path back, which does not exist yet: it does so
        # only after something was sent, and nothing is before the path is there.
        self.server = PeerServer(
            config.node,
            config.run_id,
            _wire_context(config, algorithm, self.plan_id),
            _queue_frames_max(config, self.message_bytes),
            on_message,
            self._take_probe,
            window_bytes,
            config.credentials,
        )
        if config.delays_arrivals:
            dilation = config.emulator_clock.dilation
            self.server.delays = ArrivalDelays(config.network, config.node, config.seed, dilation)
        self.client = PeerClient(
            config.node,
            config.run_id,
            self.plan_id,
            on_acknowledged=lambda peer, number, size: self.path.acknowledged(number),
            on_lost=lambda peer, number, size, reason: self.path.delivery_failed(number, size),
            on_echo=self._take_echo,
            rng=stream(config.seed, "back-off", config.node),
            window_bytes=window_bytes,
        )
        self.client.credentials = config.credentials
        self.client.life = config.beginning.life
        self.server.on_greeting = self.client.greeted
        # Step 3: the path over the client, which comes last because it sends.
        self._uplink: EmulatedUplink | None = None
        self.path: EmulatedPath | DirectPath
        frames = OutgoingFrames(config.node, self.plan_id, config.dtype, config.num_params)
        if emulator is None:
            self.path = self._direct_path(frames)
        else:
            self.path, self._uplink = self._emulated_path(frames, emulator, on_emulator_gone)

    def _direct_path(self, frames: OutgoingFrames) -> DirectPath:
        """Make the path over the streams alone; the client tells it which messages are written."""
        path = DirectPath(
            node=self._config.node,
            network=self._config.network,
            clock=self._config.emulator_clock,
            loop=self._loop,
            streams=self.client,
            frames=frames,
            rates=self._config.rates,
        )
        path.standstills = peers_standstills(self._config.pauses)
        self.client.on_written = lambda peer, number: path.written(number)
        self.client.queues_s = lambda: path.queues_ns() / NS_PER_S
        return path

    def _emulated_path(
        self, frames: OutgoingFrames, emulator: socket, on_gone: Callable[[], None]
    ) -> tuple[EmulatedPath, EmulatedUplink]:
        """Make the path that the link emulator shapes, and the uplink that tells it which transfers have ended."""
        # The uplink calls the path back, which does not exist yet: it does so only once it is open.
        uplink = EmulatedUplink(
            emulator,
            self._loop,
            on_finished=lambda number, finish_ns: path.transfer_ended(number, finish_ns),
            on_aborted=lambda number, sent_bytes: path.transfer_aborted(number, sent_bytes),
            on_gone=on_gone,
        )
        self.client.receipts_within_ms = RECEIPTS_WITHIN_MS
        path = EmulatedPath(
            node=self._config.node,
            network=self._config.network,
            seed=self._config.seed,
            emulator_clock=self._config.emulator_clock,
            loop=self._loop,
            uplink=uplink,
            streams=self.client,
            frames=frames,
        )
        path.in_flight = InFlight(self._config.network, self._config.node, self._config.rates)
        path.receipt_within_ns += int(self._config.pause_ns * self._config.emulator_clock.dilation)
        return path, uplink

    @property
    def rejected(self) -> dict[str, int]:
        """Messages dropped, by the reason's name."""
        return {reason.value: times for reason, times in self.server.rejected.items()}

    def reject(self, sender: NodeId) -> None:
        """Count a message that the algorithm refused."""
        self.server.reject(sender, RejectReason.ALGORITHM, "of no use to the algorithm now")

    async def listen(self) -> str:
        """Serve the peers, and hear the emulator from here on.

        Returns:
            The address for peers, host:port.

        Raises:
            TransportError: It cannot be bound.
        """
        if self._uplink is not None:
            self._uplink.open()
        config = self._config
        return await self.server.start(config.host, config.port, config.advertised)

    async def come_back(self) -> None:
        """Serve the peers at the address that they know, and open streams to those neighbors that are there.

        Raises:
            TransportError: The address cannot be bound.
        """
        await self.listen()
        for peer in self._to_open():
            self.client.probe(peer, OPENING, 0, 0, 0)

    async def open_streams(self, within_s: float) -> None:
        """Open the streams to the neighbors, so that no message of the experiment has to wait for a connection.

        Args:
            within_s: Real time that it may take.

        Raises:
            TransportError: A neighbor did not answer in time.
        """
        self._unopened = self._to_open()
        until_s = self._loop.time() + within_s
        asked: dict[NodeId, float] = {}  # the peers whose answer is waited for, and since when
        while self._unopened:
            now_s = self._loop.time()
            if now_s >= until_s:
                missing = sorted(self._unopened)
                why = self.client.troubles.get(missing[0], "no answer")
                raise TransportError(f"{some_nodes(missing)} cannot be reached ({missing[0]}: {why})")
            asked = {peer: since_s for peer, since_s in asked.items() if peer in self._unopened}
            # Each node begins with the one after itself: nobody is asked by all at once.
            others = sorted(self._unopened - asked.keys(), key=lambda peer: (peer < self._config.node, peer))
            again = [peer for peer, since_s in asked.items() if now_s - since_s >= OPEN_AGAIN_S]
            for peer in [*again, *others[: OPENED_AT_ONCE - len(asked)]]:
                asked[peer] = now_s
                self.client.probe(peer, OPENING, 0, 0, 0)
            await asyncio.sleep(0.01)

    def begin(self, clock: Clock) -> None:
        """Take the experiment's clock, once the common start is known, so that delays are those of its time."""
        if self.server.delays is not None:
            self.server.delays.begin(clock, self._config.begin_ns)

    def watch(self, on_news: Callable[[PeerDown | PeerUp], None]) -> None:
        """Tell of neighbors that cannot be reached any more, first of those that cannot be now, or can be again."""
        neighbors = frozenset(self._neighbors)

        def tell(peer: NodeId, is_there: bool) -> None:
            if peer in neighbors:
                on_news(PeerUp(peer) if is_there else PeerDown(peer))

        self.client.on_peer = tell
        for peer in sorted(self.client.unreachable):
            tell(peer, False)

    async def close(self) -> None:
        """End all traffic."""
        if self._uplink is not None:
            self._uplink.close()
        await self.client.close()
        await self.server.stop(0.2)

    def _to_open(self) -> set[NodeId]:
        to_open: set[NodeId] = {*self._neighbors[:STREAMS_OPENED_MAX]}
        if self._config.network.num_nodes > 1:
            # The links are measured along this ring, and answers come back.
            to_open |= {*on_ring(self._config.network, self._config.node)}
        return to_open

    def _take_probe(self, sender: NodeId, probe: ProbeInfo) -> None:
        if probe.sequence == OPENING:
            self.server.echo(sender, probe.sequence, probe.sent_ns, 0)
        else:
            self._on_probe(sender, probe)

    def _take_echo(self, peer: NodeId, echo: EchoInfo) -> None:
        if echo.sequence == OPENING:
            self._unopened.discard(peer)


def _largest_message_bytes(config: NodeConfig, algorithm: Algorithm) -> int:
    """The largest message on the wire."""
    plan = algorithm.fragments
    values = config.num_params if plan is None else max(np.diff(plan.bounds).tolist())
    return HEADER_BYTES + values * config.dtype.value_bytes


def _wire_context(config: NodeConfig, algorithm: Algorithm, number: int) -> WireContext:
    """Return the expectations that arriving frames must meet."""
    plan = algorithm.fragments
    others = frozenset(NodeId(peer) for peer in range(config.network.num_nodes) if peer != config.node)
    return WireContext(
        plan_id=number,
        num_params=config.num_params,
        fragment_sizes=() if plan is None else tuple(np.diff(plan.bounds).tolist()),
        senders=others,
        carries=algorithm.carries,
        dtype=config.dtype,
    )


def _queue_frames_max(config: NodeConfig, message_bytes: int) -> int:
    """Frames that one peer may rightly have on their way to here: its bound in flight, in small messages."""
    network = config.network
    round_trip_ms = float(np.max(round_trip_ns_max(network))) / NS_PER_MS
    most_mbps = UNLIMITED_MBPS if config.rates.fastest_mbps is None else config.rates.fastest_mbps
    in_path = min(UNLIMITED_MBPS, most_mbps) * 1e3 / 8 * round_trip_ms / max(1, message_bytes)
    return QUEUE_FRAMES_MIN + int(2 * in_path) + 2 * network.sender.transfers
