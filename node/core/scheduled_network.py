"""A network with a schedule laid over it; pure."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from heapq import merge
from math import inf

from node.core.links import CapacityChange, LinkChange, NetworkPlan, PartitionChange
from node.core.schedule import Overlay, Place, Schedule
from node.core.steps import Steps


def scheduled(network: NetworkPlan, schedule: Schedule) -> NetworkPlan:
    """Return the network in which the schedule happens.

    Its changes hold every capacity as it becomes, so that whoever makes them needs to know nothing of the schedule.

    Args:
        network: At time 0, with changes of its own.
        schedule: What happens besides.
    """
    overlays = schedule.overlays()
    own: dict[Place, dict[int, float]] = {place: {} for place in sorted(overlays)}
    kept: list[tuple[int, LinkChange]] = []
    for time_ns, change in network.changes:
        if isinstance(change, CapacityChange) and (place := place_of(change)) in own:
            own[place][time_ns] = change.mbps
        else:
            kept.append((time_ns, change))
    made = [list(_capacities(first_mbps(network, place), own[place], overlays[place], place)) for place in own]
    cuts = [(time_ns, PartitionChange(partitions)) for time_ns, partitions in schedule.separations()]
    changes = tuple(merge(kept, *made, cuts, key=lambda item: item[0]))
    shaping = {
        place: steps for place, steps in sorted(overlays.items()) if any(value.shapes_path for _, value in steps)
    }
    return replace(network, changes=changes, overlays=shaping)


def _capacities(
    first: float, own: Mapping[int, float], over: Steps[Overlay], place: Place
) -> Iterator[tuple[int, CapacityChange]]:
    """Each change of a link's capacity: of the network's own, and of what is laid over it."""
    laid = dict(over)
    base = known = first
    overlay = over.first
    for time_ns in sorted(own.keys() | laid.keys()):
        base = own.get(time_ns, base)
        overlay = laid.get(time_ns, overlay)
        if (found := overlay.capacity_mbps(base)) != known:
            known = found
            yield time_ns, CapacityChange(place.kind, place.source, place.destination, found)


def first_mbps(network: NetworkPlan, place: Place) -> float:
    """Return the capacity of a link at time 0, without what is laid over it; inf is unlimited."""
    match place.kind:
        case "up":
            return float(network.up_mbps[place.source])
        case "down":
            return float(network.down_mbps[place.destination])
        case "pair":
            pairs = network.pair_mbps
            return inf if pairs is None else float(pairs[place.source, place.destination])


def place_of(change: CapacityChange) -> Place:
    """Return the link whose capacity changes."""
    return Place(change.kind, change.source, change.destination)
