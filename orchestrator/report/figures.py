"""The figures of one run. Each is a function that returns None where the run has nothing to show."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from node.core.types import Float64Vector
from orchestrator.analysis import Numbers, histogram
from orchestrator.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PERCENT,
    PURPLE,
    SKY,
    VERMILION,
    Axes,
    Figure,
    ListedColormap,
    MaxNLocator,
    Plot,
    add_legend,
    finish_axes,
    horizontal_bars,
    label_text,
    matplotlib,
    new_figure,
    percent_axis,
    point_marker,
    scale_measured,
    to_svg,
)
from orchestrator.report.fault_drawing import finish_time_axes, with_lanes_note
from orchestrator.report.fault_lanes import Lane, lanes
from orchestrator.report.text import byte_unit, bytes_label, format_bytes, sentence, share, time_label
from orchestrator.report.time_figures import time_budget
from orchestrator.results.reader import Run
from orchestrator.results.schema import MESSAGE_STATES, Column
from orchestrator.results.summary import age_s, staleness

GROUP_COLORS: Final = {"all nodes": BLUE, "fast nodes": BLUE, "stragglers": VERMILION}
STATE_LOOK: Final[Mapping[str, tuple[str, str]]] = {
    "aggregated": ("averaged in", GREEN),
    "delivered": ("delivered, not used", SKY),
    "replaced": ("delivered, replaced", PURPLE),
    "in_flight": ("in flight at the end", "#A9AEB6"),
    "sending": ("being sent at the end", "#A9AEB6"),
    "queued": ("queued at the end", GREY),
    "cancelled": ("cancelled in the queue", ORANGE),
    "aborted": ("aborted while sent", VERMILION),
    "lost": ("lost", "#8C2D04"),
}
CLASS_COLORS: Final = {
    "payload": BLUE,
    "metadata": SKY,
    "control": GREEN,
    "wasted": VERMILION,
    "retransmitted": ORANGE,
}
MAX_BARS: Final = 120
"""Above so many nodes, one bar a node is no longer readable: a histogram over nodes is drawn instead."""

# Without the palest blues: one sample must not look like none.
_SAMPLES_COLORS: Final = ListedColormap(
    matplotlib.colormaps["Blues"](np.linspace(0.15, 1.0, 256)), name="samples"
).with_extremes(under="white")


# --- time ---------------------------------------------------------------------------------------------------


def _lanes(run: Run) -> list[Lane]:
    """The run's schedule over the time axis of its figures, which ends at the last evaluation."""
    return lanes(run.facts.schedule, float(run.times_s[-1])) if run.times_s.size else []


def _finish_over_time(run: Run, axes: Axes, y_label: str) -> None:
    finish_time_axes(axes, time_label(run.facts.runtime), y_label, _lanes(run))


def _over_time(run: Run, title: str, figure: Figure, note: str) -> Plot:
    return Plot(title, to_svg(figure), with_lanes_note(note, _lanes(run)))


# --- learning -----------------------------------------------------------------------------------------------


def _measured(run: Run, column: str) -> str:
    """Return the name of the test results' column: the loss of ratings is their RMSE."""
    return "RMSE" if column == "loss" and run.metric == "rmse" else column


def _by_time(run: Run, column: str, note: str = "") -> Plot | None:
    drawn = _band(run, run.times_s, column)
    if drawn is None:
        return None
    figure, axes = drawn
    _finish_over_time(run, axes, f"test {_measured(run, column)}")
    scale_measured(axes, column)
    return _over_time(run, f"{sentence(_measured(run, column))} over time", figure, note)


def _by_bytes(run: Run, column: str) -> Plot | None:
    if not run.bytes_sent.size or not run.bytes_sent.max():
        return None
    divisor, unit = byte_unit(float(run.bytes_sent.max()))
    drawn = _band(run, run.bytes_sent / divisor, column)
    if drawn is None:
        return None
    figure, axes = drawn
    finish_axes(axes, bytes_label(unit), f"test {_measured(run, column)}")
    scale_measured(axes, column)
    return Plot(f"{sentence(_measured(run, column))} over bytes", to_svg(figure), "")


def _band(run: Run, x: Float64Vector, column: str) -> tuple[Figure, Axes] | None:
    """Mean over nodes as a line, the range from the worst to the best node as a band; None if there are no values."""
    mean, low, high = (run.curve[f"{column}_{which}"] for which in ("mean", "min", "max"))
    if not np.isfinite(mean).any():
        return None
    figure, axes = new_figure()
    axes.fill_between(x, low, high, color=BLUE, alpha=0.16, linewidth=0, label="worst to best node")
    axes.plot(x, mean, color=BLUE, label="mean over nodes", marker=point_marker(x))
    averaged = run.curve[f"{column}_averaged"]
    if np.isfinite(averaged).any():
        axes.plot(x, averaged, color=GREEN, linestyle=":", label="averaged model", marker=point_marker(x))
    return figure, axes


