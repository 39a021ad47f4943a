"""Entries become the spans that they say, at the times and over the links and nodes that they name."""

from math import inf
from pathlib import Path
from typing import Any

import pytest

from node.core.bounds import CHANGES_MAX
from node.core.errors import ConfigError
from node.core.links import CapacityChange, PartitionChange
from node.core.schedule import IN_NONE, LinkSpan, NodeSpan, Overlay, PartitionSpan, Place, Schedule
from orchestrator.experiment.schedule import resolve
from tests.unit.orchestrator.experiment.schedule.entries import S, network_of, resolved

LATER = {"action": "degrade", "latency_ms": 3}


def spans(*entries: dict[str, Any], **more: Any) -> list[tuple[float, float | None]]:
    """The times of the links of nodes in seconds, as one link has them."""
    found = resolved(*entries, **more).schedule.links
    return [(span.begin_ns / S, None if span.end_ns is None else span.end_ns / S) for span in found]


def test_nothing_becomes_nothing() -> None:
    network = network_of()
    found = resolved(network=network)
    assert found.schedule == Schedule()
    assert found.entries == ()
    assert found.network is network


# -- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({}, [(0, None)]),
        ({"at_s": 2}, [(2, None)]),
        ({"at_s": 2, "for_s": 0.5}, [(2, 2.5)]),
        ({"at_s": 2, "until_s": 3}, [(2, 3)]),
        ({"until_s": 99}, [(0, 99)]),
        ({"at_s": 1, "for_s": 2, "every_s": 7}, [(1, 3), (8, 10), (15, 17)]),
        ({"at_s": 6, "for_s": 2, "every_s": 7}, [(6, 8), (13, 15)]),  # not again at 20 s, when the run is over
        ({"for_s": 2, "every_s": 7, "until_s": 7}, [(0, 2)]),
        ({"for_s": 2, "every_s": 7, "until_s": 7.5}, [(0, 2), (7, 9)]),
        ({"for_s": 2, "every_s": 7, "until_s": 1}, [(0, 2)]),
    ],
    ids=str,
)
def test_times(times: dict[str, float], expected: list[tuple[float, float | None]]) -> None:
    assert spans({**LATER, "nodes": 0, "direction": "up", **times}) == expected


def test_without_an_end_of_the_run() -> None:
    entry = {**LATER, "nodes": 0, "direction": "up"}
    assert spans({**entry, "at_s": 5000}, time_s=None) == [(5000, None)]
    assert len(spans({**entry, "every_s": 2, "for_s": 1, "until_s": 9}, time_s=None)) == 5
    with pytest.raises(ConfigError, match=r"schedule\[0\].every_s=2: must come with until_s, or with stop.time_s"):
        spans({**entry, "every_s": 2, "for_s": 1}, time_s=None)


def test_an_entry_that_would_never_begin() -> None:
    spans({**LATER, "nodes": 0, "at_s": 19.9})
    with pytest.raises(ConfigError) as caught:
        spans({**LATER, "nodes": 0}, {**LATER, "nodes": 0, "at_s": 20})
    assert str(caught.value) == "schedule[1].at_s=20: must be below stop.time_s=20, where the run ends"


# -- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "places"),
    [
        ({"nodes": [2, 4]}, [("up", 2, -1), ("up", 4, -1), ("down", -1, 2), ("down", -1, 4)]),
        ({"nodes": "stragglers", "direction": "up"}, [("up", 1, -1), ("up", 5, -1)]),
        ({"nodes": 7, "direction": "down"}, [("down", -1, 7)]),
        ({"pairs": [[0, 3], [4, 1]]}, [("pair", 0, 3), ("pair", 3, 0), ("pair", 4, 1), ("pair", 1, 4)]),
        ({"pairs": [[0, 3]], "both_ways": False}, [("pair", 0, 3)]),
    ],
    ids=str,
)
def test_places(fields: dict[str, Any], places: list[tuple[str, int, int]]) -> None:
    found = resolved({**LATER, **fields}).schedule
    assert [tuple(span.place) for span in found.links] == places


