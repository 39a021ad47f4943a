"""What is removed, and what is not."""

from dataclasses import replace

import pytest

from orchestrator.containers import cleanup
from orchestrator.containers.cleanup import describe, find_runs, reap, remove_labelled
from orchestrator.containers.interface import ContainerSpec, EngineError, Resource, StuckNetwork
from orchestrator.containers.ownership import Owner, RunScope
from tests.unit.orchestrator.containers.fake_engine import FakeEngine

HERE = Owner.of_this_process()
DEAD = replace(HERE, boot="before")
STRANGER = replace(DEAD, user=HERE.user + 1)


def add_run(engine: FakeEngine, scope: RunScope, nodes: int = 2) -> None:
    for role in ("control", "data"):
        name = scope.name_of(role)
        identity = f"{name} of {scope.owner.user} since {scope.owner.boot}"
        engine.resources[identity] = Resource("network", identity, name, scope.labels(role))
    for node in range(nodes):
        engine.create_container(ContainerSpec(scope.name_of("node", node), "i", labels=scope.labels("node", node)))


def test_runs_are_told_apart_by_name_and_process() -> None:
    engine = FakeEngine()
    add_run(engine, RunScope("b", DEAD))
    add_run(engine, RunScope("a", HERE), nodes=1)
    add_run(engine, RunScope("a", STRANGER))
    engine.create_container(ContainerSpec("somebody", "i", labels={"fragmesh.image": "node"}))
    runs = find_runs(engine, HERE)
    assert sorted((run.run, run.fate, describe(run.resources)) for run in runs) == [
        ("a", "alive", "1 container, 2 networks"),
        ("a", "foreign", "2 containers, 2 networks"),
        ("b", "gone", "2 containers, 2 networks"),
    ]


def test_only_what_ended_processes_of_this_user_left_is_reaped() -> None:
    engine = FakeEngine()
    for run, owner in (("old", DEAD), ("now", HERE), ("other", STRANGER)):
        add_run(engine, RunScope(run, owner))
    engine.resources["v"] = Resource("volume", "v", "v", RunScope("old", DEAD).labels())
    engine.resources["w"] = Resource("volume", "w", "w", {"fragmesh.run": "old"})  # no process: not judged
    reaped, problems = reap(engine, HERE)
    assert [(run.run, describe(run.resources)) for run in reaped] == [("old", "2 containers, 2 networks, 1 volume")]
    assert problems == []
    left = {resource.name for resource in engine.labelled({"fragmesh.run": ""})}
    assert left == {"w"} | {f"fragmesh-{run}-{HERE.pid}-{rest}" for run in ("now", "other") for rest in NAMES}
    assert reap(engine, HERE) == ([], [])


NAMES = ("control", "data", "node-0000", "node-0001")


def test_containers_go_before_the_networks_that_they_use() -> None:
    engine = FakeEngine()
    scope = RunScope("old", DEAD)
    add_run(engine, scope)
    assert remove_labelled(engine, scope.labels()) == []
    kinds = [call.split()[1] for call in engine.calls]
    assert kinds == ["container", "container", "network", "network"]


def test_containers_of_a_run_leave_its_networks_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    scopes = [RunScope("a", DEAD), RunScope("b", DEAD)]
    for scope in scopes:
        add_run(engine, scope, nodes=8)
    busy, together = set[str](), list[str]()
    remove = engine.remove

    def watch(resource: Resource) -> None:
        run = resource.labels["fragmesh.run"] if resource.kind == "container" else resource.name
        if run in busy:
            together.append(resource.name)
        busy.add(run)
        remove(resource)
        busy.discard(run)

    monkeypatch.setattr(engine, "remove", watch)
    assert reap(engine, HERE)[1] == []
    assert engine.labelled({"fragmesh.run": ""}) == []
    assert together == []


def test_what_cannot_be_removed_is_told_and_the_rest_is_removed() -> None:
    engine = FakeEngine()
    scope = RunScope("old", DEAD)
    add_run(engine, scope)
    engine.refused[scope.name_of("data")] = "has active endpoints"
    assert remove_labelled(engine, scope.labels()) == [
        f"network {scope.name_of('data')} cannot be removed: has active endpoints"
    ]
    assert [resource.name for resource in engine.labelled(scope.labels())] == [scope.name_of("data")]


def test_a_network_that_only_the_engine_keeps_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "_STUCK_S", 0.01)
    monkeypatch.setattr(cleanup, "_PATIENCE_S", 3600.0)
    engine = FakeEngine()
    scope = RunScope("old", DEAD)
    add_run(engine, scope, nodes=0)
    remove = engine.remove

    def keep(resource: Resource) -> None:
        if resource.name.endswith("data"):
            raise StuckNetwork(f"network {scope.name_of('data')} cannot be removed: Docker has lost count", 403)
        remove(resource)

    monkeypatch.setattr(engine, "remove", keep)
    assert remove_labelled(engine, scope.labels()) == [
        f"network {scope.name_of('data')} cannot be removed: Docker has lost count"
    ]


def test_what_somebody_else_is_removing_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "_PAUSE_S", 0)
    engine = FakeEngine()
    scope = RunScope("old", DEAD)
    add_run(engine, scope, nodes=0)
    refusals = iter([True, True, False, False])
    remove = engine.remove

    def refuse_twice(resource: Resource) -> None:
        if resource.name.endswith("data") and next(refusals):
            raise EngineError("network: has active endpoints", 403)
        remove(resource)

    monkeypatch.setattr(engine, "remove", refuse_twice)
    assert remove_labelled(engine, scope.labels()) == []
    assert engine.labelled(scope.labels()) == []
