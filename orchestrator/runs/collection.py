"""Everything that the nodes of a run handed over, and the figures of the run that follow from it.

A node counts for itself and tells its counts as plain JSON (``node.runtime.process``). Each conversion stands here
once: from what is told to totals, to the figures of fidelity, and to one table of messages. A run may have several
parts, each with its own counts; totals are over all of them.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from math import inf
from typing import Any

import numpy as np

from node.config import Beginning
from node.core.counters import (
    NodeCounters,
    add_counters,
    counter_values,
    counters_from,
    counters_with_past,
    sum_counters,
)
from node.core.errors import DivergedError, RunnerError
from node.core.links import NetworkPlan, entry_of_pair
from node.core.time_budget import times_of
from node.core.types import NodeId, Vector
from node.core.units import NS_PER_MS
from node.runtime.link_measurement import requested_mbps, requested_round_trip_ms
from node.runtime.message_records import Column, join
from node.transport.control_values import ModelSnapshot, NodeStatus, Phase
from orchestrator.fidelity import MeasuredLink, NodeFigures, TimedMessage
from orchestrator.results.schema import EndStatus, RunTotals
from orchestrator.runs.evaluation import utilization
from orchestrator.runs.snapshots import Part
from orchestrator.runs.watched import reasons_text
from orchestrator.shaping.line_rates import LineRates


class Collection:
    """Snapshots, measurements, records and figures of the nodes of one part, as they arrive.

    A node that could not see a receipt sends the same again; the later one replaces the earlier one.

    State:
        measurements: What each node measured of its links.
        figures: What each node counted, told once at the end.
        records: The messages of each life of each node, as bytes.
        ended_lives: What nodes counted in lives that have ended, told at the end of each.
        _before: What each node counted in earlier parts and in ended lives.
        _lived: What it counted in ended lives of this part.
        _lives: How often a node was started again.
        _down_since_ns: When a node went down last, as planned.
    """

    def __init__(
        self, keep_model: Callable[[ModelSnapshot, Vector], None], before: Sequence[NodeCounters] | None = None
    ) -> None:
        """Begin with nothing.

        Args:
            keep_model: Stores a model; see :meth:`orchestrator.runs.snapshots.Snapshots.keep`.
            before: What each node counted in earlier parts; None for the first part. Nodes count anew.
        """
        self._keep_model = keep_model
        self._before = {NodeId(node): counters for node, counters in enumerate(before or ())}
        self._lived: dict[NodeId, NodeCounters] = {}
        self._lives: dict[NodeId, int] = {}
        self._down_since_ns: dict[NodeId, int] = {}
        self.measurements: dict[NodeId, dict[str, Any]] = {}
        self.figures: dict[NodeId, dict[str, Any]] = {}
        self.records: dict[tuple[NodeId, int], bytes] = {}
        self.ended_lives: list[tuple[NodeId, dict[str, Any]]] = []

    def keep_snapshot(self, snapshot: ModelSnapshot, params: Vector) -> None:
        """Store a node's model, with what the node counted in all parts.

        Raises:
            RunnerError: The disk is full, or it cannot be written for another reason.
        """
        if (before := self._before.get(snapshot.node)) is not None:
            own = snapshot.counters
            snapshot = replace(snapshot, counters=counters_with_past(before, own))
        self._keep_model(snapshot, params)

    def keep_records(self, node: NodeId, name: str, data: bytes) -> None:
        """Keep records under their name. Names of later versions are left out."""
        match name:
            case "messages":
                self.records[node, self._lives.get(node, 0)] = data
            case "figures":
                self.figures[node] = json.loads(data)
            case "measurement":
                self.measurements[node] = json.loads(data)

    def end_life(self, node: NodeId, status: NodeStatus, down_ns: int) -> dict[str, Any]:
        """Put what a node counted with the past, because it has gone down as planned.

        Args:
            node: Which.
            status: Its last.
            down_ns: When it was to go down, testbed time.

        Returns:
            The figures that it told last; those of its status if it could not.
        """
        told = self.figures.pop(node, None) or {"counters": counter_values(status.counters)}
        own = counters_from(told["counters"])
        self._before[node] = counters_with_past(self._before.get(node), own)
        self._lived[node] = counters_with_past(self._lived.get(node), own)
        self._down_since_ns[node] = down_ns
        self.ended_lives.append((node, told))
        return told

    def begin_life(self, node: NodeId, life: int, params: Vector) -> Beginning:
        """Note that a node is started again with a model, and return where it begins."""
        self._lives[node] = life
        lived = self._lived[node]
        return Beginning(params, lived.rounds, lived.local_steps, life, self._down_since_ns[node])

    def counters(self, status: NodeStatus, rounds_before: int, steps_before: int, ended_ns: int) -> NodeCounters:
        """Return what a node counted in this part; of one that died, what its last status says.

        Args:
            status: The node's last status.
            rounds_before: Rounds that it had done when it began, which it counts on from.
            steps_before: The same of local steps.
            ended_ns: When the part ended: a node that was down had been so until then.
        """
        told = self.figures.get(status.node)
        counters = status.counters if told is None else counters_from(told["counters"])
        if (lived := self._lived.get(status.node)) is not None:
            if status.phase is Phase.DOWN:  # else it is another life, which counts rounds on
                away_ns = max(0, ended_ns - self._down_since_ns[status.node])
                counters = replace(lived, down_ns=lived.down_ns + away_ns)
            else:
                counters = counters_with_past(lived, counters)
        return replace(
            counters,
            rounds=max(0, counters.rounds - rounds_before),
            local_steps=max(0, counters.local_steps - steps_before),
        )

    def forget_saturated_after(self, diverged: DivergedError) -> None:
        """Take out of what nodes counted the values that saturated after a divergence, in the order of a simulation.

        Nodes go on until they are told, with models that are about to diverge as well.
        """
        for node, told in self.figures.items():
            late = [n for time_ns, n in told["saturated"] if (time_ns, node) > (diverged.time_ns, diverged.node)]
            if late:
                told["counters"]["values_saturated"] -= sum(late)

    def rejected(self, statuses: Iterable[NodeStatus]) -> dict[int, dict[str, int]]:
        """Return the messages that each node of this part refused, by reason; of one that died, as it said last."""
        rejected = {
            status.node: Counter(
                self.figures[status.node]["rejected"] if status.node in self.figures else status.messages_rejected
            )
            for status in statuses
        }
        for node, told in self.ended_lives:
            rejected[node].update(told.get("rejected", {}))
        return {int(node): dict(reasons) for node, reasons in rejected.items()}

    def messages(self) -> dict[str, Column] | None:
        """Return the table of this part's messages; None if no node handed over any.

        Raises:
            ProtocolError: A node's records are damaged.
        """
        return join(self.records) if self.records else None


def refuse_rejections(parts: Sequence[Part], rejected: Mapping[int, Mapping[str, int]]) -> None:
    """Fail a run in which messages were refused: they were sent and never counted, which no experiment asks for.

    Args:
        parts: What all parts of the run counted.
        rejected: Of the last part: node -> reason -> how many.

    Raises:
        RunnerError: There were some.
    """
    total = sum(count.messages_rejected for part in parts for count in part.counters)
    if total:
        why = sum((Counter(reasons) for reasons in rejected.values()), Counter[str]())
        text = reasons_text(why) if why else "in an earlier part of the run"
        raise RunnerError(f"nodes refused {total:,} messages of their peers ({text})")


def number_on(messages: dict[str, Column], first_rounds: Sequence[int]) -> dict[str, Column]:
    """Number the rounds of a part on from earlier ones: an algorithm, which begins anew, counts its own from 0.

    Args:
        messages: The part's table.
        first_rounds: The round with which each node began, in node order.
    """
    numbers = messages["round"] + np.array(first_rounds, dtype=np.int64)[messages["sender"]]
    return {**messages, "round": numbers.astype(messages["round"].dtype)}


def concatenate_tables(tables: Sequence[dict[str, Column]]) -> dict[str, Column] | None:
    """Put the messages of all parts under each other, numbered through; None if there is no table."""
    if not tables:
        return None
    table = {name: np.concatenate([part[name] for part in tables]) for name in tables[0]}
    return {**table, "id": np.arange(len(table["id"]), dtype=np.int64)}


def totals_of(
    parts: Sequence[Part],
    network: NetworkPlan,
    *,
    begin_ns: int,
    wall_s: float,
    status: EndStatus,
    error: RunnerError | None,
) -> RunTotals:
    """Add up the totals of a run over all its parts.

    Args:
        parts: What each part counted. Of a part that was killed only what its last models tell is known.
        network: The links.
        begin_ns: Testbed time reached where there is no part.
        wall_s: Real time that the run took where there is no part.
        status: How the run ended.
        error: Why it did not come to its end; None if it did.
    """
    counted = [
        reduce(add_counters, (part.counters[node] for part in parts)) for node in range(network.num_nodes) if parts
    ]
    totals = sum_counters(counted, network.header_bytes)
    end_ns = max((part.end_ns for part in parts), default=begin_ns)
    up = down = None
    if counted:
        sent, received = [node.bytes_sent for node in counted], [node.bytes_received for node in counted]
        up, down = utilization(network, sent, received, end_ns)
    return RunTotals(
        status=status,
        time_ns=end_ns,
        bytes=totals.bytes,
        messages=totals.messages,
        bytes_lost=totals.bytes_lost,
        values_saturated=totals.values_saturated,
        train_steps=sum(node.local_steps for node in counted),
        wall_s=sum(part.wall_s for part in parts) if parts else wall_s,
        uplink_utilization=up,
        downlink_utilization=down,
        error=None if error is None else str(error),
        divergence=error if isinstance(error, DivergedError) else None,
        spent_ns=np.array([times_of(node) for node in counted], dtype=np.int64) if counted else None,
    )


def measured_links(
    network: NetworkPlan, measurements: Mapping[NodeId, Mapping[str, Any]], lines: LineRates | None = None
) -> Iterator[MeasuredLink]:
    """Compare requested and achieved, for every path that was measured. Senders tell round trips, receivers rates.

    Args:
        network: What was requested, at the time at which the part begins.
        measurements: What each node measured.
        lines: Where the kernel shapes lines: what probes have of a line is then less than its rate.
    """
    for source, measured in sorted(measurements.items()):
        destination = int(measured["peer"])
        mbps = requested_mbps(network, source, destination)
        arrived = measurements.get(NodeId(destination), {})
        achieved = arrived.get("received_mbps") if arrived.get("received_from") == source else None
        if lines is not None and achieved:
            achieved = lines.messages_mbps(achieved, arrived["received_bytes"])
        round_trip_ms = requested_round_trip_ms(network, source, destination)
        trips = np.array(measured["round_trips_ms"])
        there_ns = entry_of_pair(network.jitter_ns, source, destination)
        back_ns = entry_of_pair(network.jitter_ns, destination, source)
        yield MeasuredLink(
            source=int(source),
            destination=destination,
            requested_mbps=None if mbps == inf else mbps,
            achieved_mbps=achieved if mbps else 0.0,
            requested_rtt_ms=round_trip_ms,
            rtt_p50_ms=float(np.median(trips)) if trips.size else None,
            rtt_p99_ms=float(np.percentile(trips, 99)) if trips.size else None,
            probes=int(trips.size),
            rtt_jitter_ms=float(np.hypot(there_ns, back_ns)) / NS_PER_MS,
            timed=() if lines is None else tuple(_timed(measured, mbps, round_trip_ms, lines)),
        )


def _timed(measured: Mapping[str, Any], mbps: float, round_trip_ms: float, lines: LineRates) -> Iterator[TimedMessage]:
    for size, took_ms in zip(measured.get("answered_bytes", ()), measured.get("answered_ms", ()), strict=True):
        wanted_ms = lines.probe_ms(size, mbps) + round_trip_ms
        yield TimedMessage(size, wanted_ms, took_ms, lines.saved_bytes(mbps))


def node_figures(node: NodeId, figures: Mapping[str, Any]) -> NodeFigures:
    """Convert what a node told of itself at the end; see ``node.runtime.process``."""
    counters = counters_from(figures["counters"])
    return NodeFigures(
        node=int(node),
        counters=counters,
        blocks=counters.rounds - figures["first_round"],
        loop_late_p99_ns=figures["loop_late_p99_ns"],
        arrivals=figures["arrivals"],
        late_p99_ns=figures["late_p99_ns"],
        late_max_ns=figures["late_max_ns"],
        memory_bytes=figures["memory_bytes"] or None,
    )
