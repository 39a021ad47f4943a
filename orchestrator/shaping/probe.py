"""Live probe of what a kernel and its tc can shape, in a scratch namespace.

A list of modules says neither what is built in nor what may be loaded, and containers often see none. So each part is
tried as a plan would use it, on devices that end with the namespace.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from node.core.errors import RunnerError
from orchestrator.shaping.backend import Carry, NetworkNamespace, carry_out_here
from orchestrator.shaping.tree import REDIRECT_PRIORITY, ROOT_MAJOR

_MARK: Final = "@@"

PARTS: Final = {
    # Without it tc takes the kernel's ticks for microseconds, and neither it nor the kernel says so.
    "/proc/net/psched": "cat /proc/net/psched",
    "veth": "ip link add name fm-probe0 type veth peer name fm-probe1",
    "ifb": "ip link add name fm-probe2 txqueuelen 1000 type ifb",
    "gso_max_segs": "ip link set dev fm-probe0 gso_max_segs 1",
    "htb": f"tc qdisc replace dev fm-probe0 root handle {ROOT_MAJOR:x}: htb default 0x2",
    "htb class": f"tc class replace dev fm-probe0 parent {ROOT_MAJOR:x}: classid {ROOT_MAJOR:x}:2 htb"
    " rate 8000bit ceil 100000000000bit burst 1514b cburst 25000000b quantum 1514",
    "bfifo": f"tc qdisc replace dev fm-probe0 parent {ROOT_MAJOR:x}:2 handle 2: bfifo limit 65536b",
    "tbf": f"tc qdisc replace dev fm-probe0 parent {ROOT_MAJOR:x}:2 handle 3: tbf limit 65536b rate 80bit burst 1514b",
    "u32": f"tc filter replace dev fm-probe0 parent {ROOT_MAJOR:x}: protocol ip prio 1 handle 800::1"
    f" u32 match ip dst 192.0.2.1/32 flowid {ROOT_MAJOR:x}:2",
    "ingress": "tc qdisc add dev fm-probe0 ingress",
    "mirred": f"tc filter add dev fm-probe0 ingress protocol ip prio {REDIRECT_PRIORITY}"
    " u32 match u32 0 0 action mirred egress redirect dev fm-probe2",
    "netem": "tc qdisc replace dev fm-probe2 root netem limit 10 delay 1000us 100us 0% distribution normal"
    " loss random 1% rate 100000000000bit",
}
"""Each part and the command that shows that it is there, in the order in which they need each other."""

NETEM: Final = "netem"
"""A part that can be done without: latency, jitter and loss are then added elsewhere."""

TBF: Final = "tbf"
"""Another one: without it all is shaped but partitions."""

_SCRIPT: Final = "\n".join(
    [
        f'try() {{ name=$1; shift; if said=$("$@" 2>&1); then echo "{_MARK}$name{_MARK}";'
        f' else echo "{_MARK}$name{_MARK}"$(echo "${{said:-failed}}" | head -n 1); fi; }}',
        f'echo "{_MARK}version{_MARK}"$(tc -V 2>&1)',
        *(f"try '{name}' {command}" for name, command in PARTS.items()),
    ]
)


@dataclass(frozen=True, slots=True)
class ShapingAbilities:
    """Findings of the probe.

    Attributes:
        tc_version: Version of tc in its own words; empty if it could not be asked.
        problems: Reason of each part that does not work.
    """

    tc_version: str
    problems: Mapping[str, str]

    @property
    def has_netem(self) -> bool:
        """True where the kernel adds latency, jitter and loss."""
        return self.shapes_rates and NETEM not in self.problems

    @property
    def shapes_rates(self) -> bool:
        """True where everything is there but perhaps netem and what cuts links."""
        return not self.problems.keys() - {NETEM, TBF}

    @property
    def cuts_links(self) -> bool:
        """True where links can be cut and healed."""
        return self.shapes_rates and TBF not in self.problems


def probe_shaping(enter: Sequence[str] | None = None, carry: Carry = carry_out_here) -> ShapingAbilities:
    """Try every part of a plan in a scratch namespace.

    Args:
        enter: Words before a command that run it in a namespace of its own that ends with it, such as
            ``docker run --rm --network none --cap-add NET_ADMIN IMAGE``; by default ``unshare`` on this host, as
            another user than root with a namespace of users.
        carry: Runs the whole; see :class:`~orchestrator.shaping.backend.NetworkNamespace`.
    """
    if enter is None:
        enter = ("unshare", "-n") if os.geteuid() == 0 else ("unshare", "-r", "-n")
    try:
        printed = NetworkNamespace("probe of the kernel", tuple(enter), carry).run(["sh", "-c", _SCRIPT])
    except RunnerError as error:
        return ShapingAbilities("", {"namespace": str(error)})
    said = {}
    for line in printed.splitlines():
        _, name, reason = [*line.split(_MARK, 2), "", ""][:3]
        said[name] = reason
    version = said.pop("version", "")
    if not version.startswith("tc "):
        return ShapingAbilities("", {"tc": version or "said nothing"})
    return ShapingAbilities(version, {name: said.get(name, "was not tried") for name in PARTS if said.get(name, "?")})
