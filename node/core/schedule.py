"""A schedule of what changes on purpose while an experiment runs, and the state that follows from it; pure.

A schedule is a set of spans: something holds from one instant of testbed time to another. What a link or a node is at
a time follows from the network, the spans that hold then, and nothing else; above all not from what was done before.
So every runtime has the same state at the same time, and so has a run that goes on in the middle of a fault.

Several overlays on one link compose as elements in series on a wire would, whatever their order:

==========  =====================================================================
bandwidth   the base times all factors, but no more than the least of the limits
latency     the base times all factors, and all additions
jitter      standard deviations add as those of independent delays: as squares
loss        a packet arrives that none of them loses
==========  =====================================================================

A path from s to d meets what is laid over the uplink of s, over the downlink of d, and over the pair itself. Nodes that
a partition sets apart do not reach each other: what is under way between them stands still until they do again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, inf
from typing import Final, Literal, NamedTuple, TypeAlias

from node.core.steps import Steps, steps_of

Groups: TypeAlias = tuple[int, ...]
"""A partition: the group of each node; nodes of different groups do not reach each other, but for :data:`IN_NONE`."""

IN_NONE: Final = -1
"""The group of a node that a partition does not name: it reaches all others."""


class Place(NamedTuple):
    """A link that something is laid over, named as in :class:`~node.core.links.CapacityChange`.

    Attributes:
        kind: ``up`` and ``down``: a node's access link, and all paths from it or to it; ``pair``: one path.
        source: The node of an uplink, or a path's sender; -1 for ``down``.
        destination: The node of a downlink, or a path's receiver; -1 for ``up``.
    """

    kind: Literal["up", "down", "pair"]
    source: int
    destination: int


@dataclass(frozen=True, slots=True)
class Overlay:
    """Something laid over a link; by default nothing.

    Attributes:
        base_mbps: Takes the place of the network's own capacity, as a trace does; None leaves it.
        bandwidth_factor: > 0.
        bandwidth_mbps_max: >= 0; inf is no limit.
        latency_factor: >= 0.
        latency_ns: Added, >= 0.
        jitter_ns: Standard deviation, >= 0.
        loss: Probability that a packet is lost, in [0, 1).
    """

    base_mbps: float | None = None
    bandwidth_factor: float = 1.0
    bandwidth_mbps_max: float = inf
    latency_factor: float = 1.0
    latency_ns: int = 0
    jitter_ns: float = 0.0
    loss: float = 0.0

    def with_other(self, other: "Overlay") -> "Overlay":
        """Return what both together are; of two bases the other one counts."""
        return Overlay(
            base_mbps=self.base_mbps if other.base_mbps is None else other.base_mbps,
            bandwidth_factor=self.bandwidth_factor * other.bandwidth_factor,
            bandwidth_mbps_max=min(self.bandwidth_mbps_max, other.bandwidth_mbps_max),
            latency_factor=self.latency_factor * other.latency_factor,
            latency_ns=self.latency_ns + other.latency_ns,
            jitter_ns=hypot(self.jitter_ns, other.jitter_ns),
            loss=self.loss + other.loss * (1.0 - self.loss),
        )

    def capacity_mbps(self, mbps: float) -> float:
        """Return the capacity of a link that has ``mbps`` without it; inf is unlimited."""
        base = mbps if self.base_mbps is None else self.base_mbps
        return min(base * self.bandwidth_factor, self.bandwidth_mbps_max)

    @property
    def shapes_path(self) -> bool:
        """True if latency, jitter or loss differ by it."""
        return bool(self.latency_factor != 1.0 or self.latency_ns or self.jitter_ns or self.loss)


NOTHING: Final = Overlay()


@dataclass(frozen=True, slots=True)
class LinkSpan:
    """Something is laid over a link for a while.

    Attributes:
        begin_ns: Testbed time.
        end_ns: The first instant without it; None if it stays.
        place: Over which.
        overlay: What.
    """

    begin_ns: int
    end_ns: int | None
    place: Place
    overlay: Overlay


@dataclass(frozen=True, slots=True)
class PartitionSpan:
    """Nodes are set apart for a while; times as of :class:`LinkSpan`.

    Attributes:
        groups: Which.
    """

    begin_ns: int
    end_ns: int | None
    groups: Groups


Comeback: TypeAlias = Literal["last", "common", "peer"]
"""The model with which a node begins that comes back: the last one that it handed over for evaluation, the one with
which all began, or that of a neighbor."""


@dataclass(frozen=True, slots=True)
class NodeSpan:
    """A node is down, stands still or computes slowly for a while; times as of :class:`LinkSpan`.

    Attributes:
        node: Which.
        kind: What happens to it.
        slowdown: How many times longer its local steps take; 1 unless it is slowed.
        model: Where it begins when it comes back; counts only of one that was down.
    """

    begin_ns: int
    end_ns: int | None
    node: int
    kind: Literal["down", "paused", "slowed"]
    slowdown: float = 1.0
    model: Comeback = "last"


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node's state at a time; by default it runs.

    Attributes:
        is_down: Its process has ended, and what it held in memory is lost.
        is_paused: Its process stands still.
        slowdown: How many times longer its local steps take, >= 1.
        model: Of a node that is down: where it will begin.
    """

    is_down: bool = False
    is_paused: bool = False
    slowdown: float = 1.0
    model: Comeback = "last"

    @property
    def speed(self) -> float:
        """Share of a local step's work that is done in a step's time: 0 where it stands still."""
        return 0.0 if self.is_down or self.is_paused else 1.0 / self.slowdown


