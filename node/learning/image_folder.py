"""Image folders: ``train|test/<class>/`` in a directory or a tar file, as torchvision's ImageFolder reads them.

Differences: images are of one size; grey ones stay one channel unless there are coloured ones too; hidden files and
folders are left out; a layout that can be read in two ways is refused.
"""

import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from unicodedata import category

import numpy as np
import numpy.typing as npt

from node.core.bounds import IMAGE_BYTES_MAX
from node.core.errors import DataError
from node.learning.data_files import Progress, cached
from node.learning.image_decoding import DecodedImage, decode
from node.learning.image_files import (
    IMAGE_SUFFIXES,
    Listing,
    errors_of_reading,
    is_hidden,
    is_image,
    list_archive,
    list_directory,
    printable,
)
from node.learning.samples import Dataset, DecodedImages, from_images

_PARTS = ("train", "test")

File = TypeVar("File")


@dataclass(frozen=True, slots=True, order=True)
class _ImagePlace:
    """Place of an image: ``train`` or ``test``, its class, its name below the class's folder."""

    part: str
    class_name: str
    file_name: str


@dataclass(frozen=True)
class _Layout:
    """The images of a folder, and in words what is left out."""

    places: Mapping[str, _ImagePlace]
    notes: tuple[str, ...]


def load_image_folder(path: Path, report: Progress) -> Dataset:
    """Read the images of a directory or a tar file, or their decoded form from the cache.

    Raises:
        DataError: Missing, unreadable, of another layout or of one that can be read in two ways; one line.
    """
    if path.is_dir():
        listing = list_directory(path)
        files = listing.files | dict.fromkeys((f"{name}/" for name in listing.folders), None)
        images = cached("image_folder", path, lambda: _decode_directory(path, listing, report), files)
        return from_images(images, f"image folder {path.name} (directory)")
    if not path.exists():
        raise DataError(f"{path}: no such image folder; expected a directory or .tar file with train|test/<class>/")
    if not path.is_file():  # a pipe and a device may never end
        raise DataError(f"{path}: is a device, a pipe or a socket; must be a directory or a .tar file")
    images = cached("image_folder", path, lambda: _decode_archive(path, report))
    return from_images(images, f"image folder {path.name} (tar)")


def _decode_directory(path: Path, listing: Listing[Path], report: Progress) -> DecodedImages:
    layout = _layout(listing, path)

    def contents() -> Iterator[tuple[list[str], bytes]]:
        for name in layout.places:
            file = listing.files[name]
            assert file is not None, "links that lead nowhere have no place"
            _require_size(file.stat().st_size, path, name)
            yield [name], file.read_bytes()

    return _decode_all(path, layout, contents(), report)


def _require_size(size: int, path: Path, name: str) -> None:
    if size > IMAGE_BYTES_MAX:
        raise DataError(f"{path}: {printable(name)}: {size:,} bytes: must be at most {IMAGE_BYTES_MAX:,}")


def _decode_archive(path: Path, report: Progress) -> DecodedImages:
    with errors_of_reading(path), tarfile.open(path, "r:*") as archive:  # "r|*" takes a truncated file for a short one
        report(f"listing {path.name}", 0, 0)
        listing = list_archive(archive, path)
        layout = _layout(listing, path)
        # In the order in which they lie: going back in a compressed archive begins it anew. Links share a member.
        names: dict[int, list[str]] = {}
        members: dict[int, tarfile.TarInfo] = {}
        for name in layout.places:
            member = listing.files[name]
            assert member is not None, "links that lead nowhere have no place"
            _require_size(member.size, path, name)
            members[member.offset_data] = member
            names.setdefault(member.offset_data, []).append(name)

        def contents() -> Iterator[tuple[list[str], bytes]]:
            for offset in sorted(members):
                file = archive.extractfile(members[offset])
                assert file is not None, "a link or a folder has no place"
                yield names[offset], file.read()

        return _decode_all(path, layout, contents(), report)


