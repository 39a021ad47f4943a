"""Files that an experiment names are found by one order, and what they were is kept."""

import os
from pathlib import Path

import pytest

from node.core.bounds import INPUT_COPY_BYTES_MAX
from node.core.errors import ConfigError
from orchestrator.experiment.input_files import COPIES, InputFiles, copy_name


def refusal(files: InputFiles, name: str) -> str:
    with pytest.raises(ConfigError) as refused:
        files.read(name, "topology.file")
    message = str(refused.value)
    assert message.startswith(f"topology.file={name}: ")
    assert "\n" not in message
    return message.removeprefix(f"topology.file={name}: ")


def test_a_file_lies_where_the_experiment_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "g").write_text("0 1")
    experiment = tmp_path / "e.yaml"
    experiment.write_text("")
    files = InputFiles.of_experiment(experiment)
    assert files.read("nets/g", "file") == "0 1"
    assert files.read(str(tmp_path / "nets" / "g"), "file") == "0 1"
    found = files.found["nets/g"]
    assert (found.path, found.content, found.copy) == (str(tmp_path / "nets" / "g"), b"0 1", f"{COPIES}/nets%2Fg")
    assert refusal(files, "g") == "must be a readable text file (No such file or directory)"
    monkeypatch.chdir(tmp_path)
    assert InputFiles.of_experiment(Path("e.yaml")).read("nets/g", "file") == "0 1"


def test_an_experiment_that_is_a_link(tmp_path: Path) -> None:
    for folder in ("real", "links"):
        (tmp_path / folder).mkdir()
    (tmp_path / "real" / "e.yaml").write_text("")
    (tmp_path / "real" / "g").write_text("real")
    (tmp_path / "links" / "e.yaml").symlink_to(tmp_path / "real" / "e.yaml")
    assert InputFiles.of_experiment(tmp_path / "links" / "e.yaml").read("g", "file") == "real"
    (tmp_path / "links" / "g").write_text("beside the link")
    files = InputFiles.of_experiment(tmp_path / "links" / "e.yaml")
    assert files.read("g", "file") == "beside the link"
    assert refusal(files, "none").endswith(f"looked for {tmp_path}/links/none, {tmp_path}/real/none)")


def test_a_given_folder_comes_first(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "e.yaml").write_text("")
    (tmp_path / "g").write_text("here")
    files = InputFiles.of_experiment(tmp_path / "e.yaml", tmp_path / "given")
    assert files.read("g", "file") == "here"
    (tmp_path / "given" / "g").write_text("given")
    assert files.read("g", "file") == files.read("nets/g", "file") == "given"


def test_a_run_finds_its_files_by_one_order(tmp_path: Path) -> None:
    """Where it found them; the same place as seen from the run; its copy; beside it. All must be what they were."""
    project, run = tmp_path / "new", tmp_path / "new" / "runs" / "r"
    (run / COPIES).mkdir(parents=True)
    (tmp_path / "old").mkdir()
    places = [tmp_path / "old" / "g", project / "g", run / COPIES / "g", run / "g", project / "runs" / "g"]
    places[0].write_text("0 1")
    first = InputFiles([tmp_path / "old"])
    first.read("g", "file")
    entry = {"path": str(places[0]), "sha256": first.found["g"].sha256, "copy": f"{COPIES}/g"}
    environment = {"inputs": {"g": entry}, "out": str(tmp_path / "old" / "runs"), "base_dir": "/none"}
    for place in places:
        place.write_text("0 1")
    for place in places:
        files = InputFiles.of_run(run, environment)
        files.read("g", "file")
        assert files.found["g"].path == str(place)
        place.write_text("0 2")
        changed = refusal(InputFiles.of_run(run, environment), "g")
        hint = f"; --input-root {run / COPIES} takes the copy" if place in places[:2] else ""
        assert changed == f"{place}: changed since the run began{hint}"
        place.unlink()
    said = refusal(InputFiles.of_run(run, environment), "g")
    assert all(str(place) in said for place in places)


def test_environments_of_any_kind(tmp_path: Path) -> None:
    """Whoever wrote ``environment.json``: what is of no use in it is passed over."""
    (tmp_path / "g").write_text("0 1")
    for environment in ({}, {"inputs": 3}, {"inputs": {"g": 3}}, {"inputs": {"g": {"path": 3}}}, {"base_dir": 3}):
        assert InputFiles.of_run(tmp_path, environment).read("g", "file") == "0 1"


def test_large_files_are_not_copied(tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"#" * (INPUT_COPY_BYTES_MAX + 1))
    files = InputFiles([tmp_path])
    files.read("g", "file")
    assert files.found["g"].copy is None


@pytest.mark.parametrize("name", ["g", "../g", "/etc/g", "a b", "..", ".", "x" * 300, "ü/ö"])
def test_a_copy_has_a_name_of_its_own(name: str) -> None:
    copy = copy_name(name)
    assert os.path.basename(copy) == copy
    assert copy not in (".", "..", "")
    assert len(copy) <= 200
