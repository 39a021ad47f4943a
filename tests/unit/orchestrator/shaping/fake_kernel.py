"""A namespace that carries out batches and prints itself as ip and tc of iproute2 6.1 do.

Its way of printing is held against recordings of the real thing in ``test_reading``. It refuses what the kernel refuses
of the commands in use: a class without its parent, a leaf without its class, a second root, a change of a leaf's kind.
"""

import json
import re
from ipaddress import IPv4Address
from typing import Any

from orchestrator.shaping.batch import Batch
from orchestrator.shaping.reading import NodeReading, parse_namespace
from orchestrator.shaping.tree import NodeTree


class FakeDevice:
    """One device."""

    def __init__(self) -> None:
        self.root = False
        self.is_up = False
        self.address = ""
        self.gso_max_segs = 65_535
        self.classes: dict[str, dict[str, Any]] = {}
        self.leaves: dict[str, dict[str, Any]] = {}
        self.filters: dict[str, tuple[str, str, str]] = {}
        self.ingress: list[str] | None = None


class FakeKernel:
    """A namespace with the device ``eth1``.

    Attributes:
        done: All lines that were carried out, but for those of neighbours.
        neighbours: Hardware addresses by address.
        patience: TCP's shortest retransmission timeout.
        asked: How often an address was asked for that nobody has.
    """

    def __init__(self) -> None:
        self.devices = {"eth1": FakeDevice()}
        self.done: list[str] = []
        self.neighbours: dict[str, str] = {}
        self.patience = ""
        self.asked = 0

    def carry_out(self, batch: Batch) -> None:
        """Carry a batch out."""
        for line in (*batch.links, *batch.shaping, *batch.links_after):
            words = line.split()
            match words:
                case ["link", "set", "dev", device, "address", address]:
                    self.devices[device].address = address
                    continue
                case ["route", "replace", *_, "rto_min", patience]:
                    self.patience = patience
                    continue
                case ["neigh", "replace", _, "dev", _, "use"]:
                    self.done.append(line)
                    self.asked += 1
                    continue
                case ["neigh", "replace", peer, "lladdr", address, "nud", "permanent", "dev", "eth1"]:
                    self.neighbours[peer] = address
                    continue
            self.done.append(line)
            match words[:2]:
                case ["link", "add"]:
                    self.devices[words[words.index("name") + 1]] = FakeDevice()
                case ["link", "del"]:
                    del self.devices[words[3]]
                case ["link", "set"]:
                    if words[-1] == "up":
                        self.devices[words[3]].is_up = True
                    else:
                        self.devices[words[3]].gso_max_segs = int(words[-1])
                case [thing, verb]:
                    device = self.devices[words[words.index("dev") + 1]]
                    getattr(self, f"_{thing}_{verb}")(device, words)

    def _qdisc_replace(self, device: FakeDevice, words: list[str]) -> None:
        if "root" in words:
            assert not device.root, "HTB cannot be changed"
            device.root = True
            return
        parent, handle = _after(words, "parent"), _after(words, "handle")
        kind = words[words.index("handle") + 2]
        assert parent in device.classes, f"{parent}: no such class"
        assert device.leaves.get(parent, {"kind": kind})["kind"] == kind, "a handle is of one kind"
        options: dict[str, Any] = {"limit": int(_after(words, "limit").removesuffix("b"))}
        if kind == "netem":
            at = words.index("delay")
            delay, jitter = (int(word.removesuffix("us")) for word in words[at + 1 : at + 3])
            assert ("distribution" in words) == (jitter > 0)
            assert not jitter or delay, "distribution specified but no latency and jitter values"
            assert jitter < 2**31 / 1e3, "is cut"
            options["delay"] = {"delay": float(f"{delay / 1e6:g}"), "jitter": float(f"{jitter / 1e6:g}")}
            if loss := float(_after(words, "random").removesuffix("%")) / 100:
                options["loss-random"] = {"loss": float(f"{round(loss * (2**32 - 1)) / (2**32 - 1):g}")}
            options["rate"] = {"rate": int(_after(words, "rate").removesuffix("bit")) // 8}
        if kind == "tbf":
            options = tbf_options(words, options["limit"])
        device.leaves[parent] = {"kind": kind, "handle": handle, "parent": parent, "options": options}

    def _qdisc_add(self, device: FakeDevice, words: list[str]) -> None:
        assert words[-1] == "ingress"
        assert device.ingress is None
        device.ingress = []

    def _qdisc_del(self, device: FakeDevice, words: list[str]) -> None:
        if words[-1] == "root":
            device.root, device.classes, device.leaves, device.filters = False, {}, {}, {}
        else:
            del device.leaves[_after(words, "parent")]

    def _class_replace(self, device: FakeDevice, words: list[str]) -> None:
        parent = _after(words, "parent")
        assert device.root
        assert parent == "fa01:" or parent in device.classes, f"{parent}: no such class"
        device.classes[_after(words, "classid")] = {
            "parent": "root" if parent == "fa01:" else f"parent {parent}",
            **{name: int(_after(words, name).removesuffix("bit")) for name in ("rate", "ceil")},
            **{name: int(_after(words, name).removesuffix("b")) for name in ("burst", "cburst")},
            "quantum": _after(words, "quantum"),
        }

    def _class_del(self, device: FakeDevice, words: list[str]) -> None:
        name = _after(words, "classid")
        assert all(filtered[0] != name for filtered in device.filters.values()), "a filter leads there"
        del device.classes[name]
        device.leaves.pop(name, None)

    def _filter_replace(self, device: FakeDevice, words: list[str]) -> None:
        side = words[words.index("match") + 2]
        minor, address = _after(words, "flowid"), _after(words, side).removesuffix("/32")
        handle = _after(words, "handle")
        assert minor in device.classes
        if handle in device.filters:
            address, side = device.filters[handle][1:]  # the kernel keeps what is matched
        device.filters[handle] = (minor, address, side)

    def _filter_add(self, device: FakeDevice, words: list[str]) -> None:
        assert device.ingress is not None
        assert words[-1] in self.devices
        device.ingress.append(
            f"filter protocol ip pref {_after(words, 'prio')} u32 chain 0 fh 800::800 order 2048 key ht 800 bkt 0"
            " terminal flowid not_in_hw \n  match 00000000/00000000 at 0\n"
            f"\taction order 1: mirred (Egress Redirect to device {words[-1]}) stolen\n"
            " \tindex 1 ref 1 bind 1\n"
        )

    def _filter_del(self, device: FakeDevice, words: list[str]) -> None:
        if "ingress" in words:
            assert device.ingress
            device.ingress.clear()
        else:
            del device.filters[_after(words, "handle")]

    def print_all(self, tree: NodeTree) -> str:
        """Print itself as the script of the backend would let it."""
        links = [
            {"ifname": name, "flags": ["UP"] if device.is_up else [], "gso_max_segs": device.gso_max_segs}
            for name, device in self.devices.items()
        ]
        printed = json.dumps(links)
        for name in (item.device for item in tree.devices if item.device in self.devices):
            for thing, text in zip(("qdisc", "class", "filter"), self._printed(name), strict=True):
                printed += f"\n@@ {thing} {name}\n{text}"
        return f"{printed}\n@@ ingress eth1\n{''.join(self.devices['eth1'].ingress or ())}"

    def read(self, tree: NodeTree) -> NodeReading:
        """Read it from what it prints."""
        found = parse_namespace(self.print_all(tree), tree)
        assert found is not None
        return found

    def _printed(self, name: str) -> tuple[str, str, str]:
        device = self.devices[name]
        qdiscs: list[dict[str, Any]] = [{"kind": "noqueue", "handle": "0:", "root": True, "options": {}}]
        if device.root:
            qdiscs = [{"kind": "htb", "handle": "fa01:", "root": True, "options": {"default": "0x2"}}]
        qdiscs += device.leaves.values()
        if device.ingress is not None:
            qdiscs.append({"kind": "ingress", "handle": "ffff:", "parent": "ffff:fff1", "options": {}})
        inner = {item["parent"].removeprefix("parent ") for item in device.classes.values()}
        classes = "".join(class_line(name, item, name in inner) for name, item in device.classes.items())
        filters = "filter parent fa01: protocol ip pref 1 u32 chain 0 \n"
        filters += "filter parent fa01: protocol ip pref 1 u32 chain 0 fh 800: ht divisor 1 \n"
        for handle, (minor, address, side) in device.filters.items():
            filters += f"filter parent fa01: protocol ip pref 1 u32 chain 0 fh {handle} order 1 key ht 800 bkt 0"
            offset = {"src": 12, "dst": 16}[side]
            filters += f" *flowid {minor} not_in_hw \n  match {int(IPv4Address(address)):08x}/ffffffff at {offset}\n"
        return json.dumps(qdiscs), classes, filters


def class_line(name: str, item: dict[str, Any], is_inner: bool) -> str:
    """A class as ``tc -d class show`` prints it."""
    burst, cburst = (
        print_size(kept_burst(item[size], item[rate])) for size, rate in (("burst", "rate"), ("cburst", "ceil"))
    )
    leaf = "" if is_inner else f"leaf {name.partition(':')[2]}: "
    quantum = "" if is_inner else f"prio 0 quantum {item['quantum']} "
    return (
        f"class htb {name} {item['parent']} {leaf}{quantum}rate {print_rate(item['rate'])}"
        f" ceil {print_rate(item['ceil'])} linklayer ethernet"
        f" burst {burst}/1 mpu 0b cburst {cburst}/1 mpu 0b level {7 if is_inner else 0} \n"
    )


def print_rate(bps: int) -> str:
    """A rate as tc prints it: with three digits more than its unit."""
    bps = bps // 8 * 8
    units = ["", "K", "M", "G", "T"]
    for unit in units[:-1]:
        if bps < 1_000 or (bps % 1_000 and bps < 1_000_000):
            return f"{bps}{unit}bit"
        bps //= 1_000
    return f"{bps}Tbit"


def print_size(size: int) -> str:
    """A size as tc prints it: in Mb or Kb where that is nearly exact."""
    for unit, room in ((2**20, 1_024), (2**10, 16)):
        if size >= unit and abs(round(size / unit) * unit - size) < room:
            return f"{round(size / unit)}{'Mb' if unit == 2**20 else 'Kb'}"
    return f"{size}b"


def kept_burst(size: int, bps: int) -> int:
    """Bytes that are left of a burst after it was a time in ticks and in microseconds."""
    ticks = int(1e6 * size / (bps / 8) * 15.625)
    assert ticks < 2**32, "the kernel has 32 bits for it"
    return int(bps / 8 * int(ticks / 15.625) / 1e6)


def tbf_options(words: list[str], limit: int) -> dict[str, Any]:
    """A tbf's options as tc prints them: the size of its queue only where a burst is more."""
    rate, burst = int(_after(words, "rate").removesuffix("bit")), int(_after(words, "burst").removesuffix("b"))
    kept = kept_burst(burst, rate)
    late_us = 1e6 * limit / (rate / 8) - 1e6 * kept / (rate / 8)
    return {"rate": rate // 8, "burst": kept, **({"limit": limit} if late_us < 0 else {"lat": int(late_us)})}


def _after(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def devices_of(line: str) -> set[str]:
    """The devices that a line names."""
    return set(re.findall(r"\bdev (\S+)|\bname (\S+)", line)[0]) - {""}