def test_a_degradation_has_all_that_it_says() -> None:
    entry = {
        "action": "degrade",
        "nodes": 0,
        "direction": "up",
        "bandwidth_factor": 0.5,
        "bandwidth_mbps": 4,
        "latency_factor": 3,
        "latency_ms": 20,
        "jitter_ms": 2.5,
        "loss_percent": 10,
    }
    found = resolved({**entry, "at_s": 1, "for_s": 1})
    overlay = Overlay(
        bandwidth_factor=0.5,
        bandwidth_mbps_max=4,
        latency_factor=3,
        latency_ns=20_000_000,
        jitter_ns=2_500_000,
        loss=0.1,
    )
    assert found.schedule.links == (LinkSpan(1 * S, 2 * S, Place("up", 0, -1), overlay),)
    assert found.network.changes == ((S, CapacityChange("up", 0, -1, 4)), (2 * S, CapacityChange("up", 0, -1, 10)))
    assert found.network.path(0, 1, S).latency_ns == 23_000_000
    assert found.network.path(0, 1, 2 * S).latency_ns == 1_000_000
    assert (
        resolved({"action": "degrade", "nodes": 0, "latency_ms": 1}).schedule.links[0].overlay.bandwidth_mbps_max == inf
    )


def test_pairs_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match=r"schedule\[0\].pairs\[1\]=\[3, 8\]: must be between 0 and 7"):
        resolved({**LATER, "pairs": [[0, 1], [3, 8]]})


# -- traces ----------------------------------------------------------------------------------------------------------

CSV = "time_s,bandwidth_mbps\n0,4\n1,0\n3,8\n"


def rates(folder: Path, text: str = CSV, **fields: Any) -> list[tuple[float, float]]:
    """The changes of a link that follows a file, in seconds and Mbit/s."""
    (folder / "t").write_text(text)
    found = resolved({"action": "trace", "file": "t", "nodes": 0, "direction": "up", **fields}, folder=folder)
    assert {(change.kind, change.source) for _, change in found.network.capacity_changes()} == {("up", 0)}
    return [(at_ns / S, change.mbps) for at_ns, change in found.network.capacity_changes()]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [(0, 4), (1, 0), (3, 8)]),
        ({"at_s": 2}, [(2, 4), (3, 0), (5, 8)]),
        ({"at_end": "hold", "until_s": 5}, [(0, 4), (1, 0), (3, 8), (5, 10)]),
        ({"at_end": "hold", "until_s": 2}, [(0, 4), (1, 0), (2, 10)]),
        ({"at_end": "undo"}, [(0, 4), (1, 0), (3, 10)]),
        ({"at_end": "undo", "at_s": 4, "for_s": 99}, [(4, 4), (5, 0), (7, 10)]),
        ({"at_end": "loop", "until_s": 8}, [(0, 4), (1, 0), (3, 4), (4, 0), (6, 4), (7, 0), (8, 10)]),
        ({"at_end": "loop", "at_s": 14}, [(14, 4), (15, 0), (17, 4), (18, 0), (20, 10)]),
        (
            {"at_end": "hold", "for_s": 4, "every_s": 9, "until_s": 10},
            [(0, 4), (1, 0), (3, 8), (4, 10), (9, 4), (10, 0), (12, 8), (13, 10)],
        ),
    ],
    ids=str,
)
def test_traces(fields: dict[str, Any], expected: list[tuple[float, float]], tmp_path: Path) -> None:
    assert rates(tmp_path, **fields) == expected


def test_before_its_first_row_a_trace_leaves_the_link_alone(tmp_path: Path) -> None:
    assert rates(tmp_path, "time_s,bandwidth_mbps\n2,4\n3,5\n", at_s=1) == [(3, 4), (4, 5)]


def test_a_packet_delivery_trace_loops(tmp_path: Path) -> None:
    """Two packets in 2 ms are 12.032 Mbit/s, one in the next two is half of it."""
    found = rates(tmp_path, "1\n2\n4\n", format="mahimahi", interval_ms=2, until_s=0.008)
    assert found == [
        (0, pytest.approx(12.032)),
        (0.002, pytest.approx(6.016)),
        (0.004, pytest.approx(12.032)),
        (0.006, pytest.approx(6.016)),
        (0.008, 10),
    ]


def test_latency_and_loss_of_a_trace_come_on_top(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("time_s,latency_ms,loss_percent\n0,5,50\n2,0,0\n")
    network = network_of(preset={"kind": "uniform", "bandwidth_mbps": 10, "latency_ms": 1, "loss_percent": 50})
    entry = {"action": "trace", "file": "t", "pairs": [[0, 1]], "both_ways": False}
    found = resolved(entry, network=network, folder=tmp_path).network
    assert not found.changes
    assert (found.path(0, 1, S).latency_ns, found.path(0, 1, S).loss) == (6_000_000, 0.75)
    assert found.path(0, 1, 2 * S) == found.path(1, 0, S) == network.path(0, 1)


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        (None, {}, ".file=t: must be a readable text file"),
        ("time_s,bandwidth_mbps\n0,1\n0,2\n", {}, ".file=t:3: time_s=0.0: must be above the row before, 0.0"),
        (CSV, {"format": "mahimahi"}, ".file=t:1: line=time_s,bandwidth_mbps: must be a whole number"),
        (CSV, {"at_s": 18}, ".file=t: its last time, 3 s after at_s=18, must not be beyond stop.time_s=20; for_s or"),
        (CSV, {"at_s": 18, "at_end": "loop"}, ".file=t: its last time, 3 s after at_s=18, must not be beyond"),
        ("30000\n", {"format": "mahimahi"}, ".file=t: its last time, 30 s after at_s=0, must not be beyond"),
        ("time_s,bandwidth_mbps\n1,1\n2,2\n", {"at_end": "loop"}, ".at_end=loop: must have a first row at time 0"),
        ("time_s,bandwidth_mbps\n0,1\n", {"at_end": "undo"}, ".at_end=undo: must have a first row at time 0 and a"),
    ],
)
def test_wrong_traces(text: str | None, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "t").write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolved({"action": "trace", "file": "t", "nodes": 0, **fields}, folder=tmp_path)
    assert str(caught.value).startswith(f"schedule[0]{message}")


