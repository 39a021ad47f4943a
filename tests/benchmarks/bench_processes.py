"""Real processes against what was asked of them, and against the simulator.

Usage: ``python -m tests.benchmarks.bench_processes [--out DIR] [PART ...]`` with the parts ``links``, ``digits``,
``cifar10`` (needs ``$FRAGMESH_DATA``), ``dilation`` and ``sixty``; all but ``cifar10`` without. Every run is an
ordinary run of a file in ``deploy/experiments`` with a few keys set. Half an hour on two cores.
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

from orchestrator.analysis import time_to_accuracy
from orchestrator.experiment.config import read_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.host.environment import usable_cores
from orchestrator.results.reader import Run, load_run
from orchestrator.runs.options import RunOptions
from orchestrator.runtimes.registry import start_run
from tests.realdata import DATA_ROOT

EXPERIMENTS = Path(__file__).resolve().parents[2] / "deploy" / "experiments"
PARTS = ("links", "digits", "cifar10", "dilation", "sixty")


def run(out: Path, file: str, label: str, *overrides: str) -> Run:
    """Run an experiment to its end, unfaithful or not."""
    settings = [f"name={label}", "fidelity.allow_unfaithful=true", *overrides]
    plan = make_plan(read_experiment(EXPERIMENTS / file, settings), EXPERIMENTS)
    outcome = start_run(plan, RunOptions(out, DATA_ROOT, usable_cores(), "quiet", f"fragmesh run {file}"))
    if outcome.status != "done":
        sys.exit(f"processes: {outcome.path} {outcome.status}: {outcome.error}")
    return load_run(outcome.path)


def links(out: Path) -> None:
    """Requested and achieved rate and round trip, 8 nodes that train meanwhile, at the dilation that is recommended."""
    for mbps, latency_ms in itertools.product((2, 10, 60), (0, 20, 100)):
        preset = f"{{kind: uniform, bandwidth_mbps: {mbps}, latency_ms: {latency_ms}}}"
        done = run(
            out, "quickstart.yaml", f"links-{mbps}-{latency_ms}",
            "runtime=processes", f"network.preset={preset}", "stop.time_s=0.5", "evaluation.interval_s=0.5",
        )  # fmt: skip
        checks = _checks(done)
        rate, median, longest = (_one(checks, name) for name in ("rate", "round trip, median", "round trip, 99th"))
        print(
            f"links: {mbps:2} Mbit/s, {latency_ms:3} ms, dilation {_dilation(done):g}:"
            f" {rate['achieved']:.3f} Mbit/s ({rate['achieved'] / mbps - 1:+.2%}),"
            f" round trip of {median['requested']:.2f} ms:"
            f" p50 {median['achieved']:.2f} ms, p99 {longest['achieved']:.2f} ms;"
            f" {'within' if rate['ok'] and median['ok'] and longest['ok'] else 'OUTSIDE'} the tolerances",
            flush=True,
        )


def agreement(out: Path, part: str) -> None:
    """The same experiment simulated and in processes, 8 nodes, half of them stragglers."""
    if part == "digits":
        file, settings = "quickstart.yaml", ["stop.time_s=15", "evaluation.interval_s=0.25"]
    else:
        file = "cifar10-stragglers.yaml"
        settings = ["nodes=8", "network.preset.count=4", "stop.time_s=15", "evaluation.interval_s=0.5"]
    simulated = run(out, file, f"{part}-simulation", "runtime=simulation", *settings)
    real = run(out, file, f"{part}-processes", "runtime=processes", *settings)
    counts = [_messages(done) for done in (simulated, real)]
    target = 0.9 * min(float(done.headline.max()) for done in (simulated, real))
    times = [time_to_accuracy(done.times_s, done.headline, target) for done in (simulated, real)]
    assert times[0] is not None
    assert times[1] is not None
    print(
        f"{part}: simulation and processes (dilation {_dilation(real):g}, {_verdict(real)}): delivered"
        f" {counts[0]['delivered']:,} and {counts[1]['delivered']:,}"
        f" ({counts[1]['delivered'] / counts[0]['delivered'] - 1:+.2%});"
        f" to {target:.3f}: {times[0]:.2f} and {times[1]:.2f} s ({times[1] / times[0] - 1:+.2%});"
        f" at the end {simulated.headline[-1]:.4f} and {real.headline[-1]:.4f}",
        flush=True,
    )


def dilation(out: Path) -> None:
    """The same experiment at time dilation 1 and 4, small enough to be faithful at 1."""
    settings = ["runtime=processes", "nodes=4", "network.preset.count=2", "compute.step_time_ms=40", "stop.time_s=10"]
    rates = {}
    for factor in (1, 4):
        done = run(out, "quickstart.yaml", f"dilation-{factor}", f"time_dilation={factor}", *settings)
        rates[factor] = _messages(done)["delivered"] / 10
        print(
            f"dilation: {factor}: {rates[factor]:.1f} messages delivered a testbed second, {_verdict(done)}", flush=True
        )
    print(f"dilation: 4 against 1: {rates[4] / rates[1] - 1:+.2%}", flush=True)


def sixty(out: Path) -> None:
    """Sixty nodes."""
    done = run(out, "quickstart.yaml", "sixty", "runtime=processes", "nodes=60", "stop.time_s=5")
    assert done.fidelity is not None
    assert done.summary is not None
    figures = done.fidelity["figures"]
    print(
        f"sixty: 60 nodes, dilation {_dilation(done):g}, {_verdict(done)},"
        f" {done.summary['wall_s']:.0f} s for 5 testbed seconds;"
        f" memory (proportional set size) {figures['memory_bytes_per_node'] / 2**20:.0f} MiB a node at most,"
        f" {figures['memory_bytes'] / 2**30:.2f} GiB in all",
        flush=True,
    )


def _checks(done: Run) -> list[dict[str, Any]]:
    assert done.fidelity is not None
    checks: list[dict[str, Any]] = done.fidelity["checks"]
    return checks


def _one(checks: list[dict[str, Any]], beginning: str) -> dict[str, Any]:
    return next(check for check in checks if check["name"].startswith(beginning))


def _dilation(done: Run) -> float:
    assert done.fidelity is not None
    return float(done.fidelity["time_dilation"])


def _verdict(done: Run) -> str:
    failed = [check["name"] for check in _checks(done) if not check["ok"]]
    return "faithful" if not failed else f"UNFAITHFUL: {'; '.join(failed)}"


def _messages(done: Run) -> dict[str, int]:
    assert done.summary is not None
    messages: dict[str, int] = done.summary["messages"]
    return messages


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/processes"))
    parser.add_argument("parts", nargs="*", default=[part for part in PARTS if part != "cifar10"])
    arguments = parser.parse_args()
    for part in arguments.parts:
        match part:
            case "links":
                links(arguments.out)
            case "digits" | "cifar10":
                agreement(arguments.out, part)
            case "dilation":
                dilation(arguments.out)
            case "sixty":
                sixty(arguments.out)
            case _:
                sys.exit(f"processes: unknown part {part}")


if __name__ == "__main__":
    main()
