"""Engines that are refused, each with its reason and in one line."""

from ipaddress import IPv4Network
from typing import Any

import pytest

from node.core.errors import ConfigError
from orchestrator.containers.facts import check_memory, check_scheme, check_usable
from orchestrator.containers.routes import HostRoute
from tests.unit.orchestrator.containers.described import KERNEL, facts

ROUTES = [HostRoute("eth0", IPv4Network("192.0.2.0/24")), HostRoute("docker0", IPv4Network("172.17.0.0/16"))]


def test_an_engine_of_this_machine_is_usable() -> None:
    check_usable(facts(), KERNEL, ROUTES)
    check_usable(facts(version="28.2.2", product="Engine"), KERNEL, ROUTES)
    check_usable(facts(bridge=None), KERNEL, [])  # one that was started without its default network


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "20.9.99"}, "Docker engine 20.9.99: must be at least 20.10"),
        ({"version": "19.03.15"}, "must be at least 20.10"),
        ({"version": ""}, "must be at least 20.10"),
        ({"product": "Podman Engine", "version": "4.3.1"}, "is Podman 4.3.1"),
        ({"os_type": "windows"}, "must run linux containers"),
        ({"operating_system": "Docker Desktop"}, "is Docker Desktop"),
        ({"security": ("name=seccomp,profile=default", "name=rootless")}, "is a rootless engine"),
        ({"kernel": "5.15.0"}, "is on another machine (kernel 5.15.0, here 6.1.0)"),
        ({"bridge": ("docker0", IPv4Network("172.18.0.0/16"))}, "172.18.0.0/16 (docker0) is not one of this machine"),
        ({"bridge": ("br0", IPv4Network("172.17.0.0/16"))}, "172.17.0.0/16 (br0) is not one of this machine"),
    ],
)
def test_an_engine_in_which_nodes_cannot_run_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_usable(facts(**changes), KERNEL, ROUTES)
    message = str(raised.value)
    assert message.startswith("Docker engine at unix:///var/run/docker.sock: ")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize("url", ["ssh://me@lab", "npipe:////./pipe/docker_engine", "fd://"])
def test_an_address_of_elsewhere_is_refused_before_it_is_called(url: str) -> None:
    with pytest.raises(ConfigError, match="leads to another machine or system"):
        check_scheme(f"DOCKER_HOST={url}", url)


def test_what_is_no_address_is_told() -> None:
    with pytest.raises(
        ConfigError, match=r"^DOCKER_HOST=lab: must be an address such as unix:///var/run/docker\.sock$"
    ):
        check_scheme("DOCKER_HOST=lab", "lab")


@pytest.mark.parametrize("url", ["unix:///var/run/docker.sock", "tcp://127.0.0.1:2375"])
def test_an_address_of_here_is_not(url: str) -> None:
    check_scheme(f"DOCKER_HOST={url}", url)


def test_as_many_containers_as_memory_holds() -> None:
    check_memory(facts(memory_bytes=1600), 4, 400)
    with pytest.raises(ConfigError, match=r"^nodes=5: must be at most 4: the engine has 1.6 kB, about 400 B each$"):
        check_memory(facts(memory_bytes=1600), 5, 400)
