"""How dashboards are asked of a real Prometheus that holds runs, and what counts as an answer."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.observe.dashboards.compare_dashboard import COMPARE_DASHBOARD
from orchestrator.observe.dashboards.rendering import DASHBOARDS
from tests.dashboard_linter import legend_labels, selectors
from tests.grafana import ALL, Json, View, asked, label_queries
from tests.integration.prometheus import Prometheus

UNTIL_OVER = re.compile(r"unless on \(run\) \(fragmesh_run_phase\{[^}]*\} == 1\)")
"""What hides values of a run that is over; an export has no phases, and its values are there all the same."""

RENDERED = [dashboard.to_json() for dashboard in DASHBOARDS]


@dataclass(frozen=True)
class Observed:
    """Runs that a Prometheus holds, and how a reader looks at them.

    Attributes:
        prometheus: It.
        runs: Their names.
        begin_s: Begin of the time range, Unix time.
        end_s: Its end, somewhat after the runs.
    """

    prometheus: Prometheus
    runs: tuple[str, ...]
    begin_s: float
    end_s: float

    def view(self, dashboard: Json, run: str) -> View:
        """Return the view of a reader who chose a run, or all of them where several may be compared."""
        compares = dashboard["uid"] == COMPARE_DASHBOARD.uid
        node = "0" if dashboard["uid"] == "fragmesh-node" else ALL
        choices = {"run": ALL if compares else run, "group": ALL, "node": node, "experiment": ALL, "step": "1s"}
        return View(self.prometheus.get, self.begin_s, self.end_s, choices)

    def families(self, run: str) -> set[str]:
        """Return the names of the series that there are of a run."""
        times = {"start": str(self.begin_s), "end": str(self.end_s)}
        return set(self.prometheus.get("label/__name__/values", **{"match[]": f'{{run="{run}"}}'}, **times))


def is_told(series: list[Json]) -> bool:
    """Whether anything is shown: some value that is a number."""
    return any(not math.isnan(float(value)) for found in series for _, value in found["values"])


def unanswered(observed: Observed, dashboard: Json, run: str) -> Iterator[str]:
    """Queries without an answer though the run has the series that they select, and legends without their labels."""
    view, families = observed.view(dashboard, run), observed.families(run)
    for place, expr, instant in asked(dashboard):
        series = view.ask(view.put_in(expr, dashboard), instant=instant)
        needed = selectors(UNTIL_OVER.sub("", expr))
        if not is_told(series) and all(selector.metric in families for selector in needed):
            yield f"{dashboard['uid']}, {place}: no answer to {view.put_in(expr, dashboard)}"
        missing = {label for found in series for label in legend_labels(dashboard, place) - found["metric"].keys()}
        yield from (f"{dashboard['uid']}, {place}: the legend's label {label} is missing" for label in sorted(missing))
    for name, query in label_queries(dashboard):
        if not view.label_values(view.put_in(query, dashboard)):
            yield f"{dashboard['uid']}, variable {name}: no values"
