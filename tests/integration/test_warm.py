"""A run that is forked from a warm parent is to a test what a new interpreter would be."""

import os
import resource
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from tests.integration.warm import MARK, ROOT, WarmRun, warm_parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def begin(*arguments: str, cwd: Path = ROOT, **more: str) -> WarmRun:
    environment = {**os.environ, MARK: uuid.uuid4().hex, **more}
    return warm_parent().start(["-", *arguments], environment=environment, cwd=cwd)


def held(folder: Path) -> tuple[WarmRun, int]:
    """A run that waits for the rest of its file, and the end of the pipe that it reads."""
    os.mkfifo(folder / "run.yaml")
    run = begin("validate", str(folder / "run.yaml"))
    return run, os.open(folder / "run.yaml", os.O_WRONLY)  # which waits until it is opened to be read


def test_output_errors_and_exit_codes_are_those_of_an_interpreter() -> None:
    """To the byte, of a command that succeeds and of one that is refused."""
    for arguments, code in ((["list", "--json"], 0), (["validate", "none.yaml"], 2), (["validate"], 2)):
        command = [sys.executable, "-m", "tests.integration.faulty", "-", *arguments]
        expected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        run = begin(*arguments)
        assert run.communicate() == (expected.stdout, expected.stderr)
        assert run.returncode == expected.returncode == code


def test_a_run_has_its_own_folder_and_environment(tmp_path: Path) -> None:
    (tmp_path / "here.yaml").write_text("name: []\n")
    run = begin("validate", "here.yaml", cwd=tmp_path)
    assert "here.yaml: name=[]" in run.communicate()[1]
    run = begin("doctor", "--json", FRAGMESH_CACHE=str(tmp_path / "elsewhere"))
    assert str(tmp_path / "elsewhere") in run.communicate()[0]


def test_a_run_leads_a_session_and_its_mark_can_be_seen(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    os.mkfifo(tmp_path / "run.yaml")
    run = begin("validate", str(tmp_path / "run.yaml"), **{MARK: mark})
    pipe = os.open(tmp_path / "run.yaml", os.O_WRONLY)
    assert os.getsid(run.pid) == os.getpgid(run.pid) == run.pid
    assert psutil.Process(run.pid).environ()[MARK] == mark
    assert psutil.Process(run.pid).num_threads() == 1
    assert psutil.Process(run.pid).ppid() != os.getpid()
    os.close(pipe)
    assert run.wait() == 2


def test_a_run_that_is_killed(tmp_path: Path) -> None:
    run, pipe = held(tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        run.communicate(timeout=0.05)
    with pytest.raises(subprocess.TimeoutExpired):
        run.wait(timeout=0.05)
    assert run.poll() is None
    os.killpg(run.pid, signal.SIGKILL)
    assert run.communicate() == ("", "")
    assert run.returncode == -signal.SIGKILL
    run.kill()  # nobody, since it has been waited for
    os.close(pipe)


def test_runs_at_the_same_time_end_each_in_its_own_way(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (first, pipe), (second, other) = held(tmp_path / "a"), held(tmp_path / "b")
    os.close(other)
    assert second.wait() == 2
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.communicate() == ("", "interrupted\n")
    assert first.returncode == 130
    os.close(pipe)


def test_limits_are_a_runs_own(tmp_path: Path) -> None:
    limit = {resource.RLIMIT_NOFILE: (64, 64)}
    os.mkfifo(tmp_path / "run.yaml")
    environment = {**os.environ, MARK: uuid.uuid4().hex}
    run = warm_parent().start(["-", "validate", str(tmp_path / "run.yaml")], environment=environment, limits=limit)
    pipe = os.open(tmp_path / "run.yaml", os.O_WRONLY)
    assert psutil.Process(run.pid).rlimit(resource.RLIMIT_NOFILE) == (64, 64)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) != (64, 64)
    # It has its own three, and that which it reads from: nothing of its parent's.
    opened = {os.readlink(f"/proc/{run.pid}/fd/{name}") for name in os.listdir(f"/proc/{run.pid}/fd")}
    assert not any(name.startswith("socket:") for name in opened), opened
    os.close(pipe)
    assert run.wait() == 2
