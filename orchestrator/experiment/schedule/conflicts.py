"""Rules between the entries of a schedule, and between them and the network; pure."""

from bisect import bisect_right
from collections.abc import Container, Mapping, Sequence
from math import inf
from typing import Final

import numpy as np

from node.core.bounds import MBPS_MIN, MS_MAX
from node.core.errors import ConfigError
from node.core.links import NetworkPlan
from node.core.schedule import Place, Schedule
from node.core.scheduled_network import first_mbps, place_of
from node.core.units import ms_to_ns, ns_to_s
from orchestrator.experiment.schedule.config import DegradeEntry, KollapsEntry, TraceEntry
from orchestrator.experiment.schedule.planned import PlannedEntry

LOSS_MAX: Final = 0.9999
"""The most that may be lost of a path: every packet is sent again until it arrives."""


def describe_place(place: Place) -> str:
    """Name a link in a message."""
    match place.kind:
        case "up":
            return f"the uplink of node {place.source}"
        case "down":
            return f"the downlink of node {place.destination}"
        case "pair":
            return f"the path from node {place.source} to node {place.destination}"


def apart(planned: Sequence[PlannedEntry]) -> None:
    """Refuse two traces of one link at one time: the later one would replace the other.

    Raises:
        ConfigError: There are two.
    """
    held: dict[Place, list[tuple[int, float, PlannedEntry]]] = {}
    for each in planned:
        if not isinstance(each.entry, TraceEntry | KollapsEntry):
            continue
        times = [(begin_ns, inf if end_ns is None else end_ns) for begin_ns, end_ns in each.times]
        for place in each.places:
            others = held.setdefault(place, [])
            for begin_ns, end_ns in times:
                index = bisect_right(others, begin_ns, key=lambda item: item[0])
                for other in others[max(0, index - 1) : index + 1]:
                    if other[0] < end_ns and begin_ns < other[1]:
                        raise ConfigError(
                            f"{each.place}.file={each.entry.file}: must be apart from {other[2].place}, whose file"
                            f" {describe_place(place)} follows at {ns_to_s(max(begin_ns, other[0])):g} s"
                        )
                others.insert(index, (begin_ns, end_ns, each))


def base_links(planned: Sequence[PlannedEntry], network: NetworkPlan, give_rates: Container[int]) -> None:
    """Refuse what has nothing to work on: a factor of what is not there, a file over a link that follows another one.

    Args:
        planned: All entries.
        network: Without the schedule.
        give_rates: Numbers of the entries whose files have bandwidths.

    Raises:
        ConfigError: There is such an entry.
    """
    traced = {place_of(change) for _, change in network.capacity_changes()}
    follows = {place for each in planned if each.number in give_rates for place in each.places}
    for each in planned:
        entry = each.entry
        if isinstance(entry, TraceEntry | KollapsEntry):
            for place in each.places:
                if place in traced:
                    raise ConfigError(
                        f"{each.place}.file={entry.file}: must be apart from network.traces, which"
                        f" {describe_place(place)} follows"
                    )
        if not isinstance(entry, DegradeEntry):
            continue
        if entry.bandwidth_factor is not None:
            for place in each.places:
                if first_mbps(network, place) == inf and place not in traced and place not in follows:
                    raise ConfigError(
                        f"{each.place}.bandwidth_factor={entry.bandwidth_factor:g}: must be of a link with a bandwidth"
                        f" of its own, which {describe_place(place)} has not; bandwidth_mbps sets one"
                    )
        if entry.latency_factor is not None and not np.any(network.latency_ns):
            raise ConfigError(
                f"{each.place}.latency_factor={entry.latency_factor:g}: must be of a network with latency;"
                " latency_ms adds some"
            )


def links_in_bounds(planned: Sequence[PlannedEntry], made: NetworkPlan) -> None:
    """Refuse entries that are within their bounds while what they make together of a link is not.

    Latency and loss are taken at their worst over the run, over the links of any path.

    Args:
        planned: All entries.
        made: The network with them.

    Raises:
        ConfigError: The message names the last entry of those that may have to do with it.
    """
    laid = [each for each in planned if each.places]
    if not laid:
        return
    for time_ns, change in made.capacity_changes():
        if 0 < change.mbps < MBPS_MIN:
            place = place_of(change)
            culprit = next(each for each in reversed(laid) if place in each.places)
            raise ConfigError(
                f"{culprit.place}: leaves {describe_place(place)} {change.mbps:.3g} Mbit/s at {ns_to_s(time_ns):g} s:"
                f" must be 0, or at least {MBPS_MIN:g}"
            )
    latency_ns, kept = float(np.max(made.latency_ns)), 1.0 - float(np.max(made.loss))
    factor, added_ns = 1.0, 0
    for worst in _worst_of_kinds(made).values():
        factor, added_ns, kept = factor * worst[0], added_ns + worst[1], kept * (1.0 - worst[2])
    last = laid[-1]
    if (total_ns := latency_ns * factor + added_ns) > ms_to_ns(MS_MAX):
        raise ConfigError(
            f"{last.place}: latencies may add up to {total_ns / ms_to_ns(1):.3g} ms with those of other entries: must"
            f" be at most {MS_MAX:g}"
        )
    if 1.0 - kept > LOSS_MAX and 1.0 - kept > np.max(made.loss):
        raise ConfigError(
            f"{last.place}: losses may add up to {100 * (1.0 - kept):.7g} % with those of other entries: must be at"
            f" most {100 * LOSS_MAX:g}"
        )


def first_that_loses(planned: Sequence[PlannedEntry], schedule: Schedule) -> PlannedEntry | None:
    """Return the first entry that loses packets; None if none does."""
    lossy = {span.place for span in schedule.links if span.overlay.loss}
    for each in planned:
        entry = each.entry
        if isinstance(entry, DegradeEntry):
            if entry.loss_percent:
                return each
        elif lossy.intersection(each.places):
            return each
    return None


def _worst_of_kinds(made: NetworkPlan) -> Mapping[str, tuple[float, int, float]]:
    """The largest factor of latency, latency and loss laid over any link, for each kind of link."""
    worst: dict[str, tuple[float, int, float]] = {}
    for place, steps in made.overlays.items():
        factor, latency_ns, loss = worst.get(place.kind, (1.0, 0, 0.0))
        for _, overlay in steps:
            factor, latency_ns = max(factor, overlay.latency_factor), max(latency_ns, overlay.latency_ns)
            loss = max(loss, overlay.loss)
        worst[place.kind] = factor, latency_ns, loss
    return worst
