"""The Docker engine of this machine and images for tests; ``tests/engine.sh`` gives a machine both."""

import os
from collections.abc import Iterator

import pytest

from node.core.errors import ConfigError
from orchestrator.containers.engine import DockerEngine, connect
from orchestrator.containers.image_builds import BuildOptions, have_image
from orchestrator.containers.image_recipes import node_recipe, python_image, shaper_recipe
from tests.requirements import unavailable

BASES = (python_image(), "fragmesh-base")
"""Base images that are used where ``FRAGMESH_BASE_IMAGE`` names none."""


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerEngine]:
    """This machine's engine."""
    try:
        connected = connect()
    except ConfigError as error:
        unavailable("docker", str(error))
    yield connected
    connected.close()


@pytest.fixture(scope="session")
def base_image(engine: DockerEngine) -> str:
    """An image that is there and has Python."""
    named = os.environ.get("FRAGMESH_BASE_IMAGE")
    there = [name for name in ((named,) if named else BASES) if engine.find_image(name) is not None]
    if not there:
        unavailable("docker", f"the engine has no image {named or ' or '.join(BASES)}; tests/engine.sh base makes one")
    return there[0]


@pytest.fixture(scope="session")
def node_image(engine: DockerEngine, base_image: str) -> str:
    """The image of nodes, built if it is missing."""
    options = BuildOptions.from_environment(os.environ | {"FRAGMESH_BASE_IMAGE": base_image})
    return have_image(engine, node_recipe(), options, print).name


@pytest.fixture(scope="session")
def shaper_image(engine: DockerEngine, base_image: str) -> str:
    """The image of the helper that shapes links, built if it is missing."""
    options = BuildOptions.from_environment(os.environ | {"FRAGMESH_BASE_IMAGE": base_image})
    return have_image(engine, shaper_recipe(), options, print).name
