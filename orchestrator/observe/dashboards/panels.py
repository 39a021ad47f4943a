"""Panels of a dashboard as values, rendered as Grafana's classic JSON (schema 39; Grafana 11.1 and later). Pure.

A panel says what it shows, in which unit and why one looks at it; everything that Grafana wants besides is the same for
all panels of a kind and stands here once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from orchestrator.checks import JsonObject

COLUMNS: Final = 24
"""Width of Grafana's grid."""

HALF: Final = COLUMNS // 2

PLUGIN_VERSION: Final = "11.1.0"
"""The Grafana whose panels these are. Without a version Grafana takes an XY chart for one of before 10.4."""

DATA_SOURCE: Final[JsonObject] = {"type": "prometheus", "uid": "${datasource}"}
"""The data source that the reader chose."""

Unit = Literal[
    "none", "short", "percentunit", "s", "dtdurations", "bytes", "bps", "ops", "dateTimeAsIso", "bool_yes_no", "string"
]
"""Units of Grafana that are used: ``bytes`` count in 1024, as ``bps`` (bits) does not; ``s`` picks ms, s, min."""

Color = Literal["green", "yellow", "orange", "red", "blue", "purple", "gray", "light-blue", "dark-red", "transparent"]

Format = Literal["time_series", "table", "heatmap"]


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL, with Grafana's variables.
        legend: Name of each series, with labels as ``{{node}}``; empty where the panel makes its own.
        instant: Whether it is asked for at the end of the time range alone.
        form: How Grafana hands the result to the panel.
    """

    expr: str
    legend: str = ""
    instant: bool = False
    form: Format = "time_series"

    def to_json(self, number: int) -> JsonObject:
        """Render the query; ``number`` counts a panel's queries from 0.

        Grafana takes ``interval`` for the time between two samples, from which it chooses the windows of rates.
        """
        return {
            "datasource": DATA_SOURCE,
            "editorMode": "code",
            "expr": self.expr,
            "format": self.form,
            "instant": self.instant,
            "interval": "$step",
            "legendFormat": self.legend,
            "range": not self.instant,
            "refId": chr(ord("A") + number),
        }


def at_end(expr: str, legend: str = "", form: Format = "table") -> Query:
    """Return a query that is asked for at the end of the time range, by default for a table."""
    return Query(expr, legend, instant=True, form=form)


@dataclass(frozen=True, slots=True)
class Override:
    """Properties of the series or columns of one name.

    Attributes:
        name: Their name, or a regular expression between slashes.
        properties: Values by Grafana's identifiers, as ``custom.lineWidth``.
    """

    name: str
    properties: Mapping[str, object]

    def to_json(self) -> JsonObject:
        """Render the override."""
        matcher = "byRegexp" if self.name.startswith("/") else "byName"
        properties = [{"id": name, "value": value} for name, value in self.properties.items()]
        return {"matcher": {"id": matcher, "options": self.name}, "properties": properties}


def colored(colors: Mapping[str, Color]) -> tuple[Override, ...]:
    """Return overrides that give each series, by name, a color of its own."""
    return tuple(Override(name, {"color": {"fixedColor": color, "mode": "fixed"}}) for name, color in colors.items())


def dashed(pattern: str) -> Override:
    """Return an override that dashes the series whose names match: bounds and what was asked for."""
    return Override(
        pattern, {"custom.lineStyle": {"dash": [8, 6], "fill": "dash"}, "custom.fillOpacity": 0, "custom.lineWidth": 1}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel: the part that all kinds share.

    Attributes:
        title: Its title.
        description: What it shows and how to read it, in a sentence or two.
        unit: Unit of its values.
        queries: What it shows.
        width: Columns of the grid.
        height: Rows of the grid, about 30 pixels each.
        minimum: Least value of the axis; None: of the data.
        maximum: Largest value of the axis; None: of the data.
        steps: Colors from a value on, increasing; below the first all is green.
        texts: Texts and colors that stand for values.
        overrides: Properties of single series or columns.
    """

    kind: ClassVar[str]

    title: str
    description: str
    unit: Unit
    queries: Sequence[Query]
    width: int = HALF
    height: int = 8
    minimum: float | None = None
    maximum: float | None = None
    steps: Sequence[tuple[float, Color]] = ()
    texts: Mapping[int, tuple[str, Color]] = field(default_factory=dict)
    overrides: Sequence[Override] = ()

    def to_json(self, number: int, x: int, y: int) -> JsonObject:
        """Render the panel at a place of the grid."""
        panel: JsonObject = {
            "datasource": DATA_SOURCE,
            "description": self.description,
            "fieldConfig": {
                "defaults": self._defaults(),
                "overrides": [override.to_json() for override in self.all_overrides()],
            },
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "id": number,
            "options": self.options(),
            "pluginVersion": PLUGIN_VERSION,
            "targets": [query.to_json(number) for number, query in enumerate(self.queries)],
            "title": self.title,
            "type": self.kind,
        }
        if steps := self.transformations():
            panel["transformations"] = steps
        return panel

    def options(self) -> JsonObject:
        """Options of this kind of panel."""
        raise NotImplementedError

    def custom(self) -> JsonObject:
        """Properties of each series that only this kind of panel has."""
        return {}

    def color_mode(self) -> str:
        """Source of the colors of series."""
        return "palette-classic"

    def all_overrides(self) -> Sequence[Override]:
        """Overrides of the panel and of its kind."""
        return self.overrides

    def transformations(self) -> list[JsonObject]:
        """Steps from the results of the queries to what is shown."""
        return []

    def _defaults(self) -> JsonObject:
        steps = [{"color": "green", "value": None}, *({"color": color, "value": at} for at, color in self.steps)]
        defaults: JsonObject = {
            "color": {"mode": self.color_mode()},
            "custom": self.custom(),
            "mappings": [],
            "noValue": "–",
            "thresholds": {"mode": "absolute", "steps": steps},
            "unit": self.unit,
        }
        if self.texts:
            texts = {
                str(value): {"color": color, "index": index, "text": text}
                for index, (value, (text, color)) in enumerate(self.texts.items())
            }
            defaults["mappings"] = [{"options": texts, "type": "value"}]
        if self.minimum is not None:
            defaults["min"] = self.minimum
        if self.maximum is not None:
            defaults["max"] = self.maximum
        return defaults


