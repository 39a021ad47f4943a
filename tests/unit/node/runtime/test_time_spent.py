"""Where a real node's time goes: pauses lie over all else, peers are waited for, and late events take nothing back."""

from collections.abc import Sequence

import pytest

from node.core.algorithm import Algorithm, NodeContext
from node.core.counters import NodeCounters
from node.core.effects import Effect
from node.core.events import Event
from node.core.time_budget import TIME_FIGURES
from node.core.topology import full
from node.core.types import NodeId
from node.runtime.standstills import Standstills
from node.runtime.time_spent import TimeSpent
from tests.messages import CARRIES


class Waiter(Algorithm):
    """Waits on whom a test says."""

    carries = CARRIES

    def __init__(self) -> None:
        super().__init__(NodeContext(NodeId(0), full(4), (1,), 1, 1))
        self.peers: tuple[int, ...] = ()

    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        return ()

    def waits_on(self) -> Sequence[NodeId]:
        return [NodeId(peer) for peer in self.peers]


class Case:
    def __init__(self, *pauses: tuple[int, int], begin_ns: int = 0) -> None:
        self.algorithm = Waiter()
        self.counters = NodeCounters()
        self.spent = TimeSpent(self.algorithm, self.counters, Standstills(pauses))
        self.spent.count_until(99)  # before it has begun
        self.spent.begin(begin_ns)

    def settle(self, at_ns: int, *peers: int, computes: bool = False, sends: bool = False) -> None:
        self.algorithm.peers = peers
        self.spent.settle(at_ns, computes=computes, sends=sends)

    def amounts(self, until_ns: int) -> dict[str, int]:
        self.spent.count_until(until_ns)
        amounts = {activity: getattr(self.counters, figure) for activity, figure in TIME_FIGURES.items()}
        return {activity: amount for activity, amount in amounts.items() if amount}


def test_one_activity_after_the_other() -> None:
    case = Case()
    case.settle(0, computes=True)
    case.settle(10, 1, 2, sends=True)
    case.settle(15, 2, sends=True)
    case.settle(18, sends=True)
    case.spent.sent_all(20)
    case.settle(21, computes=True)
    assert case.amounts(25) == {"computing": 14, "waiting": 8, "sending": 2, "idle": 1}
    assert case.spent.waited_ns == {1: 5, 2: 8}


def test_a_wait_that_goes_on_counts_until_now() -> None:
    case = Case()
    case.settle(0, 3)
    assert case.amounts(4) == {"waiting": 4}
    assert case.spent.waited_ns == {3: 4}
    case.spent.sent_all(5)  # it waits all the same
    assert case.amounts(7) == {"waiting": 7}
    assert case.spent.waited_ns == {3: 7}


def test_a_pause_lies_over_what_the_node_does() -> None:
    case = Case((10, 20), (30, 40))
    case.settle(0, computes=True)
    assert case.amounts(15) == {"computing": 10, "paused": 5}
    case.settle(25, 1)
    assert case.amounts(50) == {"computing": 15, "waiting": 15, "paused": 20}
    assert case.spent.waited_ns == {1: 15}


def test_what_ends_while_the_node_stands_still_has_ended_afterwards() -> None:
    case = Case((10, 20))
    case.settle(0, sends=True)
    case.spent.sent_all(12)
    assert case.amounts(23) == {"sending": 10, "paused": 10, "idle": 3}


@pytest.mark.parametrize("read_ns", [5, 9, 14])
def test_an_event_that_comes_late_takes_nothing_back(read_ns: int) -> None:
    case = Case()
    case.settle(0, computes=True)
    before = case.amounts(read_ns)
    case.settle(8, 1)
    after = case.amounts(20)
    assert after["computing"] == max(8, before["computing"])
    assert sum(after.values()) == 20


def test_a_node_that_begins_later_counts_from_there() -> None:
    case = Case((20, 30), begin_ns=30)  # its pauses hold the time in which it was down as well
    case.settle(30, computes=True)
    assert case.amounts(34) == {"computing": 4}


def test_after_its_end_nothing_counts() -> None:
    case = Case()
    case.settle(0, computes=True)
    case.spent.end(7)
    case.settle(9)
    assert case.amounts(12) == {"computing": 7}


def test_in_words_an_algorithm_waits_for_nodes_unless_it_knows_better() -> None:
    case = Case()
    assert case.algorithm.waiting_for() is None
    case.algorithm.peers = (1, 3)
    assert case.algorithm.waiting_for() == "nodes 1, 3"


def test_it_is_known_until_when_time_has_been_counted() -> None:
    assert TimeSpent(Waiter(), NodeCounters(), Standstills()).until_ns is None
    case = Case(begin_ns=5)
    assert case.spent.until_ns == 5
    case.amounts(until_ns=20)
    assert case.spent.until_ns == 20
    case.spent.end(30)
    case.amounts(until_ns=40)
    assert case.spent.until_ns == 30 == 5 + case.counters.idle_ns
