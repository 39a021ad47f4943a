"""Data sets as plain arrays: found, decoded once, cached, checked. torch is not needed to load them.

Images stay uint8 and lie in memory as (N, H, W, C), so that a gathered batch is already channels-last
for torch; ``Samples.inputs`` shows them as (N, C, H, W). Decoded image folders are kept as ``.npy``
files under the cache directory and memory-mapped, so that worker processes share their pages.

Files are found under the data root (``--data-root``, else ``$FRAGMESH_DATA``) and under ``<cache>/data``, where
downloads go. The cache directory is ``$FRAGMESH_CACHE``, else ``$XDG_CACHE_HOME/fragmesh``, else
``~/.cache/fragmesh``.
"""

import hashlib
import io
import json
import os
import shutil
import socket
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from lzma import LZMAError
from pathlib import Path
from typing import Literal, TypeAlias, assert_never, cast

import numpy as np
import numpy.typing as npt

from node.core.errors import ConfigError, DataError
from node.core.rng import stream
from node.learning.config import (
    Cifar10Config,
    DatasetConfig,
    DigitsConfig,
    ImageFolderConfig,
    MovieLensConfig,
    SyntheticConfig,
    SyntheticRatingsConfig,
)

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told (what is being done, how much is done, how much there is or 0 if unknown)."""

Inputs: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.float32] | npt.NDArray[np.int64]
Targets: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.float32]

_CACHE_FORMAT = 1
_DOWNLOAD_TIMEOUT_S = 30.0
_MOVIELENS_URL = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")


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
    """Where it came from, in words for the report."""
    class_names: tuple[str, ...] = ()
    """Empty for ratings."""
    num_users: int = 0
    num_items: int = 0

    @property
    def num_classes(self) -> int:
        """0 for ratings."""
        return len(self.class_names)


@dataclass(frozen=True, slots=True)
class _Images:
    """A decoded image data set; pixels are (N, H, W, C) uint8."""

    train_pixels: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_pixels: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]


def resolve_data_root(argument: Path | None) -> Path | None:
    """The folder in which data sets are looked for: the argument, else ``$FRAGMESH_DATA``, else none.

    Raises:
        ConfigError: It is not a directory.
    """
    named = argument or (Path(os.environ["FRAGMESH_DATA"]) if os.environ.get("FRAGMESH_DATA") else None)
    if named is None:
        return None
    if not named.is_dir():
        place = "the data root" if argument else "FRAGMESH_DATA"
        raise ConfigError(f"{place}={named}: is not a directory")
    return named


def cache_dir() -> Path:
    """Where decoded arrays and downloads are kept; may not exist yet."""
    if os.environ.get("FRAGMESH_CACHE"):
        return Path(os.environ["FRAGMESH_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fragmesh"


def load_dataset(config: DatasetConfig, data_root: Path | None, seed: int, progress: Progress | None = None) -> Dataset:
    """Load a data set; the same config, files and seed give the same arrays.

    Args:
        config: Which one.
        data_root: Folder to look in, see :func:`resolve_data_root`.
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
            return _subset(_load_cifar10(data_root, report), config.max_train_samples, seed)
        case ImageFolderConfig():
            path = (data_root or Path()) / config.path
            return _subset(_load_image_folder(path, report), config.max_train_samples, seed)
        case MovieLensConfig():
            return _load_movielens(data_root, seed, report)
        case SyntheticConfig():
            return _make_synthetic(config, seed)
        case SyntheticRatingsConfig():
            return _make_synthetic_ratings(config, seed)
        case _:
            assert_never(config)


def _subset(dataset: Dataset, max_train_samples: int | None, seed: int) -> Dataset:
    if max_train_samples is None or max_train_samples >= len(dataset.train):
        return dataset
    chosen = np.sort(stream(seed, "train-subset").permutation(len(dataset.train))[:max_train_samples])
    images = cast("npt.NDArray[np.uint8]", dataset.train.inputs)
    pixels = images.transpose(0, 2, 3, 1)[chosen]  # copied in memory order, not in that of the view
    return replace(dataset, train=Samples(pixels.transpose(0, 3, 1, 2), dataset.train.targets[chosen]))


def _from_images(images: _Images, source: str) -> Dataset:
    return Dataset(
        kind="classification",
        train=Samples(images.train_pixels.transpose(0, 3, 1, 2), images.train_labels),
        test=Samples(images.test_pixels.transpose(0, 3, 1, 2), images.test_labels),
        source=source,
        class_names=images.class_names,
    )


# --- made or shipped: nothing can be missing ------------------------------------------------------------


