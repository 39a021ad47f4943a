"""Prometheus and promtool: found, too old, or something else of the name."""

from pathlib import Path

import pytest

from node.core.errors import ConfigError
from orchestrator.observe.installed import installed_program


def program(folder: Path, says: str, *, name: str = "promtool", code: int = 0) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("promtool, version 2.42.0+ds (branch: debian/sid, revision: 2.42.0+ds-5+b5)", "2.42.0+ds"),
        ("promtool, version 2.39.0 (branch: HEAD)", "2.39.0"),
        ("promtool, version 3.1.0 (branch: HEAD)", "3.1.0"),
    ],
)
def test_a_program_tells_its_version(tmp_path: Path, says: str, version: str) -> None:
    path = program(tmp_path, says)
    found = installed_program("promtool", path)
    assert (found.path, found.version) == (path, version)


def test_it_is_looked_for_as_a_shell_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path, "prometheus, version 2.45.3", name="prometheus")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert installed_program("prometheus").path == path


@pytest.mark.parametrize(
    ("says", "complains"),
    [
        ("promtool, version 2.38.9 (branch: HEAD)", "version 2.38.9 is too old"),
        ("promtool, version 1.8.2", "version 1.8.2 is too old"),
        ("tools of another kind 9.0", "does not say that it is promtool"),
        ("prometheus, version 2.42.0", "does not say that it is promtool"),
    ],
)
def test_what_cannot_be_used_is_one_line_with_what_to_do(tmp_path: Path, says: str, complains: str) -> None:
    with pytest.raises(ConfigError) as refused:
        installed_program("promtool", program(tmp_path, says))
    assert complains in str(refused.value)
    assert "install Prometheus 2.39 or newer" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_program_that_is_missing_or_does_not_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"promtool: not found: install Prometheus 2.39 or newer"):
        installed_program("promtool", str(tmp_path / "promtool"))
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF and nothing else")
    broken.chmod(0o755)
    with pytest.raises(ConfigError, match=r"does not run: .*: install Prometheus"):
        installed_program("promtool", str(broken))
