"""All families of a run directory: what is there, what is not, and why."""

import io
import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from node.core.errors import ConfigError
from node.core.links import NetworkPlan
from node.core.messages import MessageState
from node.metrics import ACTIVITIES, NODE_METRICS, PREFIX, RUN_METRICS
from orchestrator.observe.link_series import LINK_FAMILIES
from orchestrator.observe.message_series import MESSAGE_FAMILIES
from orchestrator.observe.node_series import NODE_FAMILIES, THERE_FAMILIES
from orchestrator.observe.openmetrics import END
from orchestrator.observe.recorded_run import (
    NOT_RECORDED,
    Exported,
    print_openmetrics,
    recorded_start_ms,
    write_openmetrics,
)
from orchestrator.observe.run_series import COURSE_FAMILIES, CURVE_FAMILIES, FAULT_FAMILIES, FIDELITY_FAMILIES
from orchestrator.observe.sampled_run import check_step, default_step_s, sampled
from orchestrator.results.reader import Run, load_run
from tests.unit.orchestrator.observe.openmetrics_text import METRICS, Sample, last_values, read, total_of
from tests.unit.orchestrator.synthetic_runs import SCHEDULE, S, messages, write_run

START_MS = 1_700_000_000_000
CHECKS = {
    "verdict": "faithful",
    "checks": [
        {"name": "rate", "requested": 60.0, "achieved": 59.5, "unit": "Mbit/s", "tolerance": "3 %", "ok": True},
        {"name": "late", "requested": None, "achieved": None, "unit": "ms", "tolerance": "5 ms", "ok": False},
    ],
}


NETWORK = NetworkPlan("access", np.array([8.0] * 6), np.array([8.0] * 5 + [np.inf]))


def exported(run: Run, step_s: float = 20) -> tuple[dict[str, list[Sample]], Exported]:
    text = io.StringIO()
    sampling = sampled(run, step_s=step_s, start_ms=START_MS, network=NETWORK)
    told = print_openmetrics(sampling, text)
    families = read(text.getvalue())
    assert told.families == list(families)
    assert told.samples == sum(map(len, families.values()))
    assert told.series == sum(len(last_values(samples)) for samples in families.values())
    return families, told


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return load_run(write_run(tmp_path, schedule=SCHEDULE, late_ms=30, fidelity=CHECKS))


def test_a_run_directory_has_each_family_or_says_why_not(run: Run) -> None:
    families, told = exported(run)
    assert set(families) | set(told.left_out) == {*NODE_METRICS, *RUN_METRICS}
    assert not set(families) & set(told.left_out)
    assert set(told.left_out) == {PREFIX + name for name in NOT_RECORDED}, "nothing is missing by chance"


def test_each_family_of_the_table_is_exported_from_one_place_or_stands_among_those_that_cannot_be() -> None:
    places = [
        *(MESSAGE_FAMILIES, NODE_FAMILIES, THERE_FAMILIES, COURSE_FAMILIES, CURVE_FAMILIES, FAULT_FAMILIES),
        *(FIDELITY_FAMILIES, LINK_FAMILIES, NOT_RECORDED),
    ]
    names = [PREFIX + name for place in places for name in place]
    assert sorted(names) == sorted({*NODE_METRICS, *RUN_METRICS})


def test_labels_are_those_of_a_live_run(run: Run) -> None:
    families, _ = exported(run)
    of_run = {"run": run.path.name, "runtime": "simulation", "experiment": "synthetic", "algorithm": "divshare"}
    for name, samples in families.items():
        metric = METRICS[name]
        own = {"node", "group"} if name in NODE_METRICS and name not in RUN_METRICS else set()
        for sample in samples:
            labels = dict(sample.without("le"))
            assert set(labels) == {*of_run, *own, *metric.labels}, name
            assert {**labels, **of_run} == labels, name
            if "group" in labels:
                assert labels["group"] == ("straggler" if int(labels["node"]) < 2 else "fast")


def test_samples_stand_at_a_regular_step_and_at_the_end(run: Run) -> None:
    families, _ = exported(run, step_s=30)
    times_ms = [sample.time_ms - START_MS for sample in families["fragmesh_run_clock_seconds"]]
    assert times_ms == [0, 30_000, 60_000, 90_000, 100_000]
    assert [sample.value for sample in families["fragmesh_run_clock_seconds"]] == [ms / 1000 for ms in times_ms]


