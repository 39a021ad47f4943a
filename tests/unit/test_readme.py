"""The README is short, and its tables are those of the code. What holds for every page is in ``test_docs``."""

import re
from pathlib import Path
from typing import get_args

from generated_pages import readme

from node.algorithms.registry import ALGORITHMS
from orchestrator import results
from orchestrator.cli.exit_codes import EXIT_CODES
from orchestrator.experiment.config import ExperimentConfig
from orchestrator.experiment.runtimes import PLANNED
from orchestrator.results.schema import (
    COLUMN_MEANINGS,
    CURVE_COLUMNS,
    FAULT_COLUMNS,
    MESSAGE_COLUMNS,
    NODE_COLUMNS,
    RUN_FILES,
)

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text below a heading of the README, up to the next one."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def table(title: str) -> list[list[str]]:
    """The cells of a section's table, without its header."""
    rows = [line.strip("|").split("|") for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 180


def test_its_sentences_are_short() -> None:
    """On average well under twenty words; code, tables and links' targets do not count."""
    prose = re.sub(r"```.*?```|^\|.*?$|^#.*?$|\]\([^)]*\)", "", README, flags=re.MULTILINE | re.DOTALL)
    sentences = [part.split() for part in re.split(r"(?<=[.:;?])\s+|\n\n|\n- ", prose) if part.strip()]
    counts = [len(words) for words in sentences]
    assert sum(counts) / len(counts) < 16


def test_the_table_of_algorithms_is_the_registry() -> None:
    rows = table("Algorithms")
    assert [row[0] for row in rows] == list(ALGORITHMS)
    for kind, _, paper, link in rows:
        assert link == f"[{kind}.py](node/algorithms/{kind}.py)"
        assert ALGORITHMS[kind].config.__module__ == f"node.algorithms.{kind}"
        page = " ".join((ROOT / "node" / "algorithms" / f"{kind}.py").read_text(encoding="utf-8").split())
        cited = paper.rsplit(", ", 1)
        assert paper == "none" or (cited[0].split(" et al.")[0] in page and cited[1] in page), kind


def test_the_tables_of_algorithms_and_of_runtimes_are_written_from_their_declarations() -> None:
    """``python docs/generated_pages.py`` writes it anew."""
    assert readme(README) == README


def test_the_exit_codes_are_those_of_the_command_line() -> None:
    assert table("Exit codes") == [[str(code), meaning] for code, meaning in EXIT_CODES.items()]


def test_the_runtimes_are_those_of_the_experiment_file() -> None:
    shown = [row[0] for row in table("What runs where")]
    assert shown == list(get_args(ExperimentConfig.model_fields["runtime"].annotation))
    assert all(f"`{name}`" in section("What runs where") for name in PLANNED)


def test_the_files_of_a_run_are_those_that_its_package_draws() -> None:
    drawn = set(re.findall(r"\b[\w-]+\.(?:json|yaml|csv|parquet|html|txt|bin)\b", results.__doc__ or ""))
    assert drawn == {name for name in RUN_FILES if not name.endswith("/")}


def test_every_column_has_a_meaning() -> None:
    columns = {
        "curve.csv": CURVE_COLUMNS,
        "nodes.parquet": NODE_COLUMNS,
        "messages.parquet": MESSAGE_COLUMNS,
        "faults.csv": FAULT_COLUMNS,
    }
    assert {file: list(names) for file, names in COLUMN_MEANINGS.items()} == {
        file: list(names)
        for file, names in sorted(columns.items(), key=lambda item: list(COLUMN_MEANINGS).index(item[0]))
    }
