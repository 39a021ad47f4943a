"""Streams that are closed or full, paths that are not UTF-8, users without a home: no results are lost to them."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.integration.warm import MARK, warm_parent

ROOT = Path(__file__).resolve().parents[2]
TINY = """
name: tiny
nodes: 3
algorithm: {kind: divshare, local_steps: 1, divshare: {recipients: 1}}
learning:
  dataset: {kind: synthetic, samples: 60, test_samples: 20, features: 4, classes: 3}
  model: {kind: logistic_regression}
network: {preset: {kind: uniform}}
stop: {time_s: 0.05}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def environment_of(folder: Path) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "FRAGMESH_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }


def shell(folder: Path, line: str, **changes: str | None) -> tuple[int, str]:
    """The exit code and the standard error of a line of shell, in which ``$F`` is the program."""
    environment = environment_of(folder)
    for name, value in changes.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    line = line.replace("$F", f"{sys.executable} -m fragmesh")
    done = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, check=False)
    return done.returncode, done.stderr.decode(errors="replace")


def warm(folder: Path, *arguments: str | bytes, faults: str = "-", **changes: str) -> tuple[int, str]:
    """The same of a command for which it does not matter how its interpreter was started."""
    environment = environment_of(folder) | {MARK: uuid.uuid4().hex} | changes
    run = warm_parent().start([faults, *map(os.fsdecode, arguments)], environment=environment, cwd=folder)
    _, err = run.communicate()
    return run.wait(), err


def assert_done(folder: Path) -> None:
    (run,) = (folder / "runs").iterdir()
    assert json.loads((run / "summary.json").read_text())["status"] == "done"
    assert (run / "curve.csv").read_text().count("\n") >= 2
    assert b"\xff" not in (run / "experiment.yaml").read_bytes()


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full", "--json >/dev/full"])
def test_a_run_that_cannot_tell_has_its_results(streams: str, folder: Path) -> None:
    code, err = shell(folder, f"$F run tiny.yaml --workers 0 {streams}")
    assert code == 0, err
    assert_done(folder)
    assert "a bug" not in err
    if "--json" in streams:
        assert err.startswith("not printed: No space left on device; the results are in runs/tiny-")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$F list > /dev/full", 1),
        ("$F validate tiny.yaml --no-data --json > /dev/full", 1),
        ("$F --help > /dev/full", 1),
        ("$F list >&-", 0),
        ("$F validate none.yaml > /dev/full 2> /dev/full", 2),
        ("$F validate none.yaml >&- 2>&-", 2),
    ],
)
def test_other_commands_say_so(line: str, code: int, folder: Path) -> None:
    found, err = shell(folder, line)
    assert (found, err) == (code, "not printed: No space left on device\n" if code == 1 else "")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_paths_that_are_not_utf8(folder: Path) -> None:
    below = os.fsencode(folder) + b"/d\xff"
    os.mkdir(below)
    os.rename(folder / "tiny.yaml", below + b"/t\xfe.yaml")
    name = r"$(printf 'd\377/t\376.yaml')"
    code, err = shell(folder, f'$F run "{name}" --workers 0 --out "$(printf "d\\377/out")" && ln -s d*/out runs')
    assert code == 0, err
    assert_done(folder)
    (run,) = os.listdir(below + b"/out")
    for command in (
        ("report", b"runs/" + run),
        ("compare", b"d\xff/out/" + run, "--out", "compared.html"),
        ("run", b"runs/" + run + b"/experiment.yaml", "--workers", "0", "--out", "again"),
    ):
        code, err = warm(folder, *command)
        assert code == 0, err
    assert (folder / "compared.html").is_file()
    code, err = shell(folder, "$F validate \"$(printf 'none\\376')\" --no-data")
    assert (code, err) == (2, "error: none\\udcfe: cannot be read: No such file or directory\n")


