"""Rules name what exists, and every alert says what it is about and is tested."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from node.metrics import NODE_METRICS, RUN_METRICS
from orchestrator.observe.prometheus_files import CONFIGURATION, prometheus_files

ROOT = Path(__file__).resolve().parents[4]
METRICS = {**NODE_METRICS, **RUN_METRICS}
TARGET_LABELS = {"run", "runtime", "experiment", "algorithm", "node", "group", "job", "instance"}
OF_HISTOGRAMS: Final = ("_bucket", "_sum", "_count")


def rules(kind: str) -> Iterator[dict[str, Any]]:
    for name, content in prometheus_files().items():
        if name.startswith("rules/"):
            for group in yaml.safe_load(content)["groups"]:
                yield from (rule for rule in group["rules"] if kind in rule)


ALERTS = {rule["alert"]: rule for rule in rules("alert")}
RECORDED = {rule["record"]: rule for rule in rules("record")}


def names_in(expression: str) -> set[str]:
    """Names of metrics and recorded series in an expression."""
    return set(re.findall(r"[a-z_0-9]*:?fragmesh_[a-z_0-9:]+", re.sub(r'"[^"]*"', '""', expression)))


def family_of(name: str) -> str | None:
    """The family of the table that a name belongs to."""
    if name in METRICS:
        return None if METRICS[name].kind == "histogram" else name
    of = next((name.removesuffix(ending) for ending in OF_HISTOGRAMS if name.endswith(ending)), name)
    return of if of in METRICS and METRICS[of].kind == "histogram" else None


@pytest.mark.parametrize(
    "rule", [*ALERTS.values(), *RECORDED.values()], ids=lambda rule: rule.get("alert") or rule["record"]
)
def test_a_rule_names_what_the_table_has(rule: dict[str, Any]) -> None:
    names = names_in(rule["expr"])
    assert names or "up{" in rule["expr"]
    for name in names:
        assert name in RECORDED if ":" in name else family_of(name), f"{name}: nothing has this name"


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("fragmesh_rounds_total", "fragmesh_rounds_total"),
        ("fragmesh_rounds", None),
        ("fragmesh_age_seconds_bucket", "fragmesh_age_seconds"),
        ("fragmesh_age_seconds", None),
        ("fragmesh_train_loss_sum", None),
    ],
)
def test_a_name_that_nothing_serves_is_noticed(name: str, family: str | None) -> None:
    assert family_of(name) == family


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_series_is_named_by_level_metric_and_operations(name: str) -> None:
    level, metric, operations = name.split(":")
    assert operations
    labels = re.split(r"_(?=run|node|group|class|le|activity)", level)
    by = re.findall(r"by \(([^)]*)\)", RECORDED[name]["expr"])
    if by:
        assert labels == by[0].split(", "), "the level is the labels that are kept"
    assert any(metric.removeprefix("fragmesh_") in each for each in names_in(RECORDED[name]["expr"]))


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_is_wrong_how_bad_it_is_and_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert re.fullmatch(r"Fragmesh([A-Z][a-z]+)+", name)
    assert alert["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    assert set(alert["annotations"]) == {"summary", "description"}
    summary, description = alert["annotations"]["summary"], alert["annotations"]["description"]
    assert "{{ $labels.run }}" in summary
    assert summary.endswith(".")
    assert description.endswith(".")
    used = set(re.findall(r"\$labels\.([a-z_]+)", summary + description))
    own = {label for each in names_in(alert["expr"]) if (of := family_of(each)) for label in METRICS[of].labels}
    assert used <= TARGET_LABELS | own


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tested_to_fire_and_not_to_fire(name: str) -> None:
    tested = yaml.safe_load((ROOT / "tests" / "integration" / "alerts" / f"{name}.yml").read_text())
    expected = [check["exp_alerts"] for case in tested["tests"] for check in case["alert_rule_test"]]
    assert all(check["alertname"] == name for case in tested["tests"] for check in case["alert_rule_test"])
    assert any(expected)
    assert any(not each for each in expected)


def test_each_test_of_an_alert_is_of_one() -> None:
    assert {path.stem for path in (ROOT / "tests" / "integration" / "alerts").iterdir()} == set(ALERTS)


def test_the_files_are_those_below_deploy() -> None:
    shown = ROOT / "deploy" / "prometheus"
    below = {path.relative_to(shown).as_posix(): path.read_bytes() for path in shown.rglob("*.yml")}
    assert prometheus_files() == below


def test_a_package_has_them_with_it() -> None:
    listed = (ROOT / "pyproject.toml").read_text()
    for name in prometheus_files():
        folder = Path("observe/prometheus") / Path(name).parent
        assert f'"{folder.as_posix()}/*.yml"' in listed


def test_targets_are_looked_for_beside_the_configuration_every_second() -> None:
    content = yaml.safe_load(prometheus_files()[CONFIGURATION])
    (job,) = content["scrape_configs"]
    assert content["global"]["scrape_interval"] == "1s"
    assert job["file_sd_configs"][0]["files"] == ["targets/*.json"]
    assert job["honor_labels"] is True
    assert job["job_name"] == "fragmesh"


def test_the_documentation_names_each_alert_and_how_bad_it_is() -> None:
    page = (ROOT / "docs" / "how-to" / "prometheus.md").read_text()
    rows = re.findall(r"^\| (Fragmesh\w+) \| .* \| (\w+) \|$", page, re.MULTILINE)
    assert rows == [(name, alert["labels"]["severity"]) for name, alert in ALERTS.items()]
