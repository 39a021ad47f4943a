"""The process that starts nodes again: its children, how they end, and what is left."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from node.core.errors import RunnerError
from node.core.types import NodeId
from orchestrator.runtimes import fork_server
from orchestrator.runtimes.fork_server import ForkServer, start_fork_server
from orchestrator.runtimes.forking import NodeHandle

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

WITHIN_S = 60.0


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def be_script(file: Path, run_id: str) -> int:
    """A node's place is taken by what its file says."""
    print(run_id, flush=True)
    exec(file.read_text())
    return 0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServer]:
    monkeypatch.setattr(fork_server, "become_fresh", lambda file, run_id: os._exit(be_script(file, run_id)))
    server = start_fork_server("run-1", tmp_path, None, Mock())
    yield server
    server.close()


def start(server: ForkServer, folder: Path, script: str) -> NodeHandle:
    file = folder / f"node-{len(list(folder.iterdir()))}.py"
    file.write_text(script)
    return server.start(NodeId(3), file)


def test_a_child_and_its_end(server: ForkServer, tmp_path: Path) -> None:
    first, second = (start(server, tmp_path, f"import os; print('x'); os._exit({code})") for code in (0, 7))
    until(lambda: first.poll() is not None and second.poll() is not None)
    assert (first.poll(), second.poll()) == (0, 7)
    assert "run-1" in first.last_words()
    first.kill()  # nothing is left to kill


def test_a_child_is_killed_and_gone(server: ForkServer, tmp_path: Path) -> None:
    node = start(server, tmp_path, "import time; time.sleep(600)")
    assert node.poll() is None
    node.kill()
    assert node.poll() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(node.pid, 0)


def test_children_end_with_it(server: ForkServer, tmp_path: Path) -> None:
    node = start(server, tmp_path, "import time; time.sleep(600)")
    server.close()

    def is_gone() -> bool:
        try:
            os.kill(node.pid, 0)
        except ProcessLookupError:
            return True
        return "State:\tZ" in Path(f"/proc/{node.pid}/status").read_text()

    until(is_gone)


def test_one_that_has_ended_starts_nobody(server: ForkServer, tmp_path: Path) -> None:
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(RunnerError, match="node 3 cannot be started again"):
        start(server, tmp_path, "")