def test_a_trace_that_fits_the_run_or_is_cut_is_taken(tmp_path: Path) -> None:
    assert rates(tmp_path, at_s=17)[-1] == (20, 8)
    assert rates(tmp_path, at_s=18, for_s=5)[-2:] == [(21, 8), (23, 10)]
    assert rates(tmp_path, "30000\n", format="mahimahi", until_s=20) == [(0, 0), (20, 10)]


def test_a_loop_needs_an_end(tmp_path: Path) -> None:
    (tmp_path / "t").write_text(CSV)
    loop = {"action": "trace", "file": "t", "nodes": 0, "at_end": "loop"}
    with pytest.raises(ConfigError, match=r"schedule\[0\].at_end=loop: must come with for_s or until_s, or with stop"):
        resolved(loop, folder=tmp_path, time_s=None)
    resolved({**loop, "for_s": 99}, {**loop, "at_end": "hold", "at_s": 99}, folder=tmp_path, time_s=None)


# -- partitions ------------------------------------------------------------------------------------------------------


def test_a_partition() -> None:
    found = resolved({"action": "partition", "groups": ["0-2", [3, "6-7"]], "at_s": 1, "for_s": 2})
    groups = (0, 0, 0, 1, IN_NONE, IN_NONE, 1, 1)
    assert found.schedule.partitions == (PartitionSpan(S, 3 * S, groups),)
    assert found.network.changes == ((S, PartitionChange((groups,))), (3 * S, PartitionChange(())))
    assert found.network.at_time(S).is_parked(0, 3)
    assert not found.network.at_time(S).is_parked(0, 4)
    assert not found.network.at_time(3 * S).is_parked(0, 3)


def test_isolation() -> None:
    found = resolved({"action": "isolate", "nodes": [2, 5]})
    assert found.schedule.partitions == (PartitionSpan(0, None, (0, 0, 1, 0, 0, 2, 0, 0)),)
    alone = found.network.at_time(0)
    assert alone.is_parked(2, 5)
    assert alone.is_parked(0, 2)
    assert not alone.is_parked(0, 1)


def test_a_partition_that_names_a_node_twice() -> None:
    with pytest.raises(ConfigError) as caught:
        resolved({"action": "partition", "groups": [0, "stragglers", ["4-6"]]})
    assert str(caught.value) == "schedule[0].groups[2]=4-6: must be without node 5, which is in groups[1]"
    with pytest.raises(ConfigError) as caught:
        resolved({"action": "partition", "groups": [0, [6, "4-7"]]})
    assert str(caught.value) == "schedule[0].groups[1][1]: must be without node 6, which the list has already"
    with pytest.raises(ConfigError, match=r"schedule\[0\].groups\[1\]=9: must be between 0 and 7"):
        resolved({"action": "partition", "groups": [0, 9]})


# -- nodes -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("able")
def test_pauses_and_slow_nodes() -> None:
    found = resolved(
        {"action": "pause", "nodes": [0, 1], "at_s": 1, "for_s": 2, "every_s": 10},
        {"action": "slow_cpu", "nodes": "1-1", "factor": 4, "at_s": 2},
    ).schedule
    assert found.nodes == (
        NodeSpan(S, 3 * S, 0, "paused"),
        NodeSpan(S, 3 * S, 1, "paused"),
        NodeSpan(11 * S, 13 * S, 0, "paused"),
        NodeSpan(11 * S, 13 * S, 1, "paused"),
        NodeSpan(2 * S, None, 1, "slowed", 4),
    )
    assert [state.speed for _, state in found.node_states()[1]] == [0, 0, 0.25, 0, 0.25]


# -- abilities -------------------------------------------------------------------------------------------------------


