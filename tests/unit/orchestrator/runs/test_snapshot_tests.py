"""Models of a real run are tested one instant after the other, beside the run or after it."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from node.core.counters import NodeCounters
from node.core.errors import RunnerError
from node.core.training import Evaluation
from node.core.types import NodeId, Vector
from node.transport.control_values import ModelSnapshot, SnapshotPurpose
from orchestrator.results.schema import Sample
from orchestrator.runs import snapshot_tests
from orchestrator.runs.snapshot_tests import SnapshotTests
from orchestrator.runs.snapshots import Snapshots

ALL = frozenset({0, 1})


class SlowEvaluator:
    """Has a ticket's results so many questions after it was submitted. A model's accuracy is its first value."""

    num_test_sets = 1

    def __init__(self, questions: int = 0) -> None:
        self._questions = questions
        self._left: dict[int, int] = {}
        self._results: dict[int, dict[NodeId, Evaluation]] = {}
        self.submitted: list[int] = []

    def submit(self, ticket: int, models: Mapping[NodeId, Vector]) -> None:
        assert not self._results, "the models of two instants are in memory"
        self.submitted.append(ticket)
        self._left[ticket] = self._questions
        self._results[ticket] = {node: Evaluation(float(params[0]), 0.0, 1) for node, params in models.items()}

    def collect(self, *, wait: bool) -> list[tuple[int, dict[NodeId, Evaluation]]]:
        assert not wait
        ready = [ticket for ticket, left in self._left.items() if left <= 0]
        self._left = {ticket: left - 1 for ticket, left in self._left.items() if left > 0}
        return [(ticket, self._results.pop(ticket)) for ticket in ready]


class Curve:
    """The writer of the curve; it can break."""

    def __init__(self) -> None:
        self.lines: list[Sample] = []
        self.breaks = False

    def add(self, sample: Sample) -> None:
        if self.breaks:
            raise RunnerError("curve.csv: cannot be written")
        self.lines.append(sample)


class Bench:
    """Two nodes' snapshots and everything that their tests need."""

    def __init__(self, folder: Path, evaluator: SlowEvaluator) -> None:
        self.folder, self.evaluator, self.curve = folder, evaluator, Curve()
        self.snapshots = Snapshots.create(folder)
        writer: Any = self.curve
        self.tests = SnapshotTests(self.snapshots, evaluator, writer)

    def keep(self, time_ns: int, *nodes: int) -> None:
        for node in nodes:
            info = ModelSnapshot(NodeId(node), SnapshotPurpose.EVALUATION, time_ns, NodeCounters())
            self.snapshots.keep(info, np.array([time_ns + node / 10, 0.0], dtype=np.float32))

    @property
    def tested(self) -> list[tuple[int, list[float]]]:
        return [(line.time_ns, [round(node.accuracy, 3) for node in line.nodes]) for line in self.curve.lines]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "snapshots", SlowEvaluator(questions=2))


@pytest.fixture(autouse=True)
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Naps between two looks at the tests that are under way; nobody really sleeps."""
    taken: list[float] = []
    monkeypatch.setattr(snapshot_tests, "time", SimpleNamespace(sleep=taken.append))
    return taken


def test_beside_the_run_an_instant_is_tested_once_all_living_nodes_are_there(bench: Bench) -> None:
    bench.keep(10, 1)
    bench.tests.test_complete(lambda time_ns: ALL)
    assert bench.evaluator.submitted == []
    bench.tests.test_complete(lambda time_ns: frozenset({1}))  # node 0 has died
    assert bench.evaluator.submitted == [10]
    assert bench.tests.last is None
    for _ in range(3):
        bench.tests.test_complete(lambda time_ns: frozenset({1}))
    assert bench.tested == [(10, [10.1])]
    assert bench.tests.last is bench.curve.lines[0]


def test_one_instant_is_under_way_at_a_time_in_their_order(bench: Bench) -> None:
    bench.keep(20, 0, 1)
    bench.keep(10, 0, 1)
    for _ in range(10):  # the evaluator refuses a second one
        bench.tests.test_complete(lambda time_ns: ALL)
    assert bench.evaluator.submitted == [10, 20]
    assert bench.tested == [(10, [10.0, 10.1]), (20, [20.0, 20.1])]


def test_the_rest_is_tested_complete_or_not_and_said_once(bench: Bench, naps: list[float]) -> None:
    bench.keep(10, 0, 1)
    bench.keep(20, 1)
    said: list[str] = []
    bench.tests.test_rest(lambda: False, lambda: said.append("."))
    assert bench.tested == [(10, [10.0, 10.1]), (20, [20.1])]
    assert said == ["."]
    assert len(naps) == 6  # each of the two was asked for three times
    assert set(naps) == {snapshot_tests.TEST_POLL_S}


def test_what_is_under_way_when_the_run_ends_is_waited_for(bench: Bench) -> None:
    bench.keep(10, 0, 1)
    bench.tests.test_complete(lambda time_ns: ALL)
    said: list[str] = []
    bench.tests.test_rest(lambda: False, lambda: said.append("."))
    assert bench.tested == [(10, [10.0, 10.1])]
    assert said == []  # nothing was left to begin


def test_with_nothing_left_nothing_is_said_or_waited_for(bench: Bench, naps: list[float]) -> None:
    said: list[str] = []
    bench.tests.test_rest(lambda: False, lambda: said.append("."))
    assert (bench.tested, said, naps) == ([], [], [])


def test_who_is_hurried_leaves_the_rest_on_the_disk(bench: Bench) -> None:
    bench.keep(10, 0, 1)
    bench.keep(20, 0, 1)
    bench.keep(30, 0, 1)
    answers = iter([False] * 4 + [True])  # during the test of the second one
    bench.tests.test_rest(lambda: next(answers), lambda: None)
    assert bench.tested == [(10, [10.0, 10.1])]
    _, earlier = Snapshots.reopen(bench.folder, 2)
    assert [sample.time_ns for sample in earlier.samples] == [10]  # a continuation tests the others
    assert earlier.time_ns == 30


def test_a_line_that_cannot_be_written_is_no_test_that_is_lost(bench: Bench) -> None:
    """The list that a continuation reads has the result, and makes the line again."""
    bench.keep(10, 0, 1)
    bench.curve.breaks = True
    with pytest.raises(RunnerError, match=r"curve\.csv: cannot be written"):
        bench.tests.test_rest(lambda: False, lambda: None)
    assert bench.tests.last is None
    _, earlier = Snapshots.reopen(bench.folder, 2)
    assert [[round(node.accuracy, 3) for node in sample.nodes] for sample in earlier.samples] == [[10.0, 10.1]]
