"""Dashboards against a real Prometheus that holds runs: every query answers, and every answer has something to show."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrator.observe.dashboards.compare_dashboard import COMPARE_DASHBOARD
from orchestrator.observe.dashboards.rendering import DASHBOARDS
from orchestrator.results.reader import Run
from tests.dashboard_linter import legend_labels, selectors
from tests.grafana import ALL, Json, View, asked, label_queries
from tests.integration.prometheus import Prometheus, prometheus_with
from tests.integration.simulated import Recordings
from tests.integration.test_prometheus import exported

STRAGGLER, FAST = "4", "0"


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
        node = FAST if dashboard["uid"] == "fragmesh-node" else ALL
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
        if not is_told(series) and all(selector.metric in families for selector in selectors(expr)):
            yield f"{dashboard['uid']}, {place}: no answer to {view.put_in(expr, dashboard)}"
        missing = {label for found in series for label in legend_labels(dashboard, place) - found["metric"].keys()}
        yield from (f"{dashboard['uid']}, {place}: the legend's label {label} is missing" for label in sorted(missing))
    for name, query in label_queries(dashboard):
        if not view.label_values(view.put_in(query, dashboard)):
            yield f"{dashboard['uid']}, variable {name}: no values"


RENDERED = [dashboard.to_json() for dashboard in DASHBOARDS]


@pytest.fixture(scope="module")
def simulations(recordings: Recordings, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("simulations")
    settings = ("transfers that are aborted", "nodes that crash")
    return [recordings.copy(folder, setting) for setting in settings]


@pytest.fixture(scope="module")
def imported(simulations: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """Two simulations, a minute apart."""
    first = exported(simulations[0])
    second = exported(simulations[1], first[1].begin_ms + 60_000)
    with prometheus_with(tmp_path_factory.mktemp("prometheus"), first[0], second[0]) as prometheus:
        names = tuple(run.path.name for run in simulations)
        yield Observed(prometheus, names, first[1].begin_ms / 1000 - 2, second[1].end_ms / 1000 + 2)


@pytest.mark.parametrize("dashboard", RENDERED, ids=lambda dashboard: str(dashboard["uid"]))
def test_every_query_answers_for_a_simulation_that_has_its_series(imported: Observed, dashboard: Json) -> None:
    assert list(unanswered(imported, dashboard, imported.runs[1])) == []


def panel_expr(dashboard: Json, title: str) -> str:
    (found,) = [panel for panel in dashboard["panels"] if panel["title"] == title]
    return str(found["targets"][0]["expr"])


def test_runs_of_different_times_lie_over_each_other(imported: Observed, simulations: list[Run]) -> None:
    dashboard: Any = COMPARE_DASHBOARD.to_json()
    view = imported.view(dashboard, ALL)
    for title, column in (
        ("Test accuracy over testbed time", "accuracy_mean"),
        ("Test loss over testbed time", "loss_mean"),
        ("Consensus distance over testbed time", "consensus_distance"),
    ):
        series = view.ask(view.put_in(panel_expr(dashboard, title), dashboard), instant=True)
        for run in simulations:
            points = sorted(
                (float(found["metric"]["x"]), float(found["values"][-1][1]))
                for found in series
                if found["metric"]["run"] == run.path.name
            )
            wanted = list(zip(run.curve["time_s"].tolist(), run.curve[column].tolist(), strict=True))
            assert [x for x, _ in points] == pytest.approx([x for x, _ in wanted])
            assert [y for _, y in points] == pytest.approx([y for _, y in wanted])


def test_the_time_to_an_accuracy_is_that_of_the_curve(imported: Observed, simulations: list[Run]) -> None:
    dashboard: Any = COMPARE_DASHBOARD.to_json()
    curves = [list(zip(run.curve["time_s"], run.curve["accuracy_mean"], strict=True)) for run in simulations]
    target = min(max(accuracy for _, accuracy in curve) for curve in curves) - 1e-6
    view = imported.view(dashboard, ALL)
    view = View(view.get, view.start_s, view.end_s, {**view.choices, "target": repr(float(target))})
    series = view.ask(view.put_in(panel_expr(dashboard, "Time to accuracy"), dashboard), instant=True)
    found = {one["metric"]["run"]: float(one["values"][-1][1]) for one in series}
    for run, curve in zip(simulations, curves, strict=True):
        assert found[run.path.name] == pytest.approx(min(time_s for time_s, accuracy in curve if accuracy >= target))


def test_a_run_that_never_gets_there_has_no_bar(imported: Observed) -> None:
    dashboard: Any = COMPARE_DASHBOARD.to_json()
    view = imported.view(dashboard, ALL)
    view = View(view.get, view.start_s, view.end_s, {**view.choices, "target": "1.1"})
    assert view.ask(view.put_in(panel_expr(dashboard, "Time to accuracy"), dashboard), instant=True) == []
    assert view.ask(view.put_in(panel_expr(dashboard, "Bytes to accuracy"), dashboard), instant=True) == []
