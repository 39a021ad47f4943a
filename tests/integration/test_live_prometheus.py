"""Real runs scraped by a real Prometheus every second, beside simulations of the same file."""

import sys
from pathlib import Path

import pytest

from node.metrics import BYTE_CLASSES, NODE_METRICS, PREFIX, RUN_METRICS
from orchestrator.experiment.config import read_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.observe.recorded_run import recorded_start_ms, write_openmetrics
from orchestrator.observe.sampled_run import sampled
from orchestrator.results.reader import Run, load_run
from orchestrator.runs.options import RunOptions
from orchestrator.runtimes.simulation import run_simulation
from tests.integration.dashboard_answers import RENDERED, Observed, unanswered
from tests.integration.prometheus import Prometheus, import_openmetrics, scraping_prometheus
from tests.integration.started import ENDLESS, Start, done, start
from tests.unit.orchestrator.observe.test_prometheus_files import RECORDED

__all__ = ["start"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by /proc")

METRICS = {**NODE_METRICS, **RUN_METRICS}

WAITS = (
    "algorithm.kind=dpsgd",
    "compute={step_time_ms: 20, stragglers: {count: 1, factor: 10, placement: lowest_ids}}",
    "schedule=[{action: pause, nodes: [1], at_s: 1, for_s: 0.3},"
    " {action: degrade, nodes: [2], latency_factor: 2, at_s: 2}]",
    "evaluation={interval_s: 1, live: true}",
    "stop={time_s: 8}",
)
"""An experiment in which there is something of everything: nodes wait for a straggler, one is paused, and a link is
slower until the end."""

NOT_THERE = {
    "messages_rejected_total": "no message is refused, and there is a series only for what has happened",
}
"""Families without a series in that run, and why."""

MAY_BE_MISSING = {
    "node_waits_for": "there is a series only while somebody waits, and that may be between two scrapes",
}
"""Families with a series by chance; there are seconds that nodes waited in any case."""

BETWEEN: dict[str, tuple[float, float]] = {
    "node_phase": (0, 1),
    "node_clock_seconds": (8, 60),
    "node_lives": (1, 1),
    "node_unreachable_peers": (0, 2),
    "rounds_total": (1, 250),
    "local_steps_total": (2, 500),
    "train_loss": (1e-6, 10),
    "build_info": (1, 1),
    "run_info": (1, 1),
    "run_phase": (0, 1),
    "run_start_timestamp_seconds": (1.7e9, 4e9),
    "run_clock_seconds": (8, 60),
    "run_end_seconds": (8, 8),
    "run_time_dilation": (1, 1),
    "run_nodes": (3, 3),
    "barrier_missing_nodes": (0, 3),
    "node_up": (0, 1),
    "node_waits_for": (1, 1),
    "test_accuracy": (0, 1),
    "averaged_test_accuracy": (0, 1),
    "test_loss": (1e-6, 10),
    "averaged_test_loss": (1e-6, 10),
    "evaluation_clock_seconds": (8, 8),
    "link_configured_rate_bytes_per_second": (125_000, 125_000),
    "link_measured_rate_bytes_per_second": (10_000, 1_000_000),
    "link_configured_rtt_seconds": (0.01, 0.1),
    "link_measured_rtt_seconds": (0.005, 10),
    "fault_active": (0, 1),
    "fault_begin_timestamp_seconds": (1.7e9, 4e9),
    "fault_end_timestamp_seconds": (1.7e9, 4e9),
    "fidelity_ok": (0, 1),
    "host_cpu_pressure_ratio": (0, 1),
}
"""Bounds of plausible values; of all others, 0 and a billion."""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def last(prometheus: Prometheus, name: str, run: Run, *labels: str) -> float:
    """The last value of a counter, summed over all series of a run with some labels."""
    (found,) = prometheus.query(f"sum(last_over_time({name}{{{', '.join([of(run), *labels])}}}[1h]))")
    return found.value


def of(run: Run) -> str:
    return f'run="{run.path.name}"'


def assert_all_there(prometheus: Prometheus, run: Run) -> None:
    """Every family of the table has plausible values, and so has every recorded series."""
    for name, metric in METRICS.items():
        short = name.removeprefix(PREFIX)
        endings = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        for ending in endings:
            values = prometheus.query(f"last_over_time({name}{ending}{{{of(run)}}}[1h])")
            if short not in MAY_BE_MISSING:
                assert bool(values) == (short not in NOT_THERE), f"{name}{ending}: {NOT_THERE.get(short, 'is missing')}"
            low, high = BETWEEN.get(short, (0, 1e9))
            for value in values:
                assert low <= value.value <= high, f"{name}{ending}: {value}"
                assert {*metric.labels} <= {*value.labels}
    assert last(prometheus, f"{PREFIX}waiting_seconds_total", run) > 1
    for name in RECORDED:
        assert prometheus.query(f"last_over_time({name}{{{of(run)}}}[1h])"), name


def assert_counters_agree(prometheus: Prometheus, run: Run) -> None:
    """Counters are those of the summary, to the digit."""
    summary = run.summary
    assert summary is not None
    for fate in ("queued", "sent", "delivered", "aggregated", "cancelled", "aborted", "lost"):
        assert last(prometheus, f"{PREFIX}messages_{fate}_total", run) == summary["messages"][fate], fate
    for name in BYTE_CLASSES:
        assert last(prometheus, f"{PREFIX}sent_bytes_total", run, f'class="{name}"') == summary["bytes"][name], name
    assert last(prometheus, f"{PREFIX}local_steps_total", run) == summary["train_steps"]
    assert last(prometheus, f"{PREFIX}lost_bytes_total", run) == summary["bytes_lost"]
    assert last(prometheus, f"{PREFIX}values_saturated_total", run) == summary["values_saturated"]
    assert run.messages is not None
    assert last(prometheus, f"{PREFIX}age_seconds_count", run) == (run.messages["aggregated_ns"] >= 0).sum()


def assert_dashboards_answer(prometheus: Prometheus, run: Run) -> None:
    """Every query of every dashboard has an answer; of families without a series the test of the table says why."""
    start_s = last(prometheus, f"{PREFIX}run_start_timestamp_seconds", run)
    observed = Observed(prometheus, (run.path.name,), start_s - 60, prometheus.query("time()")[0].value)
    assert [found for each in RENDERED for found in unanswered(observed, each, run.path.name)] == []


def simulation_of(run: Run, folder: Path) -> Run:
    """Simulate the very experiment of a run."""
    plan = make_plan(read_experiment(run.path / "experiment.yaml", ["runtime=simulation"]), run.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.report.page.write_report", lambda run, tell=None: run.path / "report.html")
        options = RunOptions(out=folder, data_root=None, workers=0, progress="quiet", command="")
        return load_run(run_simulation(plan, options).path)


def test_a_run_is_scraped_whole_and_lies_beside_its_simulation(start: Start, state: Path, tmp_path: Path) -> None:
    with scraping_prometheus(state) as prometheus:
        # Step 1: a run that Prometheus scrapes before its time begins. The node that is held answers later.
        started = start(*WAITS, faults="patient_scrape,patient_start,hold:measurement:1")
        gate = started.until_held("hold:measurement:1")
        prometheus.until("count(up{job='fragmesh'} == 1) >= 3", "a scrape of two nodes and of the orchestrator")
        gate.release()
        done(started)
        run = started.run()
        # Step 2: all of it is there.
        assert_all_there(prometheus, run)
        assert_counters_agree(prometheus, run)
        assert_dashboards_answer(prometheus, run)
        assert not [label for label in prometheus.get("labels") if label.startswith("exported_")]
        start_s = last(prometheus, f"{PREFIX}run_start_timestamp_seconds", run)
        assert recorded_start_ms(run) / 1000 == pytest.approx(start_s, abs=0.1)
        # Step 3: the same file simulated, from the same instant.
        simulated = simulation_of(run, tmp_path / "simulated")
        write_openmetrics(sampled(simulated, step_s=1, start_ms=recorded_start_ms(run)), tmp_path / "openmetrics.txt")
        prometheus.stop()
        import_openmetrics(tmp_path / "openmetrics.txt", prometheus.data)
        prometheus.start()
        found = prometheus.query(f"max by (run, runtime) (last_over_time({PREFIX}rounds_total[1h]))")
        assert {(one.labels["run"], one.labels["runtime"]) for one in found} == {
            (run.path.name, "processes"),
            (simulated.path.name, "simulation"),
        }
        both = prometheus.query_range(f"avg by (run) ({PREFIX}rounds_total)", start_s + 1, start_s + 600, 1)
        assert sorted(labels["run"] for labels, _ in both) == sorted([run.path.name, simulated.path.name])
        assert last(prometheus, f"{PREFIX}local_steps_total", simulated) == (simulated.summary or {})["train_steps"]


def test_a_prometheus_that_dies_in_the_middle_changes_nothing(start: Start, state: Path) -> None:
    with scraping_prometheus(state) as prometheus:
        started = start("stop={time_s: 6}", faults="hold:kept:3")
        gate = started.until_held("hold:kept:3")
        prometheus.until("count(up{job='fragmesh'} == 1) == 4", "a scrape of all nodes and of the orchestrator")
        prometheus.kill()
        gate.release()
        done(started)
    run = started.run()
    assert run.status == "done"
    assert run.times_s[-1] == 6


def test_an_orchestrator_that_is_killed_is_noticed(start: Start, state: Path) -> None:
    with scraping_prometheus(state) as prometheus:
        started = start(ENDLESS)
        prometheus.until("up{job='fragmesh', node=''} == 1", "a scrape of the orchestrator")
        started.process.kill()
        started.all_gone()
        (found,) = prometheus.until("ALERTS{alertname='FragmeshOrchestratorGone', alertstate='firing'}", "the alert")
        assert found.labels["run"] == started.path.name
        assert not prometheus.query("ALERTS{alertname='FragmeshNodeSilent', alertstate='firing'}")