def _decode_all(
    path: Path, layout: _Layout, contents: Iterator[tuple[list[str], bytes]], report: Progress
) -> DecodedImages:
    """Decode every image, in the order of class and file name whatever the order on disk."""
    # Step 1: decode, in the order in which the files come.
    what = f"decoding {path.name}"
    decoded: dict[_ImagePlace, DecodedImage] = {}
    with errors_of_reading(path):
        for names, content in contents:
            image = decode(content, f"{path}: {printable(names[0])}")
            for name in names:
                decoded[layout.places[name]] = image
                if len(decoded) % 1000 == 0:
                    report(what, len(decoded), 0)
    report(what, len(decoded), len(decoded))
    # Step 2: one size and one number of channels for all, checked before memory for all of them is taken.
    places = sorted(decoded)
    sizes = Counter(image.pixels.shape[:2] for image in decoded.values())
    first = sizes.most_common(1)[0][0]
    for place in places:
        shape = decoded[place].pixels.shape[:2]
        if shape != first:
            name = printable(f"{place.part}/{place.class_name}/{place.file_name}")
            raise DataError(
                f"{path}: {name} is {shape[1]}x{shape[0]} pixels, others are {first[1]}x{first[0]}; one size is needed"
            )
    channels = max(image.pixels.shape[2] for image in decoded.values())
    # Step 3: stack them. Labels follow from the names of classes, so that no order on disk changes one.
    class_names = tuple(sorted({place.class_name for place in places if place.part == "train"}))
    label_of = {name: label for label, name in enumerate(class_names)}

    def stack(part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        chosen = [place for place in places if place.part == part]
        pixels = np.empty((len(chosen), *first, channels), dtype=np.uint8)
        for index, place in enumerate(chosen):
            pixels[index] = decoded[place].pixels  # grey fills all three channels of colour
        return pixels, np.array([label_of[place.class_name] for place in chosen], dtype=np.int64)

    notes = list(layout.notes)
    if more := sum(image.has_more_frames for image in decoded.values()):
        notes.append(f"files with more than one frame, of which the first is read: {more:,}")
    return DecodedImages(*stack("train"), *stack("test"), class_names, tuple(notes))


def _layout(listing: Listing[File], path: Path) -> _Layout:
    """Sort out which files are images of which class.

    Raises:
        DataError: A part has no images, there are two folders ``train`` or ``test``, or classes do not match.
    """
    # Step 1: give each file its place, or a reason why it has none. Hidden files and dead links come before suffixes:
    # they are left out for what they are, image or not.
    places: dict[str, _ImagePlace] = {}
    above: dict[str, set[str]] = {part: set() for part in _PARTS}
    left_out: Counter[str] = Counter()
    depth = _wrapper_depth(listing)
    for name in sorted(listing.files):
        *folders, own_name = name.split("/")
        at = next((index for index, folder in enumerate(folders) if index >= depth and folder in _PARTS), None)
        if at is None:
            if is_image(name) and not is_hidden(name):
                left_out["outside train/ and test/"] += 1
        elif is_hidden(name):
            left_out["hidden"] += 1
        elif listing.files[name] is None:
            left_out["links that lead nowhere"] += 1
        elif not is_image(name):
            left_out[Path(own_name).suffix.lower() or "without a suffix"] += 1
        elif len(folders) == at + 1:
            left_out["in no class's folder"] += 1
        else:
            part, class_name = folders[at], folders[at + 1]
            # A class may be called train: its images lie directly in its folder. Deeper, it is the data once more.
            below = folders[at + 2 :] if class_name not in _PARTS or len(folders) == at + 2 else [class_name]
            for folder in below:
                if folder in _PARTS:
                    raise DataError(f"{path}: {printable(name)}: a second folder {folder}/ below {part}/ is ambiguous")
            above[part].add("/".join(folders[:at]))
            places[name] = _ImagePlace(part, class_name, "/".join([*folders[at + 2 :], own_name]))
    # Step 2: each part lies in one folder and has images. Only then is it known what its classes are.
    for part in _PARTS:
        if len(above[part]) > 1:
            first, second, *_ = (printable(f"{prefix}/{part}/".lstrip("/")) for prefix in sorted(above[part]))
            raise DataError(f"{path}: {first} and {second} both hold images: one folder {part}/ is needed")
        if not above[part]:
            raise DataError(
                f"{path}: no images under {part}/<class>/*{'|'.join(IMAGE_SUFFIXES)}{_in_words(left_out, '; ')}"
            )
    # Step 3: the classes of training, which all others must be of.
    classes = _classes(places.values(), path)
    # Step 4: what people are told. It comes last: a layout that is refused is not described.
    top = f"{above['train'].pop()}/train/".lstrip("/")
    empty = {name.removeprefix(top) for name in listing.folders if name.startswith(top)} - classes
    empty = {name for name in empty if "/" not in name}
    notes = [_in_words(left_out)] if left_out else []
    if empty:
        notes.append(f"no images in {', '.join(f'{top}{printable(name)}' for name in sorted(empty))}: no class")
    return _Layout(places, tuple(notes))


def _classes(places: Collection[_ImagePlace], path: Path) -> set[str]:
    """Return the names of the classes.

    Raises:
        DataError: A class has test images only, or its name cannot be printed.
    """
    train, test = ({place.class_name for place in places if place.part == part} for part in ("train", "test"))
    if unknown := test - train:
        raise DataError(f"{path}: class {min(unknown)!r} is in test/ but not in train/")
    for class_name in sorted(train):
        if any(category(letter) in ("Cc", "Cs") for letter in class_name):
            raise DataError(f"{path}: class {class_name!r}: must be UTF-8, without control characters")
    return train


def _wrapper_depth(listing: Listing[File]) -> int:
    """Count the folders around ``train/`` and ``test/``; so a tar file of a folder called test can be read."""
    images = [name.split("/") for name in listing.files if is_image(name) and not is_hidden(name)]
    for depth in range(1, min(map(len, images), default=0)):
        if len({tuple(parts[:depth]) for parts in images}) > 1:
            break
        above = "/".join(images[0][:depth])
        if all(f"{above}/{part}" in listing.folders for part in _PARTS):
            return depth
    return 0


def _in_words(left_out: Counter[str], before: str = "") -> str:
    """Describe what is left out: how many files of which sort, the largest number first."""
    if not left_out:
        return ""
    total = left_out.total()
    sorts = ", ".join(
        f"{count:,} {printable(sort)}" for sort, count in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    )
    return f"{before}left out {total:,} {'file' if total == 1 else 'files'}: {sorts}"
