"""The fleet of the ``docker`` runtime, in an engine and over links that do what a test wants."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.config import Beginning, NodeConfig
from node.config_file import read_node_config
from node.core.errors import RunnerError
from node.core.types import NodeId
from node.host.clock import Clock
from orchestrator.containers.image_builds import BuiltImage
from orchestrator.containers.interface import ContainerSpec
from orchestrator.containers.ownership import Owner, RunScope
from orchestrator.experiment.node_configs import RunPart, node_configs
from orchestrator.experiment.plan import Plan
from orchestrator.runs.certificates import issue_credentials
from orchestrator.runs.fleet import NodeEnd
from orchestrator.runs.stopping import StopRequested
from orchestrator.runtimes import docker_fleet
from orchestrator.runtimes.docker_backend import Backend
from orchestrator.runtimes.docker_fleet import DockerFleet
from orchestrator.runtimes.docker_watch import Looks
from orchestrator.shaping.probe import ShapingAbilities
from tests.unit.orchestrator.containers.fake_engine import FakeEngine
from tests.unit.orchestrator.runtimes.docker_plans import engine_with_images, plan

RUN = "small-1"
SCOPE = RunScope(RUN, Owner.of_this_process())
ALL = [NodeId(0), NodeId(1), NodeId(2)]


class Links:
    """What is done to links, in the place of a :class:`~orchestrator.runtimes.docker_shaping.LinkShaper`."""

    def __init__(self) -> None:
        self.done: list[tuple[str, object]] = []
        self.error: RunnerError | None = None
        self.unreadable: list[NodeId] = []
        self.compared, self.differences = 11, ["node 0, eth1 root: present=False: must be True"]
        self.go_on = threading.Event()
        self.made: tuple[Any, ...] = ()
        self.begin_ns = -1

    def make(self, *arguments: Any, begin_ns: int) -> "Links":
        self.made, self.begin_ns = arguments, begin_ns
        return self

    def shape(self, pids: Mapping[NodeId, int]) -> None:
        if self.error is not None:
            raise self.error
        self.done.append(("shaped", sorted(pids)))

    def limit(self) -> None:
        self.go_on.wait(60)
        if self.error is not None:
            raise self.error
        self.done.append(("limited", None))

    def open_gates(self, gate: str, pids: Sequence[int]) -> None:
        self.done.append(("opened", len(pids)))

    def forget(self, node: NodeId) -> None:
        pass

    def prepare(self, time_ns: int, nodes: Sequence[NodeId]) -> None:
        self.done.append(("changed", time_ns))

    def look(self, *, compare: bool) -> Looks:
        self.done.append(("looked", compare))
        return dict.fromkeys(self.unreadable, "no such process") if compare else {}

    def close(self) -> None:
        self.done.append(("closed", None))


class Told:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def preparing(self, what: str) -> None:
        raise AssertionError("not asked for")

    def note(self, text: str) -> None:
        self.notes.append(text)


class Run:
    """A fleet of three nodes."""

    def __init__(self, folder: Path, links: Links, the_plan: Plan, *, netem: bool, shaped: bool) -> None:
        self.engine: FakeEngine = engine_with_images()
        self.links, self.told, self.plan = links, Told(), the_plan
        self.is_stopping = False
        (node, shaper) = (BuiltImage(tag, facts, None) for tag, facts in self.engine.images.items())
        abilities = ShapingAbilities("tc", {}) if shaped else None
        backend = Backend(self.engine, node, shaper if shaped else None, abilities, netem, None, "bbr")
        self.folder = folder / RUN
        self.folder.mkdir()
        self.fleet = DockerFleet(the_plan, backend, self.folder, 8, self.told, lambda: self.is_stopping)

    def configs(self) -> list[NodeConfig]:
        issued = issue_credentials(RUN, 3, timedelta(hours=1))
        part = RunPart(RUN, Clock(0, 2.0), 5, 60.0, (8,), "198.18.0.1:7", "127.0.0.1", None, issued.nodes)
        indices = [np.array([node]) for node in range(3)]
        return node_configs(self.plan, part, indices, [Beginning(np.zeros(8, np.float32))] * 3)

    def launch(self) -> None:
        self.fleet.open()
        self.fleet.launch(self.configs())

    def specs(self, role: str = "node") -> list[ContainerSpec]:
        found = [container.spec for container in self.engine.containers.values()]
        return sorted((spec for spec in found if spec.labels["fragmesh.role"] == role), key=lambda spec: spec.name)

    def name(self, node: int) -> str:
        return SCOPE.name_of("node", node)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for what another thread does."""
    for _ in range(60_000):
        if found := condition():
            return found
        threading.Event().wait(0.001)
    pytest.fail(f"not within a minute: {what}")


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Links:
    made = Links()
    monkeypatch.setattr(docker_fleet, "LinkShaper", made.make)
    return made


