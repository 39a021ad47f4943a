"""Outboxes: what may begin under each sender policy, and that nothing is lost or changes its order."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.effects import Addressed
from node.core.messages import Message, frozen
from node.core.outbox import make_outbox
from node.core.sender_policy import PER_PEER, SERIAL, SenderKind, SenderPolicy, parallel
from node.core.types import NodeId
from tests.messages import Kind, make_message
from tests.simulation.build import SENDERS


def message(value: float = 0.0) -> Message:
    return make_message(Kind.MODEL, 0, frozen(np.full(2, value, dtype=np.float32)))


def to(*receivers: int) -> list[Addressed]:
    return [(NodeId(receiver), message()) for receiver in receivers]


def begun(policy: SenderPolicy, *receivers: int) -> list[int]:
    """The numbers of the messages that begin at once."""
    outbox = make_outbox(policy)
    outbox.append(to(*receivers), 0)
    return [outbox.pop()[1] for _ in range(outbox.startable)]


def test_what_begins_at_once() -> None:
    assert begun(SERIAL, 1, 1, 2, 3) == [0]
    assert begun(parallel(3), 1, 1, 2, 3) == [0, 1, 2]
    assert begun(PER_PEER, 1, 1, 2, 3) == [0, 2, 3]


def test_a_peer_that_is_slow_blocks_only_its_own_queue() -> None:
    outbox = make_outbox(PER_PEER)
    outbox.append(to(1, 2, 1, 2, 2), 0)
    assert [outbox.pop()[1] for _ in range(outbox.startable)] == [0, 1]
    order = []
    while True:  # peer 1 never ends
        outbox.ended(NodeId(2))
        if not outbox.startable:
            break
        order.append(outbox.pop()[1])
    assert order == [3, 4]
    assert len(outbox) == 1
    assert [*outbox.numbers()] == [range(2, 3)]


def test_what_is_set_aside_holds_back_the_one_queue_or_its_peers() -> None:
    shared, peers = make_outbox(parallel(3)), make_outbox(PER_PEER)
    for outbox in (shared, peers):
        outbox.append(to(1, 2, 3), 0)
        outbox.set_aside()
    assert shared.startable == 0
    assert [peers.pop()[1] for _ in range(peers.startable)] == [1, 2]
    for outbox in (shared, peers):
        outbox.resume()
    assert shared.startable == 3
    assert [peers.pop()[1] for _ in range(peers.startable)] == [0]


def test_heads_that_become_able_to_begin_do_so_in_the_order_of_the_queue() -> None:
    outbox = make_outbox(PER_PEER)
    outbox.append(to(1, 2, 3), 0)
    for _ in range(3):
        outbox.pop()
    outbox.append(to(2, 1, 4, 3), 3)
    for peer in (1, 3, 2):
        outbox.ended(NodeId(peer))
    assert [outbox.pop()[1] for _ in range(outbox.startable)] == [3, 4, 5, 6]


def test_a_policy_makes_sense() -> None:
    assert [policy.transfers_max(10) for policy in (SERIAL, parallel(3), PER_PEER)] == [1, 3, 9]
    with pytest.raises(AssertionError):
        SenderPolicy(SenderKind.PER_PEER, 2)
    with pytest.raises(AssertionError):
        parallel(0)


class Model:
    """What an outbox must do, in the most obvious way."""

    def __init__(self, policy: SenderPolicy) -> None:
        self.policy = policy
        self.queue: deque[tuple[NodeId, Message, int]] = deque()
        self.under_way: list[NodeId] = []
        self.aside: set[int] = set()

    def next(self) -> tuple[NodeId, Message, int] | None:
        if not self.policy.per_peer:
            free = len(self.under_way) < self.policy.transfers and not self.aside
            return self.queue[0] if self.queue and free else None
        seen: set[NodeId] = set()
        for item in self.queue:
            if item[0] not in seen and item[0] not in self.under_way and item[2] not in self.aside:
                return item
            seen.add(item[0])
        return None


ACTIONS = st.one_of(
    st.tuples(st.just("append"), st.lists(st.integers(1, 4), max_size=6)),
    st.tuples(st.sampled_from(["pop", "pop", "ended", "set_aside", "resume", "clear", "replace"]), st.integers(0, 9)),
)


@settings(max_examples=300, deadline=None)
@given(policy=st.sampled_from(SENDERS), actions=st.lists(ACTIONS, max_size=40))
def test_an_outbox_does_what_the_obvious_one_does(policy: SenderPolicy, actions: list[tuple[str, object]]) -> None:
    outbox, model, number = make_outbox(policy), Model(policy), 0
    kept = [message(0.0), message(1.0)]
    for action, detail in actions:
        following = model.next()
        if action == "append":
            assert isinstance(detail, list)
            items = [(NodeId(peer), kept[(number + at) % 2]) for at, peer in enumerate(detail)]
            outbox.append(items, number)
            model.queue.extend((peer, what, number + at) for at, (peer, what) in enumerate(items))
            number += len(items)
        elif action == "pop" and following is not None:
            assert outbox.next() == following[:2]
            (receiver, what), popped = outbox.pop()
            assert (receiver, popped) == (following[0], following[2])
            assert what is following[1]
            model.queue.remove(following)
            model.under_way.append(receiver)
        elif action == "ended" and model.under_way:
            assert isinstance(detail, int)
            outbox.ended(receiver := model.under_way.pop(detail % len(model.under_way)))
        elif action == "set_aside" and following is not None:
            outbox.set_aside()
            model.aside.add(following[2])
        elif action == "resume":
            outbox.resume()
            model.aside.clear()
        elif action == "clear":
            outbox.clear()
            model.queue.clear()
            model.aside.clear()
        elif action == "replace":
            new = message(2.0)
            expected = sorted(item[2] for item in model.queue if item[1] is kept[0])
            assert outbox.replace(kept[0], new) == expected
            model.queue = deque((peer, new if what is kept[0] else what, n) for peer, what, n in model.queue)
            kept[0] = new
        assert len(outbox) == len(model.queue)
        assert outbox.is_busy == bool(model.queue or model.under_way)
        assert (outbox.startable > 0) == (model.next() is not None)
        assert [n for numbers in outbox.numbers() for n in numbers] == sorted(item[2] for item in model.queue)
