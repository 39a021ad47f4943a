"""What real processes cost their host: processor time of a message and of a round's end, and the burst of many ends.

Usage: ``python -m tests.benchmarks.bench_host [--out DIR] [--seconds S] [--dilation K]``. A minute on two cores.

Three runs of eight nodes, with the quickstart's model, at a fixed time dilation:

- ``idle``: rounds of 16 local steps over links so slow that hardly a message leaves;
- ``rounds``: the same local steps in rounds of 2, eight times as many rounds;
- ``messages``: as ``idle``, over links that carry all fragments.

They differ in one thing each, so that differences in processor time are that thing's cost: all nodes, their training
workers and the link emulator together, between two instants after the start. What wakes up or is polled without
either shows as the idle share. The course of a round's end, from the end of local steps to the next ones' begin in the
node's own thread, is timed by hooks on the trainer, which every node calls; so it runs on any version of the code.
Processor time is robust against other load on the host; the burst, which is elapsed time, is not.
"""

import argparse
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from node.core.types import NodeId
from node.learning.pool import PoolTrainer
from node.transport.peer_client import PeerClient
from orchestrator.experiment.config import read_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.host.environment import usable_cores
from orchestrator.runs.options import RunOptions
from orchestrator.runtimes.registry import start_run
from tests.benchmarks.bench_processes import EXPERIMENTS

NODES = 8
ENDS_MAX = 65_536
"""Ends of rounds that are timed for each node."""
SAMPLE_S = 0.1

SLOW = "network.preset={kind: uniform, bandwidth_mbps: 0.004, latency_ms: 1}"
FAST = "network.preset={kind: uniform, bandwidth_mbps: 8, latency_ms: 1}"


class Shared:
    """Counters and instants that all processes of a run write and this one reads."""

    def __init__(self, nodes: int) -> None:
        memory = mmap.mmap(-1, 8 * nodes * (4 + 3 * ENDS_MAX))
        words = np.frombuffer(memory, np.int64)
        self.messages, self.ends, self.prepared_ns, self.cpu_began_ns = words[: 4 * nodes].reshape(4, nodes)
        # For each node and end: when local steps were over, when the next began, and processor time in between.
        self.log = words[4 * nodes :].reshape(nodes, ENDS_MAX, 3)


@contextmanager
def hooks(shared: Shared) -> Iterator[None]:
    """Time what every node does to its trainer and its streams; nodes inherit this by their fork."""
    begin, finish, reset, send = PoolTrainer.begin, PoolTrainer.finish, PoolTrainer.reset_momentum, PeerClient.send

    def timed_finish(self: PoolTrainer, node: NodeId) -> Any:
        shared.cpu_began_ns[node] = time.thread_time_ns()
        shared.log[node, shared.ends[node] % ENDS_MAX, 0] = time.monotonic_ns()
        return finish(self, node)

    def timed_begin(self: PoolTrainer, node: NodeId, *arguments: Any) -> None:
        begin(self, node, *arguments)
        entry = shared.log[node, shared.ends[node] % ENDS_MAX]
        entry[1], entry[2] = time.monotonic_ns(), time.thread_time_ns() - shared.cpu_began_ns[node]
        shared.ends[node] += 1

    def timed_reset(self: PoolTrainer, node: NodeId) -> None:
        shared.prepared_ns[node] = time.monotonic_ns()
        reset(self, node)

    def counted_send(self: PeerClient, *arguments: Any, **named: Any) -> None:
        shared.messages[self._node] += 1
        send(self, *arguments, **named)

    replaced: dict[tuple[type, str], Any] = {
        (PoolTrainer, "begin"): timed_begin,
        (PoolTrainer, "finish"): timed_finish,
        (PoolTrainer, "reset_momentum"): timed_reset,
        (PeerClient, "send"): counted_send,
    }
    before = {(owner, name): getattr(owner, name) for owner, name in replaced}
    for (owner, name), hook in replaced.items():
        setattr(owner, name, hook)
    try:
        yield
    finally:
        for (owner, name), hook in before.items():
            setattr(owner, name, hook)


def children_cpu_ns(parent: int, without: int) -> int:
    """Processor time of all processes below one, all their threads."""
    below, total = {parent}, 0
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    while more := {pid for pid, of in parents.items() if of in below and pid not in below}:
        below |= more
    for pid in below - {parent, without}:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
        except (OSError, IndexError):
            continue
    return total


