"""Networks of a run, also where others take the same addresses at the same moment."""

from ipaddress import IPv4Network

import pytest

from node.core.errors import ConfigError
from orchestrator.containers import networks
from orchestrator.containers.interface import NetworkFacts, SubnetTaken
from orchestrator.containers.networks import make_networks, plan_networks
from orchestrator.containers.ownership import Owner, RunScope
from orchestrator.containers.routes import HostRoute
from tests.unit.orchestrator.containers.fake_engine import FakeEngine

SCOPE = RunScope("run", Owner.of_this_process())


@pytest.fixture(autouse=True)
def _no_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "host_routes", list)


def test_two_networks_with_this_machine_in_each() -> None:
    engine = FakeEngine()
    made = make_networks(engine, SCOPE, 8)
    assert list(made) == ["control", "data"]
    data = made["data"]
    assert data.name == SCOPE.name_of("data")
    assert (str(data.subnet), str(data.gateway)) == ("198.18.1.0/24", "198.18.1.1")
    assert str(data.address_of(3)) == "198.18.1.19"
    assert data.interface.startswith("br-")
    assert len(data.interface) <= 15  # of the kernel
    roles = {resource.name: resource.labels["fragmesh.role"] for resource in engine.labelled(SCOPE.labels())}
    assert roles == {SCOPE.name_of(role): role for role in ("control", "data")}


def test_neither_another_network_s_nor_a_route_s_addresses_are_taken() -> None:
    engine = FakeEngine(others=[NetworkFacts("x", "lab", (IPv4Network("198.18.0.0/24"),))])
    routes = [HostRoute("tun0", IPv4Network("198.18.2.0/23"))]
    assert [str(net) for net in plan_networks(engine, 8, routes=lambda: routes)] == ["198.18.1.0/24", "198.18.4.0/24"]


def test_a_subnet_of_the_user_that_is_somebody_s_is_refused_before_anything_is_made() -> None:
    engine = FakeEngine(others=[NetworkFacts("x", "lab", (IPv4Network("10.9.1.0/24"),))])
    reason = r"^docker\.subnet=10\.9\.0\.0/22: must be free: 10\.9\.1\.0/24 is the Docker network lab$"
    with pytest.raises(ConfigError, match=reason):
        make_networks(engine, SCOPE, 8, wanted=IPv4Network("10.9.0.0/22"), place="docker.subnet")
    assert engine.resources == {}


def test_a_faster_run_makes_this_one_choose_again() -> None:
    engine = FakeEngine(rivals=[IPv4Network("198.18.1.0/24"), IPv4Network("198.18.2.0/24")])
    made = make_networks(engine, SCOPE, 8)
    assert [str(net.subnet) for net in made.values()] == ["198.18.0.0/24", "198.18.3.0/24"]
    assert len(engine.labelled(SCOPE.labels())) == 2  # nothing is left of the first attempts


def test_an_engine_that_always_refuses_ends_the_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    asked = []

    def refuse(name: str, subnet: IPv4Network, labels: object) -> str:
        asked.append(subnet)
        raise SubnetTaken("overlaps", 403)

    monkeypatch.setattr(engine, "create_network", refuse)
    with pytest.raises(SubnetTaken):
        make_networks(engine, SCOPE, 8)
    assert len(asked) == 20
