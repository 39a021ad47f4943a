"""Progress: what each display shows, how often, and that a snapshot is never lost at the end."""

import io
import json
from typing import Any

import pytest
from synthetic_runs import sample

from orchestrator.progress import Pace, Progress, Snapshot


def snapshot(wall_s: float, *, share: float = 0.5, end_ns: int | None = 100_000_000_000, **changes: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "time_ns": round(share * 100_000_000_000),
        "end_ns": end_ns,
        "wall_s": wall_s,
        "rounds_min": 3,
        "rounds_max": 9,
        "delivered": round(1000 * wall_s),
        "bytes_sent": 12_345_678,
        "sample": sample(2),
    }
    return Snapshot(**(fields | changes))


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
        tuple(type(n)(n.node, n.accuracy, float("nan"), 0.0, 1, 1, 1, 0) for n in diverged.nodes),
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
            progress.update(snapshot(4.0, share=0.4, delivered=5000))
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
