"""Rules for dashboards, those of Grafana's dashboard-linter and ours: each takes classic JSON and yields complaints."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any, get_args

from node.metrics import NODE_METRICS, RUN_METRICS, Metric
from orchestrator.observe.dashboards.panels import Unit
from tests.promql import Selector, grouping_labels, scan, variables

Json = Mapping[str, Any]

UNITS = frozenset(get_args(Unit))
"""Units of Grafana that dashboards use; each stands in its list of units."""

TARGET_LABELS = frozenset({"run", "node", "group", "runtime", "experiment", "algorithm", "job", "instance"})
"""Labels that come with a target."""

BUILT_IN_VARIABLES = frozenset({"__rate_interval", "__range", "__interval", "__value", "__data", "datasource"})

RATES = frozenset({"rate", "irate", "increase"})

Totals = Mapping[tuple[str, str], str]
"""Panels that show counters as they stand: identifier of the dashboard and title of the panel, and why they may."""


def panels_of(dashboard: Json) -> list[Json]:
    """Panels that show something, which headings do not."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets_of(dashboard: Json) -> Iterator[tuple[Json, Json]]:
    """Each query of a panel, with the panel."""
    for panel in panels_of(dashboard):
        for target in panel["targets"]:
            yield panel, target


def annotations_of(dashboard: Json) -> list[Json]:
    """Annotations that ask Prometheus."""
    return [annotation for annotation in dashboard["annotations"]["list"] if "expr" in annotation]


def variables_of(dashboard: Json, kind: str) -> list[Json]:
    """Variables of one type."""
    return [variable for variable in dashboard["templating"]["list"] if variable["type"] == kind]


def expressions(dashboard: Json) -> Iterator[tuple[str, str]]:
    """Every PromQL expression, with its place."""
    for panel, target in targets_of(dashboard):
        yield f"panel {panel['title']!r}, query {target['refId']}", target["expr"]
    for annotation in annotations_of(dashboard):
        yield f"annotation {annotation['name']!r}", annotation["expr"]
    for variable in variables_of(dashboard, "query"):
        if found := re.fullmatch(r"label_values\((.*), *(\w+)\)", variable["query"]["query"]):
            yield f"variable {variable['name']!r}", found[1]


def legend_labels(dashboard: Json, place: str) -> set[str]:
    """Labels that the legend of a query, or the text of an annotation, names; places are those of ``tests.grafana``."""
    found = {f"{panel['title']}: {target['refId']}": target["legendFormat"] for panel, target in targets_of(dashboard)}
    for mark in annotations_of(dashboard):
        found[f"annotation {mark['name']}"] = f"{mark['titleFormat']} {mark['textFormat']}"
    return set(re.findall(r"\{\{ *(\w+) *\}\}", found[place]))