@pytest.fixture
def make(tmp_path: Path, links: Links) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def made(*, netem: bool = True, shaped: bool = True, **changes: Any) -> Run:
        runs.append(Run(tmp_path, links, plan(tmp_path, **changes), netem=netem, shaped=shaped))
        return runs[-1]

    yield made
    for run in runs:
        run.fleet.close()
        assert run.engine.containers == {}
        assert run.engine.resources == {}


def test_nodes_are_shaped_before_their_gates_open(make: Callable[..., Run], links: Links) -> None:
    run = make()
    run.launch()
    assert links.done == [("shaped", ALL), ("opened", 3)]
    assert links.begin_ns == 5
    assert links.made[1] == {node: run.fleet._networks["data"].address_of(node) for node in ALL}
    assert (links.made[2].netem, links.made[2].time_dilation) == (True, 2.0)
    assert [container.status for container in run.engine.containers.values()] == ["running"] * 4
    assert run.fleet.host == str(run.fleet._networks["control"].subnet[1])
    assert run.fleet.newly_ended() == {}
    assert run.fleet.failure() is None


def test_links_are_limited_without_anybody_waiting(make: Callable[..., Run], links: Links) -> None:
    run = make()
    run.launch()
    assert not run.fleet.links_are_set()
    assert not run.fleet.links_are_set()
    links.go_on.set()
    until(run.fleet.links_are_set, "the limits")
    assert links.done == [("shaped", ALL), ("opened", 3), ("limited", None)]


def test_links_that_cannot_be_limited_end_the_run(make: Callable[..., Run], links: Links) -> None:
    run = make()
    run.launch()
    links.error = RunnerError("node 1: tc: no")
    links.go_on.set()
    with pytest.raises(RunnerError, match=r"^node 1: tc: no$"):
        until(run.fleet.links_are_set, "the failure")


def test_a_node_is_as_tight_as_it_can_be(make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 1234)
    monkeypatch.setattr("os.getgid", lambda: 55)
    run = make(docker={"cpus": 0.5, "memory_mb": 300})
    run.launch()
    spec = run.specs()[1]
    assert spec.capabilities == ()
    assert not spec.host_pids
    assert (spec.user, spec.cpus, spec.memory_bytes) == ("1234:55", 0.5, 300_000_000)
    assert list(spec.command[-8:-6]) == ["--linger", "0.25"]
    assert spec.command[-6:] == ["--config", "/run/node/node-0001.json", "--run", RUN, "--gate", "/run/gate/open"]
    own = ["common.npz", "node-0001.json", "node-0001.npz", "node-0001.pem"]
    files = {bind.target: bind for bind in spec.binds if bind.target.startswith("/run/node")}
    assert sorted(files) == [f"/run/node/{name}" for name in own]
    assert all(bind.read_only for bind in spec.binds)
    assert "/run/gate" in spec.tmpfs
    assert spec.sysctls["net.ipv4.tcp_slow_start_after_idle"] == "0"
    (helper,) = run.specs("shaper")
    assert helper.capabilities == ("NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE")
    assert not helper.binds
    assert not helper.networks


def test_no_node_is_root(make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, int, int]] = []
    monkeypatch.setattr("os.getuid", lambda: 0)
    monkeypatch.setattr("os.chown", lambda path, user, group: given.append((path.name, user, group)))
    run = make()
    run.launch()
    assert {spec.user for spec in run.specs()} == {"65532:65532"}
    assert ("node-0002.pem", 65_532, 65_532) in given
    assert ("common.npz", 65_532, 65_532) in given


@pytest.mark.parametrize("netem", [True, False])
def test_nodes_are_told_where_they_are_reached_and_what_to_add(netem: bool, make: Callable[..., Run]) -> None:
    run = make(netem=netem)
    run.launch()
    data = run.fleet._networks["data"]
    for node in ALL:
        config = read_node_config(run.folder / "nodes" / f"node-{node:04d}.json", RUN)
        assert (config.host, config.port, config.emulator) == ("0.0.0.0", 0, None)
        assert config.advertised == str(data.address_of(node))
        assert config.delays_arrivals is not netem
        assert run.specs()[node].networks[data.name] == data.address_of(node)


def test_direct_links_have_neither_helper_nor_gate(make: Callable[..., Run], links: Links) -> None:
    run = make(shaped=False, links="direct", preset={"kind": "uniform", "bandwidth_mbps": None, "latency_ms": 0})
    run.launch()
    assert run.fleet.links_are_set()
    assert links.done == []
    assert run.specs("shaper") == []
    assert not [spec for spec in run.specs() if "--gate" in spec.command]
    assert run.fleet.kernel_links() is None


