"""The report of a run, and the overlay of several: one HTML file each, with its figures inside, no network.

Figures are drawn by matplotlib as SVG and put into the page. Colours are those of Okabe and Ito, which
colour-blind readers can tell apart; the same group has the same colour in every figure. The same run
directory gives the same report: no dates, no random identifiers.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
import matplotlib
import numpy as np
import yaml
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from node.core.errors import ConfigError
from node.core.types import Float64Vector
from orchestrator.analysis import ComparedRun, Comparison, Numbers, histogram
from orchestrator.results import (
    MESSAGE_STATES,
    Run,
    age_s,
    byte_unit,
    format_bytes,
    headline_text,
    metric_name,
    staleness,
    write_file,
)

BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
PURPLE: Final = "#CC79A7"
GREY: Final = "#7A7F87"
INK: Final = "#20252C"

GROUP_COLORS: Final = {"all nodes": BLUE, "fast nodes": BLUE, "stragglers": VERMILION}
RUN_COLORS: Final = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK, GREY)
RUN_DASHES: Final = ("-", "--", "-.", ":")
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

_STYLE: Final[Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
    "svg.hashsalt": "fragmesh",
    "font.size": 10.0,
    "font.family": "sans-serif",
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
_PERCENT: Final = FuncFormatter(lambda value, _: f"{round(100 * value, 6):g} %")
# Without the palest blues: one sample must not look like none.
_SAMPLES_COLORS: Final = ListedColormap(
    matplotlib.colormaps["Blues"](np.linspace(0.15, 1.0, 256)), name="samples"
).with_extremes(under="white")
_THOUSANDS: Final = FuncFormatter(lambda value, _: f"{value:,.10g}")


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure of the page.

    Attributes:
        title: What it shows.
        svg: The figure itself.
        note: A sentence on how to read it; may be empty.
    """

    title: str
    svg: Markup
    note: str


@dataclass(frozen=True, slots=True)
class Section:
    """A headed group of figures."""

    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """One large figure at the top of the page."""

    label: str
    value: str
    note: str = ""


# --- the report of one run ----------------------------------------------------------------------------------


def write_report(run: Run) -> Path:
    """Write ``report.html`` into the run's directory.

    Raises:
        RunnerError: It could not be written.
    """
    path = run.path / "report.html"
    write_file(path, render_report(run).encode())
    return path


def render_report(run: Run) -> str:
    """The report of a run as one self-contained HTML page."""
    sections = [
        _section(run, "Learning", _LEARNING),
        _section(run, "Nodes", _NODES),
        _section(run, "Messages", _MESSAGES),
        _section(run, "Links", _LINKS),
        _section(run, "Data", _DATA),
    ]
    return _template("report.html.j2").render(
        run=run,
        tiles=_tiles(run),
        facts=_facts(run),
        targets=_targets(run),
        metric=metric_name(run.metric),
        sections=[section for section in sections if section.pictures],
        fidelity=run.fidelity,
        environment=run.environment,
        experiment=None
        if run.experiment is None
        else yaml.safe_dump(run.experiment, sort_keys=False, allow_unicode=True),
    )


def _section(run: Run, title: str, figures: Sequence[Callable[[Run], Picture | None]]) -> Section:
    pictures = (draw(run) for draw in figures)
    return Section(title, tuple(picture for picture in pictures if picture is not None))


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["human"] = human
    return environment.get_template(name)


def _tiles(run: Run) -> list[Tile]:
    summary = run.summary or {}
    tiles: list[Tile] = []
    values, times = run.headline, run.times_s
    if values.size and not np.isnan(values).all():
        best = int(np.nanargmax(values) if run.higher_is_better else np.nanargmin(values))
        name = metric_name(run.metric)
        tiles.append(Tile(f"final {name}", headline_text(run.metric, values[-1]), "mean over nodes"))
        tiles.append(Tile(f"best {name}", headline_text(run.metric, values[best]), f"at {times[best]:,.1f} s"))
    sent = summary.get("bytes_sent", run.bytes_sent[-1] if run.bytes_sent.size else 0)
    tiles.append(Tile("bytes sent", format_bytes(sent), "all nodes, all classes"))
    reached = summary.get("time_s", times[-1] if times.size else 0.0)
    took = f"took {format_duration(summary['wall_s'])}" if "wall_s" in summary else ""
    tiles.append(Tile(_clock(run), format_duration(reached), took))
    if summary.get("cancelled_share") is not None:
        share = f"{100 * summary['cancelled_share']:.1f} %"
        tiles.append(Tile("cancelled", share, "of the messages queued"))
    p50 = summary.get("staleness", {}).get("overall", {}).get("p50")
    if p50 is not None:
        p95 = summary["staleness"]["overall"]["p95"]
        tiles.append(Tile("staleness", f"{p50:.0f} rounds", f"median; 95 % below {p95:.0f}"))
    return tiles


