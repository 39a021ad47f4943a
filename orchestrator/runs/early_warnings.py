"""Signs in a run of real nodes that it will be judged unfaithful, for whoever would rather stop it now."""

from collections.abc import Sequence
from typing import Final

from node.transport.control_values import NodeStatus
from orchestrator.fidelity import NodeFigures, early_signs
from orchestrator.host.environment import host_pressure

LOOK_EVERY_S: Final = 1.0
"""Real time from one look to the next: nodes tell no more often how they are."""


class EarlyWarnings:
    """Looks at what nodes counted now and then.

    State:
        _found: The warnings of the last look.
        _looked_s: When that was, wall-clock time of the run.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self._found: tuple[str, ...] = ()
        self._looked_s = -LOOK_EVERY_S

    def look(
        self, statuses: Sequence[NodeStatus], faults_late_ns: Sequence[int | None], wall_s: float
    ) -> tuple[str, ...]:
        """Return the warnings, new ones if it is time for that."""
        if wall_s - self._looked_s >= LOOK_EVERY_S:
            self._found, self._looked_s = _warnings(statuses, faults_late_ns), wall_s
        return self._found


def _warnings(statuses: Sequence[NodeStatus], faults_late_ns: Sequence[int | None]) -> tuple[str, ...]:
    nodes = [NodeFigures(int(one.node), one.counters, one.counters.rounds, 0, 0, 0, 0) for one in statuses]
    rejected = {int(one.node): one.messages_rejected for one in statuses}
    signs = early_signs(nodes, rejected, faults_late_ns)
    # Alone it is no sign: models may be tested meanwhile, with what is left of the host.
    if signs and (pressure := host_pressure()) is not None:
        signs.append(f"processes waited for the host's cores for {pressure:.0f} % of the last 10 s")
    return tuple(signs)
