"""Availability of clients: from a file of FedScale's fields to the times in which nodes are not there; pure."""

from collections.abc import Iterator, Sequence

from node.core.errors import ConfigError
from node.core.schedule import NodeSpan
from node.core.times import Times
from node.core.units import NS_PER_S, s_to_ns
from orchestrator.experiment.fedscale_files import ClientAvailability
from orchestrator.experiment.schedule.config import AvailabilityEntry
from orchestrator.experiment.schedule.file_spans import Absence, FileSpans, apart_in_time, check_number


def availability_spans(
    entry: AvailabilityEntry,
    clients: Sequence[tuple[int, ClientAvailability]],
    times: Times,
    end_ns: int | None,
    place: str,
) -> FileSpans:
    """Return the times in which nodes are away because the clients that they are are inactive.

    Args:
        entry: As the file has it.
        clients: (node, its client).
        times: When the entry holds: one time.
        end_ns: When the run ends at the latest; None when only rounds end it.
        place: Key of the entry, for messages.

    Raises:
        ConfigError: The periods do not fit the run, or there are too many times.
    """
    until_ns = None if times.duration_ns is None else times.begin_ns + times.duration_ns
    stop_ns = end_ns if until_ns is None else until_ns
    if stop_ns is None:
        raise ConfigError(
            f"{place}.file={entry.file}: must come with for_s or until_s, or with stop.time_s: it repeats"
        )
    away: list[Absence] = []
    for node, client in clients:
        if until_ns is None and times.begin_ns + s_to_ns(client.period_s / entry.speedup) > stop_ns:
            raise ConfigError(
                f"{place}.file={entry.file}: finish_time={client.period_s:g} at speedup={entry.speedup:g} must not be"
                f" beyond stop.time_s={stop_ns / NS_PER_S:g}; speedup shortens it, for_s or until_s cuts it"
            )
        for begin_ns, back_ns in _inactive(client, entry.speedup, times.begin_ns, stop_ns, place):
            away.append(Absence(node, begin_ns, back_ns if until_ns is None else min(back_ns, until_ns)))
            check_number(2 * len(away), place)
    if entry.inactive == "crash":
        return FileSpans(absences=tuple(away))
    return FileSpans(nodes=tuple(NodeSpan(one.begin_ns, one.end_ns, one.node, "paused") for one in away))


def _inactive(
    client: ClientAvailability, speedup: float, begin_ns: int, stop_ns: int, place: str
) -> Iterator[tuple[int, int]]:
    """Walk through the times in which a client is inactive that begin before ``stop_ns``."""
    period_ns = s_to_ns(client.period_s / speedup)
    scaled = [(s_to_ns(first_s / speedup), s_to_ns(last_s / speedup)) for first_s, last_s in client.active]
    active = [(first, last) for first, last in apart_in_time(one for one in scaled if one[1] > one[0])]
    if not active or period_ns == 0:
        raise ConfigError(f"{place}.speedup={speedup:g}: must be less: it leaves a client no time to be active")
    if active == [(0, period_ns)]:
        return
    back_ns = begin_ns
    while back_ns < stop_ns:
        for first_ns, last_ns in active:
            if begin_ns + first_ns > back_ns:
                yield back_ns, begin_ns + first_ns
            assert last_ns is not None, "a client's times have ends"
            back_ns = begin_ns + last_ns
            if back_ns >= stop_ns:
                return
        begin_ns += period_ns
