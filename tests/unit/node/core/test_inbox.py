"""The inboxes: one message for each (sender, fragment), or for each (round, sender)."""

import numpy as np
import pytest

from node.core.errors import ProtocolError
from node.core.events import MessageReceived
from node.core.fragments import FragmentLayout, fragment_plan
from node.core.inbox import Inbox, Replacement, RoundInbox, average_fragments, average_models
from node.core.messages import Message
from node.core.types import NodeId
from tests.messages import Kind, make_message


def message(round_: int, value: float = 0, fragment: int = -1, size: int = 1) -> Message:
    return make_message(Kind.MODEL, round_, np.full(size, value, np.float32), fragment)


def arrival(sender: int, round_: int = 0, delivery: int = 0, fragment: int = -1) -> MessageReceived:
    return MessageReceived(NodeId(sender), message(round_, fragment=fragment), delivery)


@pytest.mark.parametrize(
    ("replacement", "delivery"), [(Replacement.NEWEST_ROUND, 1), (Replacement.LAST_ARRIVAL, 2)], ids=str
)
def test_replacement_decides_which_copy_stays(replacement: Replacement, delivery: int) -> None:
    inbox = Inbox(replacement)
    for number, round_ in enumerate([1, 3, 2]):
        inbox.keep(arrival(5, round_, number))
    assert len(inbox) == 1
    assert [event.delivery for event in inbox.drain()] == [delivery]


@pytest.mark.parametrize("replacement", Replacement)
def test_of_equal_rounds_the_last_arrival_stays(replacement: Replacement) -> None:
    inbox = Inbox(replacement)
    for number in range(2):
        inbox.keep(arrival(5, 3, number))
    assert [event.delivery for event in inbox.drain()] == [1]


def test_drain_sorts_by_sender_and_fragment_and_empties_the_inbox() -> None:
    inbox = Inbox()
    for sender, fragment in [(2, 1), (0, 1), (2, 0), (1, 3), (0, 0), (2, -1)]:
        inbox.keep(arrival(sender, fragment=fragment))
    taken = [(event.sender, event.message.body.fragment) for event in inbox.drain()]
    assert taken == [(0, 0), (0, 1), (1, 3), (2, -1), (2, 0), (2, 1)]
    assert len(inbox) == 0
    assert inbox.drain() == []


def test_round_inbox_keeps_rounds_apart() -> None:
    inbox = RoundInbox(ahead=1)
    for number, (sender, round_) in enumerate([(2, 4), (1, 5), (1, 4)]):
        inbox.keep(arrival(sender, round_, number), 4)
    expected = [NodeId(1), NodeId(2), NodeId(3)]
    assert inbox.missing(4, expected) == [3]
    assert not inbox.complete(4, expected)
    assert inbox.complete(4, expected[:2])
    assert inbox.complete(9, [])
    assert [event.delivery for event in inbox.take(4)] == [2, 0]
    assert inbox.take(4) == []
    assert [event.delivery for event in inbox.take(5)] == [1]


@pytest.mark.parametrize(("ahead", "round_"), [(1, 3), (1, 6), (None, 3)])
def test_round_inbox_refuses_what_is_out_of_turn(ahead: int | None, round_: int) -> None:
    with pytest.raises(ProtocolError, match=f"round {round_} from node 7 in round 4"):
        RoundInbox(ahead=ahead).keep(arrival(7, round_), 4)


@pytest.mark.parametrize(("ahead", "round_"), [(None, 60), (1, 4), (1, 5)])
def test_round_inbox_takes_each_sender_once_a_round(ahead: int | None, round_: int) -> None:
    inbox = RoundInbox(ahead=ahead)
    inbox.keep(arrival(7, round_), 4)
    with pytest.raises(ProtocolError, match="second message"):
        inbox.keep(arrival(7, round_), 4)
    assert len(inbox.take(round_)) == 1


def test_a_tolerant_round_inbox_drops_what_is_over_and_keeps_the_last_that_came() -> None:
    """Peers end and come back: they may send a round again, or one that is over here, or one far ahead."""
    inbox = RoundInbox(tolerant=True)
    for number, round_ in enumerate([3, 4, 4, 60]):
        inbox.keep(arrival(7, round_, number), 4)
    assert inbox.complete(4, [NodeId(7)])
    assert not inbox.complete(4, [NodeId(8)])
    assert [event.delivery for event in inbox.take(4)] == [2]
    inbox.keep(arrival(8, 59, 5), 5)
    inbox.forget_before(60)
    assert inbox.take(59) == []
    assert [event.delivery for event in inbox.take(60)] == [3]


def test_average_models_of_nothing_is_the_model_itself() -> None:
    own = np.ones(3, np.float32)
    assert average_models(own, []) is own


def test_averages_leave_their_arguments_alone_and_are_read_only() -> None:
    own, other = np.full(6, 1, np.float32), message(0, 4, size=6)
    mean = average_models(own, [other])
    np.testing.assert_array_equal(mean, np.full(6, 2.5))
    plan = fragment_plan((6,), 2, FragmentLayout.RANDOM, 0)
    ordered, _ = plan.cut(own)
    partly = average_fragments(plan, ordered, [message(0, 4, fragment=1, size=3)])
    assert sorted(partly.tolist()) == [1, 1, 1, 2.5, 2.5, 2.5]
    np.testing.assert_array_equal(own, np.full(6, 1))
    np.testing.assert_array_equal(other.body.values, np.full(6, 4))
    assert not mean.flags.writeable
    assert not partly.flags.writeable