def _facts(run: Run) -> list[tuple[str, str]]:
    facts, summary = run.facts, run.summary or {}
    rows = [
        ("algorithm", facts.algorithm),
        ("runtime", facts.runtime),
        ("nodes", f"{facts.nodes:,}" + (f", {len(facts.stragglers)} slowed" if facts.stragglers else "")),
        ("seed", str(facts.seed)),
        ("headline figure", "test accuracy" if facts.metric == "accuracy" else "test RMSE, lower is better"),
    ]
    if facts.num_params:
        rows.append(("parameters", f"{facts.num_params:,}"))
    # The runner's own words win over ours where both tell the same thing.
    rows = [row for row in rows if row[0] not in facts.details] + list(facts.details.items())
    if "train_steps" in summary:
        rows.append(("local steps", f"{summary['train_steps']:,}"))
    if summary.get("aggregated_per_round") is not None:
        rows.append(("messages averaged in", f"{summary['aggregated_per_round']:.2f} a round and node"))
    return rows


def _targets(run: Run) -> list[tuple[str, str, str]]:
    """Rows of target, time, bytes: those reached, and the first that was not, with dashes."""
    summary = run.summary or {}
    times: Mapping[str, float | None] = summary.get(f"time_to_{run.metric}_s", {})
    sent: Mapping[str, float | None] = summary.get(f"bytes_to_{run.metric}", {})
    rows = []
    for key, time in times.items():
        amount = sent.get(key)
        rows.append(
            (
                headline_text(run.metric, float(key)),
                "–" if time is None else f"{time:,.1f} s",
                "–" if amount is None else format_bytes(amount),
            )
        )
        if time is None:
            break
    return rows


# --- figures: learning --------------------------------------------------------------------------------------


def _by_time(run: Run, column: str, label: str, title: str, note: str) -> Picture | None:
    return _band(run, run.times_s, _time_axis(run), column, label, title, note)


def _by_bytes(run: Run, column: str, label: str, title: str) -> Picture | None:
    if not run.bytes_sent.size or not run.bytes_sent.max():
        return None
    divisor, unit = byte_unit(float(run.bytes_sent.max()))
    return _band(run, run.bytes_sent / divisor, f"bytes sent by all nodes ({unit})", column, label, title, "")


def _band(run: Run, x: Float64Vector, x_label: str, column: str, label: str, title: str, note: str) -> Picture | None:
    """Mean over nodes as a line, the range from the worst to the best node as a band."""
    mean, low, high = (run.curve[f"{column}_{which}"] for which in ("mean", "min", "max"))
    if not np.isfinite(mean).any():
        return None
    figure, axes = _figure()
    axes.fill_between(x, low, high, color=BLUE, alpha=0.16, linewidth=0, label="worst to best node")
    axes.plot(x, mean, color=BLUE, label="mean over nodes", marker=_marker(x))
    _finish(axes, x_label, label)
    if column == "accuracy":
        _percent(axes)
        axes.set_ylim(bottom=0.0)
    return Picture(title, _svg(figure), note)


def _accuracy_by_time(run: Run) -> Picture | None:
    if run.metric != "accuracy":
        return None
    note = "Each node's own model on the whole test set; evaluation takes no testbed time."
    return _by_time(run, "accuracy", "test accuracy", "Accuracy over time", note)


def _accuracy_by_bytes(run: Run) -> Picture | None:
    if run.metric != "accuracy":
        return None
    return _by_bytes(run, "accuracy", "test accuracy", "Accuracy over bytes")


