"""Ratings of items by users: MovieLens, and ratings that are made."""

import io
import os
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from node.core.bounds import RATING_ID_MAX, RATINGS_BYTES_MAX
from node.core.errors import DataError
from node.core.rng import stream
from node.host.text_files import UnreadableText, read_text
from node.learning.config import SyntheticRatingsConfig
from node.learning.data_files import DOWNLOAD_TIMEOUT_S, Progress, cache_dir, one_line, search_roots
from node.learning.samples import Dataset, Samples

_MOVIELENS_URL = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"


def make_synthetic_ratings(config: SyntheticRatingsConfig, seed: int) -> Dataset:
    """Draw ratings from hidden factors; the same seed gives the same."""
    rng = stream(seed, "synthetic")
    users = rng.standard_normal((config.users, config.hidden_factors))
    items = rng.standard_normal((config.items, config.hidden_factors))
    pairs = np.concatenate(
        [
            np.stack([np.full(config.ratings_per_user, user), chosen], axis=1)
            for user in range(config.users)
            for chosen in [np.sort(rng.permutation(config.items)[: config.ratings_per_user])]
        ]
    )
    scores = (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(axis=1) / np.sqrt(config.hidden_factors)
    scores = 3.25 + scores + config.noise * rng.standard_normal(len(pairs))
    ratings = (np.rint(np.clip(scores, 0.5, 5.0) * 2) / 2).astype(np.float32)
    return _split_ratings(pairs, ratings, config.users, config.items, seed, "synthetic ratings")


def _split_ratings(
    pairs: npt.NDArray[np.int64],
    ratings: npt.NDArray[np.float32],
    num_users: int,
    num_items: int,
    seed: int,
    source: str,
) -> Dataset:
    """Draw a random 70 % of each user's ratings for training, as decentralizepy's MovieLens does."""
    rng = stream(seed, "test-split")
    training = np.zeros(len(ratings), dtype=bool)
    for user in range(num_users):
        own = np.flatnonzero(pairs[:, 0] == user)
        training[rng.permutation(own)[: max(1, round(0.7 * len(own)))]] = True
    if training.all():
        raise DataError(f"{source}: no user has two ratings, so that there is nothing to test on")
    dataset = Dataset(
        kind="ratings",
        train=Samples(pairs[training], ratings[training]),
        test=Samples(pairs[~training], ratings[~training]),
        source=source,
        num_users=num_users,
        num_items=num_items,
    )
    assert dataset.seen is not None, "these are ratings"
    unseen = int((~dataset.seen).sum())
    if unseen == 0:
        return dataset
    note = (
        f"{unseen:,} of {len(dataset.test):,} test ratings are of items without a training rating;"
        " loss_seen leaves them out"
    )
    return replace(dataset, notes=(note,))


def load_movielens(data_root: Path | None, seed: int, report: Progress) -> Dataset:
    """Read ``ml-latest-small/ratings.csv``, or download it.

    Raises:
        DataError: Missing and not downloadable, or damaged; one line.
    """
    roots = search_roots(data_root)
    for root in roots:
        path = root / "ml-latest-small" / "ratings.csv"
        if path.is_file():
            return _read_movielens(path, seed)
    report("downloading MovieLens ml-latest-small", 0, 0)
    target = cache_dir() / "data" / "ml-latest-small" / "ratings.csv"
    try:
        _download_movielens(target)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        looked = " and ".join(str(root) for root in roots)
        raise DataError(
            f"learning.dataset.kind=movielens: found no ml-latest-small/ratings.csv under {looked}, "
            f"and the download from {_MOVIELENS_URL} failed ({one_line(error)}); "
            "put it into a folder and name that with FRAGMESH_DATA"
        ) from error
    return _read_movielens(target, seed)


def _download_movielens(target: Path) -> None:
    with urllib.request.urlopen(_MOVIELENS_URL, timeout=DOWNLOAD_TIMEOUT_S) as response:
        content = response.read()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        ratings = archive.read("ml-latest-small/ratings.csv")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.write_bytes(ratings)
    partial.replace(target)


def _read_movielens(path: Path, seed: int) -> Dataset:
    """Users and items are re-numbered from 0 in increasing order of their ids."""
    try:
        lines = io.StringIO(read_text(path, RATINGS_BYTES_MAX))
        header = lines.readline().strip()
        if header != "userId,movieId,rating,timestamp":
            raise DataError(f"{path}: first line is {header[:60]!r}, expected userId,movieId,rating,timestamp")
        table = np.loadtxt(lines, delimiter=",", usecols=(0, 1, 2), dtype=np.float64, ndmin=2)
    except UnreadableText as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    except ValueError as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error
    ids, ratings = table[:, :2], table[:, 2]
    if not ((ids >= 0) & (ids <= RATING_ID_MAX) & (ids % 1 == 0)).all():
        raise DataError(f"{path}: userId and movieId must be whole numbers from 0 to {RATING_ID_MAX:,}")
    if len(ratings) == 0 or not ((ratings >= 0.5) & (ratings <= 5) & (ratings * 2 % 1 == 0)).all():
        raise DataError(f"{path}: ratings must be halves from 0.5 to 5")
    user_ids, users = np.unique(table[:, 0], return_inverse=True)
    item_ids, items = np.unique(table[:, 1], return_inverse=True)
    pairs = np.stack([users, items], axis=1).astype(np.int64)
    source = f"MovieLens {path.parent.name}"
    return _split_ratings(pairs, ratings.astype(np.float32), len(user_ids), len(item_ids), seed, source)
