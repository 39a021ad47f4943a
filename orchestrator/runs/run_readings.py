"""The metrics of a real run as values, from what its orchestrator knows. Pure.

What is read here is replaced as a whole whenever it changes (the status of a node, the last sample, what was measured),
so that a thread that serves metrics may read it while the run goes on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import isnan
from typing import TypeAlias

from node.core.links import NetworkPlan
from node.core.types import NodeId
from node.core.units import ns_to_s
from node.metrics import PREFIX, Readings
from node.transport.control_values import Phase
from orchestrator.checks import JsonObject
from orchestrator.experiment.plan import Plan
from orchestrator.experiment.schedule.record import recorded
from orchestrator.fidelity import MeasuredLink
from orchestrator.observe.link_series import BYTES_PER_S, configured_rates
from orchestrator.results.recorded_schedule import RecordedEntry
from orchestrator.results.schema import Sample
from orchestrator.runs.watched import WatchedNode

_Values: TypeAlias = Mapping[tuple[str, ...], float]


class RunPhase(Enum):
    """Work that a real run is at."""

    STARTING = "starting"
    """Its nodes start and reach each other."""
    MEASURING = "measuring"
    """They measure their links."""
    RUNNING = "running"
    """The experiment, from the decision about the common start on."""
    STOPPING = "stopping"
    """Nodes hand over what they have, and leave."""
    TESTING = "testing"
    """The models that are left are tested."""
    OVER = "over"
    """All is known; what is left is to write it."""


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything that changes in a run, as it is now.

    Attributes:
        phase: What it does.
        time_ns: Testbed time; None before the common start is decided.
        start_unix_s: Wall clock at testbed time 0; None likewise.
        nodes: What is known of each node.
        missing: Nodes that a barrier waits for.
        sample: The last evaluation; None before the first.
        links: What was measured of links; empty before.
        faults_late_ns: How late each begin or end of a fault of a node was.
        pressure: Share of the last ten seconds in which processes waited for a processor, in percent; None if unknown.
        fidelity: The content of ``fidelity.json``; None before it is judged.
    """

    phase: RunPhase
    time_ns: int | None
    start_unix_s: float | None
    nodes: Mapping[NodeId, WatchedNode]
    missing: int
    sample: Sample | None
    links: Sequence[MeasuredLink]
    faults_late_ns: Sequence[int]
    pressure: float | None
    fidelity: JsonObject | None