def _accuracy_by_time(run: Run) -> Plot | None:
    if run.metric != "accuracy":
        return None
    return _by_time(run, "accuracy", "Each node's own model on the whole test set; evaluation takes no testbed time.")


def _accuracy_by_bytes(run: Run) -> Plot | None:
    return _by_bytes(run, "accuracy") if run.metric == "accuracy" else None


def _loss_by_time(run: Run) -> Plot | None:
    return _by_time(run, "loss")


def _loss_by_bytes(run: Run) -> Plot | None:
    return _by_bytes(run, "loss")


def _line(run: Run, column: str, legend: str, label: str) -> tuple[Figure, Axes] | None:
    """One column of the curve over time; None if it has no values."""
    values = run.curve[column]
    if not np.isfinite(values).any():
        return None
    figure, axes = new_figure()
    axes.plot(run.times_s, values, color=BLUE, label=legend, marker=point_marker(run.times_s))
    _finish_over_time(run, axes, label)
    return figure, axes


def _train_loss(run: Run) -> Plot | None:
    drawn = _line(run, "train_loss_mean", "mean over nodes", "training loss")
    if drawn is None:
        return None
    return _over_time(run, "Training loss", drawn[0], "Mean over the last round of each node, on its own data.")


def _loss_seen(run: Run) -> Plot | None:
    drawn = _line(run, "loss_seen_mean", "mean over nodes", "test RMSE, seen items")
    if drawn is None:
        return None
    note = "Over test ratings of items with a training rating on some node: nothing can be learned of the others."
    return _over_time(run, "RMSE of items seen in training", drawn[0], note)


def _consensus(run: Run) -> Plot | None:
    drawn = _line(run, "consensus_distance", "all nodes", "consensus distance")
    if drawn is None:
        return None
    figure, axes = drawn
    axes.set_ylim(bottom=0.0)
    note = "How far the nodes' models are from their mean; 0 is agreement."
    return _over_time(run, "Consensus distance", figure, note)


# --- groups -------------------------------------------------------------------------------------------------


def _accuracy_by_group(run: Run) -> Plot | None:
    return _by_group(run, "accuracy") if run.metric == "accuracy" else None


def _loss_by_group(run: Run) -> Plot | None:
    return _by_group(run, "loss")


def _by_group(run: Run, column: str) -> Plot | None:
    fast, slow = run.curve[f"{column}_mean_fast"], run.curve[f"{column}_mean_stragglers"]
    if not np.isfinite(slow).any():
        return None
    figure, axes = new_figure()
    marker = point_marker(run.times_s)
    axes.plot(run.times_s, fast, color=BLUE, label="fast nodes", marker=marker)
    axes.plot(run.times_s, slow, color=VERMILION, linestyle="--", label="stragglers", marker=marker)
    _finish_over_time(run, axes, f"test {_measured(run, column)}")
    scale_measured(axes, column)
    title = f"{sentence(_measured(run, column))} of fast nodes and stragglers"
    return _over_time(run, title, figure, "Mean over the nodes of each group.")


def _rounds_by_node(run: Run) -> Plot | None:
    if run.nodes is None or not run.nodes["node"].size:
        return None
    # Each node's own last line: one that died is missing from later evaluations. Lines are in order of time.
    nodes, first = np.unique(run.nodes["node"][::-1], return_index=True)
    rounds = run.nodes["rounds"][::-1][first]
    figure, axes = new_figure()
    _bars_by_node(run, axes, nodes, rounds.astype(np.float64), "rounds completed", whole=True)
    return Plot("Rounds per node", to_svg(figure), "Rounds completed at a node's last evaluation.")


def _queue_length(run: Run) -> Plot | None:
    if run.nodes is None:
        drawn = _line(run, "queued_messages", "all nodes", "messages queued, all nodes")
    else:
        drawn = _queue_by_group(run, run.nodes)
    if drawn is None:
        return None
    figure, axes = drawn
    axes.set_ylim(bottom=0.0)
    return _over_time(run, "Queue length over time", figure, "Messages waiting in the outbox at each evaluation.")


def _queue_by_group(run: Run, table: Mapping[str, Column]) -> tuple[Figure, Axes]:
    figure, axes = new_figure()
    for name, nodes in _groups(run).items():
        inside = np.isin(table["node"], nodes)
        times, where = np.unique(table["time_ns"][inside], return_inverse=True)
        queued = np.bincount(where, weights=table["queued_messages"][inside])
        axes.plot(
            times / 1e9,
            queued / np.bincount(where),
            color=GROUP_COLORS[name],
            linestyle="--" if name == "stragglers" else "-",
            label=name,
            marker=point_marker(times),
        )
    _finish_over_time(run, axes, "messages queued per node")
    return figure, axes


