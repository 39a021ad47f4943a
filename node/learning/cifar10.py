"""CIFAR-10: its official files, an image folder, or a download."""

import socket
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from node.core.errors import DataError
from node.learning.data_files import DOWNLOAD_TIMEOUT_S, Progress, cache_dir, cached, one_line, search_roots
from node.learning.image_folder import load_image_folder
from node.learning.samples import Dataset, DecodedImages, from_images

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")


def load_cifar10(data_root: Path | None, report: Progress) -> Dataset:
    """The official files, else an image folder named ``cifar10-imagefolder*``, else a download."""
    roots = search_roots(data_root)
    for root in roots:
        if (root / "cifar-10-batches-py").is_dir() or (root / "cifar-10-python.tar.gz").is_file():
            return _load_official_cifar10(root, report)
        for path in sorted(root.glob("cifar10-imagefolder*")):
            if path.is_dir() or path.name.endswith(_TAR_SUFFIXES):
                return load_image_folder(path, report)
    target = cache_dir() / "data"
    report("downloading CIFAR-10", 0, 0)
    try:
        return from_images(_read_official_cifar10(target, download=True), "CIFAR-10, official files")
    except Exception as error:  # torchvision raises whatever urllib, tarfile or the file system raise
        looked = " and ".join(str(root) for root in roots)
        raise DataError(
            f"learning.dataset.kind=cifar10: found neither cifar-10-batches-py/, cifar-10-python.tar.gz nor "
            f"cifar10-imagefolder* under {looked}, and the download failed ({one_line(error)}); "
            "put one of them into a folder and name it with FRAGMESH_DATA"
        ) from error


def _load_official_cifar10(root: Path, report: Progress) -> Dataset:
    unpacked = root / "cifar-10-batches-py"
    marker = unpacked if unpacked.is_dir() else root / "cifar-10-python.tar.gz"

    def read() -> DecodedImages:
        report("reading CIFAR-10", 0, 0)
        try:
            if unpacked.is_dir():
                return _read_official_cifar10(root, download=False)
            with tempfile.TemporaryDirectory() as scratch:  # the data root may be read-only
                with tarfile.open(marker, "r:*") as archive:
                    archive.extractall(scratch, filter="data")
                return _read_official_cifar10(Path(scratch), download=False)
        except Exception as error:  # see above
            raise DataError(f"{marker}: is not a readable copy of CIFAR-10 ({one_line(error)})") from error

    return from_images(cached("cifar10", marker, read), "CIFAR-10, official files")


def _read_official_cifar10(root: Path, *, download: bool) -> DecodedImages:
    """Through torchvision, which compares the files' checksums before it opens them."""
    from node.learning.torchvision_import import import_torchvision

    cifar10 = import_torchvision().datasets.CIFAR10
    if download:
        root.mkdir(parents=True, exist_ok=True)
    with _socket_timeout(DOWNLOAD_TIMEOUT_S):
        train, test = (cifar10(str(root), train=part, download=download) for part in (True, False))
    return DecodedImages(
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
