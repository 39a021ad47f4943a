"""The record of a run in progress: what comes back of it, when it is written, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.core.errors import ConfigError
from orchestrator.containers.ownership import Owner
from orchestrator.progress.live_file import LIVE, LiveFile, read_live
from orchestrator.progress.live_record import NOTES_KEPT, LiveRecord, live_text, parse_live
from orchestrator.progress.progress import Progress
from orchestrator.progress.run_progress import CurvePoint, NodeRow, RunProgress
from tests.unit.orchestrator.synthetic_runs import sample

OWNER = Owner("machine", "boot", "namespace", 1, 2, 3)
RECORD = LiveRecord(OWNER, "a name", "dpsgd", "processes", 2)


def progress(wall_s: float = 1.0, **changes: Any) -> RunProgress:
    rows = (
        NodeRow(0, "running", 3, 1.5, 12.5, None, 4, straggler=True, waits_for=(1,)),
        NodeRow(1, "died", 2, None, None, None, 0, failed=True),
    )
    base = RunProgress(5, 10, wall_s, 2, 3, 40, 50, sample(2), rows, 2.5, ("late",))
    return replace(base, **changes)


def test_all_of_a_record_comes_back() -> None:
    told = replace(RECORD, doing="testing", progress=progress(), notes=("one", "two"), notes_told=7)
    found = parse_live(live_text(told))
    assert found == replace(told, progress=replace(progress(), sample=CurvePoint.of(sample(2))))


def test_before_the_nodes_run_there_is_no_progress() -> None:
    assert parse_live(live_text(RECORD)) == RECORD


def test_a_model_that_diverged_has_no_figures() -> None:
    nan = CurvePoint(1, {"loss": dict.fromkeys(("mean", "min", "max"), math.nan)})
    rows = (replace(progress().nodes[0], loss=math.inf),)
    found = parse_live(live_text(replace(RECORD, progress=progress(sample=nan, nodes=rows)))).progress
    assert found is not None
    assert found.nodes[0].loss is None
    assert found.point is not None
    assert all(map(math.isnan, found.point.figures["loss"].values()))


def test_the_last_notes_are_kept_and_none_is_told_twice() -> None:
    record = RECORD
    for number in range(NOTES_KEPT + 5):
        record = record.with_note(str(number))
    assert record.notes == tuple(map(str, range(5, NOTES_KEPT + 5)))
    assert record.notes_since(NOTES_KEPT + 3) == (str(NOTES_KEPT + 3), str(NOTES_KEPT + 4))
    assert record.notes_since(NOTES_KEPT + 5) == ()
    assert record.notes_since(0) == record.notes


def damaged(**changes: Any) -> str:
    content = json.loads(live_text(replace(RECORD, progress=progress())))
    for place, value in changes.items():
        *outer, last = place.split("__")
        inner = content
        for key in outer:
            inner = inner[int(key) if key.isdigit() else key]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        (live_text(RECORD)[:-30], "Unterminated|Expecting|delimiter"),
        ("[1]", "not a JSON object"),
        ("{}", "version=None: of another version of fragmesh, which alone can read it"),
        (damaged(version=2), "version=2: of another version"),
        (damaged(owner="x"), "owner: names no process"),
        (damaged(owner=...), "owner is missing"),
        (damaged(progress__wall_s=...), "wall_s is missing"),
        (damaged(progress__wall_s="soon"), "could not convert string"),
        (damaged(progress__rounds_min=-1), "-1 is no count"),
        (damaged(progress__time_ns=10**30), "1000000000000000000000000000000 is no count"),
        (damaged(progress__nodes=3), "a value of the wrong kind"),
        (damaged(progress__nodes__0__rounds=None), "a value of the wrong kind"),
        (damaged(progress__evaluated={"time_ns": 1, "figures": []}), "a value of the wrong kind"),
        (damaged(notes=1), "a value of the wrong kind"),
    ],
)
def test_what_is_none_is_refused_in_a_line(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / LIVE).write_text(text)
    with pytest.raises(ConfigError, match=reason) as refused:
        read_live(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / LIVE}: damaged: ")
    assert "\n" not in str(refused.value)


def test_no_record_is_no_run_in_progress(tmp_path: Path) -> None:
    assert read_live(tmp_path) is None
    assert read_live(tmp_path / "nowhere") is None


# -- the file ----------------------------------------------------------------------------------------------------


class CountingFile(LiveFile):
    """Counts how often it is written."""

    written = 0

    def _write(self) -> None:
        self.written += 1
        super()._write()


def read(path: Path) -> LiveRecord:
    found = read_live(path)
    assert found is not None
    return found


def test_a_run_is_written_once_a_second(tmp_path: Path) -> None:
    file = CountingFile(tmp_path / LIVE, RECORD)
    for tenth in range(31):
        file.update(progress(tenth / 10))
    assert file.written == 4  # at 0, 1, 2 and 3 s
    assert read(tmp_path).progress == parse_live(live_text(replace(RECORD, progress=progress(3.0)))).progress


def test_a_note_comes_with_the_next_progress_and_other_work_at_once(tmp_path: Path) -> None:
    file = CountingFile(tmp_path / LIVE, RECORD)
    file.preparing("starting 2 nodes")
    file.note("before the start")
    assert (file.written, read(tmp_path).doing, read(tmp_path).notes) == (2, "starting 2 nodes", ("before the start",))
    file.update(progress(0.0))
    assert (file.written, read(tmp_path).doing) == (3, "")
    file.note("node 1 died")
    file.note("node 0 is alone")
    assert file.written == 3
    file.update(progress(0.1))
    assert file.written == 4
    assert read(tmp_path).notes == ("before the start", "node 1 died", "node 0 is alone")
    file.update(progress(0.2))
    assert file.written == 4
    file.preparing("testing the models")
    assert (file.written, read(tmp_path).doing) == (5, "testing the models")


def test_a_disk_that_is_full_costs_news_only(tmp_path: Path) -> None:
    file = LiveFile(tmp_path / "gone" / LIVE, RECORD)
    file.preparing("starting")
    file.note("late")
    file.update(progress())
    (tmp_path / "gone").mkdir()
    file.update(progress(2.0))
    assert read(tmp_path / "gone").notes == ("late",)
    file.remove()
    file.remove()
    assert list((tmp_path / "gone").iterdir()) == []


def test_whoever_shows_a_run_tells_others_until_it_is_over(tmp_path: Path) -> None:
    shown = Progress("quiet")
    with shown.recorded_in(LiveFile(tmp_path / LIVE, RECORD)):
        shown.preparing("starting 2 nodes")
        assert read(tmp_path).doing == "starting 2 nodes"
        shown.note("a\nnote")
        shown.update(progress())
        assert read(tmp_path).notes == ("a note",)
        shown.concluding("writing the results")
        assert read(tmp_path).doing == "writing the results"
    assert list(tmp_path.iterdir()) == []
    shown.update(progress(9.0))
    shown.note("nobody hears of it")
    assert list(tmp_path.iterdir()) == []
