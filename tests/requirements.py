"""What some tests need of the machine, and what happens where it is not there."""

import os
from typing import NoReturn

import pytest


def unavailable(what: str, reason: str) -> NoReturn:
    """Skip the test with the reason; fail it where ``FRAGMESH_REQUIRE`` names what is missing.

    Args:
        what: One word, as in ``FRAGMESH_REQUIRE=docker,netem``.
        reason: Why it cannot be used here.
    """
    if what in os.environ.get("FRAGMESH_REQUIRE", "").split(","):
        pytest.fail(f"FRAGMESH_REQUIRE={os.environ['FRAGMESH_REQUIRE']}: {reason}")
    pytest.skip(f"needs {what}: {reason}")
