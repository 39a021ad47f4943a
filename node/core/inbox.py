"""What a node received and has not yet aggregated."""

from collections.abc import Sequence
from enum import Enum

from node.core.fragments import FragmentPlan
from node.core.messages import Message, frozen
from node.core.types import NodeId, Vector


class Replacement(Enum):
    """Which of two messages of one sender for the same fragment stays in the inbox."""

    NEWEST_ROUND = "newest_round"
    """The one of the later round; on a tie the last to arrive. Safe where the network reorders."""
    LAST_ARRIVAL = "last_arrival"
    """The last to arrive, whatever its round: the rule of DivShare's public code."""


class Inbox:
    """At most one message for each (sender, fragment).

    State:
        _messages: (sender, fragment) -> (message, delivery). Emptied by :meth:`drain`.
    """

    __slots__ = ("_compare_rounds", "_messages")

    def __init__(self, replacement: Replacement = Replacement.NEWEST_ROUND) -> None:
        self._compare_rounds = replacement is Replacement.NEWEST_ROUND
        self._messages: dict[tuple[NodeId, int], tuple[Message, int]] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def keep(self, sender: NodeId, message: Message, delivery: int) -> None:
        """Store a message, in place of an earlier one of the same sender and fragment."""
        key = (sender, message.fragment)
        messages = self._messages
        if self._compare_rounds and key in messages and messages[key][0].round > message.round:
            return
        messages[key] = (message, delivery)

    def drain(self) -> tuple[list[Message], list[int]]:
        """Take everything out: messages in order of sender and fragment, and their deliveries.

        The order makes sums reproducible whatever the order of arrival.
        """
        taken = sorted(self._messages.items())
        self._messages.clear()
        return [item[1][0] for item in taken], [item[1][1] for item in taken]


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
        fragment = message.fragment
        total[bounds[fragment] : bounds[fragment + 1]] += message.values
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
        total += message.values
    total /= len(received) + 1
    return frozen(total)
