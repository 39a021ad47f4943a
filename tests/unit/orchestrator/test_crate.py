"""The description of a run for others, against what RO-Crate 1.1 and Process Run Crate 0.5 say that it must have."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from node.core.errors import ConfigError
from orchestrator.report.crate import Person, write_crate
from orchestrator.results.reader import load_run
from orchestrator.results.schema import RUN_FILES
from orchestrator.results.writer import RunWriter
from tests.unit.orchestrator.synthetic_runs import EXPERIMENT, facts, messages, sample, totals

ENVIRONMENT = {
    "begun_at": "2026-11-21T12:00:00.500+00:00",
    "data_source": "scikit-learn digits",
    "versions": {"python": "3.11.7", "fragmesh": "0.1.0", "torch": "2.13.0+cpu", "torchvision": None},
    "source": {"commit": "0123456789abcdef", "dirty": True},
}
ENDED = {"ended_at": "2026-11-21T12:00:09.000+00:00"}
ADA = Person("Ada Lovelace", "https://orcid.org/0000-0002-1825-0097")
INPUTS = {"inputs/star%2Ftopology 1.xml": b"<a/>", "inputs/schräg.csv": b"1,2\n"}


def ended_run(root: Path, *, status: Any = "done", error: str | None = None) -> Path:
    writer = RunWriter.create(root, facts(), EXPERIMENT, ENVIRONMENT, INPUTS)
    writer.add(sample(0))
    writer.add_to_environment(ENDED)
    writer.finish(totals(status=status, error=error), messages(20))
    writer.close()
    return writer.path


def described(path: Path, *people: Person, license_text: str | None = None) -> dict[str, Any]:
    written = write_crate(load_run(path), people, license_text)
    assert written == path / "ro-crate-metadata.json"
    content: dict[str, Any] = json.loads(written.read_text())
    return content


def by_id(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entity["@id"]: entity for entity in content["@graph"]}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def references(entity: dict[str, Any], key: str) -> list[str]:
    return [value["@id"] for value in as_list(entity.get(key, [])) if isinstance(value, dict) and "@id" in value]


def is_date(text: Any) -> bool:
    try:
        return isinstance(text, str) and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def violations(content: dict[str, Any], folder: Path) -> Iterator[str]:
    """What a description lacks that it must have."""
    graph = content["@graph"]
    if "https://w3id.org/ro/crate/1.1/context" not in as_list(content["@context"]):
        yield "the context is not referred to"
    if len({entity["@id"] for entity in graph}) != len(graph):
        yield "two entities share an @id"
    for entity in graph:
        for value in (value for key, held in entity.items() for value in as_list(held) if key != "@id"):
            if not isinstance(value, str) and not (isinstance(value, dict) and list(value) == ["@id"]):
                yield "the graph is not flat"
    entities = by_id(content)
    # Step 1: the descriptor leads to the root.
    descriptor = entities.get("ro-crate-metadata.json", {})
    if descriptor.get("@type") != "CreativeWork" or "https://w3id.org/ro/crate/1.1" not in references(
        descriptor, "conformsTo"
    ):
        yield "there is no descriptor of the version"
    root = next((entities[name] for name in references(descriptor, "about") if name in entities), {})
    if root.get("@type") != "Dataset" or not root.get("@id", "").endswith("/"):
        yield "there is no root"
    yield from (f"the root has no {key}" for key in ("name", "description", "license") if not root.get(key))
    if not is_date(root.get("datePublished")):
        yield "the root has no date"
    # Step 2: files are there, and parts of the root.
    files = [entity for entity in graph if "File" in as_list(entity["@type"])]
    for file in files:
        path = unquote(file["@id"])
        if urlsplit(file["@id"]).scheme or path.startswith("/") or ".." in path.split("/") or " " in file["@id"]:
            yield "a file's @id is no path in the directory"
        elif not (folder / path).is_file():
            yield "a file is not there"
        if file["@id"] not in references(root, "hasPart"):
            yield "a file is no part of the root"
    # Step 3: the profile: an action of a program, of which the root speaks.
    profiles = [entities.get(name, {}) for name in references(root, "conformsTo")]
    if "https://w3id.org/ro/wfrun/process/0.5" not in [one.get("@id") for one in profiles]:
        yield "the profile is not named"
    for action in (entities.get(name, {}) for name in references(root, "mentions")):
        tools = [entities.get(name, {}).get("@type") for name in references(action, "instrument")]
        if action.get("@type") != "CreateAction" or tools != ["SoftwareApplication"]:
            yield "there is no action of a program"
        if not is_date(action.get("endTime")) or not is_date(action.get("startTime")):
            yield "the action has no times"
        status = str(action.get("actionStatus"))
        if status not in (f"http://schema.org/{word}ActionStatus" for word in ("Completed", "Failed")):
            yield "the action has no status"
        if action.get("error") and "Failed" not in status:
            yield "an error without a failure"
    if not references(root, "mentions"):
        yield "there is no action of a program"
    # Step 4: whatever is referred to by a local name is described.
    for entity in graph:
        for key in entity:
            if any(not urlsplit(name).scheme and name not in entities for name in references(entity, key)):
                yield "a reference leads nowhere"


@pytest.mark.parametrize("license_text", [None, "CC-BY-4.0", "https://example.org/terms", "Ask us first."])
@pytest.mark.parametrize("people", [(), (ADA,), (ADA, Person("A. N. Other", None))])
def test_a_description_has_all_that_it_must(
    people: tuple[Person, ...], license_text: str | None, tmp_path: Path
) -> None:
    path = ended_run(tmp_path)
    assert list(violations(described(path, *people, license_text=license_text), path)) == []


def without(entity: str, key: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: by_id(content)[entity].pop(key)


def with_value(entity: str, key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: by_id(content)[entity].update({key: value})


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (without("./", "name"), "the root has no name"),
        (without("./", "description"), "the root has no description"),
        (without("./", "license"), "the root has no license"),
        (with_value("./", "datePublished", "yesterday"), "the root has no date"),
        (with_value("./", "@id", "here"), "there is no root"),
        (without("./", "conformsTo"), "the profile is not named"),
        (without("./", "mentions"), "there is no action of a program"),
        (without("ro-crate-metadata.json", "about"), "there is no root"),
        (without("ro-crate-metadata.json", "conformsTo"), "there is no descriptor of the version"),
        (without("#run", "instrument"), "there is no action of a program"),
        (without("#run", "endTime"), "the action has no times"),
        (with_value("#run", "actionStatus", "done"), "the action has no status"),
        (with_value("#run", "error", "oh"), "an error without a failure"),
        (with_value("#run", "instrument", {"@id": "#nobody"}), "a reference leads nowhere"),
        (with_value("curve.csv", "author", {"name": "nested"}), "the graph is not flat"),
        (with_value("curve.csv", "@id", "gone.csv"), "a file is not there"),
        (with_value("curve.csv", "@id", "../curve.csv"), "a file's @id is no path in the directory"),
        (with_value("./", "hasPart", []), "a file is no part of the root"),
        (with_value("curve.csv", "@id", "links.csv"), "two entities share an @id"),
        (lambda content: content.update({"@context": {}}), "the context is not referred to"),
    ],
)
def test_what_it_must_have_is_missed_where_it_is_not(
    spoil: Callable[[dict[str, Any]], object], problem: str, tmp_path: Path
) -> None:
    path = ended_run(tmp_path)
    content = copy.deepcopy(described(path))
    spoil(content)
    assert problem in list(violations(content, path))


def test_every_file_is_described_with_its_size_and_digest(tmp_path: Path) -> None:
    path = ended_run(tmp_path)
    (path / "logs").mkdir()
    (path / "logs" / "node-0.log").write_text("said")
    (path / "curve.csv.tmp").touch()
    (path / "elsewhere").symlink_to(tmp_path)
    (path / "link.csv").symlink_to(path / "curve.csv")
    files = {key: entity for key, entity in by_id(described(path)).items() if entity["@type"] == "File"}
    there = {child.relative_to(path).as_posix() for child in path.rglob("*") if child.is_file()}
    left_out = {"ro-crate-metadata.json", "curve.csv.tmp", "link.csv"}
    assert {entity["name"] for entity in files.values()} == there - left_out
    for key, entity in files.items():
        data = (path / unquote(key)).read_bytes()
        assert (entity["contentSize"], entity["sha256"]) == (str(len(data)), hashlib.sha256(data).hexdigest())
    assert files["messages.parquet"]["encodingFormat"] == "application/vnd.apache.parquet"
    assert files["logs/node-0.log"]["encodingFormat"] == "text/plain"
    assert files["logs/node-0.log"]["description"] == RUN_FILES["logs/"]
    assert files["curve.csv"]["description"] == RUN_FILES["curve.csv"]
    assert "inputs/star%252Ftopology%201.xml" in files


def test_it_says_how_the_run_was_made_and_how_to_make_it_again(tmp_path: Path) -> None:
    path = ended_run(tmp_path)
    entities = by_id(described(path, ADA, license_text="CC-BY-4.0"))
    root, run, program = (entities[key] for key in ("./", "#run", "#fragmesh"))
    assert root["description"].endswith(
        "The run ended as: done. To run it again, in this directory: fragmesh run experiment.yaml"
        " (fragmesh 0.1.0, commit 0123456789abcdef, with changes that were not committed)."
    )
    assert (run["description"], run["startTime"], run["endTime"]) == (
        "fragmesh run experiment.yaml --seed 1",
        ENVIRONMENT["begun_at"],
        ENDED["ended_at"],
    )
    asked = references(run, "object")
    assert asked[0] == "experiment.yaml"
    assert len(asked) == 4  # with two inputs and the data
    assert entities["#data"]["name"] == "scikit-learn digits"
    assert {"curve.csv", "summary.json", "environment.json"} <= set(references(run, "result"))
    assert not set(asked) & set(references(run, "result"))
    assert program["softwareVersion"] == "0.1.0"
    torch = "https://pypi.org/project/torch/"
    assert references(program, "softwareRequirements") == ["https://www.python.org/", torch]
    assert entities[torch]["softwareVersion"] == "2.13.0+cpu"
    assert root["author"] == run["agent"] == {"@id": ADA.orcid}
    assert entities[str(ADA.orcid)]["name"] == "Ada Lovelace"
    assert root["license"] == {"@id": "https://spdx.org/licenses/CC-BY-4.0"}


def test_a_run_that_failed_says_so(tmp_path: Path) -> None:
    path = ended_run(tmp_path, status="stalled", error="node 3 waits for <node 4>")
    content = described(path)
    assert list(violations(content, path)) == []
    run = by_id(content)["#run"]
    assert (run["actionStatus"], run["error"]) == (
        "http://schema.org/FailedActionStatus",
        "node 3 waits for <node 4>",
    )


def test_the_same_directory_gives_the_same_bytes(tmp_path: Path) -> None:
    path = ended_run(tmp_path)
    described(path, ADA)
    first = (path / "ro-crate-metadata.json").read_bytes()
    described(path, ADA)
    assert (path / "ro-crate-metadata.json").read_bytes() == first


def test_what_nobody_could_run_again_is_refused(tmp_path: Path) -> None:
    path = ended_run(tmp_path)
    (path / "experiment.yaml").unlink()
    with pytest.raises(ConfigError, match=r"cannot be described for others: experiment\.yaml is missing"):
        write_crate(load_run(path))
    writer = RunWriter.create(tmp_path, facts(), EXPERIMENT, ENVIRONMENT)
    with pytest.raises(ConfigError, match=r"environment\.json does not say when it ended"):
        write_crate(load_run(writer.path))


@pytest.mark.parametrize(
    ("text", "person"),
    [
        ("Ada Lovelace", Person("Ada Lovelace", None)),
        (" Ada Lovelace <https://orcid.org/0000-0002-1825-0097> ", ADA),
        ("Zoë", Person("Zoë", None)),
    ],
)
def test_authors(text: str, person: Person) -> None:
    assert Person.parse(text) == person


@pytest.mark.parametrize("text", ["", " ", "<https://orcid.org/0000-0002-1825-0097>", "Ada <ada@example.org>", "Ada <"])
def test_authors_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match=r"must be a name, or as in: Ada Lovelace <https://orcid\.org/"):
        Person.parse(text)