LAST: Final[JsonObject] = {"calcs": ["lastNotNull"], "fields": "", "values": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSeries(Panel):
    """Lines over time.

    Attributes:
        stacked: Whether values stand on each other: as they are, or as shares of their sum.
        stepped: Whether a value holds until the next one.
        logarithmic: Whether the axis is.
        show_steps: Whether ``steps`` are drawn as lines.
    """

    kind: ClassVar[str] = "timeseries"

    stacked: Literal["none", "normal", "percent"] = "none"
    stepped: bool = False
    logarithmic: bool = False
    show_steps: bool = False

    def options(self) -> JsonObject:
        """Options of lines over time."""
        return {
            "legend": {"calcs": ["lastNotNull"], "displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }

    def custom(self) -> JsonObject:
        """Properties of a line."""
        return {
            "drawStyle": "line",
            "fillOpacity": 0 if self.stacked == "none" else 60,
            "lineInterpolation": "stepAfter" if self.stepped else "linear",
            "lineWidth": 2 if self.stacked == "none" else 0,
            "pointSize": 4,
            "scaleDistribution": {"log": 10, "type": "log"} if self.logarithmic else {"type": "linear"},
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": {"group": "A", "mode": self.stacked},
            "thresholdsStyle": {"mode": "dashed" if self.show_steps else "off"},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat(Panel):
    """One value, or few, in large type.

    Attributes:
        text: Whether the value, the series' name, or both are shown.
    """

    kind: ClassVar[str] = "stat"

    text: Literal["value", "name", "value_and_name"] = "value"

    def options(self) -> JsonObject:
        """Options of large values."""
        return {
            "colorMode": "value" if self.steps or self.texts else "none",
            "graphMode": "none",
            "justifyMode": "center",
            "orientation": "auto",
            "reduceOptions": LAST,
            "textMode": self.text,
            "wideLayout": True,
        }

    def color_mode(self) -> str:
        """Colors come from ``steps``."""
        return "thresholds"


@dataclass(frozen=True, slots=True, kw_only=True)
class BarGauge(Panel):
    """One horizontal bar for each series."""

    kind: ClassVar[str] = "bargauge"

    def options(self) -> JsonObject:
        """Options of bars."""
        return {
            "displayMode": "basic",
            "maxVizHeight": 40,
            "minVizHeight": 12,
            "namePlacement": "left",
            "orientation": "horizontal",
            "reduceOptions": LAST,
            "showUnfilled": True,
            "sizing": "auto",
            "valueMode": "color",
        }

    def color_mode(self) -> str:
        """Colors come from ``steps``."""
        return "thresholds"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateTimeline(Panel):
    """One row for each series, in the color of its value."""

    kind: ClassVar[str] = "state-timeline"

    def options(self) -> JsonObject:
        """Options of rows of states."""
        return {
            "alignValue": "left",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "mergeValues": True,
            "rowHeight": 0.8,
            "showValue": "never",
            "tooltip": {"mode": "single", "sort": "none"},
        }

    def custom(self) -> JsonObject:
        """Properties of a row."""
        return {"fillOpacity": 80, "lineWidth": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap(Panel):
    """Counts in the buckets of a histogram over time; its query has the label ``le`` as legend."""

    kind: ClassVar[str] = "heatmap"

    def options(self) -> JsonObject:
        """Options of buckets over time."""
        return {
            "calculate": False,
            "cellGap": 1,
            "cellValues": {"unit": "short"},
            "color": {
                "exponent": 0.5, "fill": "dark-orange", "mode": "scheme", "reverse": False, "scale": "exponential",
                "scheme": "Oranges", "steps": 64,
            },
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": self.unit},
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class XYChart(Panel):
    """One line for each run, over something else than the time of day.

    The query is a table with the columns ``run`` and ``x``, a label that holds a number, beside its value. Grafana
    makes a number of the label, sorts by it, and splits the table into one line for each run, named after it.

    Attributes:
        x_unit: Unit of the horizontal axis.
        x_title: Its title.
        points: Whether there is something to see at each point, as an evaluation.
    """

    kind: ClassVar[str] = "xychart"

    x_unit: Unit
    x_title: str
    points: bool = False

    def options(self) -> JsonObject:
        """Options of lines over a number."""
        return {
            "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
            "mapping": "auto",
            "series": [
                {
                    "x": {"matcher": {"id": "byName", "options": "x"}},
                    "y": {"matcher": {"id": "byName", "options": "Value"}},
                }
            ],
            "tooltip": {"mode": "single", "sort": "none"},
        }

    def custom(self) -> JsonObject:
        """Properties of a line."""
        return {
            "axisLabel": self.title,
            "axisPlacement": "auto",
            "fillOpacity": 50,
            "lineWidth": 2,
            "pointShape": "circle",
            "pointSize": {"fixed": 4},
            "pointStrokeWidth": 1,
            "scaleDistribution": {"type": "linear"},
            "show": "points+lines" if self.points else "lines",
        }

    def all_overrides(self) -> Sequence[Override]:
        """The horizontal axis has a unit and a title of its own, and no bounds of the other one."""
        axis = {"unit": self.x_unit, "custom.axisLabel": self.x_title, "min": 0, "max": None}
        return [Override("x", axis), *self.overrides]

    def transformations(self) -> list[JsonObject]:
        """Steps from one table to one line for each run."""
        return [
            {"id": "convertFieldType", "options": {"conversions": [{"destinationType": "number", "targetField": "x"}]}},
            {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": "x"}]}},
            {"id": "partitionByValues", "options": {"fields": ["run"], "keepFields": False}},
        ]
