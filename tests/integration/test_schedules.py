"""Schedules from the command line on: drawn, refused, run in simulation, and gone on with in the middle."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.algorithms.registry import ALGORITHMS
from orchestrator.cli.commands import run_command_line
from orchestrator.experiment.config import read_experiment
from orchestrator.experiment.plan import Plan, make_plan
from orchestrator.results.reader import load_run
from orchestrator.runs.prepare import prepare
from orchestrator.runtimes.simulation import _fingerprint
from tests.integration.test_resume import (
    EXPERIMENT,
    assert_same_results,
    file,
    no_reports,
    refusal,
    resume,
    run,
    stopped_after,
)

__all__ = ["file", "no_reports"]

pytestmark = pytest.mark.usefixtures("no_reports")

SCHEDULE = """
schedule:
  - action: degrade
    nodes: "0-2"
    at_s: 0.15
    for_s: 0.3
    bandwidth_factor: 0.3
    latency_ms: 20
    jitter_ms: 3
    loss_percent: 5
  - {action: partition, groups: ["0-1", "2-4"], at_s: 0.2, until_s: 0.7}
  - {action: slow_cpu, nodes: stragglers, factor: 3, at_s: 0.1, for_s: 0.6}
  - {action: trace, nodes: [4, 5], file: link.csv, at_end: loop}
  - {action: isolate, nodes: {fraction: 0.2}, at_s: 0.05, for_s: 0.06, every_s: 0.3}
"""


FAULTS = """
schedule:
  - {action: crash, nodes: 1, at_s: 0.2, until_s: 0.5}
  - {action: crash, nodes: 2, at_s: 0.3, for_s: 0.25, model: common}
  - {action: crash, nodes: 3, at_s: 0.35}
  - {action: crash, nodes: 4, at_s: 0.1}
  - {action: restart, nodes: [4, 5], at_s: 0.6, model: peer}
  - {action: pause, nodes: [0, 5], at_s: 0.25, for_s: 0.1, every_s: 0.4}
  - {action: partition, groups: ["0-2", "3-5"], at_s: 0.15, until_s: 0.4}
