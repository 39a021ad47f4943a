"""The orchestrator's side of the control plane: the server that all nodes call.

A node is unknown, registered, in session or gone. It is gone when its session ends or the runner forgets it; a
node that is gone may register again, as a new process would. What a node sends is checked before anybody is told;
what fails ends that call with a status and one line, never the server.

Calls run in one event loop, and so do all callbacks: they must be quick.
"""

import asyncio
import logging
import re
import zlib
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import grpc
import grpc.aio
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from node.core.errors import ProtocolError, RunnerError, TransportError
from node.core.messages import frozen
from node.core.types import NodeId, Vector
from node.host.addresses import host_and_port
from node.host.credentials import Credentials, node_name
from node.transport import tls
from node.transport.control_values import (
    CONTROL_VERSION,
    ControlCommand,
    ModelSnapshot,
    NodeStatus,
    Phase,
    Registration,
    StopCommand,
    some_nodes,
)
from node.transport.control_wire import (
    KEEPALIVE_S,
    KEEPALIVE_TIMEOUT_S,
    channel_options,
    command_to_wire,
    one_line,
    snapshot_from_wire,
    status_from_wire,
)
from node.transport.frames import WIRE_VERSION
from node.transport.pb import control_pb2 as pb
from node.transport.pb.control_pb2_grpc import ControlServicer, add_ControlServicer_to_server
from orchestrator.runs.barriers import Barriers

RECORDS_BYTES_MAX = 2**28
"""The largest records that a node may hand over: the lives of some millions of messages."""

_RECORDS_NAME = re.compile(r"[a-z0-9_]{1,64}")
_SERVICE = pb.DESCRIPTOR.services_by_name["Control"].full_name

_log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(eq=False)
class NodeConnection:
    """One life of a node, from its registration on.

    Attributes:
        registration: What it said.
        commands: What it is still to be told; None ends its session.
        alive: It is not gone.
        in_session: Its session has begun.
        phase: Of its last status; None before the first.
        complained: A status of it was refused before, and that was logged.
        uploads: Heads of what was taken from it. A node that did not see the receipt sends the same once more.
    """

    registration: Registration
    commands: "asyncio.Queue[pb.Command | None]" = field(default_factory=asyncio.Queue)
    alive: bool = True
    in_session: bool = False
    phase: Phase | None = None
    complained: bool = False
    uploads: set[bytes] = field(default_factory=set)


class ControlListener(Protocol):
    """Whoever leads the nodes; told what they say. Called in the server's event loop, so that calls must be quick."""

    def on_status(self, status: NodeStatus) -> None:
        """Take a status. Its numbers are the node's own claims; a loss may be no number."""

    def on_snapshot(self, info: ModelSnapshot, params: Vector) -> None:
        """Take a model that arrived whole: shape (num_params,), float32, read-only. Values may be not finite."""

    def on_records(self, node: NodeId, name: str, data: bytes) -> None:
        """Take records that arrived whole."""

    def on_session_end(self, node: NodeId) -> None:
        """Note that a session ended, however it did; called once for each."""


