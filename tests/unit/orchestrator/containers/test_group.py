"""The containers of a run, in an engine that does what a test wants."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.containers import output_copy
from orchestrator.containers.group import FREEZES, ContainerEnd, ContainerGroup, ending
from orchestrator.containers.interface import ContainerSpec, EngineError
from orchestrator.containers.networks import make_networks
from orchestrator.containers.ownership import Owner, RunScope
from tests.unit.orchestrator.containers.fake_engine import FakeEngine

SCOPE = RunScope("run", Owner.of_this_process())
FIRST, SECOND = (SCOPE.name_of("node", node) for node in (0, 1))


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for what another thread does."""
    for _ in range(60_000):
        if condition():
            return
        threading.Event().wait(0.001)
    pytest.fail(f"not within a minute: {what}")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def group(engine: FakeEngine, tmp_path: Path) -> Iterator[ContainerGroup]:
    """Two nodes that run."""
    made = ContainerGroup(engine, SCOPE, tmp_path)
    made.open()
    make_networks(engine, SCOPE, 2)
    made.launch([spec(0), spec(1)])
    yield made
    made.close()


def spec(node: int) -> ContainerSpec:
    return ContainerSpec(SCOPE.name_of("node", node), "image", labels=SCOPE.labels("node", node))


def next_end(group: ContainerGroup) -> dict[str, ContainerEnd]:
    found: dict[str, ContainerEnd] = {}
    until(lambda: found.update(group.newly_ended()) or found, "a container that has ended")
    return found


def test_all_are_started(engine: FakeEngine, group: ContainerGroup) -> None:
    assert {found.status for found in engine.containers.values()} == {"running"}
    assert {name: state.status for name, state in group.states([FIRST, SECOND]).items()} == {
        FIRST: "running",
        SECOND: "running",
    }
    assert group.newly_ended() == {}
    assert group.newly_restarted() == []
    assert group.failure() is None


def test_an_end_is_told_once_and_after_all_that_was_written(
    engine: FakeEngine, group: ContainerGroup, tmp_path: Path
) -> None:
    engine.write(SECOND, b"hello\n")
    engine.write(SECOND, b"bye\n")
    engine.end(SECOND, 1)
    assert next_end(group) == {SECOND: ContainerEnd("ended with code 1", failed=True)}
    assert group.log_of(SECOND) == tmp_path / "node-0001.log"
    assert group.log_of(SECOND).read_text() == "hello\nbye\n"
    assert group.newly_ended() == {}


def test_what_a_broken_stream_did_not_bring_is_read_when_the_container_has_ended(
    engine: FakeEngine, group: ContainerGroup
) -> None:
    engine.write(SECOND, b"seen\n")
    log = group.log_of(SECOND)
    until(lambda: log.exists() and log.read_text() == "seen\n", "the first line")
    engine.break_off(SECOND)
    engine.write(SECOND, b"not seen\n")
    engine.end(SECOND, 0)
    assert next_end(group) == {SECOND: ContainerEnd("ended with code 0", failed=False)}
    assert log.read_text() == "seen\nnot seen\n"


