"""A node's way to its peers as the driver knows it: an interface, and what each side owes the other.

A path takes messages one at a time and tells what becomes of each. How a message travels (an emulated link, a stream
alone, another protocol) is the path's matter: rates, latency, loss, frames and the bound of the bytes in flight.
Neither side blocks, and no method calls the other side back before it has returned, so that neither is ever told
something in the middle of a decision.

One transfer, from :meth:`Path.send` to its end. Nothing else happens to it, and in no other order:

=======  ========================================  =======  ==========================
state    event                                     next     the path calls
=======  ========================================  =======  ==========================
(new)    the driver calls :meth:`Path.send`        started
started  its last byte has left                    sent     :meth:`PathEvents.sent`
started  :meth:`Path.abort`, before that           (ended)  :meth:`PathEvents.aborted`
started  :meth:`Path.abort`, too late              started  as if it had not been called
started  it can never leave: no way to the peer    (ended)  :meth:`PathEvents.lost`
sent     a receipt covers it                       (ended)  :meth:`PathEvents.arrived`
sent     it was dropped, or no receipt will come   (ended)  :meth:`PathEvents.lost`
=======  ========================================  =======  ==========================

A transfer that has ended is forgotten. How many are in ``started`` at a time, in all or to each peer, follows from
:attr:`Path.sender`. A message is in flight from its start until its arrival, as far as the path knows that: until its
receipt, or until the instant at which it is due where the path makes that itself. The bytes in flight are bounded, in
all or on the connection to each peer alike; where that has held a message back, the path says when there is room
(:meth:`PathEvents.room`).

A probe is a transfer without a message, for measurements before the start: it takes the way of a message and is not
bounded, and only :meth:`ProbeEvents.probe_sent` tells of it.

Times are testbed time in nanoseconds of the clock that the path was given last.
"""

from abc import ABC, abstractmethod
from typing import Protocol

from node.core.messages import Message
from node.core.sender_policy import SenderPolicy
from node.core.types import NodeId
from node.host.clock import Clock
from node.transport.window import Window


class PathEvents(Protocol):
    """Events of messages, which a path tells the driver's sending side. Each may lead to new calls of the path."""

    def sent(self, number: int, at_ns: int) -> None:
        """The last byte of a message has left at a time that has just passed; the next transfer may begin there."""

    def arrived(self, number: int, at_ns: int) -> None:
        """A receipt covers the message. It arrived at ``at_ns`` at the latest; the receiver knows exactly."""

    def room(self, at_ns: int) -> None:
        """Since ``at_ns`` there is room again in the window, after :meth:`Path.has_room` said no."""

    def lost(self, number: int, wire_bytes: int, at_ns: int) -> None:
        """The message will not arrive, or nobody will ever know; ``wire_bytes`` of it had left."""

    def aborted(self, number: int, sent_bytes: int, at_ns: int) -> None:
        """The transfer was given up as asked, after ``sent_bytes`` had left; the next one may begin at ``at_ns``."""


class ProbeEvents(Protocol):
    """Events of probes, which a path tells a measurement."""

    def probe_sent(self, number: int, at_ns: int) -> None:
        """The last byte of a probe has left at a time that has just passed."""


class Path(ABC):
    """The interface.

    Attributes:
        sender: Which messages may be under way at the same time: the sender policy of the experiment.
    """

    sender: SenderPolicy

    @property
    @abstractmethod
    def window(self) -> Window:
        """The bytes in flight and their bound, read by the node's status and its figures.

        With a window for each peer this is the one that came closest to its bound.
        """

    @abstractmethod
    def begin(self, events: PathEvents, clock: Clock) -> None:
        """Tell a listener of messages from here on, in the experiment's time.

        Called once, by the driver as it starts. Probes that are still under way are forgotten.
        """

    @abstractmethod
    def has_room(self, receiver: NodeId, message: Message) -> bool:
        """Return whether a message may be sent to a peer now without exceeding the bound in flight.

        Called by the driver before each :meth:`send`. After a False it asks again when something has ended or there is
        room.
        """

    @abstractmethod
    def send(self, number: int, receiver: NodeId, message: Message, ready_ns: int) -> int:
        """Begin a transfer.

        Called by the driver when :meth:`has_room` has just said yes and the sender policy allows it.

        Args:
            number: The driver's name of the message, >= 0, used once.
            receiver: To whom.
            message: What. Never modified.
            ready_ns: When the transfer could have begun; not ahead, and perhaps a moment ago.

        Returns:
            Bytes that it will put on the wire, header and what is sent again included.
        """

    @abstractmethod
    def abort(self, number: int) -> None:
        """Give a started transfer up if its last byte has not left.

        Called by the driver at most once a transfer. ``aborted`` follows, or ``sent`` where it was too late.
        """

    @abstractmethod
    def receivers(self) -> tuple[NodeId, ...] | None:
        """Return the receivers of the transfers in ``started``; None while there are some in ``sent``.

        Asked for the node's status: only these may be without an end, on links that have no bandwidth.
        """

    @abstractmethod
    def stop(self) -> None:
        """Send and tell nothing more.

        Called by the driver as it stops. Receipts still free the window, which the status shows.
        """

    @abstractmethod
    def measure(self, events: ProbeEvents) -> None:
        """Tell a measurement of its probes from here on. Called by the node before the start, as often as it likes."""

    @abstractmethod
    def probe(self, number: int, receiver: NodeId, sequence: int, padding_bytes: int, ready_ns: int) -> None:
        """Begin the transfer of a probe. Called by a measurement, before :meth:`begin`.

        Args:
            number: The measurement's name of it, not in use by another probe.
            receiver: To whom.
            sequence: What the receiver is told.
            padding_bytes: Its size on the wire; 0 stands for :data:`PROBE_BYTES`.
            ready_ns: As in :meth:`send`.
        """


PROBE_BYTES = 1
"""A small probe on the wire, and its answer: on a slow link even a header's transmission would meet others."""
