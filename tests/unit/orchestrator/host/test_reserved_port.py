"""A port that is taken before anybody listens on it."""

import asyncio
import socket

import pytest

from node.core.errors import RunnerError
from orchestrator.host.reserved_port import ReservedPort
from orchestrator.runs.control_server import ControlServer

HOST = "127.0.0.1"


class Nobody:
    """Listens to what no node says."""

    def on_status(self, status: object) -> None: ...
    def on_snapshot(self, info: object, params: object) -> None: ...
    def on_records(self, node: int, name: str, data: bytes) -> None: ...
    def on_session_end(self, node: int) -> None: ...


def test_who_comes_too_early_is_refused_and_may_come_again() -> None:
    with ReservedPort(HOST) as reserved:
        assert reserved.address == f"{HOST}:{reserved.port}"
        with socket.socket() as early, pytest.raises(ConnectionRefusedError):
            early.connect((HOST, reserved.port))


def test_a_port_is_nobody_elses() -> None:
    with ReservedPort(HOST) as reserved, socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((HOST, reserved.port))


def test_two_runs_have_two_ports() -> None:
    reserved = [ReservedPort(HOST) for _ in range(200)]
    assert len({one.port for one in reserved}) == 200
    for one in reserved:
        one.release()
        one.release()


def test_an_address_that_is_not_here_is_one_clear_line() -> None:
    with pytest.raises(RunnerError, match=r"^192\.0\.2\.1: no port for the orchestrator: "):
        ReservedPort("192.0.2.1")


def test_the_control_server_serves_on_it() -> None:
    async def serve() -> None:
        with ReservedPort(HOST) as reserved:
            server = ControlServer("run", 1, listener=Nobody(), status_period_s=1.0)
            assert await server.start(HOST, reserved.port, reserved=True) == reserved.address
        for _ in range(20):  # the reserved socket takes none of them
            _, writer = await asyncio.open_connection(HOST, reserved.port)
            writer.close()
        await server.stop(0)

    asyncio.run(serve())