def test_what_cannot_be_shaped_ends_the_run_with_closed_gates(make: Callable[..., Run], links: Links) -> None:
    run = make()
    links.error = RunnerError("links of node 1 are not shaped as planned: eth1 root: present=False: must be True")
    with pytest.raises(RunnerError, match="not shaped as planned"):
        run.launch()
    assert links.done == []


def test_a_user_who_wants_the_run_to_end_waits_for_no_more_nodes(make: Callable[..., Run], links: Links) -> None:
    run = make()
    run.is_stopping = True
    with pytest.raises(StopRequested):
        run.launch()
    assert run.specs() == []


def test_a_container_that_is_started_again_is_shaped_before_its_gate_opens(
    make: Callable[..., Run], links: Links
) -> None:
    run = make()
    run.launch()
    run.engine.end(run.name(1), 137)
    ended = until(run.fleet.newly_ended, "the end")
    assert ended == {NodeId(1): NodeEnd("was killed by SIGKILL", failed=True)}
    links.done.clear()
    run.engine.restart(run.name(1))
    until(lambda: run.fleet.newly_ended() or len(links.done) == 2, "the restart")
    assert links.done == [("shaped", [1]), ("opened", 1)]
    assert run.told.notes == ["the container of node 1 was started again: its links are shaped again first"]
    # Its end is news no more: the run has done without it since the first.
    run.engine.end(run.name(1), 1)
    run.engine.end(run.name(2), 0)
    assert until(run.fleet.newly_ended, "the other's end") == {NodeId(2): NodeEnd("ended with code 0", failed=False)}


def test_a_restarted_container_that_cannot_be_shaped_stays_outside(make: Callable[..., Run], links: Links) -> None:
    run = make()
    run.launch()
    run.engine.end(run.name(1), 137)
    until(run.fleet.newly_ended, "the end")
    links.done.clear()
    links.error = RunnerError("node 1: tc: no")
    run.engine.restart(run.name(1))
    until(lambda: run.fleet.newly_ended() or len(run.told.notes) == 2, "the failure")
    assert run.told.notes[1] == "node 1 stays outside: node 1: tc: no"
    assert links.done == []


def test_without_its_helper_no_node_goes_on(make: Callable[..., Run]) -> None:
    run = make()
    run.launch()
    run.engine.end(SCOPE.name_of("shaper"), 137)
    until(lambda: run.fleet.newly_ended() or run.fleet.failure(), "the failure")
    assert run.fleet.failure() == "the helper that shapes links was killed by SIGKILL"


def test_commands_reach_the_containers(make: Callable[..., Run]) -> None:
    run = make()
    run.launch()
    node = NodeId(2)
    run.fleet.pause(node)
    run.fleet.resume(node)
    run.fleet.kill(node)
    until(lambda: len(run.engine.calls) == 3, "the commands")
    assert run.engine.calls == [f"{word} {run.name(2)}" for word in ("pause", "unpause", "kill")]
    assert run.fleet.newly_ended() == {}


def test_links_are_looked_at_before_the_start_and_before_nodes_are_told_of_the_end(
    make: Callable[..., Run], links: Links
) -> None:
    run = make()
    run.launch()
    links.done.clear()
    run.engine.end(run.name(2), 1)
    until(run.fleet.newly_ended, "the end")
    links.unreadable = [NodeId(1), NodeId(2)]
    run.fleet.begin(0, begin_ns=5, end_ns=6)
    looking = run.fleet.look_at_links()
    assert looking is not None
    looking.result(60)
    assert [what for what in links.done if what[0] == "looked"] == [("looked", False), ("looked", True)]
    run.fleet.close()
    found = run.fleet.kernel_links()
    assert found is not None
    assert (found.nodes_shaped, found.adds_latency, found.compared) == (3, True, 11)
    assert found.differences == ("node 0, eth1 root: present=False: must be True",)
    assert found.unread == {0: "node 0: nobody could look", 1: "no such process"}  # node 2 had ended


def test_direct_links_are_not_looked_at(make: Callable[..., Run], links: Links) -> None:
    run = make(shaped=False, links="direct", preset={"kind": "uniform", "bandwidth_mbps": None, "latency_ms": 0})
    run.launch()
    run.fleet.begin(0, begin_ns=5, end_ns=6)
    assert run.fleet.look_at_links() is None
    assert links.done == []


def test_last_words_are_the_end_of_the_log(make: Callable[..., Run]) -> None:
    run = make()
    run.launch()
    run.engine.write(run.name(0), b"one\ntwo\n")
    until(lambda: run.fleet.last_words(NodeId(0)) == "one | two", "the log")


def test_a_problem_at_the_end_is_told(make: Callable[..., Run]) -> None:
    run = make()
    run.launch()
    name = SCOPE.name_of("data")
    run.engine.refused[name] = "busy"
    run.fleet.close()
    assert run.told.notes == [f"network {name} cannot be removed: busy"]
    run.engine.refused.clear()
