"""Fidelity of a real run: measurements in, checks and a verdict out. Pure.

A run in real processes is only worth something if the host kept up with it. The runner measures the links before
the run and collects what the nodes and the link emulator counted during it (:class:`Measured`); :func:`judge` holds
that against :data:`TOLERANCES` and says ``faithful`` or ``unfaithful``, which ``fidelity.json`` keeps for good.

All times here are testbed time: under time dilation a late event counts for as much less as the testbed is slower.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, TypeAlias

from node.core.counters import NodeCounters
from node.core.units import NS_PER_MS, ns_to_s
from node.emulation.statistics import EmulatorStatistics
from orchestrator.checks import TOLERANCES, Check, JsonObject, Tolerances, format_figure
from orchestrator.kernel_fidelity import KernelLinks, kernel_checks, kernel_figures

FAITHFUL: Final = "faithful"
UNFAITHFUL: Final = "unfaithful"
EXACT: Final = "exact"
"""The verdict of a simulation."""

NEVER_GOOD: Final = ("failed", "stalled", "diverged")
"""Ways to end after which a run has no good verdict: it did not come to the end that the experiment asks for."""

EXIT_UNFAITHFUL: Final = 4
"""The exit code of a run that finished and cannot be trusted."""


DIRECT_LINKS: Final = "direct (not shaped)"
"""Name of links that nothing shapes."""


@dataclass(frozen=True, slots=True)
class TimedMessage:
    """One large probe that was answered, after a pause.

    Attributes:
        size_bytes: Its size.
        requested_ms: How long it and its answer should take.
        achieved_ms: How long they took; None: no answer came.
        saved_bytes: What the link may let through at once after a pause.
    """

    size_bytes: int
    requested_ms: float
    achieved_ms: float | None
    saved_bytes: int


@dataclass(frozen=True, slots=True)
class MeasuredLink:
    """One path that was measured before the run, through everything that shapes it.

    Attributes:
        runtime: The runtime's name.
        source: The node that sent.
        destination: The node that received and answered.
        requested_mbps: What the path should carry, 10^6 bits a second; None: unlimited, so that there is nothing to
            compare with.
        achieved_mbps: What it carried; None: not measured, or nothing arrived.
        requested_rtt_ms: How long a probe and its answer should take, their own transfers included.
        rtt_p50_ms: Median of the probes that were answered; None: none was.
        rtt_p99_ms: The 99th percentile of these, or the longest of fewer than 100; None: none was.
        probes: How many were answered.
        rtt_jitter_ms: Standard deviation that the round trip is requested to have.
        timed: A message of the experiment, and what passes in 100 ms; empty where the links are not the kernel's.
    """

    source: int
    destination: int
    requested_mbps: float | None
    achieved_mbps: float | None
    requested_rtt_ms: float
    rtt_p50_ms: float | None
    rtt_p99_ms: float | None
    probes: int
    rtt_jitter_ms: float = 0.0
    timed: tuple[TimedMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """Counts of one node during the run; of a node that died, those of its last status.

    Attributes:
        node: The node.
        counters: Its figures.
        blocks: Blocks of local steps in this part of the run.
        loop_late_p99_ns: How late the event loop woke up, 99th percentile.
        arrivals: Messages that arrived.
        late_p99_ns: How long after they were due these were handed over, 99th percentile.
        late_max_ns: The same, the worst.
        memory_bytes: Memory of the node and its training worker, proportional set size; None if unknown.
    """

    node: int
    counters: NodeCounters
    blocks: int
    loop_late_p99_ns: int
    arrivals: int
    late_p99_ns: int
    late_max_ns: int
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that the verdict rests on.

    Attributes:
        time_dilation: Real seconds a testbed second.
        links: The paths that were measured; None: the experiment has none, as with a single node. Empty: they
            should have been.
        nodes: One entry a node that could be asked.
        emulator: None where the links are not emulated in user space, or the emulator did not answer.
        links_emulated: Whether the links are emulated in user space, so that the emulator should have answered.
        died: Nodes that ended before the run did: node -> how, for example ``killed by signal 9``.
        hung: Those among them that were there until the end, and then did not answer.
        rejected: Messages that were refused on arrival: node -> reason -> how many.
        stalled: Whether the nodes came to rest before the end, though they had rounds left.
        deaths_allowed: Whether the experiment takes a node's end for granted, so that it does not count against
            the run.
        cpu_pressure: :func:`cpu_pressure` before and at the end of the run.
        kernel: What became of links that the kernel shapes; None where it shapes none.
        links_name: What the links were made of.
        links_shaped: Whether anything gave the links the rates and latencies of the experiment. Where nothing did,
            nothing was requested of them: neither rates and round trips nor the delay of arrivals are judged.
        faults_late_ns: How late each planned change of a node was, testbed time; None for one that never came.
    """

    runtime: str
    time_dilation: float
    links: tuple[MeasuredLink, ...] | None
    nodes: tuple[NodeFigures, ...]
    emulator: EmulatorStatistics | None = None
    links_emulated: bool = False
    died: Mapping[int, str] = field(default_factory=dict)
    hung: frozenset[int] = frozenset()
    rejected: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    stalled: bool = False
    deaths_allowed: bool = False
    cpu_pressure: tuple[float | None, float | None] = (None, None)
    kernel: KernelLinks | None = None
    links_name: str = "user-space emulator (max-min fair fluid)"
    links_shaped: bool = True
    faults_late_ns: tuple[int | None, ...] = ()


