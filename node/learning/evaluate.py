"""Testing a model: which samples, in which batches, and what is counted."""

from collections.abc import Iterator
from math import isnan, prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from node.core.rng import stream
from node.core.training import Evaluation
from node.core.types import IndexVector
from node.learning.partition import Partition

_BATCH_NUMBERS = 50 * 3 * 32 * 32
"""Input numbers in a batch: 50 images of 3x32x32, where activations still fit the caches of a core."""
_BATCH_MAX = 4096


def test_subsets(
    partition: Partition, num_samples: int, max_test_samples: int | None, seed: int
) -> list[IndexVector | slice]:
    """The test samples of every node, or one entry for all nodes.

    Args:
        partition: Has a list per node where tests are local.
        num_samples: Size of the test set.
        max_test_samples: Use a random subset of at most this size, per entry.
        seed: Decides the subset.
    """
    if partition.test_indices is None:
        if max_test_samples is None or max_test_samples >= num_samples:
            return [slice(0, num_samples)]
        return [_draw(num_samples, max_test_samples, seed, 0)]
    subsets: list[IndexVector | slice] = []
    for node, own in enumerate(partition.test_indices):
        limit = len(own) if max_test_samples is None else min(max_test_samples, len(own))
        subsets.append(own if limit == len(own) else own[_draw(len(own), limit, seed, node)])
    return subsets


test_subsets.__test__ = False  # type: ignore[attr-defined]  # pytest would collect the name


def _draw(total: int, count: int, seed: int, index: int) -> IndexVector:
    chosen: IndexVector = stream(seed, "test-subset", index=index).permutation(total)[:count]
    chosen.sort()
    return chosen


def num_test_samples(chosen: IndexVector | slice) -> int:
    """The number of samples that are chosen."""
    return chosen.stop - chosen.start if isinstance(chosen, slice) else len(chosen)


def evaluation_batches(chosen: IndexVector | slice, shape: tuple[int, ...]) -> Iterator[IndexVector | slice]:
    """Cut test samples into batches of a size that suits inputs of this shape."""
    size = max(1, min(_BATCH_MAX, _BATCH_NUMBERS // prod(shape)))
    for start in range(0, num_test_samples(chosen), size):
        if isinstance(chosen, slice):
            yield slice(chosen.start + start, min(chosen.start + start + size, chosen.stop))
        else:
            yield chosen[start : start + size]


class Score:
    """Adds up what the batches of one test give."""

    def __init__(self, ratings: bool) -> None:
        self._ratings = ratings
        self._hits = 0
        self._loss = 0.0
        self._samples = 0
        self._loss_seen = 0.0
        self._samples_seen = 0

    def add(self, outputs: Tensor, targets: Tensor, seen: Tensor | None = None) -> None:
        """Count a batch of model outputs.

        Args:
            outputs: Shape (samples, classes), or (samples,) for ratings.
            targets: Shape (samples,).
            seen: For ratings, whether the item has a training rating, shape (samples,), bool; None leaves that out.
        """
        outputs = outputs.float()
        if self._ratings:
            rounded = outputs.clamp(0.5, 5.0).mul(2).round().div(2)
            self._hits += int((rounded == targets).sum())
            squares = (outputs - targets).square()
            self._loss += float(squares.sum(dtype=torch.float64))
            if seen is not None:
                self._loss_seen += float(squares[seen].sum(dtype=torch.float64))
                self._samples_seen += int(seen.sum())
        else:
            self._hits += int((outputs.argmax(1) == targets).sum())
            self._loss += float(F.cross_entropy(outputs, targets, reduction="sum"))
        self._samples += len(targets)

    def result(self) -> Evaluation:
        """The averages; not-a-number without samples."""
        if self._samples == 0:
            return Evaluation(accuracy=float("nan"), loss=float("nan"), samples=0)
        loss = self._loss / self._samples
        seen = sqrt(self._loss_seen / self._samples_seen) if self._samples_seen else None
        return Evaluation(
            accuracy=self._hits / self._samples,
            loss=sqrt(loss) if self._ratings else loss,
            samples=self._samples,
            loss_seen=None if seen is None or isnan(seen) else seen,
        )
