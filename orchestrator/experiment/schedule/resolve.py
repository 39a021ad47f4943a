"""From the ``schedule`` section to a :class:`~node.core.schedule.Schedule`; pure but for reading named files.

Everything that is wrong is refused here, before anything starts, in one line that names the entry. What makes the
schedule large is counted before it is built.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeAlias, assert_never

import numpy as np

from node.core.bounds import CHANGES_MAX
from node.core.errors import ConfigError
from node.core.links import NetworkPlan
from node.core.rng import stream
from node.core.schedule import IN_NONE, LinkSpan, NodeSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.scheduled_network import scheduled
from node.core.times import Times
from node.core.units import NS_PER_S, ms_to_ns, s_to_ns
from orchestrator.experiment.fedscale_files import clients_of, read_availability
from orchestrator.experiment.input_files import InputFiles
from orchestrator.experiment.kollaps_files import read_kollaps
from orchestrator.experiment.runtimes import RuntimeName
from orchestrator.experiment.schedule.abilities import ABILITIES, LINK_ACTIONS
from orchestrator.experiment.schedule.availability import availability_spans
from orchestrator.experiment.schedule.config import (
    AvailabilityEntry,
    CrashEntry,
    DegradeEntry,
    FileOfNodesEntry,
    IsolateEntry,
    KollapsEntry,
    LinkEntry,
    PartitionEntry,
    PauseEntry,
    RestartEntry,
    ScheduleEntry,
    Selector,
    SlowCpuEntry,
    TraceEntry,
)
from orchestrator.experiment.schedule.conflicts import apart, base_links, links_in_bounds
from orchestrator.experiment.schedule.downtimes import downtimes
from orchestrator.experiment.schedule.file_spans import isolated
from orchestrator.experiment.schedule.kollaps_events import kollaps_spans, link_places, window_of
from orchestrator.experiment.schedule.planned import PlannedEntry
from orchestrator.experiment.schedule.selectors import NodeGroups, in_short, select
from orchestrator.experiment.trace_files import TraceRow, read_csv, read_mahimahi


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Parts of an experiment in which its schedule happens.

    Attributes:
        network: Without the schedule.
        is_direct: Nothing shapes the links.
        stragglers: Nodes slowed on purpose.
        seed: The experiment's seed.
        end_ns: When the run ends at the latest; None when only rounds end it.
        runtime: Executes the schedule.
        files: Where named files are looked for.
    """

    network: NetworkPlan
    is_direct: bool
    stragglers: frozenset[int]
    seed: int
    end_ns: int | None
    runtime: RuntimeName
    files: InputFiles


@dataclass(frozen=True, slots=True)
class ResolvedSchedule:
    """Meaning of a schedule's entries.

    Attributes:
        schedule: All that happens.
        entries: Each entry, in the file's order.
        network: The network in which it happens.
    """

    schedule: Schedule
    entries: tuple[PlannedEntry, ...]
    network: NetworkPlan


def resolve_schedule(entries: Sequence[ScheduleEntry], around: Surroundings) -> ResolvedSchedule:
    """Return what a schedule's entries mean: as a whole, and each of them.

    Raises:
        ConfigError: An entry is wrong, or several do not go together; one line with the place.
    """
    # Step 1: when and over what each entry holds. Nothing of it is large.
    planned = [_planned(number, entry, around) for number, entry in enumerate(entries)]
    for each in planned:
        _check_told(each, around)
    traces = _read_traces(planned, around)
    # Step 2: what would be too much is refused before it is made.
    _check_size(planned, traces, around)
    # Step 3: rules between entries that need no more than their times and places.
    apart(planned)
    give_rates = {number for number, rows in traces.items() if rows[0].bandwidth_mbps is not None}
    give_rates |= {each.number for each in planned if each.told.gives_rates}
    base_links(planned, around.network, give_rates)
    # Step 4: the spans.
    schedule = Schedule(
        links=tuple(span for each in planned for span in _link_spans(each, traces, around)),
        partitions=tuple(span for each in planned for span in _partition_spans(each, around.network.num_nodes)),
        nodes=(*downtimes(planned), *(span for each in planned for span in _node_spans(each))),
    )
    # Step 5: what entries do together must be a network that can be.
    network = scheduled(around.network, schedule) if schedule else around.network
    links_in_bounds(planned, network)
    return ResolvedSchedule(schedule, tuple(planned), network)


# -- each entry --------------------------------------------------------------------------------------------------


