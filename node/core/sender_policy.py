"""The sender policy: which of a node's queued messages may be under way at the same time."""

from dataclasses import dataclass
from enum import Enum


class SenderKind(Enum):
    """Kinds of sender policies, by their names in the experiment file."""

    SERIAL = "serial"
    """One message after the other, in the order in which they were queued, each with the whole uplink."""
    PARALLEL = "parallel"
    """So many messages at a time, in the order in which they were queued; they share the uplink."""
    PER_PEER = "per_peer"
    """A queue and a connection for each peer: one message to each at a time; all of them share the uplink."""


@dataclass(frozen=True, slots=True)
class SenderPolicy:
    """A kind and its figure.

    Attributes:
        kind: The kind.
        transfers: Messages under way at a time, >= 1, on what they share: all connections of the node together, or,
            with ``PER_PEER``, the connection to one peer. 1 unless the kind is ``PARALLEL``.
    """

    kind: SenderKind
    transfers: int = 1

    def __post_init__(self) -> None:
        assert self.transfers >= 1, self.transfers
        assert self.transfers == 1 or self.kind is SenderKind.PARALLEL, self.kind

    @property
    def per_peer(self) -> bool:
        """True where each peer has a queue of its own."""
        return self.kind is SenderKind.PER_PEER

    def transfers_max(self, num_nodes: int) -> int:
        """Messages that a node of so many may have under way at a time."""
        return max(1, num_nodes - 1) if self.per_peer else self.transfers

    def __str__(self) -> str:
        match self.kind:
            case SenderKind.SERIAL:
                return "serial"
            case SenderKind.PARALLEL:
                return f"{self.transfers} parallel transfers"
            case SenderKind.PER_PEER:
                return "a queue for each peer"


SERIAL = SenderPolicy(SenderKind.SERIAL)
PER_PEER = SenderPolicy(SenderKind.PER_PEER)


def parallel(transfers: int) -> SenderPolicy:
    """Return the policy with so many transfers at a time."""
    return SenderPolicy(SenderKind.PARALLEL, transfers)
