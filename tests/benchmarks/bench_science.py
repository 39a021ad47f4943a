"""The comparisons of the documentation: families of runs in simulation, and the tables that they give.

Usage: ``python -m tests.benchmarks.bench_science [--out DIR] [--seeds N] [--processes N] [PART ...]`` with the parts
below; all without. Every run is an ordinary run of a file in ``deploy/experiments`` with a few keys set. Runs that an
earlier call has finished are read, so that a part that was interrupted goes on. ``cifar10`` and ``movielens`` need
``$FRAGMESH_DATA``.

- ``loads``: all algorithms on digits over four offered loads, with and without stragglers.
- ``factors``: the same at load 0.2 with links of stragglers 1, 2, 5 and 10 times slower.
- ``omega``: DivShare's fragment size, with and without stragglers.
- ``senders``: how old messages are with each sender policy, where nobody is slow.
- ``flush``: what DivShare's flush contributes.
- ``cifar10``: the published setting, scaled to 16 nodes.
- ``movielens``: the published setting, scaled to 20 nodes.

A cell is the mean over the seeds of what the mean node holds at the end (see ``docs/explanation/comparisons.md``), with
the half of its 95 % t interval.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from orchestrator.comparison import Comparison, compare
from orchestrator.host.environment import usable_cores
from orchestrator.intervals import MeanInterval, mean_of
from orchestrator.results.reader import Run, load_run
from tests.realdata import DATA_ROOT

EXPERIMENTS = Path(__file__).resolve().parents[2] / "deploy" / "experiments"
BASELINES = ("adpsgd_pingpong", "swift_divshare")
ALGORITHMS = ("local", "epidemic", *BASELINES, "divshare")
"""In the order of the tables: the floor first."""

LOADS = {"0.12": 6.86, "0.2": 4.11, "0.4": 2.06, "0.6": 1.37}
"""Offered load -> bandwidth of a fast uplink on digits, Mbit/s."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table: a file and the keys that make it this cell.

    Attributes:
        file: In ``deploy/experiments``.
        name: Of its runs.
        settings: ``key=value``, as after ``--set``.
    """

    file: str
    name: str
    settings: tuple[str, ...]


class Bench:
    """Runs cells, several at a time, and keeps what they gave.

    Args:
        out: Folder of the runs.
        seeds: How many, from 1 on.
        processes: Runs at a time.
    """

    def __init__(self, out: Path, seeds: int, processes: int) -> None:
        self._out = out
        self._seeds = range(1, seeds + 1)
        self._processes = processes
        self._named: dict[str, Cell] = {}

    def runs(self, cells: Sequence[Cell]) -> dict[Cell, list[Run]]:
        """All runs of each cell, one a seed; in the order of the cells, whatever ends first."""
        for cell in cells:
            assert self._named.setdefault(cell.name, cell) == cell, f"two cells are called {cell.name}"
        jobs = [(cell, seed) for cell in dict.fromkeys(cells) for seed in self._seeds]
        with ThreadPoolExecutor(self._processes) as pool:
            done = list(pool.map(lambda job: self._run(*job), jobs))
        found: dict[Cell, list[Run]] = {}
        for (cell, _), run in zip(jobs, done, strict=True):
            found.setdefault(cell, []).append(run)
        return found

    def _run(self, cell: Cell, seed: int) -> Run:
        folder = self._out / f"{cell.name}-s{seed}"
        for path in sorted(folder.glob("*")):
            if (path / "summary.json").exists() and (found := load_run(path)).status == "done":
                return found
        keys = [item for setting in (f"name={cell.name}", *cell.settings) for item in ("--set", setting)]
        command = ["run", f"deploy/experiments/{cell.file}", "--seed", str(seed), "--workers", "0", *keys]
        print("fragmesh " + " ".join(f"'{item}'" if " " in item else item for item in command), flush=True)
        if DATA_ROOT is not None:
            command += ["--data-root", str(DATA_ROOT)]
        command += ["--set", "output.messages=false"] if cell.name.split("-")[0] not in WITH_MESSAGES else []
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *command, "--out", str(folder)],
            cwd=EXPERIMENTS.parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            sys.exit(f"science: {cell.name}, seed {seed}: {done.stderr.strip() or done.stdout.strip()}")
        (path,) = folder.iterdir()
        return load_run(path)


# --- tables ---------------------------------------------------------------------------------------------------


def plus_minus(value: MeanInterval | None, digits: int = 3) -> str:
    """A mean with the half of its interval."""
    if value is None:
        return "–"
    half = "" if value.high is None else f" ±{value.high - value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f}{half}"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n")
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def ends(found: Mapping[Cell, list[Run]], cell: Cell) -> str:
    """What the mean node holds at the end of a cell's runs."""
    return plus_minus(compare(found[cell]).baseline.end)


def staleness(runs: Sequence[Run]) -> list[str]:
    """Median and 95th percentile of the staleness of the messages that were averaged, in rounds, mean over the runs."""
    overall = [run.summary["staleness"]["overall"] for run in runs if run.summary is not None]
    return [plus_minus(mean_of([float(one[quantile]) for one in overall]), 1) for quantile in ("p50", "p95")]


def faster(found: Mapping[Cell, list[Run]], base: Cell, cell: Cell, target: float) -> str:
    """How many times sooner a cell's runs hold a target than the base's, and how many of each hold it at all."""
    of: Comparison = compare([*found[base], *found[cell]], target)
    if len(of.groups) == 1:
        return "1"
    first, second = of.groups[0], of.groups[-1]
    reach = f"{second.reached} of {len(second.seeds)} against {first.reached} of {len(first.seeds)}"
    ratio = second.times_faster
    if ratio is None:
        return reach
    interval = "" if ratio.low is None else f" ({ratio.low:.1f} to {ratio.high:.1f})"
    return f"{ratio.mean:.1f}x{interval}" + (
        "" if first.reached == second.reached == len(first.seeds) else f"; {reach}"
    )


# --- parts ----------------------------------------------------------------------------------------------------

DIGITS = "digits-stragglers.yaml"
EQUAL, SLOW = ("network.preset.factor=1",), ()
WITH_MESSAGES = ("senders", "flush")


def digits(kind: str, load: str, *settings: str) -> Cell:
    """A cell on digits, named after what it sets; ``local`` sends nothing, so that one cell serves all links."""
    if kind == "local":
        return Cell(DIGITS, "digits-local", ("algorithm.kind=local",))
    parts = [setting.partition("=") for setting in settings]
    name = "-".join(["digits", kind, load, *(key.rpartition(".")[2] + value for key, _, value in parts)])
    keys = (f"algorithm.kind={kind}", f"network.preset.bandwidth_mbps={LOADS[load]}", *settings)
    return Cell(DIGITS, "".join(letter for letter in name if letter.isalnum() or letter in "-._"), keys)


def loads(bench: Bench) -> None:
    """All algorithms over loads, with and without stragglers; how much sooner DivShare holds stated targets."""
    places = [(load, slow) for slow in (EQUAL, SLOW) for load in LOADS]
    found = bench.runs([digits(kind, load, *slow) for load, slow in places for kind in ALGORITHMS])
    for slow, words in ((EQUAL, "no stragglers"), (SLOW, "8 of 16 links 5 times slower")):
        rows = [[f"`{kind}`", *(ends(found, digits(kind, load, *slow)) for load in LOADS)] for kind in ALGORITHMS]
        table(f"Accuracy at the end, {words}, by offered load", ["algorithm", *LOADS], rows)
        rows = [
            [f"`{kind}`, {target:.0%}"]
            + [faster(found, digits(kind, load, *slow), digits("divshare", load, *slow), target) for load in LOADS]
            for kind in BASELINES
            for target in (0.5, 0.7)
        ]
        table(f"DivShare holds a target sooner than, {words}, by offered load", ["baseline, target", *LOADS], rows)


def factors(bench: Bench) -> None:
    """All algorithms at load 0.2 over the factors of stragglers."""
    slow = {factor: () if factor == "5" else (f"network.preset.factor={factor}",) for factor in ("1", "2", "5", "10")}
    found = bench.runs([digits(kind, "0.2", *keys) for keys in slow.values() for kind in ALGORITHMS])
    rows = [[f"`{kind}`", *(ends(found, digits(kind, "0.2", *keys)) for keys in slow.values())] for kind in ALGORITHMS]
    table("Accuracy at the end at load 0.2, by how many times slower 8 of 16 links are", ["algorithm", *slow], rows)


def omega(bench: Bench) -> None:
    """DivShare's fragment size at load 0.6, with two sender policies."""
    sizes = ("0.05", "0.1", "0.25", "1")
    senders = {"per_peer": (), "serial": ("network.sender={kind: serial}",)}
    places = [(name, keys, slow) for name, keys in senders.items() for slow in (EQUAL, SLOW)]

    def cell(size: str, keys: tuple[str, ...], slow: tuple[str, ...]) -> Cell:
        fragment = () if size == "0.1" else (f"algorithm.divshare.omega={size}",)
        return digits("divshare", "0.6", *slow, *keys, *fragment)

    found = bench.runs([cell(size, keys, slow) for _, keys, slow in places for size in sizes])
    rows = [
        [
            f"{name}, {'stragglers' if slow is SLOW else 'none'}",
            *(ends(found, cell(size, keys, slow)) for size in sizes),
        ]
        for name, keys, slow in places
    ]
    table("Accuracy at the end of DivShare at load 0.6, by omega", ["sender, stragglers", *sizes], rows)


