"""Series of a whole run: its course, evaluations, faults and fidelity. Pure."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from node.core.times import Times
from node.core.types import Float64Vector
from node.core.units import NS_PER_S
from node.metrics import PREFIX, RUN_METRICS, Metric
from orchestrator.observe.openmetrics import AnyTrack, Family, Track
from orchestrator.observe.sampled_run import Sampling
from orchestrator.results.fault_instants import FaultInstant
from orchestrator.results.recorded_schedule import RecordedEntry
from orchestrator.results.schema import Column, JsonObject

COURSE_FAMILIES: Final = (
    *("run_info", "run_start_timestamp_seconds", "run_clock_seconds", "run_end_seconds", "run_time_dilation"),
    *("run_nodes", "build_info"),
)
"""Families, without their prefix, that every run has, but for the end where another rule ends it."""

CURVE_FAMILIES: Final = {
    "averaged_test_accuracy": "accuracy_averaged",
    "averaged_test_loss": "loss_averaged",
    "consensus_distance": "consensus_distance",
    "evaluation_clock_seconds": "time_s",
}
"""Families, without their prefix, and the columns of ``curve.csv`` that they are."""

FAULT_FAMILIES: Final = (
    *("fault_active", "fault_begin_timestamp_seconds", "fault_end_timestamp_seconds", "fault_lateness_seconds_max"),
)
"""Families, without their prefix, of runs with a schedule."""

FIDELITY_FAMILIES: Final = ("fidelity_requested", "fidelity_achieved", "fidelity_ok")
"""Families, without their prefix, that come from ``fidelity.json``."""


def _metric(name: str) -> Metric:
    return RUN_METRICS[PREFIX + name]


def course_families(sampling: Sampling) -> Iterator[Family]:
    """Yield what every run has."""
    facts, instants_ns = sampling.run.facts, sampling.instants_ns
    always = np.ones(len(instants_ns), dtype=np.int64)
    versions = (sampling.run.environment or {}).get("versions") or {}
    release = {"version": versions.get("fragmesh"), "python": versions.get("python"), "torch": versions.get("torch")}
    values: dict[str, Column] = {
        "run_start_timestamp_seconds": always * (sampling.start_ms / 1000),
        "run_clock_seconds": instants_ns / NS_PER_S,
        # The times of an exported run are testbed times, whatever the run's own clock was.
        "run_time_dilation": always,
        "run_nodes": always * sampling.num_nodes,
    }
    if facts.end_s is not None:
        values["run_end_seconds"] = always * facts.end_s
    yield _metric("run_info"), [Track(sampling.of_run(seed=str(facts.seed)), always)]
    for name, column in values.items():
        yield _metric(name), [Track(sampling.of_run(), column)]
    labels = {name: str(version or "") for name, version in release.items()}
    yield _metric("build_info"), [Track(sampling.of_run(**labels), always)]


def curve_families(sampling: Sampling) -> Iterator[Family]:
    """Yield what each evaluation told of the run, until the next one."""
    curve = sampling.run.curve
    last = np.searchsorted(np.rint(curve["time_s"] * NS_PER_S), sampling.instants_ns, side="right") - 1
    for name, column in CURVE_FAMILIES.items():
        values = np.where(last < 0, np.nan, curve[column][last]) if curve[column].size else np.full(len(last), np.nan)
        yield _metric(name), [Track(sampling.of_run(), values)]


def fault_families(sampling: Sampling) -> Iterator[Family]:
    """Yield which entries of the schedule hold, as planned, and how late those of nodes were."""
    schedule = sampling.run.facts.schedule
    if not schedule:
        return
    tracks: dict[str, list[AnyTrack]] = {name: [] for name in FAULT_FAMILIES}
    for entry in schedule:
        labels = sampling.of_run(entry=str(entry.number), action=entry.action, target=entry.targets)
        for name, values in zip(FAULT_FAMILIES, _entry_columns(sampling, entry), strict=False):
            tracks[name].append(Track(labels, values))
    if sampling.run.faults:
        tracks["fault_lateness_seconds_max"].append(Track(sampling.of_run(), _lateness(sampling, sampling.run.faults)))
    for name, found in tracks.items():
        yield _metric(name), found


def fidelity_families(sampling: Sampling, fidelity: JsonObject) -> Iterator[Family]:
    """Yield the checks of fidelity, which are known at the end."""
    checks = fidelity.get("checks", ())
    for name in FIDELITY_FAMILIES:
        figures = {check["name"]: check[name.removeprefix("fidelity_")] for check in checks}
        known = {check: float(figure) for check, figure in figures.items() if figure is not None}
        yield _metric(name), [Track(sampling.of_run(check=check), _at_end(sampling, known[check])) for check in known]


def _entry_columns(sampling: Sampling, entry: RecordedEntry) -> tuple[Column, Float64Vector, Float64Vector]:
    """Tell whether an entry holds, and the begin and end that come next, or came last, in Unix seconds."""
    instants = sampling.instants_ns.tolist()
    times = [_time_of(entry.times, now_ns) for now_ns in instants]
    active = np.array([int(entry.times.holding(now_ns) is not None) for now_ns in instants])
    start_s = sampling.start_ms / 1000
    begins = np.array([start_s + begin_ns / NS_PER_S for begin_ns, _ in times])
    ends = np.array([np.nan if end_ns is None else start_s + end_ns / NS_PER_S for _, end_ns in times])
    return active, begins, ends


def _time_of(times: Times, now_ns: int) -> tuple[int, int | None]:
    """Return the time that holds, else the next one, else the last one: its begin and end."""
    if (held := times.holding(now_ns)) is not None:
        return held
    begin_ns = times.next_ns(now_ns)
    if begin_ns is None:
        begin_ns = times.begin_ns + (times.count - 1) * times.every_ns
    return begin_ns, None if times.duration_ns is None else begin_ns + times.duration_ns


def _lateness(sampling: Sampling, instants: tuple[FaultInstant, ...]) -> Float64Vector:
    came = sorted(
        (one.actual_ns, one.late_ns / NS_PER_S)
        for one in instants
        if one.actual_ns is not None and one.late_ns is not None and one.node is not None
    )
    worst = np.maximum.accumulate([0.0, *(late for _, late in came)])
    found: Float64Vector = worst[np.searchsorted([at_ns for at_ns, _ in came], sampling.instants_ns, side="right")]
    return found


def _at_end(sampling: Sampling, value: float) -> Float64Vector:
    values = np.full(len(sampling.instants_ns), np.nan)
    values[-1] = value
    return values
