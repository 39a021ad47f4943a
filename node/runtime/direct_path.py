"""The path of a stream alone: no emulator, no shaping, receipts as the clock.

For links that something else makes: the host's own loopback, or a kernel that shapes. What each event means here:

- A message has *started* when the driver gives it to the path, which hands its frame to the peer's stream at once.
- It is *sent* when the transport has taken the whole frame and, of a sender with a bounded number of transfers, the
  links can have carried it by their declared rates, if the last messages to this peer had them for themselves; or when
  a receipt for it comes. The transport buffers, so that its last byte may leave the host later, by as much as the
  bound in flight allows. A sender that may have one transfer at a time waits for this, and then for room.
- It is *overdue* when its receipt has not come a round trip after that: somebody else uses the receiver's link as well.
  To a sender with a bounded number of transfers it is then a transfer still under way, as it is in a simulation. Such
  a sender has begun another one meanwhile, for without that every message would cost it a round trip of silence. Where
  links are shared and messages take longer than that it pays it: two transfers in the place of one would be worse.
- To a receiver that stands still on purpose it has passed when its links can have carried it: no receipt comes before
  that goes on, and the kernel of a node that stands still takes what arrives.
- It has *arrived*, by the sender's knowledge, when a receipt covers it. That is late by the way back of the receipt,
  and by the millisecond that a receipt may wait for others. The receiver records the instant itself, exactly.
- It is *lost* when its stream breaks before a receipt comes, when its peer cannot be reached, or when no receipt comes
  in time. It may have arrived all the same; the joined table then says so.
- It can be *aborted* only while its frame waits for the stream. What the transport has taken cannot be taken back, and
  counts as sent.

The sender hears of the end of a write after the receiver may have read it: where the joined table knows both, a
message was sent at its arrival at the latest. So queued <= started <= sent <= delivered holds for every message.

The bytes in flight, from the hand-over to the receipt, are bounded by the same window and from the same figures of the
network as on the emulated path.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Final, Protocol

import numpy as np

from node.core.link_bounds import RateBounds, rate_bounds
from node.core.links import NetworkPlan, entry_of_pair
from node.core.messages import Message
from node.core.types import NodeId
from node.core.units import NEVER_NS, NS_PER_MS, NS_PER_S, mbps_to_bytes_per_ns
from node.host.clock import Clock
from node.runtime.outgoing import RECEIPT_WITHIN_NS, InFlight, OutgoingFrames
from node.runtime.path import Path, PathEvents, ProbeEvents
from node.runtime.standstills import Standstills
from node.transport.frames import HEADER_BYTES
from node.transport.window import Window

FOR_EVER_NS = 30 * 86_400 * NS_PER_S
"""Real time that a receipt may take where some path carries nothing for ever."""

_DEVIATIONS: Final = 5
"""Standard deviations by which a latency may be longer and still count as no loss."""


RECEIPT_LATE_NS = 2 * NS_PER_MS
"""Testbed time by which a receipt may be late besides half a round trip: it waits for others, and the host is late."""


SHARED = 1.2
"""A link is shared with others if it takes more than so many times as long for a message as alone."""

WORTH_A_WAIT = 2
"""A message is worth waiting for its receipt if its links take so many round trips for it."""

UNEVEN = 4
"""Messages under way may take so many times as long as an even share of the slowest link would make them."""


class WritingStreams(Protocol):
    """The streams to the peers, which tell when a frame is written."""

    def send(self, peer: NodeId, frame: bytes, number: int, due_ns: int, deadline_ns: int) -> None:
        """Hand over a frame; see :class:`node.runtime.outgoing.Streams`."""

    def withdraw(self, peer: NodeId, number: int) -> bool:
        """Take a frame back that no stream has begun to write; False where it is too late."""

    def probe(self, peer: NodeId, sequence: int, sent_ns: int, padding_bytes: int, due_ns: int, number: int) -> None:
        """Hand over a probe, of which is told under ``number`` when it is written."""


class DirectPath(Path):
    """One node's path over streams.

    The owner passes on what the streams tell: :meth:`written`, :meth:`acknowledged`, :meth:`delivery_failed`.

    Args:
        node: Which node.
        network: The figures that bound the bytes in flight, and how long a receipt may take.
        clock: Testbed time before the experiment; any epoch.
        loop: Calls back.
        streams: To the peers.
        frames: Of this node's messages.
        rates: The bounds of its rates; None: those of ``network`` with its changes.

    Attributes:
        standstills: When receivers stand still on purpose. Set by the owner before anything is sent.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        network: NetworkPlan,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        streams: WritingStreams,
        frames: OutgoingFrames,
        rates: RateBounds | None = None,
    ) -> None:
        self.sender = network.sender
        self._rates = rates or rate_bounds(network, node)
        self.in_flight = InFlight(network, node, self._rates)
        self._header_bytes = network.header_bytes
        self._may_jitter_ns = _jitter_ns_max(network)
        self._num_nodes = network.num_nodes
        self._clock = clock
        self._loop = loop
        self._streams = streams
        self._frames = frames
        self._events: PathEvents | None = None  # None before begin() and after stop()
        self._probe_events: ProbeEvents | None = None
        self._started: dict[int, NodeId] = {}  # message -> receiver, until it is sent
        self._pace = _LinkPace(network, node)
        self._is_bounded = not network.sender.per_peer
        self.standstills: Mapping[NodeId, Standstills] = {}
        self._under_way: dict[int, _UnderWay] = {}  # without a receipt; of a sender with bounded transfers
        self._probes: set[int] = set()  # those not written yet

    # -- called by the driver and by a measurement -------------------------------------------------------------

    @property
    def window(self) -> Window:
        """See :class:`Path`."""
        return self.in_flight.window

    def begin(self, events: PathEvents, clock: Clock) -> None:
        """See :class:`Path`."""
        self._events, self._probe_events = events, None
        self._clock = clock
        self._probes.clear()

    def has_room(self, receiver: NodeId, message: Message) -> bool:
        """See :class:`Path`."""
        now_ns = self._clock.now_ns()
        if sum(each.overdue_ns <= now_ns for each in self._under_way.values()) >= self.sender.transfers:
            return False
        self.in_flight.follow(now_ns)
        return self.in_flight.fits(receiver, self._frames.frame_bytes(message))

    def send(self, number: int, receiver: NodeId, message: Message, ready_ns: int) -> int:
        """See :class:`Path`."""
        frame = self._frames.of(message)
        self.in_flight.add(number, receiver, len(frame))
        self._started[number] = receiver
        if self._is_bounded:
            self._under_way[number] = self._pace.of(receiver, self._frames.body_bytes(message), ready_ns)
        if (pauses := self.standstills.get(receiver)) is not None:
            self._pass_standstill(number, receiver, self._frames.body_bytes(message), pauses)
        self._streams.send(receiver, frame, number, 0, time.monotonic_ns() + self._receipt_within_ns())
        return self._wire_bytes(len(frame))

    def abort(self, number: int) -> None:
        """See :class:`Path`. Possible only while the frame waits for its stream."""
        receiver = self._started.get(number)
        if receiver is None:
            return
        if not self._streams.withdraw(receiver, number):
            if (under_way := self._under_way.get(number)) is not None:
                under_way.end_ns = under_way.begin_ns  # it has left as soon as it is written
                if under_way.is_written:
                    self._loop.call_soon(self._has_left, number)
            return
        del self._started[number]
        self._loop.call_soon(self._withdrawn, number)  # never from within: the driver is in the middle of an event

    def receivers(self) -> tuple[NodeId, ...] | None:
        """See :class:`Path`."""
        return None if len(self._started) < len(self.in_flight) else tuple(self._started.values())

    def stop(self) -> None:
        """See :class:`Path`."""
        self._events = self._probe_events = None
        for number in [*self._under_way]:
            self._forget(number)

    def measure(self, events: ProbeEvents) -> None:
        """See :class:`Path`."""
        self._probe_events = events

    def probe(self, number: int, receiver: NodeId, sequence: int, padding_bytes: int, ready_ns: int) -> None:
        """See :class:`Path`."""
        self._probes.add(number)
        self._streams.probe(receiver, sequence, 0, padding_bytes, 0, number)

    # -- called by the streams ---------------------------------------------------------------------------------

    def written(self, number: int) -> None:
        """The transport has taken a frame or a probe. May come after the frame's receipt, and then says nothing."""
        if number in self._started:
            if (under_way := self._under_way.get(number)) is not None:
                under_way.is_written = True
            if under_way is None or under_way.end_ns <= self._clock.now_ns():
                self._has_left(number)
            elif under_way.timer is None and under_way.end_ns != NEVER_NS:
                due_s = self._clock.monotonic_ns(under_way.end_ns) / NS_PER_S
                under_way.timer = self._loop.call_at(due_s, self._has_left, number)
        elif number in self._probes:
            self._probes.remove(number)
            if self._probe_events is not None:
                self._probe_events.probe_sent(number, self._clock.now_ns())

    def acknowledged(self, number: int) -> None:
        """A receipt covers a frame. May come before the end of its write is told."""
        self.in_flight.remove(number)
        if self._is_bounded and (under_way := self._under_way.get(number)) is not None:
            self._pace.learn(under_way, self._clock.now_ns())
        self._forget(number)
        self._has_left(number)
        if self._events is not None:
            self._events.arrived(number, self._clock.now_ns())

    def delivery_failed(self, number: int, frame_bytes: int) -> None:
        """A frame was handed to a stream that broke, or its receiver cannot be reached."""
        self.in_flight.remove(number)
        self._forget(number)
        has_left = self._started.pop(number, None) is None
        if self._events is not None:
            self._events.lost(number, self._wire_bytes(frame_bytes) if has_left else 0, self._clock.now_ns())

    # ----------------------------------------------------------------------------------------------------------

    def _pass_standstill(self, number: int, receiver: NodeId, body_bytes: int, pauses: Standstills) -> None:
        """Count a message as arrived when its links can have carried it, if its receiver stands still then."""
        now_ns = self._clock.now_ns()
        expected = self._pace.alone(receiver, body_bytes, now_ns)
        if pauses.runs_from(expected.end_ns) == expected.end_ns:
            return
        if number in self._under_way:
            self._under_way[number] = expected

        def passed() -> None:
            self.in_flight.remove(number)
            self._has_left(number)
            if self._events is not None:
                self._events.room(self._clock.now_ns())

        if expected.end_ns != NEVER_NS:
            self._loop.call_at(self._clock.monotonic_ns(expected.end_ns) / NS_PER_S, passed)

    def _has_left(self, number: int) -> None:
        if self._started.pop(number, None) is not None and self._events is not None:
            self._events.sent(number, self._clock.now_ns())

    def _forget(self, number: int) -> None:
        under_way = self._under_way.pop(number, None)
        if under_way is not None and under_way.timer is not None:
            under_way.timer.cancel()

    def _withdrawn(self, number: int) -> None:
        self.in_flight.remove(number)
        self._forget(number)
        if self._events is not None:
            self._events.aborted(number, 0, self._clock.now_ns())

    def _wire_bytes(self, frame_bytes: int) -> int:
        """Return the bytes as the experiment counts them: with its own header in the place of the frame's."""
        return frame_bytes - HEADER_BYTES + self._header_bytes

    def queues_ns(self) -> int:
        """Real time that what is under way may take before anything else moves, handshakes included.

        All nodes' bounds may be ahead on the slowest link, and TCP neither shares it evenly nor without repetition; and
        what waits may meet every standstill of the run.
        """
        slowest_mbps, standstill_ns = self._rates.slowest_mbps, self._rates.standstill_ns
        if standstill_ns is None:
            return FOR_EVER_NS
        testbed_ns = float(standstill_ns)
        if slowest_mbps is not None:
            testbed_ns += UNEVEN * self._num_nodes * self.window.bound_bytes_max / mbps_to_bytes_per_ns(slowest_mbps)
        return min(FOR_EVER_NS, int(testbed_ns * self._clock.dilation))

    def _receipt_within_ns(self) -> int:
        """Real time until a frame counts as lost, with both ways as long as they ever are."""
        ways_ns = self.in_flight.round_trip_ms_max * NS_PER_MS + _DEVIATIONS * self._may_jitter_ns
        return RECEIPT_WITHIN_NS + self.queues_ns() + int(ways_ns * self._clock.dilation)


