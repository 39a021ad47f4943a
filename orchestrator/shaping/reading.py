"""From what ip and tc print back to the values of :mod:`orchestrator.shaping.tree`; pure.

Queueing disciplines are read as JSON, which gives sizes in bytes and delays to a microsecond where plain text rounds
them. Classes and filters are read as plain text: of classes iproute2 6.1 prints no JSON, and of both 5.9, 6.1 and 6.15
print the same text but for blanks and marks.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Final, Literal

from node.core.errors import RunnerError
from orchestrator.shaping.kernel_units import GATE_SHUT
from orchestrator.shaping.tree import (
    REDIRECT_PRIORITY,
    ROOT_MAJOR,
    DeviceTree,
    FifoLeaf,
    GateLeaf,
    HtbClass,
    Leaf,
    NetemLeaf,
    NodeTree,
)

DEFAULT_ROOT_KINDS: Final = frozenset({"noqueue", "pfifo_fast", "mq", "fq_codel", "fq", "pfifo", "bfifo"})
"""Root disciplines that a kernel gives a device by itself, with the handle 0: they may be replaced."""

_MARK: Final = "@@"

READ_SCRIPT: Final = f"""
ip -d -j link show || exit
for device in "$1" "$2"; do
  ip link show dev "$device" > /dev/null 2>&1 || continue
  echo; echo "{_MARK} qdisc $device"; tc -j -s qdisc show dev "$device" || exit
  echo; echo "{_MARK} class $device"; tc -d class show dev "$device" || exit
  echo; echo "{_MARK} filter $device"; tc filter show dev "$device" || exit
done
echo; echo "{_MARK} ingress $1"; tc filter show dev "$1" ingress 2> /dev/null || true
"""
"""Shell script that prints the links of a namespace and then all of its two arguments, the node's device and the ifb
device, in sections under lines with a mark. Without an ingress there are no such filters."""

COUNTERS_SCRIPT: Final = f"""
for device; do
  echo; echo "{_MARK} qdisc $device"; tc -j -s qdisc show dev "$device" || exit