def _loss_by_time(run: Run) -> Picture | None:
    name = "test RMSE" if run.metric == "rmse" else "test loss"
    return _by_time(run, "loss", name, f"{_sentence(name.removeprefix('test '))} over time", "")


def _loss_by_bytes(run: Run) -> Picture | None:
    name = "test RMSE" if run.metric == "rmse" else "test loss"
    return _by_bytes(run, "loss", name, f"{_sentence(name.removeprefix('test '))} over bytes")


def _train_loss(run: Run) -> Picture | None:
    values = run.curve["train_loss_mean"]
    if not np.isfinite(values).any():
        return None
    figure, axes = _figure()
    axes.plot(run.times_s, values, color=BLUE, label="mean over nodes", marker=_marker(run.times_s))
    _finish(axes, _time_axis(run), "training loss")
    return Picture("Training loss", _svg(figure), "Mean over the last round of each node, on its own data.")


def _consensus(run: Run) -> Picture | None:
    values = run.curve["consensus_distance"]
    if not np.isfinite(values).any():
        return None
    figure, axes = _figure()
    axes.plot(run.times_s, values, color=BLUE, label="all nodes", marker=_marker(run.times_s))
    _finish(axes, _time_axis(run), "consensus distance")
    axes.set_ylim(bottom=0.0)
    return Picture("Consensus distance", _svg(figure), "How far the nodes' models are from their mean; 0 is agreement.")


# --- figures: groups ----------------------------------------------------------------------------------------


def _accuracy_by_group(run: Run) -> Picture | None:
    return _by_group(run, "accuracy", "test accuracy") if run.metric == "accuracy" else None


def _loss_by_group(run: Run) -> Picture | None:
    return _by_group(run, "loss", "test RMSE" if run.metric == "rmse" else "test loss")


def _by_group(run: Run, column: str, label: str) -> Picture | None:
    fast, slow = run.curve[f"{column}_mean_fast"], run.curve[f"{column}_mean_stragglers"]
    if not np.isfinite(slow).any():
        return None
    figure, axes = _figure()
    marker = _marker(run.times_s)
    axes.plot(run.times_s, fast, color=BLUE, label="fast nodes", marker=marker)
    axes.plot(run.times_s, slow, color=VERMILION, linestyle="--", label="stragglers", marker=marker)
    _finish(axes, _time_axis(run), label)
    if column == "accuracy":
        _percent(axes)
        axes.set_ylim(bottom=0.0)
    title = f"{_sentence(label.removeprefix('test '))} of fast nodes and stragglers"
    return Picture(title, _svg(figure), "Mean over the nodes of each group.")


def _rounds_by_node(run: Run) -> Picture | None:
    if run.nodes is None:
        return None
    last = run.nodes["time_ns"] == run.nodes["time_ns"].max()
    nodes, rounds = run.nodes["node"][last], run.nodes["rounds"][last]
    figure, axes = _figure()
    _bars_by_node(run, axes, nodes, rounds.astype(np.float64), "rounds completed", whole=True)
    return Picture("Rounds per node", _svg(figure), "Rounds completed at the last evaluation.")


def _queue_length(run: Run) -> Picture | None:
    figure, axes = _figure()
    if run.nodes is not None:
        for name, nodes in _groups(run).items():
            inside = np.isin(run.nodes["node"], nodes)
            times, where = np.unique(run.nodes["time_ns"][inside], return_inverse=True)
            queued = np.bincount(where, weights=run.nodes["queued_messages"][inside])
            axes.plot(
                times / 1e9,
                queued / np.bincount(where),
                color=GROUP_COLORS[name],
                linestyle="--" if name == "stragglers" else "-",
                label=name,
                marker=_marker(times),
            )
        label = "messages queued per node"
    else:
        values = run.curve["queued_messages"]
        if not np.isfinite(values).any():
            return None
        axes.plot(run.times_s, values, color=BLUE, label="all nodes", marker=_marker(run.times_s))
        label = "messages queued, all nodes"
    _finish(axes, _time_axis(run), label)
    axes.set_ylim(bottom=0.0)
    return Picture("Queue length over time", _svg(figure), "Messages waiting in the outbox at each evaluation.")


# --- figures: messages --------------------------------------------------------------------------------------


