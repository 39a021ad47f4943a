"""The state of every node of a real run, as its supervisor knows it, and as the display shows it. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isnan

from node.config import Beginning
from node.core.counters import NodeCounters, counters_with_past
from node.core.errors import DivergedError, RunnerError
from node.core.types import NodeId
from node.core.units import ns_to_s
from node.transport.control_values import NodeStatus, Phase, some_nodes
from orchestrator.progress.run_progress import NodeRow, RunProgress
from orchestrator.results.schema import Sample
from orchestrator.runs.fleet import Fleet, NodeEnd
from orchestrator.runs.rules import Rules

LEAVE_S = 5.0
"""Time that a node may take from the end of its session to the end of its process."""

NODES_NAMED = 5
"""Nodes whose state a message about a stalled run tells; of more than that, the number of the others."""

EVENTS_TOLD = 4
"""Events of a node that a message about its death or about a stalled run tells, at most: the last ones."""


@dataclass(slots=True)
class WatchedNode:
    """One node.

    Attributes:
        status: Its last status; PREPARING before the first.
        before: The status before that one which was made at another time; rates are taken between the two.
        end: How it ended; None while it runs.
        died: Why it is left out of the run, in words that follow its name; empty while it takes part. A node that
            ends because the run is over has not died.
        away: What it does instead of taking part, as planned, in a word; empty while it takes part. It has not died.
        silent_since_s: When its session ended, real time; None while it lasts.
        hung: It had to be killed when the run was over.
        lived: What it counted in lives that have ended, as it said last; None in its first one.
    """

    status: NodeStatus
    before: NodeStatus
    end: NodeEnd | None = None
    died: str = ""
    away: str = ""
    silent_since_s: float | None = None
    hung: bool = False
    lived: NodeCounters | None = None

    @classmethod
    def new(cls, node: NodeId) -> "WatchedNode":
        """A node that has said nothing yet."""
        status = NodeStatus(node, Phase.PREPARING)
        return cls(status, status)

    @property
    def counters(self) -> NodeCounters:
        """Return what it counted in all its lives, as it said last."""
        return counters_with_past(self.lived, self.status.counters)

    def start_again(self, beginning: Beginning) -> None:
        """Begin anew with a node that was started again and counts on from ``beginning``."""
        self.lived = self.counters
        begins = NodeCounters(rounds=beginning.rounds, local_steps=beginning.local_steps)
        self.status = self.before = NodeStatus(self.status.node, Phase.PREPARING, counters=begins)
        self.end = self.silent_since_s = None

    def update(self, status: NodeStatus) -> None:
        """Take a status of the node."""
        self.silent_since_s = None
        if status.time_ns > self.status.time_ns:
            self.before = self.status
        self.status = status

    def row(self, stragglers: frozenset[int]) -> NodeRow:
        """Return the node's row of the display."""
        status, before = self.status, self.before
        seconds = ns_to_s(status.time_ns - before.time_ns)

        def mbps(now: int, then: int) -> float | None:
            return (now - then) * 8e-6 / seconds if seconds > 0 and before.time_ns >= 0 else None

        return NodeRow(
            node=status.node,
            state=self.died or self.away or status.phase.value,
            rounds=status.counters.rounds,
            loss=None if isnan(loss := status.counters.train_loss) else loss,
            up_mbps=mbps(status.counters.bytes_sent, before.counters.bytes_sent),
            down_mbps=mbps(status.counters.bytes_received, before.counters.bytes_received),
            queued_messages=status.counters.queued_messages,
            straggler=status.node in stragglers,
            failed=bool(self.died) or status.phase in (Phase.FAILED, Phase.DIVERGED),
            waits_for=self.waits_for,
        )

    @property
    def waits_for(self) -> tuple[int, ...]:
        """Peers without whom it cannot go on, as it said last; none where it does not take part."""
        is_running = self.status.phase is Phase.RUNNING and not (self.died or self.away)
        return self.status.waits_on if is_running else ()


