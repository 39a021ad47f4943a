"""What messages take of a link by the kernel's own counters, against what the model says.

Two processes, each in a namespace of its own, with the streams that nodes have, over links that the kernel shapes. The
counters are those of the classes that shape, so what they count is what a rate is of.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from math import inf
from pathlib import Path

import pytest

from node.core.framing import Framing
from node.core.links import NetworkPlan
from orchestrator.runs.certificates import issue_credentials
from orchestrator.shaping.backend import apply_shaping, read_shaping
from orchestrator.shaping.line_rates import packet_segments
from orchestrator.shaping.node_shaping import KernelOptions, plan_node
from orchestrator.shaping.tree import NodeTree, peer_minor
from tests.integration.framed_peer import BODIES, PORT, RECEIVER, RUN, SENDER
from tests.integration.namespaces import DEEP_QUEUE_BYTES, MTU, Namespaces, namespaces
from tests.integration.shaping_host import ShapingHost, need_kernel_shaping
from tests.unit.orchestrator.shaping.networks import network

NODES = (SENDER, RECEIVER)
COUNTS = {56: 50, 256: 50, 1_000: 50, 3_000: 30, 10_000: 20, 30_000: 10, 100_000: 5, 300_000: 2, 1_000_000: 2}
"""Bytes of a body -> messages of which the mean is taken; one of what is larger."""
SMALL_BYTES = 1_000
TOLERANCE, SMALL_TOLERANCE = 0.01, 0.03
"""Of all bytes that a message takes. An acknowledgement more or less is much of a small one."""


@pytest.fixture(scope="module", autouse=True)
def _needed() -> None:
    need_kernel_shaping()


class MeasuredStream:
    """A stream from one node to another, and the bytes that go both ways."""

    def __init__(self, stack: ExitStack, nodes: Namespaces, trees: dict[int, NodeTree], keys: Sequence[str]) -> None:
        self._nodes, self._trees = nodes, trees
        self._stack = stack
        receiver = self._start(RECEIVER, "receive", keys[RECEIVER])
        assert self._answer(receiver)
        self._sender = self._start(SENDER, "send", keys[SENDER], f"{nodes.addresses[RECEIVER]}:{PORT}")
        self.bytes_of(BODIES.index(56), 1)  # the connection is made

    def bytes_of(self, fragment: int, count: int) -> tuple[float, float]:
        """Bytes that a message takes one way, and that come back for it, mean of some."""
        before = self._counted()
        assert self._sender.stdin is not None
        print(fragment, count, file=self._sender.stdin, flush=True)
        assert self._answer(self._sender) == "0\n", "the receiver refused messages"
        time.sleep(0.1)  # the last acknowledgement, which may wait for 40 ms
        there, back = (after - first for after, first in zip(self._counted(), before, strict=True))
        return there / count, back / count

    def _counted(self) -> list[int]:
        readings = {node: read_shaping(self._nodes.nodes[node], self._trees[node]) for node in NODES}
        return [readings[node].egress.counters[peer_minor(1 - node)].sent_bytes for node in NODES]

    def _start(self, node: int, *words: str) -> "subprocess.Popen[str]":
        command = [*self._nodes.nodes[node].enter, sys.executable, "-m", "tests.integration.framed_peer", *words]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process

    @staticmethod
    def _answer(process: "subprocess.Popen[str]") -> str:
        assert process.stdout is not None
        return process.stdout.readline()


@contextmanager
def measured_stream(plan: NetworkPlan, keys: Sequence[str], dilation: float) -> Iterator[MeasuredStream]:
    """Two nodes, shaped, and a stream between them."""
    options = KernelOptions(netem=False, queue_bytes=DEEP_QUEUE_BYTES, time_dilation=dilation)
    with namespaces(2) as nodes, ExitStack() as stack:
        trees: dict[int, NodeTree] = {node: plan_node(plan, node, nodes.addresses, options).tree for node in NODES}
        for node, namespace in nodes.nodes.items():
            assert not apply_shaping(namespace, trees[node])
        yield MeasuredStream(stack, nodes, trees, keys)


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("mbps", [10, 100])
def test_a_message_takes_of_a_link_what_the_model_says(
    mbps: float, tls: bool, shaping_host: ShapingHost, tmp_path: Path
) -> None:
    plan = network(nodes=2, up=mbps, down=inf)
    framing = Framing(tls=tls, mtu=MTU, segments=packet_segments(plan, MTU))
    keys = ["-", "-"]
    if tls:
        for node, credentials in enumerate(issue_credentials(RUN, 2, timedelta(hours=1)).nodes):
            path = tmp_path / f"{node}.pem"
            path.write_bytes(credentials.to_pem())
            keys[node] = str(path)
    wrong = []
    with measured_stream(plan, keys, shaping_host.dilation) as stream:
        for fragment, body in enumerate(BODIES):
            if body * 8e-6 / mbps > 1:  # a second
                continue
            there, back = stream.bytes_of(fragment, COUNTS.get(body, 1))
            model = framing.message_bytes(body), framing.acknowledgement_bytes(body)
            off = (model[0] - there) / there, (sum(model) - there - back) / (there + back)
            shaping_host.record(
                f"{mbps} Mbit/s, {'TLS' if tls else 'plain'}, {body} bytes: {there:.1f} there, {back:.1f} back; the"
                f" model says {model[0]} and {model[1]}: {100 * off[0]:+.2f} % there, {100 * off[1]:+.2f} % in all"
            )
            tolerance = TOLERANCE if body >= SMALL_BYTES else SMALL_TOLERANCE
            if max(map(abs, off)) > tolerance:
                wrong.append((body, there, back, model))
    assert not wrong