def _fates(run: Run) -> Picture | None:
    amounts = _amounts_by_state(run)
    if not sum(amounts.values()):
        return None
    shown = {STATE_LOOK[name]: count for name, count in amounts.items() if count}
    total = sum(shown.values())
    figure = _horizontal_bars(
        [(label, count, color) for (label, color), count in shown.items()],
        "messages",
        lambda count: f"{count:,.0f}  ({_share(count, total)})",
    )
    return Picture("What became of the messages", _svg(figure), f"{total:,} messages were queued.")


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


def _bytes_by_class(run: Run) -> Picture | None:
    amounts: Mapping[str, int] = (run.summary or {}).get("bytes", {})
    total = sum(amounts.values())
    if not total:
        return None
    divisor, unit = byte_unit(max(amounts.values()))
    figure = _horizontal_bars(
        [(name, amount / divisor, CLASS_COLORS.get(name, GREY)) for name, amount in amounts.items()],
        f"bytes sent by all nodes ({unit})",
        lambda value: f"{format_bytes(value * divisor)}  ({_share(value * divisor, total)})",
    )
    return Picture("Bytes by class", _svg(figure), "Wasted: sent of messages that were then given up.")


def _staleness(run: Run) -> Picture | None:
    if run.messages is None:
        return None
    return _histogram_picture(
        run,
        staleness(run.messages),
        whole=True,
        x_label="staleness (rounds of the receiver)",
        title="Staleness when averaged in",
        note="Receiver's round minus the round stamped on the message; below 0, the sender was ahead.",
    )


def _age(run: Run) -> Picture | None:
    if run.messages is None:
        return None
    return _histogram_picture(
        run,
        age_s(run.messages),
        whole=False,
        x_label="age (s)",
        title="Age when averaged in",
        note="From queueing at the sender to averaging at the receiver.",
    )


def _histogram_picture(
    run: Run, values: Numbers, *, whole: bool, x_label: str, title: str, note: str
) -> Picture | None:
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
    figure, axes = _figure()
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
    _finish(axes, x_label, "share of these messages", from_zero=False)
    _percent(axes)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    beyond = max(bins.above.values())
    if beyond:
        note += f" Not shown: the highest values, up to {100 * beyond:.1f} % of a group."
    return Picture(title, _svg(figure), note)


# --- figures: links and data --------------------------------------------------------------------------------


def _utilization(run: Run, column: str, title: str) -> Picture | None:
    if run.links is None or not run.links["node"].size:
        return None
    figure, axes = _figure()
    _bars_by_node(run, axes, run.links["node"], run.links[column], f"{column} in use")
    return Picture(title, _svg(figure), "Share of the link's capacity in use over the whole run.")


def _uplinks(run: Run) -> Picture | None:
    return _utilization(run, "uplink", "Uplink utilisation per node")


def _downlinks(run: Run) -> Picture | None:
    return _utilization(run, "downlink", "Downlink utilisation per node")


def _partition(run: Run) -> Picture | None:
    counts = run.facts.partition_counts
    if counts is None or not counts.size:
        return None
    num_nodes, num_classes = counts.shape
    names = run.facts.class_names or tuple(str(index) for index in range(num_classes))
    figure, axes = _figure((12.8, 1.5 + 0.24 * min(num_classes, 20)))
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
    axes.set_ylabel("class")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20))
    if num_classes <= 20:
        axes.set_yticks(range(num_classes), names)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
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
        _legend(axes)
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=16)
    bar.set_label("training samples")
    bar.outline.set_visible(False)
    each = counts.sum(axis=1)
    least, most = int(each.min()), int(each.max())
    amount = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    note = f"{amount} training samples a node; white: none of that class."
    return Picture("Who holds what", _svg(figure), note)


_LEARNING: Final = (
    _accuracy_by_time,
    _accuracy_by_bytes,
    _loss_by_time,
    _loss_by_bytes,
    _train_loss,
    _consensus,
)
_NODES: Final = (_accuracy_by_group, _loss_by_group, _rounds_by_node, _queue_length)
_MESSAGES: Final = (_fates, _bytes_by_class, _staleness, _age)
_LINKS: Final = (_uplinks, _downlinks)
_DATA: Final = (_partition,)


# --- several runs -------------------------------------------------------------------------------------------


