"""What a run directory keeps of a schedule: bounded, and as planned."""

import json
from dataclasses import replace
from unittest.mock import Mock

from node.core.schedule import NodeSpan
from node.core.times import Times
from node.core.types import NodeId
from orchestrator.experiment.schedule.fates import FateChange, NodeInstant, fates_of
from orchestrator.experiment.schedule.file_spans import Absence, FileSpans
from orchestrator.experiment.schedule.record import exact_instants, executed_instants, recorded
from orchestrator.results.fault_instants import FaultInstant
from orchestrator.results.recorded_schedule import RecordedEntry
from tests.unit.orchestrator.experiment.schedule.entries import S, network_of, resolved

ENTRIES = (
    {"action": "crash", "nodes": [3, 5], "at_s": 2, "for_s": 2, "every_s": 4, "until_s": 9},
    {"action": "partition", "groups": ["0-3", "4-7"], "at_s": 6, "until_s": 14},
    {"action": "degrade", "pairs": [[0, 1]], "latency_ms": 5, "at_s": 1},
    {"action": "restart", "nodes": 0, "at_s": 13},
)


def test_entries_as_they_are_kept() -> None:
    kept = recorded(resolved(*ENTRIES).entries)
    assert kept == (
        RecordedEntry(0, "crash", "3,5", "", 2, Times(2 * S, 2 * S, 4 * S, 2)),
        RecordedEntry(1, "partition", "0-3 / 4-7", "", 8, Times(6 * S, 8 * S)),
        RecordedEntry(2, "degrade", "0<>1", "+5 ms", 0, Times(S, None)),
        RecordedEntry(3, "restart", "0", "", 1, Times(13 * S, 0)),
    )
    assert tuple(RecordedEntry.from_json(json.loads(json.dumps(each.to_json()))) for each in kept) == kept
    assert kept[0].to_json() == {
        "entry": 0,
        "action": "crash",
        "targets": "3,5",
        "effect": "",
        "nodes": 2,
        "at_s": 2.0,
        "for_s": 2.0,
        "every_s": 4.0,
        "times": 2,
    }


def test_what_is_kept_is_small_however_much_is_planned() -> None:
    every_other = {"action": "crash", "nodes": list(range(0, 400, 2)), "for_s": 0.01, "every_s": 0.1}
    pairs = {"action": "degrade", "pairs": [[a, b] for a in range(60) for b in range(a)], "jitter_ms": 1}
    kept = recorded(resolved(every_other, pairs, network=network_of(400)).entries)
    assert all(len(json.dumps(each.to_json())) < 400 for each in kept)
    assert kept[0].times.count == 200


def test_instants_are_those_of_each_node_up_to_a_time() -> None:
    entries = resolved(*ENTRIES).entries
    found = [(one.entry, one.node, one.what, one.planned_ns // S) for one in exact_instants(entries, 8 * S)]
    assert found == [
        *[
            (0, node, what, at)
            for begin in (2, 6)
            for node in (3, 5)
            for what, at in (("begin", begin), ("end", begin + 2))
        ],
        (1, None, "begin", 6),
        (2, None, "begin", 1),
    ]
    assert all(one.late_ns == 0 for one in exact_instants(entries, 20 * S))
    assert len(list(exact_instants(entries, 20 * S))) == 8 + 2 + 1 + 2
    assert not list(exact_instants(entries, S // 2))


def test_what_was_done_to_real_nodes_is_told_by_the_entries_that_asked_for_it() -> None:
    planned = resolved(
        {"action": "crash", "nodes": 3, "at_s": 2, "for_s": 2},
        {"action": "pause", "nodes": [3, 5], "at_s": 3, "for_s": 2},
        {"action": "restart", "nodes": 1, "at_s": 6},
        {"action": "slow_cpu", "nodes": 1, "factor": 2, "at_s": 1},
        {"action": "isolate", "nodes": 1, "at_s": 1},
    )
    fates = fates_of(planned.schedule, 0, 10 * S)
    late = {change: 1_000 * number for number, change in enumerate(sorted(fates))}
    done = [
        NodeInstant(node, change, None if node == 5 and change.kind == "runs" else change.time_ns + late[node])
        for node, fate in fates.items()
        for change in fate
    ]
    found = [
        (one.entry, one.node, one.what, one.planned_ns, one.late_ns)
        for one in executed_instants(planned.entries, done, (0, 10 * S), {})
    ]
    assert found == [
        (3, 1, "begin", S, 0),
        (4, None, "begin", S, 0),
        (0, 3, "begin", 2 * S, 1_000),
        (0, 3, "end", 4 * S, 1_000),  # it stands still then, which the other entry has begun before
        (1, 3, "end", 5 * S, 1_000),
        (1, 5, "begin", 3 * S, 2_000),
        (1, 5, "end", 5 * S, None),
        (2, 1, "begin", 6 * S, 0),
        (2, 1, "end", 6 * S, 1),  # it is down for a nanosecond
    ]


def test_links_change_when_the_kernel_changed_them_and_in_their_own_part_of_the_run() -> None:
    entries = resolved(
        {"action": "isolate", "nodes": 1, "at_s": 1, "for_s": 2},
        {"action": "degrade", "nodes": 2, "bandwidth_factor": 0.5, "at_s": 3, "for_s": 1},
        {"action": "slow_cpu", "nodes": 1, "factor": 2, "at_s": 4, "for_s": 9},
    ).entries
    late_ns = {S: 7, 3 * S: 20_000, 4 * S: None}

    def told(span: tuple[int, int]) -> list[tuple[int, str, int, int | None]]:
        found = executed_instants(entries, [], span, late_ns)
        return [(one.entry, one.what, one.planned_ns // S, one.late_ns) for one in found]

    first = [(0, "begin", 1, 7)]
    second = [(0, "end", 3, 20_000), (1, "begin", 3, 20_000), (1, "end", 4, None), (2, "begin", 4, 0)]
    assert told((0, 10 * S)) == first + second
    assert (told((0, 2 * S)), told((2 * S, 10 * S))) == (first, second)


def test_what_a_file_asks_for_is_told_node_by_node_and_by_its_own_entry() -> None:
    entry = replace(resolved({"action": "crash", "nodes": 3, "at_s": 0}).entries[0], entry=Mock(action="availability"))
    crashes = FileSpans(absences=(Absence(2, S, 2 * S), Absence(2, 5 * S, None)))
    pauses = FileSpans(nodes=(NodeSpan(S, 3 * S, 4, "paused"),))
    files = [replace(entry, told=crashes), replace(entry, number=1, told=pauses)]
    assert [*exact_instants(files, 2 * S)] == [
        FaultInstant(0, None, "availability", "begin", 0, 0),
        FaultInstant(0, 2, "crash", "begin", S, S),
        FaultInstant(0, 2, "crash", "end", 2 * S, 2 * S),
        FaultInstant(1, None, "availability", "begin", 0, 0),
        FaultInstant(1, 4, "pause", "begin", S, S),
    ]
    done = [
        NodeInstant(NodeId(2), FateChange(S, "down"), S + 5),
        NodeInstant(NodeId(2), FateChange(2 * S, "runs"), None),
        NodeInstant(NodeId(4), FateChange(S, "paused"), S + 7),
    ]
    assert [one for one in executed_instants(files, done, (0, S), {}) if one.node is not None] == [
        FaultInstant(0, 2, "crash", "begin", S, S + 5),
        FaultInstant(0, 2, "crash", "end", 2 * S, None),
        FaultInstant(1, 4, "pause", "begin", S, S + 7),
    ]
