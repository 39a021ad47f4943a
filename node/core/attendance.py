"""Attendance: who takes part in the rounds of a synchronous algorithm while nodes end and come back.

In such an algorithm two neighbors send each other a message in every round and wait for it. With each neighbor a node
agrees on the *first round* of which this holds; for a run's beginning it is 0, and nothing has to be said. All of it
is local: nobody knows who takes part elsewhere.

- ``PeerDown``: the node counts on that neighbor in no round any more. It neither waits for it nor sends to it.
- ``PeerUp``: the node proposes the round of which it makes its next message, and counts on the neighbor from then on.
- A proposal is a message without values. The later of two proposals holds: whoever gets one that is not the round it
  knows of answers with the later of both. So the two agree, whatever came late, twice or from an earlier life.
- A node that is told of a round more than one later than that of its next message *leaves out* the rounds between: the
  model that it has is its model of that round, and it proposes this round to all neighbors. One that is behind by one
  gets there on its own. So a node that comes back, and begins with round 0, is at once where its neighbors are; and of
  two parts of the graph that drifted apart while it was away the later one comes up.

Nothing stands still for good. Let all messages have arrived, nobody be training, and m be a node of the earliest
round r that waits for a neighbor k. They agree on a first round, at most r. k waits as well, in r or later, so it has
made its messages up to its round, and has sent them to m from the first round on: it left out none of these, or it
would have proposed a later first round; and m was there, or k would have heard of its return and proposed the round
after. So the message of round r is there, and m does not wait for it.

A neighbor is counted on as soon as it is known to be back, not when its first message of a current round has come:
where the way to it is longer than a round, such a message would come too late for ever.
"""

from collections.abc import Sequence
from enum import Enum
from typing import TypeAlias

from node.core.types import NodeId

Proposal: TypeAlias = tuple[NodeId, int]
"""To whom, and the first round in which the two exchange messages again."""

AWAY = 2**63 - 1
"""First round of a neighbor that has ended: none."""


class MissingPeer(Enum):
    """Rule for a peer that has ended."""

    WAIT = "wait"
    """Wait for it: nodes must not end."""
    SKIP = "skip"
    """Go on without it until it is back."""


class Attendance:
    """The first round in which a node counts on each of its neighbors.

    State:
        _since: neighbor -> first round, where it is not 0; :data:`AWAY` for one that has ended.
    """

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since: dict[NodeId, int] = {}

    def present(self, peers: Sequence[NodeId], round_: int) -> Sequence[NodeId]:
        """Return those of some neighbors that take part in a round, in the order given; often ``peers`` itself."""
        since = self._since
        return [peer for peer in peers if since.get(peer, 0) <= round_] if since else peers

    def ended(self, peer: NodeId) -> None:
        """Take note that a neighbor has ended."""
        self._since[peer] = AWAY

    def is_back(self, peer: NodeId, next_round: int) -> Proposal:
        """Take note that a neighbor has begun again.

        Args:
            peer: Which one.
            next_round: The round of the next message that this node makes.
        """
        self._since[peer] = next_round
        return peer, next_round

    def proposed(self, peer: NodeId, round_: int) -> list[Proposal]:
        """Take a neighbor's proposal; returns the answer, if there is one. The next proposal comes first from us to one
        that is away."""
        known = self._since.get(peer, 0)
        if known in (round_, AWAY):
            return []
        self._since[peer] = max(known, round_)
        return [(peer, self._since[peer])]

    def left_out(self, peers: Sequence[NodeId], round_: int) -> list[Proposal]:
        """Take note that this node makes no message of a round before ``round_`` any more.

        Args:
            peers: All its neighbors.
            round_: The round of the next message that it makes.

        Returns:
            Proposals to those that would wait for one; not to those with which the round is agreed, or that are away.
        """
        waiting = [peer for peer in peers if self._since.get(peer, 0) < round_]
        self._since.update(dict.fromkeys(waiting, round_))
        return [(peer, round_) for peer in waiting]


def is_far_behind(next_round: int, proposed: int) -> bool:
    """Tell whether a node leaves out the rounds before a proposed one, from the round of the next message it makes."""
    return proposed > next_round + 1
