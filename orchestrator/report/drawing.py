"""Looks of figures, and the pieces that several of them share. The home of matplotlib and of its settings.

All figures are drawn inside :func:`own_settings`, without pyplot: nothing is taken from a file of settings, from the
environment or from what other code has set, and nothing is left behind. Other modules of this room import what they
need of matplotlib from here.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; the same group has the same colour
in every figure.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from markupsafe import Markup

from orchestrator.analysis import Numbers
from orchestrator.report.matplotlib_import import import_matplotlib
from orchestrator.report.text import printable

import_matplotlib()  # before the imports below, which would bring the user's settings along

import matplotlib as matplotlib  # noqa: E402
from matplotlib.axes import Axes as Axes  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.colors import ListedColormap as ListedColormap  # noqa: E402
from matplotlib.figure import Figure as Figure  # noqa: E402
from matplotlib.legend import Legend as Legend  # noqa: E402
from matplotlib.patches import Patch as Patch  # noqa: E402
from matplotlib.patches import PathPatch as PathPatch  # noqa: E402
from matplotlib.path import Path as Path  # noqa: E402
from matplotlib.ticker import FuncFormatter as FuncFormatter  # noqa: E402
from matplotlib.ticker import MaxNLocator as MaxNLocator  # noqa: E402
from matplotlib.transforms import Affine2DBase, ScaledTranslation, blended_transform_factory  # noqa: E402
from matplotlib.transforms import Transform as Transform  # noqa: E402

BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
PURPLE: Final = "#CC79A7"
GREY: Final = "#7A7F87"
INK: Final = "#20252C"

STYLE: Final[Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
    "svg.hashsalt": "fragmesh",
    "font.size": 10.0,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib
    "text.usetex": False,
    "text.parse_math": False,  # a name with $ is a name
    "axes.titlesize": 10.0,
    "axes.labelsize": 10.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9BA1A9",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E7EB",
    "grid.linewidth": 0.8,
    "xtick.color": "#4A515A",
    "ytick.color": "#4A515A",
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.use": True,
}
_SIZE: Final = (6.2, 3.3)
PERCENT: Final = FuncFormatter(lambda value, _: f"{round(100 * value, 6):g} %")
_THOUSANDS: Final = FuncFormatter(lambda value, _: f"{value:,.10g}")


_OF_THE_PROGRAM: Final = ("backend", "interactive", "toolbar", "timezone", "date.epoch", "tk.", "webagg.", "savefig.d")
"""Beginnings of settings that are about windows and the process, not about how a figure looks."""

LABEL_LETTERS_MAX: Final = 40
"""Letters of a name in a figure; longer ones would leave no room for the figure."""


@contextmanager
def own_settings() -> Iterator[None]:
    """Draw with matplotlib's defaults and :data:`STYLE`; afterwards all settings are as they were.

    Advice is silenced: a letter that the font lacks is text in the page, and the browser has other fonts.
    """
    with matplotlib.rc_context(), warnings.catch_warnings():
        for category in (UserWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", category)
        defaults = matplotlib.rcParamsDefault.items()
        matplotlib.rcParams.update({key: value for key, value in defaults if not key.startswith(_OF_THE_PROGRAM)})
        matplotlib.rcParams.update(STYLE)
        yield


@dataclass(frozen=True, slots=True)
class Plot:
    """One figure of the page.

    Attributes:
        title: What it shows.
        svg: The figure itself.
        note: A sentence on how to read it; may be empty.
    """

    title: str
    svg: Markup
    note: str


def new_figure(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    """An empty figure, width and height in inches. Drawn in memory, whatever backend is set."""
    figure, all_axes = new_figures(1, size)
    return figure, all_axes[0]


def new_figures(columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """An empty figure with axes beside each other, width and height in inches."""
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, columns, column + 1) for column in range(columns)]


def legend_height(legend: Legend) -> float:
    """Measure a legend, in inches."""
    assert isinstance(legend.figure, Figure), "made by new_figures"
    return float(legend.get_window_extent().height / legend.figure.dpi)


def heighten(axes: Axes, inches: float) -> None:
    """Make the figure higher, so that what stands above its axes leaves them their size."""
    assert isinstance(axes.figure, Figure), "made by new_figures"
    width, height = axes.figure.get_size_inches()
    axes.figure.set_size_inches(width, height + inches)


def label_text(name: str) -> str:
    """A name as the label of a line or a tick: printable, short, and shown whatever it begins with."""
    text = printable(name, LABEL_LETTERS_MAX)
    return f" {text}" if text.startswith("_") else text  # matplotlib leaves labels out that begin with one


def above_axes(axes: Axes, across: Transform | None = None) -> Transform:
    """Return the coordinates above axes: inches upwards from their top; across as the x axis, or as is given."""
    from_top = axes.figure.dpi_scale_trans + ScaledTranslation(0.0, 1.0, cast(Affine2DBase, axes.transAxes))
    return blended_transform_factory(axes.transData if across is None else across, from_top)


def finish_axes(axes: Axes, x_label: str, y_label: str, *, from_zero: bool = True, rise_in: float = 0.0) -> None:
    """Label the axes and add the legend.

    Args:
        axes: With all curves.
        x_label: Below them.
        y_label: Beside them.
        from_zero: The x axis begins at 0.
        rise_in: Inches that the legend leaves free above the axes.
    """
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if from_zero:
        axes.set_xlim(left=0.0)
    axes.margins(x=0.02)
    add_legend(axes, rise_in)


def add_legend(axes: Axes, rise_in: float = 0.0) -> None:
    """One legend style everywhere: a row above the figure, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        # Characters that fit beside each other; long names of runs get a line each.
        columns = max(1, 72 // (7 + max(map(len, labels))))
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0.0, rise_in),
            bbox_transform=above_axes(axes, axes.transAxes),
            ncols=min(len(handles), columns, 4),
            borderaxespad=0.2,
            handlelength=1.8,
            columnspacing=1.4,
            frameon=False,
            fontsize=9.0,
        )


