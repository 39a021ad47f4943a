"""From what a namespace holds to what it must hold: lines for ``ip -batch`` and ``tc -batch``; pure.

Only what differs is written, so applying a plan twice does nothing the second time, and a change of a rate or a delay
is one line that the kernel carries out on the queue as it stands: no packet is lost. HTB's root knows no change at all
(``tc qdisc replace`` of it fails), which is one more reason to look first.

Every line carries the full tuple of values, for netem sets what is left out to zero. Units are written out: for tc
``mbps`` means megabytes.

A gate that is opened is not looked at before the device has something to send: a packet of any kind will do. So an
address that nobody has (:data:`NOBODY`) is asked for at last, and what waits behind gates leaves with that question.

Order within a batch. Up: the ifb device before what points to it; a class before its leaf, a leaf before the filter
that leads there; the redirection last. Down: the redirection first, filters before classes, roots last, then the ifb
device. So no packet ever meets a class without a queue or an ifb device without a tree.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, assert_never

from node.core.errors import RunnerError
from orchestrator.shaping.differences import class_differs, leaf_differs
from orchestrator.shaping.kernel_units import GATE_OPEN, GATE_SHUT
from orchestrator.shaping.reading import DeviceReading, NodeReading
from orchestrator.shaping.tree import (
    DEFAULT_MINOR,
    FILTER_PRIORITY,
    PEER_MINOR,
    REDIRECT_PRIORITY,
    ROOT_MAJOR,
    DeviceTree,
    FifoLeaf,
    GateLeaf,
    HtbClass,
    Leaf,
    NetemLeaf,
    NodeTree,
    class_id,
)

NOBODY: Final = "192.0.2.1"
"""An address that is reserved for texts."""

_IFB_QUEUE_PACKETS = 1_000
"""Between the ifb device's tree and the stack; its default of 32 stops the device at high rates."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines to be carried out in this order: first those of ``ip``, then those of ``tc``, then ``ip`` again.

    Attributes:
        links: For ``ip -batch``.
        shaping: For ``tc -batch``.
        links_after: For ``ip -batch`` when the shaping is done.
    """

    links: tuple[str, ...] = ()
    shaping: tuple[str, ...] = ()
    links_after: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Tell whether there is anything to do."""
        return bool(self.links or self.shaping or self.links_after)


def change_to(wanted: NodeTree, found: NodeReading) -> Batch:
    """Write what makes a namespace hold what is wanted.

    Raises:
        RunnerError: A device has a root discipline of somebody else's.
    """
    device, ifb = wanted.egress.device, wanted.ingress.device
    links: list[str] = []
    links_after = [f"neigh replace {NOBODY} dev {device} use"] if _is_opened(wanted.egress, found.egress) else []
    if found.gso_segments != wanted.gso_segments:
        links.append(f"link set dev {device} gso_max_segs {wanted.gso_segments}")
    if not found.has_ifb:
        links.append(f"link add name {ifb} txqueuelen {_IFB_QUEUE_PACKETS} type ifb")
    if not found.is_ifb_up:
        links.append(f"link set dev {ifb} up")
    shaping = [*_change_device(wanted.egress, found.egress), *_change_device(wanted.ingress, found.ingress)]
    if not found.has_ingress:
        shaping.append(f"qdisc add dev {device} ingress")
    if not found.is_redirected:
        shaping.append(
            f"filter add dev {device} ingress protocol ip prio {REDIRECT_PRIORITY}"
            f" u32 match u32 0 0 action mirred egress redirect dev {ifb}"
        )
    return Batch(tuple(links), tuple(shaping), tuple(links_after))


def removal(wanted: NodeTree, found: NodeReading, *, gso_segments: int) -> Batch:
    """Write what removes all that is ours and leaves the rest.

    An ingress stays: others may use it, and without filters it does nothing.

    Args:
        wanted: What was applied; only the names of its devices count.
        found: What is there.
        gso_segments: What the device had before.
    """
    device, ifb = wanted.egress.device, wanted.ingress.device
    shaping: list[str] = []
    if found.is_redirected:
        shaping.append(f"filter del dev {device} ingress protocol ip prio {REDIRECT_PRIORITY}")
    if found.egress.has_root:
        shaping.append(f"qdisc del dev {device} root")
    links_after = [f"link del dev {ifb}"] if found.has_ifb else []
    if found.gso_segments != gso_segments:
        links_after.append(f"link set dev {device} gso_max_segs {gso_segments}")
    return Batch((), tuple(shaping), tuple(links_after))


