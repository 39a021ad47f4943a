"""Since when a transfer could have begun."""

from node.core.types import NodeId
from node.runtime.slots import BATCHES_KEPT_MIN, PeerSlots, QueueTimes, SharedSlots


def test_the_place_that_is_free_for_longest_is_taken_first() -> None:
    slots = SharedSlots(2)
    assert [slots.take(NodeId(1)), slots.take(NodeId(1))] == [0, 0]
    slots.give_back(NodeId(1), 9)
    slots.give_back(NodeId(2), 5)
    assert slots.take(NodeId(3)) == 5


def test_each_peer_has_its_own_place() -> None:
    slots = PeerSlots()
    assert slots.take(NodeId(1)) == slots.take(NodeId(2)) == 0
    slots.give_back(NodeId(1), 9)
    slots.give_back(NodeId(2), 5)
    assert slots.take(NodeId(1)) == 9


def test_messages_know_when_they_were_queued_in_whatever_order_they_leave() -> None:
    times = QueueTimes()
    for batch in range(5):
        times.append(10 * batch, batch, lambda: 0)
    assert [times.of(number) for number in (49, 0, 20, 19, 40)] == [4, 0, 2, 1, 4]
    times.clear()
    times.append(50, 7, lambda: 50)
    assert times.of(55) == 7


def test_what_has_left_is_forgotten() -> None:
    times = QueueTimes()
    for batch in range(20 * BATCHES_KEPT_MIN):
        times.append(10 * batch, batch, lambda batch=batch: 10 * batch - 25)  # type: ignore[misc]
        assert times.of(10 * batch) == batch
        if batch >= 3:
            assert times.of(10 * batch - 25) == batch - 3
    assert len(times) <= BATCHES_KEPT_MIN + 4
