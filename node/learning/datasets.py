"""Loading of data sets: found, decoded once, cached, checked. torch is not needed to load them.

Each source has its own module; what can never be missing is made here.
"""

import gzip
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import assert_never, cast

import numpy as np
import numpy.typing as npt

from node.core.errors import DataError
from node.core.rng import stream
from node.learning.cifar10 import load_cifar10
from node.learning.config import (
    Cifar10Config,
    DatasetConfig,
    DigitsConfig,
    ImageFolderConfig,
    MovieLensConfig,
    SyntheticConfig,
    SyntheticRatingsConfig,
)
from node.learning.data_files import Progress
from node.learning.image_folder import load_image_folder
from node.learning.ratings import load_movielens, make_synthetic_ratings
from node.learning.samples import Dataset, DecodedImages, Samples, from_images


def load_dataset(config: DatasetConfig, data_root: Path | None, seed: int, progress: Progress | None = None) -> Dataset:
    """Load a data set; the same config, files and seed give the same arrays.

    Args:
        config: Which one.
        data_root: Folder to look in, see :func:`~node.learning.data_files.resolve_data_root`.
        seed: Decides random splits and subsets.
        progress: Told about slow work (decoding, downloads).

    Raises:
        DataError: Missing, unreadable or not downloadable; one line that says what to do.
    """
    report = progress or (lambda what, done, total: None)
    match config:
        case DigitsConfig():
            return _subset(_load_digits(seed), config.max_train_samples, seed)
        case Cifar10Config():
            return _subset(load_cifar10(data_root, report), config.max_train_samples, seed)
        case ImageFolderConfig():
            path = (data_root or Path()) / config.path
            return _subset(load_image_folder(path, report), config.max_train_samples, seed)
        case MovieLensConfig():
            return load_movielens(data_root, seed, report)
        case SyntheticConfig():
            return _make_synthetic(config, seed)
        case SyntheticRatingsConfig():
            return make_synthetic_ratings(config, seed)
        case _:
            assert_never(config)


def _subset(dataset: Dataset, max_train_samples: int | None, seed: int) -> Dataset:
    if max_train_samples is None or max_train_samples >= len(dataset.train):
        return dataset
    chosen = np.sort(stream(seed, "train-subset").permutation(len(dataset.train))[:max_train_samples])
    images = cast("npt.NDArray[np.uint8]", dataset.train.inputs)
    pixels = images.transpose(0, 2, 3, 1)[chosen]  # copied in memory order, not in that of the view
    return replace(dataset, train=Samples(pixels.transpose(0, 3, 1, 2), dataset.train.targets[chosen]))


# --- made or shipped: nothing can be missing ------------------------------------------------------------


def _load_digits(seed: int) -> Dataset:
    """A fifth of the digits, drawn with the seed, is the test set (scikit-learn ships them as one set).

    Its file is read without it: to import it takes each node a second of a core and 45 MB.

    Raises:
        DataError: It is not installed as it should be.
    """
    package = find_spec("sklearn")
    folders = [] if package is None else list(package.submodule_search_locations or ())
    files = [path for folder in folders if (path := Path(folder, "datasets", "data", "digits.csv.gz")).is_file()]
    if not files:
        raise DataError("learning.dataset.kind=digits: scikit-learn, which ships them, is not installed with its data")
    with gzip.open(files[0], "rt", encoding="ascii") as file:
        rows = np.loadtxt(file, delimiter=",")
    pixels = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)[:, :, :, None]
    labels = rows[:, -1].astype(np.int64)
    order = stream(seed, "test-split").permutation(len(labels))
    test, train = np.sort(order[: len(labels) // 5]), np.sort(order[len(labels) // 5 :])
    images = DecodedImages(pixels[train], labels[train], pixels[test], labels[test], tuple("0123456789"))
    return from_images(images, "scikit-learn digits")


def _make_synthetic(config: SyntheticConfig, seed: int) -> Dataset:
    rng = stream(seed, "synthetic")
    centres = rng.standard_normal((config.classes, config.features))

    def draw(count: int) -> Samples:
        labels = rng.integers(config.classes, size=count)
        features = centres[labels] + config.noise * rng.standard_normal((count, config.features))
        return Samples(features.astype(np.float32), labels)

    names = tuple(str(label) for label in range(config.classes))
    train, test = draw(config.samples), draw(config.test_samples)
    return Dataset("classification", train, test, "synthetic Gaussian clouds", class_names=names)