def series_names(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Names of all series of a table of metrics."""
    names: dict[str, Metric] = {}
    for metric in metrics.values():
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        names |= {metric.name + suffix: metric for suffix in suffixes}
    return names


# The build's family is the same for nodes and orchestrators.
SERIES = series_names(NODE_METRICS) | series_names(RUN_METRICS)


def selectors(expr: str) -> list[Selector]:
    """The selectors of an expression; none of one that cannot be read, of which ``promql_rule`` complains."""
    try:
        return scan(expr)
    except ValueError:
        return []


def dashboard_rule(dashboard: Json, totals: Totals) -> Iterator[str]:
    """A dashboard has a title, a description, a stable address, and no number of a database."""
    for key in ("title", "description"):
        if not dashboard.get(key):
            yield f"has no {key}"
    if not re.fullmatch(r"fragmesh-[a-z]{1,31}", dashboard.get("uid", "")):
        yield "has no stable uid"
    if "id" in dashboard or "version" in dashboard:
        yield "has a number of a database"
    if dashboard.get("schemaVersion") != 39:
        yield "has another schemaVersion"


def link_rule(dashboard: Json, totals: Totals) -> Iterator[str]:
    """Links lead to the dashboards of the same tag, and keep variables and time range."""
    links = dashboard["links"]
    if not any(link["tags"] == dashboard["tags"] and link["includeVars"] and link["keepTime"] for link in links):
        yield "has no links to its siblings that keep variables and time range"


def data_source_rule(dashboard: Json, totals: Totals) -> Iterator[str]:
    """The data source is a choice, and everything uses it."""
    found = [(v["name"], v["label"], v["query"]) for v in variables_of(dashboard, "datasource")]
    if found != [("datasource", "Data source", "prometheus")]:
        yield "has no templated data source"
    users = [(f"panel {panel['title']!r}", panel) for panel in panels_of(dashboard)]
    users += [(f"panel {panel['title']!r}, query {target['refId']}", target) for panel, target in targets_of(dashboard)]
    users += [(f"annotation {annotation['name']!r}", annotation) for annotation in annotations_of(dashboard)]
    users += [(f"variable {variable['name']!r}", variable) for variable in variables_of(dashboard, "query")]
    for place, user in users:
        if user["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
            yield f"{place}: does not use the templated data source"


def variable_rule(dashboard: Json, totals: Totals) -> Iterator[str]:
    """The run is a choice; every variable is declared once and used; each follows the time range."""
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    if "run" not in names:
        yield "has no templated run"
    yield from (f"variable {name!r}: declared {count} times" for name, count in Counter(names).items() if count > 1)
    used = set.union(*(variables(expr) for _, expr in expressions(dashboard)))
    used |= set.union(*(variables(target.get("interval", "")) for _, target in targets_of(dashboard)))
    yield from (f"variable {name!r}: not used" for name in sorted(set(names) - used - BUILT_IN_VARIABLES))
    yield from (f"variable {name!r}: not declared" for name in sorted(used - set(names) - BUILT_IN_VARIABLES))
    for variable in variables_of(dashboard, "query"):
        if variable["refresh"] != 2:
            yield f"variable {variable['name']!r}: does not follow the time range"
        if not re.fullmatch(r"label_values\(.+, *\w+\)", variable["query"]["query"]):
            yield f"variable {variable['name']!r}: asks for no values of a label"


def panel_rule(dashboard: Json, totals: Totals) -> Iterator[str]:
    """A panel has a title, a description, a unit and queries with names of their own."""
    for panel in panels_of(dashboard):
        place = f"panel {panel['title']!r}"
        if not panel["title"] or not panel["description"]:
            yield f"{place}: has no title or description"
        if panel["fieldConfig"]["defaults"].get("unit") not in UNITS:
            yield f"{place}: has no unit that Grafana knows"
        for override in panel["fieldConfig"]["overrides"]:
            for setting in override["properties"]:
                if setting["id"] == "unit" and setting["value"] not in UNITS:
                    yield f"{place}: {override['matcher']['options']} has no unit that Grafana knows"
        if not panel["targets"]:
            yield f"{place}: shows nothing"
        if len({target["refId"] for target in panel["targets"]}) < len(panel["targets"]):
            yield f"{place}: queries share a name"


def identity_rule(dashboard: Json, totals: Totals) -> Iterator[str]:
    """Panels have numbers and titles of their own."""
    for what in ("id", "title"):
        values = [panel[what] for panel in dashboard["panels"]]
        yield from (f"panel {what} {value!r}: used {n} times" for value, n in Counter(values).items() if n > 1)


def layout_rule(dashboard: Json, totals: Totals) -> Iterator[str]:
    """Panels stay on the grid and do not overlap."""
    places = [(panel["title"], *(panel["gridPos"][side] for side in "xywh")) for panel in dashboard["panels"]]
    for title, x, y, width, height in places:
        if x < 0 or y < 0 or width < 1 or height < 1 or x + width > 24:
            yield f"panel {title!r}: leaves the grid"
    for (title, x, y, width, height), (other, x2, y2, width2, height2) in combinations(places, 2):
        if x < x2 + width2 and x2 < x + width and y < y2 + height2 and y2 < y + height:
            yield f"panel {title!r}: overlaps {other!r}"


def format_rule(dashboard: Json, totals: Totals) -> Iterator[str]:
    """Tables and XY charts ask once and for tables, heatmaps for buckets, and lines have legends."""
    for panel, target in targets_of(dashboard):
        place = f"panel {panel['title']!r}, query {target['refId']}"
        kind = panel["type"]
        form = {"table": "table", "xychart": "table", "heatmap": "heatmap"}.get(kind, "time_series")
        if target["format"] != form:
            yield f"{place}: a {kind} wants the format {form}"
        if target["instant"] == target["range"] or (form == "table" and not target["instant"]):
            yield f"{place}: asked for at the wrong time"
        if target["instant"] and "[$__range" not in target["expr"]:
            yield f"{place}: does not look back over the time range, which may reach beyond the run"
        if kind == "heatmap" and target["legendFormat"] != "{{le}}":
            yield f"{place}: buckets are not named by their bounds"
        if kind in ("timeseries", "state-timeline", "bargauge") and not target["legendFormat"]:
            yield f"{place}: has no legend"


def promql_rule(dashboard: Json, totals: Totals) -> Iterator[str]:
    """Every expression selects something, known series by known labels."""
    for place, expr in expressions(dashboard):
        try:
            found = scan(expr)
        except ValueError as error:
            yield f"{place}: {error}"
            continue
        if not found:
            yield f"{place}: selects nothing"
        known: set[str] = set()
        for selector in found:
            if selector.metric not in SERIES:
                yield f"{place}: {selector.metric} is not in the table of metrics"
                continue
            labels = {*SERIES[selector.metric].labels, "le"} | TARGET_LABELS
            known |= labels
            for label, _, _ in selector.matchers:
                if label not in labels:
                    yield f"{place}: {selector.metric} has no label {label}"
        if known:
            yield from (f"{place}: unknown label {label}" for label in sorted(grouping_labels(expr) - known))


def run_rule(dashboard: Json, totals: Totals) -> Iterator[str]:
    """Every selector holds the run, and a choice of several values is matched as a regular expression."""
    several = {variable["name"]: variable["multi"] for variable in variables_of(dashboard, "query")}
    for place, expr in expressions(dashboard):
        if place.startswith("variable"):
            continue
        for selector in selectors(expr):
            if ("run", "$run") not in [(label, value) for label, _, value in selector.matchers]:
                yield f"{place}: {selector.metric} of all runs"
            for label, operator, value in selector.matchers:
                wanted = "=~" if several.get(value.removeprefix("$")) else "="
                if value.startswith("$") and operator != wanted:
                    yield f"{place}: {label}{operator}{value} should be matched by {wanted}"


def rate_rule(dashboard: Json, totals: Totals) -> Iterator[str]:
    """Rates have the window that Grafana chooses, from the time between samples that the reader names."""
    for panel, target in targets_of(dashboard):
        if target.get("interval") != "$step":
            yield f"panel {panel['title']!r}, query {target['refId']}: does not know the time between samples"
    for place, expr in expressions(dashboard):
        for selector in selectors(expr):
            function = selector.inside[-1] if selector.inside else ""
            if function in ("rate", "irate") and selector.window != "$__rate_interval":
                yield f"{place}: {function} over [{selector.window}] and not [$__rate_interval]"
            if selector.window and selector.window not in ("$__rate_interval", "$__range"):
                yield f"{place}: a window of its own, [{selector.window}]"


def counter_rule(dashboard: Json, totals: Totals) -> Iterator[str]:
    """Counters stand in a rate, but for totals whose reason is told; buckets in a quantile or a heatmap."""
    for panel, target in targets_of(dashboard):
        place = f"panel {panel['title']!r}, query {target['refId']}"
        for selector in selectors(target["expr"]):
            metric = SERIES.get(selector.metric)
            if metric is None or metric.kind == "gauge":
                continue
            rated = bool(selector.inside) and selector.inside[-1] in RATES
            if not rated and (dashboard["uid"], panel["title"]) not in totals:
                yield f"{place}: the counter {selector.metric} is in no rate"
            counted = panel["type"] == "heatmap" or "histogram_quantile" in selector.inside
            if selector.metric.endswith("_bucket") and not counted:
                yield f"{place}: the buckets {selector.metric} are in no quantile"


def annotation_rule(dashboard: Json, totals: Totals) -> Iterator[str]:
    """Annotations whose value is a time make milliseconds of the seconds of a metric."""
    for annotation in annotations_of(dashboard):
        timestamps = any(selector.metric.endswith("_timestamp_seconds") for selector in selectors(annotation["expr"]))
        if timestamps != annotation["useValueForTime"]:
            yield f"annotation {annotation['name']!r}: takes its value for what it is not"
        if annotation["target"]["expr"] != annotation["expr"]:
            yield f"annotation {annotation['name']!r}: is another one for newer releases"
        if annotation["useValueForTime"] and not annotation["expr"].startswith("1000 * "):
            yield f"annotation {annotation['name']!r}: Grafana wants milliseconds"


RULES: tuple[Callable[[Json, Totals], Iterator[str]], ...] = (
    dashboard_rule, link_rule, data_source_rule, variable_rule, panel_rule, identity_rule, layout_rule, format_rule,
    promql_rule, run_rule, rate_rule, counter_rule, annotation_rule,
)  # fmt: skip


def complaints(dashboard: Json, totals: Totals) -> list[str]:
    """Everything that the rules find in a dashboard, each with the name of its rule."""
    return [f"{rule.__name__}: {complaint}" for rule in RULES for complaint in rule(dashboard, totals)]


def unused_totals(dashboards: list[Json], totals: Totals) -> list[tuple[str, str]]:
    """Reasons that no panel needs."""
    needed = {
        (dashboard["uid"], panel["title"])
        for dashboard in dashboards
        for panel, target in targets_of(dashboard)
        if any("in no rate" in text for text in counter_rule({**dashboard, "panels": [panel]}, {}))
    }
    return sorted(totals.keys() - needed)
