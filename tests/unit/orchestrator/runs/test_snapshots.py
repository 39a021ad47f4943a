"""Models that nodes handed over: kept, tested in order, and read again after whatever ended the run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.core.counters import NodeCounters
from node.core.errors import ConfigError, RunnerError
from node.core.types import NodeId, Vector
from node.transport.control_values import ModelSnapshot, SnapshotPurpose
from orchestrator.results.schema import Sample
from orchestrator.runs.snapshots import Earlier, Part, Snapshots, StoredModel

ALL = frozenset({0, 1, 2})


def info(node: int, time_ns: int, purpose: SnapshotPurpose = SnapshotPurpose.EVALUATION) -> ModelSnapshot:
    counters = NodeCounters(rounds=3, local_steps=6, bytes_sent=100 * node + time_ns, queued_messages=4)
    return ModelSnapshot(NodeId(node), purpose, time_ns, counters)


def params(node: int, time_ns: int) -> Vector:
    return np.array([node, time_ns], dtype=np.float32)


def keep(snapshots: Snapshots, time_ns: int, *nodes: int) -> None:
    for node in nodes:
        snapshots.keep(info(node, time_ns), params(node, time_ns))


def test(snapshots: Snapshots, time_ns: int) -> Sample:
    sample, _ = snapshots.take(time_ns)
    sample = replace(sample, nodes=tuple(replace(node, accuracy=0.5, loss=1.5) for node in sample.nodes))
    snapshots.tested(sample)
    return sample


test.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
def snapshots(folder: Path) -> Snapshots:
    return Snapshots.create(folder)


def test_instants_are_tested_in_order_each_once_and_when_all_living_nodes_are_there(snapshots: Snapshots) -> None:
    assert snapshots.next_any() is None
    assert snapshots.next_complete(lambda time_ns: ALL) is None
    keep(snapshots, 20, 0, 1, 2)  # the later one first: uploads overtake each other
    keep(snapshots, 10, 2, 0)
    assert snapshots.next_complete(lambda time_ns: ALL) is None
    assert snapshots.next_complete(lambda time_ns: frozenset({0, 2})) == 10
    assert snapshots.next_any() == 10
    keep(snapshots, 10, 1)
    assert snapshots.next_complete(lambda time_ns: ALL) == 10
    sample, models = snapshots.take(10)
    assert sample.time_ns == 10
    assert {int(node): params.tolist() for node, params in models.items()} == {node: [node, 10] for node in range(3)}
    assert snapshots.next_complete(lambda time_ns: ALL) == 20
    snapshots.take(20)
    assert snapshots.next_any() is None


def test_a_sample_says_what_the_nodes_were(snapshots: Snapshots) -> None:
    keep(snapshots, 10, 1, 0)
    sample, _ = snapshots.take(10)
    assert sample.time_ns == 10
    assert [node.node for node in sample.nodes] == [0, 1]
    assert [node.counters.bytes_sent for node in sample.nodes] == [10, 110]
    assert sample.bytes_sent == 120
    assert (
        sample.nodes[0].counters.rounds,
        sample.nodes[0].counters.local_steps,
        sample.nodes[0].counters.queued_messages,
    ) == (3, 6, 4)
    assert np.isnan(sample.nodes[0].counters.train_loss)
    assert sample.consensus_distance == 0.25  # models (0, 10) and (1, 10)


def test_the_bytes_of_a_node_that_has_died_stay_in_the_sum(snapshots: Snapshots) -> None:
    keep(snapshots, 10, 0, 1)
    keep(snapshots, 20, 0)
    assert snapshots.take(20)[0].bytes_sent == 20 + 110


@pytest.mark.parametrize(("to_resume", "expected"), [(False, 19), (True, None)])
def test_the_last_models_are_one_instant_which_an_interrupted_run_does_not_test(
    to_resume: bool, expected: int | None, snapshots: Snapshots
) -> None:
    for node, time_ns in enumerate((17, 19, 18)):
        snapshots.keep(info(node, time_ns, SnapshotPurpose.FINAL), params(node, 0))
    assert snapshots.next_any() is None  # not before all of them are there
    snapshots.close_with_final(to_resume=to_resume)
    assert snapshots.next_any() == expected
    if expected:
        assert [node.node for node in snapshots.take(19)[0].nodes] == [0, 1, 2]
    snapshots.close_with_final(to_resume=to_resume)
    assert snapshots.next_any() is None


def test_what_is_found_again(snapshots: Snapshots, folder: Path) -> None:
    keep(snapshots, 10, 0, 1, 2)
    sample = test(snapshots, 10)
    keep(snapshots, 20, 0, 1, 2)
    keep(snapshots, 30, 0, 2)  # node 1 did not come to hand it over
    again, earlier = Snapshots.reopen(folder, 3)
    assert earlier.time_ns == 20
    assert [(stored.node, model.tolist()) for stored, model in earlier.models] == [(n, [n, 20]) for n in range(3)]
    assert [repr(found) for found in earlier.samples] == [repr(sample)]  # repr: NaN is not equal to itself
    assert again.next_any() == 20
    assert not list(folder.glob("*30-n*.npy"))
    keep(again, 30, 0, 1, 2)
    test(again, 20)
    _, earlier = Snapshots.reopen(folder, 3)
    assert earlier.time_ns == 30
    assert [found.time_ns for found in earlier.samples] == [10, 20]


def test_parts_are_found_again(snapshots: Snapshots, folder: Path) -> None:
    keep(snapshots, 10, 0)
    table = {"id": np.arange(3), "sent_ns": np.array([5, -1, 7])}
    first = Part(0, 10, 1.5, [NodeCounters(train_loss=0.5, rounds=3)])
    snapshots.end_part(first, table)
    snapshots.end_part(Part(10, 20, 0.5, [NodeCounters(train_loss=0.25, rounds=4)]), None)
    _, earlier = Snapshots.reopen(folder, 1)
    assert [part.end_ns for part in earlier.parts] == [10, 20]
    assert earlier.parts[0] == replace(first, has_messages=True)
    assert [{name: column.tolist() for name, column in found.items()} for found in earlier.messages] == [
        {name: column.tolist() for name, column in table.items()}
    ]


@pytest.mark.parametrize("name", ["index.jsonl", "tested.jsonl"])
def test_a_last_line_that_was_cut_off_does_not_count(name: str, snapshots: Snapshots, folder: Path) -> None:
    keep(snapshots, 10, 0, 1, 2)
    test(snapshots, 10)
    keep(snapshots, 20, 0, 1, 2)
    test(snapshots, 20)
    whole = (folder / name).read_bytes()
    begin_of_last = whole.rstrip(b"\n").rfind(b"\n") + 1
    # Without its end of line alone, or without more.
    for length in (*range(begin_of_last, len(whole), 7), len(whole) - 1):
        (folder / name).write_bytes(whole[:length])
        _, earlier = Snapshots.reopen(folder, 3)
        assert earlier.time_ns == (10 if name == "index.jsonl" else 20)
        assert [sample.time_ns for sample in earlier.samples] == [10]
        for node in range(3):
            keep(snapshots, 20, node)


def lines_of(error: pytest.ExceptionInfo[ConfigError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_nothing_to_resume_from_is_one_clear_line(snapshots: Snapshots, folder: Path) -> None:
    keep(snapshots, 10, 0, 1)
    with pytest.raises(ConfigError, match="nothing to resume from") as error:
        Snapshots.reopen(folder, 3)
    assert "3 nodes" in lines_of(error)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.jsonl", b"{no json}\n"),
        ("index.jsonl", b"[1, 2]\n"),
        ("index.jsonl", b'{"time_ns": 3}\n'),
        ("index.jsonl", b"\xff\xfe\n"),
        ("tested.jsonl", b'{"time_ns": 3}\n'),
        ("parts.jsonl", b'{"begin_ns": 0, "unknown": 1}\n'),
        ("t0000000000000000010-n00001.npy", b"\x93NUMPY"),
        ("t0000000000000000010-n00001.npy", b""),
        ("messages-0.npz", b"PK\x03\x04"),
        ("messages-0.npz", b""),
    ],
)
def test_damage_is_one_clear_line(name: str, content: bytes, snapshots: Snapshots, folder: Path) -> None:
    keep(snapshots, 10, 0, 1, 2)
    test(snapshots, 10)
    snapshots.end_part(Part(0, 10, 1.0, []), {"id": np.arange(2)})
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match="damaged") as error:
        Snapshots.reopen(folder, 3)
    assert str(folder) in lines_of(error)


def test_only_the_models_to_resume_from_stay(snapshots: Snapshots, folder: Path) -> None:
    for time_ns in (10, 20, 30):
        keep(snapshots, time_ns, 0, 1)
        test(snapshots, time_ns)
    keep(snapshots, 40, 0)  # neither complete nor tested
    snapshots.drop_before_last(2)
    assert sorted(int(path.name[1:20]) for path in folder.glob("*.npy")) == [30, 30, 40]
    snapshots.remove()
    assert not folder.exists()


def test_who_is_down_as_planned_is_not_waited_for(folder: Path) -> None:
    def is_down(node: int, time_ns: int) -> bool:
        return node == 1 and time_ns in (20, 30)

    snapshots = Snapshots.create(folder, is_down)
    for time_ns, nodes in ((10, (0, 1)), (20, (0,)), (30, (0,)), (40, (0,))):
        keep(snapshots, time_ns, *nodes)
        test(snapshots, time_ns)
    assert snapshots.last_model(1) is not None
    assert snapshots.last_model(2) is None
    snapshots.drop_before_last(2)
    assert sorted(path.name for path in folder.glob("*.npy")) == [
        f"t{10:019d}-n00001.npy",  # what it comes back with
        f"t{30:019d}-n00000.npy",
    ]
    _, earlier = Snapshots.reopen(folder, 2, is_down)
    assert earlier.time_ns == 30
    assert [(stored.node, stored.time_ns) for stored, _ in earlier.models] == [(0, 30), (1, 10)]


def test_a_folder_that_cannot_be_written_is_one_clear_line(folder: Path) -> None:
    snapshots = Snapshots.create(folder)
    with pytest.raises(RunnerError, match="cannot be made"):
        Snapshots.create(folder)
    folder.rmdir()
    with pytest.raises(RunnerError, match="cannot be written: No such file"):
        keep(snapshots, 10, 0)


def test_a_rounds_number_is_given_once() -> None:
    """Beyond the model that is gone on with, what earlier parts counted, and every message; aligned: the same for all.

    A node whose last part said nothing, because it was killed, is known by its messages alone.
    """
    models = [
        (StoredModel(10, node, NodeCounters(rounds=4, local_steps=8 + node)), params(node, 10)) for node in range(3)
    ]
    part = Part(0, 10, 1.5, [NodeCounters(rounds=rounds) for rounds in (3, 6, 4)])
    sent = {"sender": np.array([2, 2, 0]), "round": np.array([7, 2, 1])}
    found = Earlier(time_ns=10, models=models, samples=[], parts=[part], messages=[sent])
    assert found.rounds() == [4, 6, 8]
    for aligned, rounds in ((False, [4, 6, 8]), (True, [8, 8, 8])):
        beginnings = found.beginnings(aligned=aligned)
        assert [beginning.rounds for beginning in beginnings] == rounds
        assert [beginning.local_steps for beginning in beginnings] == [8, 9, 10]
        assert [beginning.params.tolist() for beginning in beginnings] == [[node, 10] for node in range(3)]