def _change_device(wanted: DeviceTree, found: DeviceReading) -> Iterator[str]:
    if found.foreign_root:
        raise RunnerError(f"{wanted.device} has a root discipline that is not ours: {found.foreign_root}")
    device, there = wanted.device, found.tree
    # 1. What leads to classes that are gone or to other nodes now, so that no packet is classified wrongly.
    stale = [minor for minor, address in sorted(there.filters.items()) if wanted.filters.get(minor, address) != address]
    gone = sorted(there.classes.keys() - wanted.classes.keys())
    for minor in [*stale, *(minor for minor in gone if minor in there.filters)]:
        yield f"filter del {_filter_place(device, minor)} u32"
    for minor in gone:
        yield f"class del dev {device} classid {class_id(minor)}"
    # 2. The tree, from the root down.
    if not found.has_root:
        yield f"qdisc replace dev {device} root handle {ROOT_MAJOR:x}: htb default {DEFAULT_MINOR:#x}"
    for minor, wanted_class in sorted(wanted.classes.items(), key=lambda item: (item[1].parent, item[0])):
        if minor not in there.classes or class_differs(wanted_class, there.classes[minor]):
            yield _class_line(device, minor, wanted_class)
    for minor, wanted_leaf in sorted(wanted.leaves.items()):
        there_leaf = there.leaves.get(minor) if minor not in gone else None
        if there_leaf is not None and type(there_leaf) is not type(wanted_leaf):
            # A handle belongs to one kind; the queue is lost, which only a change of the backend can ask for.
            yield f"qdisc del dev {device} parent {class_id(minor)}"
            there_leaf = None
        if there_leaf is None or leaf_differs(wanted_leaf, there_leaf):
            yield _leaf_line(device, minor, wanted_leaf)
    # 3. What leads there.
    for minor, address in sorted(wanted.filters.items()):
        if there.filters.get(minor) != address:
            yield (
                f"filter replace {_filter_place(device, minor)}"
                f" u32 match ip {wanted.match} {address}/32 flowid {class_id(minor)}"
            )


def _is_opened(wanted: DeviceTree, found: DeviceReading) -> bool:
    """Tell whether a gate that is shut is to be open."""
    pairs = ((wanted.leaves.get(minor), leaf) for minor, leaf in found.tree.leaves.items())
    return any(
        isinstance(there, GateLeaf) and there.is_shut and isinstance(to_be, GateLeaf) and not to_be.is_shut
        for to_be, there in pairs
    )


def _filter_place(device: str, minor: int) -> str:
    entry = minor - PEER_MINOR + 1
    return f"dev {device} parent {ROOT_MAJOR:x}: protocol ip prio {FILTER_PRIORITY} handle 800::{entry:x}"


def _class_line(device: str, minor: int, item: HtbClass) -> str:
    parent = class_id(item.parent) if item.parent else f"{ROOT_MAJOR:x}:"
    quantum = "" if item.quantum_bytes is None else f" quantum {item.quantum_bytes}"
    return (
        f"class replace dev {device} parent {parent} classid {class_id(minor)} htb rate {item.rate_bps}bit"
        f" ceil {item.ceil_bps}bit burst {item.burst_bytes}b cburst {item.cburst_bytes}b{quantum}"
    )


def _leaf_line(device: str, minor: int, leaf: Leaf) -> str:
    place = f"qdisc replace dev {device} parent {class_id(minor)} handle {minor:x}:"
    match leaf:
        case FifoLeaf(limit_bytes=limit):
            return f"{place} bfifo limit {limit}b"
        case GateLeaf(limit_bytes=limit, is_shut=is_shut):
            rate, burst = GATE_SHUT if is_shut else GATE_OPEN
            return f"{place} tbf limit {limit}b rate {rate}bit burst {burst}b"
        case NetemLeaf(limit_packets=limit, latency_us=latency, jitter_us=jitter, loss_percent=loss, order_bps=order):
            law = " 0% distribution normal" if jitter else ""
            delay = f"delay {latency}us {jitter}us{law}"
            return f"{place} netem limit {limit} {delay} loss random {loss:.9g}% rate {order}bit"
        case _:
            assert_never(leaf)
