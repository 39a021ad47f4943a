"""Following a run by its record: what is shown of it, and by what its end is known."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.core.errors import ConfigError, RunnerError
from orchestrator.containers.ownership import Owner
from orchestrator.progress.live_file import LIVE
from orchestrator.progress.live_record import LiveRecord, live_text
from orchestrator.progress.progress import Progress
from orchestrator.results.files import write_file
from orchestrator.runs.watching import LOOK_EVERY_S, SILENT_S, Follower
from tests.unit.orchestrator.test_live_record import progress

HERE = Owner.of_this_process()
ALIVE = LiveRecord(HERE, "a name", "dpsgd", "processes", 2, doing="starting 2 nodes")
GONE = replace(ALIVE, owner=replace(HERE, started=HERE.started - 1))
FOREIGN = replace(ALIVE, owner=replace(HERE, machine="another"))

Step = Callable[[], None]


class Watched:
    """A run that is followed; while the follower sleeps, its next step happens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[Step] = []
        self.stream = io.StringIO()
        self.now_s = 0.0

    def tell(self, record: LiveRecord) -> None:
        write_file(self.path / LIVE, live_text(record).encode())

    def end(self) -> None:
        (self.path / LIVE).unlink()

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.steps:
            self.steps.pop(0)()

    def follow(self) -> str | None:
        with Progress("json", self.stream) as shown:
            follower = Follower(self.path, shown, HERE, now_s=lambda: self.now_s, sleep=self._sleep)
            return follower.follow()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_all_that_the_run_tells_is_shown_once(watched: Watched) -> None:
    noted = ALIVE.with_note("node 1 died")
    running = replace(noted, doing="", progress=progress(1.0))
    records = [noted, running, running, replace(running.with_note("late"), progress=progress(2.5))]
    watched.tell(ALIVE)
    watched.steps = [lambda record=record: watched.tell(record) for record in records]  # type: ignore[misc]
    watched.steps += [lambda: watched.tell(replace(records[-1], doing="testing the models")), watched.end]
    assert watched.follow() is None
    assert [event.get("text") or event.get("what") or event["wall_s"] for event in watched.events()] == [
        "starting 2 nodes ...",
        "node 1 died",
        1.0,
        "late",
        2.5,
        "testing the models ...",
    ]


def test_what_has_happened_before_is_told_first(watched: Watched) -> None:
    watched.tell(replace(ALIVE.with_note("one").with_note("two"), doing="", progress=progress()))
    watched.steps = [watched.end]
    assert watched.follow() is None
    assert [event["event"] for event in watched.events()] == ["note", "note", "progress"]


def test_a_run_whose_process_is_gone_has_died(watched: Watched) -> None:
    watched.tell(replace(GONE, doing="", progress=progress()))
    assert watched.follow() == f"process {HERE.pid} is gone"
    assert [event["event"] for event in watched.events()] == ["progress"]  # how it stood is still worth a look


def test_a_process_that_ends_after_its_record_has_not_died(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.tell(ALIVE)

    def ends(owner: Owner, here: Owner) -> tuple[str, str]:
        watched.end()
        return "gone", "process 1 is gone"

    monkeypatch.setattr("orchestrator.runs.watching.fate_of", ends)
    assert watched.follow() is None


def test_a_process_that_cannot_be_judged_is_given_up_when_it_says_nothing(watched: Watched) -> None:
    watched.tell(FOREIGN)
    half = int(SILENT_S / LOOK_EVERY_S / 2)
    watched.steps = [lambda: None] * half + [lambda: watched.tell(FOREIGN.with_note("still here"))]
    with pytest.raises(RunnerError, match="nothing new for 60 s; whether the run goes on is not known here: of anoth"):
        watched.follow()
    assert watched.now_s == pytest.approx((half + 1) * LOOK_EVERY_S + SILENT_S, abs=2 * LOOK_EVERY_S)


def test_a_process_that_lives_may_be_silent(watched: Watched) -> None:
    watched.tell(ALIVE)
    watched.steps = [lambda: None] * int(10 * SILENT_S / LOOK_EVERY_S) + [watched.end]
    assert watched.follow() is None


def test_a_record_that_was_not_changed_is_not_read_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.runs import watching

    real, reads = watching.read_live, []

    def counted(path: Path) -> LiveRecord | None:
        reads.append(path)
        return real(path)

    monkeypatch.setattr(watching, "read_live", counted)
    watched.tell(ALIVE)
    watched.steps = [lambda: None] * 50 + [lambda: watched.tell(ALIVE), watched.end]
    assert watched.follow() is None
    assert len(reads) == 2


def test_a_run_that_is_over_has_nothing_to_show(watched: Watched) -> None:
    assert watched.follow() is None
    assert watched.events() == []


def test_a_record_of_another_version_ends_it(watched: Watched) -> None:
    watched.tell(ALIVE)
    watched.steps = [lambda: write_file(watched.path / LIVE, b'{"version": 9}')]
    with pytest.raises(ConfigError, match=r"live\.json: damaged: version=9: of another version of fragmesh"):
        watched.follow()
