"""The verdict on links that the kernel shapes: each finding fails alone, and what was asked for never does."""

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.checks import TOLERANCES, Check
from orchestrator.fidelity import Measured, MeasuredLink, TimedMessage, judge
from orchestrator.kernel_fidelity import KernelLinks, QueueDrops, kernel_checks, kernel_figures
from tests.unit.orchestrator.test_fidelity import LINK, NODE

GOOD = KernelLinks(
    nodes_shaped=8,
    changes_late_ns={1: 2_000_000, 2: 4_000_000, 3: None},
    compared=720,
    queues=(QueueDrops("node 0, eth1 queue of fa01:101", 10_000, 10), QueueDrops("node 1, fm-eth1 queue", 3, 1)),
    throttled_percent={0: 0.2, 1: 0.9},
    waited_percent={0: 30.0},
)


def checks(**changes: Any) -> dict[str, Check]:
    return {check.name: check for check in kernel_checks(replace(GOOD, **changes), 1.0, TOLERANCES)}


def test_what_is_as_planned_fails_nothing() -> None:
    assert [check.name for check in checks().values() if not check.ok] == []
    assert kernel_figures(GOOD) == {
        "nodes_shaped": 8,
        "compared": 720,
        "latency_by": "kernel",
        "packets": 10_003,
        "dropped_unasked": 11,
        "throttled_percent_max": 0.9,
        "cpu_waited_percent_max": 30.0,
    }


@pytest.mark.parametrize(
    ("changes", "name", "achieved", "note"),
    [
        (
            {"differences": ("node 1, eth1 class fa01:100: present=False: must be True",) * 2},
            "disciplines, classes and filters that are not as planned",
            2,
            "of 720 that were read back; node 1, eth1 class fa01:100: present=False: must be True",
        ),
        (
            {"unread": {4: "node 4: there is no device eth1", 2: "node 2: gone"}},
            "nodes whose links could not be read back",
            2,
            "node 2: gone",
        ),
        ({"changes_failed": ("at 3 s: no",)}, "changes of the kernel's links that failed", 1, "at 3 s: no"),
        (
            {"changes_late_ns": {1: 2_000_000, 2: 6_000_000}},
            "delay of capacity changes, 99th percentile",
            6.0,
            "of 2 instants, the worst 6.00 ms",
        ),
        (
            {"queues": (QueueDrops("node 0, eth1 queue of fa01:101", 10_000, 11), QueueDrops("node 1, q", 9, 1))},
            "packets that queues dropped unasked",
            12,
            "of 10,009; at node 0, eth1 queue of fa01:101 11 of 10,000",
        ),
        (
            {"throttled_percent": {0: 0.0, 5: 1.2}},
            "time for which a node was denied its processors",
            1.2,
            "node 5, the worst of 2; mean 0.6 %",
        ),
    ],
)
def test_each_finding_fails_alone(changes: dict[str, Any], name: str, achieved: float, note: str) -> None:
    found = checks(**changes)
    assert [check.name for check in found.values() if not check.ok] == [name]
    assert (found[name].achieved, found[name].note) == (achieved, note)


def test_what_is_unknown_is_not_judged() -> None:
    names = set(checks(queues=(), throttled_percent={}, changes_late_ns={1: None}))
    assert names == {
        "disciplines, classes and filters that are not as planned",
        "changes of the kernel's links that failed",
    }


def test_lateness_counts_in_testbed_time() -> None:
    late = replace(GOOD, changes_late_ns={1: 12_000_000})
    assert not all(check.ok for check in kernel_checks(late, 1.0, TOLERANCES))
    assert all(check.ok for check in kernel_checks(late, 4.0, TOLERANCES))


def verdict(link: MeasuredLink, *, adds_latency: bool = True) -> dict[str, dict[str, Any]]:
    measured = Measured("docker", 1.0, (link,), (NODE,), kernel=replace(GOOD, adds_latency=adds_latency))
    return {check["name"].partition(",")[0]: check for check in judge(measured)["checks"]}


@pytest.mark.parametrize(
    ("adds_latency", "requested_ms", "achieved_ms", "ok"),
    [
        (True, 10.0, 10.9, True),
        (True, 10.0, 11.1, False),
        (True, 100.0, 102.9, True),
        (True, 100.0, 103.1, False),
        (False, 10.0, 11.9, True),
        (False, 10.0, 12.1, False),
        (False, 100.0, 102.9, False),
    ],
)
def test_round_trips_are_judged_by_what_adds_the_latency(
    adds_latency: bool, requested_ms: float, achieved_ms: float, ok: bool
) -> None:
    link = replace(LINK, requested_rtt_ms=requested_ms, rtt_p50_ms=achieved_ms, rtt_p99_ms=achieved_ms)
    assert verdict(link, adds_latency=adds_latency)["round trip"]["ok"] or not ok
    measured = Measured("docker", 1.0, (link,), (NODE,), kernel=replace(GOOD, adds_latency=adds_latency))
    (median, _) = [check for check in judge(measured)["checks"] if check["name"].startswith("round trip")]
    assert median["ok"] is ok


# Of the link's 12 Mbit/s and 50 ms: 15,000 bytes take 10 ms, 150,000 take 100 ms. Its bucket holds 3,000 bytes, and
# its round trip may be off by 1.5 ms, which are 2,250 bytes.
MESSAGE, BURST = TimedMessage(15_000, 60.0, 60.5, 3_000), TimedMessage(150_000, 150.0, 149.0, 3_000)


@pytest.mark.parametrize(
    ("achieved_ms", "ok"), [(60.0, True), (40.0, True), (61.7, True), (62.0, False), (None, False)]
)
def test_a_message_takes_no_longer_than_its_size_rate_and_latency_say(achieved_ms: float | None, ok: bool) -> None:
    found = verdict(replace(LINK, timed=(replace(MESSAGE, achieved_ms=achieved_ms), BURST)))
    name = "one message of 15"  # 000 bytes and its answer
    assert (found[name]["requested"], found[name]["achieved"]) == (60.0, achieved_ms)
    assert found[name]["ok"] is ok


@pytest.mark.parametrize(
    ("achieved_ms", "early_bytes", "ok"),
    [(150.0, 0, True), (170.0, 0, True), (147.0, 4_500, True), (146.0, 6_000, False), (None, None, False)],
)
def test_no_more_passes_at_once_than_the_bucket_holds(
    achieved_ms: float | None, early_bytes: float | None, ok: bool
) -> None:
    found = verdict(replace(LINK, timed=(MESSAGE, replace(BURST, achieved_ms=achieved_ms))))
    check = found["bytes ahead of the rate in the first 100 ms"]
    assert (check["requested"], check["achieved"]) == (3_000, early_bytes)
    assert check["ok"] is ok


def test_links_that_are_not_the_kernels_have_neither() -> None:
    assert not [name for name in verdict(LINK) if name.startswith(("one message", "bytes ahead"))]