# --- messages -----------------------------------------------------------------------------------------------


def _fates(run: Run) -> Plot | None:
    amounts = _amounts_by_state(run)
    if not sum(amounts.values()):
        return None
    shown = {STATE_LOOK[name]: count for name, count in amounts.items() if count}
    total = sum(shown.values())
    figure = horizontal_bars(
        [(label, count, color) for (label, color), count in shown.items()],
        "messages",
        lambda count: f"{count:,.0f}  ({share(count, total)})",
    )
    return Plot("What became of the messages", to_svg(figure), f"{total:,} messages were queued.")


def _amounts_by_state(run: Run) -> dict[str, int]:
    """Messages by state, in the order of :data:`STATE_LOOK`; from the totals where no table was kept."""
    if run.messages is not None:
        counts = np.bincount(run.messages["state"], minlength=len(MESSAGE_STATES))
        by_name = dict(zip(MESSAGE_STATES, counts.tolist(), strict=True))
    else:
        by_name = dict((run.summary or {}).get("messages", {}))
        used = by_name.get("aggregated", 0) + by_name.get("replaced", 0)
        by_name["delivered"] = max(0, by_name.get("delivered", 0) - used)  # the total counts all that arrived
        ended = sum(by_name.get(name, 0) for name in ("delivered", "cancelled", "aborted", "lost")) + used
        by_name["queued"] = max(0, by_name.get("queued", 0) - ended)  # the total counts all that were ever queued
        by_name |= {"sending": 0, "in_flight": 0}
    return {name: by_name.get(name, 0) for name in STATE_LOOK}


def _bytes_by_class(run: Run) -> Plot | None:
    amounts: Mapping[str, int] = (run.summary or {}).get("bytes", {})
    total = sum(amounts.values())
    if not total:
        return None
    divisor, unit = byte_unit(max(amounts.values()))
    figure = horizontal_bars(
        [(name, amount / divisor, CLASS_COLORS.get(name, GREY)) for name, amount in amounts.items()],
        bytes_label(unit),
        lambda value: f"{format_bytes(value * divisor)}  ({share(value * divisor, total)})",
    )
    return Plot("Bytes by class", to_svg(figure), "Wasted: sent of messages that were then given up.")


def _staleness(run: Run) -> Plot | None:
    if run.messages is None:
        return None
    return _histogram_plot(
        run,
        staleness(run.messages),
        whole=True,
        x_label="staleness (rounds of the receiver)",
        title="Staleness when averaged in",
        note="Receiver's round minus the round stamped on the message; below 0, the sender was ahead.",
    )


def _age(run: Run) -> Plot | None:
    if run.messages is None:
        return None
    return _histogram_plot(
        run,
        age_s(run.messages),
        whole=False,
        x_label="age (s)",
        title="Age when averaged in",
        note="From queueing at the sender to averaging at the receiver.",
    )


def _histogram_plot(run: Run, values: Numbers, *, whole: bool, x_label: str, title: str, note: str) -> Plot | None:
    assert run.messages is not None
    used = run.messages["aggregated_ns"] >= 0
    sender = run.messages["sender"]
    groups: dict[str, Numbers] = {}
    for name, nodes in _groups(run).items():
        # A table of nodes instead of isin: a run can have millions of messages.
        member = np.zeros(max(int(sender.max(initial=0)), max(nodes, default=0)) + 1, dtype=np.bool_)
        member[nodes] = True
        groups[name] = values[used & member[sender]]
    bins = histogram(groups, whole_numbers=whole)
    if bins is None:
        return None
    figure, axes = new_figure()
    for name, shares in bins.shares.items():
        axes.stairs(shares, bins.edges, fill=True, color=GROUP_COLORS[name], alpha=0.22)
        axes.stairs(
            shares,
            bins.edges,
            color=GROUP_COLORS[name],
            linestyle="--" if name == "stragglers" else "-",
            linewidth=1.6,
            label=f"from {name}",
        )
    finish_axes(axes, x_label, "share of these messages", from_zero=False)
    percent_axis(axes)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    beyond = max(bins.above.values())
    if beyond:
        note += f" Not shown: the highest values, up to {100 * beyond:.1f} % of a group."
    return Plot(title, to_svg(figure), note)


# --- links and data -----------------------------------------------------------------------------------------


def _utilization(run: Run, column: str, title: str) -> Plot | None:
    if run.links is None or not run.links["node"].size:
        return None
    figure, axes = new_figure()
    _bars_by_node(run, axes, run.links["node"], run.links[column], f"{column} in use")
    return Plot(title, to_svg(figure), "Share of the link's capacity in use over the whole run.")


def _uplinks(run: Run) -> Plot | None:
    return _utilization(run, "uplink", "Uplink utilisation per node")


