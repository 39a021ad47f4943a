"""Tables as files: LaTeX for papers, with the rules of booktabs, and CSV for spreadsheets. Figures are as printed."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.core.errors import ConfigError
from orchestrator.report.text import printable
from orchestrator.results.files import write_file

ENDINGS: Final = (".tex", ".csv")
"""Endings of the names of tables."""

_LATEX: Final[Mapping[str, str]] = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "…": r"\ldots{}",
    "\ufffd": "?",
}
"""Letters that mean something else in LaTeX, or that its fonts lack."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table as it is printed.

    Attributes:
        title: One line on what it shows.
        header: Names of the columns.
        rows: Cells, the first of each row a name; as many as the header has.
        remarks: Columns at the end that hold words and no figures.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    remarks: int = 0


def check_table_path(option: str, path: Path) -> None:
    """Refuse a place where no table can be written.

    Raises:
        ConfigError: It ends otherwise, is a folder, or lies in none.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{option}={path}: must end in {' or '.join(ENDINGS)}")
    if path.is_dir():
        raise ConfigError(f"{option}={path}: is a directory")
    if not path.parent.is_dir():
        raise ConfigError(f"{option}={path}: there is no folder {path.parent}")


def write_tables(path: Path, tables: Sequence[TextTable]) -> None:
    """Write tables into a file whose ending is one of :data:`ENDINGS`; a CSV file holds the first of them.

    Raises:
        RunnerError: It could not be written.
    """
    is_csv = path.suffix.lower() == ".csv"
    text = csv_text(tables[0]) if is_csv else "\n".join(map(latex_text, tables))
    write_file(path, text.encode(errors="replace"))


def csv_text(table: TextTable) -> str:
    """A table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.header, *table.rows])
    return text.getvalue()


def latex_text(table: TextTable) -> str:
    """A table as a ``tabular`` of LaTeX: names and words to the left, figures to the right."""
    lines = [_latex_row(row) for row in (table.header, *table.rows)]
    columns = "l" + "r" * (len(table.header) - 1 - table.remarks) + "l" * table.remarks
    return "\n".join(
        [
            f"% {printable(table.title)}",
            r"% The preamble needs \usepackage{booktabs} and, for names in other scripts, fonts that have them.",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_escaped, cells)) + r" \\"


def latex_escaped(text: str) -> str:
    """Text that LaTeX sets as it is; what cannot be printed becomes a question mark."""
    return "".join(_LATEX.get(letter, letter) for letter in printable(text))
