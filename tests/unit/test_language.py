"""How docstrings begin: with a verb or a noun, so that a first line is a whole thought."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path
    for room in ("node", "orchestrator")
    for path in (ROOT / room).rglob("*.py")
    if "pb" not in path.relative_to(ROOT).parts
)
HALF_SENTENCES = frozenset(
    {"What", "Who", "Whose", "Which", "Of", "Those", "As", "That", "How", "Whether", "Where", "When", "Why", "If"}
)
"""First words of half a sentence, whose other half the reader has to find."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of the docstrings of modules, classes, functions, and of the values below which one stands."""
    for found in ast.walk(tree):
        if not isinstance(found, Documented):
            continue
        if text := ast.get_docstring(found):
            yield found.body[0].lineno, text
        for before, after in zip(found.body, found.body[1:], strict=False):
            if isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
                value = after.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield after.lineno, value.value


def half_sentences(source: str) -> list[str]:
    """The docstrings that begin with half a sentence: line and first line."""
    return [
        f"{line}: {text.strip().splitlines()[0]}"
        for line, text in docstrings(ast.parse(source))
        if text.split() and text.split()[0].strip(",.:;") in HALF_SENTENCES
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_docstring_begins_with_a_verb_or_a_noun(path: Path) -> None:
    found = half_sentences(path.read_text(encoding="utf-8"))
    assert not found, f"{path.relative_to(ROOT)}: say what it is or does, with a verb or a noun first: {found}"


def test_half_sentences_are_found_wherever_they_stand() -> None:
    source = '''"""What a module is."""
LIMIT = 3
"""As in the file."""
class Node:
    """A node."""
    size: int = 0
    """Of the model."""
    def run(self):
        """Those that run."""
    async def end(self):
        """Whether it ended."""
'''
    assert [line.split(":")[0] for line in half_sentences(source)] == ["1", "3", "7", "9", "11"]