class RunReadings:
    """Reads the metrics of one run.

    Args:
        plan: The experiment.
        dilation: Real seconds a testbed second.
        begin_ns: Testbed time at which this part of the run begins.
        build: The value of ``build_info``.
    """

    def __init__(self, plan: Plan, dilation: float, begin_ns: int, build: _Values) -> None:
        config = plan.config
        self._plan = plan
        self._dilation = dilation
        self._labels_peers = config.observe.labels_peers(config.nodes)
        self._network = plan.network.at_time(begin_ns)
        self._schedule = recorded(plan.entries)
        self._fixed: dict[str, _Values] = {
            "run_info": {(config.name, config.algorithm.kind, config.runtime, str(config.seed)): 1},
            "run_time_dilation": {(): dilation},
            "run_nodes": {(): config.nodes},
            "build_info": build,
            "link_configured_rate_bytes_per_second": dict(configured_rates(self._network)),
        }
        if plan.end_ns is not None:
            self._fixed["run_end_seconds"] = {(): ns_to_s(plan.end_ns)}

    def of(self, state: RunState) -> Readings:
        """Read all values of a state."""
        readings: dict[str, _Values] = {
            **self._fixed,
            "run_phase": {(each.value,): float(each is state.phase) for each in RunPhase},
            "barrier_missing_nodes": {(): state.missing},
            "node_up": {self._named(node): float(_is_up(watched)) for node, watched in state.nodes.items()},
            "node_waits_for": self._waits(state.nodes),
            **self._evaluation(state.sample),
            **self._links(state.links),
            **self._fidelity(state),
        }
        if state.time_ns is not None and state.start_unix_s is not None:
            readings["run_clock_seconds"] = {(): ns_to_s(state.time_ns)}
            readings["run_start_timestamp_seconds"] = {(): state.start_unix_s}
            readings |= self._faults(state.time_ns, state.start_unix_s)
        return {PREFIX + name: values for name, values in readings.items()}

    def group_of(self, node: int) -> str:
        """Return the value of the label ``group`` of a node."""
        return "straggler" if node in self._plan.stragglers else "fast"

    def _named(self, node: int) -> tuple[str, str]:
        return str(node), self.group_of(node)

    def _waits(self, nodes: Mapping[NodeId, WatchedNode]) -> _Values:
        if not self._labels_peers:
            return {}
        return {(str(node), str(peer)): 1.0 for node, watched in nodes.items() for peer in watched.waits_for}

    def _evaluation(self, sample: Sample | None) -> dict[str, _Values]:
        if sample is None:
            return {}
        tested = [node for node in sample.nodes if node.is_tested]
        averaged = {"averaged_test_accuracy": sample.averaged_accuracy, "averaged_test_loss": sample.averaged_loss}
        return {
            "test_accuracy": {self._named(node.node): node.accuracy for node in tested},
            "test_loss": {self._named(node.node): node.loss for node in sample.nodes if not isnan(node.loss)},
            "consensus_distance": {(): sample.consensus_distance},
            "evaluation_clock_seconds": {(): ns_to_s(sample.time_ns)},
            **{name: {(): value} for name, value in averaged.items() if not isnan(value)},
        }

    def _links(self, links: Sequence[MeasuredLink]) -> dict[str, _Values]:
        """Tell of a measured path the link that holds it back, so that it can be held against what was asked for."""
        rates: dict[tuple[str, ...], float] = {}
        configured: dict[tuple[str, ...], float] = {}
        measured: dict[tuple[str, ...], float] = {}
        for link in links:
            configured[str(link.source),] = link.requested_rtt_ms / 1e3
            if link.rtt_p50_ms is not None:
                measured[str(link.source),] = link.rtt_p50_ms / 1e3
            if link.achieved_mbps is not None:
                for node, direction in _narrowest(self._network, link):
                    rates[str(node), direction] = link.achieved_mbps * BYTES_PER_S
        return {
            "link_measured_rate_bytes_per_second": rates,
            "link_configured_rtt_seconds": configured,
            "link_measured_rtt_seconds": measured,
        }

    def _faults(self, now_ns: int, start_unix_s: float) -> dict[str, _Values]:
        active: dict[tuple[str, ...], float] = {}
        begins: dict[tuple[str, ...], float] = {}
        ends: dict[tuple[str, ...], float] = {}
        for entry in self._schedule:
            labels = str(entry.number), entry.action, entry.targets
            begin_ns, end_ns, active[labels] = _span_of(entry, now_ns)
            begins[labels] = start_unix_s + ns_to_s(begin_ns) * self._dilation
            if end_ns is not None:
                ends[labels] = start_unix_s + ns_to_s(end_ns) * self._dilation
        return {"fault_active": active, "fault_begin_timestamp_seconds": begins, "fault_end_timestamp_seconds": ends}

    def _fidelity(self, state: RunState) -> dict[str, _Values]:
        readings: dict[str, _Values] = {}
        if state.faults_late_ns:
            readings["fault_lateness_seconds_max"] = {(): ns_to_s(max(state.faults_late_ns))}
        if state.pressure is not None:
            readings["host_cpu_pressure_ratio"] = {(): state.pressure / 100}
        checks = [] if state.fidelity is None else state.fidelity["checks"]
        return {
            **readings,
            "fidelity_requested": {(check["name"],): check["requested"] for check in checks},
            "fidelity_achieved": {
                (check["name"],): check["achieved"] for check in checks if check["achieved"] is not None
            },
            "fidelity_ok": {(check["name"],): float(check["ok"]) for check in checks},
        }


def _is_up(watched: WatchedNode) -> bool:
    return not (watched.died or watched.away or watched.end) and watched.status.phase is not Phase.PREPARING


def _narrowest(network: NetworkPlan, link: MeasuredLink) -> Iterator[tuple[int, str]]:
    """Yield the access links that a measured path is as fast as; none where its pair is narrower than both."""
    up, down = float(network.up_mbps[link.source]), float(network.down_mbps[link.destination])
    requested = link.requested_mbps
    if requested is not None and up == requested:
        yield link.source, "up"
    if requested is not None and down == requested:
        yield link.destination, "down"


def _span_of(entry: RecordedEntry, now_ns: int) -> tuple[int, int | None, float]:
    """Return begin and end of the time that an entry holds now, else of the next, else of the last; and whether now."""
    times = entry.times
    if (holding := times.holding(now_ns)) is not None:
        return (*holding, 1.0)
    begin_ns = times.next_ns(now_ns)
    if begin_ns is None:
        begin_ns = times.begin_ns + (times.count - 1) * times.every_ns
    return begin_ns, None if times.duration_ns is None else begin_ns + times.duration_ns, 0.0