def write_comparison(runs: Sequence[Run], comparison: Comparison, path: Path) -> Path:
    """Draw several runs over each other.

    Args:
        runs: The runs, in the order of ``comparison.runs``.
        comparison: What they were found to be.
        path: Where to: ``.html`` for a page with tables, ``.png`` or ``.svg`` for the figure alone.

    Raises:
        ConfigError: The file's ending is none of these.
        RunnerError: It could not be written.
    """
    kind = path.suffix.lower()
    if kind == ".html":
        data = render_comparison(runs, comparison).encode()
    elif kind in (".png", ".svg"):
        with matplotlib.rc_context(_STYLE):
            figure = _overlay_figure(runs, comparison)
            buffer = io.BytesIO()
            metadata: dict[str, Any] = {"Date": None} if kind == ".svg" else {"Software": None}
            figure.savefig(buffer, format=kind[1:], dpi=160, metadata=metadata)
        data = buffer.getvalue()
    else:
        raise ConfigError(f"--out {path}: must end in .html, .png or .svg")
    write_file(path, data)
    return path


def render_comparison(runs: Sequence[Run], comparison: Comparison) -> str:
    """Several runs side by side as one self-contained HTML page."""
    labels = unique_labels(runs)
    pictures = (
        _overlay_picture(runs, labels, comparison, by_bytes=False),
        _overlay_picture(runs, labels, comparison, by_bytes=True),
    )
    metric = comparison.metric
    header, rows = comparison_table(comparison, labels)
    return _template("compare.html.j2").render(
        metric=metric_name(metric),
        target=None if comparison.target is None else headline_text(metric, comparison.target),
        automatic=comparison.target_is_automatic,
        baseline=labels[0],
        header=header,
        rows=[(_look(index)[0], row) for index, row in enumerate(rows)],
        runs=list(zip(labels, runs, strict=True)),
        pictures=pictures,
    )


def unique_labels(runs: Sequence[Run]) -> list[str]:
    """A label a run: its name, with its directory's name where two share one."""
    names = [run.label for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({run.path.name.removeprefix(name).strip('-') or index})"
        for index, (name, run) in enumerate(zip(names, runs, strict=True), start=1)
    ]


def comparison_table(comparison: Comparison, labels: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """A comparison as text: the header, and one row a run, whose first cell is its label."""
    common = comparison.common_time_s
    header = [
        "run",
        "final",
        "best",
        "best, gain",
        "at the same time" if common is None else f"at {common:,.1f} s",
        "time to target",
        "times faster",
        "bytes to target",
        "times fewer bytes",
    ]
    rows = [
        [label, *_compared_cells(comparison.metric, row)] for label, row in zip(labels, comparison.runs, strict=True)
    ]
    return header, rows


def _compared_cells(metric: str, row: ComparedRun) -> list[str]:
    def shown(value: float | None, text: Callable[[float], str]) -> str:
        return "–" if value is None else text(value)

    return [
        shown(row.final, lambda v: headline_text(metric, v)),
        shown(row.best, lambda v: headline_text(metric, v)),
        shown(row.best_gain_percent, lambda v: f"{v:+.1f} %"),
        shown(row.at_common_time, lambda v: headline_text(metric, v)),
        shown(row.time_to_target_s, lambda v: f"{v:,.1f} s"),
        shown(row.times_faster, lambda v: f"{v:.2f}×"),
        shown(row.bytes_to_target, format_bytes),
        shown(row.times_fewer_bytes, lambda v: f"{v:.2f}×"),
    ]


def _overlay_picture(runs: Sequence[Run], labels: Sequence[str], comparison: Comparison, *, by_bytes: bool) -> Picture:
    figure, axes = _figure()
    _overlay(axes, runs, labels, comparison, by_bytes=by_bytes)
    name = metric_name(comparison.metric)
    return Picture(f"{_sentence(name)} over {'bytes' if by_bytes else 'time'}", _svg(figure), "")


def _overlay_figure(runs: Sequence[Run], comparison: Comparison) -> Figure:
    figure = Figure(figsize=(11.5, 4.0))
    left, right = figure.subplots(1, 2)
    labels = unique_labels(runs)
    _overlay(left, runs, labels, comparison, by_bytes=False)
    _overlay(right, runs, labels, comparison, by_bytes=True)
    return figure


def _overlay(axes: Axes, runs: Sequence[Run], labels: Sequence[str], comparison: Comparison, *, by_bytes: bool) -> None:
    column = "accuracy" if comparison.metric == "accuracy" else "loss"
    most = max((float(run.bytes_sent.max(initial=0)) for run in runs), default=0.0)
    divisor, unit = byte_unit(most)
    for index, (run, label) in enumerate(zip(runs, labels, strict=True)):
        color, dash = _look(index)
        x = run.bytes_sent / divisor if by_bytes else run.times_s
        axes.fill_between(
            x, run.curve[f"{column}_min"], run.curve[f"{column}_max"], color=color, alpha=0.10, linewidth=0
        )
        axes.plot(x, run.headline, color=color, linestyle=dash, label=label, marker=_marker(x))
    if comparison.target is not None:
        text = f"target {headline_text(comparison.metric, comparison.target)}"
        axes.axhline(comparison.target, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), label=text)
    x_label = f"bytes sent by all nodes ({unit})" if by_bytes else _time_axis(runs[0])
    _finish(axes, x_label, f"test {metric_name(comparison.metric)}")
    if column == "accuracy":
        _percent(axes)
        axes.set_ylim(bottom=0.0)


