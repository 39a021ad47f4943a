"""Draws the dashboards from what Prometheus answers, for a look at them where there is no Grafana.

Run it as ``python -m tests.drawn_dashboards http://127.0.0.1:9090 RUN FOLDER``, with more runs to compare. It draws
what queries, units, legends, axes and transformations make, and not how Grafana looks.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.observe.dashboards.rendering import DASHBOARDS
from tests.grafana import ALL, Json, View

matplotlib.use("agg")

PALETTE = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#e02f44", "#8ab8ff", "#b877d9", "#705da0", "#37872d", "#fade2a"]
COLORS = {"gray": "#8e8e8e", "light-blue": "#8ab8ff", "transparent": "#f4f4f4", "dark-red": "#8f1f2c"}
SUFFIXES = {"bytes": "B", "bps": "b/s", "ops": "ops/s"}
LEGEND_ENTRIES = 12


def shown(value: float, unit: str) -> str:
    """A value as Grafana shows it, about."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit in ("bytes", "bps", "short", "ops", "none"):
        base = 1024 if unit == "bytes" else 1000
        power = min(4, max(0, int(np.log(abs(value)) / np.log(base)))) if value else 0
        names = ["", "Ki", "Mi", "Gi", "Ti"] if unit == "bytes" else ["", "k", "M", "G", "T"]
        return f"{value / base**power:.3g} {names[power]}{SUFFIXES.get(unit, '')}".strip()
    if unit in ("s", "dtdurations"):
        return f"{value:.3g} s" if value >= 1 or not value else f"{1000 * value:.3g} ms"
    if unit == "dateTimeAsIso":
        return str(np.datetime64(int(value), "ms"))[:19]
    return "yes" if unit == "bool_yes_no" and value else "no" if unit == "bool_yes_no" else f"{value:g}"


def legend_of(template: str, labels: Mapping[str, str]) -> str:
    """The name of a series."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], f"<{found[1]}?>"), template)


def settings_of(panel: Json, name: str) -> Json:
    """Unit, color and the like of a series or column: the panel's, and those of the overrides that match."""
    settings = dict(panel["fieldConfig"]["defaults"])
    settings |= {f"custom.{key}": value for key, value in settings.pop("custom").items()}
    for override in panel["fieldConfig"]["overrides"]:
        pattern = override["matcher"]["options"]
        if pattern == name or (pattern.startswith("/") and re.search(pattern.strip("/"), name)):
            settings |= {item["id"]: item["value"] for item in override["properties"]}
    return settings


def color_of(settings: Json, number: int) -> str:
    fixed = settings["color"].get("fixedColor")
    return COLORS.get(fixed, fixed) if fixed else PALETTE[number % len(PALETTE)]


