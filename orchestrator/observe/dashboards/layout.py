"""Dashboards as values: variables, annotations, rows of panels, and their layout on Grafana's grid. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.checks import JsonObject
from orchestrator.observe.dashboards.panels import COLUMNS, DATA_SOURCE, Color, Panel, Query

SCHEMA_VERSION: Final = 39
"""Schema of Grafana 10.1 to 11.3; later ones migrate it when they load it."""

TAG: Final = "fragmesh"
"""Tag of all dashboards, by which they link to each other."""


@dataclass(frozen=True, slots=True)
class DataSourceVariable:
    """The choice of a Prometheus."""

    name: str = "datasource"
    label: str = "Data source"

    def to_json(self) -> JsonObject:
        """Render the variable."""
        return {
            "hide": 0,
            "includeAll": False,
            "label": self.label,
            "multi": False,
            "name": self.name,
            "query": "prometheus",
            "refresh": 1,
            "regex": "",
            "type": "datasource",
        }


@dataclass(frozen=True, slots=True)
class QueryVariable:
    """A choice among the values of a label.

    Attributes:
        name: Its name in queries.
        label: Its name for people.
        query: ``label_values(...)``.
        several: Whether several values, or all, may be chosen.
        newest_first: Whether values are sorted backwards: names of runs have a time at their end.
    """

    name: str
    label: str
    query: str
    several: bool = False
    newest_first: bool = False

    def to_json(self) -> JsonObject:
        """Render the variable; it is asked for anew whenever the time range changes."""
        variable: JsonObject = {
            "datasource": DATA_SOURCE,
            "definition": self.query,
            "hide": 0,
            "includeAll": self.several,
            "label": self.label,
            "multi": self.several,
            "name": self.name,
            "query": {"query": self.query, "refId": f"variable-{self.name}"},
            "refresh": 2,
            "regex": "",
            "sort": 2 if self.newest_first else 3,
            "type": "query",
        }
        if self.several:
            variable["allValue"] = ".*"
            variable["current"] = {"selected": True, "text": ["All"], "value": ["$__all"]}
        return variable


@dataclass(frozen=True, slots=True)
class TextVariable:
    """A value that the reader types in.

    Attributes:
        name: Its name in queries.
        label: Its name for people.
        value: Its value at first.
    """

    name: str
    label: str
    value: str

    def to_json(self) -> JsonObject:
        """Render the variable."""
        option = {"selected": True, "text": self.value, "value": self.value}
        return {
            "current": option,
            "hide": 0,
            "label": self.label,
            "name": self.name,
            "options": [option],
            "query": self.value,
            "type": "textbox",
        }


@dataclass(frozen=True, slots=True)
class Annotation:
    """Marks on all panels over time.

    Attributes:
        name: Its name, by which readers hide it.
        expr: PromQL. Where ``at_value`` is set, Unix time in milliseconds; else above 0 while the mark holds.
        title: Title of a mark, with labels as ``{{node}}``.
        text: Its text.
        color: Its color.
        at_value: Whether the value is the time of the mark.
    """

    name: str
    expr: str
    title: str
    text: str
    color: Color
    at_value: bool = False

    def to_json(self) -> JsonObject:
        """Render the annotation; older releases of Grafana read ``expr``, newer ones ``target``."""
        return {
            "datasource": DATA_SOURCE,
            "enable": True,
            "expr": self.expr,
            "hide": False,
            "iconColor": self.color,
            "name": self.name,
            "step": "1s",
            "target": {**Query(self.expr).to_json(0), "refId": "Anno"},
            "textFormat": self.text,
            "titleFormat": self.title,
            "useValueForTime": self.at_value,
        }


@dataclass(frozen=True, slots=True)
class Row:
    """Panels below a heading, from left to right as they fit.

    Attributes:
        title: The heading; empty: none.
        panels: What stands below.
    """

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A dashboard.

    Attributes:
        uid: Its identifier, part of its address; never changes.
        title: Its title.
        description: What one looks for in it.
        variables: Choices of the reader, besides the data source.
        annotations: Marks on its panels.
        rows: Its panels.
        since: Begin of the time range at first.
        refresh: How often it is drawn anew; empty: when the reader asks.
    """

    uid: str
    title: str
    description: str
    variables: Sequence[QueryVariable | TextVariable]
    rows: Sequence[Row]
    annotations: Sequence[Annotation] = ()
    since: str = "now-30m"
    refresh: str = "5s"

    def to_json(self) -> JsonObject:
        """Render the dashboard."""
        variables = [DataSourceVariable(), *self.variables]
        return {
            "annotations": {"list": [_BUILT_IN, *(annotation.to_json() for annotation in self.annotations)]},
            "description": self.description,
            "editable": True,
            "fiscalYearStartMonth": 0,
            "graphTooltip": 1,
            "links": [_LINKS],
            "liveNow": False,
            "panels": list(_placed(self.rows)),
            "refresh": self.refresh,
            "schemaVersion": SCHEMA_VERSION,
            "tags": [TAG],
            "templating": {"list": [variable.to_json() for variable in variables]},
            "time": {"from": self.since, "to": "now"},
            "timepicker": {},
            "timezone": "browser",
            "title": self.title,
            "uid": self.uid,
            "weekStart": "",
        }


_BUILT_IN: Final[JsonObject] = {
    "builtIn": 1,
    "datasource": {"type": "grafana", "uid": "-- Grafana --"},
    "enable": True,
    "hide": True,
    "iconColor": "rgba(0, 211, 255, 1)",
    "name": "Annotations & Alerts",
    "type": "dashboard",
}
"""Marks that readers make by hand."""

_LINKS: Final[JsonObject] = {
    "asDropdown": False,
    "icon": "external link",
    "includeVars": True,
    "keepTime": True,
    "tags": [TAG],
    "targetBlank": False,
    "title": "Fragmesh",
    "tooltip": "",
    "type": "dashboards",
    "url": "",
}
"""Links to the other dashboards, which keep the variables and the time range."""


def _placed(rows: Sequence[Row]) -> Iterator[JsonObject]:
    """Panels with their places: from left to right, and below the highest of a line when the next one does not fit."""
    number, y = 1, 0
    for row in rows:
        if row.title:
            yield _heading(row.title, number, y)
            number, y = number + 1, y + 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            yield panel.to_json(number, x, y)
            number, x, height = number + 1, x + panel.width, max(height, panel.height)
        y += height


def _heading(title: str, number: int, y: int) -> JsonObject:
    place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
    return {"collapsed": False, "gridPos": place, "id": number, "panels": [], "title": title, "type": "row"}