def _planned(number: int, entry: ScheduleEntry, around: Surroundings) -> PlannedEntry:
    place = f"schedule[{number}]"
    _check_ability(entry, around, place)
    times = _times(entry, around.end_ns, place)
    rng = stream(around.seed, "schedule", number)
    groups = NodeGroups(around.network.num_nodes, around.stragglers)

    def nodes_of(selector: Selector) -> tuple[int, ...]:
        return select(selector, groups, rng, f"{place}.nodes")

    match entry:
        case DegradeEntry() | TraceEntry():
            if entry.nodes is not None:
                nodes = nodes_of(entry.nodes)
                return PlannedEntry(number, entry, times, _access(nodes, entry.direction), nodes=nodes)
            return PlannedEntry(number, entry, times, tuple(_pairs(entry, groups.num_nodes, place)))
        case PartitionEntry():
            named = tuple(
                select(selector, groups, rng, f"{place}.groups[{index}]", is_apart=True)
                for index, selector in enumerate(entry.groups)
            )
            _check_disjoint(named, place)
            return PlannedEntry(number, entry, times, groups=named)
        case IsolateEntry() | CrashEntry() | RestartEntry() | PauseEntry() | SlowCpuEntry():
            return PlannedEntry(number, entry, times, nodes=nodes_of(entry.nodes))
        case AvailabilityEntry():
            return _available(number, entry, times, nodes_of(entry.nodes), rng, around)
        case KollapsEntry():
            return _as_in_kollaps(number, entry, times, nodes_of(entry.nodes), rng, around)
        case _:
            assert_never(entry)


def _available(
    number: int,
    entry: AvailabilityEntry,
    times: Times,
    nodes: tuple[int, ...],
    rng: np.random.Generator,
    around: Surroundings,
) -> PlannedEntry:
    place = f"schedule[{number}]"
    text = around.files.read(entry.file, f"{place}.file")
    known = read_availability(text, place=f"{place}.file={entry.file}")
    chosen = clients_of(len(known), len(nodes), entry.clients, rng)
    clients = [(node, known[client]) for node, client in zip(nodes, chosen, strict=True)]
    told = availability_spans(entry, clients, times, around.end_ns, place)
    return PlannedEntry(number, entry, times, nodes=nodes, told=told)


def _as_in_kollaps(
    number: int,
    entry: KollapsEntry,
    times: Times,
    nodes: tuple[int, ...],
    rng: np.random.Generator,
    around: Surroundings,
) -> PlannedEntry:
    where = f"schedule[{number}].file={entry.file}"
    content = read_kollaps(around.files.read(entry.file, f"schedule[{number}].file"), place=where)
    window = window_of(entry, content, nodes, times, around.end_ns, where)
    told = kollaps_spans(window, rng, around.network.num_nodes)
    places = tuple(place for those in link_places(window).values() for place in those)
    return PlannedEntry(number, entry, times, places, nodes=nodes, told=told)


def _check_ability(entry: ScheduleEntry, around: Surroundings, place: str) -> None:
    action = entry.action
    if isinstance(entry, FileOfNodesEntry):
        return  # what it needs stands in its file
    if around.is_direct and action in LINK_ACTIONS:
        raise ConfigError(f"{place}.action={action}: must be absent with network.links=direct, which nothing shapes")
    able = ABILITIES.get(around.runtime, ())
    if action not in able:
        bound = f"must be one of {', '.join(able)}" if able else "must be absent"
        raise ConfigError(f"{place}.action={action}: {bound} with runtime: {around.runtime}, which cannot do it yet")


def _check_told(each: PlannedEntry, around: Surroundings) -> None:
    """Refuse what the file of an entry asks for where a runtime cannot do it."""
    for action in each.told.needs:
        if around.is_direct and action in LINK_ACTIONS:
            raise ConfigError(
                f"{each.place}.action={each.entry.action}: must be without changes of links with network.links=direct,"
                " which nothing shapes"
            )
        if action not in ABILITIES.get(around.runtime, ()):
            raise ConfigError(
                f"{each.place}.action={each.entry.action}: must be without {action} with runtime: {around.runtime},"
                " which cannot do it yet"
            )


