"""Containers in a real Docker engine; ``tests/engine.sh start`` gives a machine one."""

from collections.abc import Iterator

import pytest

from node.core.errors import ConfigError
from orchestrator.containers.engine import DockerEngine, connect
from tests.requirements import unavailable


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    """This machine's engine."""
    try:
        connected = connect()
    except ConfigError as error:
        unavailable("docker", str(error))
    yield connected
    connected.close()


def test_the_engine_is_of_this_machine(engine: DockerEngine) -> None:
    facts = engine.facts
    assert facts.cpus > 0
    assert facts.memory_bytes > 0
    assert facts.bridge is None or facts.bridge[1] in [found for net in engine.networks() for found in net.subnets]
