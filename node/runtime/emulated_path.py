"""The path through the link emulator: the only file of a real node that knows that links are emulated.

How one message travels:

1. The emulator is asked for a transfer (:class:`Uplink`): it shares the rates between all nodes and tells the exact
   instant at which the last byte left. That instant is when the message counts as sent.
2. The delivery model draws latency, jitter and loss. A message that is lost goes no further.
3. The frame goes to the peer's stream with the instant at which it is due, and the receiver holds it until then. So
   the host's own delays are hidden up to the latency. From that instant on the message is no longer in flight: nobody
   has to be told, and nobody is woken up unless the window holds a message back.
4. A receipt confirms it, together with many others (:data:`RECEIPTS_WITHIN_MS`). A stream that breaks before loses the
   message.

The emulator's time began before the experiment's. The path translates, so that neither the driver nor a measurement
knows of it.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Protocol

from node.core.delivery import DeliveryModel
from node.core.links import NetworkPlan
from node.core.messages import Message
from node.core.types import NodeId
from node.core.units import NS_PER_S
from node.host.clock import Clock
from node.runtime.outgoing import RECEIPT_WITHIN_NS, InFlight, OutgoingFrames, Streams
from node.runtime.path import PROBE_BYTES, Path, PathEvents, ProbeEvents
from node.transport.frames import HEADER_BYTES
from node.transport.window import Window

RECEIPTS_WITHIN_MS = 1_000
"""Lateness allowed to a receipt: nothing waits for it but the forgetting of the frame."""

_PROBE_SEED = 0x6D65_6173
"""Keeps the jitter of probes apart from the experiment's, so that a measurement changes nothing in it."""


class Uplink(Protocol):
    """The way out of a node, shaped by the emulator. Times are the emulator's."""

    def start(self, number: int, receiver: int, wire_bytes: int, ready_ns: int) -> None:
        """Begin a transfer that could have begun at ``ready_ns``; its end is told to :class:`EmulatedPath`."""

    def abort(self, number: int) -> None:
        """Give a transfer up."""


@dataclass(slots=True)
class _MessageTransfer:
    receiver: NodeId
    message: Message
    wire_bytes: int


@dataclass(slots=True)
class _ProbeTransfer:
    receiver: NodeId
    sequence: int
    padding_bytes: int


