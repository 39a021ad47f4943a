"""A run directory described as an RO-Crate, so that others find out what is in it and can run it again.

RO-Crate 1.1 (https://w3id.org/ro/crate/1.1) with its profile for runs of a program, Process Run Crate 0.5
(https://w3id.org/ro/wfrun/process/0.5): a file of JSON-LD that names the directory, each file, the program, and the
action that made the files with it. Only what the directory holds goes into it; the same directory gives the same bytes.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from node.core.errors import ConfigError, RunnerError
from orchestrator.report.question import run_question
from orchestrator.results.files import first_line_of, to_json, value_at, write_file
from orchestrator.results.reader import Run
from orchestrator.results.schema import CRATE_FILE, RUN_FILES, JsonObject

SPECIFICATION: Final = "https://w3id.org/ro/crate/1.1"
PYTHON: Final = "https://www.python.org/"
PROFILE: Final = "https://w3id.org/ro/wfrun/process/0.5"

FORMATS: Final[Mapping[str, str]] = {
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".json": "application/json",
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".xml": "application/xml",
    ".tex": "application/x-tex",
    ".txt": "text/plain",
    ".log": "text/plain",
    ".trace": "text/plain",
}
"""Media types of files by the ending of their name; any other file is a row of bytes."""

ASKED: Final = ("experiment.yaml", "inputs/")
"""Beginnings of the names of files that the run read; it wrote all others."""

_AUTHOR: Final = re.compile(r"([^<>]*[^<>\s])(?:\s*<(https://orcid\.org/\d{4}-\d{4}-\d{4}-\d{3}[\dX])>)?")
_SPDX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass(frozen=True, slots=True)
class Person:
    """Author of a run.

    Attributes:
        name: As people write it.
        orcid: Address of the ORCID record; None without one.
    """

    name: str
    orcid: str | None

    @classmethod
    def parse(cls, text: str) -> "Person":
        """Read ``Name`` or ``Name <https://orcid.org/0000-0000-0000-0000>``.

        Raises:
            ConfigError: It is neither.
        """
        found = _AUTHOR.fullmatch(text.strip())
        if found is None:
            raise ConfigError(
                f"--author={text}: must be a name, or as in: Ada Lovelace <https://orcid.org/0000-0000-0000-0000>"
            )
        return cls(found[1], found[2])


def write_crate(run: Run, authors: Sequence[Person] = (), license_text: str | None = None) -> Path:
    """Write the description into the run's directory, of all files that are there by then.

    Raises:
        ConfigError: The run cannot be described: it has not ended, or lacks what is needed to run it again.
        RunnerError: A file could not be read or written.
    """
    path = run.path / CRATE_FILE
    try:
        content = run_crate(run, authors, license_text)
    except OSError as error:
        raise RunnerError(f"{error.filename}: cannot be read: {first_line_of(error)}") from error
    write_file(path, to_json(content).encode(errors="replace"))
    return path


def run_crate(run: Run, authors: Sequence[Person] = (), license_text: str | None = None) -> JsonObject:
    """Describe a run directory.

    Args:
        run: The run.
        authors: Its authors, as far as they are known.
        license_text: An SPDX identifier, an address or the words of its license; None if none is stated.

    Raises:
        ConfigError: As :func:`write_crate`.
        OSError: A file could not be read.
    """
    # Step 1: refuse what nobody could run again.
    if run.experiment is None:
        raise ConfigError(f"{run.path}: cannot be described for others: experiment.yaml is missing")
    environment = run.environment or {}
    ended = environment.get("ended_at")
    if not isinstance(ended, str):
        raise ConfigError(f"{run.path}: cannot be described for others: environment.json does not say when it ended")
    # Step 2: what is in the directory, and what belongs to it outside.
    files = [_file_entity(run.path, name) for name in _file_names(run.path)]
    people = [_person_entity(person, number) for number, person in enumerate(authors, start=1)]
    license_value, licenses = _license(license_text)
    software = _software_entities(environment)
    source = environment.get("data_source")
    data = [{"@id": "#data", "@type": "CreativeWork", "name": source}] if isinstance(source, str) else []
    # Step 3: the directory and the action, which refer to all of these.
    root = {
        "@id": "./",
        "@type": "Dataset",
        "conformsTo": {"@id": PROFILE},
        "name": f"Fragmesh run {run.path.resolve().name}",
        "description": _description(run, environment),
        "datePublished": ended,
        "license": license_value,
        **({"author": _references(people)} if people else {}),
        "hasPart": _references(files),
        "mentions": {"@id": "#run"},
    }
    profile = {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    descriptor = {
        "@id": CRATE_FILE,
        "@type": "CreativeWork",
        "conformsTo": {"@id": SPECIFICATION},
        "about": {"@id": "./"},
    }
    action = _action(run, files, data, people)
    return {
        "@context": [f"{SPECIFICATION}/context", {"sha256": "http://schema.org/sha256"}],
        "@graph": [descriptor, root, profile, action, *software, *data, *people, *licenses, *files],
    }


def _description(run: Run, environment: Mapping[str, Any]) -> str:
    version = value_at(environment, "versions", "fragmesh")
    commit = value_at(environment, "source", "commit")
    changed = ", with changes that were not committed" if value_at(environment, "source", "dirty") else ""
    program = f"fragmesh {version}" if version else "fragmesh"
    at = f", commit {commit}{changed}" if commit else ""
    again = f"To run it again, in this directory: fragmesh run experiment.yaml ({program}{at})."
    return " ".join(filter(None, [run_question(run), f"The run ended as: {run.status}.", again]))


def _action(
    run: Run, files: Sequence[JsonObject], data: Sequence[JsonObject], people: Sequence[JsonObject]
) -> JsonObject:
    """The run: who made which files, with what, of what, and how it ended."""
    environment = run.environment or {}
    asked = [entity for entity in files if entity["@id"].startswith(ASKED)]
    made = [entity for entity in files if not entity["@id"].startswith(ASKED)]
    is_complete = run.status == "done"
    error = (run.summary or {}).get("error") or run.status
    return {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Run of the experiment {run.label}",
        **({"description": run.facts.command} if run.facts.command else {}),
        **({"startTime": environment["begun_at"]} if isinstance(environment.get("begun_at"), str) else {}),
        "endTime": environment["ended_at"],
        "instrument": {"@id": "#fragmesh"},
        **({"agent": _references(people)} if people else {}),
        "object": _references([*asked, *data]),
        "result": _references(made),
        # Text and no reference: so the tools of the profile look for it.
        "actionStatus": f"http://schema.org/{'Completed' if is_complete else 'Failed'}ActionStatus",
        **({} if is_complete else {"error": error}),
    }


def _software_entities(environment: Mapping[str, Any]) -> list[JsonObject]:
    """Fragmesh, and the packages that it ran with."""
    found = environment.get("versions")
    pairs = found.items() if isinstance(found, Mapping) else ()
    versions = {name: text for name, text in pairs if isinstance(text, str)}
    commit = value_at(environment, "source", "commit")
    others = [
        {
            "@id": (address := PYTHON if name == "python" else f"https://pypi.org/project/{quote(name)}/"),
            "@type": "SoftwareApplication",
            "name": name,
            "softwareVersion": version,
            "url": address,
        }
        for name, version in sorted(versions.items())
        if name != "fragmesh"
    ]
    program = {
        "@id": "#fragmesh",
        "@type": "SoftwareApplication",
        "name": "Fragmesh",
        "description": "A testbed for decentralized learning under bad networks.",
        **({"softwareVersion": versions["fragmesh"]} if "fragmesh" in versions else {}),
        **({"identifier": f"commit {commit}"} if commit else {}),
        **({"softwareRequirements": _references(others)} if others else {}),
    }
    return [program, *others]


def _person_entity(person: Person, number: int) -> JsonObject:
    return {"@id": person.orcid or f"#author-{number}", "@type": "Person", "name": person.name}


def _license(text: str | None) -> tuple[Any, list[JsonObject]]:
    """The value of the directory's license, and its description if it has an address."""
    if text is None:
        return "No license is stated: ask whoever made the run before using it.", []
    if text.startswith(("http://", "https://")):
        return {"@id": text}, [_license_entity(text, text)]
    if _SPDX.fullmatch(text):
        address = f"https://spdx.org/licenses/{text}"
        return {"@id": address}, [_license_entity(address, text)]
    return text, []


def _license_entity(address: str, name: str) -> JsonObject:
    return {"@id": address, "@type": "CreativeWork", "name": name, "description": f"License of the run: {address}"}


def _file_names(folder: Path) -> Iterator[str]:
    """Paths of all files below a directory, in order, with ``/`` between names; no links, and not the description."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_file() and not path.is_symlink() and relative != CRATE_FILE and not name.endswith(".tmp"):
                yield relative


def _file_entity(folder: Path, name: str) -> JsonObject:
    path = folder / name
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    meaning = RUN_FILES.get(name) or RUN_FILES.get(f"{name.split('/')[0]}/")
    return {
        "@id": quote(os.fsencode(name), safe="/"),
        "@type": "File",
        "name": name,
        **({"description": meaning} if meaning else {}),
        "encodingFormat": FORMATS.get(path.suffix.lower(), "application/octet-stream"),
        "contentSize": str(path.stat().st_size),
        "sha256": digest,
    }


def _references(entities: Sequence[JsonObject]) -> Any:
    """References to entities: one alone, several as a list."""
    found = [{"@id": entity["@id"]} for entity in entities]
    return found[0] if len(found) == 1 else found
