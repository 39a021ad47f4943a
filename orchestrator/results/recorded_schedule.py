"""The schedule as a run directory keeps it: bounded, and enough to tell and to draw it without the experiment file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.core.times import Times
from node.core.units import ns_to_s, s_to_ns


@dataclass(frozen=True, slots=True)
class RecordedEntry:
    """One entry.

    Attributes:
        number: Its place in the file's list.
        action: Its kind.
        targets: The nodes, groups or pairs that it names, in short.
        effect: What it does to them, in short; empty where the action says it.
        nodes: How many nodes it names; 0 where it names pairs.
        times: When it holds.
    """

    number: int
    action: str
    targets: str
    effect: str
    nodes: int
    times: Times

    @property
    def title(self) -> str:
        """Name it in a few words."""
        return f"{self.action} {self.targets} {self.effect}".strip()

    def to_json(self) -> dict[str, object]:
        """Return it for ``facts.json``: its times as one rule, however many they are."""
        times = self.times
        return {
            "entry": self.number,
            "action": self.action,
            "targets": self.targets,
            "effect": self.effect,
            "nodes": self.nodes,
            "at_s": ns_to_s(times.begin_ns),
            "for_s": None if times.duration_ns is None else ns_to_s(times.duration_ns),
            "every_s": ns_to_s(times.every_ns) if times.every_ns else None,
            "times": times.count,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "RecordedEntry":
        """Read what :meth:`to_json` has made.

        Raises:
            KeyError, TypeError, ValueError: It has not.
        """
        times = Times(
            begin_ns=s_to_ns(float(kept["at_s"])),
            duration_ns=None if kept["for_s"] is None else s_to_ns(float(kept["for_s"])),
            every_ns=0 if kept["every_s"] is None else s_to_ns(float(kept["every_s"])),
            count=int(kept["times"]),
        )
        if min(times.begin_ns, times.duration_ns or 0, times.every_ns) < 0 or times.count < 1:
            raise ValueError(f"schedule[{kept['entry']}]: times must not be negative")
        if times.count > 1 and not times.every_ns:
            raise ValueError(f"schedule[{kept['entry']}].every_s: must be there where times={times.count}")
        return cls(
            number=int(kept["entry"]),
            action=str(kept["action"]),
            targets=str(kept["targets"]),
            effect=str(kept["effect"]),
            nodes=int(kept["nodes"]),
            times=times,
        )
