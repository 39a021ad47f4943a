"""Rates and round trips of a node's links, measured before the experiment through the path that messages will take.

Each node measures the path to one peer, the next one by number, while it trains as it will in the experiment: so every
uplink and every downlink is used by one flow, and the rate that each should have is known. Small probes are echoed and
give the round trip; large ones, back to back, give the rate, which the receiver measures. Where a kernel makes the
links, two large probes follow, each after a pause and answered by a small one: a message of the experiment shows what
its transport costs besides, and a tenth of a second of the link's rate how much the link lets through at once.

Loss is left out: a lost probe would say nothing about rate or latency. Where a path draws jitter, it does so from
streams of its own for probes, so that a measurement changes nothing in the experiment.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from statistics import linear_regression

from node.core.links import NetworkPlan, entry_of_pair
from node.core.schedule import is_cut
from node.core.types import NodeId
from node.core.units import NS_PER_MS, NS_PER_S, mbps_to_bytes_per_ns
from node.host.clock import Clock
from node.runtime.path import PROBE_BYTES, Path

FIRST_NUMBER = 1 << 62
"""Transfers of a measurement are numbered from here, messages of the experiment from 0."""

ANSWERS = 1 << 32
"""Answers to small probes are probes themselves, numbered from here."""

ROUND_TRIP_SHARE = 0.4
"""Part of the time that is spent on round trips; the rest goes to the rate."""

PROBES = 30
"""Round trips, at most."""

LARGE_PROBE_NS = 5 * NS_PER_MS
"""Minimum transmission time of a rate probe. Smaller probes would measure the host's cost per message instead of the
link's rate; during the experiment that cost shows as lateness.
"""

ANSWERED = 1 << 31
"""Large probes that are answered are numbered from here, in this order: a message, then a burst."""

MESSAGE_SHARE = 0.15
"""Part of the time that the answered message may take on the link; a longer one is made smaller."""

BURST_NS = 100 * NS_PER_MS
"""The time at the link's rate that the burst holds."""

BURST_BYTES_MAX = 1_000_000
"""Longest burst; what is longer, a receiver might take for an attack."""

PAUSE_NS = 50 * NS_PER_MS
"""Pause before an answered probe, in which what a link has saved up is saved up again."""

OFFERED = 1.2
"""Rate at which large probes are offered to a transport that buffers, by the link's: a timer that is late must not
leave the link idle, and a probe has less framing than a message. The rest waits in a queue, which holds a quarter of a
second and is empty again before anything else is measured.
"""

DRAIN_SHARE = 0.2
"""Part of the time in which the queue of large probes is surely empty again: more than was offered too much."""

CATCH_UP_NS = 100 * NS_PER_MS
"""Time for which offering may lag behind and still catch up, by less than a queue holds."""

SAVED_SHARE = 0.25
"""Part of the large probes, the first ones, that does not count: a link lets through at once what it has saved up."""

RATE_PROBES_MIN = 10
"""Large probes in a measurement of the rate, at least: they are made smaller where a message is too large for that."""


@dataclass(slots=True)
class Result:
    """Measurements of one node.

    Attributes:
        peer: The node to which the path leads whose round trips were measured.
        sent_probes: How many were sent.
        round_trips_ms: Testbed time of each that was answered.
        received_from: The node whose large probes arrived here; -1 for none.
        received_mbps: At what rate; None if too few arrived.
        received_bytes: Size of each of them, the mean; 0 for none.
        answered_bytes: Sizes of the large probes that were to be answered: a message and a burst; empty where links are
            not a kernel's, or have no rate.
        answered_ms: Testbed time from the wish to send each to its answer; None where none came.
    """

    peer: int
    sent_probes: int = 0
    round_trips_ms: list[float] = field(default_factory=list)
    received_from: int = -1
    received_mbps: float | None = None
    received_bytes: float = 0.0
    answered_bytes: list[int] = field(default_factory=list)
    answered_ms: list[float | None] = field(default_factory=list)


def on_ring(network: NetworkPlan, node: int) -> tuple[NodeId, NodeId]:
    """Return the nodes before and after a node on the ring along which links are measured.

    Nodes of like links follow each other, so that each profile of links is measured where there are two nodes of it.
    """
    up, down = network.up_mbps.tolist(), network.down_mbps.tolist()
    order = sorted(range(network.num_nodes), key=lambda each: (up[each], down[each], each))
    place = order.index(node)
    return NodeId(order[place - 1]), NodeId(order[(place + 1) % len(order)])


