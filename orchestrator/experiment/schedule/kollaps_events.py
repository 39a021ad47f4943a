"""Events of a Kollaps experiment: from what its file says to what happens to nodes and links; pure.

Services are nodes: the replicas of the first one come first. A link between a service and a bridge is the access link
of the service's nodes, upwards or downwards; one between two services is the path between each two of their nodes.
Which of several replicas an event means is drawn from the experiment's seed, as Kollaps draws it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from node.core.errors import ConfigError
from node.core.schedule import LinkSpan, Overlay, PartitionSpan, Place
from node.core.times import Times
from node.core.units import NS_PER_S, ms_to_ns, s_to_ns
from node.host.text_files import shorten
from orchestrator.experiment.kollaps_files import KollapsFile, LinkEvent, LinkFigures, ServiceEvent
from orchestrator.experiment.schedule.config import KollapsEntry
from orchestrator.experiment.schedule.file_spans import (
    RESTART_NS,
    Absence,
    FileSpans,
    apart_in_time,
    check_number,
    isolated,
)


@dataclass(frozen=True, slots=True)
class KollapsWindow:
    """The time in which an entry holds, and nodes of its file.

    Attributes:
        entry: As the experiment has it.
        content: The file.
        nodes: The nodes that its replicas are.
        begin_ns: Time 0 of the file.
        end_ns: The first instant after it; None if it holds to the end of the run.
        place: Key of the file in the experiment, for messages.
    """

    entry: KollapsEntry
    content: KollapsFile
    nodes: tuple[int, ...]
    begin_ns: int
    end_ns: int | None
    place: str

    def events(self) -> Iterator[tuple[int, ServiceEvent | LinkEvent]]:
        """Walk through what happens in it, with the instants."""
        for event in self.content.events:
            at_ns = self.begin_ns + s_to_ns(event.time_s)
            if self.end_ns is None or at_ns < self.end_ns:
                yield at_ns, event


def window_of(
    entry: KollapsEntry, content: KollapsFile, nodes: tuple[int, ...], times: Times, run_end_ns: int | None, place: str
) -> KollapsWindow:
    """Fit a file to the nodes and the time of its entry.

    Raises:
        ConfigError: It has another number of nodes, or goes on after the run.
    """
    if content.num_nodes != len(nodes):
        raise ConfigError(
            f"{place}: services have {content.num_nodes} replicas: must be as many as the nodes of the entry,"
            f" {len(nodes)}"
        )
    end_ns = None if times.duration_ns is None else times.begin_ns + times.duration_ns
    last_s = content.events[-1].time_s if content.events else 0.0
    if end_ns is None and run_end_ns is not None and times.begin_ns + s_to_ns(last_s) > run_end_ns:
        raise ConfigError(
            f"{place}: its last time, {last_s:g} s after at_s={entry.at_s:g}, must not be beyond"
            f" stop.time_s={run_end_ns / NS_PER_S:g}; for_s or until_s cuts it"
        )
    return KollapsWindow(entry, content, nodes, times.begin_ns, end_ns, place)


def kollaps_spans(window: KollapsWindow, rng: np.random.Generator, num_nodes: int) -> FileSpans:
    """Return what happens to nodes and links.

    Args:
        window: File, nodes and time.
        rng: Draws replicas.
        num_nodes: Nodes of the experiment.

    Raises:
        ConfigError: An event cannot be, or there are too many changes; one line with the line of the file.
    """
    absences, partitions = _services(window, rng, num_nodes)
    return FileSpans(links=tuple(_links(window)), partitions=partitions, absences=absences)


# -- services ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Replicas:
    """Replicas of one service as they are at a time: nodes, and since when each is away or cut off."""

    nodes: tuple[int, ...]
    away: dict[int, int] = field(default_factory=dict)
    cut: dict[int, int] = field(default_factory=dict)

    def those_for(self, action: str) -> list[int]:
        match action:
            case "join":
                return [node for node in self.nodes if node in self.away]
            case "reconnect":
                return [node for node in self.nodes if node in self.cut]
            case "disconnect":
                return [node for node in self.nodes if node not in self.away and node not in self.cut]
            case _:
                return [node for node in self.nodes if node not in self.away]


def _services(
    window: KollapsWindow, rng: np.random.Generator, num_nodes: int
) -> tuple[tuple[Absence, ...], tuple[PartitionSpan, ...]]:
    # Step 1: the times of each node, as its service's events end them.
    state = _at_first(window)
    away: dict[int, list[tuple[int, int | None]]] = {}
    cuts: dict[tuple[int, int | None], list[int]] = {}
    for at_ns, event in window.events():
        if not isinstance(event, ServiceEvent):
            continue
        replicas = state[event.service]
        for node in _drawn(event, replicas, rng, window.place):
            match event.action:
                case "join":
                    gone_ns = replicas.away.pop(node)
                    restarts = gone_ns == at_ns != window.begin_ns
                    away.setdefault(node, []).append((gone_ns, at_ns + RESTART_NS if restarts else at_ns))
                case "leave" | "crash":
                    replicas.away[node] = at_ns
                case "disconnect":
                    replicas.cut[node] = at_ns
                case "reconnect":
                    cuts.setdefault((replicas.cut.pop(node), at_ns), []).append(node)
    # Step 2: those that no event has ended.
    for replicas in state.values():
        for node, begin_ns in replicas.away.items():
            away.setdefault(node, []).append((begin_ns, window.end_ns))
        for node, begin_ns in replicas.cut.items():
            cuts.setdefault((begin_ns, window.end_ns), []).append(node)
    return _absences(away), _partitions(cuts, num_nodes, window.place)


def _at_first(window: KollapsWindow) -> dict[str, _Replicas]:
    """Return the replicas of each service at time 0: not there yet where some join."""
    events = (event for event in window.content.events if isinstance(event, ServiceEvent))
    joining = {event.service for event in events if event.action == "join"}
    state: dict[str, _Replicas] = {}
    for service, places in window.content.nodes.items():
        nodes = tuple(window.nodes[index] for index in places)
        state[service] = _Replicas(nodes, dict.fromkeys(nodes, window.begin_ns) if service in joining else {})
    return state


def _absences(away: Mapping[int, Sequence[tuple[int, int | None]]]) -> tuple[Absence, ...]:
    return tuple(
        Absence(node, begin_ns, end_ns)
        for node in sorted(away)
        for begin_ns, end_ns in apart_in_time(time for time in away[node] if time[0] != time[1])
    )


def _partitions(
    cuts: Mapping[tuple[int, int | None], Sequence[int]], num_nodes: int, place: str
) -> tuple[PartitionSpan, ...]:
    check_number(len(cuts) * num_nodes, place)
    return tuple(
        PartitionSpan(begin_ns, end_ns, isolated(sorted(nodes), num_nodes))
        for (begin_ns, end_ns), nodes in sorted(cuts.items(), key=lambda cut: cut[0][0])
        if begin_ns != end_ns
    )


def _drawn(event: ServiceEvent, replicas: _Replicas, rng: np.random.Generator, place: str) -> list[int]:
    """Draw the replicas that an event means, in order."""
    possible = replicas.those_for(event.action)
    if event.amount > len(possible):
        raise ConfigError(
            f"{place}:{event.line}: amount={event.amount}: must be at most {len(possible)}, the replicas of"
            f" {shorten(event.service)} that can {event.action} at {event.time_s:g} s"
        )
    return sorted(rng.permutation(possible)[: event.amount].tolist())


# -- links -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Direction:
    """One direction of a link as it is at a time, and as it has been.

    State:
        figures: As last set.
        is_gone: It has left and not joined.
        sets_rate: Its bandwidth has been set.
        steps: (instant, what is laid over it from then on).
    """

    first: LinkFigures
    figures: LinkFigures
    is_gone: bool = False
    sets_rate: bool = False
    steps: list[tuple[int, Overlay]] = field(default_factory=list)

    def take(self, at_ns: int, event: LinkEvent) -> None:
        if event.action != "change":
            self.is_gone = event.action == "leave"
        self.figures = self.figures._replace(**event.given)
        self.sets_rate = self.sets_rate or "mbps" in event.given
        if self.steps and self.steps[-1][0] == at_ns:
            self.steps.pop()
        self.steps.append((at_ns, self._overlay()))

    def _overlay(self) -> Overlay:
        first, now = self.first, self.figures
        rate = 0.0 if self.is_gone else now.mbps if self.sets_rate else None
        return Overlay(
            base_mbps=rate,
            latency_ns=ms_to_ns(now.latency_ms - first.latency_ms),
            jitter_ns=sqrt(max(0.0, ms_to_ns(now.jitter_ms) ** 2 - ms_to_ns(first.jitter_ms) ** 2)),
            loss=max(0.0, 1.0 - (1.0 - now.loss) / (1.0 - first.loss)),
        )


def link_places(window: KollapsWindow) -> dict[tuple[str, str], tuple[Place, ...]]:
    """Return the links of the experiment that each direction is which the file changes.

    Raises:
        ConfigError: A service whose link changes has several, where a node has one; or there are too many.
    """
    content, found = window.content, dict[tuple[str, str], tuple[Place, ...]]()
    services, bridges = content.nodes, _bridges(content)
    number = 0
    for _, event in window.events():
        if isinstance(event, LinkEvent) and (event.origin, event.dest) not in found:
            _check_one_link(event, bridges, window)
            number += max(1, len(services.get(event.origin, ()))) * max(1, len(services.get(event.dest, ())))
            check_number(number, window.place)
            found[event.origin, event.dest] = tuple(_places(event, services, window.nodes))
    return found


def _bridges(content: KollapsFile) -> dict[str, set[str]]:
    """Return the bridges to which each service has a link."""
    found: dict[str, set[str]] = {service: set() for service in content.services}
    for origin, dest in content.links:
        for service, bridge in ((origin, dest), (dest, origin)):
            if service in found and bridge in content.bridges:
                found[service].add(bridge)
    return found


def _check_one_link(event: LinkEvent, bridges: Mapping[str, set[str]], window: KollapsWindow) -> None:
    if event.origin in bridges and event.dest in bridges:
        return
    service = event.origin if event.origin in bridges else event.dest
    if (count := len(bridges[service])) > 1:
        raise ConfigError(
            f"{window.place}:{event.line}: link {shorten(event.origin)} to {shorten(event.dest)}: must be the only one"
            f" of {shorten(service)} to a bridge, as nodes have one access link: it has {count}"
        )


def _places(event: LinkEvent, services: Mapping[str, range], nodes: Sequence[int]) -> Iterator[Place]:
    origins = [nodes[index] for index in services.get(event.origin, ())]
    dests = [nodes[index] for index in services.get(event.dest, ())]
    if not dests:
        yield from (Place("up", node, -1) for node in origins)
    elif not origins:
        yield from (Place("down", -1, node) for node in dests)
    else:
        yield from (Place("pair", origin, dest) for origin in origins for dest in dests)


def _links(window: KollapsWindow) -> Iterator[LinkSpan]:
    places = link_places(window)
    directions: dict[tuple[str, str], _Direction] = {}
    for at_ns, event in window.events():
        if isinstance(event, LinkEvent):
            way = event.origin, event.dest
            first = window.content.links[way]
            directions.setdefault(way, _Direction(first, first)).take(at_ns, event)
    check_number(2 * sum(len(one.steps) * len(places[way]) for way, one in directions.items()), window.place)
    for way, one in directions.items():
        ends = [*(at_ns for at_ns, _ in one.steps[1:]), window.end_ns]
        for (begin_ns, overlay), end_ns in zip(one.steps, ends, strict=True):
            if overlay != Overlay():
                yield from (LinkSpan(begin_ns, end_ns, place, overlay) for place in places[way])