def _look(index: int) -> tuple[str, str]:
    color = RUN_COLORS[index % len(RUN_COLORS)]
    return color, RUN_DASHES[(index + index // len(RUN_COLORS)) % len(RUN_DASHES)]


# --- drawing ------------------------------------------------------------------------------------------------


def _figure(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size)
        return figure, figure.subplots()


def _finish(axes: Axes, x_label: str, y_label: str, *, from_zero: bool = True) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if from_zero:
        axes.set_xlim(left=0.0)
    axes.margins(x=0.02)
    _legend(axes)


def _legend(axes: Axes) -> None:
    """One legend style everywhere: a row above the figure, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        # Characters that fit beside each other; long names of runs get a line each.
        columns = max(1, 72 // (7 + max(map(len, labels))))
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=min(len(handles), columns, 4),
            borderaxespad=0.2,
            handlelength=1.8,
            columnspacing=1.4,
            frameon=False,
            fontsize=9.0,
        )


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(_PERCENT)


def _marker(x: Numbers) -> str | None:
    """A curve of few points shows them: a line through one point would be invisible."""
    return "o" if len(x) <= 3 else None


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
        axes.set_xlim(-0.8, len(nodes) - 0.2)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(integer=whole, nbins=6))
        if not whole:
            axes.set_ylim(0.0, max(1e-3, min(1.0, float(values.max(initial=0.0)) * 1.1)))
            _percent(axes)
        _legend(axes)
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
    _finish(axes, label, "share of the nodes", from_zero=False)
    _percent(axes)
    if not whole:
        axes.xaxis.set_major_formatter(_PERCENT)


def _horizontal_bars(rows: Sequence[tuple[str, float, str]], x_label: str, text: Callable[[float], str]) -> Figure:
    figure, axes = _figure()
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


_GROUP_ID: Final = re.compile(r'<g id="[^"]*"(/?)>')


def _svg(figure: Figure) -> Markup:
    """A figure as an SVG element, without identifiers that would repeat from figure to figure."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = _GROUP_ID.sub(r"<g\1>", text[text.index("<svg") :])
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # The page sets the size; the viewBox keeps the shape.
    text = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?)\bwidth="[^"]*"', r"\1", text, count=1)
    return Markup(text)  # drawn here; every label in it was escaped by matplotlib


# --- words and figures --------------------------------------------------------------------------------------


def _time_axis(run: Run) -> str:
    return f"{_clock(run)} (s)"


def _clock(run: Run) -> str:
    return "virtual time" if run.facts.runtime == "simulation" else "testbed time"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _share(part: float, total: float) -> str:
    percent = 100 * part / total
    return f"{percent:.1f} %" if percent >= 0.05 or percent == 0 else "< 0.1 %"


def format_duration(seconds: float) -> str:
    """Seconds as people say them: ``41.2 s``, ``12 min 5 s``, ``3 h 12 min``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def human(value: Any) -> str:
    """A value of a JSON file as a table cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    return str(value)
