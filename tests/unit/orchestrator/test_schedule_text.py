"""The schedule in words, within the letters that there are."""

from dataclasses import replace

import pytest

from node.core.times import Times
from orchestrator.report.schedule_text import happened_text, next_text, now_text, when_text
from orchestrator.results.fault_instants import FaultInstant
from tests.unit.orchestrator.synthetic_runs import SCHEDULE, S


@pytest.mark.parametrize(
    ("time_s", "now", "after"),
    [
        (0, "", "at 10 s crash 3,5"),
        (10, "crash 3,5 until 20 s", "at 20 s partition 0-2 / 3-5"),
        (20, "partition 0-2 / 3-5 until 50 s", "at 50 s crash 3,5"),
        (50, "crash 3,5 until 60 s", "at 60 s degrade 1 up x0.1"),
        (70, "degrade 1 up x0.1 to the end", ""),
        (99, "degrade 1 up x0.1 to the end", ""),
    ],
)
def test_what_holds_and_what_comes(time_s: int, now: str, after: str) -> None:
    assert now_text(SCHEDULE, time_s * S, 80) == now
    assert next_text(SCHEDULE, time_s * S, 80) == after


@pytest.mark.parametrize("letters", range(20, 200, 7))
def test_no_text_is_longer_than_it_may_be(letters: int) -> None:
    many = [replace(SCHEDULE[0], number=number, times=Times(number, 9 * S)) for number in range(7)]
    text = now_text(many, S, letters)
    assert len(text) <= letters
    named = text.count("crash")
    if letters >= 38:
        assert text.endswith(f"; and {7 - named} more") == (named < 7)
    assert len(next_text([replace(each, times=Times(S, 1)) for each in many], 0, letters)) <= letters


def test_when_entries_hold() -> None:
    assert [when_text(entry) for entry in SCHEDULE] == [
        "2 times, 10 s long, every 40 s from 10 s to 50 s",
        "20 s to 50 s",
        "60 s to the end",
        "at 70 s",
    ]
    again = replace(SCHEDULE[3], times=Times(S // 2, 0, 2 * S, 1000))
    assert when_text(again) == "1,000 times, every 2 s from 0.5 s to 1,998.5 s"


def instants(*late_ms: float | None) -> list[FaultInstant]:
    return [
        FaultInstant(0, 1, "crash", "begin", number * S, None if late is None else round(number * S + late * 1e6))
        for number, late in enumerate(late_ms, 1)
    ]


@pytest.mark.parametrize(
    ("late_ms", "expected"),
    [
        ((), ""),
        ((0,), "as planned"),
        ((0, 0, 0), "as planned, 3 instants"),
        ((0, None), "as planned; 1 never"),
        ((None,), "never"),
        ((None, None), "never, of 2 instants"),
        ((3, 4.4), "1.003 s, 2.004 s"),
        ((3, None), "1.003 s; 1 never"),
        ((1, 2, 3, 4, 50), "5 instants, 3 ms late at the median, 50 ms at most"),
    ],
)
def test_when_they_happened(late_ms: tuple[float | None, ...], expected: str) -> None:
    assert happened_text(instants(*late_ms)) == expected
