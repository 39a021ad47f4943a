"""Values of the control plane as protobuf messages and back, for both sides.

What arrives is checked here: whatever the other side sends, reading it gives a value or raises
:class:`~node.core.errors.ProtocolError`.
"""

import zlib
from collections.abc import Iterator

from node.core.errors import ProtocolError
from node.core.types import NodeId
from node.transport.control_values import (
    ControlCommand,
    MeasureCommand,
    NodeStatus,
    Phase,
    SnapshotInfo,
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
    Phase.STOPPING: pb.Status.PHASE_STOPPING,
    Phase.FAILED: pb.Status.PHASE_FAILED,
}
_PURPOSES = {
    SnapshotPurpose.EVALUATION: pb.SnapshotHead.PURPOSE_EVALUATION,
    SnapshotPurpose.FINAL: pb.SnapshotHead.PURPOSE_FINAL,
}
_PHASE_BY_CODE = {code: phase for phase, code in _PHASES.items()}
_PURPOSE_BY_CODE = {code: purpose for purpose, code in _PURPOSES.items()}

_STATUS_NUMBERS = (
    "time_ns",
    "rounds",
    "local_steps",
    "training_loss",
    "messages_sent",
    "messages_received",
    "messages_cancelled",
    "sent_bytes",
    "received_bytes",
    "outbox_messages",
    "in_flight_bytes",
    "in_flight_bytes_max",
    "overrun_ns",
    "overruns",
    "cpu_ns",
    "memory_bytes",
)
"""The fields of a status that are one number and have one name in both forms."""


def one_line(text: str) -> str:
    """A text from the other side, made fit for a log: one line, bounded, nothing but printable characters."""
    joined = " ".join(text[: 2 * TEXT_MAX].split())
    return "".join(c if c.isprintable() else "?" for c in joined)[:TEXT_MAX]


def channel_options(
    keepalive_s: float = KEEPALIVE_S, keepalive_timeout_s: float = KEEPALIVE_TIMEOUT_S
) -> list[tuple[str, int]]:
    """What both sides set on their connections.

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
    message = pb.Status(
        node=status.node,
        phase=_PHASES[status.phase],
        messages_rejected=status.messages_rejected,
        unreachable=status.unreachable,
        failure=one_line(status.failure),
        waiting_for=one_line(status.waiting_for),
        story=[one_line(line) for line in status.story],
    )
    for name in _STATUS_NUMBERS:
        if (value := getattr(status, name)) is not None:
            setattr(message, name, value)
    return message


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
    numbers = {name: getattr(message, name) for name in _STATUS_NUMBERS if name != "training_loss"}
    reasons = sorted(message.messages_rejected.items())[:REASONS_MAX]
    return NodeStatus(
        node=_node(message.node, num_nodes),
        phase=phase,
        training_loss=message.training_loss if message.HasField("training_loss") else None,
        messages_rejected={one_line(reason): count for reason, count in reasons},
        unreachable=tuple(NodeId(node) for node in sorted({n for n in message.unreachable if n < num_nodes})),
        failure=one_line(message.failure),
        waiting_for=one_line(message.waiting_for),
        story=tuple(one_line(line) for line in message.story[-STORY_LINES_MAX:]),
        **numbers,
    )


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


def snapshot_head(info: SnapshotInfo, run_id: str, data: memoryview) -> pb.SnapshotHead:
    """Make the head of a snapshot's upload. A snapshot of before the start is one of time 0."""
    return pb.SnapshotHead(
        run_id=run_id,
        node=info.node,
        purpose=_PURPOSES[info.purpose],
        time_ns=max(info.time_ns, 0),
        rounds=info.rounds,
        local_steps=info.local_steps,
        training_loss=info.training_loss,
        sent_bytes=info.sent_bytes,
        outbox_messages=info.outbox_messages,
        num_params=len(data) // 4,
        crc32=zlib.crc32(data),
    )


def snapshot_from_wire(head: pb.SnapshotHead, num_nodes: int) -> SnapshotInfo:
    """Read the head of a snapshot's upload.

    Raises:
        ProtocolError: The node is not one of the run's, or the purpose is unknown.
    """
    purpose = _PURPOSE_BY_CODE.get(head.purpose)
    if purpose is None:
        raise ProtocolError(f"purpose {head.purpose}: unknown")
    return SnapshotInfo(
        node=_node(head.node, num_nodes),
        purpose=purpose,
        time_ns=head.time_ns,
        rounds=head.rounds,
        local_steps=head.local_steps,
        training_loss=head.training_loss if head.HasField("training_loss") else None,
        sent_bytes=head.sent_bytes,
        outbox_messages=head.outbox_messages,
    )


def pieces(data: memoryview) -> Iterator[bytes]:
    """The data of an upload, cut so that each piece fits a message."""
    for start in range(0, len(data), PART_BYTES):
        yield bytes(data[start : start + PART_BYTES])