def judge(
    measured: Measured, status: str = "done", *, allowed: bool = False, tolerances: Tolerances = TOLERANCES
) -> JsonObject:
    """Judge whether a run can be trusted: the content of ``fidelity.json``.

    Args:
        measured: What was measured and counted.
        status: How the run ended.
        allowed: Whether the user takes an unfaithful run as well. Changes the exit code, never the verdict.
        tolerances: Tolerances of the checks: a run within all of them is called faithful.
    """
    checks = list(_checks(measured, tolerances))
    failed = [check for check in checks if not check.ok]
    if failed:
        statement = f"{len(failed)} of {len(checks)} checks failed: the host did not do what the experiment asks for."
    else:
        statement = f"All {len(checks)} checks are within their tolerance."
    statement += end_text(status) + saturation_text(sum(node.counters.values_saturated for node in measured.nodes))
    if not measured.links_shaped:
        statement += (
            " Links were direct and not shaped: what messages took is what this host and its load made of them."
        )
    if measured.died:
        names = "; ".join(f"node {node} {how}" for node, how in sorted(measured.died.items()))
        statement += f" Nodes died and the run went on without them: {names}."
    return {
        "runtime": measured.runtime,
        "verdict": UNFAITHFUL if failed else good_verdict(FAITHFUL, status),
        "allowed": allowed,
        "statement": statement,
        "time_dilation": measured.time_dilation,
        "links": measured.links_name if measured.links_shaped else DIRECT_LINKS,
        "checks": [check.to_json() for check in checks],
        "died": {str(node): how for node, how in sorted(measured.died.items())},
        "figures": _figures(measured),
    }


def good_verdict(verdict: str, status: str) -> str | None:
    """The verdict of a run in which nothing was wrong with the host: None, not judged, if it did not come to its end.

    Args:
        verdict: What it is otherwise, :data:`FAITHFUL` or :data:`EXACT`.
        status: How the run ended.
    """
    return None if status in NEVER_GOOD else verdict


def end_text(status: str) -> str:
    """Tell why a run is not judged: a sentence to append, in all runtimes alike; else nothing."""
    if status not in NEVER_GOOD:
        return ""
    return f" The run {status}: this is of the time until then, and the run as a whole has no verdict."


def saturation_text(values_saturated: int) -> str:
    """Tell of values that ``wire.dtype`` could not hold: a sentence to append, in all runtimes alike; else nothing.

    It is a property of the experiment and no fault of the host, so that it decides nothing.
    """
    if not values_saturated:
        return ""
    return f" {values_saturated:,} values were beyond the largest of wire.dtype and travelled as it."


