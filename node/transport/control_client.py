"""The node's side of the control plane: a client of the orchestrator.

States: made, connected, registered, in session, closed; in this order, and closed from anywhere. The session is
what both sides live by: when it breaks, :attr:`ControlClient.lost` is set and nothing is tried again, for an
orchestrator that is gone does not come back.
"""

import asyncio
import logging
import os
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from importlib import metadata
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from node.core.errors import ProtocolError, TransportError
from node.core.types import NodeId, Vector
from node.host.credentials import Credentials, orchestrator_name
from node.transport import tls
from node.transport.control_values import (
    CONTROL_VERSION,
    ControlCommand,
    ModelSnapshot,
    NodeStatus,
    Registered,
    some_nodes,
)
from node.transport.control_wire import (
    KEEPALIVE_S,
    KEEPALIVE_TIMEOUT_S,
    channel_options,
    command_from_wire,
    one_line,
    pieces,
    snapshot_head,
    status_to_wire,
)
from node.transport.frames import WIRE_VERSION
from node.transport.pb import control_pb2 as pb
from node.transport.pb.control_pb2_grpc import ControlStub

if TYPE_CHECKING:
    from node.transport.pb.control_pb2_grpc import ControlAsyncStub

CALL_TIMEOUT_S = 30.0
"""For an answer that takes the orchestrator no work: an orchestrator that needs longer is as good as gone."""

UPLOAD_BYTES_PER_S = 2**20
"""The slowest control network in which an upload works; its deadline follows from this rate."""

UPLOAD_ATTEMPTS = 4
UPLOAD_RETRY_S = 0.2
"""Wait before the second attempt, seconds; doubled before each further one."""

CLOSE_TIMEOUT_S = 5.0