def percent_axis(axes: Axes) -> None:
    """Shares on the y axis in percent."""
    axes.yaxis.set_major_formatter(PERCENT)


def scale_measured(axes: Axes, measured: str) -> None:
    """The y axis of accuracy is in percent, from 0; that of a loss fits its curve."""
    if measured == "accuracy":
        percent_axis(axes)
        axes.set_ylim(bottom=0.0)


def point_marker(x: Numbers) -> str | None:
    """A curve of few points shows them: a line through one point would be invisible."""
    return "o" if len(x) <= 3 else None


def horizontal_bars(rows: Sequence[tuple[str, float, str]], x_label: str, text: Callable[[float], str]) -> Figure:
    """A bar for each row of (label, value, colour), with the value written beside it by ``text``."""
    figure, axes = new_figure()
    labels = [label for label, _, _ in rows]
    values = [value for _, value, _ in rows]
    positions = np.arange(len(rows))
    axes.barh(positions, values, color=[color for _, _, color in rows], height=0.62)
    axes.set_yticks(positions, labels)
    axes.invert_yaxis()
    axes.set_xlabel(x_label)
    axes.xaxis.set_major_formatter(_THOUSANDS)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.grid(False, axis="y")
    axes.set_xlim(0, max(values) * 1.42)  # room for the figures beside the bars
    axes.tick_params(axis="y", length=0)
    for position, value in zip(positions, values, strict=True):
        axes.annotate(
            text(value),
            (value, float(position)),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.0,
            color=INK,
        )
    return figure


_GROUP_ID: Final = re.compile(r'<g id="[^"]*"(/?)>')


def to_svg(figure: Figure) -> Markup:
    """A figure as an SVG element, without identifiers that would repeat from figure to figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = _GROUP_ID.sub(r"<g\1>", text[text.index("<svg") :])
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # The page sets the size; the viewBox keeps the shape.
    text = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?)\bwidth="[^"]*"', r"\1", text, count=1)
    return Markup(text)  # drawn here; every label in it was escaped by matplotlib
