"""The books agree with the figures and with the records: by tag, and as histograms that can be made of the table."""

from collections import Counter
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.bodies import Whole
from node.core.counters import NodeCounters
from node.core.messages import Message
from node.core.recipients import Fanout
from node.core.types import NodeId
from node.core.units import NS_PER_S
from node.metrics import NODE_METRICS
from node.runtime import message_books
from node.runtime.accounting import Accounting
from node.runtime.message_books import BucketCounts, MessageBooks
from node.runtime.message_records import Column
from tests.conformance.test_driver_equals_world import table_of_drivers
from tests.simulation.build import EVERY_ALGORITHM, network
from tests.virtual import Scenario, VirtualNetwork


class Tag(IntEnum):
    MODEL = 1
    ANSWER = 7


def message(tag: Tag) -> Message:
    return Message(tag, 0, Whole(np.zeros(2, dtype=np.float32)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-5, 40)), st.sets(st.integers(-5, 40)))
def test_a_number_counts_in_the_first_bucket_whose_bound_it_does_not_exceed(
    values: list[int], bounds: set[int]
) -> None:
    counts = BucketCounts(sorted(bounds))
    for value in values:
        counts.add(value)
    for index, bound in enumerate(sorted(bounds)):
        assert sum(counts.counts[: index + 1]) == sum(value <= bound for value in values)
    assert sum(counts.counts) == len(values)
    assert counts.total == sum(values)


def check_same(counted: BucketCounts, values: Column) -> None:
    at = np.searchsorted(np.array(counted.bounds), values, side="left")
    assert counted.counts == np.bincount(at, minlength=len(counted.bounds) + 1).tolist()
    assert counted.total == int(values.sum())


@pytest.mark.parametrize("kind", EVERY_ALGORITHM)
def test_all_that_is_counted_can_be_made_of_the_table(kind: str) -> None:
    scenario = Scenario(kind, network=network(6, 1.6, latency_ns=700_000), step_ms=(1.0, 1.1, 1.3, 0.9, 2.5, 1.0))
    net = VirtualNetwork(scenario, bounded=False)
    net.advance(60_000_000)
    table = table_of_drivers(net)
    for node, driver in enumerate(net.drivers):
        books, counters = driver.books, driver.current_counters()
        sent, own = (table["sender"] == node) & (table["sent_ns"] >= 0), table["receiver"] == node
        averaged = own & (table["aggregated_ns"] >= 0)
        check_same(books.transfer_ns, (table["sent_ns"] - table["started_ns"])[sent])
        check_same(books.waited_ns, (table["aggregated_ns"] - table["delivered_ns"])[averaged])
        check_same(books.staleness, table["staleness"][averaged])
        for fate, by_tag in books.by_fate.items():
            assert sum(by_tag) == getattr(counters, f"messages_{fate}"), fate
        assert Counter(table["kind"][sent].tolist()) == {tag: n for tag, n in enumerate(books.by_fate["sent"]) if n}
        assert sum(driver.steps_ns.counts) == counters.rounds
        assert driver.steps_ns.total == counters.declared_ns  # of an ideal host


@pytest.mark.parametrize("as_fanout", [False, True])
def test_messages_of_several_tags_are_kept_apart(as_fanout: bool) -> None:
    books, counters = MessageBooks(Accounting(40), NodeCounters()), NodeCounters()
    model, answer = message(Tag.MODEL), message(Tag.ANSWER)
    which: Sequence[int] = [0, 1, 0]
    items = [(NodeId(1), (model, answer)[index]) for index in which]
    fanout = Fanout([model, answer], np.array([1, 1, 1]), np.array(which))
    books.queued(NodeId(0), fanout if as_fanout else items, 5)
    assert (books.by_fate["queued"][Tag.MODEL], books.by_fate["queued"][Tag.ANSWER]) == (2, 1)
    books.unreachable(0, Tag.MODEL, 6)
    books.replaced([2], model, answer)
    assert books.cancelled([range(1, 3)], 7) == 2
    assert (books.by_fate["cancelled"][Tag.MODEL], books.by_fate["cancelled"][Tag.ANSWER]) == (0, 2)
    assert books.by_fate["lost"][Tag.MODEL] == 1
    assert books.cancelled([], 8) == 0
    assert counters == NodeCounters()


def test_of_deliveries_that_are_never_averaged_in_the_oldest_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_books, "DELIVERIES_KEPT", 4)
    books = MessageBooks(Accounting(40, keep_messages=False), NodeCounters())
    for number in range(10):
        delivery = books.delivered(NodeId(1), number, message(Tag.ANSWER), 100 * number)
        assert delivery == number
    books.aggregated([9, 8, 7, 6], 1_000, 3)
    assert books.waited_ns.total == 100 + 200 + 300 + 400
    assert books.by_fate["aggregated"][Tag.ANSWER] == 4
    assert len(books._arrivals) == 3 * 4


def test_bounds_are_those_of_the_table() -> None:
    books = MessageBooks(Accounting(40), NodeCounters())
    for counts, name in ((books.transfer_ns, "transfer_seconds"), (books.waited_ns, "age_seconds")):
        assert [bound / NS_PER_S for bound in counts.bounds] == [*NODE_METRICS[f"fragmesh_{name}"].buckets]
    assert books.staleness.bounds == NODE_METRICS["fragmesh_staleness_rounds"].buckets
