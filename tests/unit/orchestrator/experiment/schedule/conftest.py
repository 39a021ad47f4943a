"""Runtimes that can do everything."""

from typing import cast

import pytest

from orchestrator.experiment.schedule.abilities import ABILITIES
from tests.unit.orchestrator.experiment.test_config import ENTRIES


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every runtime execute every action."""
    table = cast("dict[str, tuple[str, ...]]", ABILITIES)
    for runtime in list(table):
        monkeypatch.setitem(table, runtime, tuple(ENTRIES))
