"""Control values survive the wire, and whatever arrives is read or refused, never worse."""

import contextlib
import math

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from node.core.counters import FIGURES, NodeCounters
from node.core.errors import ProtocolError
from node.core.types import NodeId
from node.transport.control_values import (
    ControlCommand,
    MeasureCommand,
    ModelSnapshot,
    NodeStatus,
    Phase,
    SnapshotPurpose,
    StartCommand,
    StopCommand,
    some_nodes,
)
from node.transport.control_wire import (
    PART_BYTES,
    REASONS_MAX,
    STORY_LINES_MAX,
    TEXT_MAX,
    command_from_wire,
    command_to_wire,
    one_line,
    pieces,
    snapshot_from_wire,
    snapshot_head,
    status_from_wire,
    status_to_wire,
)
from node.transport.pb import control_pb2 as pb

NODES = 10
counts = st.integers(0, 2**64 - 1)
nodes = st.builds(NodeId, st.integers(0, NODES - 1))
lines = st.text("abc 1.-", max_size=40).map(lambda text: " ".join(text.split()))
counters = st.builds(
    NodeCounters,
    **{name: counts if figure.is_whole else st.floats(allow_nan=False) for name, figure in FIGURES.items()},
)
statuses = st.builds(
    NodeStatus,
    node=nodes,
    phase=st.sampled_from(Phase),
    time_ns=st.integers(-(2**63), 2**63 - 1),
    counters=counters,
    messages_rejected=st.dictionaries(lines, counts, max_size=5),
    unreachable=st.sets(nodes).map(lambda found: tuple(sorted(found))),
    failure=lines,
    waiting_for=lines,
    waits_on=st.lists(nodes, max_size=NODES).map(tuple),
    story=st.lists(lines, max_size=STORY_LINES_MAX).map(tuple),
    at_rest=st.booleans(),
    sending_to=st.lists(nodes, max_size=NODES).map(tuple),
    diverged_ns=st.none() | st.integers(-(2**63), 2**63 - 1),
)
commands: st.SearchStrategy[ControlCommand] = st.one_of(
    st.builds(StartCommand, counts, st.none() | counts),
    st.builds(MeasureCommand, counts),
    st.builds(StopCommand, lines, counts, st.booleans()),
)
snapshots = st.builds(
    ModelSnapshot, node=nodes, purpose=st.sampled_from(SnapshotPurpose), time_ns=counts, counters=counters
)


@given(statuses)
def test_a_status_survives_the_wire(status: NodeStatus) -> None:
    sent = status_to_wire(status).SerializeToString()
    assert status_from_wire(pb.Status.FromString(sent), NODES) == status


@given(commands)
def test_a_command_survives_the_wire(command: ControlCommand) -> None:
    sent = command_to_wire(command).SerializeToString()
    assert command_from_wire(pb.Command.FromString(sent)) == command


@given(snapshots)
def test_a_snapshots_head_survives_the_wire(info: ModelSnapshot) -> None:
    head = snapshot_head(info, "run", memoryview(bytes(12)))
    assert (head.run_id, head.num_params) == ("run", 3)
    assert snapshot_from_wire(pb.SnapshotHead.FromString(head.SerializeToString()), NODES) == info


def test_a_snapshot_of_before_the_start_is_one_of_time_0() -> None:
    info = ModelSnapshot(NodeId(1), SnapshotPurpose.FINAL, time_ns=-5, counters=NodeCounters())
    assert snapshot_head(info, "run", memoryview(b"")).time_ns == 0


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_told_as_it_is(loss: float) -> None:
    status = status_from_wire(
        status_to_wire(NodeStatus(NodeId(0), Phase.RUNNING, counters=NodeCounters(train_loss=loss))), NODES
    )
    assert math.isnan(status.counters.train_loss) if math.isnan(loss) else status.counters.train_loss == loss


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(sent: bytes) -> None:
    for read in (
        lambda: status_from_wire(pb.Status.FromString(sent), NODES),
        lambda: command_from_wire(pb.Command.FromString(sent)),
        lambda: snapshot_from_wire(pb.SnapshotHead.FromString(sent), NODES),
    ):
        with contextlib.suppress(ProtocolError, DecodeError):
            read()


def test_a_status_is_cut_where_it_has_no_bound_of_its_own() -> None:
    message = pb.Status(
        node=1,
        phase=pb.Status.PHASE_FAILED,
        messages_rejected={f"reason {i}": i for i in range(10 * REASONS_MAX)},
        unreachable=[9, 3, 3, 2**32 - 1, NODES],
        counters=pb.Counters(whole={**{f"unknown {i}": 1 for i in range(1000)}, "rounds": 7}, real={"rounds": 0.5}),
        failure="first\nsecond\x1b[31m" + "x" * 10_000,
        waiting_for="y" * 10_000,
        story=[f"{index}\n" + "z" * 10_000 for index in range(1_000)],
        sending_to=[3, 2**32 - 1, 3, NODES, *[0] * 1_000],
        waits_on=[4, NODES, *[1] * 1_000],
    )
    status = status_from_wire(message, NODES)
    assert len(status.messages_rejected) == REASONS_MAX
    assert status.unreachable == (3, 9)
    assert repr(status.counters) == repr(NodeCounters(rounds=7))
    assert status.failure.startswith("first second?[31mxxx")
    assert len(status.failure) == len(status.waiting_for) == TEXT_MAX
    assert [line.split()[0] for line in status.story] == [str(index) for index in range(968, 1_000)]
    assert {len(line) for line in status.story} == {TEXT_MAX}
    assert status.sending_to == (3, 3, *[0] * (NODES - 4))
    assert status.waits_on == (4, *[1] * (NODES - 2))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (pb.Status(node=1), "phase 0: unknown"),
        (pb.Status(node=1, phase=99), "phase 99: unknown"),  # type: ignore[arg-type]
        (pb.Status(node=NODES, phase=pb.Status.PHASE_DONE), "node 10: must be at least 0 and below 10"),
    ],
)
def test_a_status_that_cannot_be_is_refused(message: pb.Status, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        status_from_wire(message, NODES)


def test_a_command_of_a_later_version_is_refused() -> None:
    with pytest.raises(ProtocolError, match="not one of this version's"):
        command_from_wire(pb.Command())


@given(st.text(max_size=2000))
def test_one_line_is_one_bounded_printable_line(text: str) -> None:
    line = one_line(text)
    assert len(line) <= TEXT_MAX
    assert line.isprintable()


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
def test_pieces_fit_and_make_the_whole(size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    cut = list(pieces(memoryview(data)))
    assert b"".join(cut) == data
    assert all(0 < len(piece) <= PART_BYTES for piece in cut)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([3], "node 3"),
        ([3, 5], "nodes 3 and 5"),
        ([3, 5, 7], "nodes 3, 5 and 7"),
        ([3, 5, 7, 8], "nodes 3, 5 and 2 more"),
    ],
)
def test_some_nodes_are_named(found: list[NodeId], text: str) -> None:
    assert some_nodes(found) == text
