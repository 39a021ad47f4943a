"""Output of commands: two consoles, tables of names and texts, and JSON for machines."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

# emoji: the line number in "edges.txt:100: ..." would become one.
out = Console(soft_wrap=True, emoji=False, highlight=False)
err = Console(stderr=True, soft_wrap=True, emoji=False, highlight=False)

NAME_WIDTH = 24
"""Letters that a run's name has in a comparison before it is folded."""


def print_json(value: object) -> None:
    """One line of JSON; the figures of a model that has diverged, which JSON cannot say, become null."""
    from orchestrator.results.files import to_json_values

    print(json.dumps(to_json_values(value), allow_nan=False))


def print_rows(title: str, rows: dict[str, str]) -> None:
    """A table of names and texts."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, text in rows.items():
        table.add_row(name, escape(text))
    out.print(table)


def print_groups(
    title: str, header: list[str], rows: list[list[str]], leave_out: Sequence[str], figure: Path | None
) -> None:
    """A row a group. Where there is no room for names, columns go that begin as ``leave_out`` says, in its order.

    ``figure`` is the file in which the comparison is drawn as well, None if there is none.
    """
    shown = list(range(len(header)))
    name_width = min(NAME_WIDTH, max(len(row[0]) for row in rows))

    def figure_width(i: int) -> int:
        return max(len(word) for word in [*header[i].split(), *(row[i] for row in rows)])

    def room_for_names() -> int:
        return out.width - sum(figure_width(i) for i in shown[1:]) - 3 * len(shown) - 1

    for beginning in leave_out:
        if room_for_names() < name_width:
            shown = [i for i in shown if not header[i].startswith(beginning)]
    left_out = [name for i, name in enumerate(header) if i not in shown]
    name_width = max(1, min(name_width, room_for_names()))
    table = Table(title=title, title_justify="left")
    for i in shown:
        if i == 0:
            table.add_column(header[i], overflow="fold", min_width=name_width)
        else:
            table.add_column(header[i], overflow="fold", justify="right", max_width=figure_width(i))
    for row in rows:
        # Figures do not break at their units.
        table.add_row(escape(row[0]), *(escape(row[i].replace(" ", "\u00a0")) for i in shown[1:]))
    out.print(table)
    if left_out:
        places = ["a wider terminal"] * out.is_terminal
        places.append(str(figure) if figure is not None and figure.suffix.lower() == ".html" else "--out FILE.html")
        where = ", ".join(places)
        out.print(f"not shown for want of room ({escape(where)} or --json has them): {escape(', '.join(left_out))}")
