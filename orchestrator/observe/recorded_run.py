"""All series of a run directory under the names of a live run, in a file that Prometheus can import.

A run directory holds less than what a live run tells; :data:`NOT_RECORDED` says what is missing and why. The times of
all samples are testbed time after the wall-clock time at which the run began. A simulation that was faster than its own
time would reach into the future that way: it begins as much earlier, so that it ends when it ended. Prometheus takes
no sample into the past of what it has, so that a block from the future would end all scraping.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, TextIO

import numpy as np

from node.core.errors import ConfigError
from node.metrics import NODE_METRICS, PREFIX, RUN_METRICS
from orchestrator.observe.link_series import LINK_FAMILIES, link_families
from orchestrator.observe.message_series import MESSAGE_FAMILIES, message_families
from orchestrator.observe.node_series import NODE_FAMILIES, evaluation_families, there_families
from orchestrator.observe.openmetrics import END, Family, head_text, num_series, time_texts, track_text
from orchestrator.observe.run_series import (
    FAULT_FAMILIES,
    FIDELITY_FAMILIES,
    course_families,
    curve_families,
    fault_families,
    fidelity_families,
)
from orchestrator.observe.sampled_run import Sampling, run_end_ns
from orchestrator.results.files import write_atomically
from orchestrator.results.reader import Run

FILE_NAME: Final = "openmetrics.txt"
"""Name of the file in a run directory."""

_MISSING: Final = "is missing: output.messages is false, or the run was killed"
_EARLIER: Final = "is of an earlier version"
_TOLD_AT_END: Final = "only the worst node's is kept, in fidelity.json"
_NOT_KEPT: Final = "only a live run tells it"

NOT_RECORDED: Final = {
    "node_phase": _NOT_KEPT,
    "node_unreachable_peers": _NOT_KEPT,
    "local_steps_seconds": "single blocks of local steps are not kept",
    "waiting_seconds_total": "for whom a node waited is not kept",
    "messages_rejected_total": "a run with refused messages fails and says why",
    "values_saturated_total": "only the sum over all nodes is kept, in summary.json",
    "in_flight_bytes": _NOT_KEPT,
    "in_flight_bytes_max": _TOLD_AT_END,
    "in_flight_bytes_bound": _TOLD_AT_END,
    "overruns_total": _TOLD_AT_END,
    "overrun_seconds_total": _TOLD_AT_END,
    "declared_seconds_total": _TOLD_AT_END,
    "cpu_seconds_total": _NOT_KEPT,
    "arrival_lateness_seconds": _TOLD_AT_END,
    "run_phase": _NOT_KEPT,
    "barrier_missing_nodes": _NOT_KEPT,
    "node_waits_for": "for whom a node waited is not kept",
    "link_configured_rtt_seconds": "the links that were measured are not kept",
    "link_measured_rate_bytes_per_second": "the worst link of each kind is kept, in fidelity.json",
    "link_measured_rtt_seconds": "the worst link of each kind is kept, in fidelity.json",
    "host_cpu_pressure_ratio": "only before and after the run, in fidelity.json",
}
"""Families, without their prefix, that no run directory has, and why."""


@dataclass(slots=True)
class Exported:
    """Size and span of what was written.

    Attributes:
        begin_ms, end_ms: The first and the last time, Unix time in milliseconds.
        series: Families with labels; of a histogram each bucket, its sum and its count.
        samples: Lines with a value.
        families: Names of the families with samples.
        left_out: Names of all others, and why.
    """

    begin_ms: int
    end_ms: int
    series: int = 0
    samples: int = 0
    families: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def recorded_start_ms(run: Run) -> int:
    """Return the Unix time in milliseconds at which an exported run begins.

    It is when the nodes of a real run began together, or when a simulation began; or as much earlier as it needs to end
    when it ended.

    Raises:
        ConfigError: The run directory does not tell.
    """
    environment = run.environment or {}
    try:
        start_s = datetime.fromisoformat(environment.get("time_zero_at") or environment["begun_at"]).timestamp()
        if "ended_at" in environment:
            start_s = min(start_s, datetime.fromisoformat(environment["ended_at"]).timestamp() - run_end_ns(run) / 1e9)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            f"{run.path}: environment.json does not tell when the run began: give --start, for example"
            " --start 2026-03-01T12:00:00"
        ) from None
    return round(start_s * 1000)


def recorded_families(sampling: Sampling) -> Iterator[Family]:
    """Yield all families that a run directory tells of, each once."""
    run = sampling.run
    yield from course_families(sampling)
    yield from there_families(sampling)
    yield from curve_families(sampling)
    yield from fault_families(sampling)
    if sampling.network is not None:
        yield from link_families(sampling, sampling.network)
    if run.fidelity is not None:
        yield from fidelity_families(sampling, run.fidelity)
    if run.nodes is not None:
        yield from evaluation_families(sampling, run.nodes)
    if run.messages is not None:
        yield from message_families(sampling, run.messages)


def write_openmetrics(sampling: Sampling, path: Path) -> Exported:
    """Write a run's series to a file, whole or not at all.

    Raises:
        ConfigError: The run directory is damaged.
        RunnerError: The file could not be written.
    """
    found: list[Exported] = []

    def write(temporary: Path) -> None:
        # The name of a directory need not be UTF-8, which the format wants.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            found.append(print_openmetrics(sampling, file))

    write_atomically(path, write)
    return found[-1]


def print_openmetrics(sampling: Sampling, file: TextIO) -> Exported:
    """Write a run's series to an open file.

    Raises:
        ConfigError: The run directory is damaged.
    """
    _check_nodes(sampling)
    times = time_texts(sampling.instants_ns, sampling.start_ms)
    exported = Exported(*(sampling.start_ms + round(at_ns / 1e6) for at_ns in sampling.instants_ns[[0, -1]].tolist()))
    for metric, tracks in recorded_families(sampling):
        for track in tracks:
            if text := track_text(metric, track, times):
                if metric.name not in exported.families[-1:]:
                    exported.families.append(metric.name)
                    file.write(head_text(metric))
                file.write(text)
                exported.series += num_series(metric)
                exported.samples += text.count("\n")
    file.write(END)
    names = {**NODE_METRICS, **RUN_METRICS}.keys() - set(exported.families)
    exported.left_out = {name: _reason(sampling.run, name.removeprefix(PREFIX)) for name in sorted(names)}
    return exported


def _reason(run: Run, name: str) -> str:
    """Say why a family has no samples."""
    if name in NOT_RECORDED:
        return NOT_RECORDED[name]
    if name in MESSAGE_FAMILIES:
        return "messages.parquet " + (_MISSING if run.messages is None else _EARLIER)
    if name in NODE_FAMILIES:
        return "nodes.parquet " + (_MISSING if run.nodes is None else _EARLIER)
    if name in FIDELITY_FAMILIES:
        return "fidelity.json has no checks, as that of a simulation"
    if name in FAULT_FAMILIES:
        return "the experiment has no schedule" if not run.facts.schedule else "faults.csv tells of no node"
    if name in LINK_FAMILIES:
        return "the links have no limit, or the experiment cannot be planned any more"
    return "the run's figures do not have it"


def _check_nodes(sampling: Sampling) -> None:
    """Refuse tables with nodes that the run does not have."""
    run = sampling.run
    columns = [("nodes.parquet", "node", run.nodes)]
    columns += [("messages.parquet", name, run.messages) for name in ("sender", "receiver")]
    for file, name, table in columns:
        nodes = np.zeros(1, dtype=np.int64) if table is None or not table[name].size else table[name]
        wrong = nodes.min() if nodes.min() < 0 else nodes.max()
        if sampling.num_nodes and not 0 <= wrong < sampling.num_nodes:
            raise ConfigError(f"{run.path / file}: damaged: {name}={wrong}: must be 0 to {sampling.num_nodes - 1}")
