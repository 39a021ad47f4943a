"""Comparison of what a namespace must hold with what it was found to hold; pure.

Equal means equal but for what the kernel or tc rounds (:mod:`orchestrator.shaping.kernel_units`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.shaping import kernel_units as units
from orchestrator.shaping.reading import DeviceReading, NodeReading
from orchestrator.shaping.tree import DeviceTree, FifoLeaf, GateLeaf, HtbClass, Leaf, NetemLeaf, NodeTree, class_id

Value = int | float | str | bool | None


@dataclass(frozen=True, slots=True)
class ShapingDifference:
    """One value that is not as wanted.

    Attributes:
        place: Device and class, for example ``eth1 class fa01:103``.
        name: The value's name, with its unit; ``present`` where the whole thing is missing or too much.
        wanted: The value to be.
        found: The value that is; None where there is none.
    """

    place: str
    name: str
    wanted: Value
    found: Value

    def __str__(self) -> str:
        """One line."""
        return f"{self.place}: {self.name}={self.found}: must be {self.wanted}"


def differences(wanted: NodeTree, found: NodeReading) -> tuple[ShapingDifference, ...]:
    """Compare every discipline, class and filter of a namespace with what is wanted.

    Returns:
        The differences, device by device; nothing where all is as wanted.
    """
    device, ifb = wanted.egress.device, wanted.ingress.device
    flags = (
        (device, "gso_max_segs", wanted.gso_segments, found.gso_segments),
        (ifb, "present", True, found.has_ifb),
        (ifb, "is_up", True, found.is_ifb_up),
        (device, "is_redirected", True, found.is_redirected),
    )
    return (
        *(ShapingDifference(*flag) for flag in flags if flag[2] != flag[3]),
        *_device_differences(wanted.egress, found.egress),
        *_device_differences(wanted.ingress, found.ingress),
    )


def class_differs(wanted: HtbClass, found: HtbClass) -> bool:
    """Tell whether a class has to be set anew."""
    return any(_class_differences("", wanted, found))


def leaf_differs(wanted: Leaf, found: Leaf) -> bool:
    """Tell whether a leaf has to be set anew."""
    return any(_leaf_differences("", wanted, found))


def _device_differences(wanted: DeviceTree, found: DeviceReading) -> Iterator[ShapingDifference]:
    device = wanted.device
    if not found.has_root:
        yield ShapingDifference(f"{device} root", "present", True, found.foreign_root or False)
        return
    there = found.tree
    yield from _presence(f"{device} class", wanted.classes, there.classes)
    for minor in sorted(wanted.classes.keys() & there.classes.keys()):
        place = f"{device} class {class_id(minor)}"
        yield from _class_differences(place, wanted.classes[minor], there.classes[minor])
    yield from _presence(f"{device} leaf of", wanted.leaves, there.leaves)
    for minor in sorted(wanted.leaves.keys() & there.leaves.keys()):
        place = f"{device} leaf of {class_id(minor)}"
        yield from _leaf_differences(place, wanted.leaves[minor], there.leaves[minor])
    yield from _presence(f"{device} filter to", wanted.filters, there.filters)
    for minor in sorted(wanted.filters.keys() & there.filters.keys()):
        if wanted.filters[minor] != there.filters[minor]:
            place = f"{device} filter to {class_id(minor)}"
            yield ShapingDifference(place, f"{wanted.match}_address", wanted.filters[minor], there.filters[minor])


def _presence(what: str, wanted: Mapping[int, object], found: Mapping[int, object]) -> Iterator[ShapingDifference]:
    for minor in sorted(wanted.keys() ^ found.keys()):
        yield ShapingDifference(f"{what} {class_id(minor)}", "present", minor in wanted, minor in found)


def _class_differences(place: str, wanted: HtbClass, found: HtbClass) -> Iterator[ShapingDifference]:
    if wanted.parent != found.parent:
        yield ShapingDifference(place, "parent", class_id(wanted.parent), class_id(found.parent))
    for name in ("rate_bps", "ceil_bps"):
        if getattr(wanted, name) != getattr(found, name):
            yield ShapingDifference(place, name, getattr(wanted, name), getattr(found, name))
    for name, rate in (("burst_bytes", wanted.rate_bps), ("cburst_bytes", wanted.ceil_bps)):
        to_be, there = getattr(wanted, name), getattr(found, name)
        if abs(to_be - there) > units.burst_tolerance_bytes(to_be, rate):
            yield ShapingDifference(place, name, to_be, there)
    # The kernel tells no quantum of a class that has classes below it.
    if found.quantum_bytes is not None and wanted.quantum_bytes not in (None, found.quantum_bytes):
        yield ShapingDifference(place, "quantum_bytes", wanted.quantum_bytes, found.quantum_bytes)


def _leaf_differences(place: str, wanted: Leaf, found: Leaf) -> Iterator[ShapingDifference]:
    if isinstance(wanted, FifoLeaf) and isinstance(found, FifoLeaf):
        if wanted.limit_bytes != found.limit_bytes:
            yield ShapingDifference(place, "limit_bytes", wanted.limit_bytes, found.limit_bytes)
    elif isinstance(wanted, GateLeaf) and isinstance(found, GateLeaf):
        for name in ("limit_bytes", "is_shut"):
            if getattr(wanted, name) != getattr(found, name):
                yield ShapingDifference(place, name, getattr(wanted, name), getattr(found, name))
    elif isinstance(wanted, NetemLeaf) and isinstance(found, NetemLeaf):
        for name in ("limit_packets", "order_bps"):
            if getattr(wanted, name) != getattr(found, name):
                yield ShapingDifference(place, name, getattr(wanted, name), getattr(found, name))
        for name in ("latency_us", "jitter_us"):
            to_be, there = getattr(wanted, name), getattr(found, name)
            if abs(to_be - there) > units.LATENCY_TOLERANCE_US + units.PRINTED_TOLERANCE * to_be:
                yield ShapingDifference(place, name, to_be, there)
        loss = wanted.loss_percent
        if abs(loss - found.loss_percent) > units.LOSS_TOLERANCE_PERCENT + units.PRINTED_TOLERANCE * loss:
            yield ShapingDifference(place, "loss_percent", loss, found.loss_percent)
    else:
        kinds = {FifoLeaf: "bfifo", GateLeaf: "tbf", NetemLeaf: "netem"}
        yield ShapingDifference(place, "kind", kinds[type(wanted)], kinds[type(found)])