RUNNING: Final = NodeState()


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that is planned; see the module's text.

    Attributes:
        links: What is laid over links.
        partitions: Who is set apart.
        nodes: What happens to nodes.
    """

    links: tuple[LinkSpan, ...] = ()
    partitions: tuple[PartitionSpan, ...] = ()
    nodes: tuple[NodeSpan, ...] = ()

    def __bool__(self) -> bool:
        """Tell whether anything is planned."""
        return bool(self.links or self.partitions or self.nodes)

    def overlays(self) -> dict[Place, Steps[Overlay]]:
        """Return what is laid over each link, at any time."""
        spans: dict[Place, list[LinkSpan]] = {}
        for span in self.links:
            spans.setdefault(span.place, []).append(span)
        return {place: steps_of(those, _composed) for place, those in spans.items()}

    def separations(self) -> Steps[tuple[Groups, ...]]:
        """Return the partitions that hold, at any time."""
        return steps_of(self.partitions, lambda held: tuple(span.groups for span in held))

    def node_states(self) -> dict[int, Steps[NodeState]]:
        """Return what each node is to which something happens, at any time."""
        spans: dict[int, list[NodeSpan]] = {}
        for span in self.nodes:
            spans.setdefault(span.node, []).append(span)
        return {node: steps_of(those, _state) for node, those in spans.items()}


def speeds_of(states: Mapping[int, Steps[NodeState]]) -> dict[int, Steps[float]]:
    """Return the speed of each node to which something happens, at any time.

    A node that is down does no work at all, so that its speed then means nothing.
    """
    return {
        node: Steps(steps.first.speed, steps.times_ns, tuple(state.speed for state in steps.values))
        for node, steps in states.items()
    }


def is_cut(partitions: Sequence[Groups], source: int, destination: int) -> bool:
    """Return whether one of the partitions sets two nodes apart."""
    for groups in partitions:
        ours, theirs = groups[source], groups[destination]
        if ours != theirs and ours != IN_NONE and theirs != IN_NONE:
            return True
    return False


def over_path(overlays: Mapping[Place, Steps[Overlay]], source: int, destination: int, at_ns: int) -> Overlay:
    """Return what a message from ``source`` to ``destination`` meets at a time, but for rates."""
    found = NOTHING
    for place in (Place("up", source, -1), Place("down", -1, destination), Place("pair", source, destination)):
        steps = overlays.get(place)
        if steps is not None and (overlay := steps.at(at_ns)) is not NOTHING:
            found = overlay if found is NOTHING else found.with_other(overlay)
    return found


def _composed(held: Sequence[LinkSpan]) -> Overlay:
    found = NOTHING
    for span in held:
        found = span.overlay if found is NOTHING else found.with_other(span.overlay)
    return found


def _state(held: Sequence[NodeSpan]) -> NodeState:
    if not held:
        return RUNNING
    slowdown = 1.0
    model: Comeback = "last"
    for span in held:
        slowdown *= span.slowdown
        if span.kind == "down":
            model = span.model
    return NodeState(
        is_down=any(span.kind == "down" for span in held),
        is_paused=any(span.kind == "paused" for span in held),
        slowdown=slowdown,
        model=model,
    )
