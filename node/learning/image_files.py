"""The files of an image folder, in a directory or in a tar archive, with links followed.

A tar archive is never unpacked: its members are listed, links are looked up among them, and images are read from
where they lie. So nothing in an archive can name a file outside it; what tries to is refused.
"""

import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from lzma import LZMAError
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Final, Generic, TypeVar

from node.core.errors import DataError
from node.learning.data_files import one_line

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Suffixes of images, those of torchvision's ImageFolder; compared without regard to case."""

_DEEPEST: Final = 50
_MOST_FOLDERS: Final = 100_000
_MOST_LINKS: Final = 40

File = TypeVar("File")
"""A file on the disk (its path) or in an archive (its member)."""


@dataclass
class Listing(Generic[File]):
    """Files and folders of an image folder. Names are relative, with ``/`` between their parts.

    Attributes:
        files: The files by name; None where a link leads nowhere. A hidden folder counts as one file.
        folders: The folders that are not hidden.
    """

    files: dict[str, File | None] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)


def is_image(name: str) -> bool:
    """Return whether the name is that of an image that is read."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_hidden(name: str) -> bool:
    """Return whether the name, or that of a folder above it, begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def printable(name: str) -> str:
    """A name as a part of a one-line message."""
    return name if name.isprintable() else repr(name)


@contextmanager
def errors_of_reading(path: Path) -> Iterator[None]:
    """Tell failures of the file system and of damaged archives as DataError."""
    try:
        yield
    except (OSError, EOFError, tarfile.TarError, LZMAError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error


def list_directory(root: Path) -> Listing[Path]:
    """List a directory with everything below it; links to files and folders are followed, also out of the directory.

    Raises:
        DataError: A folder cannot be read, or contains itself by a link; an image is a device or a pipe.
    """

    def inside(folder: str) -> Iterator[tuple[str, str | None, Path | None]]:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir():
                    yield entry.name, entry.path, None
                    continue
                exists = os.path.exists(entry.path)
                if exists and is_image(entry.name) and not is_hidden(entry.name):
                    _require_regular(entry.stat().st_mode, root, entry.path)
                yield entry.name, None, Path(entry.path) if exists else None

    with errors_of_reading(root):
        return _walk(root, str(root), inside, os.path.realpath)


def _require_regular(mode: int, root: Path, name: str) -> None:
    if not stat.S_ISREG(mode):
        shown = printable(os.path.relpath(name, root))
        raise DataError(f"{root}: {shown} is a device, a pipe or a socket; only files are read")


def list_archive(archive: tarfile.TarFile, path: Path) -> Listing[tarfile.TarInfo]:
    """List the members of an archive; links are followed within it.

    The later of two members of one name counts, as when it is unpacked.

    Args:
        archive: Open for reading.
        path: The archive, for messages.

    Raises:
        DataError: The archive is damaged, or a member is refused: a name or a link that leads out of the archive, a
            device, a member below a link.
    """
    # Step 1: the members by name, those that have no place in a data set refused.
    members: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        if member.ischr() or member.isblk() or member.isfifo():
            raise DataError(f"{path}: {printable(member.name)} is a device or a pipe; only files are read")
        members[_inside_archive(member.name, member.name, path)] = member
    # Step 2: the names in each folder. Folders need no member of their own.
    children: dict[str, set[str]] = {"": set()}
    for name in members:
        while name:
            folder = dirname(name)
            above = members.get(folder)
            if folder and above is not None and not above.isdir():
                raise DataError(f"{path}: {printable(name)} lies below {printable(folder)}, which is not a folder")
            children.setdefault(folder, set()).add(name)
            name = folder
    # Step 3: walk from the top as through a directory. A link is only followed here, when all members are known.

    def inside(folder: str) -> Iterator[tuple[str, str | None, tarfile.TarInfo | None]]:
        for name in sorted(children.get(folder, ())):
            target = _follow(name, members, path)
            is_folder = target in children or (target in members and members[target].isdir())
            yield name.rpartition("/")[2], target if is_folder else None, members.get(target)

    return _walk(path, "", inside, lambda folder: folder)


def _follow(name: str, members: dict[str, tarfile.TarInfo], path: Path) -> str:
    """Name of what a member leads to, through links; the name itself if neither it nor a folder above it is one."""
    for _ in range(_MOST_LINKS):
        parts = name.split("/")
        above = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
        link = next((members[own] for own in above if own in members and is_link(members[own])), None)
        if link is None:
            return name
        place = normpath(link.name)
        # A hard link's target is named from the top of the archive, a symbolic link's from where the link lies.
        target = join(dirname(place), link.linkname) if link.issym() else link.linkname
        name = _inside_archive(join(target, name[len(place) + 1 :]), link.name, path)
    raise DataError(f"{path}: {printable(name)} is a link that leads to itself")


def is_link(member: tarfile.TarInfo) -> bool:
    """Return whether a member stands for another one."""
    return member.issym() or member.islnk()


def _inside_archive(name: str, member: str, path: Path) -> str:
    """A name without detours, relative to the top of the archive, which is empty."""
    plain = normpath(name)
    if plain == ".." or plain.startswith(("/", "../")):
        raise DataError(f"{path}: member {printable(member)} leads out of the archive (to {printable(name)})")
    return "" if plain == "." else plain


def _walk(
    root: Path,
    top: str,
    inside: Callable[[str], Iterator[tuple[str, str | None, File | None]]],
    identity: Callable[[str], str],
) -> Listing[File]:
    """List everything below ``top``.

    Args:
        root: The folder or archive, for messages.
        top: Where to begin.
        inside: Gives (name, the folder that it is or None, the file that it is or None) of what is in a folder.
        identity: The same for two folders only if they are one.
    """
    listing: Listing[File] = Listing()
    waiting: list[tuple[str, str, tuple[str, ...]]] = [("", top, (identity(top),))]
    while waiting:
        prefix, folder, above = waiting.pop()
        for own_name, subfolder, file in inside(folder):
            name = prefix + own_name
            if subfolder is None or is_hidden(own_name):
                listing.files[name] = file
                continue
            listing.folders.add(name)
            itself = identity(subfolder)
            if itself in above:
                raise DataError(f"{root}: {printable(name)} is a link to a folder above it, which repeats without end")
            if len(above) > _DEEPEST or len(listing.folders) > _MOST_FOLDERS:
                raise DataError(
                    f"{root}: {printable(name)}: must be at most {_MOST_FOLDERS:,} folders, {_DEEPEST} deep"
                )
            waiting.append((f"{name}/", subfolder, (*above, itself)))
    return listing
