"""Dashboards against a real Prometheus that holds runs: every query answers, and every answer has something to show."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.observe.dashboards.compare_dashboard import COMPARE_DASHBOARD
from orchestrator.results.reader import Run
from tests.grafana import ALL, Json, View
from tests.integration.dashboard_answers import RENDERED, Observed, unanswered
from tests.integration.prometheus import prometheus_with
from tests.integration.simulated import Recordings
from tests.integration.test_prometheus import exported


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


@pytest.mark.parametrize(
    "expr",
    ['fragmesh_rounds_total{run="$run", node="none"}', 'fragmesh_consensus_distance{run="$run"} * (0 / 0)'],
    ids=["nothing", "no number"],
)
def test_a_query_without_an_answer_is_found(imported: Observed, expr: str) -> None:
    dashboard = copy.deepcopy(RENDERED[0])
    panel = next(found for found in dashboard["panels"] if found["title"] == "Rounds")
    panel["targets"] = [{**panel["targets"][0], "expr": expr}]
    (found,) = unanswered(imported, dashboard, imported.runs[1])
    assert found.startswith("fragmesh-run, Rounds: A: no answer to fragmesh_")


def test_a_query_that_prometheus_refuses_is_an_error(imported: Observed) -> None:
    dashboard = copy.deepcopy(RENDERED[0])
    panel = next(found for found in dashboard["panels"] if found["title"] == "Rounds")
    panel["targets"][0]["expr"] = "sum by ("
    with pytest.raises(AssertionError, match="parse error"):
        list(unanswered(imported, dashboard, imported.runs[1]))


def test_a_variable_without_values_is_found(imported: Observed) -> None:
    dashboard = copy.deepcopy(RENDERED[0])
    variable = next(found for found in dashboard["templating"]["list"] if found["name"] == "group")
    variable["query"]["query"] = 'label_values(fragmesh_rounds_total{run="none"}, group)'
    assert list(unanswered(imported, dashboard, imported.runs[1])) == ["fragmesh-run, variable group: no values"]


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
