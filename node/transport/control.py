"""The node's side of the control plane: a client of the orchestrator."""

import asyncio
from collections.abc import Callable

from node.core.types import NodeId, Vector
from node.transport.control_values import ControlCommand, NodeStatus, Registered, SnapshotInfo


class ControlClient:
    """A node's connection to the orchestrator."""

    def __init__(self, address: str, run_id: str, node: NodeId) -> None:
        self._address, self._run_id, self._node = address, run_id, node
        self.lost = asyncio.Event()

    async def connect(self, deadline_s: float) -> None:
        raise NotImplementedError

    async def register(self, peer_address: str, num_params: int, plan_id: int) -> Registered:
        raise NotImplementedError

    async def barrier(self, point: str, timeout_s: float) -> dict[NodeId, str]:
        raise NotImplementedError

    def open_session(
        self, make_status: Callable[[], NodeStatus], on_command: Callable[[ControlCommand], None], period_s: float
    ) -> None:
        raise NotImplementedError

    def report(self) -> None:
        """Send a status now."""
        raise NotImplementedError

    async def upload_snapshot(self, info: SnapshotInfo, params: Vector) -> None:
        raise NotImplementedError

    async def upload_records(self, name: str, data: bytes) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError
