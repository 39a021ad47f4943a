"""What a run directory keeps of a schedule: bounded, and as planned."""

import json

from node.core.times import Times
from orchestrator.experiment.schedule.record import exact_instants, recorded
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
