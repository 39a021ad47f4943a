"""Places of the files of data sets, and the cache of what was decoded from them.

Files are found under the data root (``--data-root``, else ``$FRAGMESH_DATA``) and under ``<cache>/data``, where
downloads go. The cache directory is ``$FRAGMESH_CACHE``, else ``$XDG_CACHE_HOME/fragmesh``, else
``~/.cache/fragmesh``. Decoded images are kept there as ``.npy`` files and memory-mapped, so that worker processes
share their pages.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from node.core.errors import ConfigError
from node.learning.samples import DecodedImages

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told (what is being done, how much is done, how much there is or 0 if unknown)."""

DOWNLOAD_TIMEOUT_S: Final = 30.0
_CACHE_FORMAT = 2


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
    """Return the folder of decoded arrays and downloads, which may not exist yet."""
    if os.environ.get("FRAGMESH_CACHE"):
        return Path(os.environ["FRAGMESH_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "fragmesh"
    try:
        return Path.home() / ".cache" / "fragmesh"
    except RuntimeError:  # no HOME, and a user of whom the host knows nothing, as in many containers
        return Path(tempfile.gettempdir()) / f"fragmesh-{os.getuid()}"


def search_roots(data_root: Path | None) -> list[Path]:
    """The folders in which a data set is looked for, in order."""
    return [root for root in (data_root, cache_dir() / "data") if root is not None]


_ARRAYS = ("train_pixels", "train_labels", "test_pixels", "test_labels")


def cached(
    name: str, source: Path, read: Callable[[], DecodedImages], files: Mapping[str, Path | None] | None = None
) -> DecodedImages:
    """Decoded arrays from the cache, else from ``read`` and then into the cache if it can be written.

    Args:
        name: The first part of the entry's name.
        source: The file or folder that is decoded.
        read: Decodes it.
        files: The files that the result depends on, by name, None where only the name matters; None for ``source``, or
            all that is in it.
    """
    if files is None:
        found_files = sorted(source.rglob("*")) if source.is_dir() else [source]
        files = {str(file): file for file in found_files}
    folder = cache_dir() / "decoded" / f"{name}-{_fingerprint(source, files)}"
    found = _read_cache(folder)
    if found is not None:
        return found
    images = read()
    return images if not _write_cache(folder, images) else (_read_cache(folder) or images)


def _fingerprint(source: Path, files: Mapping[str, Path | None]) -> str:
    """Changes with the path of the source, and with the name, size or modification time of a file."""
    digest = hashlib.sha256(b"%d %s" % (_CACHE_FORMAT, os.fsencode(source.resolve())))
    for name, file in files.items():
        digest.update(b"%s\0" % os.fsencode(name))
        if file is not None:
            status = file.stat()
            digest.update(b"%d\0%d\n" % (status.st_size, status.st_mtime_ns))
    return digest.hexdigest()[:20]


def _read_cache(folder: Path) -> DecodedImages | None:
    """None when it is not there or damaged."""
    try:
        words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        names, notes = (tuple(str(word) for word in words[key]) for key in ("class_names", "notes"))
        # asarray drops the memmap class, whose indexing is slow, and keeps the shared pages.
        arrays = [np.asarray(np.load(folder / f"{array}.npy", mmap_mode="r", allow_pickle=False)) for array in _ARRAYS]
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return DecodedImages(arrays[0], arrays[1], arrays[2], arrays[3], names, notes)


def _write_cache(folder: Path, images: DecodedImages) -> bool:
    """Write beside the place and rename, so that readers see all or nothing. False if that is impossible."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    except OSError:
        return False
    try:
        for array in _ARRAYS:
            np.save(partial / f"{array}.npy", getattr(images, array), allow_pickle=False)
        words = {"class_names": images.class_names, "notes": images.notes}
        (partial / "words.json").write_text(json.dumps(words), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # only a damaged entry can be here
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        return folder.is_dir()  # another process may have been faster
    return True


def one_line(error: BaseException) -> str:
    """An error of somebody else's library as a part of a message."""
    text = " ".join(re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "an object", str(error)).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