def unfaithful_reasons(fidelity: Mapping[str, Any] | None) -> list[str]:
    """The failed checks of a ``fidelity.json``, a line each; empty for a run that is not unfaithful."""
    if fidelity is None or not is_unfaithful(fidelity):
        return []
    return [_reason(check) for check in fidelity.get("checks", ()) if not check.get("ok", True)]


def early_signs(
    nodes: Sequence[NodeFigures],
    rejected: Mapping[int, Mapping[str, int]],
    faults_late_ns: Sequence[int | None],
    tolerances: Tolerances = TOLERANCES,
) -> list[str]:
    """The checks that a run would fail if it ended now, of those that can be made while it lasts; a line each.

    Args:
        nodes: One entry a node; only their counters are looked at.
        rejected: As in :class:`Measured`.
        faults_late_ns: The same.
        tolerances: As for :func:`judge`.
    """
    checks = [_pacing(nodes, tolerances), _in_flight(nodes), _refusals(rejected)] if nodes else []
    checks += [_faults(faults_late_ns, tolerances)] if faults_late_ns else []
    return [
        f"{check.name}: {format_figure(check.achieved)} {check.unit} (tolerance: {check.tolerance})"
        for check in checks
        if not check.ok and check.achieved is not None
    ]


def _reason(check: Mapping[str, Any]) -> str:
    requested, achieved, unit = check.get("requested"), check.get("achieved"), check.get("unit", "")
    became = "not measured" if achieved is None else f"{format_figure(achieved)} {unit}"
    wanted = "" if requested is None else f", requested {format_figure(requested)} {unit}"
    return f"{check.get('name')}: {became}{wanted} (tolerance: {check.get('tolerance')})"


def is_unfaithful(fidelity: Mapping[str, Any] | None) -> bool:
    """Return whether a ``fidelity.json`` says that its run cannot be trusted."""
    return stamp(fidelity) == UNFAITHFUL


def stamp(fidelity: Mapping[str, Any] | None) -> str | None:
    """Return the verdict that ``summary.json`` holds; None without a fidelity record."""
    return None if fidelity is None else fidelity.get("verdict")


def exit_code(fidelity: Mapping[str, Any] | None) -> int:
    """The exit code of a run that finished: 0, or :data:`EXIT_UNFAITHFUL` unless the user allows that."""
    return EXIT_UNFAITHFUL if fidelity is not None and is_unfaithful(fidelity) and not fidelity.get("allowed") else 0


# --- checks -------------------------------------------------------------------------------------------------


def _checks(measured: Measured, tolerances: Tolerances) -> Iterator[Check]:
    if measured.links is not None and measured.links_shaped:
        yield from _link_checks(measured.links, _TripBounds.of(measured, tolerances), tolerances)
    if not measured.nodes:
        yield Check("nodes that reported", 1, None, "nodes", "at least one", False)
    else:
        yield _pacing(measured.nodes, tolerances)
        if measured.links_shaped:
            yield _arrivals(measured.nodes, tolerances)
        yield _in_flight(measured.nodes)
    yield _refusals(measured.rejected)
    if measured.emulator is not None:
        yield from _emulator_checks(measured.emulator, tolerances)
    elif measured.links_emulated:
        yield Check("link emulators that reported", 1, None, "emulators", "one", False)
    if measured.kernel is not None:
        yield from kernel_checks(measured.kernel, measured.time_dilation, tolerances)
    if measured.faults_late_ns:
        yield _faults(measured.faults_late_ns, tolerances)
    if measured.stalled:
        yield Check("stalls", 0, 1, "stalls", "none", False, "every node waited for another one")
    dead = measured.died.keys() - measured.hung
    if dead:
        tolerance = "any: the experiment allows it" if measured.deaths_allowed else "none"
        yield Check("nodes that died", 0, len(dead), "nodes", tolerance, measured.deaths_allowed, _named(dead))
    if measured.hung:
        # Not a death, which an experiment may allow: nobody knows since when it did nothing.
        name = "nodes that did not answer at the end"
        yield Check(name, 0, len(measured.hung), "nodes", "none", False, _named(measured.hung))


