"""Processor time that the kernel denied a container, from its control group of either version; pure."""

import re
from dataclasses import dataclass
from typing import Final

_MARK: Final = "@@"

CPU_SCRIPT: Final = f"""
show() {{ [ -r "$1" ] && while read -r line; do echo "$line"; done < "$1"; }}
for pid; do
  echo "{_MARK} $pid"
  at=/proc/$pid/root/sys/fs/cgroup
  show $at/cpu.stat || show $at/cpu/cpu.stat || show $at/cpu,cpuacct/cpu.stat
  show $at/cpu.pressure
done 2> /dev/null
true
"""
"""Shell script that prints the counters of containers whose first processes are its arguments, for one who may look
there. It starts no process for that."""

_VALUE = re.compile(r"^(\w+) (\d+)$", re.MULTILINE)
_PRESSURE = re.compile(r"^some .*\btotal=(\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CpuCounters:
    """Counters of a container's control group, since it began.

    Attributes:
        periods: Periods of its quota in which it ran; 0 without a quota.
        throttled_periods: Those in which it had used its quota up and had to wait.
        throttled_ns: Time that its threads waited for that, added up over processors.
        waited_ns: Time in which some of its threads waited for a processor, for whatever reason; None where the kernel
            does not tell, as with control groups of version 1.
    """

    periods: int
    throttled_periods: int
    throttled_ns: int
    waited_ns: int | None

    def since(self, before: "CpuCounters") -> "CpuCounters":
        """Return what came since an earlier reading; a container that was started again counts from then on."""
        if self.periods < before.periods or self.throttled_ns < before.throttled_ns:
            return self
        both = self.waited_ns is not None and before.waited_ns is not None
        return CpuCounters(
            self.periods - before.periods,
            self.throttled_periods - before.throttled_periods,
            self.throttled_ns - before.throttled_ns,
            max(0, (self.waited_ns or 0) - (before.waited_ns or 0)) if both else None,
        )


def parse_cpu_counters(printed: str) -> dict[int, CpuCounters]:
    """Read what :data:`CPU_SCRIPT` prints.

    Returns:
        The counters by process; a container that has ended, or of which the kernel counts nothing, is left out.
    """
    found = {}
    for part in f"\n{printed}".split(f"\n{_MARK} ")[1:]:
        head, _, body = part.partition("\n")
        values = {name: int(value) for name, value in _VALUE.findall(body)}
        if "nr_periods" not in values or not head.isdecimal():
            continue
        throttled_ns = values.get("throttled_time", 1_000 * values.get("throttled_usec", 0))
        waited = _PRESSURE.search(body)
        found[int(head)] = CpuCounters(
            values["nr_periods"],
            values.get("nr_throttled", 0),
            throttled_ns,
            None if waited is None else 1_000 * int(waited[1]),
        )
    return found