@pytest.mark.skipif(sys.platform != "linux", reason="takes a namespace of users")
def test_a_user_of_whom_the_host_knows_nothing(folder: Path) -> None:
    become = "unshare -U --map-user=54321"
    if subprocess.run(f"{become} true", shell=True, capture_output=True, check=False).returncode:
        pytest.skip("namespaces of users are not to be had here")
    without = dict.fromkeys(("HOME", "FRAGMESH_CACHE", "XDG_CACHE_HOME", "LOGNAME", "USER"))
    temporary = str(folder / "tmp")
    os.mkdir(temporary)
    code, err = shell(folder, f"{become} $F run tiny.yaml", TMPDIR=temporary, **without)
    assert code == 0, err
    assert_done(folder)
    code, err = shell(folder, f"{become} $F doctor", TMPDIR=temporary, **without)
    assert code == 0, err


@pytest.mark.parametrize("columns", ["20", "1"])
def test_a_narrow_terminal(columns: str, folder: Path) -> None:
    code, err = warm(folder, "run", "tiny.yaml", "--workers", "0", faults="no_report", COLUMNS=columns)
    assert code == 0, err
    (run,) = (folder / "runs").iterdir()
    for command in (("list",), ("compare", str(run))):
        code, err = warm(folder, *command, COLUMNS=columns)
        assert code == 0, err


@pytest.mark.parametrize("time_s", ["1e-9", "0.001"])
def test_a_run_that_ends_at_once(time_s: str, folder: Path) -> None:
    code, err = warm(folder, "run", "tiny.yaml", "--workers", "0", "--set", f"stop.time_s={time_s}")
    assert code == 0, err
    assert_done(folder)
    assert f" of {time_s.replace('1e-9', '1e-09')} s (100 %)" in err


# --- how the program is started ---------------------------------------------------------------------------------


def test_the_version(folder: Path) -> None:
    code, err = shell(folder, "$F --version | grep -Ex 'fragmesh [0-9].*'")
    assert (code, err) == (0, "")


def stand_in(folder: Path, place: str) -> None:
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text("raise SystemExit('imported')")


PLACES = ["node/__init__.py", "orchestrator.py"]


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_stands_in_the_place_of_ours(place: str, folder: Path) -> None:
    stand_in(folder, place)
    code, err = shell(folder, "$F validate tiny.yaml --no-data")
    said = f"error: {folder / place}: stands in the place of the testbed's package {place[:4]}"
    assert code == 2
    assert err.startswith(said)
    assert err.count("\n") == 1
    # A user's orchestrator is asked for its cli by Python itself, which says in a line that there is none.
    code, err = shell(folder, f"{sys.executable} -m orchestrator.cli validate tiny.yaml --no-data")
    assert (code, err.startswith(said)) == ((2, True) if place.startswith("node") else (1, False))
    assert err.count("\n") == 1


def test_a_node_looks_for_ours_elsewhere(folder: Path) -> None:
    """It is a process of its own, started in the user's folder."""
    for place in PLACES:
        stand_in(folder, place)
    line = f"{sys.executable} -P -m fragmesh run tiny.yaml --set nodes=1 --set algorithm.kind=local"
    settings = ("runtime=processes", "processes.start=fresh", "time_dilation=8", "fidelity.allow_unfaithful=true")
    code, err = shell(folder, line + "".join(f" --set {setting}" for setting in settings))
    assert code == 0, err
    assert_done(folder)


def test_a_folder_without_code_stands_in_nobodys_place(folder: Path) -> None:
    (folder / "node").mkdir()
    (folder / "orchestrator").mkdir()
    code, err = shell(folder, "$F validate tiny.yaml --no-data")
    assert code == 0, err


def test_a_folder_without_code_that_stands_in_the_place_of_ours(folder: Path) -> None:
    """A finder that comes after the working directory, as editable installs have, loses even to an empty folder."""
    (folder / "node").mkdir()
    finder = f"""
import importlib.machinery as m, importlib.util as u, sys
class Finder:
    def find_spec(name, path=None, target=None):
        inside = "{ROOT}/" + name
        return u.spec_from_file_location(name, inside + (".py" if name == "fragmesh" else "/__init__.py"))
sys.meta_path.insert(1 + sys.meta_path.index(m.PathFinder), Finder)
import fragmesh
fragmesh.main()
"""
    (folder / "installed.py").write_text(finder)
    code, err = shell(folder, f"{sys.executable} installed.py --version", PYTHONPATH=None)
    assert (code, err.split(": stands in the place of")[0]) == (2, f"error: {folder / 'node'}")
