"""The schedule drawn as text: what stands where, at any width."""

import pytest

from orchestrator.experiment.schedule.timeline import describe_schedule, timeline
from tests.unit.orchestrator.experiment.schedule.entries import S, resolved

ENTRIES = (
    {"action": "degrade", "nodes": "0-3", "direction": "up", "bandwidth_factor": 0.1, "at_s": 10},
    {"action": "partition", "groups": ["0-3", "4-7"], "at_s": 5, "until_s": 10},
    {"action": "slow_cpu", "nodes": [1, 5], "factor": 3, "for_s": 1, "every_s": 4},
    {"action": "degrade", "pairs": [[0, 1]], "latency_ms": 5, "loss_percent": 2, "for_s": 0.001},
    {"action": "degrade", "pairs": [[2, 1]], "both_ways": False, "bandwidth_mbps": 3, "at_s": 19.9},
    {"action": "isolate", "nodes": 6, "until_s": 40},
)


def test_a_timeline() -> None:
    entries = resolved(*ENTRIES).entries
    assert timeline(entries, 20 * S, 80) == [
        "                                0                       10                  20 s",
        "0 degrade   0-3 up x0.1                                 |======================>",
        "1 partition 0-3 / 4-7                       |===========",
        "2 slow_cpu  1,5 x3              |==      |==       |==      |===      |==",
        "3 degrade   0<>1 +5 ms loss 2 % |",
        "4 degrade   2>1 3 Mbit/s                                                       |",
        "5 isolate   6                   |===============================================",
    ]


@pytest.mark.parametrize("width", [1, 40, 80, 81, 200])
def test_it_fits_its_width(width: int) -> None:
    lines = timeline(resolved(*ENTRIES).entries, 20 * S, width)
    assert len(lines) == 1 + len(ENTRIES)
    assert max(map(len, lines)) <= max(width, 62)
    assert lines[0].rstrip().endswith("20 s")


def test_words_are_cut_where_they_are_long() -> None:
    many = {"action": "isolate", "nodes": [0, 2, 4, 6]}
    pairs = {"action": "degrade", "pairs": [[a, b] for a in range(8) for b in range(a)], "jitter_ms": 1}
    lines = timeline(resolved(many, pairs).entries, 20 * S, 80)
    assert all(len(line) <= 80 for line in lines)
    assert "..." in lines[2]


def test_the_last_time_ends_the_line_of_a_run_that_rounds_end() -> None:
    entries = resolved({"action": "isolate", "nodes": 0, "at_s": 40, "for_s": 40}, time_s=None).entries
    axis, bar = timeline(entries, None, 80)
    assert axis.endswith("100 s...")
    assert bar.rstrip().endswith("=")
    (_, endless) = timeline(resolved({"action": "isolate", "nodes": 0}, time_s=None).entries, None, 80)
    assert endless.endswith("=>")


def test_in_words() -> None:
    assert describe_schedule(()) == "none"
    assert describe_schedule(resolved(ENTRIES[1]).entries) == "1 entry: 1 partition"
    assert describe_schedule(resolved(*ENTRIES).entries) == "6 entries: 3 degrade, 1 partition, 1 slow_cpu, 1 isolate"