class EmulatedPath(Path):
    """One node's path through the emulator.

    The owner passes on what the uplink tells (:meth:`transfer_ended`, :meth:`transfer_aborted`) and what the streams
    tell (:meth:`acknowledged`, :meth:`delivery_failed`).

    Args:
        node: Which node.
        network: Latency, jitter and loss, and the figures that bound the bytes in flight; rates are the emulator's
            matter.
        seed: The experiment's seed.
        emulator_clock: The emulator's time, in which the path speaks until :meth:`begin`.
        loop: Calls back when a message that holds others back is due.
        uplink: The way out.
        streams: To the peers.
        frames: Of this node's messages.

    Attributes:
        in_flight: The bytes in flight. Another one may take its place before anything is sent, such as one that knows
            bounds of rates that ``network`` does not tell.
        receipt_within_ns: Real time that a receipt may take after its message was due. A longer one may take its place
            likewise, where nodes stand still on purpose.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        network: NetworkPlan,
        seed: int,
        emulator_clock: Clock,
        loop: asyncio.AbstractEventLoop,
        uplink: Uplink,
        streams: Streams,
        frames: OutgoingFrames,
    ) -> None:
        self.sender = network.sender
        self.in_flight = InFlight(network, node)
        self.receipt_within_ns = RECEIPT_WITHIN_NS
        self._node = node
        self._network = network
        self._deliveries = DeliveryModel(network, seed)
        # Links are measured before anything is laid over them.
        self._probe_deliveries = DeliveryModel(replace(network, overlays={}), seed ^ _PROBE_SEED)
        self._emulator_clock = emulator_clock
        self._clock = emulator_clock
        self._offset_ns = 0  # the emulator's time minus the clock's
        self._loop = loop
        self._uplink = uplink
        self._streams = streams
        self._frames = frames
        self._events: PathEvents | None = None  # None before begin() and after stop()
        self._probe_events: ProbeEvents | None = None
        self._under_way: dict[int, _MessageTransfer | _ProbeTransfer] = {}
        self._unconfirmed = 0  # messages that have left, up to their receipts
        self._arriving: list[tuple[int, int]] = []  # a heap: (due, number) of messages that have left
        self._look: asyncio.TimerHandle | None = None  # for room, at the instant below
        self._look_ns = 0

    # -- called by the driver and by a measurement -------------------------------------------------------------

    @property
    def window(self) -> Window:
        """See :class:`Path`."""
        return self.in_flight.window

    def begin(self, events: PathEvents, clock: Clock) -> None:
        """See :class:`Path`."""
        self._events, self._probe_events = events, None
        self._clock = clock
        self._offset_ns = self._emulator_clock.at_ns(clock.monotonic_ns(0))

    def has_room(self, receiver: NodeId, message: Message) -> bool:
        """See :class:`Path`."""
        self._forget_what_arrived()
        if self.in_flight.fits(receiver, self._frames.frame_bytes(message)):
            return True
        # What is started has no instant yet: its end leads here again.
        if self._arriving and (self._look is None or self._arriving[0][0] < self._look_ns):
            if self._look is not None:
                self._look.cancel()
            self._look_ns = self._arriving[0][0]
            self._look = self._loop.call_at(self._look_ns / NS_PER_S, self._may_have_room)
        return False

    def send(self, number: int, receiver: NodeId, message: Message, ready_ns: int) -> int:
        """See :class:`Path`."""
        body_bytes = self._frames.body_bytes(message)
        link_bytes = self._deliveries.link_bytes(body_bytes, self._node, receiver, ready_ns)
        wire_bytes = self._network.counted_bytes(body_bytes, link_bytes)
        self.in_flight.add(number, receiver, self._frames.frame_bytes(message))
        self._under_way[number] = _MessageTransfer(receiver, message, wire_bytes)
        self._uplink.start(number, receiver, link_bytes, ready_ns + self._offset_ns)
        return wire_bytes

    def abort(self, number: int) -> None:
        """See :class:`Path`."""
        self._uplink.abort(number)

    def receivers(self) -> tuple[NodeId, ...] | None:
        """See :class:`Path`."""
        started = [transfer.receiver for transfer in self._under_way.values() if isinstance(transfer, _MessageTransfer)]
        return None if self._unconfirmed else tuple(started)

    def stop(self) -> None:
        """See :class:`Path`."""
        self._events = self._probe_events = None
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def measure(self, events: ProbeEvents) -> None:
        """See :class:`Path`."""
        self._probe_events = events

    def probe(self, number: int, receiver: NodeId, sequence: int, padding_bytes: int, ready_ns: int) -> None:
        """See :class:`Path`."""
        self._under_way[number] = _ProbeTransfer(receiver, sequence, padding_bytes)
        self._uplink.start(number, receiver, max(PROBE_BYTES, padding_bytes), ready_ns + self._offset_ns)

    # -- called by the uplink ----------------------------------------------------------------------------------

    def transfer_ended(self, number: int, finish_ns: int) -> None:
        """The last byte of a transfer has left, at an instant of the emulator's time that has just passed."""
        at_ns = finish_ns - self._offset_ns
        match self._under_way.pop(number, None):
            case _MessageTransfer() as transfer:
                self._message_left(number, transfer, at_ns)
            case _ProbeTransfer(receiver, sequence, padding_bytes):
                if self._probe_events is not None:
                    latency_ns = self._probe_deliveries.latency_ns(self._node, receiver, at_ns)
                    due_ns = self._clock.monotonic_ns(at_ns + latency_ns)
                    self._streams.probe(receiver, sequence, 0, padding_bytes, due_ns)
                    self._probe_events.probe_sent(number, at_ns)

    def _message_left(self, number: int, transfer: _MessageTransfer, at_ns: int) -> None:
        events = self._events
        if events is None:
            return
        receiver, message = transfer.receiver, transfer.message
        # The draws come in this order in the simulator as well, one for each message that has left.
        due_ns = self._clock.monotonic_ns(at_ns + self._deliveries.latency_ns(self._node, receiver, at_ns))
        if self._deliveries.is_lost(self._frames.body_bytes(message), self._node, receiver, at_ns):
            self.in_flight.remove(number)  # before the driver is told, who then looks for room
            events.sent(number, at_ns)
            events.lost(number, transfer.wire_bytes, at_ns)
        else:
            self._streams.send(receiver, self._frames.of(message), number, due_ns, due_ns + self.receipt_within_ns)
            heappush(self._arriving, (due_ns, number))
            self._unconfirmed += 1
            events.sent(number, at_ns)

    def _forget_what_arrived(self) -> None:
        """Free the window of what is due."""
        arriving, now_ns = self._arriving, time.monotonic_ns()
        while arriving and arriving[0][0] <= now_ns:
            self.in_flight.remove(heappop(arriving)[1])

    def _may_have_room(self) -> None:
        self._look = None
        if self._events is not None:
            self._events.room(self._clock.at_ns(self._look_ns))

    def transfer_aborted(self, number: int, sent_bytes: int) -> None:
        """The uplink has given a transfer up, after so many bytes."""
        transfer = self._under_way.pop(number, None)
        if isinstance(transfer, _MessageTransfer):
            sent_bytes = self._network.counted_bytes(self._frames.body_bytes(transfer.message), sent_bytes)
        self.in_flight.remove(number)
        if self._events is not None:
            self._events.aborted(number, sent_bytes, self._clock.now_ns())

    # -- called by the streams ---------------------------------------------------------------------------------

    def acknowledged(self, number: int) -> None:
        """A receipt covers a frame."""
        self._unconfirmed -= 1
        self.in_flight.remove(number)  # it is due; the next look would find out
        if self._events is not None:
            self._events.arrived(number, self._clock.now_ns())

    def delivery_failed(self, number: int, frame_bytes: int) -> None:
        """A frame was handed to a stream that broke, or its receiver cannot be reached."""
        self._unconfirmed -= 1
        self.in_flight.remove(number)
        if self._events is not None:
            self._events.lost(number, frame_bytes - HEADER_BYTES + self._network.header_bytes, self._clock.now_ns())
