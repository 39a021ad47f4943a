"""Limits on the shape of the code: the size of a class, the width of a constructor, and one class to a name."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LINES_MAX, METHODS_MAX, PARAMETERS_MAX = 300, 20, 8

LARGE = {
    "node/sim/fluid_network.py FluidNetwork": "one algorithm: all methods keep the same rates and lists consistent",
}
"""Classes that may be larger, each with its reason."""


def classes(root: Path = ROOT) -> Iterator[tuple[str, ast.ClassDef]]:
    """Each class of the product with its file, generated files left out."""
    for room in ("node", "orchestrator"):
        for path in sorted((root / room).rglob("*.py")):
            if "pb" in path.parts:
                continue
            for item in ast.walk(ast.parse(path.read_text())):
                if isinstance(item, ast.ClassDef):
                    yield path.relative_to(root).as_posix(), item


def methods(kind: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [item for item in kind.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]


def is_large(kind: ast.ClassDef) -> bool:
    lines = (kind.end_lineno or kind.lineno) - kind.lineno + 1
    return lines > LINES_MAX or len(methods(kind)) > METHODS_MAX


def num_parameters(kind: ast.ClassDef) -> int:
    """Parameters of the constructor that is written out, without self."""
    for method in methods(kind):
        if method.name == "__init__":
            arguments = method.args
            return len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs) - 1
    return 0


def same_names(found: list[tuple[str, ast.ClassDef]]) -> list[str]:
    places = defaultdict(list)
    for path, kind in found:
        places[kind.name.lstrip("_")].append(f"{path}:{kind.lineno}")
    return [f"{name}: {', '.join(lines)}" for name, lines in places.items() if len(lines) > 1]


def test_no_two_classes_share_a_name() -> None:
    doubled = same_names(list(classes()))
    assert not doubled, f"give each class a name that says how it differs from the other one: {doubled}"


def test_no_class_is_too_large() -> None:
    large = {f"{path} {kind.name}" for path, kind in classes() if is_large(kind)}
    assert large <= LARGE.keys(), (
        f"over {LINES_MAX} lines or {METHODS_MAX} methods: move a part that stands alone to a class or a module of its"
        f" own, or name the class in LARGE with a reason: {sorted(large - LARGE.keys())}"
    )
    assert LARGE.keys() <= large, f"no longer large: take it out of LARGE: {sorted(LARGE.keys() - large)}"


def test_no_constructor_is_too_wide() -> None:
    wide = [f"{path} {kind.name}" for path, kind in classes() if num_parameters(kind) > PARAMETERS_MAX]
    assert not wide, f"over {PARAMETERS_MAX} parameters: pass those that belong together as one object: {wide}"


@pytest.mark.parametrize(
    ("body", "large"),
    [
        ("    def f(self): ...\n" * METHODS_MAX, False),
        ("    def f(self): ...\n" * (METHODS_MAX + 1), True),
        ("    x = 1\n" * (LINES_MAX - 1), False),
        ("    x = 1\n" * LINES_MAX, True),
    ],
)
def test_the_limits_of_size_are_inclusive(tmp_path: Path, body: str, large: bool) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "a.py").write_text(f"class A:\n{body}")
    ((_, kind),) = classes(tmp_path)
    assert is_large(kind) is large


def test_a_leading_underscore_makes_no_other_name(tmp_path: Path) -> None:
    for room, name in (("node", "Same"), ("orchestrator", "_Same")):
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text(f"class {name}:\n    def __init__(self, a, *, b): ...\n")
    found = list(classes(tmp_path))
    assert same_names(found) == ["Same: node/a.py:1, orchestrator/a.py:1"]
    assert [num_parameters(kind) for _, kind in found] == [2, 2]
