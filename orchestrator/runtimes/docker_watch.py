"""Looks at what the kernel makes of the nodes' links, before the start and at the end, and what they find."""

from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from node.core.types import NodeId
from orchestrator.containers.cpu_use import CpuCounters
from orchestrator.kernel_fidelity import KernelLinks, QueueDrops
from orchestrator.shaping.reading import QueuesCounters
from orchestrator.shaping.traffic import traffic_between
from orchestrator.shaping.tree import NodeTree


@dataclass(frozen=True, slots=True)
class NodeLook:
    """One node's namespace and processors at a moment.

    Attributes:
        time_ns: When, monotonic clock.
        tree: What the namespace must hold.
        counters: Of its queues.
        cpu: Of its control group; None where the kernel counts nothing.
    """

    time_ns: int
    tree: NodeTree
    counters: QueuesCounters
    cpu: CpuCounters | None


Looks: TypeAlias = Mapping[NodeId, NodeLook | str]
"""By node; where one could not be looked at, why."""


class Look(Protocol):
    """A look at all nodes; see :meth:`~orchestrator.runtimes.docker_shaping.LinkShaper.look`."""

    def __call__(self, *, compare: bool) -> Looks: ...


class KernelWatch:
    """Two looks at all nodes, in a thread: as long as that takes, a run goes on.

    State:
        _first, _last: The looks, once they were asked for.
    """

    def __init__(self) -> None:
        """Have the thread ready."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="looks")
        self._first: Future[Looks] | None = None
        self._last: Future[Looks] | None = None

    def begin(self, look: Look) -> None:
        """Begin the first look, at counters alone."""
        self._first = self._pool.submit(look, compare=False)

    def end(self, look: Look) -> "Future[Looks]":
        """Begin the last look, which compares as well; done when that is."""
        self._last = self._pool.submit(look, compare=True)
        return self._last

    def close(self) -> None:
        """Wait for a look under way, and let no other begin."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def findings(self, living: Collection[NodeId]) -> KernelLinks:
        """Return what both looks found; nothing where the run did not come that far. Called after ``close``.

        Args:
            living: Nodes that had not ended before the last look.
        """
        first, last = (_result(each) for each in (self._first, self._last))
        return findings(first, last, () if self._last is None else living)


def findings(first: Looks, last: Looks, living: Collection[NodeId]) -> KernelLinks:
    """Compare two looks.

    Args:
        first: Before the start. A node that could not be looked at then counts from its own beginning.
        last: At the end; empty where there was none.
        living: Nodes that it must tell of.
    """
    unread: dict[int, str] = {int(node): f"node {node}: nobody could look" for node in living if node not in last}
    queues: list[QueueDrops] = []
    throttled, waited = dict[int, float](), dict[int, float]()
    for node, after in last.items():
        if isinstance(after, str):
            if node in living:
                unread[int(node)] = after
            continue
        before = first.get(node)
        counters = before.counters if isinstance(before, NodeLook) else QueuesCounters({}, {})
        queues += [
            QueueDrops(f"node {node}, {queue.place}", queue.packets, queue.unasked_packets)
            for queue in traffic_between(after.tree, counters, after.counters)
        ]
        if isinstance(before, NodeLook) and before.cpu is not None and after.cpu is not None:
            cpu, took_ns = after.cpu.since(before.cpu), max(1, after.time_ns - before.time_ns)
            if after.cpu.periods:
                throttled[int(node)] = 100 * cpu.throttled_ns / took_ns
            if cpu.waited_ns is not None:
                waited[int(node)] = 100 * cpu.waited_ns / took_ns
    return KernelLinks(
        nodes_shaped=0,
        unread=unread,
        queues=tuple(queues),
        throttled_percent=throttled,
        waited_percent=waited,
    )


def _result(future: "Future[Looks] | None") -> Looks:
    if future is None or future.cancelled() or future.exception() is not None:
        return {}
    return future.result()