done
"""
"""Shell script that prints no more of its arguments, both devices, than counters need: a third of the work."""

_UNITS: Final = {"bit": 1, "Kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9, "Tbit": 10**12}
_SIZES: Final = {"b": 1, "Kb": 2**10, "Mb": 2**20, "Gb": 2**30}
_CLASS = re.compile(r"^class htb ([0-9a-f]+):([0-9a-f]+) (?:root|parent [0-9a-f]+:([0-9a-f]+))")
_ENTRY = re.compile(r"\bfh 800::([0-9a-f]+) .*\bflowid [0-9a-f]+:([0-9a-f]+)")
_MATCH = re.compile(r"^\s*match ([0-9a-f]{8})/ffffffff at (12|16)\s*$")
_OFFSETS: Final[Mapping[str, int]] = {"src": 12, "dst": 16}
"""Places of the addresses in an IPv4 packet."""


@dataclass(frozen=True, slots=True)
class QueueCounters:
    """Counters of a queueing discipline.

    Attributes:
        sent_bytes: That left it.
        sent_packets: The same in packets.
        dropped_packets: Lost on purpose or for lack of room.
        backlog_bytes: That wait in it now.
    """

    sent_bytes: int
    sent_packets: int
    dropped_packets: int
    backlog_bytes: int


@dataclass(frozen=True, slots=True)
class QueuesCounters:
    """Counters of the leaves of a namespace, by the minor number of their class.

    Attributes:
        egress: On the node's device.
        ingress: On the ifb device.
    """

    egress: Mapping[int, QueueCounters]
    ingress: Mapping[int, QueueCounters]


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """One device as it was found.

    Attributes:
        has_root: Whether its root discipline is ours.
        foreign_root: The root discipline where it is somebody else's; empty if it is ours or the kernel's own.
        tree: What it carries of ours.
        counters: Of the leaves, by the minor number of their class.
    """

    has_root: bool
    foreign_root: str
    tree: DeviceTree
    counters: Mapping[int, QueueCounters]


@dataclass(frozen=True, slots=True)
class NodeReading:
    """A node's namespace as it was found.

    Attributes:
        egress: The node's device.
        ingress: The ifb device; without anything if there is none.
        has_ifb: Whether there is the ifb device.
        is_ifb_up: Whether it is up.
        has_ingress: Whether the node's device has an ingress, ours or another's.
        is_redirected: Whether what it receives goes through the ifb device.
        gso_segments: Segments that the stack may hand to the device as one packet.
    """

    egress: DeviceReading
    ingress: DeviceReading
    has_ifb: bool
    is_ifb_up: bool
    has_ingress: bool
    is_redirected: bool
    gso_segments: int

    @property
    def counters(self) -> QueuesCounters:
        """The counters of both devices."""
        return QueuesCounters(self.egress.counters, self.ingress.counters)


def parse_namespace(printed: str, tree: NodeTree) -> NodeReading | None:
    """Read what :data:`READ_SCRIPT` prints for the devices of a tree.

    Returns:
        What was found; None if there is no such device.

    Raises:
        RunnerError: The text is none that ip and tc print.
    """
    device, ifb = tree.egress.device, tree.ingress.device
    links, sections = _sections(printed)
    link, ifb_link = (_link(links, name) for name in (device, ifb))
    if link is None:
        return None
    qdiscs = _json_list(sections.get(f"qdisc {device}", ""), "tc -j qdisc show")
    return NodeReading(
        egress=_device(tree.egress, sections),
        ingress=_device(tree.ingress, sections),
        has_ifb=ifb_link is not None,
        is_ifb_up=ifb_link is not None and "UP" in ifb_link.get("flags", ()),
        # clsact is an ingress and an egress in one.
        has_ingress=any(item["kind"] in ("ingress", "clsact") for item in qdiscs),
        is_redirected=_is_redirected(sections.get(f"ingress {device}", ""), ifb),
        gso_segments=int(link.get("gso_max_segs", 0)),
    )


def parse_counters(printed: str, tree: NodeTree) -> QueuesCounters:
    """Read what :data:`COUNTERS_SCRIPT` prints for the devices of a tree.

    Raises:
        RunnerError: The text is none that tc prints.
    """
    _, sections = _sections(printed)
    return QueuesCounters(*(_device(device, sections).counters for device in tree.devices))


def _sections(printed: str) -> tuple[str, dict[str, str]]:
    """Split what a script printed: what comes before the first mark, and the sections by their heads."""
    first, *rest = f"\n{printed}".split(f"\n{_MARK} ")
    return first, {head: body for head, _, body in (part.partition("\n") for part in rest)}


def _device(tree: DeviceTree, sections: Mapping[str, str]) -> DeviceReading:
    device, match = tree.device, tree.match
    found = _json_list(sections.get(f"qdisc {device}", ""), "tc -j qdisc show")
    root = next((item for item in found if item.get("root")), None)
    has_root = root is not None and (root["kind"], root["handle"]) == ("htb", f"{ROOT_MAJOR:x}:")
    if not has_root:
        foreign = ""
        if root is not None and (root["handle"] != "0:" or root["kind"] not in DEFAULT_ROOT_KINDS):
            foreign = f"{root['kind']} {root['handle']}"
        return DeviceReading(False, foreign, DeviceTree(device, match, {}, {}, {}), {})
    leaves: dict[int, Leaf] = {}
    counters: dict[int, QueueCounters] = {}
    for item in found:
        major, _, minor = str(item.get("parent", "")).partition(":")
        if item.get("root") or major != f"{ROOT_MAJOR:x}" or (leaf := _leaf(item)) is None:
            continue
        leaves[int(minor, 16)] = leaf
        counters[int(minor, 16)] = _counters(item)
    classes = dict(_classes(sections.get(f"class {device}", "")))
    filters = dict(_filters(sections.get(f"filter {device}", ""), match))
    return DeviceReading(True, "", DeviceTree(device, match, classes, leaves, filters), counters)


def _link(links: str, device: str) -> dict[str, Any] | None:
    found = _json_list(links, "ip -d -j link show")
    return next((item for item in found if item.get("ifname") == device), None)


def _is_redirected(filters: str, ifb: str) -> bool:
    """Tell whether the filters of an ingress have our redirection to the ifb device."""
    ours = False
    for line in filters.splitlines():
        if line.startswith("filter "):
            ours = f" pref {REDIRECT_PRIORITY} u32 " in f"{line} "
        elif ours and f"mirred (Egress Redirect to device {ifb})" in line:
            return True
    return False


def parse_rate_bps(text: str) -> int:
    """Bits a second of a rate as tc prints it.

    Raises:
        RunnerError: It is none.
    """
    number, unit = _number_and_unit(text)
    if unit not in _UNITS:
        raise RunnerError(f"tc printed an unknown rate: {text}")
    return round(number * _UNITS[unit])


def parse_size_bytes(text: str) -> int:
    """Bytes of a size as tc prints it, with or without its cell size behind a stroke.

    Raises:
        RunnerError: It is none.
    """
    number, unit = _number_and_unit(text.partition("/")[0])
    if unit not in _SIZES:
        raise RunnerError(f"tc printed an unknown size: {text}")
    return round(number * _SIZES[unit])


def _number_and_unit(text: str) -> tuple[float, str]:
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]+)", text)
    return (float(found[1]), found[2]) if found else (0.0, "")


def _json_list(text: str, command: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise RunnerError(f"{command}: printed no JSON ({error.msg} at {error.pos})") from None
    if not isinstance(found, list):
        raise RunnerError(f"{command}: printed no list")
    # Where a device has none of what is asked for, ip leaves an empty object.
    return [item for item in found if isinstance(item, dict) and item]


def _leaf(item: Mapping[str, Any]) -> Leaf | None:
    options = item.get("options", {})
    match item.get("kind"):
        case "bfifo":
            return FifoLeaf(int(options["limit"]))
        case "tbf":
            return _gate(options)
        case "netem":
            delay = options.get("delay", {})
            return NetemLeaf(
                limit_packets=int(options["limit"]),
                latency_us=round(1e6 * delay.get("delay", 0.0)),
                jitter_us=round(1e6 * delay.get("jitter", 0.0)),
                loss_percent=100.0 * options.get("loss-random", {}).get("loss", 0.0),
                order_bps=8 * int(options.get("rate", {}).get("rate", 0)),
            )
        case _:
            return None


def _gate(options: Mapping[str, Any]) -> GateLeaf:
    """Read a gate. tc prints the size of its queue, or as what time it takes beyond a burst."""
    rate, burst = int(options["rate"]), int(str(options["burst"]).partition("b")[0])  # bytes a second, and bytes
    limit = options["limit"] if "limit" in options else round(options["lat"] * rate / 1e6) + burst
    return GateLeaf(int(limit), is_shut=8 * rate <= GATE_SHUT[0])


def _counters(item: Mapping[str, Any]) -> QueueCounters:
    return QueueCounters(
        sent_bytes=int(item.get("bytes", 0)),
        sent_packets=int(item.get("packets", 0)),
        dropped_packets=int(item.get("drops", 0)),
        backlog_bytes=int(item.get("backlog", 0)),
    )


def _classes(text: str) -> Iterator[tuple[int, HtbClass]]:
    for line in text.splitlines():
        found = _CLASS.match(line)
        if found is None or int(found[1], 16) != ROOT_MAJOR:
            continue
        words = line.split()
        values = dict(itertools.pairwise(words))
        try:
            yield (
                int(found[2], 16),
                HtbClass(
                    parent=0 if found[3] is None else int(found[3], 16),
                    rate_bps=parse_rate_bps(values["rate"]),
                    ceil_bps=parse_rate_bps(values["ceil"]),
                    burst_bytes=parse_size_bytes(values["burst"]),
                    cburst_bytes=parse_size_bytes(values["cburst"]),
                    quantum_bytes=int(values["quantum"]) if "quantum" in values else None,
                ),
            )
        except KeyError as error:
            raise RunnerError(f"tc class show: no {error} in: {line}") from None


def _filters(text: str, match: Literal["dst", "src"]) -> Iterator[tuple[int, str]]:
    minor: int | None = None
    for line in text.splitlines():
        if line.startswith("filter "):
            entry = _ENTRY.search(line)
            minor = int(entry[2], 16) if entry else None
        elif minor is not None and (found := _MATCH.match(line)) and int(found[2]) == _OFFSETS[match]:
            yield minor, str(IPv4Address(int(found[1], 16)))
            minor = None