@pytest.mark.parametrize(
    ("time_s", "step_s"), [(0, 0.001), (0.1, 0.001), (1, 0.005), (40, 0.2), (800, 5), (86_400, 500)]
)
def test_the_step_follows_from_the_length(time_s: float, step_s: float) -> None:
    assert default_step_s(time_s) == step_s


def test_a_step_that_makes_too_many_instants_is_refused(run: Run) -> None:
    check_step(run, 0.005)
    with pytest.raises(ConfigError, match=r"--step-s=0.001: must be at least 0.005 for a run of 100 s"):
        check_step(run, 0.001)


# -- messages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step_s", "count"), [(7.0, 200), (33.0, 1), (33.0, 0)])
def test_messages_are_counted_as_one_would_by_hand(step_s: float, count: int, tmp_path: Path) -> None:
    families, _ = exported(load_run(write_run(tmp_path, num_messages=count)), step_s)
    table = messages(count)
    for name, counted_at, of in (
        ("queued", table["queued_ns"], "sender"),
        ("sent", table["sent_ns"], "sender"),
        ("delivered", table["delivered_ns"], "receiver"),
        ("aggregated", table["aggregated_ns"], "receiver"),
        ("cancelled", np.where(table["state"] == MessageState.CANCELLED, table["cancelled_ns"], -1), "sender"),
        ("aborted", np.where(table["state"] == MessageState.ABORTED, table["cancelled_ns"], -1), "sender"),
    ):
        for sample in families.get(f"fragmesh_messages_{name}_total", ()):
            labels = dict(sample.labels)
            now_ns = (sample.time_ms - START_MS) * 1_000_000
            happened = (counted_at >= 0) & (counted_at <= now_ns) & (table[of] == int(labels["node"]))
            assert sample.value == (happened.sum() if labels["class"] == "fragment" else 0), (name, sample)


def until_the_end() -> dict[str, np.ndarray]:
    """The made-up messages, without what happens to them after the run's end."""
    table = messages()
    late = {name: np.where(column > 100 * S, -1, column) for name, column in table.items() if name.endswith("_ns")}
    state = table["state"].copy()
    state[(state == MessageState.ABORTED) & (late["cancelled_ns"] < 0)] = MessageState.SENDING
    return {**table, **late, "state": state}


def test_what_is_queued_waits_until_it_begins_or_is_cancelled(run: Run) -> None:
    families, _ = exported(run)
    table = until_the_end()
    left = (table["started_ns"] >= 0) | ((table["state"] == MessageState.CANCELLED) & (table["cancelled_ns"] >= 0))
    assert total_of(families["fragmesh_outbox_messages"]) == (~left).sum()


def test_bytes_are_told_by_class(run: Run) -> None:
    samples = exported(run)[0]["fragmesh_sent_bytes_total"]
    table = until_the_end()
    sent, aborted = (table["sent_ns"] >= 0).sum(), (table["state"] == MessageState.ABORTED).sum()
    expected = {
        "payload": 35_936 * sent,
        "metadata": 64 * sent,
        "control": 0,
        "retransmitted": 0,
        "wasted": 36_000 * aborted,
    }
    assert {name: total_of(samples, **{"class": name}) for name in expected} == expected


def test_histograms_hold_the_messages_and_the_sum_of_their_values(run: Run) -> None:
    families, _ = exported(run)
    table = until_the_end()
    used = table["aggregated_ns"] >= 0
    for name, values in (
        ("staleness_rounds", table["staleness"][used]),
        ("age_seconds", (table["aggregated_ns"] - table["delivered_ns"])[used] / 1e9),
        ("transfer_seconds", np.full((table["sent_ns"] >= 0).sum(), 0.005)),
    ):
        last = last_values(families[PREFIX + name])
        for bound in METRICS[PREFIX + name].buckets:
            in_bucket = sum(value for (_, labels), value in last.items() if dict(labels).get("le") == repr(bound))
            assert in_bucket == (values <= bound).sum(), (name, bound)
        assert sum(value for (each, _), value in last.items() if each.endswith("_count")) == len(values)
        assert sum(value for (each, _), value in last.items() if each.endswith("_sum")) == pytest.approx(values.sum())


