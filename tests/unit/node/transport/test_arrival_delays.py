"""The delays that a receiver adds: latency there and back, jitter, order."""

from typing import Any

import numpy as np

from node.core.links import NetworkPlan
from node.core.schedule import LinkSpan, Overlay, Place, Schedule
from node.core.scheduled_network import scheduled
from node.core.types import NodeId
from node.host.clock import Clock
from node.transport.arrival_delays import ArrivalDelays

FIRST, SECOND = NodeId(0), NodeId(1)


def delays(*, dilation: float = 1.0, seed: int = 1, **links: Any) -> ArrivalDelays:
    network = NetworkPlan("access", np.ones(3), np.ones(3), **links)
    return ArrivalDelays(network, NodeId(2), seed, dilation)


def test_each_way_has_its_own_latency() -> None:
    latency = np.zeros((3, 3), dtype=np.int64)
    latency[0, 2], latency[1, 2], latency[2, 0], latency[2, 1] = 10_000, 20_000, 3_000_000, 4_000_000
    made = delays(latency_ns=latency)
    assert (made.due_ns(FIRST, 100), made.due_ns(SECOND, 100)) == (10_100, 20_100)
    assert (made.way_back_s(FIRST, 100), made.way_back_s(SECOND, 100)) == (0.003, 0.004)


def test_time_dilation_makes_both_longer() -> None:
    made = delays(latency_ns=2_000_000, dilation=2.5)
    assert made.due_ns(FIRST, 7) == 5_000_007
    assert made.way_back_s(FIRST, 7) == 0.005


def test_nothing_waits_on_links_without_latency() -> None:
    made = delays()
    assert made.due_ns(FIRST, 7) == 7
    assert made.way_back_s(FIRST, 7) == 0.0


def test_what_is_laid_over_a_path_counts_at_its_time_and_not_before_the_beginning() -> None:
    """Testbed time 0 at 1,000,000 of the monotonic clock, two real nanoseconds a testbed nanosecond; begun at 300."""
    spans = (
        LinkSpan(0, 500, Place("up", 0, -1), Overlay(latency_ns=40)),
        LinkSpan(700, 800, Place("down", -1, 2), Overlay(latency_factor=3.0)),
        LinkSpan(700, 800, Place("pair", 2, 0), Overlay(latency_ns=9)),
    )
    plan = scheduled(NetworkPlan("access", np.ones(3), np.ones(3), latency_ns=10), Schedule(links=spans))
    made = ArrivalDelays(plan, NodeId(2), 1, 2.0)

    def at(testbed_ns: int) -> tuple[int, int, int]:
        """Delays there of two senders, and of the way back to the first, in real nanoseconds."""
        now_ns = 1_000_000 + 2 * testbed_ns
        there = (made.due_ns(peer, now_ns) - now_ns for peer in (FIRST, SECOND))
        return *there, round(1e9 * made.way_back_s(FIRST, now_ns))  # type: ignore[return-value]

    assert at(299) == (20, 20, 20), "the start is not known yet"
    made.begin(Clock(1_000_000, 2.0), 300)
    assert at(299) == (20, 20, 20)
    assert at(300) == (100, 20, 20)
    assert at(500) == (20, 20, 20)
    assert at(700) == (60, 60, 38)
    assert at(800) == (20, 20, 20)


def test_jitter_has_its_deviation_and_comes_from_the_seed() -> None:
    def drawn(seed: int) -> list[int]:
        made = delays(latency_ns=100_000_000, jitter_ns=5_000_000, seed=seed)
        return [made.due_ns(FIRST, at) - at for at in range(0, 10**12, 10**9)]

    first = drawn(1)
    assert first == drawn(1)
    assert first != drawn(2)
    # Standard errors of 1,000 values: 0.16 ms of the mean, 2.2 % of the deviation; four of them.
    assert abs(np.mean(first) - 100e6) < 0.64e6
    assert abs(np.std(first) / 5e6 - 1) < 0.09


def test_no_message_overtakes_an_earlier_one_of_its_sender() -> None:
    made = delays(latency_ns=1_000_000, jitter_ns=500_000)
    due = [made.due_ns(FIRST, at) for at in range(0, 1_000_000, 1_000)]
    assert due == sorted(due)
    assert len(set(due)) < len(due)  # some had to wait for one before them
    alone = delays(latency_ns=1_000_000, jitter_ns=500_000, seed=1)
    others = [alone.due_ns(NodeId(at % 2), at) for at in range(100)]
    assert others != sorted(others)  # of another sender they may
