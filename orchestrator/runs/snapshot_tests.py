"""Tests of the models in a run's folder of snapshots: one instant after the other, beside the run or after it."""

import time
from collections.abc import Callable

from node.core.training import Evaluator
from orchestrator.results.schema import Sample
from orchestrator.results.writer import RunWriter
from orchestrator.runs.evaluation import ModelTests
from orchestrator.runs.snapshots import Snapshots

TEST_POLL_S = 0.005
"""Interval at which finished tests are looked for once the nodes have gone, real time."""


class SnapshotTests:
    """Tests instants in their order. No more than one is under way, because its models are in memory meanwhile."""

    def __init__(self, snapshots: Snapshots, evaluator: Evaluator, writer: RunWriter) -> None:
        """Store where models come from, who tests them, and who writes the curve."""
        self._snapshots = snapshots
        self._writer = writer
        self._tests = ModelTests(evaluator, self._on_sample)

    @property
    def last(self) -> Sample | None:
        """The last complete sample; None before the first."""
        return self._tests.last

    def test_complete(self, expected: Callable[[int], frozenset[int]]) -> None:
        """Take results, and begin the next instant that all have handed over; does not wait.

        Args:
            expected: From an instant to the nodes whose models are waited for.
        """
        self._test_next(self._snapshots.next_complete(expected))

    def test_rest(self, is_hurried: Callable[[], bool], say: Callable[[], None]) -> None:
        """Test every instant that is left, complete or not.

        Args:
            is_hurried: Whether to leave the rest on the disk; asked again and again.
            say: Called once if there is anything left to begin.
        """
        if self._snapshots.next_any() is not None:
            say()
        while not is_hurried():
            self._test_next(self._snapshots.next_any())
            if self._snapshots.next_any() is None and not self._tests.pending:
                return
            time.sleep(TEST_POLL_S)

    def _test_next(self, time_ns: int | None) -> None:
        self._tests.collect()
        if time_ns is not None and not self._tests.pending:
            sample, models = self._snapshots.take(time_ns)
            self._tests.submit(time_ns, sample, models)

    def _on_sample(self, sample: Sample) -> None:
        # First the list that a continuation reads: a line of the curve can be written again, a test not.
        self._snapshots.tested(sample)
        self._writer.add(sample)