class Drawing:
    """A dashboard that is drawn."""

    def __init__(self, dashboard: Json, view: View) -> None:
        self._dashboard = dashboard
        self._view = view

    def save(self, path: Path) -> None:
        """Draw all panels at their places."""
        height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in self._dashboard["panels"])
        figure = Figure(figsize=(20, 0.42 * height), dpi=65)
        for panel in self._dashboard["panels"]:
            x, y, width, rows = (panel["gridPos"][side] for side in "xywh")
            if panel["type"] == "row":
                figure.text(0.01, 1 - (y + 0.7) / height, panel["title"], fontsize=14, weight="bold")
                continue
            left, top = x / 24 + 0.028, 1 - (y + 0.9) / height
            axes = figure.add_axes((left, top - (rows - 2.4) / height, width / 24 - 0.04, (rows - 2.4) / height))
            axes.set_title(f"{panel['title']}  [{panel['fieldConfig']['defaults']['unit']}]", fontsize=10, loc="left")
            axes.tick_params(labelsize=8)
            self._draw(axes, panel)
        figure.savefig(path)

    def _draw(self, axes: Axes, panel: Json) -> None:
        answers = [(target, self._ask(target["expr"], target["instant"])) for target in panel["targets"]]
        if not any(series for _, series in answers):
            axes.text(0.5, 0.5, "No data", ha="center", transform=axes.transAxes, color="#c4162a")
            return
        named = [
            (legend_of(target["legendFormat"], found["metric"]), found)
            for target, series in answers
            for found in series
        ]
        match panel["type"]:
            case "timeseries":
                self._lines(axes, panel, named)
            case "stat" | "bargauge":
                self._values(axes, panel, named)
            case "state-timeline":
                self._states(axes, panel, named)
            case "heatmap":
                self._buckets(axes, named)
            case "table":
                self._table(axes, panel, [series for _, series in answers])
            case "xychart":
                self._over(axes, panel, answers[0][1])

    def _ask(self, expr: str, instant: bool) -> list[Json]:
        return self._view.ask(self._view.put_in(expr, self._dashboard), instant=instant)

    def _seconds(self, values: Sequence[Sequence[Any]]) -> tuple[Any, Any]:
        """Times since the begin of the range and values, with gaps where samples are missing."""
        steps = np.arange(self._view.start_s, self._view.end_s + 1e-6, self._view.step_s)
        found = {round(float(time), 3): float(value) for time, value in values}
        return steps - self._view.start_s, np.array([found.get(round(float(at), 3), np.nan) for at in steps])

    def _lines(self, axes: Axes, panel: Json, named: Sequence[tuple[str, Json]]) -> None:
        custom, unit = panel["fieldConfig"]["defaults"]["custom"], panel["fieldConfig"]["defaults"]["unit"]
        lines = [(name, *self._seconds(found["values"])) for name, found in named]
        if custom["stacking"]["mode"] != "none":
            values = np.nan_to_num(np.array([y for _, _, y in lines]))
            if custom["stacking"]["mode"] == "percent":
                values = values / np.maximum(values.sum(axis=0), 1e-12)
            colors = [color_of(settings_of(panel, name), i) for i, (name, _, _) in enumerate(lines)]
            axes.stackplot(lines[0][1], values, labels=[name for name, _, _ in lines], colors=colors, alpha=0.7)
        else:
            self._plain_lines(axes, panel, lines)
        if custom["scaleDistribution"]["type"] == "log":
            axes.set_yscale("log")
        if "min" in panel["fieldConfig"]["defaults"]:
            axes.set_ylim(bottom=panel["fieldConfig"]["defaults"]["min"])
        axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
        axes.set_xlim(0, self._view.end_s - self._view.start_s)
        self._legend(axes)

    def _plain_lines(self, axes: Axes, panel: Json, lines: Sequence[tuple[str, Any, Any]]) -> None:
        by_name = {name: y for name, _, y in lines}
        for number, (name, x, y) in enumerate(lines):
            settings = settings_of(panel, name)
            color = color_of(settings, number)
            style = "--" if "custom.lineStyle" in settings else "-"
            if below := settings.get("custom.fillBelowTo"):
                axes.fill_between(x, y, by_name.get(below, y), color=color, alpha=0.3, step=None, lw=0)
            drawn = "steps-post" if settings["custom.lineInterpolation"] == "stepAfter" else "default"
            axes.plot(x, y, style, color=color, lw=settings["custom.lineWidth"] * 0.8, label=name, drawstyle=drawn)
        if panel["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"]["mode"] != "off":
            for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]:
                axes.axhline(step["value"], color=step["color"], ls=":", lw=1)

    def _legend(self, axes: Axes) -> None:
        handles, names = axes.get_legend_handles_labels()
        more = len(names) - LEGEND_ENTRIES
        title = f"and {more} more" if more > 0 else None
        axes.legend(handles[:LEGEND_ENTRIES], names[:LEGEND_ENTRIES], fontsize=7, ncols=2, title=title, loc="best")

    def _values(self, axes: Axes, panel: Json, named: Sequence[tuple[str, Json]]) -> None:
        unit = panel["fieldConfig"]["defaults"]["unit"]
        values = [(name, [float(v) for _, v in found["values"] if v != "NaN"]) for name, found in named]
        if panel["type"] == "stat":
            axes.set_axis_off()
            text = panel["options"]["textMode"]
            texts = [name if text == "name" else shown(known[-1], unit) if known else "NaN" for name, known in values]
            axes.text(0.5, 0.3, "\n".join(texts), ha="center", transform=axes.transAxes, fontsize=18)
            return
        axes.barh([name for name, _ in values], [known[-1] if known else 0 for _, known in values], color=PALETTE[0])
        axes.xaxis.set_major_formatter(lambda value, _: shown(value, unit))
        axes.invert_yaxis()
        axes.tick_params(axis="y", pad=-4)
        for label in axes.get_yticklabels():
            label.set_horizontalalignment("left")

    def _states(self, axes: Axes, panel: Json, named: Sequence[tuple[str, Json]]) -> None:
        texts = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
        for row, (_, found) in enumerate(named):
            x, y = self._seconds(found["values"])
            for state, text in texts.items():
                where = y == float(state)
                color = COLORS.get(text["color"], text["color"])
                axes.fill_between(x, row - 0.4, row + 0.4, where=where, color=color, step="post", lw=0, alpha=0.8)
        axes.set_yticks(range(len(named)), [name for name, _ in named])
        axes.tick_params(axis="y", pad=-4)
        for label in axes.get_yticklabels():
            label.set_horizontalalignment("left")
        axes.set_xlim(0, self._view.end_s - self._view.start_s)
        axes.invert_yaxis()

    def _buckets(self, axes: Axes, named: Sequence[tuple[str, Json]]) -> None:
        rows = sorted(named, key=lambda item: float(item[0].replace("+Inf", "inf")))
        values = np.nan_to_num(np.array([self._seconds(found["values"])[1] for _, found in rows]))
        counts = np.diff(values, axis=0, prepend=0)
        extent = (0, self._view.end_s - self._view.start_s, 0, len(rows))
        axes.imshow(np.sqrt(np.maximum(counts, 0)), aspect="auto", origin="lower", cmap="Oranges", extent=extent)
        axes.set_yticks(range(1, len(rows) + 1), [name for name, _ in rows])

    def _table(self, axes: Axes, panel: Json, answers: Sequence[Sequence[Json]]) -> None:
        axes.set_axis_off()
        organized = next(step for step in panel["transformations"] if step["id"] == "organize")["options"]
        columns = organized["renameByName"]
        rows: dict[tuple[str, ...], dict[str, str]] = {}
        many = len(answers) > 1
        for number, series in enumerate(answers):
            value = f"Value #{chr(ord('A') + number)}" if many else "Value"
            for found in series:
                labels = {name: label for name, label in found["metric"].items() if name in columns}
                row = next((row for row in rows.values() if all(row.get(k, v) == v for k, v in labels.items())), None)
                row = rows.setdefault(tuple(labels.values()), {}) if row is None else row
                row |= {**labels, value: found["values"][-1][1]}
        kept = {source: title for source, title in columns.items() if not self._hidden(panel, title)}
        cells = [[self._cell(panel, title, row.get(source)) for source, title in kept.items()] for row in rows.values()]
        table = axes.table(cells[:20], colLabels=list(kept.values()), loc="upper center", cellLoc="left")
        table.auto_set_font_size(False)
        table.set_fontsize(8)

    def _hidden(self, panel: Json, title: str) -> bool:
        return bool(settings_of(panel, title).get("custom.hidden", False))

    def _cell(self, panel: Json, title: str, value: str | None) -> str:
        unit = settings_of(panel, title)["unit"]
        return "" if value is None else value if unit == "string" else shown(float(value), unit)

    def _over(self, axes: Axes, panel: Json, series: Sequence[Json]) -> None:
        lines: dict[str, list[tuple[float, float]]] = {}
        for found in series:
            lines.setdefault(found["metric"]["run"], []).append(
                (float(found["metric"]["x"]), float(found["values"][-1][1]))
            )
        points = "o-" if "points" in panel["fieldConfig"]["defaults"]["custom"]["show"] else "-"
        for number, (run, pairs) in enumerate(sorted(lines.items())):
            x, y = zip(*sorted(pairs), strict=True)
            axes.plot(x, y, points, ms=3, color=PALETTE[number % len(PALETTE)], label=run)
        x_unit, y_unit = settings_of(panel, "x")["unit"], panel["fieldConfig"]["defaults"]["unit"]
        axes.xaxis.set_major_formatter(lambda value, _: shown(value, x_unit))
        axes.yaxis.set_major_formatter(lambda value, _: shown(value, y_unit))
        axes.set_xlabel(settings_of(panel, "x")["custom.axisLabel"], fontsize=8)
        axes.set_xlim(left=0)
        self._legend(axes)


