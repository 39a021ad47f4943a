"""Files that an experiment names, edge lists, traces and regions: where they are looked for, and what was found.

A file is looked for, in this order:

1. in the folder of ``--input-root``, if one is given: under its name, then under the last part of its name;
2. of a run that goes on, or of an experiment file in a run's directory: where the run found it; at the same place as
   seen from the run's directory, which is right where a whole project was moved; the copy in the run's directory; that
   directory itself, and beside it;
3. in the folder of the experiment file; where that is a link, also in the folder of what it points to.

A run keeps a copy of all but large ones, so that its directory alone can go on.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from node.core.bounds import INPUT_BYTES_MAX, INPUT_COPY_BYTES_MAX, RECORD_BYTES_MAX
from node.core.errors import ConfigError
from node.host.text_files import UnreadableText, decode_text, parse_json, read_bytes, read_text, shorten

COPIES: Final = "inputs"
"""Folder of the copies, in a run directory."""

_SHOWN_PLACES: Final = 8
_NAME_LETTERS_MAX: Final = 200


@dataclass(frozen=True)
class InputFile:
    """A file that an experiment names, as it was read.

    Attributes:
        name: Its name in the experiment.
        path: Where it was, absolute.
        sha256: Of its bytes.
        content: Its bytes; None where it is too large for a copy.
    """

    name: str
    path: str
    sha256: str
    content: bytes | None

    @property
    def copy(self) -> str | None:
        """Path of its copy within a run directory; None where there is none."""
        return None if self.content is None else f"{COPIES}/{copy_name(self.name)}"


def copy_name(name: str) -> str:
    """Name of the copy of a file: its own, with all that leads to another folder written out."""
    plain = quote(name, safe="") if name not in (".", "..") else quote(name).replace(".", "%2E")
    if len(plain) <= _NAME_LETTERS_MAX:
        return plain
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()


class InputFiles:
    """Finds the files of one experiment, and remembers them.

    State:
        found: What was read, by name.
    """

    def __init__(
        self,
        folders: Sequence[Path] = (),
        *,
        given: Path | None = None,
        recorded: Mapping[str, Sequence[Path]] | None = None,
        beside: Sequence[Path] = (),
        digests: Mapping[str, str] | None = None,
    ) -> None:
        """Store where to look.

        Args:
            folders: Where names begin.
            given: Folder that the user named; comes first.
            recorded: Where an earlier run found files, by name; come before the folders.
            beside: Folders in which the last part of a name is enough; come last.
            digests: SHA-256 of the files of an earlier run, by name: others are refused.
        """
        self._folders = tuple(folders)
        self._given = given
        self._recorded = recorded or {}
        self._beside = tuple(beside)
        self._digests = digests or {}
        self.found: dict[str, InputFile] = {}

    @classmethod
    def of_experiment(cls, file: Path, given: Path | None = None) -> "InputFiles":
        """Look from an experiment file; the directory of a run is known by ``environment.json`` beside it."""
        if not file.is_file():  # a pipe, whose folder holds nothing
            return cls([Path()], given=given)
        environment = _environment_beside(file)
        if environment is not None:
            return cls.of_run(file.parent, environment, given, same=given is None)
        linked = Path(os.path.realpath(file)).parent
        return cls([file.parent, *([linked] if linked != Path(os.path.abspath(file.parent)) else [])], given=given)

    @classmethod
    def of_run(
        cls, path: Path, environment: Mapping[str, Any], given: Path | None = None, *, same: bool = True
    ) -> "InputFiles":
        """Look from a run directory.

        Args:
            path: The directory.
            environment: What its ``environment.json`` holds, whoever wrote it.
            given: Folder that the user named; comes first.
            same: Refuse files other than those of the run.
        """
        recorded: dict[str, list[Path]] = {}
        digests: dict[str, str] = {}
        entries = environment.get("inputs")
        for name, entry in (entries if isinstance(entries, dict) else {}).items():
            if isinstance(entry, dict) and isinstance(entry.get("path"), str):
                recorded[name] = [Path(entry["path"]), *moved(path, environment, entry["path"])]
                if same:
                    digests[name] = str(entry.get("sha256"))
        base = environment.get("base_dir")
        folders = [Path(base), *moved(path, environment, base)] if isinstance(base, str) else []
        beside = [path / COPIES, path, Path(os.path.abspath(path)).parent]
        return cls(folders, given=given, recorded=recorded, beside=beside, digests=digests)

    def read(self, name: str, key: str) -> str:
        """Read a file.

        Args:
            name: Its name in the experiment.
            key: Where the experiment names it, for messages.

        Raises:
            ConfigError: It is not there, cannot be read, or is not that of the run that goes on; says where it was
                looked for.
        """
        shown = f"{key}={shorten(name, 200)}"
        places = list(dict.fromkeys(map(os.path.abspath, self._places(name)))) if "\0" not in name else []
        try:
            for place in places:
                try:
                    data = read_bytes(Path(place), INPUT_BYTES_MAX)
                except UnreadableText as error:
                    if error.is_missing:
                        continue
                    raise UnreadableText(f"{place}: {error}" if len(places) > 1 else str(error)) from None
                text = decode_text(data)
                self._keep(name, place, data, shown)
                return text
            reason = os.strerror(2) if places else "its name holds a zero byte"
            more = f" and {len(places) - _SHOWN_PLACES} more" if len(places) > _SHOWN_PLACES else ""
            looked = f"; looked for {', '.join(places[:_SHOWN_PLACES])}{more}" if len(places) > 1 else ""
            raise UnreadableText(shorten(reason + looked, 2_000))
        except UnreadableText as error:
            raise ConfigError(f"{shown}: must be a readable text file ({error})") from None

    def _keep(self, name: str, place: str, data: bytes, shown: str) -> None:
        sha256 = hashlib.sha256(data).hexdigest()
        if self._digests.get(name, sha256) != sha256:
            folders = [folder for folder in self._beside if folder.name == COPIES]
            copies = [folder / copy_name(name) for folder in folders]
            known = [copy for copy in copies if copy.is_file() and os.path.abspath(copy) != place]
            how = f"; --input-root {known[0].parent} takes the copy" if known else ""
            raise ConfigError(f"{shown}: {place}: changed since the run began{how}")
        self.found[name] = InputFile(name, place, sha256, data if len(data) <= INPUT_COPY_BYTES_MAX else None)

    def _places(self, name: str) -> Iterator[Path]:
        if self._given is not None:
            yield from _loose(self._given, name)
        yield from self._recorded.get(name, ())
        for folder in self._folders:
            yield folder / name
        for folder in self._beside:
            yield from _loose(folder, name)


def _environment_beside(file: Path) -> Mapping[str, Any] | None:
    """Read ``environment.json`` where an experiment file lies in a run's directory; None elsewhere."""
    if not (file.parent / "facts.json").is_file():
        return None
    try:
        environment = parse_json(read_text(file.parent / "environment.json", RECORD_BYTES_MAX))
    except (UnreadableText, ValueError):
        return None
    return environment if isinstance(environment, dict) else None


def _loose(folder: Path, name: str) -> Iterator[Path]:
    """Yield the places where a file may lie in a folder that is not the one which its name begins from."""
    if not os.path.isabs(name):
        yield folder / name
    yield folder / copy_name(name)
    yield folder / os.path.basename(name)


def moved(run: Path, environment: Mapping[str, Any], recorded: str) -> list[Path]:
    """The same place as seen from the folder of a run, where that is not where it was; empty where it is."""
    began, now = environment.get("out"), os.path.dirname(os.path.abspath(run))
    if not isinstance(began, str) or began == now:
        return []
    return [Path(os.path.normpath(os.path.join(now, os.path.relpath(recorded, began))))]


def json_in(text: str, place: str) -> Any:
    """Read the JSON of a file that an experiment names.

    Args:
        text: The file.
        place: Its key and name, for messages.

    Raises:
        ConfigError: It is not JSON; the message names the line where that is known.
    """
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{place}:{error.lineno}: must be JSON ({error.msg})") from None
    except ValueError as error:
        raise ConfigError(f"{place}: must be JSON ({error})") from None
