"""The end of a run, whatever ran it: which failure decides, and what is written in any case."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.core.errors import ConfigError, DivergedError, RunnerError, StalledError, TransportError
from orchestrator.progress.progress import Progress
from orchestrator.results.reader import Run, load_run
from orchestrator.results.schema import EndStatus
from orchestrator.results.writer import RunWriter
from orchestrator.runs import lifecycle
from orchestrator.runs.lifecycle import RunResults
from orchestrator.runs.options import RunOptions, RunOutcome
from orchestrator.runs.resume import interrupted_run
from tests.unit.orchestrator.synthetic_runs import ENVIRONMENT, EXPERIMENT, facts, messages, sample, totals


class FakeCourse:
    """Does what it is told to, and remembers in which order it was asked."""

    environment: Mapping[str, Any] = {}

    def __init__(self, writer: RunWriter, failure: Exception | None = None, *, stops: str = "") -> None:
        self.stop_requested = False
        self.asked: list[str] = []
        self._writer = writer
        self._failure = failure
        self._stops = stops

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        self.stop_requested = self.stop_requested or what == self._stops

    def request_stop(self) -> None:
        self.stop_requested = True

    def restore(self, found: Run) -> Mapping[str, Any] | None:
        raise AssertionError("the directory is open already")

    def begin(self, writer: RunWriter, found: Run | None) -> None:
        raise AssertionError("the directory is open already")

    def execute(self) -> None:
        self._ask("execute")
        self._writer.add(sample(0))
        if self._failure is not None:
            raise self._failure

    def keep_for_resume(self) -> None:
        self._ask("keep")

    def results(self, status: EndStatus, error: RunnerError | None) -> RunResults:
        self._ask(f"results {status}")
        ended = replace(
            totals(),
            status=status,
            error=None if error is None else str(error),
            divergence=error if isinstance(error, DivergedError) else None,
        )
        return RunResults(ended, messages(), {"verdict": "exact"})

    def forget_resume(self) -> None:
        self._ask("forget")


@pytest.fixture
def writer(tmp_path: Path) -> RunWriter:
    return RunWriter.create(tmp_path, facts(), EXPERIMENT, ENVIRONMENT)


@pytest.fixture(autouse=True)
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs of which a report was written; drawing takes a second, and has tests of its own."""
    written: list[Path] = []
    monkeypatch.setattr(lifecycle, "report", written.append)
    return written


def end(course: FakeCourse, writer: RunWriter) -> RunOutcome:
    return lifecycle._execute_and_conclude(course, writer, Progress("quiet"))


def test_a_run_that_is_done_leaves_nothing_to_resume(writer: RunWriter, reports: list[Path]) -> None:
    course = FakeCourse(writer)
    outcome = end(course, writer)
    assert course.asked == ["execute", "results done", "forget"]
    assert (outcome.status, outcome.error) == ("done", None)
    assert load_run(writer.path).status == "done"
    assert reports == [writer.path]


def test_a_report_that_fails_is_told_and_the_run_is_done(writer: RunWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "report", lambda path: "no figures: ImportError: no font")
    course = FakeCourse(writer)
    outcome = end(course, writer)
    assert (outcome.status, outcome.error) == ("done", None)
    assert outcome.report_problem == "no figures: ImportError: no font"
    assert course.asked == ["execute", "results done", "forget"]
    assert load_run(writer.path).status == "done"


def test_messages_that_were_replaced_are_counted_from_the_table(writer: RunWriter) -> None:
    outcome = end(FakeCourse(writer), writer)
    assert outcome.summary["messages"]["replaced"] > 0


@pytest.mark.parametrize("kind", [RunnerError, TransportError])
def test_a_failure_is_written_with_what_there_is(kind: type[Exception], writer: RunWriter, reports: list[Path]) -> None:
    course = FakeCourse(writer, kind("node 1 was killed by SIGKILL"))
    outcome = end(course, writer)
    assert course.asked == ["execute", "keep", "results failed"]
    assert (outcome.status, outcome.error) == ("failed", "node 1 was killed by SIGKILL")
    run = load_run(writer.path)
    assert run.status == "failed"
    assert len(run.times_s) == 1
    assert reports == [writer.path]


def test_a_run_that_stalled_says_so_and_can_be_gone_on_with(writer: RunWriter) -> None:
    course = FakeCourse(writer, StalledError("every node waits for another one"))
    outcome = end(course, writer)
    assert course.asked == ["execute", "keep", "results stalled"]
    assert (outcome.status, outcome.error) == ("stalled", "every node waits for another one")
    assert load_run(writer.path).status == "stalled"


def test_a_run_that_diverged_has_come_to_its_end(writer: RunWriter, reports: list[Path]) -> None:
    """Its results are kept and reported, and a continuation could only diverge again."""
    course = FakeCourse(writer, DivergedError(2, 17, 1_500_000_000))
    outcome = end(course, writer)
    assert course.asked == ["execute", "results diverged", "forget"]
    said = "node 2: its model is not finite after round 17 (learning rate too high?)"
    assert (outcome.status, outcome.error) == ("diverged", said)
    assert outcome.summary["diverged"] == {"node": 2, "round": 17, "time_s": 1.5}
    run = load_run(writer.path)
    assert run.status == "diverged"
    assert len(run.times_s) == 1
    assert reports == [writer.path]
    with pytest.raises(ConfigError, match="the run is complete: node 2: its model is not finite"):
        interrupted_run(writer.path, RunOptions(writer.path, None, 0, "quiet", ""))


def test_a_failure_after_a_request_to_stop_is_its_consequence(writer: RunWriter) -> None:
    """Whoever ends a job ends its workers as well."""
    course = FakeCourse(writer, RunnerError("training worker 7 was killed by signal 15"), stops="execute")
    outcome = end(course, writer)
    assert course.asked == ["execute", "keep", "results interrupted"]
    assert (outcome.status, outcome.error) == ("interrupted", None)


def test_a_request_that_comes_while_the_results_are_written_leaves_them_complete(writer: RunWriter) -> None:
    """The user is told that the request was heard; the run itself is done."""
    outcome = end(FakeCourse(writer, stops="results done"), writer)
    assert outcome.status == "interrupted"
    assert load_run(writer.path).status == "done"


def test_results_that_cannot_be_written_do_not_hide_why_the_run_failed(
    writer: RunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise RunnerError("summary.json: cannot be written: No space left on device")

    monkeypatch.setattr(writer, "finish", full)
    with pytest.raises(RunnerError, match="No space left"):
        end(FakeCourse(writer), writer)
    with pytest.raises(RunnerError, match="node 1 died"):
        end(FakeCourse(writer, RunnerError("node 1 died")), writer)


def test_a_bug_is_not_taken_for_a_failure_of_the_run(writer: RunWriter) -> None:
    with pytest.raises(ZeroDivisionError):
        end(FakeCourse(writer, ZeroDivisionError()), writer)
