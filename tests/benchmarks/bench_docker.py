"""Containers on a kernel's links against the simulator: the same file, the same seed.

Usage: ``python -m tests.benchmarks.bench_docker [--out DIR] [--time-dilation D] [PART ...]`` with the parts
``agreement`` (eight pairs of runs, half an hour) and ``start`` (8 and 60 containers). Needs a Docker engine with the
images. On a host whose kernel has no netem it runs in the virtual machine of ``tests/netem_machine``:

    python -m tests.netem_machine --engine --writable DIR --timeout-s 3600 run \
        .venv/bin/python -m tests.benchmarks.bench_docker --out DIR
"""

import argparse
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from node.core.types import Float64Vector
from orchestrator.comparison import smoothed, time_held
from orchestrator.experiment.config import read_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.host.environment import usable_cores
from orchestrator.results.reader import Run, load_run
from orchestrator.runs.options import RunOptions
from orchestrator.runtimes.docker_fleet import DockerFleet
from orchestrator.runtimes.registry import start_run

EXPERIMENTS = Path(__file__).resolve().parents[2] / "deploy" / "experiments"
PARTS = ("agreement", "start")
ALGORITHMS, SENDERS, STRAGGLERS = ("divshare", "adpsgd_pingpong"), ("per_peer", "serial"), (0, 4)
SETTINGS = (
    # Messages of a quarter of 24 kB, so that one CPU carries them all at a moderate time dilation.
    "learning.model.channels=16",
    "algorithm.divshare.omega=0.25",
    "network.preset.bandwidth_mbps=4",
    "evaluation.interval_s=0.5",
    "stop.time_s=10.2",  # rounds of 0.32 s end just after it, so that little is under way then
    "fidelity.allow_unfaithful=true",
)
AIMS = {"delivered": 0.05, "bytes": 0.03, "time to target": 0.10}
"""What docker may differ from the simulation by."""


def run(out: Path, label: str, *overrides: str) -> Run:
    """Run the quickstart with a few keys set to its end, unfaithful or not."""
    settings = [f"name={label}", *SETTINGS, *overrides]
    plan = make_plan(read_experiment(EXPERIMENTS / "quickstart.yaml", settings), EXPERIMENTS)
    outcome = start_run(plan, RunOptions(out, None, usable_cores(), "quiet", "fragmesh run quickstart.yaml"))
    if outcome.status != "done":
        sys.exit(f"docker: {outcome.path} {outcome.status}: {outcome.error}")
    return load_run(outcome.path)


@dataclass(frozen=True)
class Life:
    """Of a run's delivered messages, in ms of testbed time."""

    waited: Float64Vector
    carried: Float64Vector

    @classmethod
    def of(cls, done: Run) -> "Life":
        """Read it from the table of messages."""
        assert done.messages is not None
        table = done.messages
        there = table["delivered_ns"] >= 0
        waited = (table["started_ns"] - table["queued_ns"])[there] / 1e6
        carried = (table["delivered_ns"] - table["started_ns"])[there] / 1e6
        return cls(waited, carried)

    def __str__(self) -> str:
        texts = []
        for name, values in (("waited", self.waited), ("carried", self.carried)):
            median, p95 = np.percentile(values, [50, 95]) if values.size else (np.nan, np.nan)
            texts.append(f"{name} {median:.1f} and {p95:.1f}")
        return ", ".join(texts)


def agreement(out: Path, dilation: str, only: str) -> None:
    """Messages, bytes and time to a target, by algorithm, sender and stragglers, and what explains them."""
    for algorithm, sender, stragglers in itertools.product(ALGORITHMS, SENDERS, STRAGGLERS):
        settings = [
            f"algorithm.kind={algorithm}",
            f"network.sender={{kind: {sender}}}",
            f"network.preset.count={stragglers}",
        ]
        label = f"{algorithm}-{sender}-{stragglers}"
        if only not in label:
            continue
        simulated = run(out, f"{label}-simulation", "runtime=simulation", *settings)
        real = run(out, f"{label}-docker", "runtime=docker", f"time_dilation={dilation}", *settings)
        _print_pair(f"{algorithm}, {sender}, {stragglers} stragglers", simulated, real)


