"""Files of targets: whole or not there, and removed by somebody once their process is gone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.containers.ownership import Owner
from orchestrator.host.scrape_targets import (
    OWNER_LABEL,
    ScrapeTarget,
    ScrapeTargets,
    remove_dead_targets,
)
from orchestrator.host.state_folder import state_folder


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


HERE = Owner.of_this_process()
DEAD = replace(HERE, started=HERE.started + 1)
"""This process's number, and another start: the process of that number is another one now."""

TARGETS = [ScrapeTarget("127.0.0.1:1", {"run": "r", "node": "0"}), ScrapeTarget("[::1]:2", {"run": "r"})]


def written() -> list[Path]:
    return sorted(state_folder("targets").glob("*"))


def test_a_file_says_where_and_what(state: Path) -> None:
    targets = ScrapeTargets("r-1", HERE, pytest.fail)
    targets.write(TARGETS[:1])
    targets.write(TARGETS)
    (path,) = written()
    assert path.parent == state / "fragmesh" / "targets"
    assert path.name.startswith("r-1-")
    assert path.suffix == ".json"
    first, second = json.loads(path.read_text())
    assert first["targets"] == ["127.0.0.1:1"]
    assert {**first["labels"], OWNER_LABEL: ""} == {"run": "r", "node": "0", OWNER_LABEL: ""}
    assert second["targets"] == ["[::1]:2"]
    targets.remove()
    targets.remove()
    assert written() == []


def test_what_the_dead_left_is_removed_and_nothing_else(state: Path) -> None:
    others = [replace(DEAD, machine="another"), replace(DEAD, user=DEAD.user + 1), replace(DEAD, namespace="another")]
    for owner in (HERE, DEAD, replace(DEAD, boot="an earlier one"), *others):
        ScrapeTargets("same", owner, pytest.fail).write(TARGETS)
    for name, text in {"own.json": "[]", "half.json": "[{", "list.json": '["x"]', "kept.yaml": "x"}.items():
        (state_folder("targets") / name).write_text(text)
    assert len(written()) == 10
    remove_dead_targets()
    assert len(written()) == 8
    ScrapeTargets("same", HERE, pytest.fail).remove()
    assert len(written()) == 7


def test_without_a_folder_nothing_is_left_and_nothing_is_removed() -> None:
    remove_dead_targets()
    ScrapeTargets("r", HERE, pytest.fail).remove()


def test_a_folder_that_cannot_be_is_told_once(state: Path) -> None:
    (state / "fragmesh").write_text("a file")
    told: list[str] = []
    targets = ScrapeTargets("r", HERE, told.append)
    targets.write(TARGETS)
    targets.write(TARGETS)
    (line,) = told
    assert line.startswith("Prometheus will not find this run: ")
    targets.remove()
    remove_dead_targets()