def test_an_end_tells_that_the_log_is_not_complete(
    engine: FakeEngine, group: ContainerGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(container: str, since_ns: int, *, follow: bool) -> None:
        raise EngineError("no log driver", 500)

    monkeypatch.setattr(engine, "output", refuse)
    engine.break_off(SECOND)
    engine.end(SECOND, 3)
    assert next_end(group) == {SECOND: ContainerEnd("ended with code 3 (its log is not complete)", failed=True)}


@pytest.mark.parametrize(
    ("exit_code", "out_of_memory", "how"),
    [
        (0, False, "ended with code 0"),
        (2, False, "ended with code 2"),
        (137, False, "was killed by SIGKILL"),
        (137, True, "was killed by the kernel for want of memory"),
        (139, False, "was killed by SIGSEGV"),
        (255, False, "ended with code 255"),
    ],
)
def test_how_a_container_ended_is_told_in_words(
    engine: FakeEngine, group: ContainerGroup, exit_code: int, out_of_memory: bool, how: str
) -> None:
    assert ending(exit_code, out_of_memory=out_of_memory) == how
    engine.end(FIRST, exit_code, out_of_memory=out_of_memory)
    assert next_end(group) == {FIRST: ContainerEnd(how, failed=exit_code != 0)}


def test_one_that_was_killed_is_no_news(engine: FakeEngine, group: ContainerGroup) -> None:
    group.kill(FIRST)
    until(lambda: f"kill {FIRST}" in engine.calls, "the kill")
    engine.end(SECOND, 0)
    assert list(next_end(group)) == [SECOND]


def test_one_that_does_not_freeze_at_once_is_asked_again_and_not_for_ever(
    engine: FakeEngine, group: ContainerGroup
) -> None:
    engine.unfrozen = {FIRST: FREEZES - 1, SECOND: FREEZES}
    group.pause(FIRST).result()
    assert (engine.calls, group.failure()) == ([f"pause {FIRST}"], None)
    group.pause(SECOND).result()
    assert "unable to freeze" in str(group.failure())


def test_commands_keep_their_order(engine: FakeEngine, group: ContainerGroup) -> None:
    for _ in range(50):
        group.pause(FIRST)
        group.resume(FIRST)
    group.kill(FIRST)
    until(lambda: f"kill {FIRST}" in engine.calls, "the last command")
    assert engine.calls == [f"pause {FIRST}", f"unpause {FIRST}"] * 50 + [f"kill {FIRST}"]


def test_a_restart_is_told_and_its_output_goes_on(engine: FakeEngine, group: ContainerGroup, tmp_path: Path) -> None:
    engine.write(FIRST, b"once\n")
    engine.end(FIRST, 137)
    assert list(next_end(group)) == [FIRST]
    engine.restart(FIRST)
    found: list[str] = []
    until(lambda: found.extend(group.newly_restarted()) or found, "the restart")
    assert found == [FIRST]
    engine.write(FIRST, b"again\n")
    until(lambda: group.log_of(FIRST).read_text() == "once\nagain\n", "the rest of the output")


def test_an_engine_that_ends_is_a_failure(engine: FakeEngine, group: ContainerGroup) -> None:
    engine.disappear()
    until(group.failure, "a failure")
    assert group.failure() == "events: the engine does not answer: connection reset"


def test_a_command_that_the_engine_refuses_is_a_failure(
    engine: FakeEngine, group: ContainerGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(container: str) -> None:
        raise EngineError("container cannot be paused: cgroups are missing", 500)

    monkeypatch.setattr(engine, "pause", refuse)
    monkeypatch.setattr(group._engine, "pause", refuse)
    group.pause(FIRST)
    until(group.failure, "a failure")
    assert group.failure() == "container cannot be paused: cgroups are missing"


def test_one_that_cannot_start_fails_the_launch_and_nothing_is_left(engine: FakeEngine, tmp_path: Path) -> None:
    group = ContainerGroup(engine, SCOPE, tmp_path)
    group.open()
    make_networks(engine, SCOPE, 4)
    engine.broken.add(SCOPE.name_of("node", 2))
    with pytest.raises(
        EngineError, match=rf"^node 2: container {SCOPE.name_of('node', 2)} cannot be started: no such file$"
    ):
        group.launch([spec(node) for node in range(4)])
    assert group.close() == []
    assert engine.labelled(SCOPE.labels()) == []


def test_close_removes_everything_of_this_run_and_nothing_else(engine: FakeEngine, tmp_path: Path) -> None:
    other = RunScope("other", SCOPE.owner)
    engine.create_container(ContainerSpec(other.name_of("node", 0), "image", labels=other.labels("node", 0)))
    group = ContainerGroup(engine, SCOPE, tmp_path)
    group.open()
    make_networks(engine, SCOPE, 2)
    group.launch([spec(0), spec(1)])
    # One that a call made whose answer never came.
    engine.create_container(ContainerSpec("unknown", "image", labels=SCOPE.labels("node", 9)))
    assert group.close() == []
    assert [resource.name for resource in engine.labelled({"fragmesh.run": ""})] == [other.name_of("node", 0)]
    assert group.failure() is None


def test_close_tells_what_is_left(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_copy, "_STREAM_S", 0.01)
    group = ContainerGroup(engine, SCOPE, tmp_path)
    group.open()
    group.launch([spec(0)])
    engine.refused[FIRST] = "device or resource busy"
    assert group.close() == [f"container {FIRST} cannot be removed: device or resource busy"]

    def gone(labels: object) -> list[object]:
        raise EngineError("the engine does not answer")

    monkeypatch.setattr(engine, "labelled", gone)
    unreachable = ContainerGroup(engine, SCOPE, tmp_path)
    unreachable.open()
    assert unreachable.close() == ["the engine does not answer; fragmesh down removes what is left"]


def test_close_is_all_that_a_group_needs_which_never_opened(engine: FakeEngine, tmp_path: Path) -> None:
    assert ContainerGroup(engine, SCOPE, tmp_path).close() == []
