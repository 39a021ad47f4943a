"""Addresses as gRPC takes them."""

import pytest

from node.host.addresses import host_and_port


@pytest.mark.parametrize(
    ("host", "text"), [("127.0.0.1", "127.0.0.1:9"), ("node-1.data", "node-1.data:9"), ("::1", "[::1]:9")]
)
def test_host_and_port(host: str, text: str) -> None:
    assert host_and_port(host, 9) == text