class ControlServer(ControlServicer):
    """Serves the control plane of one run. Used from one event loop only.

    Args:
        run_id: The run's name.
        num_nodes: Nodes in the run.
        listener: Told what nodes say.
        status_period_s: How often nodes are to send a status, seconds of real time.
        records_bytes_max: The largest records that a node may hand over.
        keepalive_s: After so long without a word a session is probed, seconds of real time.
        keepalive_timeout_s: A probed session ends after so long without an answer.
        credentials: The orchestrator's, so that every call must be of the node that it names; None is plain text.
    """

    def __init__(
        self,
        run_id: str,
        num_nodes: int,
        *,
        listener: ControlListener,
        status_period_s: float,
        records_bytes_max: int = RECORDS_BYTES_MAX,
        keepalive_s: float = KEEPALIVE_S,
        keepalive_timeout_s: float = KEEPALIVE_TIMEOUT_S,
        credentials: Credentials | None = None,
    ) -> None:
        self._run_id, self._num_nodes = run_id, num_nodes
        self._status_period_s = status_period_s
        self._listener = listener
        self._records_bytes_max = records_bytes_max
        self._options = channel_options(keepalive_s, keepalive_timeout_s)
        self._credentials = credentials
        self._server: grpc.aio.Server | None = None
        self._nodes: dict[NodeId, NodeConnection] = {}
        self._barriers = Barriers(num_nodes)
        self._plan: tuple[int, int] | None = None
        """num_params and plan id of the first node; all others must name the same."""
        self._ended: str | None = None
        """Reason for which nobody may register any more."""
        self._stopped = False

    @property
    def registered(self) -> Mapping[NodeId, Registration]:
        """Last registration of each node, nodes that are gone included."""
        return MappingProxyType({node: known.registration for node, known in self._nodes.items()})

    @property
    def missing(self) -> int:
        """Nodes that a barrier waits for."""
        return self._barriers.num_missing

    async def start(self, host: str, port: int, *, reserved: bool = False) -> str:
        """Serve.

        Args:
            host: The interface's name or address.
            port: 0 is any that is free.
            reserved: The port is a :class:`~orchestrator.host.reserved_port.ReservedPort`, still held.

        Returns:
            The address that was bound, host:port.

        Raises:
            TransportError: The port is taken or cannot be had.
        """
        assert self._server is None, "started before"
        # Two servers on one port would each get some of the nodes. A reserved port is nobody else's.
        server = grpc.aio.server(options=[*self._options, ("grpc.so_reuseport", int(reserved))])
        add_ControlServicer_to_server(self, server)
        await _add_health_and_reflection(server)
        address = host_and_port(host, port)
        try:
            bound = tls.bind(server, address, self._credentials)
        except RuntimeError as error:
            await server.stop(None)
            text = "cannot be served: the port is taken, or this host has no such address"
            raise TransportError(f"{address}: {text}") from error
        await server.start()
        self._server = server
        return host_and_port(host, bound)

    async def reached(self, point: str, timeout_s: float, expected: Set[NodeId] | None = None) -> None:
        """Wait until nodes have come to a point, and let them go on.

        Args:
            point: Its name.
            timeout_s: For how long, seconds.
            expected: Who must come; None is all nodes of the run. Those that are forgotten, before or meanwhile,
                are not waited for, so that nobody at all may be left.

        Raises:
            RunnerError: Who did not come in time, and what each was last known to do.
        """
        barrier = self._barriers.expect(point, expected)
        try:
            async with asyncio.timeout(timeout_s):
                await self._barriers.released(barrier)
        except TimeoutError:
            missing = self._barriers.missing(barrier)
            named = missing[:3] if len(missing) <= 3 else missing[:2]
            states = "; ".join(f"{node}: {_state(self._nodes.get(node))}" for node in named)
            raise RunnerError(
                f"{some_nodes(missing)} did not come to '{point}' within {timeout_s:g} s ({states})"
            ) from None

    def forget(self, node: NodeId) -> None:
        """The node died: no barrier waits for it, and its session is closed."""
        if (known := self._nodes.get(node)) is not None:
            _close(known)
        self._barriers.forget(node)

    def command(self, command: ControlCommand, nodes: Iterable[NodeId] | None = None) -> None:
        """Tell nodes what to do, in the order of the calls. Nodes that are unknown or gone are left out.

        Args:
            command: What. A :class:`StopCommand` to all ends the registration as well.
            nodes: Whom; None is all that are registered now.
        """
        message = command_to_wire(command)
        for node in self._nodes if nodes is None else nodes:
            known = self._nodes.get(node)
            if known is not None and known.alive:
                known.commands.put_nowait(message)
        if nodes is None and isinstance(command, StopCommand):
            self._ended = f"is being stopped: {command.reason}"

    async def stop(self, grace_s: float) -> None:
        """Close all sessions, give calls under way ``grace_s`` seconds, and serve no more."""
        self._stopped = True
        self._ended = self._ended or "is over"
        for known in self._nodes.values():
            _close(known)
        self._barriers.look()
        if self._server is not None:
            await self._server.stop(grace_s)

    # -- calls of the nodes ------------------------------------------------------------------------------------

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterReply:
        """See control.proto."""
        refused = self._refusal(request, self._impostor(request.node, context))
        if refused is not None:
            _log.warning("refused node %d at %s: %s", request.node, context.peer(), refused.text)
            return pb.RegisterReply(refused=refused)
        node = NodeId(request.node)
        self._plan = (request.num_params, request.plan_id)
        self._nodes[node] = NodeConnection(_registration(request))
        self._barriers.remember(node)
        return pb.RegisterReply(
            registered=pb.Registered(
                num_nodes=self._num_nodes,
                status_period_ns=round(self._status_period_s * 1e9),
            )
        )

    async def Barrier(self, request: pb.BarrierRequest, context: Context) -> None:  # type: ignore[override]
        """See control.proto. Writes by itself: a generator would learn late that its call was cancelled."""
        known = await self._admit(request.run_id, request.node, context)
        node, call = known.registration.node, object()
        barrier = self._barriers.arrive(request.point, node, call)
        try:
            while True:
                changed = self._barriers.changed
                if barrier.released:
                    await _told(context, pb.BarrierState(released=True, peers=_addresses(self._nodes)))
                    return
                if self._stopped or not known.alive:
                    why = "the run is over" if self._stopped else f"node {node} was given up"
                    await context.abort(grpc.StatusCode.ABORTED, why)
                if not await _told(context, pb.BarrierState(missing=self._barriers.missing(barrier))):
                    return
                await changed.wait()
        finally:
            self._barriers.leave(barrier, node, call)

    async def Session(self, requests: object, context: Context) -> None:  # type: ignore[override]
        """See control.proto. Writes by itself, as Barrier does."""
        first = await context.read()
        if first is grpc.aio.EOF:
            return
        known = await self._admit(self._run_id, first.node, context)
        if known.in_session:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, f"node {first.node}: has a session already")
        known.in_session = True
        reader = asyncio.create_task(self._read_statuses(known, first, context))
        try:
            while (message := await known.commands.get()) is not None:
                if not await _told(context, message):
                    break
            if reader.done():
                reader.result()  # a bug of ours must show, and gRPC logs it
        finally:
            reader.cancel()
            _close(known)
            self._barriers.look()
            self._listener.on_session_end(known.registration.node)

    async def UploadSnapshot(self, requests: object, context: Context) -> pb.SnapshotReceipt:
        """See control.proto."""
        head = (await _first_part(context)).head
        known = await self._admit(head.run_id, head.node, context)
        num_params = known.registration.num_params
        if head.num_params != num_params:
            text = f"snapshot of {head.num_params} parameters: the model has {num_params}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        try:
            info = snapshot_from_wire(head, self._num_nodes)
        except ProtocolError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        data = await _data(context, 4 * num_params, head.crc32)
        if _is_new(known, head):
            self._listener.on_snapshot(info, frozen(np.frombuffer(data, dtype="<f4")))
        return pb.SnapshotReceipt(data_bytes=len(data))

    async def UploadRecords(self, requests: object, context: Context) -> pb.RecordsReceipt:
        """See control.proto."""
        head = (await _first_part(context)).head
        known = await self._admit(head.run_id, head.node, context)
        if not _RECORDS_NAME.fullmatch(head.name):
            text = f"records '{one_line(head.name)}': the name must be 1 to 64 of a-z, 0-9 and _"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        if head.data_bytes > self._records_bytes_max:
            text = f"records '{head.name}' of {head.data_bytes} bytes: must be at most {self._records_bytes_max}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        data = await _data(context, head.data_bytes, head.crc32)
        if _is_new(known, head):
            self._listener.on_records(known.registration.node, head.name, data)
        return pb.RecordsReceipt(data_bytes=len(data))

    # -- registration ------------------------------------------------------------------------------------------

    def _refusal(self, request: pb.RegisterRequest, impostor: str | None) -> pb.Refused | None:
        """Return why the node is not let in; None if it is. ``impostor`` says that it is another one."""
        node, plan = request.node, (request.num_params, request.plan_id)
        known = self._nodes.get(NodeId(node))
        if (text := _version_mismatch(request)) is not None:
            return pb.Refused(reason=pb.Refused.REASON_VERSION, text=text)
        if request.run_id != self._run_id:
            text = f"it belongs to run '{one_line(request.run_id)}': this is run '{self._run_id}'"
            return pb.Refused(reason=pb.Refused.REASON_RUN, text=text)
        if impostor is not None:
            return pb.Refused(reason=pb.Refused.REASON_CERTIFICATE, text=impostor)
        if self._ended is not None:
            return pb.Refused(reason=pb.Refused.REASON_ENDED, text=f"run '{self._run_id}' {self._ended}")
        if node >= self._num_nodes:
            text = f"node {node}: must be at least 0 and below {self._num_nodes}"
            return pb.Refused(reason=pb.Refused.REASON_NODE, text=text)
        if self._plan not in (None, plan):
            text = f"it has {_plan_text(plan)}: the nodes before it have {_plan_text(self._plan)}"
            return pb.Refused(reason=pb.Refused.REASON_PLAN, text=text)
        if known is not None and known.alive:
            text = f"node {node}: process {known.registration.pid} has registered as this node and is alive"
            return pb.Refused(reason=pb.Refused.REASON_DUPLICATE, text=text)
        return None

    async def _admit(self, run_id: str, node: int, context: Context) -> NodeConnection:
        """The node that calls; ends the call unless it is registered and alive."""
        if run_id != self._run_id:
            text = f"run '{one_line(run_id)}': this is run '{self._run_id}'"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        if (why := self._impostor(node, context)) is not None:
            _log.warning("refused a call at %s: %s", context.peer(), why)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, why)
        known = self._nodes.get(NodeId(node))
        if known is None or not known.alive:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"node {node}: is not registered")
        return known

    def _impostor(self, node: int, context: Context) -> str | None:
        why = tls.impostor(context, node_name(self._run_id, node), self._credentials)
        return None if why is None else f"node {node}: {why}"

    # -- statuses ----------------------------------------------------------------------------------------------

    async def _read_statuses(self, known: NodeConnection, message: Any, context: Context) -> None:
        """Take statuses until there are no more, then end the session."""
        try:
            while message is not grpc.aio.EOF:
                self._take_status(known, message)
                message = await context.read()
        finally:
            known.commands.put_nowait(None)

    def _take_status(self, known: NodeConnection, message: pb.Status) -> None:
        node = known.registration.node
        try:
            status = status_from_wire(message, self._num_nodes)
            if status.node != node:
                raise ProtocolError(f"node {status.node}: not the one that opened the session")
        except ProtocolError as error:
            if not known.complained:
                known.complained = True
                _log.warning("node %d: ignored a status, and will any like it: %s", node, error)
            return
        known.phase = status.phase
        self._listener.on_status(status)


