"""The gate of a node."""

import threading
from pathlib import Path

import pytest

from node.core.errors import RunnerError
from node.host.gate import wait_for_gate


def test_an_open_gate_is_passed_at_once(tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    wait_for_gate(tmp_path / "open", 0.0)


def test_a_gate_is_waited_for(tmp_path: Path) -> None:
    passed = threading.Event()

    def go() -> None:
        wait_for_gate(tmp_path / "open", 60.0)
        passed.set()

    waiting = threading.Thread(target=go)
    waiting.start()
    assert not passed.wait(0.1)
    (tmp_path / "open").touch()
    assert passed.wait(60.0)
    waiting.join()


def test_a_gate_that_nobody_opens_ends_the_wait(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match=r"open: was not there within 0\.05 s: nobody has let this node begin$"):
        wait_for_gate(tmp_path / "open", 0.05)
