"""The figure of where nodes' time goes: a bar for each group of nodes, in shares of their time."""

from typing import Final

import numpy as np

from orchestrator.report.drawing import (
    GREEN,
    GREY,
    INK,
    ORANGE,
    PERCENT,
    PURPLE,
    SKY,
    Plot,
    add_legend,
    new_figure,
    to_svg,
)
from orchestrator.report.text import budget_groups, share
from orchestrator.results.reader import Run

ACTIVITY_COLORS: Final = {
    "computing": GREEN,
    "waiting": ORANGE,
    "sending": SKY,
    "idle": "#D5D9DE",
    "paused": PURPLE,
    "down": GREY,
}
TEXT_SHARE_MIN: Final = 0.08
"""Share of a bar from which on there is room for its figure."""

NOTE: Final = (
    "While local steps are under way, a node is computing, whatever happens beside them; if not, it is waiting while it"
    " cannot go on without a peer; if not, sending while a message is queued or under way."
)


def time_budget(run: Run) -> Plot | None:
    """The shares of fast nodes and stragglers, or of all nodes; None of a run that did not count them."""
    groups = budget_groups((run.summary or {}).get("time_budget", {}))
    if not groups:
        return None
    figure, axes = new_figure((6.2, 1.3 + 0.6 * len(groups)))
    places = np.arange(len(groups))
    begins = np.zeros(len(groups))
    for activity, color in ACTIVITY_COLORS.items():
        parts = np.array([shares.get(activity, 0.0) for shares in groups.values()])
        if parts.any():
            axes.barh(places, parts, left=begins, color=color, height=0.62, label=activity)
        for place, begin, part in zip(places.tolist(), begins.tolist(), parts.tolist(), strict=True):
            if part >= TEXT_SHARE_MIN:
                axes.text(begin + part / 2, place, share(part, 1.0), ha="center", va="center", fontsize=9.0, color=INK)
        begins += parts
    axes.set_yticks(places, list(groups))
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel("share of the nodes' time")
    axes.xaxis.set_major_formatter(PERCENT)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    add_legend(axes)
    return Plot("Where the time goes", to_svg(figure), NOTE)
