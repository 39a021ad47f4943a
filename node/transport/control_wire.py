"""Values of the control plane as protobuf messages and back, for both sides.

What arrives is checked here: whatever the other side sends, reading it gives a value or raises
:class:`~node.core.errors.ProtocolError`.
"""

import zlib
from collections.abc import Iterator, Sequence

from node.core.counters import FIGURES, NodeCounters, counter_values, counters_from
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
)
from node.transport.pb import control_pb2 as pb

PART_BYTES = 2**18
"""Data in one piece of an upload."""

MESSAGE_BYTES_MAX = 2**22
"""The largest message that either side takes: the addresses of 10,000 nodes fit."""

KEEPALIVE_S = 5.0
KEEPALIVE_TIMEOUT_S = 15.0
"""A side that falls silent without closing its connection is given up after the sum of both. gRPC's own threads
answer, so that a busy interpreter does not look dead; what is left is the time in which a loaded host runs them."""

TEXT_MAX = 500
"""Characters of a text from the other side that are kept."""

REASONS_MAX = 64
"""Reasons for rejected messages that are kept of one status."""

STORY_LINES_MAX = 32
"""Lines of a node's story that are kept of one status, the last ones."""

_PHASES = {
    Phase.PREPARING: pb.Status.PHASE_PREPARING,
    Phase.WAITING: pb.Status.PHASE_WAITING,
    Phase.RUNNING: pb.Status.PHASE_RUNNING,
    Phase.DONE: pb.Status.PHASE_DONE,
    Phase.DIVERGED: pb.Status.PHASE_DIVERGED,
    Phase.STOPPING: pb.Status.PHASE_STOPPING,
    Phase.FAILED: pb.Status.PHASE_FAILED,
    Phase.DOWN: pb.Status.PHASE_DOWN,
}
_PURPOSES = {
    SnapshotPurpose.EVALUATION: pb.SnapshotHead.PURPOSE_EVALUATION,
    SnapshotPurpose.FINAL: pb.SnapshotHead.PURPOSE_FINAL,
}
_PHASE_BY_CODE = {code: phase for phase, code in _PHASES.items()}
_PURPOSE_BY_CODE = {code: purpose for purpose, code in _PURPOSES.items()}


def one_line(text: str) -> str:
    """A text from the other side, made fit for a log: one line, bounded, nothing but printable characters."""
    joined = " ".join(text[: 2 * TEXT_MAX].split())
    return "".join(c if c.isprintable() else "?" for c in joined)[:TEXT_MAX]


