"""The list of runs in progress: who is on it, who is not any more, and that it never costs a run anything."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.containers.ownership import Owner
from orchestrator.host.run_registry import RUNS, registered, runs_in_progress
from orchestrator.host.state_folder import state_folder

HERE = Owner.of_this_process()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "fragmesh" / RUNS


def test_a_run_is_listed_until_it_is_over(state: Path) -> None:
    assert runs_in_progress() == []
    with registered(Path("runs/a"), HERE):
        (found,) = runs_in_progress()
        assert (found.path, found.fate) == (Path.cwd() / "runs/a", "alive")
        assert found.words == f"process {HERE.pid}"
    assert runs_in_progress() == []
    assert list(state.iterdir()) == []


def test_a_run_that_fails_is_over(state: Path) -> None:
    with pytest.raises(ZeroDivisionError), registered(Path("a"), HERE):
        raise ZeroDivisionError
    assert list(state.iterdir()) == []


def test_who_died_is_taken_out_when_seen(state: Path) -> None:
    dead = replace(HERE, started=HERE.started - 1)
    with registered(Path("/b"), dead), registered(Path("/a"), HERE):
        assert len(list(state.iterdir())) == 2
        assert [run.path for run in runs_in_progress()] == [Path("/a")]
        assert len(list(state.iterdir())) == 1


def test_who_cannot_be_judged_is_listed_and_left_alone(state: Path) -> None:
    with registered(Path("/b"), replace(HERE, machine="another")), registered(Path("/a"), HERE):
        assert [(run.path, run.fate) for run in runs_in_progress()] == [(Path("/a"), "alive"), (Path("/b"), "foreign")]
        assert len(list(state.iterdir())) == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"run": 1, "owner": 2}', '{"run": "a"}', "\0"])
def test_what_is_none_of_ours_is_left_alone(text: str, state: Path) -> None:
    state.mkdir(parents=True)
    (state / "other.json").write_text(text)
    assert runs_in_progress() == []
    assert (state / "other.json").exists()


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with registered(Path("/a"), HERE):
        assert runs_in_progress() == []


def test_the_folder_follows_the_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert state_folder("runs") == Path("/x/fragmesh/runs")
    monkeypatch.setenv("HOME", "/h")
    for ignored in ("relative", ""):
        monkeypatch.setenv("XDG_STATE_HOME", ignored)
        assert state_folder("runs") == Path("/h/.local/state/fragmesh/runs")
    monkeypatch.delenv("HOME")

    def unknown(_: int) -> None:
        raise KeyError("nobody")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert state_folder("runs").parts[-1] == "runs"
    assert state_folder("runs").parent.name.startswith("fragmesh-state-")