def _load_digits(seed: int) -> Dataset:
    """A fifth of the digits, drawn with the seed, is the test set (scikit-learn ships them as one set)."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    pixels = np.rint(raw.images * (255 / 16)).astype(np.uint8)[:, :, :, None]
    labels = raw.target.astype(np.int64)
    order = stream(seed, "test-split").permutation(len(labels))
    test, train = np.sort(order[: len(labels) // 5]), np.sort(order[len(labels) // 5 :])
    images = _Images(pixels[train], labels[train], pixels[test], labels[test], tuple("0123456789"))
    return _from_images(images, "scikit-learn digits")


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


def _make_synthetic_ratings(config: SyntheticRatingsConfig, seed: int) -> Dataset:
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
    return Dataset(
        kind="ratings",
        train=Samples(pairs[training], ratings[training]),
        test=Samples(pairs[~training], ratings[~training]),
        source=source,
        num_users=num_users,
        num_items=num_items,
    )


# --- CIFAR-10 ------------------------------------------------------------


def _search_roots(data_root: Path | None) -> list[Path]:
    return [root for root in (data_root, cache_dir() / "data") if root is not None]


def _load_cifar10(data_root: Path | None, report: Progress) -> Dataset:
    """The official files, else an image folder named ``cifar10-imagefolder*``, else a download."""
    roots = _search_roots(data_root)
    for root in roots:
        if (root / "cifar-10-batches-py").is_dir() or (root / "cifar-10-python.tar.gz").is_file():
            return _load_official_cifar10(root, report)
        for path in sorted(root.glob("cifar10-imagefolder*")):
            if path.is_dir() or path.name.endswith(_TAR_SUFFIXES):
                return _load_image_folder(path, report)
    target = cache_dir() / "data"
    report("downloading CIFAR-10", 0, 0)
    try:
        return _from_images(_read_official_cifar10(target, download=True), "CIFAR-10, official files")
    except Exception as error:  # torchvision raises whatever urllib, tarfile or the file system raise
        looked = " and ".join(str(root) for root in roots)
        raise DataError(
            f"learning.dataset.kind=cifar10: found neither cifar-10-batches-py/, cifar-10-python.tar.gz nor "
            f"cifar10-imagefolder* under {looked}, and the download failed ({_one_line(error)}); "
            "put one of them into a folder and name it with FRAGMESH_DATA"
        ) from error


def _load_official_cifar10(root: Path, report: Progress) -> Dataset:
    unpacked = root / "cifar-10-batches-py"
    marker = unpacked if unpacked.is_dir() else root / "cifar-10-python.tar.gz"

    def read() -> _Images:
        report("reading CIFAR-10", 0, 0)
        try:
            if unpacked.is_dir():
                return _read_official_cifar10(root, download=False)
            with tempfile.TemporaryDirectory() as scratch:  # the data root may be read-only
                with tarfile.open(marker, "r:*") as archive:
                    archive.extractall(scratch, filter="data")
                return _read_official_cifar10(Path(scratch), download=False)
        except Exception as error:  # see above
            raise DataError(f"{marker}: is not a readable copy of CIFAR-10 ({_one_line(error)})") from error

    return _from_images(_cached("cifar10", marker, read), "CIFAR-10, official files")


def _read_official_cifar10(root: Path, *, download: bool) -> _Images:
    """Through torchvision, which compares the files' checksums before it opens them."""
    from node.learning.torchvision_import import import_torchvision

    cifar10 = import_torchvision().datasets.CIFAR10
    if download:
        root.mkdir(parents=True, exist_ok=True)
    with _socket_timeout(_DOWNLOAD_TIMEOUT_S):
        train, test = (cifar10(str(root), train=part, download=download) for part in (True, False))
    return _Images(
        np.ascontiguousarray(train.data),
        np.asarray(train.targets, dtype=np.int64),
        np.ascontiguousarray(test.data),
        np.asarray(test.targets, dtype=np.int64),
        tuple(train.classes),
    )


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision's download sets no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# --- image folders ------------------------------------------------------------


def _load_image_folder(path: Path, report: Progress) -> Dataset:
    if not path.exists():
        raise DataError(f"{path}: no such image folder; expected a directory or .tar file with train|test/<class>/")
    form = "tar" if path.is_file() else "directory"
    images = _cached("image_folder", path, lambda: _decode_image_folder(path, report))
    return _from_images(images, f"image folder {path.name} ({form})")


def _decode_image_folder(path: Path, report: Progress) -> _Images:
    """Decode every image, in the order of class and file name whatever the order on disk."""
    what = f"decoding {path.name}"
    decoded: dict[str, list[tuple[str, str, npt.NDArray[np.uint8]]]] = {"train": [], "test": []}
    count = 0
    for name, content in _image_files(path):
        parts = Path(name).parts[-3:]
        if len(parts) != 3 or parts[0] not in decoded:
            continue
        decoded[parts[0]].append((parts[1], parts[2], _decode(content, f"{path}: {name}")))
        count += 1
        if count % 1000 == 0:
            report(what, count, 0)
    report(what, count, count)
    if not decoded["train"] or not decoded["test"]:
        missing = "train" if not decoded["train"] else "test"
        raise DataError(f"{path}: no images under {missing}/<class>/*.jpg|png")
    names = tuple(sorted({entry[0] for entry in decoded["train"]}))
    unknown = {entry[0] for entry in decoded["test"]} - set(names)
    if unknown:
        raise DataError(f"{path}: class {min(unknown)!r} is in test/ but not in train/")
    train_pixels, train_labels = _stack(decoded["train"], names, path)
    test_pixels, test_labels = _stack(decoded["test"], names, path)
    if train_pixels.shape[1:] != test_pixels.shape[1:]:
        raise DataError(f"{path}: images of train/ and test/ differ in size")
    return _Images(train_pixels, train_labels, test_pixels, test_labels, names)


