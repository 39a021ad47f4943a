"""The kernel's table of routes."""

from ipaddress import IPv4Network

from orchestrator.containers.routes import HostRoute, parse_routes

TABLE = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
eth0\t0100000A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
"""


def test_networks_are_read_and_the_default_route_is_not_one() -> None:
    assert parse_routes(TABLE) == [
        HostRoute("docker0", IPv4Network("172.17.0.0/16")),
        HostRoute("tun0", IPv4Network("10.0.0.0/8")),
        HostRoute("eth0", IPv4Network("10.0.0.1/32")),
    ]


def test_a_table_without_routes_is_empty() -> None:
    assert parse_routes("") == []
    assert parse_routes(TABLE.splitlines()[0] + "\n\n") == []
