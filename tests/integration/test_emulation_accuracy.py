"""Rates that processes get from the link emulator, by the host's clock.

Eight nodes, each a process with an asyncio loop, as in a run. What a node measures is when it was told, not what
it was told. A host that was late gets more room, in testbed time, and no test is skipped; see
:mod:`tests.integration.host`.
"""

import asyncio
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count
from typing import NoReturn

import numpy as np
import pytest

from node.core.links import CapacityChange, NetworkPlan
from node.emulation.door import connect_to_emulator
from node.emulation.emulator import EmulatorHandle, start_emulator
from node.emulation.statistics import EmulatorStatistics
from node.emulation.uplink import EmulatedUplink
from node.host.clock import Clock
from node.sim.flows import Flow
from node.sim.fluid_network import FluidNetwork
from tests.integration.host import Host

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll, timerfd")

MS = 1_000_000
NODES = 8
FRAGMENT_BYTES = 36_000
WAIT_S = 60.0
"""For what is over within 2 s of testbed time."""

Told = list[tuple[int, int, int]]
"""Number, exact finish, and the testbed time at which the node was told."""


class Node:
    """What a node's process does; methods return what it was told."""

    def __init__(self, index: int, end: socket.socket, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self.index = index
        self.uplink = EmulatedUplink(end, loop, self.on_finished, lambda *_: None)
        self.clock = clock
        self.told: Told = []
        self.finished: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    def on_finished(self, number: int, finish_ns: int) -> None:
        self.told.append((number, finish_ns, self.clock.now_ns()))
        self.finished.put_nowait((number, finish_ns))

    async def until(self, testbed_ns: int) -> None:
        await asyncio.sleep(max(0, testbed_ns - self.clock.now_ns()) / 1e9 * self.clock.dilation)

    async def back_to_back(self, receiver: int, begin_ns: int, end_ns: int, parallel: int = 1) -> Told:
        """Transfers without a pause."""
        await self.until(begin_ns)
        numbers = count()
        for _ in range(parallel):
            self.uplink.start(next(numbers), receiver, FRAGMENT_BYTES, begin_ns)
        while self.clock.now_ns() < end_ns:
            try:
                _, finish_ns = await asyncio.wait_for(self.finished.get(), 0.5 * self.clock.dilation)
            except TimeoutError:
                continue
            self.uplink.start(next(numbers), receiver, FRAGMENT_BYTES, finish_ns)
        return self.told

    async def scripted(self, script: list[tuple[int, int, int, int]]) -> Told:
        """Transfers (number, ready, receiver, bytes) when they are ready, whatever is under way."""
        for number, ready_ns, receiver, size in script:
            await self.until(ready_ns)
            self.uplink.start(number, receiver, size, ready_ns)
        while len(self.told) < len(script):
            await asyncio.wait_for(self.finished.get(), WAIT_S * self.clock.dilation)
        return self.told


Behaviour = Callable[[Node], Awaitable[Told]]


def be_node(index: int, handle: EmulatorHandle, clock: Clock, behaviour: Behaviour, report: int) -> NoReturn:
    """A forked process: behave, write what it was told to the descriptor, end."""
    code = 1
    try:
        loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        node = Node(index, connect_to_emulator(handle.address, index, WAIT_S), loop, clock)
        node.uplink.open()
        told = loop.run_until_complete(asyncio.wait_for(behaviour(node), WAIT_S * clock.dilation))
        with os.fdopen(report, "w") as pipe:
            json.dump(told, pipe)
        code = 0
    finally:
        os._exit(code)


def in_processes(plan: NetworkPlan, host: Host, behaviour: Behaviour) -> tuple[list[Told], EmulatorStatistics]:
    """Fork a process a node, wait for all, and return what each was told."""
    clock = Clock(time.monotonic_ns(), host.dilation)
    handle = start_emulator(plan, clock)
    host.watch(handle.pid)
    pids, pipes = [], []
    try:
        for index in range(plan.num_nodes):
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                be_node(index, handle, clock, behaviour, write)
            os.close(write)
            host.watch(pid)
            pids.append(pid)
            pipes.append(os.fdopen(read))
        handle.begin(clock.epoch_ns)
        results: list[Told] = [json.loads(pipe.read()) for pipe in pipes]
        host.note(handle.pid)
        statistics = handle.stop()
        assert statistics is not None
    finally:
        for pid in pids:
            host.note(pid)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for pipe in pipes:
            pipe.close()
        handle.stop()
    return results, statistics


@contextmanager
def hogs(number: int) -> Iterator[None]:
    """Niced processes that keep the processors busy, as training does."""
    pids = []
    try:
        for _ in range(number):
            pid = os.fork()
            if pid == 0:
                os.nice(19)
                while True:
                    pass
            pids.append(pid)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def goodput_mbps(told: Told, begin_ns: int) -> float:
    """By the instants at which the node knew, from the first transfer's beginning to the last one's end."""
    return len(told) * FRAGMENT_BYTES * 8_000 / (told[-1][2] - begin_ns)


def plan_of(up: list[float], down: list[float]) -> NetworkPlan:
    return NetworkPlan(model="access", up_mbps=np.array(up), down_mbps=np.array(down))


@pytest.mark.parametrize("busy", [0, 2], ids=["idle", "two hogs"])
def test_goodput_is_that_asked_for(busy: int, host: Host) -> None:
    rates = [2.0, 10.0, 60.0, 60.0, 2.0, 10.0, 60.0, 60.0]
    begin, end = 500 * MS, 1_700 * MS
    with hogs(busy):
        told, statistics = in_processes(
            plan_of(rates, [100.0] * NODES),
            host,
            lambda node: node.back_to_back((node.index + 1) % NODES, begin, end),
        )
    for rate, its in zip(rates, told, strict=True):
        assert goodput_mbps(its, begin) == pytest.approx(rate, rel=0.03), statistics


def test_senders_share_a_downlink_and_parallel_transfers_an_uplink(host: Host) -> None:
    """0, 1 and 2 into 3 at 30 Mbit/s; 4 sends two at a time at 20 Mbit/s, one of them never more than half."""
    begin, end = 500 * MS, 1_500 * MS

    async def behaviour(node: Node) -> Told:
        if node.index < 3:
            return await node.back_to_back(3, begin, end)
        if node.index == 4:
            return await node.back_to_back(5, begin, end, parallel=2)
        await node.until(end)
        return []

    up = [60.0, 60.0, 5.0, 60.0, 20.0, 60.0, 60.0, 60.0]
    told, statistics = in_processes(plan_of(up, [60.0] * 3 + [30.0] + [60.0] * 4), host, behaviour)
    assert goodput_mbps(told[0], begin) == pytest.approx(12.5, rel=0.04), statistics
    assert goodput_mbps(told[1], begin) == pytest.approx(12.5, rel=0.04), statistics
    assert goodput_mbps(told[2], begin) == pytest.approx(5.0, rel=0.04), statistics
    # One more transfer is half under way at the end.
    total = goodput_mbps(told[4], begin)
    assert total == pytest.approx(20.0, rel=0.04), statistics


def test_a_change_of_capacity_takes_effect_at_its_time(host: Host) -> None:
    """Every node from 30 to 10 Mbit/s half-way."""
    begin, half, end = 500 * MS, 1_000 * MS, 1_500 * MS

    async def behaviour(node: Node) -> Told:
        return await node.back_to_back((node.index + 3) % NODES, begin, end)

    slower = tuple((half, CapacityChange("up", index, -1, 10.0)) for index in range(NODES))
    plan = replace(plan_of([30.0] * NODES, [100.0] * NODES), changes=slower)
    told, statistics = in_processes(plan, host, behaviour)
    assert statistics.changes == statistics.change_lateness_ns.count == NODES
    for its in told:
        for number, exact_ns, known_ns in its:
            sent = (number + 1) * FRAGMENT_BYTES * 8_000
            at_half = 30 * (half - begin)
            if sent <= at_half:
                assert abs(exact_ns - (begin + sent / 30)) <= number + 2  # each end is rounded up
            else:
                # A transfer that was ready before the change and told after it begins at the new capacity.
                expected = half + (sent - at_half) / 10
                assert abs(exact_ns - expected) <= number + 2 + 2 * statistics.start_lateness_ns.max
            assert known_ns >= exact_ns
        assert np.median([known_ns - exact_ns for _, exact_ns, known_ns in its]) < 10 * MS


def test_a_workload_ends_as_in_virtual_time(host: Host) -> None:
    """200 transfers of any size between nodes of three speeds, at times that are given, many at once."""
    rng = np.random.default_rng(0)
    speeds = rng.choice([10.0, 20.0, 60.0], size=(2, NODES)).tolist()
    plan = plan_of(*speeds)
    scripts: list[list[tuple[int, int, int, int]]] = [[] for _ in range(NODES)]
    for number in range(200):
        source = int(rng.integers(NODES))
        receiver = int((source + rng.integers(1, NODES)) % NODES)
        ready_ns = 500 * MS + int(rng.integers(600 * MS))
        scripts[source].append((number, ready_ns, receiver, int(rng.integers(10_000, 60_000))))
    for script in scripts:
        script.sort(key=lambda entry: entry[1])

    expected = in_virtual_time(plan, scripts)
    told, statistics = in_processes(plan, host, lambda node: node.scripted(scripts[node.index]))
    off_ns = [abs(exact_ns - expected[number]) for its in told for number, exact_ns, _ in its]
    late_ns = [known_ns - exact_ns for its in told for _, exact_ns, known_ns in its]
    assert len(off_ns) == 200
    assert np.median(off_ns) < MS, statistics
    assert np.max(off_ns) < 2 * MS + 2 * statistics.start_lateness_ns.max, statistics
    assert np.median(late_ns) < 5 * MS, statistics


def in_virtual_time(plan: NetworkPlan, scripts: list[list[tuple[int, int, int, int]]]) -> dict[int, int]:
    """When the same transfers end in the simulator's network."""
    order = count()
    heap: list[tuple[int, int, Flow | tuple[int, int, int, int]]] = []
    network = FluidNetwork(plan, lambda finish_ns, flow: heappush(heap, (finish_ns, next(order), flow)))
    for source, script in enumerate(scripts):
        for number, ready_ns, receiver, size in script:
            heappush(heap, (ready_ns, next(order), (source, number, receiver, size)))
    ends: dict[int, int] = {}
    while heap:
        at_ns, _, what = heappop(heap)
        if isinstance(what, Flow):
            if network.finish(what, at_ns):
                ends[what.token] = at_ns
        else:
            source, number, receiver, size = what
            network.start(at_ns, source, receiver, size, number)
    return ends