def _faults(late_ns: Sequence[int | None], tolerances: Tolerances) -> Check:
    """Judge the instants at which nodes went down, came back, stood still and went on; the worst of all speaks."""
    missed = sum(one is None for one in late_ns)
    worst_ms = max((abs(one) for one in late_ns if one is not None), default=0) / NS_PER_MS
    note = f"{missed} of {len(late_ns)} never happened" if missed else ""
    is_good = not missed and worst_ms <= tolerances.fault_late_ms
    name = "delay of planned faults of nodes, the worst"
    return Check(name, 0, worst_ms, "ms", f"{tolerances.fault_late_ms:g} ms, and none missed", is_good, note)


@dataclass(frozen=True, slots=True)
class _TripBounds:
    """Bounds of round trips, by what adds the latency.

    Attributes:
        fixed_ms, percent: Deviation of the median: so much, and so much of it.
        both: Whether the two are added; else the larger one counts.
    """

    fixed_ms: float
    percent: float
    both: bool

    @classmethod
    def of(cls, measured: Measured, tolerances: Tolerances) -> "_TripBounds":
        if measured.kernel is None:
            return cls(tolerances.rtt_ms, tolerances.rtt_percent, both=True)
        if measured.kernel.adds_latency:
            return cls(tolerances.rtt_ms, tolerances.kernel_rtt_percent, both=False)
        return cls(tolerances.receiver_rtt_ms, 0.0, both=False)

    def ms(self, rtt_ms: float) -> float:
        share_ms = self.percent / 100 * rtt_ms
        return self.fixed_ms + share_ms if self.both else max(self.fixed_ms, share_ms)

    def __str__(self) -> str:
        if not self.percent:
            return f"{self.fixed_ms:g} ms"
        return f"{self.fixed_ms:g} ms {'+' if self.both else 'or'} {self.percent:g} %"


def _link_checks(links: Sequence[MeasuredLink], bounds: _TripBounds, tolerances: Tolerances) -> Iterator[Check]:
    """Three checks a profile, which is a pair of requested rate and round trip; the worst link of each speaks.

    Of the kernel's links, a message of the experiment and a burst are two more.
    """
    if not links:
        yield Check("links measured before the run", 1, None, "links", "at least one", False)
    groups: dict[tuple[float | None, float, float], list[MeasuredLink]] = {}
    for link in links:
        mbps = None if link.requested_mbps is None else round(link.requested_mbps, 6)  # sums differ in the last bits
        groups.setdefault((mbps, round(link.requested_rtt_ms, 6), round(link.rtt_jitter_ms, 6)), []).append(link)
    for (mbps, rtt_ms, jitter_ms), group in groups.items():
        speed = "unlimited bandwidth" if mbps is None else f"{format_figure(mbps)} Mbit/s"
        name = f"links of {speed} and {format_figure(rtt_ms)} ms"
        name += f" ± {format_figure(jitter_ms)} ms" if jitter_ms else ""
        if mbps is not None:
            yield _rate(f"rate, {name}", mbps, group, tolerances)
        if mbps != 0:  # nothing passes a link of rate 0, so that nothing can be answered
            yield from _round_trips(name, rtt_ms, jitter_ms, group, bounds, tolerances)
        timed = [(link, message) for link in group for message in link.timed[:1]]
        if timed:
            yield _message(name, jitter_ms, timed, bounds, tolerances)
        bursts = [(link, message) for link in group for message in link.timed[1:]]
        if bursts and mbps:
            yield _burst(name, mbps, jitter_ms, bursts, bounds)


def _rate(name: str, mbps: float, group: Sequence[MeasuredLink], tolerances: Tolerances) -> Check:
    worst = _worst(group, lambda link: _off(link.achieved_mbps, mbps))
    within = worst.achieved_mbps is not None
    within = within and _off(worst.achieved_mbps, mbps) <= tolerances.rate_percent / 100 * mbps
    tolerance = f"{tolerances.rate_percent:g} %"
    return Check(name, mbps, worst.achieved_mbps, "Mbit/s", tolerance, within, _which(worst, group))


def _round_trips(
    name: str,
    rtt_ms: float,
    jitter_ms: float,
    group: Sequence[MeasuredLink],
    bounds: _TripBounds,
    tolerances: Tolerances,
) -> Iterator[Check]:
    # Four standard errors, so that jitter that was asked for fails one run in ten thousand: of the median of n
    # values, 1.25 sigma / sqrt(n) each, and of the longest of a hundred, which lies 2.5 sigma above the mean.
    least = min(link.probes for link in group)
    median_ms = bounds.ms(rtt_ms) + (5 * jitter_ms / max(1, least) ** 0.5)
    long_ms = tolerances.rtt_p99_ms + tolerances.rtt_percent / 100 * rtt_ms + 4 * jitter_ms
    jitter = " + jitter" if jitter_ms else ""
    worst = _worst(group, lambda link: _off(link.rtt_p50_ms, rtt_ms))
    yield Check(
        f"round trip, median, {name}",
        rtt_ms,
        worst.rtt_p50_ms,
        "ms",
        f"{bounds}{jitter}",
        worst.rtt_p50_ms is not None and _off(worst.rtt_p50_ms, rtt_ms) <= median_ms,
        _which(worst, group),
    )
    worst = _worst(group, lambda link: float("inf") if link.rtt_p99_ms is None else link.rtt_p99_ms)
    yield Check(
        f"round trip, 99th percentile, {name}",
        rtt_ms,
        worst.rtt_p99_ms,
        "ms",
        f"at most {tolerances.rtt_p99_ms:g} ms + {tolerances.rtt_percent:g} %{jitter} above",
        worst.rtt_p99_ms is not None and worst.rtt_p99_ms <= rtt_ms + long_ms,
        _which(worst, group),
    )


Timed: TypeAlias = Sequence[tuple[MeasuredLink, TimedMessage]]


def _message(name: str, jitter_ms: float, timed: Timed, bounds: _TripBounds, tolerances: Tolerances) -> Check:
    """A message of the experiment takes no longer than its size, the rate and the latency say."""

    def beyond(item: tuple[MeasuredLink, TimedMessage]) -> float:
        link, message = item
        if message.achieved_ms is None:
            return float("inf")
        transfer_ms = max(0.0, message.requested_ms - link.requested_rtt_ms)
        allowed_ms = tolerances.rate_percent / 100 * transfer_ms + bounds.ms(link.requested_rtt_ms) + 4 * jitter_ms
        return message.achieved_ms - message.requested_ms - allowed_ms

    worst, message = max(timed, key=beyond)
    return Check(
        f"one message of {message.size_bytes:,} bytes and its answer, {name}",
        message.requested_ms,
        message.achieved_ms,
        "ms",
        f"at most {tolerances.rate_percent:g} % and {bounds}{' + jitter' if jitter_ms else ''} above",
        beyond((worst, message)) <= 0,
        _which(worst, [link for link, _ in timed]),
    )


def _burst(name: str, mbps: float, jitter_ms: float, timed: Timed, bounds: _TripBounds) -> Check:
    """A link lets through no more at once after a pause than its bucket holds."""
    bytes_per_ms = mbps * 125

    def early_bytes(item: tuple[MeasuredLink, TimedMessage]) -> float:
        _, message = item
        if message.achieved_ms is None:
            return float("inf")
        return max(0.0, bytes_per_ms * (message.requested_ms - message.achieved_ms))

    worst, message = max(timed, key=early_bytes)
    early = early_bytes((worst, message))
    allowed = message.saved_bytes + bytes_per_ms * (bounds.ms(worst.requested_rtt_ms) + 4 * jitter_ms)
    milliseconds = message.size_bytes / bytes_per_ms
    return Check(
        f"bytes ahead of the rate in the first {format_figure(round(milliseconds, 1))} ms, {name}",
        message.saved_bytes,
        None if message.achieved_ms is None else early,
        "bytes",
        f"at most, and what passes in {bounds}{' + jitter' if jitter_ms else ''}",
        early <= allowed,
        _which(worst, [link for link, _ in timed]),
    )


