"""From what nodes told to the figures of a run. Pure.

Nodes tell what they counted as plain JSON (``node.runtime.process``); a run may have several parts, each with its
own counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from math import inf
from types import SimpleNamespace
from typing import Any

import numpy as np

from node.core.links import NetworkPlan
from node.core.types import NodeId
from node.runtime.calibration import requested_mbps, requested_round_trip_ms
from node.runtime.counters import Counters
from node.runtime.message_records import Column
from orchestrator.fidelity import MeasuredLink, NodeFigures


def known(**counters: int) -> dict[str, Any]:
    """A node's counters, of which only some are known; the others are 0."""
    return {**{field.name: 0 for field in fields(Counters)}, **counters}


def summed(counters: Sequence[Mapping[str, Any]]) -> Any:
    """One node's counters over all parts, as attributes."""
    names = counters[0].keys()
    return SimpleNamespace(**{name: sum(count[name] or 0 for count in counters) for name in names})


def one_table(tables: Sequence[dict[str, Column]]) -> dict[str, Column] | None:
    """The messages of all parts under each other, numbered through."""
    if not tables:
        return None
    table = {name: np.concatenate([part[name] for part in tables]) for name in tables[0]}
    return {**table, "id": np.arange(len(table["id"]), dtype=np.int64)}


def measured_links(network: NetworkPlan, measurements: Mapping[NodeId, Mapping[str, Any]]) -> Iterator[MeasuredLink]:
    """Requested and achieved, for every path that was measured. Senders tell round trips, receivers rates."""
    for source, measured in sorted(measurements.items()):
        destination = int(measured["peer"])
        mbps = requested_mbps(network, source, destination)
        arrived = measurements.get(NodeId(destination), {})
        achieved = arrived.get("received_mbps") if arrived.get("received_from") == source else None
        trips = np.array(measured["round_trips_ms"])
        there, back = network.pair(source, destination), network.pair(destination, source)
        yield MeasuredLink(
            source=int(source),
            destination=destination,
            requested_mbps=None if mbps == inf else mbps,
            achieved_mbps=achieved if mbps else 0.0,
            requested_rtt_ms=requested_round_trip_ms(network, source, destination),
            rtt_p50_ms=float(np.median(trips)) if trips.size else None,
            rtt_p99_ms=float(np.percentile(trips, 99)) if trips.size else None,
            probes=int(trips.size),
            rtt_jitter_ms=float(np.hypot(there.jitter_ms, back.jitter_ms)),
        )


def node_figures(node: NodeId, figures: Mapping[str, Any]) -> NodeFigures:
    """What a node told of itself at the end; see ``node.runtime.process``."""
    counters = figures["counters"]
    return NodeFigures(
        node=int(node),
        blocks=counters["rounds"] - figures["first_round"],
        declared_ns=counters["declared_ns"],
        overruns=counters["overruns"],
        overrun_ns=counters["overrun_ns"],
        in_flight_bytes_max=figures["in_flight_bytes_max"],
        in_flight_bound_bytes=figures["in_flight_bound_bytes"],
        loop_late_p99_ns=figures["loop_late_p99_ns"],
        arrivals=figures["arrivals"],
        late_p99_ns=figures["late_p99_ns"],
        late_max_ns=figures["late_max_ns"],
        memory_bytes=figures["memory_bytes"] or None,
        rejected=figures["rejected"],
    )
