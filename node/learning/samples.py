"""Data sets as plain arrays; torch is not needed to hold them.

Images stay uint8 and lie in memory as (N, H, W, C), so that a gathered batch is already channels-last
for torch; ``Samples.inputs`` shows them as (N, C, H, W).
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Inputs: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.float32] | npt.NDArray[np.int64]
Targets: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs and what should come out; row i of both belongs together. Not modified."""

    inputs: Inputs
    """Images (N, C, H, W) uint8; features (N, F) float32; or (N, 2) int64 of user and item, counted
    from 0."""
    targets: Targets
    """Labels (N,) int64, or ratings (N,) float32."""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])


@dataclass(frozen=True, slots=True)
class Dataset:
    """A loaded data set."""

    kind: Literal["classification", "ratings"]
    train: Samples
    test: Samples
    source: str
    """Origin of the data, in words for the report."""
    class_names: tuple[str, ...] = ()
    """Empty for ratings."""
    notes: tuple[str, ...] = ()
    """Lines that a user should see: what was left out when it was read, and how much of it."""
    num_users: int = 0
    num_items: int = 0

    @property
    def num_classes(self) -> int:
        """0 for ratings."""
        return len(self.class_names)

    @property
    def seen(self) -> npt.NDArray[np.bool_] | None:
        """Test ratings whose item has a training rating, as booleans, shape (test samples,); None for classes.

        No model can learn anything about the others.
        """
        if self.kind != "ratings":
            return None
        return np.isin(self.test.inputs[:, 1], self.train.inputs[:, 1])


@dataclass(frozen=True, slots=True)
class DecodedImages:
    """A decoded image data set; pixels are (N, H, W, C) uint8."""

    train_pixels: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_pixels: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """See :class:`Dataset`."""


def from_images(images: DecodedImages, source: str) -> Dataset:
    """Show decoded images as a data set; the pixels are not copied."""
    return Dataset(
        kind="classification",
        train=Samples(images.train_pixels.transpose(0, 3, 1, 2), images.train_labels),
        test=Samples(images.test_pixels.transpose(0, 3, 1, 2), images.test_labels),
        source=source,
        class_names=images.class_names,
        notes=images.notes,
    )
