"""Run directories: what is written, that it is always the same, and what survives a full disk or a kill."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from node.core.errors import ConfigError, RunnerError
from node.core.messages import MessageState
from node.core.time_budget import TIME_FIGURES
from orchestrator.experiment.config import read_experiment
from orchestrator.report.page import write_report
from orchestrator.results import writer as writing
from orchestrator.results.reader import load_run
from orchestrator.results.schema import CURVE_COLUMNS, FAULT_COLUMNS, MESSAGE_COLUMNS, Sample
from orchestrator.results.summary import target_key
from orchestrator.results.writer import RunWriter
from tests.unit.orchestrator import synthetic_runs
from tests.unit.orchestrator.synthetic_runs import (
    ENVIRONMENT,
    EXPERIMENT,
    SCHEDULE,
    facts,
    instants,
    messages,
    sample,
    totals,
    write_run,
)

FAULT_HEADER = ",".join(FAULT_COLUMNS) + "\n"


def start(root: Path) -> RunWriter:
    return RunWriter.create(root, facts(), EXPERIMENT, ENVIRONMENT)


class TestWriting:
    def test_the_directory_holds_every_file(self, tmp_path: Path) -> None:
        path = write_run(tmp_path)
        assert sorted(child.name for child in path.iterdir()) == [
            "curve.csv",
            "environment.json",
            "experiment.yaml",
            "facts.json",
            "fidelity.json",
            "links.csv",
            "messages.parquet",
            "nodes.parquet",
            "partition.csv",
            "summary.json",
        ]
        assert path.name.startswith("synthetic-")
        assert yaml.safe_load((path / "experiment.yaml").read_text()) == EXPERIMENT

    def test_the_instants_of_a_schedule_are_kept(self, tmp_path: Path) -> None:
        path = write_run(tmp_path, schedule=SCHEDULE, late_ms=2.5)
        lines = (path / "faults.csv").read_text().splitlines()
        assert lines[:3] == [
            "entry,action,node,what,planned_s,actual_s,late_ms",
            "0,crash,3,begin,10.0,10.0025,2.5",
            "0,crash,5,begin,10.0,10.0025,2.5",
        ]
        assert lines[-2:] == ["3,restart,0,begin,70.0,70.0025,2.5", "3,restart,0,end,70.0,70.0025,2.5"]
        run = load_run(path)
        assert run.facts.schedule == SCHEDULE
        assert run.faults is not None
        assert set(run.faults) == set(instants(late_ms=2.5))
        assert not (write_run(tmp_path, name="quiet") / "faults.csv").exists()

    def test_the_same_run_gives_the_same_bytes(self, tmp_path: Path) -> None:
        first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b")
        for name in (
            "curve.csv",
            "nodes.parquet",
            "messages.parquet",
            "links.csv",
            "partition.csv",
            "facts.json",
        ):
            assert (first / name).read_bytes() == (second / name).read_bytes(), name

    def test_another_speed_gives_other_bytes(self, tmp_path: Path) -> None:
        first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", speed=0.06)
        assert (first / "curve.csv").read_bytes() != (second / "curve.csv").read_bytes()

    def test_two_runs_in_one_second_do_not_meet(self, tmp_path: Path) -> None:
        assert len({start(tmp_path).path for _ in range(4)}) == 4

    def test_a_name_cannot_leave_the_root(self, tmp_path: Path) -> None:
        writer = RunWriter.create(tmp_path / "runs", facts(name="../../x y"), EXPERIMENT, ENVIRONMENT)
        assert writer.path.parent == tmp_path / "runs"

    def test_the_curve_is_exact(self, tmp_path: Path) -> None:
        path = write_run(tmp_path, samples=3)
        with (path / "curve.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == list(CURVE_COLUMNS)
        second = sample(1)
        accuracy = [node.accuracy for node in second.nodes]
        assert float(rows[1]["accuracy_mean"]) == float(np.mean(accuracy))
        assert float(rows[1]["accuracy_mean_stragglers"]) == float(np.mean(accuracy[:2]))
        assert float(rows[1]["accuracy_mean_fast"]) == float(np.mean(accuracy[2:]))
        assert float(rows[1]["loss_max"]) == max(node.loss for node in second.nodes)
        assert rows[0]["train_loss_mean"] == ""  # no round before the first
        assert rows[1]["bytes_sent"] == str(second.bytes_sent)
        assert rows[1]["time_s"] == "10.0"

    def test_without_stragglers_there_are_no_groups(self, tmp_path: Path) -> None:
        path = write_run(tmp_path, slow=0)
        run = load_run(path)
        assert np.isnan(run.curve["accuracy_mean_fast"]).all()
        assert np.isnan(run.curve["accuracy_mean_stragglers"]).all()

    def test_a_diverged_loss_is_told_apart_from_none(self, tmp_path: Path) -> None:
        writer = start(tmp_path)
        one = sample(1)
        bad = replace(one.nodes[0], loss=float("nan"))
        writer.add(replace(one, nodes=(bad, *one.nodes[1:])))
        writer.finish(totals(), messages())
        with (writer.path / "curve.csv").open() as file:
            row = next(csv.DictReader(file))
        assert row["loss_mean"] == "nan"
        assert json.loads((writer.path / "summary.json").read_text())["final"]["loss"] is None

    def test_figures_are_means_over_the_nodes_that_have_test_samples(self, tmp_path: Path) -> None:
        writer = start(tmp_path)
        one = sample(1)
        untested = [replace(node, accuracy=float("nan"), loss=float("nan")) for node in one.nodes[:1]]
        writer.add(replace(one, nodes=(*untested, *one.nodes[1:])))
        writer.finish(totals(), messages())
        run = load_run(writer.path)
        tested = [node.accuracy for node in one.nodes[1:]]
        assert run.curve["accuracy_mean"].tolist() == [float(np.mean(tested))]
        assert run.curve["accuracy_min"].tolist() == [min(tested)]
        assert run.curve["accuracy_mean_stragglers"].tolist() == [one.nodes[1].accuracy]
        assert run.curve["loss_max"].tolist() == [max(node.loss for node in one.nodes[1:])]
        assert run.nodes is not None
        assert np.isnan(run.nodes["accuracy"]).tolist() == [True] + [False] * 5

    def test_without_any_test_sample_there_are_no_figures(self, tmp_path: Path) -> None:
        writer = start(tmp_path)
        one = sample(1)
        nodes = tuple(replace(node, accuracy=float("nan"), loss=float("nan")) for node in one.nodes)
        writer.add(replace(one, nodes=nodes))
        with (writer.path / "curve.csv").open() as file:
            row = next(csv.DictReader(file))
        assert row["accuracy_mean"] == row["loss_mean"] == row["loss_max"] == ""

    def test_the_rmse_of_seen_items_is_kept_for_ratings_alone(self, tmp_path: Path) -> None:
        one = sample(1)
        nodes = tuple(replace(node, loss_seen=1.0 + node.node) for node in one.nodes)
        for metric, expected in (("rmse", 3.5), ("accuracy", None)):
            writer = RunWriter.create(tmp_path / metric, facts(metric=metric), EXPERIMENT, ENVIRONMENT)
            writer.add(replace(one, nodes=nodes))
            summary = writer.finish(totals(), messages())
            run = load_run(writer.path)
            assert summary["final"].get("loss_seen") == expected
            assert np.isnan(run.curve["loss_seen_mean"]).all() == (expected is None)
            assert run.nodes is not None
            assert run.nodes["loss_seen"].tolist() == [node.loss_seen for node in nodes]

    def test_a_diverged_model_is_not_left_out_of_the_rmse_of_seen_items(self, tmp_path: Path) -> None:
        writer = RunWriter.create(tmp_path, facts(metric="rmse"), EXPERIMENT, ENVIRONMENT)
        one = sample(1)
        nodes = [replace(node, loss_seen=1.0) for node in one.nodes]
        nodes[0] = replace(nodes[0], loss=float("nan"), loss_seen=float("nan"))  # diverged
        writer.add(replace(one, nodes=tuple(nodes)))
        assert writer.state()["curve"]["loss_seen_mean"].tolist() == [pytest.approx(np.nan, nan_ok=True)]
        nodes[0] = replace(nodes[0], loss=1.5)  # has only items without a training rating
        writer.add(replace(one, nodes=tuple(nodes)))
        assert writer.state()["curve"]["loss_seen_mean"].tolist()[1] == 1.0

    def test_a_run_of_an_older_version_is_read(self, tmp_path: Path) -> None:
        path = write_run(tmp_path)
        lines = (path / "curve.csv").read_text().splitlines()
        assert lines[0].endswith(",loss_seen_mean")
        (path / "curve.csv").write_text("".join(f"{line.rpartition(',')[0]}\n" for line in lines))
        table = pq.read_table(path / "nodes.parquet")
        pq.write_table(table.drop_columns(["loss_seen", *TIME_FIGURES.values()]), path / "nodes.parquet")
        run = load_run(path)
        assert np.isnan(run.curve["loss_seen_mean"]).all()
        assert np.isfinite(run.curve["accuracy_mean"]).all()
        assert run.nodes is not None
        assert np.isnan(run.nodes["loss_seen"]).all()
        assert all(np.isnan(run.nodes[name]).all() for name in TIME_FIGURES.values())

    def test_the_messages_come_back_as_they_were_given(self, tmp_path: Path) -> None:
        given = messages()
        read = load_run(write_run(tmp_path)).messages
        assert read is not None
        for name in MESSAGE_COLUMNS:
            assert np.array_equal(read[name], given[name]), name

    def test_never_is_null_in_the_file(self, tmp_path: Path) -> None:
        given = messages()
        table = pq.read_table(write_run(tmp_path) / "messages.parquet")
        never = int((given["aggregated_ns"] < 0).sum())
        assert table.column("aggregated_ns").null_count == never
        assert table.column("staleness").null_count == never
        assert table.column("round").null_count == 0
        assert set(table.column("state").to_pylist()) <= {state.name.lower() for state in MessageState}
        assert set(table.column("kind").to_pylist()) == {"fragment"}

    def test_a_run_without_messages_or_samples_still_ends(self, tmp_path: Path) -> None:
        writer = start(tmp_path)
        none = {name: values[:0] for name, values in messages().items()}
        summary = writer.finish(totals(status="failed", error="out of luck"), none)
        assert summary["final"] == {"accuracy": None, "loss": None}
        run = load_run(writer.path)
        assert run.status == "failed"
        assert run.messages is not None
        assert run.messages["id"].size == 0
        assert write_report(run).exists()


class TestSummary:
    def test_accuracy(self, tmp_path: Path) -> None:
        path = write_run(tmp_path)
        summary = json.loads((path / "summary.json").read_text())
        run = load_run(path)
        assert summary["status"] == "done"
        assert summary["final"]["accuracy"] == run.curve["accuracy_mean"][-1]
        assert summary["best"]["accuracy"] == run.curve["accuracy_mean"].max()
        assert list(summary["time_to_accuracy_s"]) == ["0.30", "0.50", "0.90"]
        assert 0 < summary["time_to_accuracy_s"]["0.30"] < summary["time_to_accuracy_s"]["0.50"]
        assert summary["time_to_accuracy_s"]["0.90"] is None
        assert summary["bytes_sent"] == sum(summary["bytes"].values())
        assert summary["cancelled_share"] == 0.25
        assert summary["staleness"]["straggler_senders"]["p50"] > summary["staleness"]["fast_senders"]["p50"]
        given = messages()
        used = given["aggregated_ns"] >= 0
        age = (given["aggregated_ns"] - given["queued_ns"])[used] / 1e9
        assert summary["age_s"]["overall"]["max"] == pytest.approx(age.max())
        assert summary["staleness"]["overall"]["count"] == int(used.sum())

    def test_where_the_time_went(self, tmp_path: Path) -> None:
        budget = json.loads((write_run(tmp_path) / "summary.json").read_text())["time_budget"]
        assert budget["fast"] == {
            "computing": 0.9, "waiting": 0.0, "sending": 0.06, "idle": 0.04, "paused": 0.0, "down": 0.0
        }  # fmt: skip
        assert budget["stragglers"]["waiting"] == 0.4
        assert budget["overall"]["computing"] == pytest.approx((4 * 0.9 + 2 * 0.6) / 6)
        assert all(sum(shares.values()) == pytest.approx(1) for shares in budget.values())
        plain = json.loads((write_run(tmp_path, slow=0) / "summary.json").read_text())["time_budget"]
        assert list(plain) == ["overall"]

    def test_rmse(self, tmp_path: Path) -> None:
        summary = json.loads((write_run(tmp_path, metric="rmse") / "summary.json").read_text())
        assert summary["time_to_rmse_s"]["1.20"] is not None
        assert "time_to_accuracy_s" not in summary
        run = load_run(next(tmp_path.iterdir()))
        assert summary["best"]["loss"] == run.curve["loss_mean"].min()
        assert not run.higher_is_better
        assert run.headline is run.curve["loss_mean"]

    def test_target_keys(self) -> None:
        assert [target_key(t) for t in (0.3, 0.125, 1.0)] == ["0.30", "0.125", "1.00"]


class TestPlacesThatCannotBeWritten:
    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match=r"out=.*file.*cannot be written"):
            start(tmp_path / "file")

    def test_a_place_that_allows_no_directories(self) -> None:
        with pytest.raises(ConfigError, match="out=/proc/runs: cannot be written") as caught:
            start(Path("/proc/runs"))
        assert "\n" not in str(caught.value)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_directory_without_permission(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(ConfigError, match="Permission denied"):
            start(tmp_path)

    def test_a_disk_that_is_nearly_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: usage._replace(free=1024 * 1024))
        with pytest.raises(ConfigError, match="1 MiB free"):
            start(tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestWritesThatFail:
    def test_a_full_device(self, tmp_path: Path) -> None:
        writer = start(tmp_path)
        (writer.path / "curve.csv").unlink()
        (writer.path / "curve.csv").symlink_to("/dev/full")
        with pytest.raises(RunnerError, match=r"curve.csv: cannot be written: No space left"):
            writer.add(sample(0))

    def test_a_directory_that_was_removed(self, tmp_path: Path) -> None:
        writer = start(tmp_path)
        shutil.rmtree(writer.path)
        with pytest.raises(RunnerError, match="No such file"):
            writer.add(sample(0))
        with pytest.raises(RunnerError, match="No such file"):
            writer.finish(totals(), messages())

    def test_a_limit_in_the_middle_of_a_line_leaves_whole_lines(self, tmp_path: Path) -> None:
        program = """
import resource, sys
from pathlib import Path
from tests.unit.orchestrator.synthetic_runs import messages, sample, totals, facts, EXPERIMENT, ENVIRONMENT
from node.core.errors import RunnerError
from orchestrator.results.writer import RunWriter
writer = RunWriter.create(Path(sys.argv[1]), facts(), EXPERIMENT, ENVIRONMENT)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
added = 0
try:
    for index in range(100):
        writer.add(sample(index))
        added += 1
except RunnerError as error:
    print(added, error)
try:
    writer.finish(totals(), messages())
except RunnerError as error:
    print(error)
"""
        here = str(Path(synthetic_runs.__file__).parents[3])
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": here},
        )
        first, second = done.stdout.splitlines()
        assert "curve.csv: cannot be written: File too large" in first
        assert "nodes.parquet: cannot be written" in second
        (path,) = tmp_path.iterdir()
        assert (path / "curve.csv").read_bytes().endswith(b"\n")
        run = load_run(path)
        assert run.status == "partial"
        assert run.times_s.size == int(first.split()[0]) > 0
        assert not list(path.glob("*.tmp"))


class TestReading:
    def test_a_killed_run_is_partial(self, tmp_path: Path) -> None:
        writer = start(tmp_path)
        for index in range(3):
            writer.add(sample(index))
        with (writer.path / "curve.csv").open("a") as file:
            file.write("30.0,0.5")  # killed in the middle of a line
        run = load_run(writer.path)
        assert run.status == "partial"
        assert run.times_s.tolist() == [0.0, 10.0, 20.0]
        assert run.facts.stragglers == {0, 1}
        assert run.nodes is run.messages is run.summary is None

    @pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
    def test_no_thread_is_left_that_could_be_at_work_when_the_interpreter_ends(self, tmp_path: Path) -> None:
        path = write_run(tmp_path)
        program = (
            "import os, sys; from pathlib import Path; from orchestrator.results.reader import load_run\n"
            "before = len(os.listdir('/proc/self/task')); run = load_run(Path(sys.argv[1]))\n"
            "assert run.messages is not None and run.nodes is not None\n"
            "print(len(os.listdir('/proc/self/task')) - before)\n"
        )
        told = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        assert told.stdout == "0\n"

    def test_a_curve_alone_is_enough(self, tmp_path: Path) -> None:
        path = write_run(tmp_path / "a")
        (tmp_path / "kept").mkdir()
        shutil.copy(path / "curve.csv", tmp_path / "kept" / "curve.csv")
        run = load_run(tmp_path / "kept")
        assert run.label == "kept"
        assert run.status == "partial"
        assert run.headline.size == 11

    def test_facts_come_back(self, tmp_path: Path) -> None:
        given, read = facts(), load_run(write_run(tmp_path)).facts
        assert read.partition_counts is not None
        assert given.partition_counts is not None
        assert np.array_equal(read.partition_counts, given.partition_counts)
        for name in (
            "name",
            "nodes",
            "metric",
            "stragglers",
            "targets",
            "class_names",
            "details",
            "command",
            "end_s",
        ):
            assert getattr(read, name) == getattr(given, name), name

    def test_facts_of_before_schedules_were_kept_are_read(self, tmp_path: Path) -> None:
        path = write_run(tmp_path, schedule=SCHEDULE)
        kept = json.loads((path / "facts.json").read_text())
        assert load_run(path).facts.schedule == SCHEDULE
        for change, problem in (
            ({"times": 0}, "schedule[0]: times must not be negative"),
            ({"for_s": -1}, "schedule[0]: times must not be negative"),
            ({"every_s": None}, "schedule[0].every_s: must be there where times=2"),
            ({"at_s": "x"}, "could not convert"),
        ):
            first, *others = kept["schedule"]
            (path / "facts.json").write_text(json.dumps(kept | {"schedule": [first | change, *others]}))
            with pytest.raises(ConfigError, match=re.escape(f"facts.json: damaged: {problem}")):
                load_run(path)
        del kept["schedule"]
        (path / "facts.json").write_text(json.dumps(kept))
        assert load_run(path).facts.schedule == ()

    def test_no_run_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such run directory"):
            load_run(tmp_path / "nothing")
        path = write_run(tmp_path)
        with pytest.raises(ConfigError, match=f"curve.csv is missing; runs inside it: {path.name}$"):
            load_run(tmp_path)
        for number in range(5):
            path.rename(tmp_path / f"r{number}")
            path = write_run(tmp_path)
        with pytest.raises(ConfigError, match=rf"runs inside it: r3, r4, {path.name} and 3 more$"):
            load_run(tmp_path)

    def test_a_file_instead_of_a_run(self, tmp_path: Path) -> None:
        run = write_run(tmp_path)
        (tmp_path / "e.yaml").write_text("nodes: 3\n")
        (tmp_path / "e.txt").write_text("")
        for path, message in (
            (tmp_path / "e.yaml", "an experiment file, must be a run directory: fragmesh run makes one of it"),
            (tmp_path / "e.txt", "a file, must be a run directory"),
            (run / "experiment.yaml", f"a file of a run, must be its directory: {run}"),
        ):
            with pytest.raises(ConfigError) as caught:
                load_run(path)
            assert str(caught.value).startswith(f"{path}: {message}")
        with pytest.raises(
            ConfigError, match=rf"Is a directory; the experiment of this run is {run}/experiment\.yaml$"
        ):
            read_experiment(run)

    @pytest.mark.parametrize(
        "name",
        [
            "curve.csv",
            "facts.json",
            "summary.json",
            "partition.csv",
            "links.csv",
            "faults.csv",
            "nodes.parquet",
            "messages.parquet",
        ],
    )
    @pytest.mark.parametrize("content", [b"\xff\xfe\x00broken\n,1\n", b"x\nnot,a,number\n"])
    def test_a_damaged_file_is_named_in_one_line(self, tmp_path: Path, name: str, content: bytes) -> None:
        path = write_run(tmp_path, schedule=SCHEDULE)
        (path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name}: damaged") as caught:
            load_run(path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "content", "expected"),
        [
            ("facts.json", "[]", "facts.json: damaged: not a JSON object"),
            ("facts.json", "{}", "facts.json: damaged: 'name'"),
            ("summary.json", '{"status": "over"}', "summary.json: status='over': not one of "),
            ("partition.csv", "node,a,b\n0,1\n1,2,3\n", "partition.csv: damaged: "),
            ("partition.csv", "node,a,b\n0,1\n1,2\n", "partition.csv: damaged: lines of different length"),
            ("experiment.yaml", "nodes: [", "experiment.yaml: damaged: line 1, "),
            ("experiment.yaml", "- 1\n", "experiment.yaml: damaged: must hold keys and values, holds list"),
            ("experiment.yaml", "", "experiment.yaml: damaged: must hold keys and values, holds NoneType"),
            ("experiment.yaml", "7\n", "experiment.yaml: damaged: must hold keys and values, holds int"),
            (
                "faults.csv",
                f"{FAULT_HEADER}0,crash,1,began,1,1,0\n",
                "faults.csv: damaged: line 2: what=began: must be ",
            ),
            ("faults.csv", f"{FAULT_HEADER}0,crash,1,end,1\n", "faults.csv: damaged: line 2: not enough values"),
            ("faults.csv", f"{FAULT_HEADER}0,crash,1,end,inf,,\n", "faults.csv: damaged: line 2: cannot convert"),
            ("summary.json", '{"status": "done"}', "summary.json: damaged: error: missing (and "),
            ("fidelity.json", '{"verdict": "good"}', "fidelity.json: damaged: verdict='good': must be "),
            ("fidelity.json", '{"checks": null}', "fidelity.json: damaged: checks=None: must be "),
            (
                "fidelity.json",
                '{"checks": ["x"], "died": []}',
                "fidelity.json: damaged: checks.0='x': must hold keys and values (and 1 more)",
            ),
            ("fidelity.json", '{"checks": [{"name": "a"}]}', "fidelity.json: damaged: checks.0.requested: missing"),
            ("fidelity.json", '{"died": {"3": null}}', "fidelity.json: damaged: died.3=None: must be "),
            ("fidelity.json", '{"figures": "x"}', "fidelity.json: damaged: figures='x': must hold keys and values"),
        ],
    )
    def test_a_file_of_other_content_is_named_in_one_line(
        self, tmp_path: Path, name: str, content: str, expected: str
    ) -> None:
        path = write_run(tmp_path)
        (path / name).write_text(content)
        with pytest.raises(ConfigError) as caught:
            load_run(path)
        assert str(caught.value).startswith(f"{path}/{expected}")
        assert "\n" not in str(caught.value)

    KEYS = ("time_s", "wall_s", "bytes_sent", "bytes", "messages", "train_steps", "staleness", "time_budget")

    @pytest.mark.parametrize("value", [None, "x", [], -1, True])
    @pytest.mark.parametrize("key", KEYS)
    def test_a_value_of_the_summary_that_is_none_is_named(self, tmp_path: Path, key: str, value: object) -> None:
        path = write_run(tmp_path, samples=2)
        summary = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps(summary | {key: value}))
        with pytest.raises(ConfigError, match=rf"summary\.json: damaged: {key}="):
            load_run(path)

    @pytest.mark.parametrize("time", ["-5", "nan", "inf", "1e11", ""])
    def test_a_time_of_the_curve_that_no_run_can_have_is_named(self, tmp_path: Path, time: str) -> None:
        path = write_run(tmp_path)
        lines = (path / "curve.csv").read_text().splitlines(keepends=True)
        lines[2] = ",".join([time, *lines[2].split(",")[1:]])
        (path / "curve.csv").write_text("".join(lines))
        with pytest.raises(ConfigError, match=rf"curve\.csv: damaged: line 3: time_s={time}: must be between 0 and"):
            load_run(path)

    def test_a_run_without_its_experiment_is_read(self, tmp_path: Path) -> None:
        """It has no setting, by which runs of several seeds would be one group."""
        path = write_run(tmp_path)
        assert load_run(path).setting is not None
        (path / "experiment.yaml").unlink()
        assert load_run(path).setting is None

    def test_a_curve_of_before_the_averaged_model_was_tested_is_read(self, tmp_path: Path) -> None:
        path = write_run(tmp_path)
        expected = load_run(path).curve
        kept = [index for index, name in enumerate(CURVE_COLUMNS) if name not in ("accuracy_averaged", "loss_averaged")]
        rows = [line.split(",") for line in (path / "curve.csv").read_text().splitlines()]
        (path / "curve.csv").write_text("".join(",".join(row[index] for index in kept) + "\n" for row in rows))
        found = load_run(path).curve
        assert np.isfinite(expected["accuracy_averaged"]).all()
        assert np.isnan(found["accuracy_averaged"]).all()
        assert np.isnan(found["loss_averaged"]).all()
        for name in (CURVE_COLUMNS[index] for index in kept):
            assert np.array_equal(found[name], expected[name], equal_nan=True)
        assert write_report(load_run(path)).exists()

    def test_a_damaged_line_of_the_curve_is_named(self, tmp_path: Path) -> None:
        path = write_run(tmp_path)
        lines = (path / "curve.csv").read_text().splitlines(keepends=True)
        lines[2] = "10.0,oops\n"
        (path / "curve.csv").write_text("".join(lines))
        with pytest.raises(ConfigError, match=f"line 3: 2 values instead of {len(CURVE_COLUMNS)}"):
            load_run(path)


def test_an_empty_sample_is_written(tmp_path: Path) -> None:
    writer = start(tmp_path)
    writer.add(Sample(0, (), 0, math.nan))
    assert load_run(writer.path).times_s.tolist() == [0.0]