def test_a_runtime_that_cannot_do_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "ABILITIES", {"simulation": ("degrade", "pause")})
    with pytest.raises(ConfigError) as caught:
        resolved({"action": "pause", "nodes": 0, "for_s": 1}, {"action": "crash", "nodes": 0})
    assert str(caught.value) == (
        "schedule[1].action=crash: must be one of degrade, pause with runtime: simulation, which cannot do it yet"
    )


@pytest.mark.parametrize("runtime", ["processes", "docker"])
def test_a_runtime_that_can_do_nothing(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "ABILITIES", {})
    with pytest.raises(ConfigError) as caught:
        resolved({**LATER, "nodes": 0}, runtime=runtime)
    expected = f"schedule[0].action=degrade: must be absent with runtime: {runtime}, which cannot do it yet"
    assert str(caught.value) == expected


@pytest.mark.parametrize("runtime", ["simulation", "processes", "docker"])
@pytest.mark.parametrize(("action", "fields"), [("crash", {}), ("restart", {}), ("pause", {"for_s": 1})], ids=str)
def test_nodes_of_every_runtime_are_ended_and_paused(action: str, fields: dict[str, Any], runtime: str) -> None:
    planned = resolved({"action": action, "nodes": 0, "at_s": 1, **fields}, runtime=runtime)
    assert [span.kind for span in planned.schedule.nodes] == ["paused" if action == "pause" else "down"]


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("action", ["degrade", "trace", "partition", "isolate"])
def test_direct_links_take_no_shape(action: str) -> None:
    fields = {
        "degrade": {"nodes": 0, "latency_ms": 1},
        "trace": {"nodes": 0, "file": "t"},
        "partition": {"groups": [0, 1]},
        "isolate": {"nodes": 0},
    }
    slow = {"action": "slow_cpu", "nodes": 0, "factor": 2}
    with pytest.raises(ConfigError) as caught:
        resolved(slow, {"action": action, **fields[action]}, is_direct=True, runtime="processes")
    expected = f"schedule[1].action={action}: must be absent with network.links=direct, which nothing shapes"
    assert str(caught.value) == expected
    assert resolved(slow, is_direct=True, runtime="processes").schedule.nodes


# -- sizes -----------------------------------------------------------------------------------------------------------


def test_too_many_changes_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def made(*_: object) -> None:
        raise AssertionError("it is being made")

    monkeypatch.setattr(resolve, "_link_spans", made)
    monkeypatch.setattr(resolve, "downtimes", made)
    often = {**LATER, "nodes": "all", "every_s": 1e-5, "for_s": 1e-6}
    with pytest.raises(ConfigError) as caught:
        resolved(often)
    assert str(caught.value) == (
        "schedule[0].every_s=1e-05: must give fewer changes: gives 64,000,000, and all entries and traces together may"
        f" give {CHANGES_MAX:,}"
    )
    (tmp_path / "t").write_text("time_s,bandwidth_mbps\n0,4\n0.0001,3\n0.0002,3\n")
    loop = {"action": "trace", "file": "t", "nodes": "all", "at_end": "loop"}
    with pytest.raises(ConfigError, match=r"schedule\[0\]: must give fewer changes: gives 3,200,016, and all"):
        resolved(loop, folder=tmp_path)
    few = {**LATER, "nodes": 0, "direction": "up", "every_s": 4e-5, "for_s": 1e-6}
    with pytest.raises(ConfigError, match=r"schedule\[1\].every_s=4e-05: must give fewer changes: gives 1,000,000"):
        resolved({**few, "every_s": 1}, few)


def test_many_changes_are_made() -> None:
    entry = {"action": "degrade", "nodes": 0, "bandwidth_factor": 0.5, "every_s": 0.01, "for_s": 0.005}
    assert len(resolved(entry).network.changes) == 2 * 2 * 2_000


# -- for machines ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("able")
def test_planned_entries_for_machines() -> None:
    found = resolved(
        {"action": "partition", "groups": ["0-1", 2], "at_s": 1, "for_s": 2},
        {**LATER, "pairs": [[0, 3]]},
        {"action": "restart", "nodes": "stragglers", "at_s": 4, "every_s": 10},
    )
    partition, pairs, restart = (entry.to_json() for entry in found.entries)
    assert partition["groups"] == [[0, 1], [2]]
    assert partition["times_s"] == [[1, 3]]
    assert pairs["pairs"] == [[0, 3], [3, 0]]
    assert pairs["times_s"] == [[0, None]]
    assert restart["nodes"] == [1, 5]
    assert restart["times_s"] == [[4, 4], [14, 14]]
    assert [entry["action"] for entry in (partition, pairs, restart)] == ["partition", "degrade", "restart"]