"""


@pytest.fixture
def scheduled(file: Path) -> Path:
    """An experiment of one second in which much happens."""
    (file.parent / "link.csv").write_text(
        "time_s,bandwidth_mbps,latency_ms,loss_percent\n0,0.2,0,0\n0.1,0,9,0\n0.15,0.05,0,20\n0.3,1,0,0\n"
    )
    file.write_text(EXPERIMENT + SCHEDULE)
    return file


def check_that_parts_make_the_whole(experiment: Path, out: Path, *settings: str, blocks: int = 9) -> None:
    """Run it at once, and in parts that are stopped again and again, after so many blocks of local steps."""
    whole = run(experiment, out / "whole", 0, *settings).path
    with stopped_after(blocks):
        part = run(experiment, out / "part", 0, *settings)
        times = 0
        while part.status == "interrupted":
            times += 1
            part = resume(part.path)
    assert times > 5
    assert part.status == "done"
    assert_same_results(part.path, whole)


@pytest.mark.parametrize("more", [(), ("network.transport=datagram", "network.sender={kind: per_peer}")], ids=len)
def test_a_run_that_is_stopped_in_the_middle_of_a_fault_goes_on_to_the_same_bytes(
    more: tuple[str, ...], scheduled: Path, tmp_path: Path
) -> None:
    """Stopped again and again, while links are degraded, nodes set apart, slow, and none of it."""
    check_that_parts_make_the_whole(scheduled, tmp_path, *more)


@pytest.mark.parametrize("kind", ["divshare", "adpsgd_pingpong", "swift", "adpsgd", "dpsgd", "epidemic"])
def test_a_run_whose_nodes_come_and_go_goes_on_to_the_same_bytes(kind: str, file: Path, tmp_path: Path) -> None:
    file.write_text(EXPERIMENT + FAULTS)
    settings = (
        f"algorithm.kind={kind}",
        "algorithm.adpsgd_pingpong={recipients: 2}",
        "algorithm.adpsgd={roles: parity, on_missing_peer: skip}",
        "algorithm.dpsgd.on_missing_peer=skip",
        "algorithm.epidemic={recipients: 2, on_missing_peer: skip}",
    )
    # Where nodes wait for each other they train less.
    blocks = 2 if ALGORITHMS[kind].config.is_synchronous else 9
    check_that_parts_make_the_whole(file, tmp_path, *settings, blocks=blocks)


def test_nodes_that_are_down_have_no_line_and_what_is_sent_to_them_is_lost(file: Path, tmp_path: Path) -> None:
    file.write_text(EXPERIMENT + FAULTS)
    found = run(file, tmp_path / "out")
    table = load_run(found.path)
    assert table.nodes is not None
    assert table.messages is not None
    seen_s = {node: table.nodes["time_ns"][table.nodes["node"] == node] / 1e9 for node in range(6)}
    for node, (begin_s, end_s) in {1: (0.2, 0.5), 2: (0.3, 0.55), 3: (0.35, 2), 4: (0.1, 0.6)}.items():
        assert not np.any((seen_s[node] >= begin_s) & (seen_s[node] < end_s)), node
    assert seen_s[3].max() < 0.35
    assert {node: round(float(seen_s[node].max()), 9) for node in (0, 1, 2, 4, 5)} == dict.fromkeys((0, 1, 2, 4, 5), 1)
    assert found.summary["messages"]["lost"] > 0
    to_3 = table.messages["receiver"] == 3
    assert table.messages["delivered_ns"][to_3].max() < 0.35e9


def test_a_run_records_its_schedule_and_counts_its_faults(file: Path, tmp_path: Path) -> None:
    file.write_text(EXPERIMENT + FAULTS)
    found = run(file, tmp_path / "out")
    faults = found.summary["faults"]
    down_s, paused_s = faults["by_action"]["crash"].pop("down_s"), faults["by_action"]["pause"].pop("paused_s")
    assert down_s == pytest.approx(0.3 + 0.25 + 0.65 + 0.5)  # node 4 is down until its restart, node 3 to the end
    assert paused_s == pytest.approx(4 * 0.1)
    assert faults == {
        "by_action": {
            "crash": {"entries": 4, "begun": 4},
            "restart": {"entries": 1, "begun": 1, "down_s": 0.0},
            "pause": {"entries": 1, "begun": 2},
            "partition": {"entries": 1, "begun": 1},
        },
        "instants": {"count": 6 + 4 + 8 + 2, "late_ms_median": 0.0, "late_ms_max": 0.0, "never": 0},
    }
    loaded = load_run(found.path)
    assert loaded.faults is not None
    assert len(loaded.faults) == 20
    assert [entry.title for entry in loaded.facts.schedule][3:] == [
        "crash 4",
        "restart 4-5",
        "pause 0,5",
        "partition 0-2 / 3-5",
    ]
    with stopped_after(60):
        part = load_run(run(file, tmp_path / "part").path)
    assert part.faults
    assert max(one.planned_ns for one in part.faults) <= part.summary["time_s"] * 1e9 < 1e9  # type: ignore[index]


def test_the_schedule_does_what_it_says(scheduled: Path, tmp_path: Path) -> None:
    """No message crosses the partition while it holds, and slow nodes do fewer rounds."""
    quiet = run(scheduled, tmp_path / "quiet", 0, "schedule=[]")
    found = run(scheduled, tmp_path / "scheduled")
    messages = load_run(found.path).messages
    assert messages is not None
    left = np.isin(messages["sender"], [0, 1]) & np.isin(messages["receiver"], [2, 3, 4])
    sent_s = messages["sent_ns"][left] / 1e9
    assert np.any((sent_s > 0) & (sent_s < 0.2))
    assert not np.any((sent_s > 0.2) & (sent_s < 0.7))
    assert np.any(sent_s >= 0.7)
    assert found.summary["train_steps"] < quiet.summary["train_steps"]
    assert found.summary["messages"]["delivered"] < quiet.summary["messages"]["delivered"]
    again = make_plan(read_experiment(found.path / "experiment.yaml"), scheduled.parent)
    assert again.schedule == make_plan(read_experiment(scheduled), scheduled.parent).schedule


def test_a_trace_that_has_changed_is_noticed(scheduled: Path, tmp_path: Path) -> None:
    with stopped_after(17):
        part = run(scheduled, tmp_path / "part").path
    trace = scheduled.parent / "link.csv"
    trace.write_text(trace.read_text().replace("0.15,0.05,0,20", "0.15,0.05,0,21"))
    told = f"link.csv: changed since the run began; --input-root {part / 'inputs'} takes the copy"
    assert refusal(part).endswith(told)


def test_a_checkpoint_knows_all_that_a_schedule_draws_and_reads(scheduled: Path) -> None:
    """Whatever a file or a draw changes, also what is among neither rates nor keys."""

    def fingerprint() -> str:
        return _fingerprint(plan_of(scheduled), prepared)

    def plan_of(path: Path) -> Plan:
        return make_plan(read_experiment(path), path.parent)

    prepared = prepare(plan_of(scheduled), data_root=None, workers=0)
    trace = scheduled.parent / "link.csv"
    try:
        found = [fingerprint()]
        assert fingerprint() == found[0]
        for path, old, new in (
            (trace, "0.1,0,9,0", "0.1,0,8,0"),
            (trace, "0.15,0.05,0,20", "0.15,0.05,0,19"),
            (trace, "0,0.2,0,0", "0,0.3,0,0"),
            (scheduled, "fraction: 0.2", "fraction: 0.4"),
            (scheduled, "factor: 3, at_s", "factor: 2, at_s"),
            (scheduled, "at_s: 0.1, for_s: 0.6", "at_s: 0.1, for_s: 0.7"),
            (scheduled, "jitter_ms: 3", "jitter_ms: 4"),
        ):
            path.write_text(path.read_text().replace(old, new))
            found.append(fingerprint())
        assert len(set(found)) == len(found)
    finally:
        prepared.trainer.close()


CHOICES: list[dict[str, Any]] = [
    *({"action": "degrade", "nodes": "all", "direction": way, "latency_ms": 30} for way in ("up", "down", "both")),
    *({"action": "degrade", "pairs": [[0, 1]], "both_ways": both, "latency_ms": 30} for both in (True, False)),
    {"action": "degrade", "nodes": "fast", "bandwidth_mbps": 0.02},
    {"action": "degrade", "nodes": [0, "2-3"], "bandwidth_factor": 4, "latency_factor": 3},
    {"action": "degrade", "nodes": "all", "jitter_ms": 5, "loss_percent": 40},
    *({"action": "trace", "nodes": 0, "file": "link.csv", "at_end": end} for end in ("hold", "loop", "undo", None)),
    {"action": "trace", "pairs": [[0, 1], [2, 3]], "file": "packets", "format": "mahimahi", "interval_ms": 3},
    {"action": "trace", "nodes": "all", "file": "packets", "format": "mahimahi", "at_end": "loop", "interval_ms": 7},
    {"action": "partition", "groups": ["fast", "stragglers"], "until_s": 0.5},
    {"action": "isolate", "nodes": {"fraction": 0.5, "of": "0-3"}, "for_s": 0.1, "every_s": 0.2},
    {"action": "slow_cpu", "nodes": "all", "factor": 2},
    *(
        {"action": "crash", "nodes": 2, "at_s": 0.3, "for_s": 0.2, "model": model}
        for model in ("last", "common", "peer")
    ),
    {"action": "crash", "nodes": 2, "at_s": 0.3},
    *({"action": "restart", "nodes": 2, "at_s": 0.3, "model": model} for model in ("last", "common", "peer")),
    {"action": "pause", "nodes": "fast", "at_s": 0.3, "for_s": 0.2},
]


@pytest.mark.parametrize("entry", CHOICES, ids=str)
def test_every_choice_runs_and_makes_a_difference(entry: dict[str, Any], scheduled: Path, tmp_path: Path) -> None:
    (scheduled.parent / "packets").write_text("".join(f"{instant}\n" for instant in range(0, 120, 9)))
    runs = [run(scheduled, tmp_path, 0, f"schedule={json.dumps(one)}") for one in ([], [entry])]
    assert [each.status for each in runs] == ["done", "done"]
    quiet, found = (load_run(each.path).messages for each in runs)
    assert quiet is not None
    assert found is not None
    assert found["delivered_ns"].tolist() != quiet["delivered_ns"].tolist()
    assert runs[1].summary["messages"]["delivered"] > 0


# -- the command line ------------------------------------------------------------------------------------------------


def invoke(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run_command_line([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_validate_draws_the_schedule(scheduled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = invoke(capsys, "validate", scheduled, "--no-data")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "5 entries: 1 degrade, 1 partition, 1" in out
    axis, *rows = lines[-6:]
    assert axis.split() == ["0", "0.5", "1", "s"]
    assert [row.split()[:2] for row in rows] == [
        ["0", "degrade"],
        ["1", "partition"],
        ["2", "slow_cpu"],
        ["3", "trace"],
        ["4", "isolate"],
    ]
    assert rows[3].endswith("=>")
    assert rows[4].count("|") == 4


def test_validate_without_a_schedule_draws_none(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = invoke(capsys, "validate", file, "--no-data")
    assert code == 0
    assert out.splitlines()[-1].startswith("└")
    assert "schedule" in out


def test_validate_for_machines_has_the_entries(scheduled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = invoke(capsys, "validate", scheduled, "--no-data", "--json")
    assert code == 0
    schedule = json.loads(out)["schedule"]
    assert [entry["action"] for entry in schedule] == ["degrade", "partition", "slow_cpu", "trace", "isolate"]
    assert schedule[1]["groups"] == [[0, 1], [2, 3, 4]]
    assert schedule[1]["times_s"] == [[0.2, 0.7]]
    assert [len(entry["times_s"]) for entry in schedule] == [1, 1, 1, 1, 4]
    assert schedule[3]["times_s"] == [[0, None]]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("[{action: isolate, nodes: 6}]", "schedule[0].nodes=6: must be between 0 and 5"),
        ("[{action: isolate, nodes: 0, at_s: 1}]", "schedule[0].at_s=1: must be below stop.time_s=1"),
        (
            "[{action: trace, nodes: 0, file: graph.txt}]",
            "schedule[0].file=graph.txt:1: header=0 1: must be time_s and",
        ),
        ("[{action: trace, nodes: 0, file: no.csv}]", "schedule[0].file=no.csv: must be a readable text file"),
        (
            "[{action: partition, groups: [0, 0]}]",
            "schedule[0].groups[1]=0: must be without node 0, which is in groups[0]",
        ),
    ],
)
def test_what_is_wrong_is_refused_before_anything_starts(
    schedule: str, message: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, *more in (("validate",), ("run", "--out", tmp_path / "out")):
        code, out, err = invoke(capsys, command, file, "--set", f"schedule={schedule}", *more)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert err.startswith(f"error: {file}: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "graph"), [("dpsgd", "ring"), ("epidemic", "full"), ("adpsgd", "ring")])
def test_an_algorithm_that_waits_for_every_message_takes_no_crash(
    kind: str, graph: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = "schedule=[{action: isolate, nodes: 1, for_s: 0.2}, {action: restart, nodes: 0, at_s: 0.5}]"
    more = [f"topology={{kind: {graph}}}", "algorithm.epidemic={recipients: 1}", "algorithm.adpsgd={roles: parity}"]
    settings = [f"algorithm.kind={kind}", schedule, *more]
    code, _, err = invoke(capsys, "validate", file, "--no-data", *(f"--set={one}" for one in settings))
    assert code == 2
    assert (
        f"schedule[1].action=restart: must be absent with algorithm.kind={kind}, which waits for every message" in err
    )
    settings.append(f"algorithm.{kind}.on_missing_peer=skip")
    code, _, err = invoke(capsys, "validate", file, "--no-data", *(f"--set={one}" for one in settings))
    assert (code, err) == (0, "")


def test_a_node_that_stays_away_needs_a_run_with_an_end(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["stop={rounds: 3}", "schedule=[{action: crash, nodes: 0}]"]
    code, _, err = invoke(capsys, "validate", file, "--no-data", *(f"--set={one}" for one in settings))
    assert code == 2
    assert "schedule[0].action=crash: must end, or come with stop.time_s" in err


@pytest.mark.parametrize("runtime", ["processes", "docker"])
def test_real_runtimes_take_every_action(runtime: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    links = SCHEDULE.replace("  - {action: trace, nodes: [4, 5], file: link.csv, at_end: loop}\n", "")
    settings = [f"--set={one}" for one in ("network.sender={kind: per_peer}", f"runtime={runtime}")]
    for schedule in (links, FAULTS):
        file.write_text(EXPERIMENT + schedule)
        code, _, err = invoke(capsys, "validate", file, "--no-data", *settings)
        assert (code, err) == (0, "")