def asker(url: str) -> Callable[..., Any]:
    """Return the function that asks a Prometheus."""

    def get(path: str, **parameters: str) -> Any:
        with urlopen(f"{url}/api/v1/{path}?{urlencode(parameters)}") as response:
            return json.load(response)["data"]

    return get


def time_range(get: Callable[..., Any], runs: Sequence[str]) -> tuple[float, float]:
    """Begin and end of all samples of the runs in the last hundred days."""
    pattern = "|".join(re.escape(run).replace("\\", "\\\\") for run in runs)
    edges = []
    for function in ("min", "max"):
        expr = f'{function}(timestamp(fragmesh_run_clock_seconds{{run=~"{pattern}"}}))'
        found = get("query", query=f"{function}_over_time(({expr})[100d:10s])")["result"]
        edges.append(float(found[0]["value"][1]))
    return edges[0], edges[1]


def main() -> None:
    """Draw all dashboards into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("run", nargs="+")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--node", default="0")
    parser.add_argument("--range", nargs=2, type=float, metavar="S", help="Unix times")
    given = parser.parse_args()
    get = asker(given.url)
    given.folder.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        compares = dashboard.uid == "fragmesh-compare"
        start_s, end_s = given.range or time_range(get, given.run if compares else given.run[:1])
        node = given.node if dashboard.uid == "fragmesh-node" else ALL
        choices = {"run": given.run if compares else given.run[0], "node": node, "group": ALL, "experiment": ALL}
        view = View(get, start_s, end_s, choices)
        Drawing(dashboard.to_json(), view).save(given.folder / f"{dashboard.uid}.png")


if __name__ == "__main__":
    main()
