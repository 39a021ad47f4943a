"""Figures of faults: how often they began, how long nodes were down, and how late all of it was."""

from dataclasses import replace
from typing import Literal

import pytest

from node.core.times import Times
from orchestrator.results.fault_instants import FaultInstant
from orchestrator.results.fault_table import fault_csv, fault_figures, lateness, read_fault_csv
from orchestrator.results.recorded_schedule import RecordedEntry
from tests.unit.orchestrator.synthetic_runs import SCHEDULE, S, instants


def entry(number: int, action: str, times: Times) -> RecordedEntry:
    return RecordedEntry(number, action, "0", "", 1, times)


def happened(
    number: int, action: str, what: Literal["begin", "end"], actual: float | None, planned: float = 0.0, node: int = 0
) -> FaultInstant:
    planned_ns = round((planned or actual or 0) * S)
    return FaultInstant(number, node, action, what, planned_ns, None if actual is None else round(actual * S))


def test_a_whole_schedule() -> None:
    assert fault_figures(SCHEDULE, instants(late_ms=4), 100 * S) == {
        "by_action": {
            "crash": {"entries": 1, "begun": 2, "down_s": 40.0},
            "partition": {"entries": 1, "begun": 1},
            "degrade": {"entries": 1, "begun": 1},
            "restart": {"entries": 1, "begun": 1, "down_s": 0.0},
        },
        "instants": {"count": 13, "late_ms_median": 4.0, "late_ms_max": 4.0, "never": 0},
    }


def test_without_instants_the_plan_is_counted_up_to_the_time_reached() -> None:
    found = fault_figures(SCHEDULE, (), 45 * S)
    assert {action: row["begun"] for action, row in found["by_action"].items()} == {
        "crash": 1,
        "partition": 1,
        "degrade": 0,
        "restart": 0,
    }
    assert "down_s" not in found["by_action"]["crash"]
    assert "instants" not in found


def test_a_fault_that_never_came_has_not_begun() -> None:
    crash = entry(0, "crash", Times(S, S, 4 * S, 2))
    told = (
        happened(0, "crash", "begin", 1.5, planned=1),
        happened(0, "crash", "end", 2.25, planned=2),
        happened(0, "crash", "begin", None, planned=5),
        happened(0, "crash", "end", None, planned=6),
    )
    found = fault_figures((crash,), told, 9 * S)
    assert found["by_action"] == {"crash": {"entries": 1, "begun": 1, "down_s": 0.75}}
    assert found["instants"] == {"count": 4, "late_ms_median": 375.0, "late_ms_max": 500.0, "never": 2}


def test_a_crash_without_an_end_lasts_to_the_next_restart_of_its_node_or_to_the_end() -> None:
    schedule = (entry(0, "crash", Times(S, None)), entry(1, "restart", Times(4 * S, 0)))
    told = (
        happened(0, "crash", "begin", 1),
        happened(0, "crash", "begin", 1, node=2),
        happened(1, "restart", "begin", 4),
        happened(1, "restart", "end", 4.5, planned=4),
        happened(1, "restart", "begin", 4, node=1),
        happened(1, "restart", "end", 4.5, planned=4, node=1),
    )
    found = fault_figures(schedule, told, 10 * S)["by_action"]
    assert found["crash"]["down_s"] == 3.5 + 9
    assert found["restart"]["down_s"] == 0.5


def test_what_a_file_lets_happen_is_counted_with_its_entry() -> None:
    schedule = (entry(0, "availability", Times(0, None)), entry(1, "availability", Times(0, None)))
    own = [FaultInstant(number, None, "availability", "begin", 0, 0) for number in (0, 1)]
    told = (
        happened(0, "crash", "begin", 1),
        happened(0, "crash", "end", 3),
        happened(0, "crash", "begin", 8, node=2),
        happened(1, "pause", "begin", 2, node=5),
        happened(1, "pause", "end", 6, node=5),
    )
    found = fault_figures(schedule, (*own, *told), 10 * S)
    assert found["by_action"] == {"availability": {"entries": 2, "begun": 2, "down_s": 4.0, "paused_s": 4.0}}
    assert found["instants"]["count"] == 7


def test_who_is_down_does_not_stand_still() -> None:
    schedule = (entry(0, "pause", Times(S, 4 * S)), entry(1, "crash", Times(2 * S, 2 * S)))
    told = (
        happened(0, "pause", "begin", 1),
        happened(1, "crash", "begin", 2),
        happened(1, "crash", "end", 4),
        happened(0, "pause", "end", 5),
    )
    found = fault_figures(schedule, told, 10 * S)["by_action"]
    assert (found["pause"]["paused_s"], found["crash"]["down_s"]) == (2.0, 2.0)


def test_pauses_that_overlap_count_once() -> None:
    schedule = (entry(0, "pause", Times(S, 3 * S)), entry(1, "pause", Times(2 * S, 4 * S)))
    told = (
        happened(0, "pause", "begin", 1),
        happened(1, "pause", "begin", 2),
        happened(0, "pause", "end", 4),
        happened(1, "pause", "end", 6),
    )
    assert fault_figures(schedule, told, 10 * S)["by_action"]["pause"]["paused_s"] == 5.0
    assert fault_figures(schedule, told[:3], 10 * S)["by_action"]["pause"]["paused_s"] == 9.0


def test_lateness_of_nothing_is_none() -> None:
    nothing = {"count": 1, "late_ms_median": None, "late_ms_max": None, "never": 1}
    assert lateness([happened(0, "pause", "end", None, planned=1)]) == nothing


def test_the_table_is_in_the_order_of_the_plan_and_comes_back() -> None:
    told = [*instants(late_ms=1.25), replace(instants()[0], planned_ns=123_456_789_012_345, actual_ns=None)]
    text = fault_csv(told)
    assert fault_csv(reversed(told)) == text
    assert text.splitlines()[-1] == "0,crash,3,begin,123456.789012345,,"
    back = read_fault_csv(text)
    assert set(back) == set(told)
    assert [one.planned_ns for one in back] == sorted(one.planned_ns for one in told)


@pytest.mark.parametrize("text", ["", "entry\n", "entry,action\n0,crash\n"])
def test_another_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the first line does not name the columns entry, action, node, what, "):
        read_fault_csv(text)