class Measurement:
    """One node's measurement, and its answers to the peer that measures towards it.

    Args:
        node: Which node.
        network: Requested rates and latencies.
        clock: Testbed time; any epoch.
        path: What is measured; :meth:`probe_sent` is to be told of its probes.
        message_bytes: The size of the experiment's messages.
        times_messages: Whether a message and a burst are timed as well: where a kernel makes the links.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        network: NetworkPlan,
        clock: Clock,
        path: Path,
        message_bytes: int,
        times_messages: bool = False,
    ) -> None:
        self._node = node
        self._network = network
        self._clock = clock
        self._path = path
        self._message_bytes = message_bytes
        self._times_messages = times_messages
        self._next_number = FIRST_NUMBER
        self._then: dict[int, Callable[[int], None]] = {}  # large probe -> what follows when it has left
        self._arrived: list[tuple[int, int]] = []  # (monotonic clock, bytes) of large probes
        self._wanted_ns: dict[int, int] = {}  # round-trip probe -> when it was wanted, monotonic clock
        self.result = Result(peer=on_ring(network, node)[1])

    async def run(self, duration_ns: int) -> Result:
        """Measure for so much testbed time, and some round trips longer.

        What arrives is answered from the moment this object exists.
        """
        peer = NodeId(self.result.peer)
        round_trip_ns = int(entry_of_pair(self._network.round_trip_ns, self._node, peer))
        gap_ns = max(5 * NS_PER_MS, int(ROUND_TRIP_SHARE * duration_ns / PROBES))
        # Nodes begin together; their probes need not be there at the same instant.
        begin_ns = self._clock.now_ns() + gap_ns * self._node // self._network.num_nodes
        for sequence in range(max(1, int(ROUND_TRIP_SHARE * duration_ns / gap_ns))):
            await self._until(begin_ns + sequence * gap_ns)
            self._send_probe(peer, sequence)
        await self._until(begin_ns + int(ROUND_TRIP_SHARE * duration_ns) + round_trip_ns)
        mbps = requested_mbps(self._network, self._node, peer)
        if 0 < mbps < inf:
            self._send_large(peer, mbps, self._clock.now_ns(), begin_ns + duration_ns + round_trip_ns)
        await self._until(begin_ns + duration_ns + 2 * round_trip_ns)
        await asyncio.sleep(0.2)  # what the host is late by
        self._conclude()
        if self._times_messages and 0 < mbps < inf:
            await self._until(self._clock.now_ns() + int(DRAIN_SHARE * duration_ns))
            bytes_per_ns = mbps_to_bytes_per_ns(mbps)
            message = min(self._message_bytes, int(bytes_per_ns * MESSAGE_SHARE * duration_ns))
            for size in (message, min(int(bytes_per_ns * BURST_NS), BURST_BYTES_MAX)):
                await self._time_probe(peer, max(1, size), int(size / bytes_per_ns) + round_trip_ns)
        return self.result

    async def _time_probe(self, peer: NodeId, size: int, takes_ns: int) -> None:
        """Send one large probe after a pause and wait for its answer, for twice as long as it should take."""
        await self._until(self._clock.now_ns() + PAUSE_NS)
        answered, sequence = self.result.answered_ms, ANSWERED + len(self.result.answered_ms)
        self.result.answered_bytes.append(size)
        answered.append(None)
        begin_ns = self._clock.now_ns()
        self._wanted_ns[sequence] = time.monotonic_ns()
        self._probe(peer, sequence, size, begin_ns)
        until_ns = begin_ns + 2 * takes_ns
        while answered[-1] is None and self._clock.now_ns() < until_ns:
            await self._until(min(until_ns, self._clock.now_ns() + max(NS_PER_MS, takes_ns // 20)))
        if answered[-1] is None:
            await asyncio.sleep(0.2)  # what the host is late by

    async def _until(self, time_ns: int) -> None:
        await asyncio.sleep(max(0.0, (self._clock.monotonic_ns(time_ns) - time.monotonic_ns()) / NS_PER_S))

    def _probe(self, receiver: NodeId, sequence: int, padding_bytes: int, ready_ns: int) -> int:
        number, self._next_number = self._next_number, self._next_number + 1
        self._path.probe(number, receiver, sequence, padding_bytes, ready_ns)
        return number

    def probe_sent(self, number: int, at_ns: int) -> None:
        """See :class:`node.runtime.path.ProbeEvents`."""
        then = self._then.pop(number, None)
        if then is not None:
            then(at_ns)

    # -- probes that are answered ------------------------------------------------------------------------------

    def _send_probe(self, peer: NodeId, sequence: int) -> None:
        wanted_ns = self._clock.now_ns()
        self._wanted_ns[sequence] = time.monotonic_ns()
        self.result.sent_probes += 1
        self._probe(peer, sequence, 0, wanted_ns)

    def probe_arrived(self, sender: NodeId, sequence: int, padding_bytes: int) -> None:
        """A probe is due here: count a large one, answer a small one or one that asks for it, take an answer.

        An answer goes the way of a message, as the probe did.
        """
        if padding_bytes and sequence < ANSWERED:
            self.result.received_from = sender
            self._arrived.append((time.monotonic_ns(), padding_bytes))
            return
        if sequence >= ANSWERS:
            self._answered(sequence - ANSWERS)
            return
        self._probe(sender, ANSWERS + sequence, 0, self._clock.now_ns())

    def _answered(self, sequence: int) -> None:
        wanted_ns = self._wanted_ns.pop(sequence, None)
        if wanted_ns is None:
            return
        took_ms = (time.monotonic_ns() - wanted_ns) / self._clock.dilation / NS_PER_MS
        if sequence >= ANSWERED:
            self.result.answered_ms[sequence - ANSWERED] = took_ms
        else:
            self.result.round_trips_ms.append(took_ms)

    # -- rate ------------------------------------------------------------------------------------------------

    def _send_large(self, peer: NodeId, mbps: float, ready_ns: int, until_ns: int) -> None:
        """One large probe, and the next one when it has left."""
        bytes_per_ns = mbps_to_bytes_per_ns(mbps)
        size = max(self._message_bytes, int(bytes_per_ns * LARGE_PROBE_NS))
        size = min(size, max(1_500, int(bytes_per_ns * (until_ns - ready_ns) / RATE_PROBES_MIN)))
        self._send_next_large(peer, size, ready_ns, until_ns, int(size / bytes_per_ns / OFFERED))

    def _send_next_large(self, peer: NodeId, size: int, ready_ns: int, until_ns: int, takes_ns: int) -> None:
        if ready_ns >= until_ns:
            return
        number = self._probe(peer, 0, size, self._clock.now_ns() if self._times_messages else ready_ns)

        def follow(at_ns: int) -> None:
            # A transport that buffers takes a probe sooner than the link carries it. Much more than the link carries
            # would fill its queue, which the experiment would then find full. A host that is late catches up.
            next_ns = max(ready_ns + takes_ns, at_ns - (CATCH_UP_NS if self._times_messages else 0))
            if next_ns - at_ns < NS_PER_MS:
                self._send_next_large(peer, size, next_ns, until_ns, takes_ns)
                return
            asyncio.get_running_loop().call_later(
                (next_ns - at_ns) * self._clock.dilation / NS_PER_S,
                lambda: self._send_next_large(peer, size, next_ns, until_ns, takes_ns),
            )

        self._then[number] = follow

    def _conclude(self) -> None:
        if len(self._arrived) < 3:
            return
        arrived = sorted(self._arrived)[int(SAVED_SHARE * len(self._arrived)) :]
        times_ns = [at_ns - arrived[0][0] for at_ns, _ in arrived]
        if times_ns[-1] == 0:
            return
        self.result.received_bytes = sum(size for _, size in arrived) / len(arrived)
        # All arrivals count, not the two at the ends: on a slow link those of one packet come together.
        bytes_per_ns = linear_regression(times_ns, list(accumulate(size for _, size in arrived))).slope
        self.result.received_mbps = bytes_per_ns * 8_000 * self._clock.dilation


def requested_mbps(network: NetworkPlan, source: int, destination: int) -> float:
    """The rate of a path that nothing else uses, Mbit/s; inf is unlimited, 0 where a partition cuts it."""
    if is_cut(network.partitions, source, destination):
        return 0.0
    pair = inf if network.pair_mbps is None else float(network.pair_mbps[source, destination])
    return min(float(network.up_mbps[source]), float(network.down_mbps[destination]), pair)


def requested_round_trip_ms(network: NetworkPlan, source: int, destination: int) -> float:
    """Latency there and back, and the transmission of a probe and its echo, milliseconds."""
    total_ns = float(entry_of_pair(network.round_trip_ns, source, destination))
    for one, other in ((source, destination), (destination, source)):
        mbps = requested_mbps(network, one, other)
        if 0 < mbps < inf:
            total_ns += PROBE_BYTES / mbps_to_bytes_per_ns(mbps)
    return total_ns / NS_PER_MS
