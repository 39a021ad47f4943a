"""Progress: what each display shows, how often, and that a snapshot is never lost at the end."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from node.core.times import Times
from orchestrator.progress.displays import LiveDisplay
from orchestrator.progress.progress import Progress
from orchestrator.progress.run_progress import NodeRow, Pace, RunProgress
from orchestrator.results.recorded_schedule import RecordedEntry
from tests.unit.orchestrator.synthetic_runs import SCHEDULE, sample


def snapshot(wall_s: float, *, share: float = 0.5, end_ns: int | None = 100_000_000_000, **changes: Any) -> RunProgress:
    fields: dict[str, Any] = {
        "time_ns": round(share * 100_000_000_000),
        "end_ns": end_ns,
        "wall_s": wall_s,
        "rounds_min": 3,
        "rounds_max": 9,
        "messages_delivered": round(1000 * wall_s),
        "bytes_sent": 12_345_678,
        "sample": sample(2),
    }
    return RunProgress(**(fields | changes))


def test_plain_lines_come_every_few_seconds_and_the_last_one_always() -> None:
    stream = io.StringIO()
    with Progress("plain", stream) as progress:
        for tenth in range(121):
            progress.update(snapshot(tenth / 10, share=tenth / 121))
        progress.update(snapshot(12.01, share=1.0))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4  # at 0, 5 and 10 seconds, and the end
    assert lines[-1].startswith("100.0 of 100 s (100 %) | accuracy 0.")
    assert "rounds 3 to 9" in lines[-1]
    assert "12.3 MB" in lines[-1]
    assert "left" not in lines[-1]


def test_a_pipe_gets_plain_lines() -> None:
    stream = io.StringIO()
    with Progress("auto", stream) as progress:
        progress.update(snapshot(1.0))
    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 1


def test_json_lines_are_json_even_when_the_loss_is_not_a_number() -> None:
    stream = io.StringIO()
    diverged = sample(2)
    bad = type(diverged)(
        diverged.time_ns,
        tuple(type(n)(n.node, n.accuracy, float("nan"), n.counters) for n in diverged.nodes),
        diverged.bytes_sent,
        1.0,
    )
    with Progress("json", stream) as progress:
        progress.preparing("reading")
        progress.update(snapshot(0.0, sample=None))
        progress.update(snapshot(2.0, sample=bad))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["preparing", "progress", "progress"]
    assert "accuracy_mean" not in events[1]
    assert events[2]["loss_mean"] is None
    assert 0 < events[2]["accuracy_min"] <= events[2]["accuracy_mean"] <= events[2]["accuracy_max"]
    assert events[2]["evaluated_at_s"] == 20.0


def test_preparing_tells_the_beginning_and_the_end_of_each_piece_of_work() -> None:
    stream = io.StringIO()
    progress = Progress("plain", stream)
    for done in range(0, 5000, 100):
        progress.preparing("decoding", done, 0)
    progress.preparing("decoding", 5000, 5000)
    assert stream.getvalue().splitlines() == ["decoding ...", "decoding: 5,000"]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("quiet") as progress:
        progress.preparing("reading")
        progress.update(snapshot(1.0))
    assert capsys.readouterr() == ("", "")


def test_live_shows_the_figures_and_restores_the_terminal_after_an_error() -> None:
    stream = io.StringIO()
    progress = Progress("live", stream)

    def fail() -> None:
        with progress:
            progress.update(snapshot(1.0, share=0.1))
            progress.update(snapshot(4.0, share=0.4, messages_delivered=5000))
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    text = stream.getvalue()
    assert "accuracy" in text
    assert "messages delivered" in text
    assert "40.0 of 100 s (40 %)" in text


def test_a_run_without_a_known_end_has_no_eta() -> None:
    stream = io.StringIO()
    with Progress("plain", stream) as progress:
        progress.update(snapshot(1.0, end_ns=None))
        progress.update(snapshot(9.0, end_ns=None))
    assert "left" not in stream.getvalue()
    assert "%" not in stream.getvalue()


def test_the_eta_follows_the_recent_pace() -> None:
    pace = Pace()
    pace.follow(snapshot(1.0, share=0.1))
    assert pace.eta_s(snapshot(1.0, share=0.1)) == pytest.approx(9.0)
    for second in range(2, 20):  # ten times slower from here on
        pace.follow(snapshot(float(second), share=0.1 + 0.01 * (second - 1)))
    assert pace.eta_s(snapshot(19.0, share=0.28)) == pytest.approx(72.0, rel=0.01)
    assert pace.deliveries_per_s == pytest.approx(1000.0)


def rows(count: int, **changes: Any) -> tuple[NodeRow, ...]:
    made = (
        NodeRow(node, "training", 100 - node, 1.5, 12.3456, None, node, straggler=node % 2 == 0)
        for node in range(count)
    )
    return tuple(replace(row, **changes) if row.node == 1 else row for row in made)


def live(
    count: int, *, height: int, width: int = 80, note: str = "", schedule: Sequence[RecordedEntry] = ()
) -> list[str]:
    stream = io.StringIO()
    display = LiveDisplay(Console(file=stream, height=height, width=width, force_terminal=True, color_system=None))
    snapshots = [snapshot(1.0, nodes=rows(count, state="died", failed=True))] * 2
    display.show(snapshots[0], Pace(), schedule)
    if note:
        display.note(note)
    display.show(snapshots[1], Pace(), schedule)
    display.close()
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()))


def test_live_shows_a_table_of_nodes_where_there_is_room() -> None:
    lines = live(5, height=40)
    table = [line.split() for line in lines if "training" in line or "died" in line]
    assert [cells[:2] for cells in table[-5:]] == [
        *(["▼", "0"], ["1", "died"], ["▼", "2"], ["3", "training"], ["▼", "4"]),
    ]
    assert table[-1] == ["▼", "4", "training", "96", "1.5000", "12.3", "4"]
    assert "▼ slowed on purpose" in lines[-3]


@pytest.mark.parametrize("height", [14, 24, 50])
def test_the_slowest_and_the_failed_come_first_where_there_is_not(height: int) -> None:
    lines = live(60, height=height)
    drawn = lines[max(index for index, line in enumerate(lines) if "of 100 s" in line) :]
    assert len(drawn) <= height
    table = [line.replace("▼", "").split() for line in drawn if "training" in line or "died" in line]
    assert len(table) == height - 10
    assert [cells[0] for cells in table] == ["1", *(str(59 - index) for index in range(len(table) - 1))]
    assert any(line.strip().endswith(f"and {60 - len(table)} more") for line in drawn)


def test_no_line_is_wider_than_a_narrow_terminal() -> None:
    assert all(len(line) <= 60 for line in live(9, height=30, width=60))


def test_a_note_is_told_at_once_in_every_style_but_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    text = "node 3 died: killed by [signal] 9;\ngoing on without it"
    told = "node 3 died: killed by [signal] 9; going on without it"
    stream = io.StringIO()
    Progress("plain", stream).note(text)
    assert stream.getvalue() == told + "\n"
    stream = io.StringIO()
    Progress("json", stream).note(text)
    assert json.loads(stream.getvalue()) == {"event": "note", "text": told}
    assert live(3, height=30, note=told).count(told) == 1
    stream = io.StringIO()
    Progress("live", stream).note(text)
    assert told in stream.getvalue()
    Progress("quiet").note(text)
    assert capsys.readouterr() == ("", "")


def test_json_has_the_nodes_and_plain_lines_do_not() -> None:
    stream = io.StringIO()
    with Progress("json", stream) as progress:
        progress.update(snapshot(1.0, nodes=rows(2, loss=float("nan"))))
    (event,) = (json.loads(line) for line in stream.getvalue().splitlines())
    assert event["nodes"][0] == {
        "node": 0,
        "state": "training",
        "rounds": 100,
        "loss": 1.5,
        "up_mbps": 12.3456,
        "down_mbps": None,
        "queued": 0,
    }
    assert event["nodes"][1]["loss"] is None
    plain = [io.StringIO(), io.StringIO()]
    for stream, nodes in zip(plain, ((), rows(2)), strict=True):
        with Progress("plain", stream) as progress:
            progress.update(snapshot(1.0, nodes=nodes))
    assert plain[0].getvalue() == plain[1].getvalue()


def test_live_says_what_holds_now_and_what_begins_next() -> None:
    lines = live(5, height=40, schedule=SCHEDULE)
    now, after = (next(line for line in lines if line.startswith(f"  {word}: ")) for word in ("now", "next"))
    assert now.rstrip() == "  now: crash 3,5 until 60 s"  # at 50 s, where the partition has ended
    assert after.rstrip() == "  next: at 60 s degrade 1 up x0.1"
    assert not any(line.startswith("  now: ") for line in live(5, height=40))


@pytest.mark.parametrize(("height", "width"), [(16, 60), (24, 80), (50, 200)])
def test_many_faults_leave_room_for_the_nodes(height: int, width: int) -> None:
    many = tuple(replace(SCHEDULE[2], number=number, times=Times(0, None)) for number in range(5_000))
    lines = live(60, height=height, width=width, schedule=many)
    drawn = lines[max(index for index, line in enumerate(lines) if "of 100 s" in line) :]
    assert len(drawn) <= height
    assert all(len(line) <= width for line in drawn)
    (now,) = (line for line in drawn if line.startswith("  now: "))
    assert now.startswith("  now: degrade 1 up x0.1 to the ")
    assert re.search(r"; and 499\d more$", now.rstrip())


def test_plain_lines_and_json_say_what_holds() -> None:
    streams = {style: io.StringIO() for style in ("plain", "json")}
    for style, stream in streams.items():
        with Progress(style, stream) as progress:  # type: ignore[arg-type]
            progress.expect(SCHEDULE)
            progress.update(snapshot(0.0, share=0.0))
            progress.update(snapshot(9.0, share=0.45))
            progress.update(snapshot(20.0, share=0.7))
    ends = [line.rpartition(" | ")[2] for line in streams["plain"].getvalue().splitlines()]
    assert ends[1:] == ["now: partition 0-2 / 3-5 until 50 s", "now: degrade 1 up x0.1 to the end"]
    assert "now" not in ends[0]
    events = [json.loads(line) for line in streams["json"].getvalue().splitlines()]
    assert [event["faults"] for event in events] == [
        [],
        [{"entry": 1, "action": "partition", "until_s": 50.0}],
        [{"entry": 2, "action": "degrade", "until_s": None}],
    ]
    assert [event["faults_held"] for event in events] == [0, 1, 1]


# -- who waits, warnings, and many nodes -------------------------------------------------------------------------


def waiting(*peers: int, count: int = 4, **changes: Any) -> list[str]:
    stream = io.StringIO()
    display = LiveDisplay(Console(file=stream, height=40, width=100, force_terminal=True, color_system=None))
    made = rows(count)
    display.show(snapshot(1.0, nodes=(replace(made[0], waits_for=peers), *made[1:]), **changes), Pace(), ())
    display.show(snapshot(2.0, nodes=made, **changes), Pace(), ())
    display.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    return re.split(r"[\r\n]+", text)


@pytest.mark.parametrize(
    ("peers", "named"), [((3,), "3"), ((1, 2, 3), "1, 2, 3"), ((1, 2, 3, 9), "1, 2 and 2 more"), ((), "")]
)
def test_live_says_who_waits_for_whom(peers: tuple[int, ...], named: str) -> None:
    lines = waiting(*peers)
    heads = [line for line in lines if "down Mbit/s" in line]
    # Once somebody has waited the column stays, so that the table keeps its form.
    assert [line.rstrip().endswith("waits for") for line in heads] == [bool(peers)] * len(heads)
    row = next(line for line in lines if line.split()[:2] == ["▼", "0"])
    assert row.rstrip().endswith(f"0  {named}".rstrip())


def test_live_shows_warnings_and_the_dilation() -> None:
    lines = waiting(warnings=("a", "b", "c", "d", "e"), dilation=2.5)
    told = [line.strip() for line in lines if "warning" in line]
    assert told[-3:] == ["warning: a", "warning: b", "warning: c; and 2 more"]
    assert any(line.rstrip().endswith("on the clock · time dilation 2.5") for line in lines)
    assert not any("dilation" in line for line in waiting(dilation=1.0))
    assert not any("dilation" in line for line in waiting(dilation=None))


def test_plain_lines_and_json_have_warnings() -> None:
    streams = {style: io.StringIO() for style in ("plain", "json")}
    for style, stream in streams.items():
        with Progress(style, stream) as progress:  # type: ignore[arg-type]
            progress.update(snapshot(1.0, warnings=("late",), dilation=3.0))
    assert streams["plain"].getvalue().endswith(" | warning: late\n")
    event = json.loads(streams["json"].getvalue())
    assert (event["warnings"], event["time_dilation"]) == (["late"], 3.0)


def test_a_line_of_json_names_a_hundred_nodes() -> None:
    stream = io.StringIO()
    with Progress("json", stream) as progress:
        progress.update(snapshot(1.0, nodes=rows(1000, failed=True, waits_for=(5, 6))))
    event = json.loads(stream.getvalue())
    assert len(event["nodes"]) == 100
    assert event["nodes_left_out"] == 900
    assert event["nodes"][0]["node"] == 1  # who failed comes first
    assert event["nodes"][0]["waits_for"] == [5, 6]
    assert "waits_for" not in event["nodes"][1]