def _times(entry: ScheduleEntry, end_ns: int | None, place: str) -> Times:
    """Find when an entry holds; nothing is made of each of its times yet."""
    begin_ns = s_to_ns(entry.at_s)
    until_ns = None if entry.until_s is None else s_to_ns(entry.until_s)
    if end_ns is not None and begin_ns >= end_ns:
        raise ConfigError(
            f"{place}.at_s={entry.at_s:g}: must be below stop.time_s={end_ns / NS_PER_S:g}, where the run ends"
        )
    for_s = None if isinstance(entry, RestartEntry) else entry.for_s
    duration_ns = 0 if isinstance(entry, RestartEntry) else None if for_s is None else s_to_ns(for_s)
    if entry.every_s is None:
        if duration_ns is None and until_ns is not None:
            duration_ns = max(1, until_ns - begin_ns)
        return Times(begin_ns, duration_ns)
    bounds_ns = [bound_ns for bound_ns in (until_ns, end_ns) if bound_ns is not None]
    if not bounds_ns:
        raise ConfigError(f"{place}.every_s={entry.every_s:g}: must come with until_s, or with stop.time_s")
    every_ns = s_to_ns(entry.every_s)
    return Times(begin_ns, duration_ns, every_ns, max(1, -(-(min(bounds_ns) - begin_ns) // every_ns)))


def _access(nodes: tuple[int, ...], direction: str) -> tuple[Place, ...]:
    ups = [Place("up", node, -1) for node in nodes if direction != "down"]
    return (*ups, *(Place("down", -1, node) for node in nodes if direction != "up"))


def _pairs(entry: LinkEntry, num_nodes: int, place: str) -> Iterator[Place]:
    for index, (source, destination) in enumerate(entry.pairs or ()):
        if max(source, destination) >= num_nodes:
            raise ConfigError(
                f"{place}.pairs[{index}]=[{source}, {destination}]: must be between 0 and {num_nodes - 1}"
            )
        yield Place("pair", source, destination)
        if entry.both_ways:
            yield Place("pair", destination, source)


def _check_disjoint(groups: Sequence[tuple[int, ...]], place: str) -> None:
    first: dict[int, int] = {}
    for index, nodes in enumerate(groups):
        for node in nodes:
            if node in first:
                raise ConfigError(
                    f"{place}.groups[{index}]={in_short(nodes)}: must be without node {node}, which is in"
                    f" groups[{first[node]}]"
                )
            first[node] = index


# -- traces ------------------------------------------------------------------------------------------------------

Traces: TypeAlias = dict[int, list[TraceRow]]
"""The rows of each entry that follows a file, by the entry's number."""


def _read_traces(planned: Sequence[PlannedEntry], around: Surroundings) -> Traces:
    traces: Traces = {}
    known: dict[tuple[str, str, int], list[TraceRow]] = {}
    for each in planned:
        entry = each.entry
        if not isinstance(entry, TraceEntry):
            continue
        key = (entry.file, entry.format, entry.interval_ms)
        if key not in known:
            text = around.files.read(entry.file, f"{each.place}.file")
            place = f"{each.place}.file={entry.file}"
            is_csv = entry.format == "csv"
            known[key] = read_csv(text, place=place) if is_csv else read_mahimahi(text, entry.interval_ms, place=place)
        _check_trace(each, entry, known[key], around.end_ns)
        traces[each.number] = known[key]
    return traces


def _check_trace(each: PlannedEntry, entry: TraceEntry, rows: Sequence[TraceRow], end_ns: int | None) -> None:
    last_s = rows[-1].time_s
    if entry.ending != "hold" and (len(rows) < 2 or rows[0].time_s != 0):
        raise ConfigError(f"{each.place}.at_end={entry.ending}: must have a first row at time 0 and a later one")
    if each.times.duration_ns is not None:
        return  # it is cut on purpose
    if end_ns is None:
        if entry.ending == "loop":
            raise ConfigError(f"{each.place}.at_end=loop: must come with for_s or until_s, or with stop.time_s")
        return
    if each.times.begin_ns + s_to_ns(last_s) > end_ns:
        raise ConfigError(
            f"{each.place}.file={entry.file}: its last time, {last_s:g} s after at_s={entry.at_s:g}, must not be beyond"
            f" stop.time_s={end_ns / NS_PER_S:g}; for_s or until_s cuts it"
        )


def _overlay_of(row: TraceRow) -> Overlay:
    return Overlay(
        base_mbps=row.bandwidth_mbps,
        latency_ns=0 if row.latency_ms is None else ms_to_ns(row.latency_ms),
        loss=0.0 if row.loss_percent is None else row.loss_percent / 100.0,
    )


def _played(
    rows: Sequence[TraceRow], ending: str, begin_ns: int, stop_ns: int | None
) -> Iterator[tuple[int, int | None, Overlay]]:
    """The spans of a trace that begins at a time and is cut at another one."""
    offsets = [s_to_ns(row.time_s) for row in rows]
    overlays = [_overlay_of(row) for row in rows]
    period_ns = offsets[-1]
    while stop_ns is None or begin_ns < stop_ns:
        for index, overlay in enumerate(overlays[:-1]):
            first_ns, next_ns = begin_ns + offsets[index], begin_ns + offsets[index + 1]
            if stop_ns is not None and first_ns >= stop_ns:
                return
            yield first_ns, next_ns if stop_ns is None else min(next_ns, stop_ns), overlay
        if ending == "hold" and (stop_ns is None or begin_ns + period_ns < stop_ns):
            yield begin_ns + period_ns, stop_ns, overlays[-1]
        if ending != "loop":
            return
        assert stop_ns is not None, "a trace that would never end has been refused"
        begin_ns += period_ns


def _changes_of_trace(entry: TraceEntry, rows: Sequence[TraceRow], times: Times, end_ns: int | None) -> int:
    """Upper bound of the changes that a trace makes of one link, each time it is played."""
    if entry.ending != "loop":
        return len(rows) + 1
    length_ns = times.duration_ns
    if length_ns is None:
        assert end_ns is not None, "a trace that would never end has been refused"
        length_ns = end_ns - times.begin_ns
    return (len(rows) - 1) * -(-length_ns // s_to_ns(rows[-1].time_s)) + 1


def _check_size(planned: Sequence[PlannedEntry], traces: Traces, around: Surroundings) -> None:
    count = len(around.network.changes)
    for each in planned:
        changes = 2
        if isinstance(each.entry, TraceEntry):
            changes = _changes_of_trace(each.entry, traces[each.number], each.times, around.end_ns)
        own = each.times.count * changes * max(1, len(each.places) or len(each.nodes))
        if isinstance(each.entry, FileOfNodesEntry):
            own = each.told.count
        count += own
        if count > CHANGES_MAX:
            every = "" if each.entry.every_s is None else f".every_s={each.entry.every_s:g}"
            raise ConfigError(
                f"{each.place}{every}: must give fewer changes: gives {own:,}, and all entries and traces together may"
                f" give {CHANGES_MAX:,}"
            )


# -- spans -------------------------------------------------------------------------------------------------------


def _link_spans(each: PlannedEntry, traces: Traces, around: Surroundings) -> Iterator[LinkSpan]:
    entry = each.entry
    yield from each.told.links
    if isinstance(entry, DegradeEntry):
        overlay = _overlay(entry)
        for begin_ns, end_ns in each.times:
            for place in each.places:
                yield LinkSpan(begin_ns, end_ns, place, overlay)
    elif isinstance(entry, TraceEntry):
        for begin_ns, end_ns in each.times:
            stop_ns = around.end_ns if end_ns is None and entry.ending == "loop" else end_ns
            rows = list(_played(traces[each.number], entry.ending, begin_ns, stop_ns))
            for place in each.places:
                for first_ns, last_ns, overlay in rows:
                    yield LinkSpan(first_ns, last_ns, place, overlay)


def _overlay(entry: DegradeEntry) -> Overlay:
    return Overlay(
        bandwidth_factor=1.0 if entry.bandwidth_factor is None else entry.bandwidth_factor,
        bandwidth_mbps_max=inf if entry.bandwidth_mbps is None else entry.bandwidth_mbps,
        latency_factor=1.0 if entry.latency_factor is None else entry.latency_factor,
        latency_ns=ms_to_ns(entry.latency_ms or 0.0),
        jitter_ns=float(ms_to_ns(entry.jitter_ms or 0.0)),
        loss=(entry.loss_percent or 0.0) / 100.0,
    )


def _partition_spans(each: PlannedEntry, num_nodes: int) -> Iterator[PartitionSpan]:
    yield from each.told.partitions
    if isinstance(each.entry, PartitionEntry):
        group_of = [IN_NONE] * num_nodes
        for group, nodes in enumerate(each.groups):
            for node in nodes:
                group_of[node] = group
        groups = tuple(group_of)  # one for all times: a thousand nodes make it large
    elif isinstance(each.entry, IsolateEntry):
        groups = isolated(each.nodes, num_nodes)
    else:
        return
    for begin_ns, end_ns in each.times:
        yield PartitionSpan(begin_ns, end_ns, groups)


def _node_spans(each: PlannedEntry) -> Iterator[NodeSpan]:
    """Spans of nodes, but for crashes and restarts, which have to do with each other."""
    yield from each.told.nodes
    for begin_ns, end_ns in each.times:
        for node in each.nodes:
            if isinstance(each.entry, PauseEntry):
                yield NodeSpan(begin_ns, end_ns, node, "paused")
            elif isinstance(each.entry, SlowCpuEntry):
                yield NodeSpan(begin_ns, end_ns, node, "slowed", each.entry.factor)
