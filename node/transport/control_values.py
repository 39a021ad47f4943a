"""Control values: everything that a node and the orchestrator tell each other. Neither gRPC nor protobuf enters.

Drivers and runners speak in these; ``control_wire`` turns them into messages and back. The meaning and the unit of
each field are those of ``protos/fragmesh/v1/control.proto``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from node.core.counters import NodeCounters
from node.core.types import NodeId

CONTROL_VERSION = 7
"""Raised whenever the meaning of control.proto changes."""


class Phase(Enum):
    """State of a node's life."""

    PREPARING = "preparing"
    WAITING = "waiting"
    """At a barrier, or for the common start."""
    RUNNING = "running"
    DONE = "done"
    """Its own rounds are done; it still receives and answers."""
    DIVERGED = "diverged"
    """Its model is not finite any more; it stands still until it is stopped."""
    STOPPING = "stopping"
    FAILED = "failed"
    """It cannot go on; the status says why."""
    DOWN = "down"
    """It goes down as planned: it hands over what it counted, and ends."""


class SnapshotPurpose(Enum):
    """Purpose of a snapshot."""

    EVALUATION = "evaluation"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Registration:
    """Introduction of a node.

    Attributes:
        node: Its index.
        peer_address: Where it serves its peers, host:port.
        pid: Its process, as it sees itself.
        num_params: Length of its model's flat vector.
        plan_id: See :func:`node.transport.frames.plan_id`.
        software_version: Its release; for messages to people.
        metrics_address: Where it serves its metrics, host:port; empty where it serves none.
    """

    node: NodeId
    peer_address: str
    pid: int
    num_params: int
    plan_id: int
    software_version: str
    metrics_address: str = ""


@dataclass(frozen=True, slots=True)
class Registered:
    """The orchestrator's answer to a node that registers.

    Attributes:
        num_nodes: Nodes in the run.
        status_period_s: How often a status is wanted, seconds of real time.
    """

    num_nodes: int
    status_period_s: float


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """State of a node.

    Attributes:
        node: Its index.
        phase: What it is doing.
        time_ns: When this was made: testbed time, nanoseconds; negative before the start.
        counters: Its figures.
        messages_rejected: Messages dropped, by the reason's name.
        unreachable: Peers that could not be reached at the last attempt, increasing.
        failure: Why it cannot go on, one line; empty unless ``phase`` is FAILED.
        waiting_for: What it cannot go on without, in words; empty while it waits for nobody.
        waits_on: The peers without whom it cannot go on, all of them.
        story: Its last events, oldest first, a line each.
        at_rest: Nothing will happen at the node unless a message arrives or a transfer ends: it does not train, no
            timer runs, and receipts cover all that has left it. Of one that stands still: as it was then.
        sending_to: Of a node at rest, the receivers of its transfers that have not ended.
        diverged_ns: When its model was found to be not finite, testbed time, nanoseconds; None while it is finite.
    """

    node: NodeId
    phase: Phase
    time_ns: int = 0
    counters: NodeCounters = field(default_factory=NodeCounters)
    messages_rejected: Mapping[str, int] = field(default_factory=dict)
    unreachable: tuple[NodeId, ...] = ()
    failure: str = ""
    waiting_for: str = ""
    waits_on: tuple[NodeId, ...] = ()
    story: tuple[str, ...] = ()
    at_rest: bool = False
    sending_to: tuple[NodeId, ...] = ()
    diverged_ns: int | None = None


@dataclass(frozen=True, slots=True)
class StartCommand:
    """Begin the experiment at an instant that is the same for all.

    Attributes:
        start_unix_ns: Wall clock at testbed time 0, nanoseconds since 1970-01-01 UTC.
        start_monotonic_ns: The same instant on the orchestrator's monotonic clock, nanoseconds; None unless all
            nodes share its host. Where it is given it decides.
    """

    start_unix_ns: int
    start_monotonic_ns: int | None = None


@dataclass(frozen=True, slots=True)
class MeasureCommand:
    """Measure the links, before the start.

    Attributes:
        duration_ns: For how long: testbed time, nanoseconds.
    """

    duration_ns: int


@dataclass(frozen=True, slots=True)
class StopCommand:
    """End the run in good order.

    Attributes:
        reason: One line for the node's log.
        grace_ns: How long the node may take before it is killed, nanoseconds of real time.
        snapshot: Whether a final snapshot is wanted.
    """

    reason: str
    grace_ns: int
    snapshot: bool


ControlCommand: TypeAlias = StartCommand | MeasureCommand | StopCommand


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """Head of a snapshot: the node, and its state when the snapshot was taken.

    Attributes:
        node: Its index.
        purpose: What it is for.
        time_ns: When: testbed time, nanoseconds; 0 before the start.
        counters: Its figures then.
    """

    node: NodeId
    purpose: SnapshotPurpose
    time_ns: int
    counters: NodeCounters


def some_nodes(nodes: list[NodeId], named: int = 2) -> str:
    """A list of nodes for a message to people: ``nodes 3, 5 and 2 more``, or ``node 3``.

    Args:
        nodes: At least one.
        named: How many are named when there are more; one more is named where only one would be left out.
    """
    if len(nodes) <= named + 1:
        *first, last = map(str, nodes)
        return f"nodes {', '.join(first)} and {last}" if first else f"node {last}"
    return f"nodes {', '.join(map(str, nodes[:named]))} and {len(nodes) - named} more"
