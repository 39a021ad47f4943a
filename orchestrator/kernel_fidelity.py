"""Checks of links that the kernel shapes: what it holds, what queues dropped, and what nodes were denied. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from node.core.units import NS_PER_MS
from orchestrator.checks import Check, JsonObject, Tolerances, format_figure


@dataclass(frozen=True, slots=True)
class QueueDrops:
    """Packets of one queue during the run.

    Attributes:
        place: Node, device and class, for example ``node 3, eth1 queue of fa01:103``.
        packets: That came to it.
        unasked: That it dropped though no loss was asked for, or more than that.
    """

    place: str
    packets: int
    unasked: int


@dataclass(frozen=True, slots=True)
class KernelLinks:
    """Findings about links that the kernel shapes.

    Attributes:
        nodes_shaped: Nodes whose shaping was read back and was as planned before they began.
        changes_late_ns: Testbed time of planned changes -> how late they were in force, real time; None for those that
            were not made before the end.
        changes_failed: Changes that failed, in words.
        adds_latency: Whether the kernel adds latency; else the receiving nodes do.
        compared: Disciplines, classes and filters that were read back and compared with the plan: at the start, before
            and after every change, and at the end.
        differences: Those that were not as they had been set, in words.
        unread: Nodes that lived at the end and whose links could not be read back then: why, in words.
        queues: What passed the queues of each node during the run.
        throttled_percent: Time for which the kernel held a node up because it had used up its share of processors;
            nodes without such a limit are left out.
        waited_percent: Time for which some thread of a node waited for a processor; nodes of which the kernel does not
            tell are left out.
    """

    nodes_shaped: int
    changes_late_ns: Mapping[int, int | None] = field(default_factory=dict)
    changes_failed: tuple[str, ...] = ()
    adds_latency: bool = True
    compared: int = 0
    differences: tuple[str, ...] = ()
    unread: Mapping[int, str] = field(default_factory=dict)
    queues: tuple[QueueDrops, ...] = ()
    throttled_percent: Mapping[int, float] = field(default_factory=dict)
    waited_percent: Mapping[int, float] = field(default_factory=dict)


def kernel_checks(kernel: KernelLinks, dilation: float, tolerances: Tolerances) -> Iterator[Check]:
    """Judge what became of the kernel's links.

    Args:
        kernel: The findings.
        dilation: Real seconds a testbed second.
        tolerances: Tolerances of the checks.
    """
    yield _read_back(kernel)
    if unread := kernel.unread:
        name = "nodes whose links could not be read back"
        yield Check(name, 0, len(unread), "nodes", "none", False, unread[min(unread)])
    failed = kernel.changes_failed
    yield Check("changes of the kernel's links that failed", 0, len(failed), "changes", "none", not failed, *failed[:1])
    if made := [late_ns for late_ns in kernel.changes_late_ns.values() if late_ns is not None]:
        yield _lateness(made, dilation, tolerances)
    if kernel.queues:
        yield _drops(kernel.queues, tolerances)
    if kernel.throttled_percent:
        yield _throttling(kernel.throttled_percent, tolerances)


def kernel_figures(kernel: KernelLinks) -> JsonObject:
    """Return what is told of the kernel's links without being judged."""
    return {
        "nodes_shaped": kernel.nodes_shaped,
        "compared": kernel.compared,
        "latency_by": "kernel" if kernel.adds_latency else "receiver",
        "packets": sum(queue.packets for queue in kernel.queues),
        "dropped_unasked": sum(queue.unasked for queue in kernel.queues),
        "throttled_percent_max": max(kernel.throttled_percent.values(), default=None),
        "cpu_waited_percent_max": max(kernel.waited_percent.values(), default=None),
    }


def _read_back(kernel: KernelLinks) -> Check:
    found = kernel.differences
    note = f"of {kernel.compared:,} that were read back" + (f"; {found[0]}" if found else "")
    name = "disciplines, classes and filters that are not as planned"
    return Check(name, 0, len(found), "differences", "none", not found, note)


def _lateness(late_ns: Sequence[int], dilation: float, tolerances: Tolerances) -> Check:
    late_ms = sorted(each / dilation / NS_PER_MS for each in late_ns)
    count = len(late_ms)
    typical_ms = late_ms[min(count - 1, int(0.99 * count))]
    return Check(
        "delay of capacity changes, 99th percentile",
        0,
        typical_ms,
        "ms",
        f"{tolerances.late_ms:g} ms",
        typical_ms <= tolerances.late_ms,
        f"of {count:,} instants, the worst {late_ms[-1]:.2f} ms",
    )


def _drops(queues: tuple[QueueDrops, ...], tolerances: Tolerances) -> Check:
    def beyond(queue: QueueDrops) -> float:
        return queue.unasked - max(1.0, tolerances.dropped_percent / 100 * queue.packets)

    worst = max(queues, key=beyond)
    total = sum(queue.unasked for queue in queues)
    note = f"of {sum(queue.packets for queue in queues):,}"
    if total:
        note += f"; at {worst.place} {worst.unasked:,} of {worst.packets:,}"
    return Check(
        "packets that queues dropped unasked",
        0,
        total,
        "packets",
        f"at most {tolerances.dropped_percent:g} % of a queue's, or one",
        beyond(worst) <= 0,
        note,
    )


def _throttling(percent: Mapping[int, float], tolerances: Tolerances) -> Check:
    worst = max(percent, key=lambda node: percent[node])
    return Check(
        "time for which a node was denied its processors",
        0,
        percent[worst],
        "%",
        f"at most {tolerances.throttled_percent:g} %",
        percent[worst] <= tolerances.throttled_percent,
        f"node {worst}, the worst of {len(percent)}; mean {format_figure(sum(percent.values()) / len(percent))} %",
    )
