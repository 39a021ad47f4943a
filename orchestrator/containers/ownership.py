"""Owners of a run's resources, as labels that outlive whoever made them.

An orchestrator that is killed leaves containers and networks in the engine. Their labels name its process so exactly
that any later one can tell whether it still lives: by its number, its start, the boot of the machine, and the namespace
in which the number counts. What belongs to another user, or to a process that cannot be judged from here, is left
alone.
"""

import json
import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

RUN_LABEL: Final = "fragmesh.run"
ROLE_LABEL: Final = "fragmesh.role"
NODE_LABEL: Final = "fragmesh.node"
OWNER_LABEL: Final = "fragmesh.owner"

Fate: TypeAlias = Literal["alive", "gone", "foreign"]


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that made a run's resources.

    Attributes:
        machine: Which machine it was on.
        boot: Which boot of it.
        namespace: The namespace in which its number counts.
        user: Who ran it.
        pid: Its number.
        started: When it started, ticks of the kernel's clock since the boot.
    """

    machine: str
    boot: str
    namespace: str
    user: int
    pid: int
    started: int

    @classmethod
    def of_this_process(cls) -> "Owner":
        """Describe this process."""
        pid = os.getpid()
        namespace = ""
        with suppress(OSError):
            namespace = os.readlink("/proc/self/ns/pid")
        return cls(
            machine=_read("/etc/machine-id") or socket.gethostname(),
            boot=_read("/proc/sys/kernel/random/boot_id"),
            namespace=namespace,
            user=os.getuid(),
            pid=pid,
            started=started_at(pid) or 0,
        )

    @classmethod
    def from_label(cls, text: str) -> "Owner | None":
        """Read what :meth:`to_label` wrote; None for anything else."""
        try:
            content = json.loads(text)
            owner = cls(**content)
        except (ValueError, TypeError):
            return None
        kinds = {"user": int, "pid": int, "started": int}
        fits = all(isinstance(value, kinds.get(name, str)) for name, value in asdict(owner).items())
        return owner if fits else None

    def to_label(self) -> str:
        """Write it as a label's value."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


def started_at(pid: int) -> int | None:
    """Return when a process started, ticks since the boot; None if none of that number runs."""
    return parse_started(_read(f"/proc/{pid}/stat"))


def parse_started(stat: str) -> int | None:
    """Read the start from the kernel's line on a process; None if it is only waiting to be forgotten."""
    fields = stat.rpartition(")")[2].split()  # its name, in brackets before that, may hold anything
    if len(fields) < 20 or fields[0] in "ZX":
        return None
    return int(fields[19])


def fate_of(owner: Owner | None, here: Owner, started: Callable[[int], int | None] = started_at) -> tuple[Fate, str]:
    """Tell whether the process that made something still lives, and the same in words.

    Args:
        owner: That process; None if the label cannot be read.
        here: This process.
        started: Returns when the process of a number started.
    """
    if owner is None:
        return "foreign", "made by something else"
    if owner.machine != here.machine:
        return "foreign", "of another machine"
    if owner.user != here.user:
        return "foreign", f"of user {owner.user}"
    if owner.boot != here.boot:
        return "gone", "ended before the last boot"
    if owner.namespace != here.namespace:
        return "foreign", "of another container"
    if started(owner.pid) == owner.started:
        return "alive", f"process {owner.pid}"
    return "gone", f"process {owner.pid} is gone"


@dataclass(frozen=True, slots=True)
class RunScope:
    """Names and labels of all that one process makes for one run.

    Attributes:
        run: The run's name.
        owner: That process.
    """

    run: str
    owner: Owner

    def labels(self, role: str | None = None, node: int | None = None) -> dict[str, str]:
        """Return the labels of everything, or of one thing: also its role and, if it is a node's, the node."""
        labels = {RUN_LABEL: self.run, OWNER_LABEL: self.owner.to_label()}
        if role is not None:
            labels[ROLE_LABEL] = role
        if node is not None:
            labels[NODE_LABEL] = str(node)
        return labels

    def name_of(self, role: str, node: int | None = None) -> str:
        """Return the name in the engine of a network or container.

        It names the process too: runs of two folders may have one name, and the engine allows no name twice.
        """
        name = re.sub(r"[^a-zA-Z0-9_.-]", "-", f"fragmesh-{self.run}-{self.owner.pid}-{role}")
        return name if node is None else f"{name}-{node:04d}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
