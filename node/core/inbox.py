"""The inbox: messages that a node received and has not yet aggregated."""

from collections.abc import Sequence
from enum import Enum

from node.core.errors import ProtocolError
from node.core.events import MessageReceived
from node.core.fragments import FragmentPlan
from node.core.messages import Message, frozen
from node.core.types import NodeId, Vector


class Replacement(Enum):
    """Rule for which of two messages of one sender stays in the inbox, for the same fragment."""

    NEWEST_ROUND = "newest_round"
    """The one of the later round; on a tie the last to arrive. Safe where the network reorders."""
    LAST_ARRIVAL = "last_arrival"
    """The last to arrive, whatever its round: the rule of DivShare's public code."""


class Inbox:
    """At most one message for each (sender, fragment).

    State:
        _events: sender * 2^32 + fragment + 1 -> what arrived. One number is a cheaper key than a pair, and the
            event is kept as it came: this is done for every delivery. Emptied by :meth:`drain`.
    """

    __slots__ = ("_compare_rounds", "_events")

    def __init__(self, replacement: Replacement = Replacement.NEWEST_ROUND) -> None:
        self._compare_rounds = replacement is Replacement.NEWEST_ROUND
        self._events: dict[int, MessageReceived] = {}

    def __len__(self) -> int:
        return len(self._events)

    def keep(self, event: MessageReceived) -> None:
        """Store a message, in place of an earlier one of the same sender and fragment."""
        message = event.message
        key = (event.sender << 32) + message.body.fragment + 1
        events = self._events
        if self._compare_rounds and key in events and events[key].message.round > message.round:
            return
        events[key] = event

    def drain(self) -> list[MessageReceived]:
        """Take everything out, in order of sender and fragment.

        The order makes sums reproducible whatever the order of arrival.
        """
        events = self._events
        taken = [events[key] for key in sorted(events)]
        events.clear()
        return taken


class RoundInbox:
    """For synchronous algorithms: one message for each (round, sender), kept until its round is averaged.

    A peer that is ahead may deliver a later round's message early; it waits here.

    State:
        _rounds: round -> sender -> what arrived. A round is removed by :meth:`take`.
    """

    __slots__ = ("_ahead", "_rounds", "_tolerant")

    def __init__(self, ahead: int | None = None, *, tolerant: bool = False) -> None:
        """Make an empty inbox.

        Args:
            ahead: How many rounds a peer can be ahead; None where the algorithm sets no bound.
            tolerant: Peers may end and come back, so that nothing is refused: a message of a round that is over is
                dropped, and one that comes again replaces the one before.
        """
        self._ahead = ahead
        self._tolerant = tolerant
        self._rounds: dict[int, dict[NodeId, MessageReceived]] = {}

    def keep(self, event: MessageReceived, current: int) -> None:
        """Store a message.

        Raises:
            ProtocolError: Its round is over or too far ahead, or the sender already sent one for it.
        """
        sender, round_ = event.sender, event.message.round
        ahead = round_ - current
        if ahead < 0 and self._tolerant:
            return
        if ahead < 0 or (self._ahead is not None and ahead > self._ahead):
            raise ProtocolError(f"message of round {round_} from node {sender} in round {current}")
        of_round = self._rounds.setdefault(round_, {})
        if sender in of_round and not self._tolerant:
            raise ProtocolError(f"second message of round {round_} from node {sender}")
        of_round[sender] = event

    def missing(self, current: int, expected: Sequence[NodeId]) -> list[NodeId]:
        """Return the expected senders that have not been heard in this round, in the order given."""
        heard = self._rounds.get(current, {})
        return [sender for sender in expected if sender not in heard]

    def complete(self, current: int, expected: Sequence[NodeId]) -> bool:
        """Return whether all these senders have been heard in this round. Fast: asked at every arrival."""
        heard = self._rounds.get(current, ())
        return len(heard) >= len(expected) and all(sender in heard for sender in expected)

    def forget_before(self, current: int) -> None:
        """Drop the messages of earlier rounds."""
        self._rounds = {round_: heard for round_, heard in self._rounds.items() if round_ >= current}

    def take(self, current: int) -> list[MessageReceived]:
        """Take a round out, in sender order."""
        events = self._rounds.pop(current, {})
        return [events[sender] for sender in sorted(events)]


def average_fragments(plan: FragmentPlan, ordered: Vector, received: Sequence[Message]) -> Vector:
    """Average a model with received fragments, parameter by parameter.

    A parameter covered by k fragments becomes the mean of k + 1 values; an uncovered one keeps its value.

    Args:
        plan: The plan by which all nodes cut.
        ordered: The local model in plan order, shape (d,), float32. Not modified.
        received: Fragments of peers' models, in sender order.

    Returns:
        A new read-only vector in parameter order, shape (d,).

    Source: arXiv:2410.12918, parameter-wise aggregation: x[k] <- (x[k] + sum of m[k]) / (1 + |R(k)|).
    """
    total = ordered.copy()
    bounds = plan.bounds
    counts = [1] * (len(bounds) - 1)
    for message in received:
        body = message.body
        fragment = body.fragment
        total[bounds[fragment] : bounds[fragment + 1]] += body.values
        counts[fragment] += 1
    for fragment, count in enumerate(counts):
        if count > 1:
            total[bounds[fragment] : bounds[fragment + 1]] /= count
    return frozen(plan.restore(total))


def average_models(own: Vector, received: Sequence[Message]) -> Vector:
    """The plain mean of a model and the received ones.

    Args:
        own: Shape (d,), float32. Not modified.
        received: Whole models, in sender order.

    Returns:
        ``own`` itself when nothing was received, else a new read-only vector, shape (d,).
    """
    if not received:
        return own
    total = own.copy()
    for message in received:
        total += message.body.values
    total /= len(received) + 1
    return frozen(total)