# -- nodes -----------------------------------------------------------------------------------------------------


def test_tests_hold_until_the_next_evaluation_and_counters_grow_evenly(run: Run) -> None:
    assert run.nodes is not None
    families, _ = exported(run, step_s=5)
    own = {name: column[run.nodes["node"] == 3] for name, column in run.nodes.items()}

    def values(name: str) -> list[float]:
        return [sample.value for sample in families[PREFIX + name] if ("node", "3") in sample.labels]

    assert values("test_accuracy") == [*np.repeat(own["accuracy"], 2)[:-1]]
    assert values("train_loss") == [*np.repeat(own["train_loss"][1:], 2)[:-1]], "there is none before the first round"
    rounds = values("rounds_total")
    assert rounds[::2] == own["rounds"].tolist()
    assert rounds[1::2] == [(a + b) // 2 for a, b in zip(own["rounds"][:-1], own["rounds"][1:], strict=True)]


def test_a_node_that_an_evaluation_missed_has_no_figures_of_it(run: Run) -> None:
    assert run.nodes is not None
    times_s = np.unique(run.nodes["time_ns"]) / S
    kept = (run.nodes["node"] != 3) | (run.nodes["time_ns"] != times_s[1] * S)
    nodes = {name: column[kept] for name, column in run.nodes.items()}
    families, _ = exported(replace(run, nodes=nodes), step_s=5)
    told = {
        (sample.time_ms - START_MS) / 1000: sample.value
        for sample in families[f"{PREFIX}test_loss"]
        if ("node", "3") in sample.labels
    }
    assert [time_s for time_s, value in told.items() if np.isnan(value)] == [times_s[1]]
    assert not [time_s for time_s in told if times_s[1] < time_s < times_s[2]]


def test_activities_add_up_to_the_clock_at_each_instant(run: Run) -> None:
    assert run.nodes is not None
    time_ns = run.nodes["time_ns"]
    shares = np.array([0.5, 0.2, 0.1, 0.1, 0.06, 0.04])
    columns = {f"{activity}_ns": share * time_ns for activity, share in zip(ACTIVITIES, shares, strict=True)}
    families, told = exported(replace(run, nodes={**run.nodes, **columns}), step_s=7)
    sums: dict[tuple[str, int], float] = {}
    for sample in families["fragmesh_activity_seconds_total"]:
        key = dict(sample.labels)["node"], sample.time_ms
        sums[key] = sums.get(key, 0.0) + sample.value
    for (_, time_ms), total in sums.items():
        assert total == pytest.approx((time_ms - START_MS) / 1000)
    assert "fragmesh_activity_seconds_total" not in told.left_out


def test_nodes_are_up_unless_the_schedule_or_an_evaluation_says_otherwise(tmp_path: Path) -> None:
    path = write_run(tmp_path, schedule=SCHEDULE, dies={4: 6}, fidelity={"died": {"4": "killed by signal 9"}})
    families, _ = exported(load_run(path), step_s=5)

    def values(name: str, node: int) -> dict[int, float]:
        found = [sample for sample in families[PREFIX + name] if ("node", str(node)) in sample.labels]
        return {(sample.time_ms - START_MS) // 1000: sample.value for sample in found}

    down = [at for at, value in values("node_up", 3).items() if not value]
    assert down == [10, 15, 50, 55], "crashed at 10 and 50 for 10 seconds"
    assert values("node_lives", 3)[45] == 2
    assert values("node_lives", 3)[100] == 3
    assert [at for at, value in values("node_up", 4).items() if not value] == [*range(60, 101, 5)]
    assert all(values("node_up", 1).values())


# -- the run ---------------------------------------------------------------------------------------------------


def test_faults_hold_as_planned_and_tell_their_begin_and_end(run: Run) -> None:
    families, _ = exported(run, step_s=5)

    def values(name: str, entry: int) -> dict[int, float]:
        found = [sample for sample in families[PREFIX + name] if ("entry", str(entry)) in sample.labels]
        return {(sample.time_ms - START_MS) // 1000: sample.value for sample in found}

    assert [at for at, value in values("fault_active", 0).items() if value] == [10, 15, 50, 55]
    assert [at for at, value in values("fault_active", 2).items() if value] == [*range(60, 101, 5)]
    start_s = START_MS // 1000
    begins = values("fault_begin_timestamp_seconds", 0)
    assert [begins[at] - start_s for at in (0, 15, 20, 45, 100)] == [10, 10, 50, 50, 50]
    ends = values("fault_end_timestamp_seconds", 0)
    assert [ends[at] - start_s for at in (0, 15, 20, 45, 100)] == [20, 20, 60, 60, 60]
    assert values("fault_end_timestamp_seconds", 2) == {}, "to the end of the run"
    late = {sample.time_ms - START_MS: sample.value for sample in families["fragmesh_fault_lateness_seconds_max"]}
    assert late[10_000] == 0
    assert late[15_000] == late[100_000] == pytest.approx(0.03)


def test_checks_of_fidelity_are_known_at_the_end(run: Run) -> None:
    families, _ = exported(run)
    found = {
        (name.removeprefix("fragmesh_fidelity_"), dict(sample.labels)["check"]): (sample.value, sample.time_ms)
        for name in families
        for sample in families[name]
        if name.startswith("fragmesh_fidelity_")
    }
    end_ms = START_MS + 100_000
    assert found == {
        ("requested", "rate"): (60.0, end_ms),
        ("achieved", "rate"): (59.5, end_ms),
        ("ok", "rate"): (1.0, end_ms),
        ("ok", "late"): (0.0, end_ms),
    }


def test_links_are_told_as_they_are_at_the_start_but_for_those_without_a_limit(run: Run) -> None:
    samples = exported(run)[0]["fragmesh_link_configured_rate_bytes_per_second"]
    assert {sample.value for sample in samples} == {1e6}
    ends = {(dict(sample.labels)["node"], dict(sample.labels)["direction"]) for sample in samples}
    assert ends == {(str(node), way) for node in range(6) for way in ("up", "down")} - {("5", "down")}
    text = io.StringIO()
    told = print_openmetrics(sampled(run, step_s=20, start_ms=START_MS), text)
    reason = told.left_out["fragmesh_link_configured_rate_bytes_per_second"]
    assert reason == "the links have no limit, or the experiment cannot be planned any more"


# -- what is missing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "reason", "name"),
    [
        (("messages.parquet",), "messages.parquet is missing", "messages_sent_total"),
        (("nodes.parquet",), "nodes.parquet is missing", "test_accuracy"),
        (("faults.csv",), "faults.csv tells of no node", "fault_lateness_seconds_max"),
        (("fidelity.json",), "fidelity.json has no checks", "fidelity_ok"),
    ],
)
def test_the_rest_is_exported_where_a_file_is_missing(run: Run, gone: tuple[str, ...], reason: str, name: str) -> None:
    for each in gone:
        (run.path / each).unlink()
    families, told = exported(load_run(run.path))
    assert told.left_out[PREFIX + name].startswith(reason)
    assert "fragmesh_consensus_distance" in families


def test_a_run_that_was_killed_has_its_curve(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    for name in ("summary.json", "nodes.parquet", "messages.parquet", "links.csv", "fidelity.json"):
        (path / name).unlink()
    families, _ = exported(load_run(path))
    assert len(families["fragmesh_averaged_test_accuracy"]) == 6
    assert families["fragmesh_run_clock_seconds"][-1].value == 100.0


def test_a_run_without_a_single_evaluation_has_its_facts(tmp_path: Path) -> None:
    families, _ = exported(load_run(write_run(tmp_path, samples=0, num_messages=0)))
    assert families["fragmesh_run_nodes"][-1].value == 6


def test_a_table_of_before_bytes_were_told_leaves_them_out(run: Run) -> None:
    assert run.messages is not None
    older = {name: column for name, column in run.messages.items() if name != "resent_bytes"}
    families, told = exported(replace(run, messages=older))
    assert told.left_out["fragmesh_sent_bytes_total"] == "messages.parquet is of an earlier version"
    assert "fragmesh_messages_sent_total" in families


def test_a_table_of_before_activities_were_told_leaves_them_out(run: Run) -> None:
    assert run.nodes is not None
    older = {f"{activity}_ns": np.full(len(run.nodes["node"]), np.nan) for activity in ACTIVITIES}
    families, told = exported(replace(run, nodes={**run.nodes, **older}))
    assert told.left_out["fragmesh_activity_seconds_total"] == "nodes.parquet is of an earlier version"
    assert "fragmesh_rounds_total" in families


@pytest.mark.parametrize("wrong", [-1, 6])
def test_a_node_that_the_run_does_not_have_is_refused(run: Run, wrong: int) -> None:
    assert run.messages is not None
    receiver = run.messages["receiver"].copy()
    receiver[17] = wrong
    with pytest.raises(ConfigError, match=rf"messages.parquet: damaged: receiver={wrong}: must be 0 to 5"):
        exported(replace(run, messages={**run.messages, "receiver": receiver}))


# -- where it begins -------------------------------------------------------------------------------------------


def test_a_simulation_faster_than_its_time_ends_when_it_ended(run: Run) -> None:
    began = datetime.fromisoformat("2026-03-01T12:00:00+00:00")
    for took_s, ahead_s in ((4, 96), (100, 0), (300, 0)):
        ended = began + timedelta(seconds=took_s)
        environment = {"begun_at": began.isoformat(), "ended_at": ended.isoformat()}
        start_ms = recorded_start_ms(replace(run, environment=environment))
        assert start_ms == round((began.timestamp() - ahead_s) * 1000), "the run has 100 s of testbed time"
    assert recorded_start_ms(replace(run, environment={"begun_at": began.isoformat()})) == began.timestamp() * 1000


def test_a_real_run_begins_with_its_nodes(run: Run) -> None:
    environment = {"begun_at": "2026-03-01T12:00:00+00:00", "time_zero_at": "2026-03-01T12:00:07.250+00:00"}
    ended = {"ended_at": "2026-03-01T13:00:00+00:00"}
    expected = round(datetime.fromisoformat(environment["time_zero_at"]).timestamp() * 1000)
    assert recorded_start_ms(replace(run, environment=environment)) == expected
    assert recorded_start_ms(replace(run, environment={**environment, **ended})) == expected


@pytest.mark.parametrize("environment", [None, {}, {"begun_at": "yesterday"}, {"begun_at": 5}])
def test_a_run_that_does_not_tell_when_it_began_says_what_to_do(run: Run, environment: Any) -> None:
    with pytest.raises(ConfigError, match=r"does not tell when the run began: give --start"):
        recorded_start_ms(replace(run, environment=environment))


def test_the_file_is_there_whole_or_not_at_all(run: Run, tmp_path: Path) -> None:
    sampling = sampled(run, step_s=20, start_ms=START_MS)
    path = tmp_path / "metrics.txt"
    write_openmetrics(sampling, path)
    assert read(path.read_text())
    assert json.loads((run.path / "summary.json").read_text())["time_s"] * S == sampling.instants_ns[-1]
    damaged = replace(run, messages={**(run.messages or {}), "sender": np.array([99])})
    with pytest.raises(ConfigError):
        write_openmetrics(sampled(damaged, step_s=None, start_ms=START_MS), tmp_path / "other.txt")
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name, run.path.name]


def test_the_text_is_what_a_strict_reader_of_the_format_takes(run: Run) -> None:
    text = io.StringIO()
    told = print_openmetrics(sampled(run, step_s=20, start_ms=START_MS), text)
    # It cannot read a histogram at several times, which Prometheus can.
    _, *pieces = text.getvalue().removesuffix(END).split("# TYPE ")
    others = [f"# TYPE {piece}" for piece in pieces if " histogram\n" not in piece]
    families = {
        family.name + "_total" * (family.type == "counter"): len(family.samples)
        for family in text_string_to_metric_families("".join(others) + END)
    }
    assert set(families) == {name for name in told.families if METRICS[name].kind != "histogram"}
    assert families == {name: len(samples) for name, samples in read(text.getvalue()).items() if name in families}