_RETRIED = frozenset({grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

_log = logging.getLogger(__name__)


class ControlClient:
    """A node's connection to the orchestrator. Made before the event loop runs, used from one loop only.

    Attributes:
        lost: Set when the session ended and not by :meth:`close`: the node is to end by itself.
    """

    def __init__(
        self,
        address: str,
        run_id: str,
        node: NodeId,
        *,
        credentials: Credentials | None = None,
        keepalive_s: float = KEEPALIVE_S,
        keepalive_timeout_s: float = KEEPALIVE_TIMEOUT_S,
    ) -> None:
        """Only store; :meth:`connect` begins.

        Args:
            address: Where the orchestrator serves, host:port.
            run_id: The run's name.
            node: This node.
            credentials: This node's; None calls in plain text.
            keepalive_s: After so long without a word the orchestrator is probed, seconds of real time.
            keepalive_timeout_s: It is given up after so long without an answer.
        """
        self.lost = asyncio.Event()
        self._address, self._run_id, self._node = address, run_id, node
        self._credentials = credentials
        self._options = [
            *channel_options(keepalive_s, keepalive_timeout_s),
            # Nodes and orchestrator are close to each other; a proxy for the outside world is no way between them.
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        self._channel: grpc.aio.Channel | None = None
        self._session: asyncio.Task[None] | None = None
        self._status_wanted = asyncio.Event()
        self._closing = False

    async def connect(self, deadline_s: float) -> None:
        """Wait until the orchestrator answers; it may start after the node.

        Args:
            deadline_s: For how long, seconds.

        Raises:
            TransportError: It did not, or it is not this run's orchestrator or not to be spoken with in this way.
        """
        assert self._channel is None, "connected before"
        name = orchestrator_name(self._run_id)
        self._channel = tls.channel(self._address, name, self._credentials, self._options)
        details = ""
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while True:
                    state = self._channel.get_state(try_to_connect=True)
                    if state is grpc.ChannelConnectivity.READY:
                        return
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        details = await self._attempt()
                        if tls.is_hopeless(details):
                            break
                    # The answer stays the same until gRPC tries again. Sixty nodes that kept asking took both cores
                    # from the orchestrator, which has to fork the rest of them before it serves.
                    await self._channel.wait_for_state_change(state)
        await self._channel.close()
        why = tls.trouble(details, self._credentials) or f"tried for {deadline_s:g} s"
        raise TransportError(f"orchestrator at {self._address}: cannot be reached; {why}")

    async def _attempt(self) -> str:
        """Ask for nothing, which tells why no connection came about; empty if one has."""
        assert self._channel is not None
        health: Any = HealthStub(self._channel)
        try:
            await health.Check(HealthCheckRequest())
        except grpc.aio.AioRpcError as error:
            return error.details() or ""
        return ""

    async def register(self, peer_address: str, num_params: int, plan_id: int, metrics_address: str = "") -> Registered:
        """Introduce the node. The session must follow, for it is how the orchestrator knows that the node lives.

        Args:
            peer_address: Where the node serves its peers, host:port.
            num_params: Length of the model's flat vector.
            plan_id: Of the run; see :func:`node.transport.frames.plan_id`.
            metrics_address: Where it serves its metrics, host:port; empty where it serves none.

        Raises:
            TransportError: The orchestrator refuses the node and says why, or does not answer.
        """
        request = pb.RegisterRequest(
            control_version=CONTROL_VERSION,
            wire_version=WIRE_VERSION,
            software_version=metadata.version("fragmesh"),
            run_id=self._run_id,
            node=self._node,
            peer_address=peer_address,
            pid=os.getpid(),
            num_params=num_params,
            plan_id=plan_id,
            metrics_address=metrics_address,
        )
        try:
            reply = await self._stub().Register(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise self._failure("registration", error) from error
        if reply.WhichOneof("outcome") != "registered":
            raise TransportError(
                f"orchestrator at {self._address}: refuses node {self._node}: {one_line(reply.refused.text)}"
            )
        registered = reply.registered
        return Registered(registered.num_nodes, registered.status_period_ns / 1e9)

    async def barrier(self, point: str, timeout_s: float) -> dict[NodeId, str]:
        """Wait until all nodes have come to the same point. Who stops waiting, by cancelling, has not come.

        Args:
            point: Its name.
            timeout_s: For how long, seconds.

        Returns:
            Where each node serves its peers, or did before it was gone, host:port; this node included.

        Raises:
            TransportError: Somebody did not come in time, and who; or the orchestrator is gone or over.
        """
        call = self._stub().Barrier(pb.BarrierRequest(run_id=self._run_id, node=self._node, point=point))
        missing: list[NodeId] | None = None
        try:
            async with asyncio.timeout(timeout_s):
                async for state in call:
                    if state.released:
                        return {NodeId(peer.node): peer.address for peer in state.peers}
                    missing = [NodeId(node) for node in state.missing]
        except TimeoutError:
            if missing:
                text = f"{some_nodes(missing)} did not come to '{point}' within {timeout_s:g} s"
            else:
                text = f"orchestrator at {self._address}: did not open '{point}' within {timeout_s:g} s"
            raise TransportError(text) from None
        except grpc.aio.AioRpcError as error:
            raise self._failure(f"barrier '{point}'", error) from error
        finally:
            call.cancel()
        raise TransportError(f"orchestrator at {self._address}: barrier '{point}': ended before all had come")

    # -- session -----------------------------------------------------------------------------------------------

    def open_session(
        self, make_status: Callable[[], NodeStatus], on_command: Callable[[ControlCommand], None], period_s: float
    ) -> None:
        """Tell the node's status and take commands from now on, in the background, until :meth:`close`.

        Args:
            make_status: Called in the event loop whenever a status is sent: at once, then every period, on
                :meth:`report`, and last when the session is closed.
            on_command: Called in the event loop, in the order in which the commands were given.
            period_s: Between two statuses, seconds of real time.
        """
        assert self._session is None, "one session a node"
        self._session = asyncio.create_task(self._run_session(make_status, on_command, period_s))

    def report(self) -> None:
        """Send a status as soon as possible, because something changed that others wait for."""
        self._status_wanted.set()

    async def _run_session(
        self, make_status: Callable[[], NodeStatus], on_command: Callable[[ControlCommand], None], period_s: float
    ) -> None:
        call = self._stub().Session()
        writer = asyncio.create_task(self._write_statuses(call, make_status, period_s))
        try:
            async for message in call:
                try:
                    command = command_from_wire(message)
                except ProtocolError as error:
                    _log.warning("node %d: ignored a command: %s", self._node, error)
                else:
                    on_command(command)
            why = "the orchestrator ended it"
        except grpc.aio.AioRpcError as error:
            why = _reason(error)
        except Exception:
            _log.exception("node %d: a command failed", self._node)
            why = "a command failed"
        finally:
            # First of all: whatever went wrong here, the node must not wait for commands that cannot come.
            if not self._closing:
                self.lost.set()
            writer.cancel()
            call.cancel()
        if not self._closing:
            _log.warning("node %d: the session with the orchestrator is over: %s", self._node, why)

    async def _write_statuses(
        self,
        call: "grpc.aio.StreamStreamCall[pb.Status, pb.Command]",
        make_status: Callable[[], NodeStatus],
        period_s: float,
    ) -> None:
        try:
            while True:
                last = self._closing
                self._status_wanted.clear()
                await call.write(status_to_wire(make_status()))
                if last:
                    await call.done_writing()
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(period_s):
                        await self._status_wanted.wait()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            pass  # the call is over, which whoever reads from it learns as well
        except Exception:
            _log.exception("node %d: no status could be made", self._node)
            call.cancel()

    # -- uploads -----------------------------------------------------------------------------------------------

    async def upload_snapshot(self, info: ModelSnapshot, params: Vector) -> None:
        """Hand over a model; tried again a few times when it arrives damaged or not at all.

        Args:
            info: Whose and of when.
            params: Shape (num_params,), float32. Must not change meanwhile.

        Raises:
            TransportError: It could not be handed over.
        """
        assert params.dtype == np.float32, params.dtype
        data = np.ascontiguousarray(params).data.cast("B")
        head = snapshot_head(info, self._run_id, data)

        def parts() -> Iterator[pb.SnapshotPart]:
            yield pb.SnapshotPart(head=head)
            for piece in pieces(data):
                yield pb.SnapshotPart(data=piece)

        timeout_s = _upload_timeout_s(len(data))
        await self._upload("snapshot", lambda: self._stub().UploadSnapshot(parts(), timeout=timeout_s))

    async def upload_records(self, name: str, data: bytes) -> None:
        """Hand over what the node has recorded, as :meth:`upload_snapshot` does.

        Args:
            name: What it is: lower-case letters, digits and ``_``, at most 64.
            data: JSON, or npz without objects.

        Raises:
            TransportError: It could not be handed over.
        """
        head = pb.RecordsHead(
            run_id=self._run_id, node=self._node, name=name, data_bytes=len(data), crc32=zlib.crc32(data)
        )

        def parts() -> Iterator[pb.RecordsPart]:
            yield pb.RecordsPart(head=head)
            for piece in pieces(memoryview(data)):
                yield pb.RecordsPart(data=piece)

        timeout_s = _upload_timeout_s(len(data))
        await self._upload(f"records '{name}'", lambda: self._stub().UploadRecords(parts(), timeout=timeout_s))

    async def _upload(self, what: str, attempt: Callable[[], Awaitable[object]]) -> None:
        for number in range(1, UPLOAD_ATTEMPTS + 1):
            try:
                await attempt()
                return
            except grpc.aio.AioRpcError as error:
                if number == UPLOAD_ATTEMPTS or error.code() not in _RETRIED or self.lost.is_set():
                    raise self._failure(what, error) from error
                _log.warning("node %d: %s: attempt %d failed: %s", self._node, what, number, _reason(error))
            await asyncio.sleep(UPLOAD_RETRY_S * 2 ** (number - 1))

    # -- end ---------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Send a last status and end the session in good order, for at most CLOSE_TIMEOUT_S; then hang up."""
        self._closing = True
        self._status_wanted.set()
        if self._session is not None:
            await asyncio.wait([self._session], timeout=CLOSE_TIMEOUT_S)
            self._session.cancel()
            await asyncio.wait([self._session])
        if self._channel is not None:
            await self._channel.close()

    def _stub(self) -> "ControlAsyncStub":
        assert self._channel is not None, "not connected"
        return ControlStub(self._channel)

    def _failure(self, what: str, error: grpc.aio.AioRpcError) -> TransportError:
        return TransportError(f"orchestrator at {self._address}: {what}: {_reason(error)}")


def _reason(error: grpc.aio.AioRpcError) -> str:
    """Return why a call failed, one line."""
    code = error.code().name.lower().replace("_", " ")
    return one_line(f"{code}: {error.details() or 'no details'}")


def _upload_timeout_s(data_bytes: int) -> float:
    return CALL_TIMEOUT_S + data_bytes / UPLOAD_BYTES_PER_S
