"""The schedule in a figure over time: a strip of lanes above the axes, pale bands and thin marks behind the curves.

The strip has a row for each lane, whose names stand above it, so that nothing covers a curve. Lanes of many bands stand
in the strip alone: as stripes behind the curves they would only make these hard to read.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from math import ceil
from typing import Final, TypeAlias

from orchestrator.report.drawing import (
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    Axes,
    Legend,
    Patch,
    Path,
    PathPatch,
    Transform,
    above_axes,
    finish_axes,
    heighten,
    label_text,
    legend_height,
)
from orchestrator.report.fault_lanes import CELLS, Lane

LANE_COLORS: Final = (ORANGE, PURPLE, SKY, "#8A8D2B", "#6A4C93", GREY, "#A0703C", "#3E8E8C")
"""Colors of lanes, as many as there are actions; the first curves of a figure have others."""

BEHIND_MAX: Final = 20
"""Bands or marks of a lane beyond which they are not drawn behind the curves."""

_LANE_IN: Final = 0.06
_PITCH_IN: Final = 0.095
_BEHIND_GRID: Final = 0.3
_BEHIND_CURVES: Final = 0.8
_NAME_LETTERS: Final = 80
"""Letters of names that fit beside each other, with the room that each takes besides."""

COARSE_NOTE: Final = f"Times of the schedule closer than 1/{CELLS} of the axis are drawn as one."


def finish_time_axes(axes: Axes, x_label: str, y_label: str, lanes: Sequence[Lane]) -> None:
    """Label the axes of a figure over time, add its legend, and draw the schedule."""
    height_in = _draw(axes, lanes) if lanes else 0.0
    finish_axes(axes, x_label, y_label, rise_in=height_in)


def with_lanes_note(note: str, lanes: Sequence[Lane]) -> str:
    """Add to a figure's note how far the schedule in it is simplified, if it is."""
    return f"{note} {COARSE_NOTE}".strip() if any(lane.is_coarse for lane in lanes) else note


def _draw(axes: Axes, lanes: Sequence[Lane]) -> float:
    """Draw all lanes; return how high above the axes they reach, in inches."""
    strip, behind = above_axes(axes), axes.get_xaxis_transform()
    for index, lane in enumerate(lanes):
        color = LANE_COLORS[index % len(LANE_COLORS)]
        low = 0.04 + (len(lanes) - 1 - index) * _PITCH_IN
        middle = low + _LANE_IN / 2
        along = [((begin, middle), (end, middle)) for begin, end in lane.bands]
        _add(axes, _lines(along), strip, color, linewidth=72 * _LANE_IN)  # half the size of rectangles
        _add(axes, _lines(_upright(lane.marks, low, low + _LANE_IN)), strip, color, linewidth=2.2)
        if not lane.is_coarse and len(lane.bands) + len(lane.marks) <= BEHIND_MAX:
            _add(axes, _rectangles(lane.bands), behind, color, linewidth=0.0, alpha=0.13)
            _add(axes, _lines(_upright(lane.marks, 0.0, 1.0)), behind, color, linewidth=1.1, alpha=0.75)
    strip_in = 0.06 + len(lanes) * _PITCH_IN
    names_in = _add_names(axes, lanes, strip_in)
    heighten(axes, strip_in + names_in)
    return strip_in + names_in


def _add(
    axes: Axes, path: Path | None, transform: Transform, color: str, *, linewidth: float, alpha: float = 1.0
) -> None:
    """Add one path for all of a lane: a hundred bands of their own would make a large file."""
    if path is None:
        return
    patch = PathPatch(path, facecolor=color, edgecolor=color, linewidth=linewidth, alpha=alpha, transform=transform)
    patch.set(zorder=_BEHIND_GRID if linewidth == 0 else _BEHIND_CURVES, clip_on=False, capstyle="butt")
    axes.add_artist(patch)


_Line: TypeAlias = tuple[tuple[float, float], tuple[float, float]]


def _upright(marks: Iterable[float], low: float, high: float) -> list[_Line]:
    return [((at, low), (at, high)) for at in marks]


def _lines(lines: Sequence[_Line]) -> Path | None:
    return Path(list(chain(*lines)), [Path.MOVETO, Path.LINETO] * len(lines)) if lines else None


def _rectangles(bands: Sequence[tuple[float, float]]) -> Path | None:
    """Bands from the bottom of the axes to their top."""
    corners = [((begin, 0.0), (begin, 1.0), (end, 1.0), (end, 0.0), (begin, 0.0)) for begin, end in bands]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(list(chain(*corners)), codes * len(corners)) if corners else None


def _add_names(axes: Axes, lanes: Sequence[Lane], strip_in: float) -> float:
    """Name the lanes above their strip; return how high that is, in inches."""
    labels = [label_text(lane.label) for lane in lanes]
    rows = ceil(len(labels) / max(1, _NAME_LETTERS // (6 + max(map(len, labels)))))
    legend = Legend(
        axes,
        [Patch(facecolor=LANE_COLORS[index % len(LANE_COLORS)]) for index in range(len(lanes))],
        labels,
        loc="lower left",
        bbox_to_anchor=(0.0, strip_in),
        bbox_transform=above_axes(axes, axes.transAxes),
        ncols=ceil(len(labels) / rows),
        borderaxespad=0.0,
        borderpad=0.1,
        labelspacing=0.25,
        handlelength=0.9,
        handleheight=0.6,
        columnspacing=1.4,
        frameon=False,
        fontsize=8.5,
    )
    axes.add_artist(legend)
    legend.set_clip_on(False)
    return legend_height(legend)
