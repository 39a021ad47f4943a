"""Bounds of all that a network ever is, from which waits and buffers follow; pure.

A wait that is bounded by a rate or a latency must not end too early while a link is slowed down, stands still or is
cut, and a buffer that holds what is under way must hold it at its most. So each bound covers all times at once.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf, isfinite

import numpy as np
import numpy.typing as npt

from node.core.links import CapacityChange, NetworkPlan, PartitionChange
from node.core.schedule import Overlay, Place
from node.core.steps import Steps

_TIME_NS_MAX = 2.0**61
"""The longest latency, so that a round trip is a whole number of 64 bits."""


@dataclass(frozen=True, slots=True)
class RateBounds:
    """Bounds of the rates of a network over the rest of a run, as one node needs them.

    Attributes:
        slowest_mbps: The least of any link that moves at all; None where none is ever limited.
        fastest_mbps: The most of any uplink; None is unlimited.
        up_mbps_max: The most of the node's uplink; None is unlimited.
        pair_mbps_max: The most of any pair that the node sends on, where one of them changes; None where none does, or
            one becomes unlimited.
        pairs_change: Whether one of them changes.
        standstill_ns: How long some path carries nothing, for lack of bandwidth or of a way, all such times together;
            None: one does so for ever.
    """

    slowest_mbps: float | None
    fastest_mbps: float | None
    up_mbps_max: float | None
    pair_mbps_max: float | None
    pairs_change: bool
    standstill_ns: int | None


def rate_bounds(network: NetworkPlan, node: int, end_ns: int | None = None) -> RateBounds:
    """Find the bounds of a network with its changes.

    Args:
        network: As it is at first.
        node: Whose uplink and pairs count.
        end_ns: When the run ends; None if no time ends it.
    """
    common = _common_bounds(network, end_ns)
    most: dict[tuple[str, int, int], float] = {}
    for _, change in network.capacity_changes():
        if change.source == node:
            key = (change.kind, change.source, change.destination)
            most[key] = max(most.get(key, 0.0), change.mbps)
    up_mbps = max(float(network.up_mbps[node]), most.pop(("up", node, -1), 0.0))
    pairs_mbps = max(most.values(), default=0.0)
    if most:
        pairs_mbps = max(pairs_mbps, inf if network.pair_mbps is None else _most_of_pairs(network.pair_mbps, node))
    return replace(
        common,
        up_mbps_max=_finite(up_mbps),
        pair_mbps_max=_finite(pairs_mbps) if most else None,
        pairs_change=bool(most),
    )


@lru_cache(maxsize=2)
def _common_bounds(network: NetworkPlan, end_ns: int | None) -> RateBounds:
    """The bounds that are the same for all nodes, once for all of them."""
    slowest = min(
        (
            *_moving(network.up_mbps),
            *_moving(network.down_mbps),
            *(() if network.pair_mbps is None else _moving(_between_two(network.pair_mbps))),
            *(change.mbps for _, change in network.capacity_changes() if change.mbps > 0),
        ),
        default=inf,
    )
    uplinks = (change.mbps for _, change in network.capacity_changes() if change.kind == "up")
    return RateBounds(
        slowest_mbps=_finite(slowest),
        fastest_mbps=_finite(max(float(network.up_mbps.max()), *uplinks, 0.0)),
        up_mbps_max=None,
        pair_mbps_max=None,
        pairs_change=False,
        standstill_ns=_standstill_ns(network, end_ns),
    )


def _moving(rates: npt.NDArray[np.float64]) -> Iterator[float]:
    moving = rates[rates > 0]
    if moving.size:
        yield float(moving.min())


def _standstill_ns(network: NetworkPlan, end_ns: int | None) -> int | None:
    """Sum the times at which some path carries nothing."""
    # A link that does not change from 0 has no key, but a count of its own.
    parked: defaultdict[tuple[str, int, int], bool] = defaultdict(bool)
    for node in np.flatnonzero(network.up_mbps == 0).tolist():
        parked["up", node, -1] = True
    for node in np.flatnonzero(network.down_mbps == 0).tolist():
        parked["down", -1, node] = True
    if network.pair_mbps is not None:
        for source, destination in np.argwhere(network.pair_mbps == 0).tolist():
            if source != destination:
                parked["pair", source, destination] = True
    count, is_cut = len(parked), bool(network.partitions)
    total, since_ns = 0, 0 if count or is_cut else None
    for time_ns, change in network.changes:
        if end_ns is not None and time_ns >= end_ns:
            break
        match change:
            case PartitionChange(partitions=partitions):
                is_cut = bool(partitions)
            case CapacityChange(kind=kind, source=source, destination=destination, mbps=mbps):
                key = (kind, source, destination)
                count += (mbps == 0) - parked[key]
                parked[key] = mbps == 0
        if since_ns is None and (count or is_cut):
            since_ns = time_ns
        elif since_ns is not None and not (count or is_cut):
            total, since_ns = total + time_ns - since_ns, None
    if since_ns is None:
        return total
    return None if end_ns is None else total + max(0, end_ns - since_ns)


@lru_cache(maxsize=2)
def at_its_worst(network: NetworkPlan) -> NetworkPlan:
    """Return the network with the most of everything that is ever laid over each link, at all times."""
    return replace(network, overlays={place: Steps(overlay) for place, overlay in _worst(network).items()})


def _worst(network: NetworkPlan) -> dict[Place, Overlay]:
    worst = {}
    for place, steps in network.overlays.items():
        values = (steps.first, *steps.values)
        worst[place] = Overlay(
            latency_factor=max(value.latency_factor for value in values),
            latency_ns=max(value.latency_ns for value in values),
            jitter_ns=max(value.jitter_ns for value in values),
            loss=max(value.loss for value in values),
        )
    return worst


@lru_cache(maxsize=2)
def round_trip_ns_max(network: NetworkPlan) -> int | npt.NDArray[np.int64]:
    """The longest latency there and back, without jitter; as :attr:`NetworkPlan.round_trip_ns`."""
    if not network.overlays:
        return network.round_trip_ns
    count = network.num_nodes
    factor, added = np.ones((count, count)), np.zeros((count, count))
    for place, overlay in _worst(network).items():
        rows = slice(None) if place.source < 0 else place.source
        columns = slice(None) if place.destination < 0 else place.destination
        factor[rows, columns] *= overlay.latency_factor
        added[rows, columns] += overlay.latency_ns
    longest = np.minimum(np.ceil(network.latency_ns * factor) + added, _TIME_NS_MAX).astype(np.int64)
    np.fill_diagonal(longest, 0)  # nobody sends to itself
    return longest + longest.T


def loss_max(network: NetworkPlan) -> float:
    """The largest probability that a packet is lost on any path."""
    if not network.overlays:
        return float(np.max(network.loss))
    count = network.num_nodes
    arrives = np.ones((count, count)) * (1.0 - network.loss)
    for place, overlay in _worst(network).items():
        rows = slice(None) if place.source < 0 else place.source
        columns = slice(None) if place.destination < 0 else place.destination
        arrives[rows, columns] *= 1.0 - overlay.loss
    np.fill_diagonal(arrives, 1.0)  # nobody sends to itself
    return float(1.0 - arrives.min())


def _most_of_pairs(pairs: npt.NDArray[np.float64], node: int) -> float:
    return float(np.delete(pairs[node], node).max(initial=0.0))


def _between_two(pairs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return pairs[~np.eye(len(pairs), dtype=bool)]


def _finite(mbps: float) -> float | None:
    return float(mbps) if isfinite(mbps) else None
