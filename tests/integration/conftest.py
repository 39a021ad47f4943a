"""Fixtures of the integration tests, and the second attempt of real-time tests that a late host failed."""

from collections.abc import Iterator

import pytest

from tests.integration.engine import base_image, engine, node_image, shaper_image
from tests.integration.host import Host
from tests.integration.shaping_host import ShapingHost
from tests.integration.simulated import recordings
from tests.integration.started import Room

__all__ = ["base_image", "engine", "node_image", "recordings", "shaper_image"]  # fixtures


@pytest.fixture
def host() -> Iterator[Host]:
    """The host, with the dilation of this attempt; see :mod:`tests.integration.host`."""
    return Host()


@pytest.fixture
def shaping_host() -> Iterator[ShapingHost]:
    """The host of a test of shaping, with the dilation of this attempt."""
    with ShapingHost() as host:
        yield host


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Try a test that uses ``host`` or ``room`` again with more room where the host was late."""
    attempts = [value for value in pyfuncitem.funcargs.values() if isinstance(value, Host | Room)]
    if not attempts:
        return None
    (attempt,) = attempts
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    for dilation in attempt.dilations:
        attempt.begin(dilation)
        try:
            pyfuncitem.obj(**arguments)
        except AssertionError as failure:
            if dilation == attempt.dilations[-1] or not attempt.was_late():
                raise
            pyfuncitem.add_report_section("call", "host", f"late at time dilation {dilation:g}: {failure}")
        else:
            break
    return True
