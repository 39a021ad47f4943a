"""The published comparison, scaled to 16 nodes: DivShare against its baselines on real CIFAR-10 and MovieLens.

Usage: ``python -m tests.benchmarks.bench_science [--out DIR] [PART ...]`` with the parts ``stragglers``,
``no-stragglers``, ``policies``, ``parallel`` and ``movielens``; all without. Every run is an ordinary run of a file in
``deploy/experiments`` with a few keys set, as the printed commands say. Needs ``$FRAGMESH_DATA``. About an hour on
two cores.
"""

import argparse
import sys
from pathlib import Path

from node.core.types import Float64Vector
from orchestrator.comparison import compare
from orchestrator.experiment.config import read_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.host.environment import usable_cores
from orchestrator.results.reader import Run, load_run
from orchestrator.runs.options import RunOptions
from orchestrator.runtimes.simulation import run_simulation
from tests.realdata import DATA_ROOT

EXPERIMENTS = Path(__file__).resolve().parents[2] / "deploy" / "experiments"
PARTS = ["stragglers", "no-stragglers", "policies", "parallel", "movielens"]
ALGORITHMS = ("divshare", "adpsgd_pingpong", "swift_divshare")


def run(out: Path, file: str, label: str, *overrides: str) -> Run:
    """Run an experiment, or read it where an earlier call has finished it."""
    for path in sorted(out.glob(f"{label}-2*")):
        found = load_run(path)
        if found.status == "done":
            return found
    settings = [f"name={label}", *overrides]
    print(f"  fragmesh run deploy/experiments/{file} " + " ".join(f"--set {item}" for item in settings), flush=True)
    plan = make_plan(read_experiment(EXPERIMENTS / file, settings), EXPERIMENTS)
    workers = usable_cores()
    outcome = run_simulation(plan, RunOptions(out, DATA_ROOT, workers, "quiet", f"fragmesh run {file}"))
    if outcome.status != "done":
        sys.exit(f"science: {outcome.path} {outcome.status}")
    return load_run(outcome.path)


def against_baselines(out: Path, file: str, prefix: str, *overrides: str) -> None:
    """Run DivShare and its baselines; print how much sooner DivShare holds 90 % of what each gains."""
    runs = {kind: run(out, file, f"{prefix}-{kind}", f"algorithm.kind={kind}", *overrides) for kind in ALGORITHMS}
    divshare = runs["divshare"]
    for kind, other in runs.items():
        line = f"{prefix}: {kind:16} {_ends(other)}"
        if kind != "divshare":
            found = compare([other, divshare])
            times = [group.time_to_target_s for group in found.groups]
            ratio = found.groups[1].times_faster
            if times[0] is not None and times[1] is not None and ratio is not None:
                line += f"; to hold {found.target:.4f}: divshare {times[1].mean:.1f} s, {kind} {times[0].mean:.1f} s"
                line += f" = {ratio.mean:.2f}x sooner"
        print(line, flush=True)


def policies(out: Path) -> None:
    """What the sender policy and the flush contribute: DivShare with stragglers, four ways."""
    for sender in ("{kind: serial}", "{kind: parallel, transfers: 4}"):
        for flush in ("queued_only", "none"):
            name = "serial" if "serial" in sender else "parallel"
            label = f"{name}-flush-{flush}"
            if flush == "queued_only":  # what the parts "stragglers" and "parallel" run as well
                label = "stragglers-divshare" if name == "serial" else "parallel-divshare"
            done = run(
                out,
                "cifar10-stragglers.yaml",
                label,
                f"network.sender={sender}",
                f"algorithm.divshare.flush={flush}",
            )
            assert done.summary is not None
            assert done.links is not None
            stale, age = done.summary["staleness"]["overall"], done.summary["age_s"]["overall"]
            slow = done.facts.stragglers
            fast = [node for node in range(done.facts.nodes) if node not in slow]
            used: Float64Vector = done.links["uplink"]
            print(
                f"policies: {name:8} flush {flush:11} {_ends(done)};"
                f" {done.summary['messages']['delivered']:,} delivered,"
                f" {done.summary['messages']['cancelled']:,} cancelled; staleness p50 {stale['p50']}, p95"
                f" {stale['p95']} rounds; age p50 {age['p50']:.2f}, p95 {age['p95']:.2f} s;"
                f" uplinks in use: fast {used[fast].mean():.0%}, stragglers {used[sorted(slow)].mean():.0%}",
                flush=True,
            )


def _ends(done: Run) -> str:
    values = done.headline
    best = values.max() if done.higher_is_better else values.min()
    return f"{done.metric} {values[-1]:.4f} at the end, {best:.4f} at best"


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/science"))
    parser.add_argument("parts", nargs="*", default=PARTS)
    arguments = parser.parse_args()
    if DATA_ROOT is None:
        sys.exit("science: set FRAGMESH_DATA to a folder with CIFAR-10 and MovieLens")
    for part in arguments.parts:
        if part == "stragglers":
            against_baselines(arguments.out, "cifar10-stragglers.yaml", "stragglers")
        elif part == "no-stragglers":
            none = "network.preset.count=0"
            against_baselines(arguments.out, "cifar10-stragglers.yaml", "no-stragglers", none)
        elif part == "parallel":
            parallel = "network.sender={kind: parallel, transfers: 4}"
            against_baselines(arguments.out, "cifar10-stragglers.yaml", "parallel", parallel)
        elif part == "policies":
            policies(arguments.out)
        elif part == "movielens":
            file, none = "divshare-movielens-20.yaml", ("network.preset.count=0", "stop.time_s=350")
            against_baselines(arguments.out, file, "movielens-stragglers")
            against_baselines(arguments.out, file, "movielens-no-stragglers", *none)
        else:
            sys.exit(f"science: unknown part {part}")


if __name__ == "__main__":
    main()