class Roster:
    """All nodes of a part of a run: what each said last, and how each ended.

    State:
        nodes: What is known of each node, in order of their numbers.
    """

    def __init__(self, num_nodes: int, fleet: Fleet, now_s: Callable[[], float]) -> None:
        """Begin with nodes that have said nothing. ``now_s`` is real time, of any origin."""
        self._fleet = fleet
        self._now_s = now_s
        self.nodes = {NodeId(node): WatchedNode.new(NodeId(node)) for node in range(num_nodes)}

    def living(self) -> list[NodeStatus]:
        """Return the last statuses of the nodes that take part."""
        return [watched.status for watched in self.nodes.values() if not watched.died and not watched.away]

    def update(self, status: NodeStatus) -> None:
        """Take a node's status."""
        self.nodes[status.node].update(status)

    def session_ended(self, node: NodeId) -> None:
        """Note that a node has left, or was silent for longer than a session may be."""
        self.nodes[node].silent_since_s = self._now_s()

    def note_ends(self) -> None:
        """Ask the fleet which nodes have ended. That alone does not make a node dead: it may have been told to."""
        for node, end in self._fleet.newly_ended().items():
            self.nodes[node].end = end

    def newly_died(self) -> list[NodeId]:
        """Find the nodes that have died since the last call, none of which may end now, and mark them.

        Raises:
            RunnerError: The fleet's backend failed, so that no node can go on.
        """
        # The backend first: without it nodes end as well, and would be named in its place.
        if failure := self._fleet.failure():
            raise RunnerError(failure)
        self.note_ends()
        died = []
        for node, watched in self.nodes.items():
            if watched.died or watched.away or watched.status.phase is Phase.DOWN:
                continue
            if watched.end is not None:
                watched.died = watched.end.how
            elif watched.silent_since_s is not None and self._now_s() - watched.silent_since_s > LEAVE_S:
                self.kill(node)
                watched.died = "did not answer any more and was killed"
            if watched.died:
                died.append(node)
        return died

    def kill(self, node: NodeId) -> None:
        """End a node by force."""
        self._fleet.kill(node)
        self.nodes[node].end = NodeEnd("was killed", failed=True)

    def obituary(self, node: NodeId, more: str = "") -> str:
        """Tell how a node died, what follows from it (``more``), and why, as far as it said. One line."""
        watched = self.nodes[node]
        text = f"node {node} {watched.died}{more}"
        if watched.status.phase is Phase.FAILED and watched.status.failure:
            return f"{text}: {watched.status.failure}"
        words = self._fleet.last_words(node)
        return f"{text}; it said last: {words}" if words else text


def progress_of(
    nodes: Mapping[NodeId, WatchedNode],
    now_ns: int,
    wall_s: float,
    sample: Sample | None,
    rules: Rules,
    stragglers: frozenset[int],
    warnings: tuple[str, ...],
) -> RunProgress:
    """Return what the display shows of a run; ``now_ns`` may lie before its start or after its end."""
    end_ns = rules.end_ns
    counters = [watched.counters for watched in nodes.values()]
    return RunProgress(
        time_ns=max(0, min(now_ns, now_ns if end_ns is None else end_ns)),
        end_ns=end_ns,
        wall_s=wall_s,
        rounds_min=min(count.rounds for count in counters),
        rounds_max=max(count.rounds for count in counters),
        messages_delivered=sum(count.messages_delivered for count in counters),
        bytes_sent=sum(count.bytes_sent for count in counters),
        sample=sample,
        nodes=tuple(watched.row(stragglers) for watched in nodes.values()),
        dilation=rules.dilation,
        warnings=warnings,
    )


def progress_made(statuses: Iterable[NodeStatus]) -> int:
    """Return a number that grows whenever a node trains, sends or receives."""
    counters = [status.counters for status in statuses]
    return sum(count.local_steps + count.messages_sent + count.messages_delivered for count in counters)


def earliest_divergence(statuses: Iterable[NodeStatus]) -> DivergedError | None:
    """Find the node whose model was not finite first; of several at the same instant the one of the smallest number.

    A simulation comes to the same one first.
    """
    found = [(status.diverged_ns, status.node, status) for status in statuses if status.diverged_ns is not None]
    if not found:
        return None
    time_ns, node, status = min(found, key=lambda one: one[:2])
    return DivergedError(node, status.counters.rounds - 1, time_ns)


def reasons_text(rejected: Mapping[str, int]) -> str:
    """List why messages were refused, for a message to people: ``2 checksum, 1 flood``."""
    return ", ".join(f"{times:,} {reason}" for reason, times in sorted(rejected.items()))


def doing(status: NodeStatus) -> str:
    """Describe what a node was last known to do: its phase, what it waits for, and its last events. One line."""
    text = f"node {status.node}: {status.phase.value}, round {status.counters.rounds}"
    if status.waiting_for:
        text += f", waits for {status.waiting_for}"
    if status.messages_rejected:
        text += f", refused messages ({reasons_text(status.messages_rejected)})"
    if status.unreachable:
        text += f", cannot reach {some_nodes(list(status.unreachable))}"
    return text + story_of(status)


def doing_all(statuses: list[NodeStatus]) -> str:
    """Describe what the first :data:`NODES_NAMED` nodes were last known to do, on one line."""
    named = [doing(status) for status in statuses[:NODES_NAMED]]
    others = len(statuses) - len(named)
    return "; ".join([*named, f"and {others} more"] if others else named)


def story_of(status: NodeStatus) -> str:
    """Describe a node's last events for the end of a message; begins with a separator, or is empty."""
    events = " | ".join(status.story[-EVENTS_TOLD:])
    return f" (last events: {events})" if events else ""