def senders(bench: Bench) -> None:
    """How old messages are with each sender policy at load 0.6, where nobody is slow."""
    policies = ("{kind: serial}", "{kind: parallel, transfers: 4}", "{kind: per_peer}")
    places = [(kind, policy) for kind in (*BASELINES, "divshare") for policy in policies]
    cells = {
        (kind, policy): Cell(
            DIGITS,
            f"senders-{kind}-{policy.split()[1].strip(',}')}",
            (
                f"algorithm.kind={kind}",
                f"network.preset.bandwidth_mbps={LOADS['0.6']}",
                *EQUAL,
                f"network.sender={policy}",
            ),
        )
        for kind, policy in places
    }
    found = bench.runs(list(cells.values()))
    rows = []
    for (kind, policy), cell in cells.items():
        rows.append([f"`{kind}`", policy.strip("{}"), *staleness(found[cell]), ends(found, cell)])
    head = ["algorithm", "sender", "staleness, median, rounds", "staleness, p95, rounds", "accuracy at the end"]
    table("Senders at load 0.6, no stragglers", head, rows)


def flush(bench: Bench) -> None:
    """What DivShare's flush contributes with stragglers at load 0.6."""
    kinds = ("none", "queued_only", "all")
    cells = {
        kind: Cell(
            DIGITS,
            f"flush-{kind}",
            (f"network.preset.bandwidth_mbps={LOADS['0.6']}", f"algorithm.divshare.flush={kind}"),
        )
        for kind in kinds
    }
    found = bench.runs(list(cells.values()))
    rows = []
    for kind, cell in cells.items():
        summaries = [run.summary for run in found[cell] if run.summary is not None]
        got = mean_of([float(summary["messages"]["delivered"]) for summary in summaries])
        rows.append([f"`{kind}`", ends(found, cell), plus_minus(got, 0), *staleness(found[cell])])
    head = ["flush", "accuracy at the end", "delivered", "staleness, median, rounds", "staleness, p95, rounds"]
    table("DivShare's flush at load 0.6, 8 of 16 links 5 times slower", head, rows)


def published(bench: Bench, file: str, prefix: str, target: float, none: tuple[str, ...]) -> None:
    """All algorithms in a scaled published setting, without and with stragglers."""
    for words, keys in (("no stragglers", none), ("stragglers", ())):
        name = words.replace(" ", "-")
        cells = {kind: Cell(file, f"{prefix}-{name}-{kind}", (f"algorithm.kind={kind}", *keys)) for kind in ALGORITHMS}
        found = bench.runs(list(cells.values()))
        rows = []
        for kind, cell in cells.items():
            group = compare(found[cell]).baseline
            sooner = "" if kind == "divshare" else faster(found, cell, cells["divshare"], target)
            figures = [group.end, group.worst_node, group.averaged_model]
            seen = [run.summary["final"].get("loss_seen") for run in found[cell] if run.summary is not None]
            if None not in seen:  # ratings
                figures.append(mean_of(seen))
            rows.append([f"`{kind}`", *map(plus_minus, figures), sooner])
        head = ["algorithm", "mean node", "worst node", "averaged model", f"DivShare holds {target:g} sooner"]
        if len(rows[0]) > len(head):
            head.insert(-1, "over films with a training rating")
        table(f"{prefix}, {words}, at the end", head, rows)


def cifar10(bench: Bench) -> None:
    """The published setting on CIFAR-10."""
    published(bench, "cifar10-stragglers.yaml", "cifar10", 0.3, ("network.preset.factor=1",))


def movielens(bench: Bench) -> None:
    """The published setting on MovieLens."""
    published(bench, "divshare-movielens-20.yaml", "movielens", 1.5, ("network.preset.count=0", "stop.time_s=350"))


PARTS: dict[str, Callable[[Bench], None]] = {
    "loads": loads, "factors": factors, "omega": omega, "senders": senders, "flush": flush, "cifar10": cifar10,
    "movielens": movielens,
}  # fmt: skip
NEED_DATA = {"cifar10", "movielens"}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/science"))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell")
    parser.add_argument("--processes", type=int, default=usable_cores(), help="runs at a time")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    arguments = parser.parse_args()
    chosen = arguments.parts or list(PARTS)
    if unknown := set(chosen) - PARTS.keys():
        sys.exit(f"science: {', '.join(sorted(unknown))}: must be of {', '.join(PARTS)}")
    if DATA_ROOT is None and NEED_DATA & set(chosen):
        sys.exit("science: set FRAGMESH_DATA to a folder with CIFAR-10 and MovieLens")
    bench = Bench(arguments.out.absolute(), arguments.seeds, arguments.processes)
    for part in chosen:
        PARTS[part](bench)


if __name__ == "__main__":
    main()
