"""Print what the link emulator costs and how late it is: ``python -m tests.benchmarks.bench_emulation [seconds]``.

Each node sends 36 kB back to back to random receivers; two processes stand for all nodes. With 60 Mbit/s up and
down, slowed by the time dilation, the load is more than that of a run, and the goodput is compared to that of the
same transfers in virtual time. Without limits one sees how many transfers one emulator carries. Lateness is in real
time, and a busy machine shows in it.
"""

import asyncio
import os
import selectors
import signal
import sys
import time
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import NoReturn

import numpy as np

from node.core.links import NetworkPlan
from node.emulation.door import connect_to_emulator
from node.emulation.emulator import EmulatorHandle, start_emulator
from node.emulation.statistics import EmulatorStatistics, Lateness
from node.emulation.uplink import EmulatedUplink
from node.host.clock import Clock
from node.sim.flows import Flow
from node.sim.fluid_network import FluidNetwork

FRAGMENT_BYTES = 36_000
PROCESSES = 2
CASES = ((8, 60.0, 1.0), (60, 60.0, 4.0), (60, 60.0, 2.0), (8, inf, 1.0), (60, inf, 1.0))
"""Nodes, Mbit/s of each, dilation."""


class Receivers:
    """To whom a node sends next: anyone else, and the same in every run."""

    def __init__(self, node: int, nodes: int) -> None:
        hops = np.random.default_rng(node).integers(1, nodes, size=1_000)
        self._receivers = ((node + hops) % nodes).tolist()

    def of(self, number: int) -> int:
        """The receiver of a node's transfer."""
        return int(self._receivers[number % len(self._receivers)])


class Sender:
    """A node that begins the next transfer when one has ended."""

    def __init__(self, handle: EmulatorHandle, loop: asyncio.AbstractEventLoop, node: int, nodes: int) -> None:
        self._uplink = EmulatedUplink(
            connect_to_emulator(handle.address, node, 10.0), loop, self._next, lambda *_: None, loop.stop
        )
        self._receivers = Receivers(node, nodes)

    def begin(self, now_ns: int) -> None:
        """Open the uplink and send."""
        self._uplink.open()
        self._next(-1, now_ns)

    def _next(self, number: int, ready_ns: int) -> None:
        self._uplink.start(number + 1, self._receivers.of(number + 1), FRAGMENT_BYTES, ready_ns)


def be_nodes(handle: EmulatorHandle, clock: Clock, own: range, nodes: int) -> NoReturn:
    """A forked process: some of the nodes, until it is killed."""
    loop = asyncio.SelectorEventLoop(selectors.DefaultSelector())
    for node in own:
        Sender(handle, loop, node, nodes).begin(clock.now_ns())
    loop.run_forever()
    os._exit(1)


def measure(plan: NetworkPlan, dilation: float, seconds: float) -> tuple[EmulatorStatistics, float]:
    """Statistics and how long they took, real seconds."""
    clock = Clock(time.monotonic_ns(), dilation)
    handle = start_emulator(plan, clock)
    pids = []
    try:
        for number in range(PROCESSES):
            pid = os.fork()
            if pid == 0:
                be_nodes(handle, clock, range(number, plan.num_nodes, PROCESSES), plan.num_nodes)
            pids.append(pid)
        begun = time.monotonic()
        time.sleep(seconds)
        return handle.stats(), time.monotonic() - begun
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        handle.stop()


def in_virtual_time(plan: NetworkPlan, seconds: float) -> int:
    """Transfers that end in so many seconds of virtual time."""
    heap: list[tuple[int, int, Flow]] = []
    order = count()
    network = FluidNetwork(plan, lambda finish_ns, flow: heappush(heap, (finish_ns, next(order), flow)))
    receivers = [Receivers(node, plan.num_nodes) for node in range(plan.num_nodes)]
    for node in range(plan.num_nodes):
        network.start(0, node, receivers[node].of(0), FRAGMENT_BYTES, 0)
    ended = 0
    while heap[0][0] <= seconds * 1e9:
        now_ns, _, flow = heappop(heap)
        if network.finish(flow, now_ns):
            ended += 1
            number = flow.token + 1
            network.start(now_ns, flow.source, receivers[flow.source].of(number), FRAGMENT_BYTES, number)
    return ended


def real_us(lateness: Lateness, dilation: float) -> str:
    """Percentiles in microseconds of real time."""
    p50, p99, most = (value * dilation / 1_000 for value in (lateness.p50, lateness.p99, lateness.max))
    return f"p50 {p50:4.0f} p99 {p99:6.0f} max {most:6.0f} us"


def main() -> None:
    """Measure and print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    for nodes, mbps, dilation in CASES:
        plan = NetworkPlan(model="access", up_mbps=np.full(nodes, mbps), down_mbps=np.full(nodes, mbps))
        statistics, real_s = measure(plan, dilation, seconds)
        told, started = statistics.wakeup_lateness_ns, statistics.start_lateness_ns
        print(
            f"{nodes} nodes, {mbps:.0f} Mbit/s, dilation {dilation:.0f}:"
            f" {statistics.finishes / real_s:,.0f} transfers/s,"
            f" {statistics.cpu_s / statistics.starts * 1e6:.0f} us of processor each,"
            f" {statistics.cpu_s / real_s:.0%} of a core"
        )
        print(f"    ends told late   {real_us(told, dilation)}")
        print(f"    starts told late {real_us(started, dilation)}; too late {statistics.excessive_delays}")
        if mbps < inf:
            share = statistics.finishes / in_virtual_time(plan, real_s / dilation)
            print(f"    goodput {share:.1%} of that in virtual time")


if __name__ == "__main__":
    main()
