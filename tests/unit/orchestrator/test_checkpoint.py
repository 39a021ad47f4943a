"""The file of a checkpoint, and a directory that is written by two runs, one after the other."""

import json
from pathlib import Path

import numpy as np
import pytest

from node.core.counters import NodeCounters
from node.core.errors import ConfigError, RunnerError
from node.core.saved_state import State
from orchestrator.results.checkpoint import CHECKPOINT, read_checkpoint, remove_checkpoint, write_checkpoint
from orchestrator.results.reader import load_run
from orchestrator.results.schema import NodeSample, RunFacts, RunTotals, Sample
from orchestrator.results.writer import END_FILES, RunWriter

FACTS = RunFacts(name="two parts", algorithm="local", runtime="simulation", nodes=2, seed=1)
TOTALS = RunTotals(
    status="done",
    time_ns=3,
    bytes=dict.fromkeys(("payload", "metadata", "control", "wasted", "retransmitted"), 0),
    messages=dict.fromkeys(("queued", "sent", "delivered", "aggregated", "cancelled", "aborted", "lost"), 0),
    train_steps=2,
    wall_s=1.0,
    uplink_utilization=np.array([0.1, 0.2]),
    downlink_utilization=np.array([0.3, 0.4]),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(0, np.int64), np.array([True, False])]
    write_checkpoint(tmp_path / CHECKPOINT, {"of": "a test"}, State({"root": [1, float("inf")], "records": []}, arrays))
    about, state = read_checkpoint(tmp_path / CHECKPOINT)
    assert about == {"of": "a test"}
    assert state.structure == {"root": [1, float("inf")], "records": []}
    for ours, theirs in zip(state.arrays, arrays, strict=True):
        assert (ours.dtype, ours.shape, ours.tolist()) == (theirs.dtype, theirs.shape, theirs.tolist())
        assert ours.flags.writeable


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / CHECKPOINT
    write_checkpoint(path, {"number": 1}, State({}, []))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(RunnerError, match="No space left on device"):
            write_checkpoint(path, {"number": 2}, State({}, []))
    assert read_checkpoint(path)[0] == {"number": 1}
    assert [child.name for child in tmp_path.iterdir()] == [CHECKPOINT]


def test_nothing_is_left_of_a_checkpoint_that_was_being_written(tmp_path: Path) -> None:
    (tmp_path / (CHECKPOINT + ".tmp")).write_bytes(b"half")
    remove_checkpoint(tmp_path / CHECKPOINT)
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_meaning_is_refused(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"curve,csv\n" * 100)
    with pytest.raises(ConfigError, match="damaged: not a checkpoint"):
        read_checkpoint(tmp_path / CHECKPOINT)


def sample(time_ns: int) -> Sample:
    nodes = tuple(
        NodeSample(
            node,
            0.1 * time_ns + node / 3,
            float("nan") if time_ns == 0 else 0.5,
            NodeCounters(
                train_loss=0.25, rounds=time_ns, local_steps=1, bytes_sent=10, queued_messages=node, messages_sent=2
            ),
        )
        for node in range(2)
    )
    return Sample(time_ns=time_ns, nodes=nodes, bytes_sent=7, consensus_distance=1 / 3)


def written(writer: RunWriter, times: range) -> Path:
    for time_ns in times:
        writer.add(sample(time_ns))
    return writer.path


def test_a_directory_in_two_parts_is_that_of_one(tmp_path: Path) -> None:
    whole = RunWriter.create(tmp_path / "whole", FACTS, {"name": "x"}, {"first": 1})
    written(whole, range(5))
    expected = whole.finish(TOTALS)

    first = RunWriter.create(tmp_path / "part", FACTS, {"name": "x"}, {"first": 1})
    path = written(first, range(2))
    state = first.state()
    written(first, range(2, 4))
    first.finish(TOTALS)
    first.add_to_environment({"ended_at": "then"})
    assert json.loads((path / "environment.json").read_text()) == {"first": 1, "ended_at": "then"}
    (path / "report.html").touch()
    with (path / "curve.csv").open("a") as file:
        file.write("0.1,0.")  # a line that was being written

    with pytest.raises(ConfigError, match="the run is under way, in another process"):
        RunWriter.reopen(path, FACTS, state, {})
    first.close()
    first.close()
    second = RunWriter.reopen(path, FACTS, state, {"second": 2})
    assert not any((path / name).exists() for name in END_FILES)
    assert load_run(path).status == "partial"
    assert load_run(path).times_s.size == 2
    written(second, range(2, 5))
    assert second.finish(TOTALS) == expected
    for name in ("curve.csv", "nodes.parquet", "links.csv", "facts.json"):
        assert (path / name).read_bytes() == (whole.path / name).read_bytes(), name
    assert json.loads((path / "environment.json").read_text()) == {"first": 1, "resumed": [{"second": 2}]}
    whole.close()
    second.close()


def test_a_directory_that_has_changed_is_refused_and_can_be_tried_again(tmp_path: Path) -> None:
    first = RunWriter.create(tmp_path, FACTS, {"name": "x"}, {})
    path = written(first, range(3))
    state = first.state()
    first.close()
    curve = (path / "curve.csv").read_bytes()
    for content in (curve[:-2], curve[:-2] + b"9\n", b""):
        (path / "curve.csv").write_bytes(content)
        with pytest.raises(ConfigError, match=r"curve.csv: changed since"):
            RunWriter.reopen(path, FACTS, state, {})
    (path / "curve.csv").write_bytes(curve)
    (path / "environment.json").write_text("[]")
    with pytest.raises(ConfigError, match="cannot be continued"):
        RunWriter.reopen(path, FACTS, state, {})
    (path / "environment.json").write_text("{}")
    again = RunWriter.reopen(path, FACTS, state, {})
    (path / "environment.json").write_text("[]")
    with pytest.raises(RunnerError, match=r"environment.json: cannot be read: environment.json is not a JSON object"):
        again.add_to_environment({})
    again.close()
