"""Limits on the shape of the code: sizes of classes and functions, width of constructors, one thing to a name."""

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LINES_MAX, METHODS_MAX, PARAMETERS_MAX = 300, 20, 8

FUNCTION_LINES_MAX = 60
"""Lines of a function beside its docstring; the rest moves to a function with a name of its own."""

LINES_WITHOUT_STEPS_MAX = 40
"""The same of a function without numbered steps."""

Function = ast.FunctionDef | ast.AsyncFunctionDef

ROLES = frozenset({"build.py", "config.py", "registry.py"})
"""Names of files that mean the same in every room: construction, declarations and table of what the room has."""


@cache
def files(root: Path = ROOT) -> dict[str, tuple[str, ast.Module]]:
    """Each file of the product: its text, and the same parsed; generated files are left out."""
    paths = [path for room in ("node", "orchestrator") for path in sorted((root / room).rglob("*.py"))]
    texts = {path.relative_to(root).as_posix(): path.read_text() for path in paths if "pb" not in path.parts}
    return {path: (text, ast.parse(text)) for path, text in texts.items()}


def classes(root: Path = ROOT) -> Iterator[tuple[str, ast.ClassDef]]:
    """Each class of the product with its file."""
    for path, (_, tree) in files(root).items():
        for item in ast.walk(tree):
            if isinstance(item, ast.ClassDef):
                yield path, item


def methods(kind: ast.ClassDef) -> list[Function]:
    return [item for item in kind.body if isinstance(item, Function)]


def is_long(function: Function, lines: list[str]) -> bool:
    """Whether a function has too many lines beside its docstring; one with numbered steps may have more."""
    count = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        count -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    text = "\n".join(lines[function.lineno - 1 : function.end_lineno])
    has_steps = all(re.search(rf"^ +# Step {number}: \S", text, re.MULTILINE) for number in (1, 2))
    return count > (FUNCTION_LINES_MAX if has_steps else LINES_WITHOUT_STEPS_MAX)


def long_functions(text: str, tree: ast.Module) -> list[str]:
    lines = text.splitlines()
    found = [item for item in ast.walk(tree) if isinstance(item, Function)]
    return [f"{item.lineno} {item.name}" for item in found if is_long(item, lines)]


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


def same_files(paths: Iterable[str]) -> list[str]:
    places = defaultdict(list)
    for path in paths:
        name = Path(path).name
        if name not in ROLES and not name.startswith("__"):
            places[name].append(path)
    return [f"{name}: {', '.join(found)}" for name, found in places.items() if len(found) > 1]


def test_no_two_files_share_a_name() -> None:
    doubled = same_files(files())
    assert not doubled, f"give each file a name that says what is inside and not in the other one: {doubled}"


def test_a_file_s_name_may_stand_twice_only_for_its_role() -> None:
    paths = ["node/config.py", "node/learning/config.py", "node/__init__.py", "node/sim/__init__.py"]
    assert not same_files(paths)
    assert same_files([*paths, "node/a.py", "node/sim/a.py"]) == ["a.py: node/a.py, node/sim/a.py"]


def test_no_class_is_too_large() -> None:
    large = {f"{path} {kind.name}" for path, kind in classes() if is_large(kind)}
    assert not large, (
        f"over {LINES_MAX} lines or {METHODS_MAX} methods: move a part that stands alone to a class or a module of its"
        f" own: {sorted(large)}"
    )


def test_long_functions_have_numbered_steps() -> None:
    long = [f"{path}:{function}" for path, parsed in files().items() for function in long_functions(*parsed)]
    assert not long, (
        f"over {LINES_WITHOUT_STEPS_MAX} lines beside the docstring: number the steps, '# Step 1: ...', and say why"
        f" they come in this order; over {FUNCTION_LINES_MAX}: split it: {long}"
    )


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


STEPS = "    # Step 1: first.\n    # Step 2: then.\n"


@pytest.mark.parametrize(
    ("source", "long"),
    [
        ("def f():\n" + "    x = 1\n" * (LINES_WITHOUT_STEPS_MAX - 1), False),
        ("def f():\n" + "    x = 1\n" * LINES_WITHOUT_STEPS_MAX, True),
        ('def f():\n    """Do it.\n\n    Often.\n    """\n' + "    x = 1\n" * (LINES_WITHOUT_STEPS_MAX - 1), False),
        ("async def f():\n    # Step 1: only one.\n" + "    x = 1\n" * LINES_WITHOUT_STEPS_MAX, True),
        (f"def f():\n{STEPS}" + "    x = 1\n" * (FUNCTION_LINES_MAX - 3), False),
        (f"def f():\n{STEPS}" + "    x = 1\n" * (FUNCTION_LINES_MAX - 2), True),
    ],
)
def test_steps_make_room_for_lines(source: str, long: bool) -> None:
    assert long_functions(source, ast.parse(source)) == (["1 f"] if long else [])


def test_a_leading_underscore_makes_no_other_name(tmp_path: Path) -> None:
    for room, name in (("node", "Same"), ("orchestrator", "_Same")):
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text(f"class {name}:\n    def __init__(self, a, *, b): ...\n")
    found = list(classes(tmp_path))
    assert same_names(found) == ["Same: node/a.py:1, orchestrator/a.py:1"]
    assert [num_parameters(kind) for _, kind in found] == [2, 2]


def test_nothing_that_git_is_told_to_ignore_is_in_its_history() -> None:
    """A virtual environment under version control, as a link say, takes the place of the one that `make` would make."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--ignored", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(f"not a checkout: {listed.stderr.strip()}")
    assert listed.stdout.split() == []