def _registration(request: pb.RegisterRequest) -> Registration:
    """Read what a node says of itself."""
    return Registration(
        node=NodeId(request.node),
        peer_address=one_line(request.peer_address),
        pid=request.pid,
        num_params=request.num_params,
        plan_id=request.plan_id,
        software_version=one_line(request.software_version),
        metrics_address=one_line(request.metrics_address),
    )


async def _add_health_and_reflection(server: grpc.aio.Server) -> None:
    """Let standard probes and grpcurl ask the server."""
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    reflection.enable_server_reflection((_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    await state.set(_SERVICE, health_pb2.HealthCheckResponse.SERVING)


def _state(known: NodeConnection | None) -> str:
    """Describe what is known of a node, for a message to people."""
    if known is None:
        return "never registered"
    if not known.alive:
        return "gone"
    return "registered" if known.phase is None else known.phase.value


def _addresses(nodes: Mapping[NodeId, NodeConnection]) -> list[pb.PeerAddress]:
    """List where nodes serve their peers; those that are gone too, who may come back to the same address."""
    known = [(node, connection.registration) for node, connection in sorted(nodes.items())]
    return [pb.PeerAddress(node=node, address=registration.peer_address) for node, registration in known]


def _version_mismatch(request: pb.RegisterRequest) -> str | None:
    """Return why a node of another version cannot take part; None if it speaks this one's."""
    versions = (request.control_version, request.wire_version)
    if versions == (CONTROL_VERSION, WIRE_VERSION):
        return None
    return (
        f"it speaks control version {versions[0]} and wire version {versions[1]} (Fragmesh"
        f" {one_line(request.software_version)}): must be {CONTROL_VERSION} and {WIRE_VERSION}"
    )


def _close(known: NodeConnection) -> None:
    """The node is gone, and its session ends once it was told all that it was to be told."""
    known.alive = False
    known.commands.put_nowait(None)


def _plan_text(plan: tuple[int, int] | None) -> str:
    assert plan is not None
    return f"plan {plan[1]:#018x} for {plan[0]} parameters"


def _is_new(known: NodeConnection, head: pb.SnapshotHead | pb.RecordsHead) -> bool:
    """Return whether this upload was not taken before."""
    key = type(head).__name__.encode() + head.SerializeToString(deterministic=True)
    if key in known.uploads:
        return False
    known.uploads.add(key)
    return True


async def _told(context: Context, message: pb.Command | pb.BarrierState) -> bool:
    """Send a message; False if the node is gone, which gRPC would log as an error of ours."""
    try:
        await context.write(message)
    except grpc.aio.InternalError:
        return False
    return True


async def _first_part(context: Context) -> Any:
    part = await context.read()
    if part is grpc.aio.EOF or part.WhichOneof("part") != "head":
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an upload must begin with its head")
    return part


async def _data(context: Context, data_bytes: int, crc32: int) -> bytes:
    """The rest of an upload; ends the call when it is not what its head says."""
    received: list[bytes] = []
    size = 0
    while size <= data_bytes and (part := await context.read()) is not grpc.aio.EOF:
        # A second head counts as no data, so that the sum does not come out.
        received.append(part.data)
        size += len(part.data)
    data = b"".join(received)
    if size != data_bytes or zlib.crc32(data) != crc32:
        text = f"{size} bytes with checksum {zlib.crc32(data):#010x}: must be {data_bytes} with {crc32:#010x}"
        await context.abort(grpc.StatusCode.DATA_LOSS, text)
    return data
