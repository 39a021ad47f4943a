"""Dashboards: they keep the rules, each rule catches what breaks it, and the files below deploy are fresh."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.observe.dashboards.layout import Dashboard, QueryVariable, Row, TextVariable
from orchestrator.observe.dashboards.panels import Query, Stat, TimeSeries
from orchestrator.observe.dashboards.rendering import DASHBOARDS, grafana_files
from tests.dashboard_linter import RULES, complaints, panels_of, unused_totals

ROOT = Path(__file__).resolve().parents[4]
GRAFANA = ROOT / "deploy" / "grafana"
Json = dict[str, Any]

TOTALS = {
    ("fragmesh-run", "Sent so far"): "all that was sent, which a rate does not tell",
    ("fragmesh-run", "Rounds"): "the number of a round, not how fast it grows",
    ("fragmesh-node", "Round"): "the number of a round, not how fast it grows",
    ("fragmesh-compare", "Runs"): "all that a run has sent, to the byte",
    ("fragmesh-compare", "Bytes to accuracy"): "all that was sent until then, to the byte",
    ("fragmesh-compare", "Test accuracy over bytes sent"): "all that was sent is the axis",
    ("fragmesh-compare", "Bytes sent over testbed time"): "all that was sent until then",
    ("fragmesh-compare", "Mean round over testbed time"): "the number of a round, not how fast it grows",
}
"""Panels that show counters as they stand, which begin at 0 with the run: those that stand for an amount or an axis."""

RENDERED = [dashboard.to_json() for dashboard in DASHBOARDS]


@pytest.mark.parametrize("dashboard", RENDERED, ids=lambda dashboard: str(dashboard["uid"]))
def test_dashboards_keep_the_rules(dashboard: Json) -> None:
    assert complaints(dashboard, TOTALS) == []


def test_no_exception_is_left_over() -> None:
    assert unused_totals(list(RENDERED), TOTALS) == []


def test_addresses_never_change() -> None:
    uids = [dashboard.uid for dashboard in DASHBOARDS]
    assert uids == ["fragmesh-run", "fragmesh-network", "fragmesh-node", "fragmesh-fidelity", "fragmesh-compare"]


# --- the rules ----------------------------------------------------------------------------------------------


def sound() -> Json:
    """A small dashboard that breaks no rule."""
    rate = 'sum by (node) (rate(fragmesh_rounds_total{run="$run"}[$__rate_interval]))'
    buckets = 'rate(fragmesh_age_seconds_bucket{run="$run", node=~"$node"}[$__rate_interval])'
    dashboard = Dashboard(
        uid="fragmesh-sound",
        title="Sound",
        description="Breaks no rule.",
        variables=[
            QueryVariable("run", "Run", "label_values(fragmesh_run_info, run)"),
            QueryVariable("node", "Node", 'label_values(fragmesh_node_up{run="$run"}, node)', several=True),
            TextVariable("step", "Sampled every", "1s"),
        ],
        annotations=DASHBOARDS[0].annotations,
        rows=[
            Row(
                "Row",
                [
                    TimeSeries(title="A", description="Rate.", unit="ops", queries=[Query(rate, "{{node}}")]),
                    Stat(
                        title="B",
                        description="Quantile.",
                        unit="s",
                        queries=[Query(f"histogram_quantile(0.5, sum by (le) ({buckets}))")],
                    ),
                ],
            )
        ],
    )
    return copy.deepcopy(dashboard.to_json())


def panel(dashboard: Json, title: str = "A") -> Any:
    return next(found for found in panels_of(dashboard) if found["title"] == title)


def asks(expr: str, title: str = "A") -> Callable[[Json], None]:
    return lambda d: panel(d, title)["targets"][0].update(expr=expr)


def variable(dashboard: Json, name: str) -> Any:
    return next(found for found in dashboard["templating"]["list"] if found["name"] == name)


def without_variable(name: str) -> Callable[[Json], None]:
    return lambda d: d["templating"]["list"].remove(variable(d, name))


BREAKS: list[tuple[Callable[[Json], Any], str]] = [
    (lambda d: d.update(title=""), "dashboard_rule: has no title"),
    (lambda d: d.update(description=""), "dashboard_rule: has no description"),
    (lambda d: d.update(uid="cLV5GDCkz"), "dashboard_rule: has no stable uid"),
    (lambda d: d.update(id=7), "dashboard_rule: has a number of a database"),
    (lambda d: d.update(schemaVersion=16), "dashboard_rule: has another schemaVersion"),
    (lambda d: d["links"][0].update(keepTime=False), "link_rule: has no links"),
    (lambda d: d["links"][0].update(includeVars=False), "link_rule: has no links"),
    (lambda d: d.update(links=[]), "link_rule: has no links"),
    (without_variable("datasource"), "data_source_rule: has no templated data source"),
    (lambda d: panel(d).update(datasource=None), "data_source_rule: panel 'A': does not use"),
    (lambda d: panel(d)["targets"][0].update(datasource={}), "data_source_rule: panel 'A', query A: does not use"),
    (lambda d: variable(d, "run").update(datasource={}), "data_source_rule: variable 'run': does not use"),
    (lambda d: d["annotations"]["list"][1].update(datasource={}), "data_source_rule: annotation 'Faults': does not"),
    (without_variable("run"), "variable_rule: has no templated run"),
    (without_variable("node"), "variable_rule: variable 'node': not declared"),
    (asks('fragmesh_node_lives{run="$run"}', "B"), "variable_rule: variable 'node': not used"),
    (lambda d: d["templating"]["list"].append(variable(d, "run")), "variable_rule: variable 'run': declared 2 times"),
    (lambda d: variable(d, "run").update(refresh=1), "variable_rule: variable 'run': does not follow the time range"),
    (lambda d: variable(d, "run")["query"].update(query="up"), "variable_rule: variable 'run': asks for no values"),
    (lambda d: panel(d).update(description=""), "panel_rule: panel 'A': has no title or description"),
    (lambda d: panel(d).update(title=""), "panel_rule: panel '': has no title or description"),
    (lambda d: panel(d)["fieldConfig"]["defaults"].pop("unit"), "panel_rule: panel 'A': has no unit"),
    (lambda d: panel(d)["fieldConfig"]["defaults"].update(unit="furlongs"), "panel_rule: panel 'A': has no unit"),
    (
        lambda d: panel(d)["fieldConfig"]["overrides"].append(
            {"matcher": {"options": "x"}, "properties": [{"id": "unit", "value": "?"}]}
        ),
        "panel_rule: panel 'A': x has no unit",
    ),
    (lambda d: panel(d).update(targets=[]), "panel_rule: panel 'A': shows nothing"),
    (lambda d: panel(d)["targets"].append(panel(d)["targets"][0]), "panel_rule: panel 'A': queries share a name"),
    (lambda d: panel(d).update(id=panel(d, "B")["id"]), "identity_rule: panel id 3: used 2 times"),
    (lambda d: panel(d).update(title="B"), "identity_rule: panel title 'B': used 2 times"),
    (lambda d: panel(d)["gridPos"].update(w=13), "layout_rule: panel 'A': overlaps 'B'"),
    (lambda d: panel(d)["gridPos"].update(y=0), "layout_rule: panel 'Row': overlaps 'A'"),
    (lambda d: panel(d, "B")["gridPos"].update(x=20), "layout_rule: panel 'B': leaves the grid"),
    (lambda d: panel(d).update(type="table"), "format_rule: panel 'A', query A: a table wants the format table"),
    (lambda d: panel(d)["targets"][0].update(instant=True), "format_rule: panel 'A', query A: asked for at the wrong"),
    (
        lambda d: panel(d)["targets"][0].update(instant=True, range=False),
        "format_rule: panel 'A', query A: does not look back",
    ),
    (lambda d: panel(d)["targets"][0].update(legendFormat=""), "format_rule: panel 'A', query A: has no legend"),
    (lambda d: panel(d).update(type="heatmap"), "format_rule: panel 'A', query A: buckets are not named"),
    (asks('sum(fragmesh_node_lives{run="$run"}'), "promql_rule: panel 'A', query A: brackets do not match"),
    (asks("1 + 1"), "promql_rule: panel 'A', query A: selects nothing"),
    (asks('fragmesh_lives{run="$run"}'), "promql_rule: panel 'A', query A: fragmesh_lives is not in the table"),
    (asks('fragmesh_age_seconds{run="$run"}'), "promql_rule: panel 'A', query A: fragmesh_age_seconds is not in"),
    (asks('fragmesh_node_lives{run="$run", peer="1"}'), "promql_rule: panel 'A', query A: fragmesh_node_lives has no"),
    (asks('sum by (peer) (fragmesh_node_lives{run="$run"})'), "promql_rule: panel 'A', query A: unknown label peer"),
    (
        lambda d: variable(d, "run")["query"].update(query="label_values(runs, run)"),
        "promql_rule: variable 'run': runs is not in the table",
    ),
    (asks("fragmesh_node_lives"), "run_rule: panel 'A', query A: fragmesh_node_lives of all runs"),
    (asks('fragmesh_node_lives{run="mine"}'), "run_rule: panel 'A', query A: fragmesh_node_lives of all runs"),
    (asks('fragmesh_node_lives{run=~"$run"}'), "run_rule: panel 'A', query A: run=~$run should be matched by ="),
    (
        asks('fragmesh_node_lives{run="$run", node="$node"}'),
        "run_rule: panel 'A', query A: node=$node should be matched by =~",
    ),
    (asks('rate(fragmesh_rounds_total{run="$run"}[5m])'), "rate_rule: panel 'A', query A: rate over [5m] and not"),
    (asks('rate(fragmesh_rounds_total{run="$run"}[$__range])'), "rate_rule: panel 'A', query A: rate over [$__range]"),
    (
        asks('increase(fragmesh_rounds_total{run="$run"}[1h])'),
        "rate_rule: panel 'A', query A: a window of its own, [1h]",
    ),
    (lambda d: panel(d)["targets"][0].pop("interval"), "rate_rule: panel 'A', query A: does not know the time between"),
    (asks('fragmesh_rounds_total{run="$run"}'), "counter_rule: panel 'A', query A: the counter fragmesh_rounds_total"),
    (
        asks('last_over_time(fragmesh_rounds_total{run="$run"}[$__range])'),
        "counter_rule: panel 'A', query A: the counter fragmesh_rounds_total",
    ),
    (
        asks('rate(fragmesh_age_seconds_bucket{run="$run"}[$__rate_interval])'),
        "counter_rule: panel 'A', query A: the buckets fragmesh_age_seconds_bucket",
    ),
    (
        lambda d: d["annotations"]["list"][2].update(useValueForTime=False),
        "annotation_rule: annotation 'Faults begin': takes its value for what it is not",
    ),
    (
        lambda d: d["annotations"]["list"][2]["target"].update(expr="up"),
        "annotation_rule: annotation 'Faults begin': is another one",
    ),
    (
        lambda d: d["annotations"]["list"][2].update(expr='fragmesh_fault_begin_timestamp_seconds{run="$run"}'),
        "annotation_rule: annotation 'Faults begin': Grafana wants milliseconds",
    ),
]


def test_the_sound_dashboard_breaks_no_rule() -> None:
    assert complaints(sound(), {}) == []


@pytest.mark.parametrize(("damage", "complaint"), BREAKS, ids=[complaint for _, complaint in BREAKS])
def test_a_rule_catches_what_breaks_it(damage: Callable[[Json], Any], complaint: str) -> None:
    broken = sound()
    damage(broken)
    assert [found for found in complaints(broken, {}) if found.startswith(complaint)]


def test_every_rule_is_shown_to_catch_something() -> None:
    caught = {complaint.split(":")[0] for _, complaint in BREAKS}
    assert caught == {rule.__name__ for rule in RULES}


# --- layout -------------------------------------------------------------------------------------------------


def stat(title: str, width: int, height: int) -> Stat:
    return Stat(title=title, description="", unit="short", queries=[], width=width, height=height)


def test_panels_are_laid_out_from_left_to_right_below_the_highest_of_a_line() -> None:
    rows = [
        Row("", [stat("a", 12, 4), stat("b", 8, 6), stat("c", 8, 4)]),
        Row("Next", [stat("d", 24, 3), stat("e", 6, 3)]),
    ]
    dashboard = Dashboard(uid="", title="", description="", variables=[], rows=rows).to_json()
    places = {found["title"]: tuple(found["gridPos"][side] for side in "xywh") for found in dashboard["panels"]}
    assert places == {
        "a": (0, 0, 12, 4),
        "b": (12, 0, 8, 6),
        "c": (0, 6, 8, 4),
        "Next": (0, 10, 24, 1),
        "d": (0, 11, 24, 3),
        "e": (0, 14, 6, 3),
    }


# --- files --------------------------------------------------------------------------------------------------


def test_the_files_below_deploy_are_fresh() -> None:
    found = {path.relative_to(GRAFANA).as_posix(): path.read_text("utf-8") for path in GRAFANA.rglob("*.*")}
    assert found == dict(grafana_files()), "run `make dashboards`"


def test_every_file_can_be_read() -> None:
    for path in GRAFANA.rglob("*.*"):
        value = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
        assert value


def test_stale_files_are_named_and_mended(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy" / "grafana", tmp_path / "grafana")
    script = shutil.copy(ROOT / "deploy" / "dashboards.py", tmp_path)
    changed, old = tmp_path / "grafana/dashboards/fragmesh-run.json", tmp_path / "grafana/dashboards/old.json"
    changed.write_text("{}")
    old.write_text("{}")
    missing = tmp_path / "grafana/provisioning/datasources/fragmesh.yaml"
    missing.unlink()

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, script, *arguments], capture_output=True, text=True, check=False, env=environment
        )

    told = run("--check")
    assert told.returncode == 1
    names = [line.split(":")[0] for line in told.stderr.splitlines()]
    wanted = ["dashboards/fragmesh-run.json", "dashboards/old.json", "provisioning/datasources/fragmesh.yaml"]
    assert names == [f"deploy/grafana/{name}" for name in wanted]
    assert changed.read_text() == "{}"
    assert run().returncode == 0
    assert run("--check").returncode == 0
    assert not old.exists()