def _pacing(nodes: Sequence[NodeFigures], tolerances: Tolerances) -> Check:
    def percent(node: NodeFigures) -> float:
        return 100 * node.counters.overrun_ns / node.counters.declared_ns if node.counters.declared_ns else 0.0

    worst = max(nodes, key=percent)
    lost = percent(worst)
    overruns, blocks = sum(node.counters.overruns for node in nodes), sum(node.blocks for node in nodes)
    return Check(
        "training longer than declared",
        0,
        lost,
        "%",
        f"at most {tolerances.overrun_percent:g} % of the declared time",
        lost <= tolerances.overrun_percent,
        f"node {worst.node}, the worst of {len(nodes)}; {overruns:,} of {blocks:,} blocks of all nodes",
    )


def _arrivals(nodes: Sequence[NodeFigures], tolerances: Tolerances) -> Check:
    many = [node for node in nodes if node.arrivals >= tolerances.percentile_samples] or nodes
    worst = max(many, key=lambda node: node.late_p99_ns)
    late_ms = worst.late_p99_ns / NS_PER_MS
    return Check(
        "delay of arrivals, 99th percentile",
        0,
        late_ms,
        "ms",
        f"{tolerances.late_ms:g} ms",
        late_ms <= tolerances.late_ms,
        f"node {worst.node}, the worst of {len(many)}; {sum(node.arrivals for node in nodes):,} arrivals at all nodes",
    )


def _in_flight(nodes: Sequence[NodeFigures]) -> Check:
    worst = max(nodes, key=lambda node: node.counters.in_flight_bytes_max / max(1, node.counters.in_flight_bytes_bound))
    return Check(
        "bytes in flight",
        worst.counters.in_flight_bytes_bound,
        worst.counters.in_flight_bytes_max,
        "bytes",
        "at most",
        all(node.counters.in_flight_bytes_max <= node.counters.in_flight_bytes_bound for node in nodes),
        f"node {worst.node}, the worst of {len(nodes)}",
    )


def _refusals(rejected: Mapping[int, Mapping[str, int]]) -> Check:
    by_reason = _by_reason(rejected)
    total = sum(by_reason.values())
    reasons = ", ".join(f"{times:,} {reason}" for reason, times in by_reason.items())
    at = ", ".join(str(node) for node, reasons in sorted(rejected.items()) if reasons)
    note = f"{reasons}; at node {at}" if total else ""
    return Check("messages refused on arrival", 0, total, "messages", "none", not total, note)


def _named(nodes: Iterable[int]) -> str:
    return "node " + ", ".join(str(node) for node in sorted(nodes))


def _by_reason(rejected: Mapping[int, Mapping[str, int]]) -> dict[str, int]:
    return dict(sorted(sum((Counter(reasons) for reasons in rejected.values()), Counter[str]()).items()))


def _emulator_checks(emulator: EmulatorStatistics, tolerances: Tolerances) -> Iterator[Check]:
    if emulator.starts:
        most = max(1.0, tolerances.late_starts_percent / 100 * emulator.starts)
        late = emulator.excessive_delays
        tolerance = f"at most {tolerances.late_starts_percent:g} %, or one"
        note = f"of {emulator.starts:,} transfers"
        yield Check("transfers begun too late", 0, late, "transfers", tolerance, late <= most, note)
    ignored = emulator.ignored
    note = (
        "they made no sense, or came in too great a number, so that links were not used as the nodes asked"
        if ignored
        else ""
    )
    yield Check("requests that the link emulator ignored", 0, ignored, "records", "none", not ignored, note)
    if emulator.changes:
        late_ms = emulator.change_lateness_ns.p99 / NS_PER_MS
        worst_ms = emulator.change_lateness_ns.max / NS_PER_MS
        yield Check(
            "delay of capacity changes, 99th percentile",
            0,
            late_ms,
            "ms",
            f"{tolerances.late_ms:g} ms",
            late_ms <= tolerances.late_ms,
            f"of {emulator.changes:,} changes; the worst: {format_figure(worst_ms)} ms",
        )


