"""A fleet of processes of the operating system: paused, let go on, killed, and each end told once."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from node.core.types import NodeId
from orchestrator.runs.fleet import Fleet, NodeEnd
from orchestrator.runtimes.forking import NodeHandle
from orchestrator.runtimes.processes import ProcessFleet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

WAIT_S = 20.0
NODES = [NodeId(node) for node in range(3)]


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    children = [subprocess.Popen(["sleep", "600"]) for _ in NODES]
    yield children
    for child in children:
        child.kill()
        child.wait()


@pytest.fixture
def fleet(children: list[subprocess.Popen[bytes]], tmp_path: Path) -> ProcessFleet:
    """Processes that do nothing stand for nodes; nothing is emulated."""
    fleet = ProcessFleet(cast(Any, None), tmp_path, fresh=False, emulates_links=False)
    for node, child in zip(NODES, children, strict=True):
        fleet._handles[node] = NodeHandle(node, child.pid, tmp_path / f"node-{node}.log")
    return fleet


def until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_it_is_a_fleet(fleet: ProcessFleet) -> None:
    interface: Fleet = fleet
    assert interface.host == "127.0.0.1"


def test_a_node_is_paused_and_goes_on(fleet: ProcessFleet, children: list[subprocess.Popen[bytes]]) -> None:
    """Its end is no news meanwhile: it has not ended."""
    process = psutil.Process(children[1].pid)
    fleet.pause(NODES[1])
    until(lambda: process.status() == psutil.STATUS_STOPPED)
    assert psutil.Process(children[0].pid).status() != psutil.STATUS_STOPPED
    assert fleet.newly_ended() == {}
    fleet.resume(NODES[1])
    until(lambda: process.status() != psutil.STATUS_STOPPED)
    assert fleet.newly_ended() == {}


def test_a_paused_node_can_be_killed(fleet: ProcessFleet, children: list[subprocess.Popen[bytes]]) -> None:
    fleet.pause(NODES[1])
    fleet.kill(NODES[1])
    assert not psutil.pid_exists(children[1].pid)
    assert fleet.newly_ended() == {}


def test_each_end_is_told_once(fleet: ProcessFleet, children: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    children[2].send_signal(signal.SIGTERM)
    ended: dict[NodeId, NodeEnd] = {}
    until(lambda: ended.update(fleet.newly_ended()) or ended)
    assert ended == {NODES[2]: NodeEnd("was killed by SIGTERM", failed=True)}
    assert fleet.newly_ended() == {}
    assert fleet.last_words(NODES[2]) == ""
    (tmp_path / "node-2.log").write_text("one\ntwo\nthree\nfour\n")
    assert fleet.last_words(NODES[2]) == "two | three | four"
    fleet.pause(NODES[2])
    fleet.resume(NODES[2])  # it has ended, and neither is an error


def test_closing_ends_all(fleet: ProcessFleet, children: list[subprocess.Popen[bytes]]) -> None:
    assert fleet.close() is None
    assert not any(psutil.pid_exists(child.pid) for child in children)
