"""An algorithm is named in the registry, and nowhere else."""

import ast
from pathlib import Path

import pytest

from node.algorithms.registry import ALGORITHMS

ROOT = Path(__file__).parents[4]


def imports_of(path: Path) -> set[str]:
    """Full names of the modules that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def test_every_file_of_an_algorithm_is_registered() -> None:
    files = {path.stem for path in (ROOT / "node/algorithms").glob("*.py")} - {"__init__", "config", "registry"}
    assert {entry.config.__module__ for entry in ALGORITHMS.values()} == {f"node.algorithms.{name}" for name in files}


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_an_algorithm_is_imported_by_the_registry_alone(kind: str) -> None:
    """By no other algorithm either: what two of them need moves down into the core."""
    module = ALGORITHMS[kind].config.__module__
    files = [path for room in ("node", "orchestrator") for path in (ROOT / room).rglob("*.py")]
    importing = {str(path.relative_to(ROOT)) for path in files if module in imports_of(path)}
    assert importing == {"node/algorithms/registry.py"}
    assert f'"{module}"' not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_the_settings_of_a_small_run_fit_its_graph(kind: str) -> None:
    """Other tests run every registered algorithm with them; see tests/simulation/build.py."""
    config = ALGORITHMS[kind].config
    config.model_validate(config.small_run).check(config.small_graph(6), (40,))
