"""What a node says to its peers: one stream a peer, opened on demand and re-opened when it breaks.

``send`` never waits: what is in flight is bounded by the caller's :class:`node.transport.window.Window`. Every frame
handed over ends in exactly one of two ways: a receipt covers it (``on_acknowledged``), or it is lost (``on_lost``):

- its stream broke before a receipt came; it may have arrived all the same;
- the peer could not be reached, or was found unreachable by an attempt less than the back-off ago;
- its deadline passed.

So a dead peer holds a part of the window for a bounded time, and traffic to others goes on.

States of a peer: idle -> connecting -> open -> idle (broken) or unreachable (no attempt until the back-off has
passed; then idle). The next frame for an idle peer starts an attempt.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

import numpy as np

from node.core.types import NodeId


@dataclass(frozen=True, slots=True)
class EchoInfo:
    """The answer to a probe.

    Attributes:
        sequence: The probe's number.
        sent_ns: What the probe said, this node's monotonic clock, nanoseconds.
        padding_bytes: Size of its padding.
        received_ns: When the answer was read, same clock.
    """

    sequence: int
    sent_ns: int
    padding_bytes: int
    received_ns: int


class PeerClient:
    """Sends to peers.

    Attributes:
        unreachable: The peers whose last attempt failed.
        frames_sent: Frames written to a stream.
        frame_bytes_sent: Sum of their lengths.
        frames_lost: Frames that ended without a receipt.
    """

    def __init__(
        self,
        node: NodeId,
        run_id: str,
        plan_id: int,
        on_acknowledged: Callable[[NodeId, int, int], None],
        on_lost: Callable[[NodeId, int, int, str], None],
        on_echo: Callable[[NodeId, EchoInfo], None],
        rng: np.random.Generator,
        window_bytes: int = 0,
    ) -> None:
        """Only store; nothing connects before the first ``send``.

        Args:
            node: This node.
            run_id: The run's name.
            plan_id: Of the run; see :func:`node.transport.codec.plan_id`.
            on_acknowledged: (peer, number, frame_bytes): a receipt covers that many frames, oldest first. Called in
                the loop, never from within ``send``.
            on_lost: (peer, number, frame_bytes, reason): likewise, once for each frame that is lost.
            on_echo: (peer, echo).
            rng: Draws the jitter of the back-off.
            window_bytes: The bound on bytes in flight.
        """

    def set_addresses(self, addresses: Mapping[NodeId, str]) -> None:
        """Where the peers listen, "host:port". Once, before the first ``send``."""

    def send(self, peer: NodeId, frame: bytes, number: int, due_ns: int = 0, deadline_ns: int = 0) -> None:
        """Hand a frame over. Never waits.

        Args:
            peer: To whom; its address must be known.
            frame: From :func:`node.transport.codec.encode`. Not copied before it is written.
            number: This node's running number of the message, not in flight already.
            due_ns: When its last byte arrives, the host's monotonic clock, nanoseconds; 0: at once.
            deadline_ns: Same clock: without a receipt by then it is lost, and its stream with it, because a stream that
                does not move is broken. 0: ``DEADLINE_S`` from now.
        """

    def probe(self, peer: NodeId, sequence: int, sent_ns: int, padding_bytes: int, due_ns: int = 0) -> None:
        """Send a probe. It is lost silently where a frame would be lost."""

    @property
    def unreachable(self) -> Set[NodeId]:
        """The peers whose last attempt failed."""
        raise NotImplementedError

    async def close(self) -> None:
        """End all streams. What no receipt covers is dropped without a word."""