def _image_files(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.suffix.lower() in _IMAGE_SUFFIXES:
                    yield file.relative_to(path).as_posix(), file.read_bytes()
            return
        with tarfile.open(path, "r:*") as archive:  # "r|*" takes a truncated file for a short one
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None and member.name.lower().endswith(_IMAGE_SUFFIXES):
                    yield member.name, content.read()
    except (OSError, EOFError, tarfile.TarError, LZMAError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({_one_line(error)})") from error


def _decode(content: bytes, place: str) -> npt.NDArray[np.uint8]:
    """One image as (H, W, C); grey stays one channel, everything else becomes RGB."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.array(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{place}: is not a readable image ({_one_line(error)})") from error
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _stack(
    entries: list[tuple[str, str, npt.NDArray[np.uint8]]], names: tuple[str, ...], path: Path
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    entries = sorted(entries, key=lambda entry: entry[:2])
    first = entries[0][2].shape
    for class_name, file_name, pixels in entries:
        if pixels.shape != first:
            raise DataError(
                f"{path}: {class_name}/{file_name} is {pixels.shape}, others are {first}; one size is needed"
            )
    position = {name: label for label, name in enumerate(names)}
    labels = np.array([position[entry[0]] for entry in entries], dtype=np.int64)
    return np.stack([entry[2] for entry in entries]), labels


# --- MovieLens ------------------------------------------------------------


def _load_movielens(data_root: Path | None, seed: int, report: Progress) -> Dataset:
    roots = _search_roots(data_root)
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
            f"and the download from {_MOVIELENS_URL} failed ({_one_line(error)}); "
            "put it into a folder and name that with FRAGMESH_DATA"
        ) from error
    return _read_movielens(target, seed)


def _download_movielens(target: Path) -> None:
    with urllib.request.urlopen(_MOVIELENS_URL, timeout=_DOWNLOAD_TIMEOUT_S) as response:
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
        with path.open(encoding="utf-8") as file:
            header = file.readline().strip()
            if header != "userId,movieId,rating,timestamp":
                raise DataError(f"{path}: first line is {header[:60]!r}, expected userId,movieId,rating,timestamp")
            table = np.loadtxt(file, delimiter=",", usecols=(0, 1, 2), dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({_one_line(error)})") from error
    ratings = table[:, 2]
    if len(ratings) == 0 or not ((ratings >= 0.5) & (ratings <= 5) & (ratings * 2 % 1 == 0)).all():
        raise DataError(f"{path}: ratings must be halves from 0.5 to 5")
    user_ids, users = np.unique(table[:, 0], return_inverse=True)
    item_ids, items = np.unique(table[:, 1], return_inverse=True)
    pairs = np.stack([users, items], axis=1).astype(np.int64)
    source = f"MovieLens {path.parent.name}"
    return _split_ratings(pairs, ratings.astype(np.float32), len(user_ids), len(item_ids), seed, source)


# --- the cache of decoded arrays ------------------------------------------------------------

_ARRAYS = ("train_pixels", "train_labels", "test_pixels", "test_labels")


def _cached(name: str, source: Path, read: Callable[[], _Images]) -> _Images:
    """Decoded arrays from the cache, else from ``read`` and then into the cache if it can be written."""
    folder = cache_dir() / "decoded" / f"{name}-{_fingerprint(source)}"
    found = _read_cache(folder)
    if found is not None:
        return found
    images = read()
    return images if not _write_cache(folder, images) else (_read_cache(folder) or images)


def _fingerprint(source: Path) -> str:
    """Changes with the path, size or modification time of the source, or of any file in it."""
    digest = hashlib.sha256(f"{_CACHE_FORMAT} {source.resolve()}".encode())
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    for file in files:
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:20]


def _read_cache(folder: Path) -> _Images | None:
    """None when it is not there or damaged."""
    try:
        names = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        # asarray drops the memmap class, whose indexing is slow, and keeps the shared pages.
        arrays = [np.asarray(np.load(folder / f"{array}.npy", mmap_mode="r", allow_pickle=False)) for array in _ARRAYS]
    except (OSError, EOFError, ValueError):
        return None
    return _Images(arrays[0], arrays[1], arrays[2], arrays[3], tuple(str(name) for name in names))


def _write_cache(folder: Path, images: _Images) -> bool:
    """Write beside the place and rename, so that readers see all or nothing. False if that is impossible."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    except OSError:
        return False
    try:
        for array in _ARRAYS:
            np.save(partial / f"{array}.npy", getattr(images, array), allow_pickle=False)
        (partial / "classes.json").write_text(json.dumps(images.class_names), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # only a damaged entry can be here
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        return folder.is_dir()  # another process may have been faster
    return True


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