@dataclass(slots=True)
class _UnderWay:
    """A message without a receipt; testbed time.

    Attributes:
        receiver: Its receiver.
        begin_ns: When it began.
        alone_ns: How long its links take for it alone; 0 where that is not known.
        end_ns: When its last byte can have passed its links; never where only a receipt tells.
        overdue_ns: When its receipt should have come; never likewise.
        is_written: The transport has taken it.
        timer: Tells that it has left, once it is written and where its end is known.
    """

    receiver: NodeId
    begin_ns: int
    alone_ns: int
    end_ns: int
    overdue_ns: int
    is_written: bool = False
    timer: asyncio.TimerHandle | None = None


class _LinkPace:
    """The pace of a node's messages: when they can have passed their links, if nobody else uses them.

    A link that others use carries a message in a multiple of the time that it would take alone. The last messages to a
    peer tell this multiple, and whether an end can be foretold at all.

    Args:
        network: At first: a node is not told of changes. Where links are slower now, its messages take longer.
        node: The sender.

    State:
        _multiples: By receiver.
    """

    def __init__(self, network: NetworkPlan, node: int) -> None:
        self._network = network
        self._node = node
        self._multiples: dict[NodeId, float] = {}

    def of(self, receiver: NodeId, body_bytes: int, begin_ns: int) -> _UnderWay:
        """Return what is expected of a message that begins at a time."""
        mbps = self._mbps(receiver)
        if not isfinite(mbps):
            return _UnderWay(receiver, begin_ns, 0, begin_ns, NEVER_NS)
        # A link that stands still at first may not do so any more.
        alone_ns = round(self._network.link_bytes(body_bytes) / mbps_to_bytes_per_ns(mbps)) if mbps else 0
        end_ns, round_trip_ns = begin_ns + alone_ns, self._round_trip_ns(receiver, begin_ns)
        if self._multiples.get(receiver, 1.0) > SHARED and alone_ns >= WORTH_A_WAIT * round_trip_ns:
            return _UnderWay(receiver, begin_ns, alone_ns, NEVER_NS, NEVER_NS)
        overdue_ns = end_ns + round_trip_ns + round_trip_ns // 2 + RECEIPT_LATE_NS
        return _UnderWay(receiver, begin_ns, alone_ns, end_ns, overdue_ns)

    def alone(self, receiver: NodeId, body_bytes: int, begin_ns: int) -> _UnderWay:
        """Return what is expected of a message whose receipt is not waited for."""
        expected = self.of(receiver, body_bytes, begin_ns)
        return replace(expected, end_ns=begin_ns + expected.alone_ns, overdue_ns=NEVER_NS)

    def learn(self, message: _UnderWay, now_ns: int) -> None:
        """Take in that the receipt of a message has come."""
        if message.alone_ns:
            took_ns = now_ns - message.begin_ns - self._round_trip_ns(message.receiver, message.begin_ns)
            known = self._multiples.get(message.receiver, 1.0)
            self._multiples[message.receiver] = (known + max(1.0, took_ns / message.alone_ns)) / 2

    def _mbps(self, receiver: NodeId) -> float:
        network, node = self._network, self._node
        mbps = min(float(network.up_mbps[node]), float(network.down_mbps[receiver]))
        return mbps if network.pair_mbps is None else min(mbps, float(network.pair_mbps[node, receiver]))

    def _round_trip_ns(self, receiver: NodeId, at_ns: int) -> int:
        network, node = self._network, self._node
        if not network.overlays:
            return int(entry_of_pair(network.round_trip_ns, node, receiver))
        return network.path(node, receiver, at_ns).latency_ns + network.path(receiver, node, at_ns).latency_ns


def _jitter_ns_max(network: NetworkPlan) -> float:
    """The most that the standard deviation of any latency ever is."""
    laid_over = (overlay.jitter_ns for steps in network.overlays.values() for overlay in steps.values)
    return float(np.max(network.jitter_ns)) + sum(sorted(laid_over)[-3:])  # on an uplink, a downlink, and a pair
