"""The orchestrator's side of the control plane: the server that all nodes call."""

from collections.abc import Callable, Iterable, Mapping, Set

from node.core.types import NodeId, Vector
from node.transport.control_values import ControlCommand, NodeStatus, Registration, SnapshotInfo


class ControlServer:
    """Serves the control plane of one run."""

    def __init__(
        self,
        run_id: str,
        num_nodes: int,
        *,
        status_period_s: float,
        on_status: Callable[[NodeStatus], None],
        on_snapshot: Callable[[SnapshotInfo, Vector], None],
        on_records: Callable[[NodeId, str, bytes], None],
        on_session_end: Callable[[NodeId], None],
    ) -> None:
        self._run_id, self._num_nodes = run_id, num_nodes

    @property
    def registered(self) -> Mapping[NodeId, Registration]:
        raise NotImplementedError

    async def start(self, host: str, port: int) -> str:
        raise NotImplementedError

    async def reached(self, point: str, timeout_s: float, expected: Set[NodeId] | None = None) -> None:
        raise NotImplementedError

    def forget(self, node: NodeId) -> None:
        raise NotImplementedError

    def command(self, command: ControlCommand, nodes: Iterable[NodeId] | None = None) -> None:
        raise NotImplementedError

    async def stop(self, grace_s: float) -> None:
        raise NotImplementedError
