"""Runs in a real Prometheus: exported and imported, with every family and to the digit."""

from pathlib import Path

import pytest

from node.metrics import NODE_METRICS, PREFIX, RUN_METRICS
from orchestrator.observe.recorded_run import Exported, recorded_start_ms, write_openmetrics
from orchestrator.observe.sampled_run import sampled
from orchestrator.results.reader import Run
from tests.integration.prometheus import Prometheus, prometheus_with
from tests.integration.simulated import SETTINGS, Recordings

METRICS = {**NODE_METRICS, **RUN_METRICS}

FATES = ("queued", "sent", "delivered", "aggregated", "cancelled", "aborted", "lost")


def exported(run: Run, start_ms: int | None = None) -> tuple[Path, Exported]:
    file = run.path / "openmetrics.txt"
    start_ms = recorded_start_ms(run) if start_ms is None else start_ms
    return file, write_openmetrics(sampled(run, step_s=None, start_ms=start_ms), file)


def only(prometheus: Prometheus, expression: str, at_s: float) -> float:
    (found,) = prometheus.query(expression, at_s)
    return found.value


@pytest.fixture
def runs(recordings: Recordings, tmp_path: Path) -> dict[str, Run]:
    return {setting: recordings.copy(tmp_path, setting) for setting in SETTINGS}


def test_exported_runs_are_imported_with_every_family_and_to_the_digit(runs: dict[str, Run], tmp_path: Path) -> None:
    told = {setting: exported(run) for setting, run in runs.items()}
    with prometheus_with(tmp_path, *(file for file, _ in told.values())) as prometheus:
        names = set(prometheus.get("label/__name__/values"))
        for setting, run in runs.items():
            at_s, summary, of_run = told[setting][1].end_ms / 1000, run.summary, f'run="{run.path.name}"'
            assert summary is not None
            for name in told[setting][1].families:
                series = f"{name}_count" if METRICS[name].kind == "histogram" else name
                assert series in names
                assert prometheus.query(f"{series}{{{of_run}}}", at_s), f"{setting}: {name}"
            for fate in FATES:
                found = only(prometheus, f"sum({PREFIX}messages_{fate}_total{{{of_run}}})", at_s)
                assert found == summary["messages"][fate], f"{setting}: {fate}"
            for kind, size in summary["bytes"].items():
                found = only(prometheus, f'sum({PREFIX}sent_bytes_total{{{of_run}, class="{kind}"}})', at_s)
                assert found == size, f"{setting}: {kind}"
            assert only(prometheus, f"sum({PREFIX}lost_bytes_total{{{of_run}}})", at_s) == summary["bytes_lost"]
            assert only(prometheus, f"sum({PREFIX}local_steps_total{{{of_run}}})", at_s) == summary["train_steps"]
            averaged = only(prometheus, f"avg({PREFIX}test_accuracy{{{of_run}}})", at_s)
            assert averaged == pytest.approx(summary["final"]["accuracy"])


def test_rates_and_quantiles_can_be_asked_for(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["messages that are lost"]
    file, told = exported(run)
    begin_s, end_s = told.begin_ms / 1000, told.end_ms / 1000
    with prometheus_with(tmp_path, file) as prometheus:
        rate = f"sum(rate({PREFIX}messages_sent_total[1s]))"
        ((_, points),) = prometheus.query_range(rate, begin_s + 1, end_s, 0.5)
        assert len(points) == 11
        assert all(value > 0 for _, value in points)
        buckets = f"sum by (le, group) ({PREFIX}age_seconds_bucket)"
        groups = prometheus.query(f"histogram_quantile(0.95, {buckets})", end_s)
        assert sorted(one.labels["group"] for one in groups) == ["fast", "straggler"]
        assert all(0 < one.value <= 10 for one in groups)


def test_two_runs_lie_over_each_other_by_the_label_run(runs: dict[str, Run], tmp_path: Path) -> None:
    first, second, *_ = runs.values()
    start_ms = recorded_start_ms(first)
    files = [exported(run, start_ms)[0] for run in (first, second)]
    with prometheus_with(tmp_path, *files) as prometheus:
        found = prometheus.query_range(f"avg by (run) ({PREFIX}test_accuracy)", start_ms / 1000, start_ms / 1000 + 6, 1)
        assert sorted(labels["run"] for labels, _ in found) == sorted(run.path.name for run in (first, second))
        for labels, points in found:
            (run,) = [run for run in (first, second) if run.path.name == labels["run"]]
            assert [value for _, value in points] == pytest.approx(run.curve["accuracy_mean"].tolist())