@contextmanager
def sampling(shared: Shared, samples: Path) -> Iterator[None]:
    """Sample processor time and counters in a process of its own, which is not counted."""
    parent, (read, write) = os.getpid(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        rows = []
        os.set_blocking(read, False)
        try:
            while True:
                try:
                    if not os.read(read, 1):
                        break
                except BlockingIOError:
                    pass
                cpu_ns = children_cpu_ns(parent, os.getpid())
                rows.append((time.monotonic_ns(), cpu_ns, shared.messages.sum(), shared.ends.sum()))
                time.sleep(SAMPLE_S)
            np.save(samples, np.array(rows, dtype=np.int64))
        finally:
            os._exit(0)
    os.close(read)
    try:
        yield
    finally:
        os.close(write)
        os.waitpid(pid, 0)


@dataclass(frozen=True, slots=True)
class Observed:
    """One run between two instants after its start.

    Attributes:
        seconds: Real time between them.
        cpu_s: Of all processes.
        messages: Handed to a stream.
        ends: Of rounds.
        end_cpu_s: Processor time of each end in the node's thread.
        burst_s: From the first end of a round of all nodes to the last begin of the next one, each.
        late_p99_ms: The worst node's 99th percentile of arrivals' lateness, testbed time; None where nothing arrived.
    """

    seconds: float
    cpu_s: float
    messages: int
    ends: int
    end_cpu_s: npt.NDArray[np.float64]
    burst_s: npt.NDArray[np.float64]
    late_p99_ms: float | None


def observe(out: Path, label: str, dilation: float, time_s: float, *overrides: str) -> Observed:
    """Run, and take the figures of the middle of it."""
    shared = Shared(NODES)
    settings = [
        f"name=host-{label}", "runtime=processes", f"nodes={NODES}", f"time_dilation={dilation}",
        "network.sender={kind: serial}",
        f"stop.time_s={time_s}", f"evaluation.interval_s={time_s}", "fidelity.allow_unfaithful=true", *overrides,
    ]  # fmt: skip
    plan = make_plan(read_experiment(EXPERIMENTS / "quickstart.yaml", settings), EXPERIMENTS)
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.npy"
        with sampling(shared, samples), hooks(shared):
            outcome = start_run(plan, RunOptions(out, None, usable_cores(), "quiet", "bench_host"))
        rows = np.load(samples)
    if outcome.status != "done":
        sys.exit(f"host: {outcome.path} {outcome.status}: {outcome.error}")
    begun_ns = int(shared.prepared_ns.max()) + int(0.9e9)
    last_ns = int(min(shared.log[node, shared.ends[node] - 1, 1] for node in range(NODES)))
    inside = rows[(rows[:, 0] >= begun_ns) & (rows[:, 0] <= last_ns)]
    if len(inside) < 2:
        sys.exit(f"host: {label}: the host is too busy to measure anything")
    first, last = inside[0], inside[-1]
    seconds, cpu_s = (last[0] - first[0]) / 1e9, (last[1] - first[1]) / 1e9
    per_node = [shared.log[node, : shared.ends[node]] for node in range(NODES)]
    of_run = [log[(log[:, 0] >= first[0]) & (log[:, 1] <= last[0]) & (log[:, 0] < log[:, 1])] for log in per_node]
    count = min(len(log) for log in of_run)
    if count == 0:
        sys.exit(f"host: {label}: a node ended no round: the host is too busy to measure anything")
    ends = np.stack([log[-count:] for log in of_run])
    late = None if outcome.fidelity is None else _late_ms(outcome.fidelity)
    return Observed(
        seconds,
        cpu_s,
        int(last[2] - first[2]),
        int(last[3] - first[3]),
        np.concatenate([log[:, 2] for log in of_run]) / 1e9,
        (ends[:, :, 1].max(axis=0) - ends[:, :, 0].min(axis=0)) / 1e9,
        late,
    )


def _late_ms(fidelity: dict[str, Any]) -> float | None:
    found: list[float] = [
        check["achieved"] for check in fidelity["checks"] if check["name"].startswith("delay of arrivals")
    ]
    return found[0] if found else None


def main() -> None:
    """Print the costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/host"))
    parser.add_argument("--dilation", type=float, default=2.0, help="real seconds a testbed second")
    parser.add_argument("--seconds", type=float, default=8.0, help="testbed time of a run")
    arguments = parser.parse_args()
    out, dilation, time_s = arguments.out, arguments.dilation, arguments.seconds
    idle = observe(out, "idle", dilation, time_s, SLOW)
    rounds = observe(out, "rounds", dilation, time_s, SLOW, "algorithm.local_steps=2")
    messages = observe(out, "messages", dilation, time_s, FAST)
    for name, run in (("idle", idle), ("rounds", rounds), ("messages", messages)):
        print(
            f"host: {name}: {run.cpu_s:.2f} s of processor time in {run.seconds:.1f} s,"
            f" {run.messages:,} messages, {run.ends:,} ends of rounds; an end in the node's thread"
            f" {1e3 * np.median(run.end_cpu_s):.2f} ms (p90 {1e3 * np.percentile(run.end_cpu_s, 90):.2f});"
            f" all {NODES} nodes' {1e3 * np.median(run.burst_s):.1f} ms elapsed (p90"
            f" {1e3 * np.percentile(run.burst_s, 90):.1f});"
            f" arrivals late by {run.late_p99_ms if run.late_p99_ms is not None else float('nan'):.2f} ms (p99)",
            flush=True,
        )
    # Two equations a cost: what an end of a round takes without messages, then what a message takes.
    idle_rate, rounds_rate, messages_rate = (
        np.array([run.cpu_s, run.ends, run.messages]) / run.seconds for run in (idle, rounds, messages)
    )
    more = rounds_rate - idle_rate
    end_s = more[0] / more[1]
    more = messages_rate - idle_rate
    message_s = (more[0] - end_s * more[1]) / more[2]
    load = os.getloadavg()[0]
    print(f"host: a round's end: {1e3 * end_s:.3f} ms of processor time, all processes together; load {load:.1f}")
    print(f"host: a message: {1e3 * message_s:.3f} ms of processor time, all processes together; load {load:.1f}")


if __name__ == "__main__":
    main()
