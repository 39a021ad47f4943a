"""Image folders: ``train|test/<class>/`` in a directory or a tar file."""

import io
import tarfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path

import numpy as np
import numpy.typing as npt

from node.core.errors import DataError
from node.learning.data_files import Progress, cached, one_line
from node.learning.samples import Dataset, DecodedImages, from_images

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def load_image_folder(path: Path, report: Progress) -> Dataset:
    """Read the images of a directory or a tar file, or their decoded form from the cache.

    Raises:
        DataError: Missing, unreadable or of another layout; one line.
    """
    if not path.exists():
        raise DataError(f"{path}: no such image folder; expected a directory or .tar file with train|test/<class>/")
    form = "tar" if path.is_file() else "directory"
    images = cached("image_folder", path, lambda: _decode_image_folder(path, report))
    return from_images(images, f"image folder {path.name} ({form})")


def _decode_image_folder(path: Path, report: Progress) -> DecodedImages:
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
    return DecodedImages(train_pixels, train_labels, test_pixels, test_labels, names)


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
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error


def _decode(content: bytes, place: str) -> npt.NDArray[np.uint8]:
    """One image as (H, W, C); grey stays one channel, everything else becomes RGB."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.array(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{place}: is not a readable image ({one_line(error)})") from error
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