def _downlinks(run: Run) -> Plot | None:
    return _utilization(run, "downlink", "Downlink utilisation per node")


def _partition(run: Run) -> Plot | None:
    counts = run.facts.partition_counts
    if counts is None or not counts.size:
        return None
    # Step 1: the cells, which set the limits of both axes.
    num_nodes, num_classes = counts.shape
    names = run.facts.class_names or tuple(str(index) for index in range(num_classes))
    figure, axes = new_figure((12.8, 1.5 + 0.24 * min(num_classes, 20)))
    few = counts.size <= 3000
    image = axes.pcolormesh(
        np.arange(num_nodes + 1) - 0.5,
        np.arange(num_classes + 1) - 0.5,
        counts.T,
        cmap=_SAMPLES_COLORS,
        vmin=0,
        edgecolors="white" if few else "face",
        linewidth=0.6 if few else 0.0,
        rasterized=not few,
    )
    image.set_clim(0.5, max(1.0, float(counts.max())))  # an empty cell is white, not merely pale
    axes.grid(False)
    axes.invert_yaxis()
    axes.set_xlabel("node")
    kind = "rating" if run.facts.metric == "rmse" else "class"
    axes.set_ylabel(kind)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20))
    if num_classes <= 20:
        axes.set_yticks(range(num_classes), [label_text(name) for name in names])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    # Step 2: marks of the stragglers, above the cells: their place needs the axes as they are now.
    slow = sorted(node for node in run.facts.stragglers if node < num_nodes)
    if slow:
        axes.plot(
            slow,
            [-0.9] * len(slow),
            linestyle="none",
            marker="v",
            markersize=5,
            color=VERMILION,
            clip_on=False,
            label="stragglers",
        )
        add_legend(axes)
    # Step 3: the scale, and the amounts in words.
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=16)
    bar.set_label("training samples")
    bar.outline.set_visible(False)
    each = counts.sum(axis=1)
    least, most = int(each.min()), int(each.max())
    amount = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    note = f"{amount} training samples a node; white: none of that {kind}."
    return Plot("Who holds what", to_svg(figure), note)


# --- nodes by group -----------------------------------------------------------------------------------------


def _bars_by_node(
    run: Run, axes: Axes, nodes: Numbers, values: Float64Vector, label: str, *, whole: bool = False
) -> None:
    """One bar a node; a histogram over nodes where there are too many."""
    groups = _groups(run)
    if len(nodes) <= MAX_BARS:
        for name, members in groups.items():
            inside = np.isin(nodes, members)
            axes.bar(nodes[inside], values[inside], width=0.8, color=GROUP_COLORS[name], label=name)
        axes.set_xlabel("node")
        axes.set_ylabel(label)
        axes.set_xlim(-0.8, max(run.facts.nodes, int(nodes.max()) + 1) - 0.2)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(integer=whole, nbins=6))
        if not whole:
            axes.set_ylim(0.0, max(1e-3, min(1.0, float(values.max(initial=0.0)) * 1.1)))
            percent_axis(axes)
        add_legend(axes)
        return
    bins = histogram(
        {name: values[np.isin(nodes, members)] for name, members in groups.items()},
        whole_numbers=whole,
        cover=1.0,
    )
    assert bins is not None
    for name, shares in bins.shares.items():
        axes.stairs(shares, bins.edges, fill=True, color=GROUP_COLORS[name], alpha=0.3)
        axes.stairs(shares, bins.edges, color=GROUP_COLORS[name], linewidth=1.6, label=name)
    finish_axes(axes, label, "share of the nodes", from_zero=False)
    percent_axis(axes)
    if not whole:
        axes.xaxis.set_major_formatter(PERCENT)


def _groups(run: Run) -> dict[str, list[int]]:
    """Nodes by group name: fast nodes and stragglers, or all nodes where none is slowed."""
    slow = sorted(run.facts.stragglers)
    count = run.facts.nodes
    if not count and run.nodes is not None:
        count = int(run.nodes["node"].max(initial=-1)) + 1
    if not slow:
        return {"all nodes": list(range(count))}
    fast = [node for node in range(count) if node not in run.facts.stragglers]
    return {"fast nodes": fast, "stragglers": slow} if fast else {"stragglers": slow}


LEARNING_FIGURES: Final = (
    _accuracy_by_time,
    _accuracy_by_bytes,
    _loss_by_time,
    _loss_by_bytes,
    _loss_seen,
    _train_loss,
    _consensus,
)
NODES_FIGURES: Final = (_accuracy_by_group, _loss_by_group, time_budget, _rounds_by_node, _queue_length)
MESSAGES_FIGURES: Final = (_fates, _bytes_by_class, _staleness, _age)
LINKS_FIGURES: Final = (_uplinks, _downlinks)
DATA_FIGURES: Final = (_partition,)
