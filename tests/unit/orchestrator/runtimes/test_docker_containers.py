"""What containers of nodes may see."""

from pathlib import Path

import pytest

from node.core.errors import ConfigError
from orchestrator.runtimes import docker_containers
from orchestrator.runtimes.docker_containers import check_folders


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAGMESH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    return folder


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o754, 0o751])
def test_data_that_nodes_cannot_look_into_are_refused_where_they_are_another_user(
    mode: int, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_containers.os, "getuid", lambda: 0)
    check_folders(str(data))
    data.chmod(mode)
    with pytest.raises(ConfigError) as refused:
        check_folders(str(data))
    assert str(refused.value).startswith(f"{data}: must be readable by others")
    assert str(refused.value).endswith(f"chmod -R o+rX {data}")
    check_folders(None)
    monkeypatch.setattr(docker_containers.os, "getuid", lambda: 1000)
    check_folders(str(data))


def test_the_cache_is_looked_into_as_well(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_containers.os, "getuid", lambda: 0)
    cache = tmp_path / "cache"
    check_folders(None)  # there is none yet
    cache.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=f"^{cache}: must be readable by others"):
        check_folders(None)
