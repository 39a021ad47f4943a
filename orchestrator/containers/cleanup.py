"""Removing what runs left in the engine, by label, and nothing else."""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from orchestrator.containers.interface import Engine, EngineError, Labels, Resource, StuckNetwork
from orchestrator.containers.ownership import OWNER_LABEL, RUN_LABEL, Fate, Owner, fate_of

_CALLS: Final = 8
"""Calls at a time: the engine removes a container in about 0.2 s, most of which is waiting."""
_PATIENCE_S: Final = 10.0
"""Time in which a removal is tried again, because somebody else is removing a part of it."""
_STUCK_S: Final = 2.0
"""The same for a network that only the engine's own account keeps."""
_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class EngineRun:
    """All that one process made for one run.

    Attributes:
        run: The run's name.
        fate: Whether that process lives, or cannot be judged from here.
        owner: The same in words.
        resources: Its containers, networks and volumes.
    """

    run: str
    fate: Fate
    owner: str
    resources: tuple[Resource, ...]


def find_runs(engine: Engine, here: Owner) -> list[EngineRun]:
    """Return everything with labels of ours, by run and by the process that made it, in order of the names."""
    groups: dict[tuple[str, str], list[Resource]] = {}
    for resource in engine.labelled({RUN_LABEL: ""}):
        labels = resource.labels
        groups.setdefault((labels[RUN_LABEL], labels.get(OWNER_LABEL, "")), []).append(resource)
    runs = []
    for (run, label), resources in sorted(groups.items()):
        fate, owner = fate_of(Owner.from_label(label), here)
        runs.append(EngineRun(run, fate, owner, tuple(resources)))
    return runs


def reap(engine: Engine, here: Owner) -> tuple[list[EngineRun], list[str]]:
    """Remove what processes of this user left that have ended.

    Returns:
        The runs, and a line for everything that could not be removed.
    """
    left = [run for run in find_runs(engine, here) if run.fate == "gone"]
    return left, remove(engine, (resource for run in left for resource in run.resources))


def remove_labelled(engine: Engine, labels: Labels) -> list[str]:
    """Remove everything with these labels, also what appears meanwhile.

    Returns:
        A line for everything that could not be removed.
    """
    deadline = time.monotonic() + _PATIENCE_S
    problems: list[str] = []
    while left := engine.labelled(labels):
        problems = remove(engine, left)
        if problems or time.monotonic() > deadline:
            break
    return problems


def remove(engine: Engine, resources: Iterable[Resource]) -> list[str]:
    """Remove containers, then the networks and volumes that they used.

    Containers of one run leave its networks one after the other, or the engine may count them wrongly, see
    :class:`StuckNetwork`.

    Returns:
        A line for everything that could not be removed.
    """
    containers: dict[str, list[Resource]] = {}
    others: list[list[Resource]] = []
    for resource in resources:
        if resource.kind == "container":
            containers.setdefault(resource.labels.get(RUN_LABEL, ""), []).append(resource)
        else:
            others.append([resource])
    problems: list[str] = []
    with ThreadPoolExecutor(_CALLS) as pool:
        for parts in (list(containers.values()), others):
            for found in pool.map(lambda part: _remove_in_turn(engine, part), parts):
                problems += found
    return problems


def _remove_in_turn(engine: Engine, resources: Iterable[Resource]) -> list[str]:
    return [problem for resource in resources if (problem := _remove(engine, resource)) is not None]


def _remove(engine: Engine, resource: Resource) -> str | None:
    """Remove one thing; return why it could not be."""
    begin = time.monotonic()
    while True:
        try:
            engine.remove(resource)
        except EngineError as error:
            # A container that another process is removing still holds its network.
            patience_s = _STUCK_S if isinstance(error, StuckNetwork) else _PATIENCE_S
            if error.status is None or time.monotonic() - begin > patience_s:
                return str(error)
            time.sleep(_PAUSE_S)
        else:
            return None


def describe(resources: Sequence[Resource]) -> str:
    """Say how many there are of each kind: ``3 containers, 2 networks``."""
    counts = {kind: sum(resource.kind == kind for resource in resources) for kind in ("container", "network", "volume")}
    return ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in counts.items() if count) or "nothing"
