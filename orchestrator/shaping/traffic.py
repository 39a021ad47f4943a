"""Traffic through the queues of a namespace between two readings, and what they dropped unasked; pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Final

from orchestrator.shaping.reading import QueueCounters, QueuesCounters
from orchestrator.shaping.tree import DeviceTree, NetemLeaf, NodeTree, class_id

_DEVIATIONS: Final = 4.0
"""Standard deviations by which losses that were asked for may exceed their mean: one count in 30,000 does."""


@dataclass(frozen=True, slots=True)
class QueueTraffic:
    """Packets of one queue.

    Attributes:
        place: Device and class, for example ``eth1 queue of fa01:103``.
        sent_packets: That left it.
        dropped_packets: That it dropped, for whatever reason.
        loss_percent: Share that it was asked to drop.
    """

    place: str
    sent_packets: int
    dropped_packets: int
    loss_percent: float

    @property
    def packets(self) -> int:
        """Packets that came to it and are gone from it."""
        return self.sent_packets + self.dropped_packets

    @property
    def unasked_packets(self) -> int:
        """Packets that it dropped for want of room. Where losses are asked for, those that chance cannot explain."""
        share = self.loss_percent / 100
        asked = self.packets * share
        return max(0, self.dropped_packets - int(asked + _DEVIATIONS * sqrt(asked * (1 - share))))


def traffic_between(tree: NodeTree, before: QueuesCounters, after: QueuesCounters) -> tuple[QueueTraffic, ...]:
    """Return what passed the queues of a tree between two readings; queues that are not there are left out.

    Args:
        tree: What the namespace must hold.
        before: The earlier reading.
        after: The later one. A queue that was made anew in between counts from then on.
    """
    return (
        *_of_device(tree.egress, before.egress, after.egress),
        *_of_device(tree.ingress, before.ingress, after.ingress),
    )


def _of_device(
    tree: DeviceTree, before: Mapping[int, QueueCounters], after: Mapping[int, QueueCounters]
) -> Iterator[QueueTraffic]:
    nothing = QueueCounters(0, 0, 0, 0)
    for minor, leaf in sorted(tree.leaves.items()):
        now = after.get(minor)
        if now is None:
            continue
        then = before.get(minor, nothing)
        if now.sent_packets < then.sent_packets or now.dropped_packets < then.dropped_packets:
            then = nothing
        yield QueueTraffic(
            place=f"{tree.device} queue of {class_id(minor)}",
            sent_packets=now.sent_packets - then.sent_packets,
            dropped_packets=now.dropped_packets - then.dropped_packets,
            loss_percent=leaf.loss_percent if isinstance(leaf, NetemLeaf) else 0.0,
        )
