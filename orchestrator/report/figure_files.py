"""Figures as files of their own, for papers and slides: the same drawings as in the page.

Text stays text, in matplotlib's own font where it is installed and else in another one without serifs: it can be
searched, edited, and put into the font of a paper. The same run gives the same bytes.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from markupsafe import escape

from node.core.errors import RunnerError
from orchestrator.results.files import first_line_of, write_file

if TYPE_CHECKING:
    from orchestrator.report.drawing import Plot  # brings matplotlib along

_HEAD: Final = re.compile(r'<svg ([^>]*?)viewBox="0 0 ([0-9.]+) ([0-9.]+)"([^>]*)>')


def write_figures(plots: "Iterable[Plot]", folder: Path) -> list[Path]:
    """Write each figure as an SVG file that is named after its title; what had these names is replaced.

    Args:
        plots: The figures; no two share a title.
        folder: Where to; made if it is not there.

    Returns:
        The files, in order.

    Raises:
        RunnerError: One could not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunnerError(f"{folder}: cannot be written: {first_line_of(error)}") from error
    paths = []
    for plot in plots:
        path = folder / f"{_file_name(plot.title)}.svg"
        write_file(path, svg_file(plot).encode(errors="replace"))
        paths.append(path)
    return paths


def svg_file(plot: "Plot") -> str:
    """A figure as the text of an SVG file: with its size, its title and how to read it."""
    head, begin = _HEAD.search(plot.svg), str(plot.svg)
    assert head is not None, "drawn by to_svg"
    before, width, height, after = head.groups()
    opening = f'<svg width="{width}pt" height="{height}pt" {before}viewBox="0 0 {width} {height}"{after}>'
    named = f"{opening}\n<title>{escape(plot.title)}</title>\n<desc>{escape(plot.note)}</desc>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n{named}{begin[head.end() :]}'


def _file_name(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