def _print_pair(name: str, simulated: Run, real: Run) -> None:
    figures = {
        "delivered": [_summary(done)["messages"]["delivered"] for done in (simulated, real)],
        "bytes": [_bytes_delivered(done) for done in (simulated, real)],
        "time to target": _times_to_target(simulated, real),
    }
    parts = []
    for what, (before, after) in figures.items():
        off = after / before - 1
        verdict = "" if abs(off) <= AIMS[what] else ", MISSED"
        parts.append(f"{what} {before:,.6g} and {after:,.6g} ({off:+.1%}{verdict})")
    print(f"{name}: simulation and docker: {'; '.join(parts)}")
    for runtime, done in (("simulation", simulated), ("docker", real)):
        print(f"    {runtime}: ms, median and p95: {Life.of(done)}")
    assert real.fidelity is not None
    failed = [f"{check['name']} {check['achieved']:.4g}" for check in real.fidelity["checks"] if not check["ok"]]
    found = real.fidelity["figures"]
    print(
        f"    docker: dilation {real.fidelity['time_dilation']:g}, {real.fidelity.get('links')},"
        f" {_summary(real)['wall_s']:.0f} s; failed checks: {'; '.join(failed) or 'none'};"
        f" overran {found['overruns']} of {found['blocks']} blocks, loops late by {found['loop_late_ms_p99']:.1f} ms",
        flush=True,
    )


def _bytes_delivered(done: Run) -> int:
    """Bytes of the messages that arrived.

    What was sent is no measure at the end of a short run: of a kernel's links a node knows what the transport has
    taken, which may be two messages a connection more than has left.
    """
    assert done.messages is not None
    return int(done.messages["wire_bytes"][done.messages["delivered_ns"] >= 0].sum())


def _times_to_target(*runs: Run) -> list[float]:
    """When each holds 80 % of the way from the first value to the lower of the ends."""
    curves = [(done.times_s, smoothed(done.headline)) for done in runs]
    first, last = curves[0][1][0], min(curve[-1] for _, curve in curves)
    held = [time_held(times_s, curve, first + 0.8 * (last - first)) for times_s, curve in curves]
    return [np.nan if found is None else found for found in held]


def _summary(done: Run) -> dict[str, Any]:
    assert done.summary is not None
    return done.summary


def start(out: Path, dilation: str) -> None:
    """Containers until training begins, images present, and their memory."""
    for nodes, aim_s in ((8, 15), (60, 90)):
        settings = [f"nodes={nodes}", f"time_dilation={dilation}", "network.preset.count=0", "stop.time_s=0.5"]
        before_s = time.monotonic()
        with patch.object(DockerFleet, "begin", autospec=True, side_effect=DockerFleet.begin) as begin:
            done = run(out, f"start-{nodes}", "runtime=docker", *settings)
        assert done.fidelity is not None
        memory = done.fidelity["figures"]["memory_bytes_per_node"] / 2**20
        print(
            f"start: {nodes} containers: {begin.call_args.args[1] / 1e9 - before_s:.1f} s until training began"
            f" (aim {aim_s} s); memory {memory:.0f} MiB a container at most (proportional set size, aim 170)",
            flush=True,
        )


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/docker"))
    parser.add_argument("--time-dilation", default="null", help="of runs in containers; null measures the host")
    parser.add_argument("--only", default="", help="pairs with this in their name, such as divshare-serial-4")
    parser.add_argument("parts", nargs="*", default=PARTS)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}")
    for part in arguments.parts:
        if part == "agreement":
            agreement(arguments.out, arguments.time_dilation, arguments.only)
        else:
            start(arguments.out, arguments.time_dilation)


if __name__ == "__main__":
    main()
