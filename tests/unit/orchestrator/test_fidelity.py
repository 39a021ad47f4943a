"""The verdict on a real run: each check fails alone, what cannot be measured fails, and deaths are named."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.counters import NodeCounters
from node.core.lateness import Lateness
from node.emulation.statistics import EmulatorStatistics
from orchestrator.checks import TOLERANCES
from orchestrator.fidelity import (
    DIRECT_LINKS,
    EXIT_UNFAITHFUL,
    Measured,
    MeasuredLink,
    NodeFigures,
    cpu_pressure,
    exit_code,
    is_unfaithful,
    judge,
    stamp,
    unfaithful_reasons,
)
from orchestrator.results.files import to_json

LINK = MeasuredLink(
    source=0,
    destination=1,
    requested_mbps=12.0,
    achieved_mbps=11.9,
    requested_rtt_ms=50.0,
    rtt_p50_ms=50.4,
    rtt_p99_ms=52.0,
    probes=100,
)
NODE = NodeFigures(
    node=0,
    counters=NodeCounters(
        declared_ns=10_000_000_000,
        overruns=2,
        overrun_ns=50_000_000,
        in_flight_bytes_max=72_000,
        in_flight_bytes_bound=108_000,
        cpu_ns=3_000_000_000,
    ),
    blocks=100,
    loop_late_p99_ns=400_000,
    arrivals=5_000,
    late_p99_ns=1_200_000,
    late_max_ns=9_000_000,
    memory_bytes=60_000_000,
)
EMULATOR = EmulatorStatistics(
    starts=10_000,
    finishes=9_990,
    aborts=10,
    changes=40,
    ignored=0,
    excessive_delays=3,
    nodes_gone=2,
    wakeup_lateness_ns=Lateness(count=9_990, p50=80_000, p99=900_000, max=30_000_000),
    start_lateness_ns=Lateness(count=10_000, p50=90_000, p99=950_000, max=31_000_000),
    change_lateness_ns=Lateness(count=40, p50=70_000, p99=300_000, max=300_000),
    cpu_s=1.5,
)
GOOD = Measured(
    runtime="processes",
    time_dilation=2.0,
    links=(LINK, replace(LINK, source=2, requested_mbps=60.0, achieved_mbps=60.4)),
    nodes=(NODE, replace(NODE, node=1)),
    emulator=EMULATOR,
    cpu_pressure=(0.0, 41.5),
)


def link(**changes: Any) -> Measured:
    return replace(GOOD, links=(replace(LINK, **changes), *(GOOD.links or ())[1:]))


def node(**changes: Any) -> Measured:
    return replace(GOOD, nodes=(GOOD.nodes[0], replace(GOOD.nodes[1], **changes)))


def counted(**changes: int) -> NodeFigures:
    return replace(NODE, counters=replace(NODE.counters, **changes))


def emulator(**changes: Any) -> Measured:
    return replace(GOOD, emulator=replace(EMULATOR, **changes))


def late_changes(p99: int) -> Measured:
    return emulator(change_lateness_ns=replace(EMULATOR.change_lateness_ns, p99=p99, max=p99))


def failed(measured: Measured) -> list[str]:
    return [check["name"] for check in judge(measured)["checks"] if not check["ok"]]


def test_a_run_within_its_tolerances_is_faithful() -> None:
    fidelity = judge(GOOD)
    assert (fidelity["verdict"], fidelity["runtime"], fidelity["time_dilation"]) == ("faithful", "processes", 2.0)
    assert fidelity["statement"] == "All 13 checks are within their tolerance."
    assert (unfaithful_reasons(fidelity), exit_code(fidelity), stamp(fidelity)) == ([], 0, "faithful")
    assert fidelity["figures"]["memory_bytes"] == 120_000_000
    assert fidelity["figures"]["cpu_pressure_percent_after"] == 41.5
    assert json.loads(to_json(fidelity)) == fidelity


def test_of_links_that_nothing_shapes_nothing_is_requested() -> None:
    """Neither rates and round trips nor arrivals are judged, and the record says so."""
    slow = replace(link(rtt_p50_ms=400.0, rtt_p99_ms=900.0, achieved_mbps=None), emulator=None, links_shaped=False)
    late = replace(slow, nodes=(replace(NODE, late_p99_ns=10**9),))
    fidelity = judge(late)
    assert (fidelity["verdict"], fidelity["links"]) == ("faithful", DIRECT_LINKS)
    assert fidelity["statement"].startswith("All 3 checks are within their tolerance. Links were direct and not shaped")
    assert [check["name"] for check in fidelity["checks"]] == [
        "training longer than declared",
        "bytes in flight",
        "messages refused on arrival",
    ]
    assert fidelity["figures"]["round_trip_ms_median"] == (400.0 + LINK.rtt_p50_ms) / 2  # type: ignore[operator]
    assert failed(replace(late, nodes=(counted(overrun_ns=10**12),))) == ["training longer than declared"]
    assert judge(replace(late, links=None))["figures"]["round_trip_ms_median"] is None


LINKS = "links of 12 Mbit/s and 50 ms"
ALONE = {
    "slow link": (link(achieved_mbps=11.6), f"rate, {LINKS}"),
    "fast link": (link(achieved_mbps=12.4), f"rate, {LINKS}"),
    "rate not measured": (link(achieved_mbps=None), f"rate, {LINKS}"),
    "no number": (link(achieved_mbps=float("nan")), f"rate, {LINKS}"),
    "late median": (link(rtt_p50_ms=52.1), f"round trip, median, {LINKS}"),
    "early median": (link(rtt_p50_ms=47.9), f"round trip, median, {LINKS}"),
    "long tail": (link(rtt_p99_ms=56.1), f"round trip, 99th percentile, {LINKS}"),
    "pacing": (node(counters=counted(overrun_ns=101_000_000).counters), "training longer than declared"),
    "arrivals": (node(late_p99_ns=5_100_000), "delay of arrivals, 99th percentile"),
    "in flight": (node(counters=counted(in_flight_bytes_max=108_001).counters), "bytes in flight"),
    "change made late": (late_changes(5_100_000), "delay of capacity changes, 99th percentile"),
    "late starts": (emulator(excessive_delays=11), "transfers begun too late"),
    "ignored": (emulator(ignored=1), "requests that the link emulator ignored"),
    "refused": (replace(GOOD, rejected={0: {}, 1: {"flood": 1}}), "messages refused on arrival"),
    "a late return": (replace(GOOD, faults_late_ns=(0, 50_100_000)), "delay of planned faults of nodes, the worst"),
    "an early crash": (replace(GOOD, faults_late_ns=(-50_100_000,)), "delay of planned faults of nodes, the worst"),
    "no return": (replace(GOOD, faults_late_ns=(0, None)), "delay of planned faults of nodes, the worst"),
    "stalled": (replace(GOOD, stalled=True), "stalls"),
    "death": (replace(GOOD, died={3: "killed by signal 9"}), "nodes that died"),
    "hung": (
        replace(GOOD, died={3: "was killed"}, hung=frozenset({3}), deaths_allowed=True),
        "nodes that did not answer at the end",
    ),
    "no word of the emulator": (replace(GOOD, emulator=None, links_emulated=True), "link emulators that reported"),
    "no links": (replace(GOOD, links=()), "links measured before the run"),
    "no nodes": (replace(GOOD, nodes=()), "nodes that reported"),
}


@pytest.mark.parametrize(("measured", "name"), ALONE.values(), ids=ALONE)
def test_each_check_fails_alone(measured: Measured, name: str) -> None:
    fidelity = judge(measured)
    assert failed(measured) == [name]
    assert fidelity["verdict"] == "unfaithful"
    assert [reason.split(":")[0] for reason in unfaithful_reasons(fidelity)] == [name]
    assert exit_code(fidelity) == EXIT_UNFAITHFUL
    to_json(fidelity)


def test_what_the_user_allows_is_still_unfaithful() -> None:
    fidelity = judge(link(achieved_mbps=6.0), allowed=True)
    assert (fidelity["allowed"], stamp(fidelity), exit_code(fidelity)) == (True, "unfaithful", 0)
    assert unfaithful_reasons(fidelity) == [
        f"rate, {LINKS}: 6 Mbit/s, requested 12 Mbit/s (tolerance: 3 %)",
    ]


def test_the_worst_of_a_profile_speaks_for_it() -> None:
    links = tuple(replace(LINK, source=index, achieved_mbps=12.0 - 0.2 * (index == 3)) for index in range(6))
    rate = judge(replace(GOOD, links=links))["checks"][0]
    assert (rate["achieved"], rate["note"]) == (11.8, "node 3 to 1, the worst of 6")
    almost = (*links, replace(LINK, requested_rtt_ms=0.1 + 49.9, requested_mbps=12.000000000000002))
    assert judge(replace(GOOD, links=almost))["checks"][0]["note"].endswith("the worst of 7")
    silent = (*links, replace(LINK, rtt_p50_ms=None, rtt_p99_ms=None, probes=0))
    names = [f"round trip, median, {LINKS}", f"round trip, 99th percentile, {LINKS}"]
    assert failed(replace(GOOD, links=silent)) == names


def test_unlimited_parked_and_missing_links() -> None:
    unlimited = replace(LINK, requested_mbps=None, achieved_mbps=None, requested_rtt_ms=0.0, rtt_p50_ms=0.9)
    unlimited = replace(unlimited, rtt_p99_ms=4.9)
    parked = replace(LINK, requested_mbps=0.0, achieved_mbps=0.0, rtt_p50_ms=None, rtt_p99_ms=None, probes=0)
    assert failed(replace(GOOD, links=(unlimited, parked))) == []
    assert failed(replace(GOOD, links=(replace(parked, achieved_mbps=0.1),))) == ["rate, links of 0 Mbit/s and 50 ms"]
    assert failed(replace(GOOD, links=None, emulator=None)) == []


def test_requested_jitter_is_no_fault() -> None:
    shaky = replace(LINK, rtt_jitter_ms=10.0, rtt_p50_ms=53.0, rtt_p99_ms=85.0)
    assert failed(replace(GOOD, links=(shaky,))) == []
    assert len(failed(replace(GOOD, links=(replace(shaky, rtt_jitter_ms=0.0),)))) == 2
    assert failed(replace(GOOD, links=(replace(shaky, rtt_p50_ms=70.0),)))


def test_a_death_that_the_experiment_allows_is_named_all_the_same() -> None:
    fidelity = judge(replace(GOOD, died={5: "ended with code 1", 3: "killed by signal 9"}, deaths_allowed=True))
    assert fidelity["verdict"] == "faithful"
    assert fidelity["statement"].endswith("node 3 killed by signal 9; node 5 ended with code 1.")
    assert fidelity["died"] == {"3": "killed by signal 9", "5": "ended with code 1"}
    assert fidelity["checks"][-1]["note"] == "node 3, 5"


def test_a_node_that_hangs_beside_one_that_may_die() -> None:
    measured = replace(GOOD, died={5: "ended with code 1", 3: "was killed"}, hung=frozenset({3}), deaths_allowed=True)
    checks = judge(measured)["checks"][-2:]
    assert [(check["name"], check["ok"], check["note"]) for check in checks] == [
        ("nodes that died", True, "node 5"),
        ("nodes that did not answer at the end", False, "node 3"),
    ]


@pytest.mark.parametrize("status", ["failed", "stalled", "diverged"])
def test_a_run_that_did_not_come_to_its_end_has_no_good_verdict(status: str) -> None:
    fidelity = judge(GOOD, status)
    assert fidelity["verdict"] is None
    assert f"The run {status}: this is of the time until then" in fidelity["statement"]
    assert (unfaithful_reasons(fidelity), stamp(fidelity)) == ([], None)
    bad = judge(replace(GOOD, stalled=True), status)
    assert (bad["verdict"], len(unfaithful_reasons(bad))) == ("unfaithful", 1)


@pytest.mark.parametrize("status", ["done", "interrupted"])
def test_what_was_done_until_an_interrupt_is_judged(status: str) -> None:
    assert judge(GOOD, status) == judge(GOOD)


def test_one_late_message_of_a_few_is_not_a_percentile() -> None:
    rare = node(arrivals=4, late_p99_ns=9_000_000)
    assert failed(rare) == []
    assert failed(replace(rare, nodes=rare.nodes[1:])) == ["delay of arrivals, 99th percentile"]


def test_one_late_start_is_allowed_however_few_transfers_there_are() -> None:
    assert failed(emulator(starts=10, excessive_delays=1)) == []
    assert failed(emulator(starts=10, excessive_delays=2)) == ["transfers begun too late"]


def test_what_the_emulator_ignored_is_told_with_its_reason() -> None:
    reasons = unfaithful_reasons(judge(emulator(ignored=6_464)))
    assert reasons == ["requests that the link emulator ignored: 6,464 records, requested 0 records (tolerance: none)"]


def test_refused_messages_are_told_by_reason_and_node() -> None:
    fidelity = judge(replace(GOOD, rejected={2: {"flood": 1_200, "checksum": 1}, 0: {"flood": 2}, 1: {}}))
    (check,) = [check for check in fidelity["checks"] if not check["ok"]]
    assert (check["achieved"], check["note"]) == (1_203, "1 checksum, 1,202 flood; at node 0, 2")
    assert fidelity["figures"]["rejected"] == {"checksum": 1, "flood": 1_202}


def test_values_that_saturated_are_told_and_decide_nothing() -> None:
    fidelity = judge(node(counters=counted(values_saturated=2_018).counters))
    assert fidelity["verdict"] == "faithful"
    assert fidelity["statement"].endswith("2,018 values were beyond the largest of wire.dtype and travelled as it.")
    assert "values" not in judge(GOOD)["statement"]


def test_without_changes_none_can_be_late() -> None:
    names = [check["name"] for check in judge(emulator(changes=0))["checks"]]
    assert not [name for name in names if "changes" in name]


def test_other_records_of_fidelity_are_no_verdict() -> None:
    for record in (None, {}, {"verdict": "exact", "checks": []}):
        assert not is_unfaithful(record)
        assert exit_code(record) == 0
        assert unfaithful_reasons(record) == []
    assert unfaithful_reasons({"verdict": "unfaithful"}) == []


@given(
    st.lists(
        st.tuples(st.floats(0.1, 1e3), st.none() | st.floats(0, 2e3), st.floats(0, 300), st.none() | st.floats(0, 400)),
        max_size=5,
    ),
    st.lists(st.tuples(*[st.integers(0, 2**40)] * 4), max_size=4),
)
def test_faithful_means_that_every_figure_is_within_its_tolerance(
    links: list[tuple[float, float | None, float, float | None]], nodes: list[tuple[int, int, int, int]]
) -> None:
    measured = Measured(
        runtime="processes",
        time_dilation=1.0,
        links=tuple(replace(LINK, requested_mbps=a, achieved_mbps=b, requested_rtt_ms=c, rtt_p50_ms=d, rtt_p99_ms=d)
                    for a, b, c, d in links),
        nodes=tuple(replace(counted(declared_ns=a, overrun_ns=b, in_flight_bytes_max=d), late_p99_ns=c)
                    for a, b, c, d in nodes),
    )  # fmt: skip
    good = bool(links and nodes)
    for wanted, got, rtt, median in links:
        good &= got is not None and abs(got - wanted) <= TOLERANCES.rate_percent / 100 * wanted
        good &= median is not None and abs(median - rtt) <= 1 + 0.02 * rtt
    for declared, overrun, late, in_flight in nodes:
        good &= not declared or 100 * overrun / declared <= 1
        good &= late <= 5_000_000 and in_flight <= 108_000
    assert (judge(measured)["verdict"] == "faithful") == good


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("some avg10=2.04 avg60=0.75 avg300=0.40 total=157622151\nfull avg10=0.00 avg60=0 avg300=0 total=0\n", 2.04),
        ("some avg10=100.00 avg60=0.75", 100.0),
        ("", None),
        (None, None),
    ],
)
def test_pressure_as_the_kernel_tells_it(text: str | None, value: float | None) -> None:
    assert cpu_pressure(text) == value
