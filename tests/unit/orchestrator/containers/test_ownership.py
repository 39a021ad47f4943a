"""A run's resources tell whose they are, and whether that process still lives."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from orchestrator.containers.ownership import Owner, RunScope, fate_of, parse_started, started_at

HERE = Owner(machine="m", boot="b", namespace="pid:[1]", user=1000, pid=50, started=900)
OTHER = replace(HERE, pid=77, started=500)


def test_a_label_says_it_all() -> None:
    assert Owner.from_label(OTHER.to_label()) == OTHER
    here = Owner.of_this_process()
    assert Owner.from_label(here.to_label()) == here
    assert (here.pid, here.user) == (os.getpid(), os.getuid())
    assert here.machine
    assert fate_of(here, here) == ("alive", f"process {os.getpid()}")


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", '{"pid":1}', OTHER.to_label().replace("77", '"77"')])
def test_a_label_that_is_not_ours_is_nobody_s(text: str) -> None:
    assert Owner.from_label(text) is None
    assert fate_of(None, HERE)[0] == "foreign"


@pytest.mark.parametrize(
    ("owner", "started", "fate"),
    [
        (OTHER, 500, "alive"),
        (OTHER, None, "gone"),
        (OTHER, 501, "gone"),  # its number is another process's by now
        (replace(OTHER, boot="c"), 500, "gone"),
        (replace(OTHER, machine="n"), None, "foreign"),
        (replace(OTHER, machine="n", boot="c"), None, "foreign"),
        (replace(OTHER, user=0), None, "foreign"),
        (replace(OTHER, user=0, boot="c"), None, "foreign"),
        (replace(OTHER, namespace="pid:[2]"), None, "foreign"),
        (replace(OTHER, namespace="pid:[2]", boot="c"), None, "gone"),  # no namespace outlives a boot
    ],
)
def test_only_what_surely_ended_is_gone(owner: Owner, started: int | None, fate: str) -> None:
    asked: list[int] = []

    def start_of(pid: int) -> int | None:
        asked.append(pid)
        return started

    assert fate_of(owner, HERE, start_of)[0] == fate
    assert asked in ([], [77])


def test_a_process_is_known_by_its_start() -> None:
    assert parse_started("7 (a) b) c) S " + " ".join(map(str, range(4, 40)))) == 22
    assert parse_started("7 (a) Z " + " ".join(map(str, range(4, 40)))) is None
    assert parse_started("") is None
    assert started_at(os.getpid()) is not None
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert started_at(ended.pid) is None


def test_names_are_such_as_an_engine_takes() -> None:
    scope = RunScope("a b/ü-2026", HERE)
    assert scope.name_of("node", 3) == f"fragmesh-a-b---2026-{HERE.pid}-node-0003"
    assert scope.name_of("data") == f"fragmesh-a-b---2026-{HERE.pid}-data"
    labels = scope.labels("node", 3)
    assert labels["fragmesh.run"] == "a b/ü-2026"
    assert (labels["fragmesh.role"], labels["fragmesh.node"]) == ("node", "3")
    assert scope.labels().items() <= labels.items()
