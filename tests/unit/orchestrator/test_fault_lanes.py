"""Lanes of a schedule over a time axis: exact while there are few times, and bounded however many there are."""

from dataclasses import replace

import numpy as np
import pytest

from node.core.times import Times
from orchestrator.report.fault_lanes import BANDS_MAX, CELLS, LABEL_LETTERS, LANES_MAX, WIDTH_MIN, Lane, lanes
from orchestrator.results.recorded_schedule import RecordedEntry
from tests.unit.orchestrator.synthetic_runs import SCHEDULE, S


def entry(times: Times, number: int = 0, action: str = "crash", targets: str = "1") -> RecordedEntry:
    return RecordedEntry(number, action, targets, "", 1, times)


def test_every_form_of_entry() -> None:
    assert lanes(SCHEDULE, 100.0) == [
        Lane("crash 3,5 (2 times)", ((10.0, 20.0), (50.0, 60.0)), (), False),
        Lane("partition 0-2 / 3-5", ((20.0, 50.0),), (), False),
        Lane("degrade 1 up x0.1", ((60.0, 100.0),), (), False),
        Lane("restart 0", (), (70.0,), False),
    ]


def test_a_run_that_ends_early_shows_what_it_reached() -> None:
    assert lanes(SCHEDULE, 55.0) == [
        Lane("crash 3,5 (2 times)", ((10.0, 20.0), (50.0, 55.0)), (), False),
        Lane("partition 0-2 / 3-5", ((20.0, 50.0),), (), False),
    ]
    assert lanes(SCHEDULE, 5.0) == lanes(SCHEDULE, 0.0) == lanes((), 100.0) == []


def test_more_entries_share_a_lane_for_each_action() -> None:
    many = [replace(SCHEDULE[index % 4], number=index) for index in range(LANES_MAX + 1)]
    assert [lane.label for lane in lanes(many, 100.0)] == [
        "crash, 2 entries (4 times)",
        "partition, 2 entries",
        "degrade 1 up x0.1",
        "restart 0",
    ]


def test_bands_that_overlap_or_touch_are_one() -> None:
    spans = ((10, 20), (15, 17), (20, 5), (40, 1), (43, 2))
    entries = [entry(Times(begin * S, long * S), number) for number, (begin, long) in enumerate((*spans, (60, 1)))]
    (lane,) = lanes(entries, 100.0)
    assert lane.bands == ((10.0, 32.0), (40.0, 41.0), (43.0, 45.0), (60.0, 61.0))


@pytest.mark.parametrize("begin_s", [0, 40, 100])
def test_a_short_band_can_be_seen_and_lies_within_the_axis(begin_s: int) -> None:
    found = lanes([entry(Times(begin_s * S, 1))], 100.0 + 1e-6)
    ((begin, end),) = found[0].bands
    assert end - begin >= WIDTH_MIN * 100 - 1e-9
    assert 0.0 <= begin < end <= 100.0 + 1e-5


@pytest.mark.parametrize("count", [BANDS_MAX, BANDS_MAX + 1, 10_000, 1_000_000])
@pytest.mark.parametrize("duration_ns", [0, 30])
def test_many_times_are_drawn_as_few_that_cover_them_all(count: int, duration_ns: int) -> None:
    every_ns = 100 * S // count
    times = Times(0, duration_ns and every_ns // 3, every_ns, count)
    (lane,) = lanes([entry(times)], 100.0)
    drawn = lane.bands or lane.marks
    assert len(drawn) <= CELLS
    assert lane.is_coarse == (count > BANDS_MAX)
    assert lane.label == f"crash 1 ({count:,} times)"
    begins = np.arange(count) * every_ns / S
    lows = np.array([band[0] for band in lane.bands] or lane.marks) - (0 if duration_ns else 100 / CELLS)
    highs = np.array([band[1] for band in lane.bands] or lane.marks) + (0 if duration_ns else 100 / CELLS)
    assert ((begins[:, None][:2000] >= lows - 1e-9) & (begins[:, None][:2000] <= highs + 1e-9)).any(axis=1).all()


def test_a_name_keeps_its_number_of_times() -> None:
    (lane,) = lanes([entry(Times(0, 1, S, 12345), targets="0-9,20-29,40-49,60-69,80-89,100-109")], 1e5)
    assert lane.label.endswith("... (12,345 times)")
    assert len(lane.label) <= LABEL_LETTERS
