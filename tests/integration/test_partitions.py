"""Partitions by the kernel: nothing passes, no connection breaks, and what waits goes on at once when they heal."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from node.core.links import NetworkPlan
from node.core.schedule import PartitionSpan, Schedule
from node.core.scheduled_network import scheduled
from orchestrator.shaping.backend import apply_shaping, carry_out, read_shaping
from orchestrator.shaping.batch import Batch, change_to
from orchestrator.shaping.node_shaping import KernelOptions, plan_node
from orchestrator.shaping.tree import GateLeaf, NodeTree, peer_minor
from tests.integration.framed_peer import BODIES, PORT
from tests.integration.namespaces import DEEP_QUEUE_BYTES, FRAME_BYTES, FRAMING, Namespaces, Stream, namespaces
from tests.integration.shaping_host import ShapingHost, need_kernel_shaping, probe_shaping
from tests.unit.orchestrator.shaping.networks import network

CUT_NS, HEALED_NS = 10, 20
"""Times of the plan; a test says when they have come."""

HEALED_WITHIN_MS = 100


@pytest.fixture(scope="module", autouse=True)
def _needed() -> None:
    need_kernel_shaping()
    assert probe_shaping().cuts_links, "this kernel has no tbf"


class Parted:
    """Nodes 0 and 1 with a link of some rate each way, which is cut and healed when a test says so."""

    def __init__(self, nodes: Namespaces, plan: NetworkPlan, dilation: float) -> None:
        self._namespaces, self._plan = nodes, plan
        self._options = KernelOptions(netem=False, queue_bytes=DEEP_QUEUE_BYTES, time_dilation=dilation)
        self.trees: dict[int, NodeTree] = {}
        for node, namespace in nodes.nodes.items():
            self.trees[node] = self._tree(node, 0)
            assert not apply_shaping(namespace, self.trees[node])

    def _tree(self, node: int, time_ns: int) -> NodeTree:
        return plan_node(self._plan, node, self._namespaces.addresses, self._options, time_ns=time_ns).tree

    def become(self, time_ns: int) -> float:
        """Carry out what was prepared, as a run does, and read it back; returns when it was done, monotonic seconds."""
        prepared: list[tuple[int, Batch]] = []
        for node, namespace in self._namespaces.nodes.items():
            self.trees[node] = self._tree(node, time_ns)
            prepared.append((node, change_to(self.trees[node], read_shaping(namespace, self.trees[node]))))
        assert all(len(batch.shaping) == 1 for _, batch in prepared), "a gate is one line"
        for node, batch in prepared:
            carry_out(self._namespaces.nodes[node], batch)
        done_s = time.monotonic()
        for node, namespace in self._namespaces.nodes.items():
            found = read_shaping(namespace, self.trees[node])
            assert not change_to(self.trees[node], found)
            gate = found.egress.tree.leaves[peer_minor(1 - node)]
            assert gate == GateLeaf(DEEP_QUEUE_BYTES, is_shut=time_ns == CUT_NS)
        return done_s

    def dropped(self) -> int:
        found = (read_shaping(namespace, self.trees[node]) for node, namespace in self._namespaces.nodes.items())
        devices = (device for reading in found for device in (reading.egress, reading.ingress))
        return sum(counters.dropped_packets for device in devices for counters in device.counters.values())


@contextmanager
def parted(mbps: float, dilation: float) -> Iterator[tuple[Namespaces, Parted]]:
    partition = PartitionSpan(CUT_NS, HEALED_NS, (0, 1))
    plan = scheduled(network(nodes=2, up=mbps), Schedule(partitions=(partition,)))
    with namespaces(2) as nodes:
        yield nodes, Parted(nodes, plan, dilation)


@pytest.mark.parametrize("mbps", [2.0, 100.0])
def test_a_stream_stands_still_and_goes_on_at_once(mbps: float, shaping_host: ShapingHost) -> None:
    """Packets of many segments are in the queue as well, and nothing of it is lost."""
    with parted(mbps, shaping_host.dilation) as (nodes, links):
        stream = Stream(nodes.connection(0, 1, 5_000))
        time.sleep(1.0)
        links.become(CUT_NS)
        time.sleep(0.3)  # what had left the queue arrives
        standing = stream.received[-1][1]
        time.sleep(3.0)
        crossed = stream.received[-1][1] - standing
        done_s = links.become(HEALED_NS)
        time.sleep(1.5)
        first_ms = 1e3 * next(at_s - done_s for at_s, total in stream.received if total > standing + crossed)
        goodput = shaping_host.goodput_mbps(stream, warm_s=0.5)
        shaping_host.record(f"{mbps:g} Mbit/s: {crossed} bytes crossed in 3 s, first {first_ms:.1f} ms after the heal")
        assert crossed <= FRAME_BYTES
        assert first_ms <= HEALED_WITHIN_MS + 1e3 * 3 * 8 * FRAME_BYTES / (mbps * 1e6) * shaping_host.dilation
        assert goodput == pytest.approx(mbps * FRAMING, rel=0.1)
        assert links.dropped() == 0


class Sender:
    """A real node's stream from one namespace to another."""

    def __init__(self, nodes: Namespaces, stack: ExitStack) -> None:
        receiver = self._start(nodes, stack, 1, "receive", "-")
        assert receiver.stdout is not None
        assert receiver.stdout.readline()
        self._process = self._start(nodes, stack, 0, "send", "-", f"{nodes.addresses[1]}:{PORT}")

    @staticmethod
    def _start(nodes: Namespaces, stack: ExitStack, node: int, *words: str) -> "subprocess.Popen[str]":
        command = [*nodes.nodes[node].enter, sys.executable, "-m", "tests.integration.framed_peer", *words]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.enter_context(process)
        stack.callback(process.kill)
        return process

    def begin(self, body_bytes: int) -> None:
        """Send one message."""
        assert self._process.stdin is not None
        print(BODIES.index(body_bytes), 1, file=self._process.stdin, flush=True)

    def covered(self) -> str:
        """Wait until a receipt covers it; the number of those that were refused."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.mark.slow
@pytest.mark.parametrize("cut_s", [3.0, 30.0])
def test_a_node_s_stream_outlives_a_partition(cut_s: float, shaping_host: ShapingHost) -> None:
    """Longer than gRPC's servers let data be unacknowledged by themselves; the message goes on where it stood."""
    with parted(4.0, 1.0) as (nodes, links), ExitStack() as stack:
        sender = Sender(nodes, stack)
        sender.begin(56)
        assert sender.covered() == "0\n"
        sender.begin(1_000_000)  # takes two seconds
        time.sleep(1.0)
        links.become(CUT_NS)
        answers: list[tuple[float, str]] = []
        waiting = threading.Thread(target=lambda: answers.append((time.monotonic(), sender.covered())), daemon=True)
        waiting.start()
        waiting.join(cut_s)
        assert waiting.is_alive(), "nothing is covered in a partition"
        done_s = links.become(HEALED_NS)
        waiting.join(30)
        assert not waiting.is_alive()
        ended_s = time.monotonic()
        shaping_host.record(f"cut for {cut_s:g} s: covered {1e3 * (ended_s - done_s):.0f} ms after the heal")
        assert answers[0][1] == "0\n"
        assert ended_s - done_s < 1.6, "what was left of it, and no back-off of TCP"
