"""Subnets are free, large enough, and the same ones for the same machine."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from node.core.errors import ConfigError
from orchestrator.containers.subnets import (
    NODES_MAX,
    POOLS,
    TakenSubnet,
    address_of,
    choose_subnets,
    divide_subnet,
    gateway_of,
)


def taken(*networks: str) -> list[TakenSubnet]:
    return [TakenSubnet(IPv4Network(network), "a route of eth0") for network in networks]


def test_the_first_free_ones_are_chosen() -> None:
    assert [str(net) for net in choose_subnets(2, 8, [])] == ["198.18.0.0/24", "198.18.1.0/24"]
    assert [str(net) for net in choose_subnets(2, 8, taken("198.18.0.0/23"))] == ["198.18.2.0/24", "198.18.3.0/24"]
    assert [str(net) for net in choose_subnets(2, 8, taken("198.18.1.128/25"))] == ["198.18.0.0/24", "198.18.2.0/24"]


def test_another_pool_is_taken_where_one_is_somebody_s() -> None:
    assert [str(net) for net in choose_subnets(2, 8, taken("198.18.0.0/15"))] == ["10.213.0.0/24", "10.213.1.0/24"]
    assert str(choose_subnets(1, 8, taken("198.18.0.0/15", "10.0.0.0/8"))[0]) == "192.168.208.0/24"
    with pytest.raises(ConfigError, match=r"^nodes=8: no 2 free subnets of size /24 in 198\.18\.0\.0/15, "):
        choose_subnets(2, 8, taken(*map(str, POOLS)))


@pytest.mark.parametrize(("nodes", "prefix"), [(1, 24), (239, 24), (240, 23), (NODES_MAX, 22)])
def test_all_nodes_have_an_address(nodes: int, prefix: int) -> None:
    (subnet,) = choose_subnets(1, nodes, [])
    assert subnet.prefixlen == prefix
    addresses = [gateway_of(subnet), *(address_of(subnet, node) for node in range(nodes))]
    assert len(set(addresses)) == nodes + 1
    assert set(addresses) <= set(subnet.hosts())


def test_a_bridge_has_an_end() -> None:
    with pytest.raises(ConfigError, match=r"^nodes=1001: must be at most 1,000"):
        choose_subnets(1, NODES_MAX + 1, [])


def test_a_subnet_of_the_user_is_divided() -> None:
    wanted = IPv4Network("10.9.0.0/22")
    first, second = divide_subnet(wanted, 2, 300, [], "docker.subnet")
    assert (str(first), str(second)) == ("10.9.0.0/23", "10.9.2.0/23")
    small = divide_subnet(IPv4Network("10.9.0.0/26"), 2, 8, [], "docker.subnet")
    assert [address_of(net, 7) for net in small] == [IPv4Address("10.9.0.23"), IPv4Address("10.9.0.55")]


def test_a_subnet_of_the_user_is_refused_with_the_reason() -> None:
    wanted = IPv4Network("10.9.0.0/27")
    with pytest.raises(ConfigError, match=r"^docker\.subnet=10\.9\.0\.0/27: must be /26 or larger for 2 networks of 8"):
        divide_subnet(wanted, 2, 8, [], "docker.subnet")
    reason = r"^docker\.subnet=10\.9\.0\.0/24: must be free: 10\.0\.0\.0/8 is a route of eth0$"
    with pytest.raises(ConfigError, match=reason):
        divide_subnet(IPv4Network("10.9.0.0/24"), 2, 8, taken("10.0.0.0/8"), "docker.subnet")