def channel_options(
    keepalive_s: float = KEEPALIVE_S, keepalive_timeout_s: float = KEEPALIVE_TIMEOUT_S
) -> list[tuple[str, int]]:
    """Options that both sides set on their connections.

    Args:
        keepalive_s: Silence after which the other side is asked whether it lives, seconds.
        keepalive_timeout_s: How long it has for its answer, seconds.
    """
    return [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.keepalive_time_ms", int(keepalive_s * 1000)),
        # Whichever is longer decides, and the second is a minute if it is not set.
        ("grpc.keepalive_timeout_ms", int(keepalive_timeout_s * 1000)),
        ("grpc.http2.ping_timeout_ms", int(keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        # A connection without data is our ordinary case: neither side may count the other's pings as abuse.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.max_ping_strikes", 0),
    ]


# -- status ----------------------------------------------------------------------------------------------------


def status_to_wire(status: NodeStatus) -> pb.Status:
    """Make the message."""
    return pb.Status(
        node=status.node,
        phase=_PHASES[status.phase],
        time_ns=status.time_ns,
        counters=_counters_to_wire(status.counters),
        messages_rejected=status.messages_rejected,
        unreachable=status.unreachable,
        failure=one_line(status.failure),
        waiting_for=one_line(status.waiting_for),
        waits_on=status.waits_on,
        story=[one_line(line) for line in status.story],
        at_rest=status.at_rest,
        sending_to=status.sending_to,
        diverged_ns=status.diverged_ns,
    )


def status_from_wire(message: pb.Status, num_nodes: int) -> NodeStatus:
    """Read the message. Counts are taken as they are; what has no bound of its own is cut.

    Args:
        message: From a node.
        num_nodes: Nodes in the run.

    Raises:
        ProtocolError: The node is not one of the run's, or the phase is unknown.
    """
    phase = _PHASE_BY_CODE.get(message.phase)
    if phase is None:
        raise ProtocolError(f"phase {message.phase}: unknown")
    reasons = sorted(message.messages_rejected.items())[:REASONS_MAX]
    return NodeStatus(
        node=_node(message.node, num_nodes),
        phase=phase,
        time_ns=message.time_ns,
        counters=_counters_from_wire(message.counters),
        messages_rejected={one_line(reason): count for reason, count in reasons},
        unreachable=tuple(NodeId(node) for node in sorted({n for n in message.unreachable if n < num_nodes})),
        failure=one_line(message.failure),
        waiting_for=one_line(message.waiting_for),
        waits_on=_nodes_of(message.waits_on, num_nodes),
        story=tuple(one_line(line) for line in message.story[-STORY_LINES_MAX:]),
        at_rest=message.at_rest,
        sending_to=_nodes_of(message.sending_to, num_nodes),
        diverged_ns=message.diverged_ns if message.HasField("diverged_ns") else None,
    )


def _nodes_of(indices: Sequence[int], num_nodes: int) -> tuple[NodeId, ...]:
    return tuple(NodeId(node) for node in indices[:num_nodes] if node < num_nodes)


def _counters_to_wire(counters: NodeCounters) -> pb.Counters:
    values = counter_values(counters)
    return pb.Counters(
        whole={name: int(value) for name, value in values.items() if FIGURES[name].is_whole},
        real={name: value for name, value in values.items() if not FIGURES[name].is_whole},
    )


def _counters_from_wire(message: pb.Counters) -> NodeCounters:
    """Read the figures that this version knows; others are left out."""
    values: dict[str, float] = {}
    for name, figure in FIGURES.items():
        sent = message.whole if figure.is_whole else message.real
        if name in sent:
            values[name] = sent[name]
    return counters_from(values)


def _node(index: int, num_nodes: int) -> NodeId:
    if index >= num_nodes:
        raise ProtocolError(f"node {index}: must be at least 0 and below {num_nodes}")
    return NodeId(index)


# -- commands --------------------------------------------------------------------------------------------------


def command_to_wire(command: ControlCommand) -> pb.Command:
    """Make the message."""
    match command:
        case StartCommand():
            return pb.Command(
                start=pb.Start(start_unix_ns=command.start_unix_ns, start_monotonic_ns=command.start_monotonic_ns)
            )
        case MeasureCommand():
            return pb.Command(measure=pb.Measure(duration_ns=command.duration_ns))
        case StopCommand():
            stop = pb.Stop(reason=one_line(command.reason), grace_ns=command.grace_ns, snapshot=command.snapshot)
            return pb.Command(stop=stop)


def command_from_wire(message: pb.Command) -> ControlCommand:
    """Read the message.

    Raises:
        ProtocolError: It is none of the known commands.
    """
    match message.WhichOneof("command"):
        case "start":
            start = message.start
            monotonic_ns = start.start_monotonic_ns if start.HasField("start_monotonic_ns") else None
            return StartCommand(start.start_unix_ns, monotonic_ns)
        case "measure":
            return MeasureCommand(message.measure.duration_ns)
        case "stop":
            stop = message.stop
            return StopCommand(one_line(stop.reason), stop.grace_ns, stop.snapshot)
        case _:
            raise ProtocolError("command: not one of this version's")


# -- uploads ---------------------------------------------------------------------------------------------------


def snapshot_head(snapshot: ModelSnapshot, run_id: str, data: memoryview) -> pb.SnapshotHead:
    """Make the head of a snapshot's upload. A snapshot of before the start is one of time 0."""
    return pb.SnapshotHead(
        run_id=run_id,
        node=snapshot.node,
        purpose=_PURPOSES[snapshot.purpose],
        time_ns=max(snapshot.time_ns, 0),
        counters=_counters_to_wire(snapshot.counters),
        num_params=len(data) // 4,
        crc32=zlib.crc32(data),
    )


def snapshot_from_wire(head: pb.SnapshotHead, num_nodes: int) -> ModelSnapshot:
    """Read the head of a snapshot's upload.

    Raises:
        ProtocolError: The node is not one of the run's, or the purpose is unknown.
    """
    purpose = _PURPOSE_BY_CODE.get(head.purpose)
    if purpose is None:
        raise ProtocolError(f"purpose {head.purpose}: unknown")
    return ModelSnapshot(
        node=_node(head.node, num_nodes),
        purpose=purpose,
        time_ns=head.time_ns,
        counters=_counters_from_wire(head.counters),
    )


def pieces(data: memoryview) -> Iterator[bytes]:
    """The data of an upload, cut so that each piece fits a message."""
    for start in range(0, len(data), PART_BYTES):
        yield bytes(data[start : start + PART_BYTES])
