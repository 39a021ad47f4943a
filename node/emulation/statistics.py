"""Statistics that the link emulator keeps of itself: above all, how late the host lets it be."""

import json
from dataclasses import asdict, dataclass

from node.core.lateness import Lateness


@dataclass(frozen=True, slots=True)
class EmulatorStatistics:
    """Counts since the emulator began; times are testbed time unless their name says otherwise.

    Attributes:
        starts: Transfers begun.
        finishes: Transfers whose last byte left.
        aborts: Transfers aborted by their sender, or because it was gone.
        changes: The plan's changes of capacity that were made.
        ignored: Records that made no sense or that the node had no right to.
        excessive_delays: Records that came later than the emulator makes up for.
        nodes_gone: Nodes that closed their socket.
        wakeup_lateness_ns: From a transfer's exact end to the instant at which its sender was told.
        start_lateness_ns: From the instant at which a transfer was ready to that at which the emulator knew.
        change_lateness_ns: From the instant of a change of capacity to that at which it was made.
        cpu_s: Processor time of the emulator's process, real seconds.
    """

    starts: int
    finishes: int
    aborts: int
    changes: int
    ignored: int
    excessive_delays: int
    nodes_gone: int
    wakeup_lateness_ns: Lateness
    start_lateness_ns: Lateness
    change_lateness_ns: Lateness
    cpu_s: float

    def to_json(self) -> bytes:
        """One datagram."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "EmulatorStatistics":
        """Read the bytes that :meth:`to_json` made."""
        fields = json.loads(text)
        for name in ("wakeup_lateness_ns", "start_lateness_ns", "change_lateness_ns"):
            fields[name] = Lateness(**fields[name])
        return cls(**fields)
