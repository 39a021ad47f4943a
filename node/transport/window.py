"""The window: bytes that a node has sent and that no receipt covers. Pure.

DivShare cancels what it has queued when a round ends. That works only if little has left the queue, so the
bytes in flight are bounded: :func:`bound_bytes`.
"""

BDP_SHARE = 1.5
"""Bytes in flight may reach this many bandwidth-delay products."""


def bound_bytes(
    message_bytes: int, *, transfers: int = 1, bandwidth_mbps: float | None = None, round_trip_ms: float = 0.0
) -> int:
    """Return the number of bytes that a node may have in flight.

    Args:
        message_bytes: The largest message, > 0.
        transfers: How many messages a node sends at a time, >= 1. One more may wait for its receipt.
        bandwidth_mbps: Of the node's own link, >= 0; None is unlimited, and then messages alone bound it.
        round_trip_ms: The longest, >= 0, in the same time as the bandwidth.

    Returns:
        max((transfers + 1) messages, 1.5 x bandwidth x round-trip time).
    """
    messages = (transfers + 1) * message_bytes
    if bandwidth_mbps is None:
        return messages
    return max(messages, int(BDP_SHARE * bandwidth_mbps * 1e6 / 8 * round_trip_ms / 1e3))


class Window:
    """Bytes in flight, message by message.

    State:
        _sizes: number -> bytes of every message in flight.

    Attributes:
        bound_bytes: What ``bytes`` should not exceed. It may be changed at any time, see :meth:`allow`; what is in
            flight then stays.
        bound_bytes_max: The most that it has been.
        bytes: In flight now; always the sum of the sizes.
        bytes_max: The most that ``bytes`` has been.
    """

    __slots__ = ("_sizes", "bound_bytes", "bound_bytes_max", "bytes", "bytes_max")

    def __init__(self, bound_bytes: int) -> None:
        self.bound_bytes = self.bound_bytes_max = bound_bytes
        self.bytes = 0
        self.bytes_max = 0
        self._sizes: dict[int, int] = {}

    def __len__(self) -> int:
        """Number of messages in flight."""
        return len(self._sizes)

    def allow(self, bound_bytes: int) -> None:
        """Let the bound be another one from here on."""
        self.bound_bytes = bound_bytes
        self.bound_bytes_max = max(self.bound_bytes_max, bound_bytes)

    def fits(self, size: int) -> bool:
        """Return whether a message of ``size`` bytes may be sent now.

        One that exceeds the bound by itself may be sent when nothing else is in flight, or it never could.
        """
        return self.bytes + size <= self.bound_bytes or not self._sizes

    def add(self, number: int, size: int) -> None:
        """A message of ``size`` bytes leaves the outbox. Its number must not be in flight."""
        assert number not in self._sizes, number
        self._sizes[number] = size
        self.bytes += size
        if self.bytes > self.bytes_max:
            self.bytes_max = self.bytes

    def remove(self, number: int) -> int:
        """A receipt covers the message, or it is lost. Returns its bytes; 0 when it is not in flight."""
        size = self._sizes.pop(number, 0)
        self.bytes -= size
        return size