def _off(achieved: float | None, requested: float) -> float:
    return float("inf") if achieved is None else abs(achieved - requested)


def _worst(group: Sequence[MeasuredLink], badness: Callable[[MeasuredLink], float]) -> MeasuredLink:
    return max(group, key=badness)


def _which(worst: MeasuredLink, group: Sequence[MeasuredLink]) -> str:
    return f"node {worst.source} to {worst.destination}, the worst of {len(group)}"


def _figures(measured: Measured) -> JsonObject:
    """List the figures that are told without being judged."""
    nodes, emulator = measured.nodes, measured.emulator
    memory = [node.memory_bytes for node in nodes if node.memory_bytes is not None]
    figures: JsonObject = {
        "cpu_pressure_percent_before": measured.cpu_pressure[0],
        "cpu_pressure_percent_after": measured.cpu_pressure[1],
        "links_measured": len(measured.links or ()),
        "blocks": sum(node.blocks for node in nodes),
        "overruns": sum(node.counters.overruns for node in nodes),
        "overrun_s": ns_to_s(sum(node.counters.overrun_ns for node in nodes)),
        "arrivals": sum(node.arrivals for node in nodes),
        "rejected": _by_reason(measured.rejected),
        "arrival_late_ms_max": max((node.late_max_ns for node in nodes), default=0) / NS_PER_MS,
        "loop_late_ms_p99": max((node.loop_late_p99_ns for node in nodes), default=0) / NS_PER_MS,
        "in_flight_bytes_max": max((node.counters.in_flight_bytes_max for node in nodes), default=0),
        "nodes_cpu_s": ns_to_s(sum(node.counters.cpu_ns for node in nodes)),
        "memory_bytes": sum(memory) if memory else None,
        "memory_bytes_per_node": max(memory) if memory else None,
    }
    if not measured.links_shaped:
        trips = [link.rtt_p50_ms for link in measured.links or () if link.rtt_p50_ms is not None]
        figures["round_trip_ms_median"] = median(trips) if trips else None
    if measured.kernel is not None:
        figures["kernel"] = kernel_figures(measured.kernel)
    if emulator is not None:
        figures["emulator"] = _emulator_figures(emulator)
    return figures


def _emulator_figures(emulator: EmulatorStatistics) -> JsonObject:
    wake = emulator.wakeup_lateness_ns
    return {
        "transfers": emulator.starts,
        "finished": emulator.finishes,
        "aborted": emulator.aborts,
        "changes": emulator.changes,
        "ignored": emulator.ignored,
        "late_starts": emulator.excessive_delays,
        "start_late_ms_p99": emulator.start_lateness_ns.p99 / NS_PER_MS,
        "change_late_ms_max": emulator.change_lateness_ns.max / NS_PER_MS,
        "wake_ms_p50": wake.p50 / NS_PER_MS,
        "wake_ms_p99": wake.p99 / NS_PER_MS,
        "wake_ms_max": wake.max / NS_PER_MS,
        "nodes_gone": emulator.nodes_gone,
        "cpu_s": emulator.cpu_s,
    }


def cpu_pressure(text: str | None) -> float | None:
    """Share of the last ten seconds in which some process waited for a core, in percent.

    Args:
        text: The content of ``/proc/pressure/cpu``; None where the kernel has no such file.

    Returns:
        None if the text does not say.
    """
    found = re.search(r"^some avg10=([0-9.]+)", text or "")
    return float(found[1]) if found else None
