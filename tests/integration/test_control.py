"""The control plane over real sockets: both sides in one process, and with the other side killed or frozen."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import grpc
import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from node.core.counters import NodeCounters
from node.core.errors import RunnerError, TransportError
from node.core.types import NodeId, Vector
from node.transport import control_client as client_module
from node.transport.control_client import ControlClient
from node.transport.control_values import (
    CONTROL_VERSION,
    ControlCommand,
    MeasureCommand,
    ModelSnapshot,
    NodeStatus,
    Phase,
    SnapshotPurpose,
    StartCommand,
    StopCommand,
)
from node.transport.control_wire import pieces as pieces_of
from node.transport.frames import WIRE_VERSION
from node.transport.pb import control_pb2 as pb
from node.transport.pb.control_pb2_grpc import ControlStub
from orchestrator.runs.control_server import ControlServer

T = TypeVar("T")

WAIT_S = 60.0
"""For what takes milliseconds on an idle machine: whoever waits so long has found a fault, on whatever host."""
PERIOD_S = 0.05
NUM_PARAMS = 90_000
PLAN_ID = 2**64 - 5
VERSIONS = f"{CONTROL_VERSION} and {WIRE_VERSION}"


@dataclass
class Seen:
    """What the server's callbacks were told."""

    statuses: list[NodeStatus] = field(default_factory=list)
    snapshots: list[tuple[ModelSnapshot, Vector]] = field(default_factory=list)
    records: list[tuple[NodeId, str, bytes]] = field(default_factory=list)
    ended: list[NodeId] = field(default_factory=list)

    def on_status(self, status: NodeStatus) -> None:
        self.statuses.append(status)

    def on_snapshot(self, info: ModelSnapshot, params: Vector) -> None:
        self.snapshots.append((info, params))

    def on_records(self, node: NodeId, name: str, data: bytes) -> None:
        self.records.append((node, name, data))

    def on_session_end(self, node: NodeId) -> None:
        self.ended.append(node)


@dataclass
class Orchestrator:
    """A server with its address and what it was told."""

    server: ControlServer
    address: str
    seen: Seen


class Node:
    """A client in session, with what it was told."""

    def __init__(self, address: str, index: int, **options: Any) -> None:
        self.index = NodeId(index)
        self.client = ControlClient(address, options.pop("run_id", "run"), self.index, **options)
        self.status = NodeStatus(self.index, Phase.PREPARING)
        self.commands: list[ControlCommand] = []

    async def enter(self, *, num_params: int = NUM_PARAMS, plan_id: int = PLAN_ID) -> None:
        """Connect, register and open the session."""
        await self.client.connect(WAIT_S)
        registered = await self.client.register(f"127.0.0.1:{5000 + self.index}", num_params, plan_id)
        self.client.open_session(lambda: self.status, self.commands.append, registered.status_period_s)

    def info(self, purpose: SnapshotPurpose = SnapshotPurpose.EVALUATION, time_ns: int = 5) -> ModelSnapshot:
        return ModelSnapshot(self.index, purpose, time_ns, NodeCounters(rounds=2, local_steps=7, train_loss=0.5))


def make_server(seen: Seen, num_nodes: int, **options: Any) -> ControlServer:
    return ControlServer("run", num_nodes, listener=seen, status_period_s=PERIOD_S, **options)


@asynccontextmanager
async def orchestrator(num_nodes: int, **options: Any) -> AsyncIterator[Orchestrator]:
    seen = Seen()
    server = make_server(seen, num_nodes, **options)
    address = await server.start("127.0.0.1", 0)
    try:
        yield Orchestrator(server, address, seen)
    finally:
        await server.stop(0)


@asynccontextmanager
async def network(num_nodes: int, **options: Any) -> AsyncIterator[tuple[Orchestrator, list[Node]]]:
    """A server with all its nodes in session."""
    async with orchestrator(num_nodes, **options) as center:
        nodes = [Node(center.address, index) for index in range(num_nodes)]
        try:
            for node in nodes:
                await node.enter()
            yield center, nodes
        finally:
            await asyncio.gather(*(node.client.close() for node in nodes))


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a scenario, not for ever."""
    return asyncio.run(asyncio.wait_for(scenario, 3 * WAIT_S))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


async def until_at(center: Orchestrator, point: str, *nodes: int) -> None:
    """Until these nodes, and no others, wait at a barrier."""
    barriers = center.server._barriers._points
    await until(lambda: point in barriers and barriers[point].arrived.keys() == set(nodes))


async def refused(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


# -- the whole life --------------------------------------------------------------------------------------------


def test_a_node_lives_from_registration_to_its_records() -> None:
    async def scenario() -> None:
        async with network(2) as (center, nodes):
            assert center.server.registered[NodeId(1)].pid == os.getpid()
            waiting = [asyncio.create_task(node.client.barrier("ready", WAIT_S)) for node in nodes]
            await center.server.reached("ready", WAIT_S)
            addresses = await asyncio.gather(*waiting)
            assert addresses == [{0: "127.0.0.1:5000", 1: "127.0.0.1:5001"}] * 2

            commands: list[ControlCommand] = [
                MeasureCommand(10**9),
                StartCommand(1_700_000_000 * 10**9, 5 * 10**9),
                StopCommand("time is up", 10**9, True),
            ]
            for command in commands:
                center.server.command(command)
            await until(lambda: all(len(node.commands) == len(commands) for node in nodes))
            assert [node.commands for node in nodes] == [commands] * 2

            params = np.arange(NUM_PARAMS, dtype=np.float32)
            params[3] = np.nan
            await nodes[1].client.upload_snapshot(nodes[1].info(SnapshotPurpose.FINAL), params)
            [(info, arrived)] = center.seen.snapshots
            assert info == nodes[1].info(SnapshotPurpose.FINAL)
            np.testing.assert_array_equal(arrived, params)
            assert not arrived.flags.writeable

            data = os.urandom(1_000_000)
            await nodes[1].client.upload_records("messages", data)
            await nodes[1].client.upload_records("nothing", b"")
            assert center.seen.records == [(1, "messages", data), (1, "nothing", b"")]

            nodes[1].status = NodeStatus(nodes[1].index, Phase.STOPPING, time_ns=9, counters=NodeCounters(rounds=3))
            await nodes[1].client.close()
            await until(lambda: center.seen.ended == [1])
            assert [status for status in center.seen.statuses if status.node == 1][-1] == nodes[1].status
            assert not nodes[1].client.lost.is_set()

    run(scenario())


def test_a_status_comes_every_period_and_when_something_changed() -> None:
    async def scenario() -> None:
        async with orchestrator(1) as center:
            node = Node(center.address, 0)
            await node.client.connect(WAIT_S)
            await node.client.register("a:1", NUM_PARAMS, PLAN_ID)
            node.client.open_session(lambda: node.status, node.commands.append, period_s=3600.0)
            await until(lambda: len(center.seen.statuses) == 1)
            node.status = replace(node.status, phase=Phase.RUNNING)
            node.client.report()
            await until(lambda: len(center.seen.statuses) == 2)
            assert center.seen.statuses[-1] == node.status
            await node.client.close()
        async with network(1) as (center, _):
            await until(lambda: len(center.seen.statuses) >= 4)

    run(scenario())


def test_commands_keep_their_order_wherever_they_were_given() -> None:
    """Before the session and during it, to all and to some."""

    async def scenario() -> None:
        async with orchestrator(2) as center:
            nodes = [Node(center.address, index) for index in range(2)]
            for node in nodes:
                await node.client.connect(WAIT_S)
                await node.client.register("a:1", NUM_PARAMS, PLAN_ID)
            for number in range(100):
                center.server.command(MeasureCommand(number))
            for node in nodes:
                node.client.open_session(lambda node=node: node.status, node.commands.append, PERIOD_S)  # type: ignore[misc]
            center.server.command(MeasureCommand(100), [NodeId(1), NodeId(7)])
            for number in range(101, 300):
                center.server.command(MeasureCommand(number))
                if number % 20 == 0:
                    await asyncio.sleep(0)
            await until(lambda: len(nodes[0].commands) == 299 and len(nodes[1].commands) == 300)
            assert nodes[0].commands == [MeasureCommand(number) for number in range(300) if number != 100]
            assert nodes[1].commands == [MeasureCommand(number) for number in range(300)]
            await asyncio.gather(*(node.client.close() for node in nodes))

    run(scenario())


def test_sixty_nodes_hand_over_their_models_at_once() -> None:
    async def scenario() -> float:
        async with network(60) as (center, nodes):
            waiting = [asyncio.create_task(node.client.barrier("ready", WAIT_S)) for node in nodes]
            await center.server.reached("ready", WAIT_S)
            assert all(len(addresses) == 60 for addresses in await asyncio.gather(*waiting))
            models = [np.full(NUM_PARAMS, node.index, np.float32) for node in nodes]
            async with longest_stall() as stall_s:
                await asyncio.gather(
                    *(
                        node.client.upload_snapshot(node.info(), model)
                        for node, model in zip(nodes, models, strict=True)
                    )
                )
            assert sorted(info.node for info, _ in center.seen.snapshots) == list(range(60))
            assert all((params == info.node).all() for info, params in center.seen.snapshots)
            center.server.command(StopCommand("end", 0, False))
            await until(lambda: all(node.commands for node in nodes))
        assert sorted(center.seen.ended) == list(range(60))
        return max(stall_s)

    # Both sides of 60 uploads share this loop. Work in Python for every byte would hold it up for longer than that.
    began = time.thread_time()
    for _ in bytes(4 * NUM_PARAMS):
        pass
    work_for_every_byte_s = 60 * (time.thread_time() - began)
    stall_s = run(scenario())
    assert stall_s < work_for_every_byte_s, (stall_s, work_for_every_byte_s)


@asynccontextmanager
async def longest_stall() -> AsyncIterator[list[float]]:
    """How much this thread computed between two rounds of the event loop, seconds; filled while the block lasts."""
    found = [0.0]

    async def watch() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            found.append(time.thread_time() - before)

    task = asyncio.create_task(watch())
    try:
        yield found
    finally:
        task.cancel()


# -- registration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason", "text"),
    [
        (
            {"control_version": 99},
            "VERSION",
            rf"control version 99 and wire version {WIRE_VERSION} \(Fragmesh 0.9\): must be {VERSIONS}",
        ),
        ({"wire_version": 99}, "VERSION", f"control version {CONTROL_VERSION} and wire version 99"),
        ({"run_id": "older"}, "RUN", "it belongs to run 'older': this is run 'run'"),
        ({"node": 2}, "NODE", "node 2: must be at least 0 and below 2"),
        ({"node": 2**32 - 1}, "NODE", "node 4294967295: must be"),
        ({"num_params": 5}, "PLAN", "for 5 parameters: the nodes before it have plan 0xfffffffffffffffb for 90000"),
        ({"plan_id": 6}, "PLAN", "plan 0x0000000000000006 for 90000 parameters"),
        ({"node": 0}, "DUPLICATE", f"node 0: process {os.getpid()} has registered as this node and is alive"),
    ],
)
def test_a_node_that_does_not_belong_here_is_told_why(change: dict[str, Any], reason: str, text: str) -> None:
    async def scenario() -> pb.RegisterReply:
        async with orchestrator(2) as center, raw_stub(center.address) as stub:
            first = Node(center.address, 0)
            await first.enter()
            request = pb.RegisterRequest(
                control_version=CONTROL_VERSION,
                wire_version=WIRE_VERSION,
                software_version="0.9",
                run_id="run",
                node=1,
                num_params=NUM_PARAMS,
                plan_id=PLAN_ID,
            )
            request.MergeFrom(pb.RegisterRequest(**change))
            if change.get("node") == 0:  # what has the default value is not merged
                request.node = 0
            reply: pb.RegisterReply = await stub.Register(request)
            assert set(center.server.registered) == {0}
            await first.client.close()
            return reply

    reply = run(scenario())
    assert pb.Refused.Reason.Name(reply.refused.reason) == f"REASON_{reason}"
    assert_matches(text, reply.refused.text)


def test_a_refused_node_raises_the_orchestrators_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CONTROL_VERSION", 99)

    async def scenario() -> None:
        async with orchestrator(1) as center:
            node = Node(center.address, 0)
            text = f"refuses node 0: it speaks control version 99 .*: must be {VERSIONS}$"
            with pytest.raises(TransportError, match=text):
                await node.enter()
            await node.client.close()

    run(scenario())


def test_nobody_registers_once_the_run_is_being_stopped() -> None:
    async def scenario() -> None:
        async with orchestrator(2) as center:
            center.server.command(StopCommand("enough", 0, False), [NodeId(0)])  # not to all: not the end
            nodes = [Node(center.address, index) for index in range(2)]
            await nodes[0].enter()
            center.server.command(StopCommand("enough", 0, False))
            with pytest.raises(TransportError, match="refuses node 1: run 'run' is being stopped: enough"):
                await nodes[1].enter()
            await asyncio.gather(*(node.client.close() for node in nodes))

    run(scenario())


def test_a_node_that_is_gone_may_come_back() -> None:
    async def scenario() -> None:
        async with orchestrator(2) as center:
            first = Node(center.address, 0)
            await first.enter()
            await until(lambda: center.seen.statuses)
            await first.client.close()
            await until(lambda: center.seen.ended == [0])
            center.server.forget(NodeId(0))
            await center.server.reached("without it", WAIT_S, expected={NodeId(0)})
            again = Node(center.address, 0)
            await again.enter()
            with pytest.raises(RunnerError, match=r"^node 0 did not come"):
                await center.server.reached("with it", 0.1, expected={NodeId(0)})
            center.server.command(MeasureCommand(1))
            await until(lambda: again.commands == [MeasureCommand(1)])
            assert first.commands == []
            await again.client.close()
            await until(lambda: center.seen.ended == [0, 0])

    run(scenario())


def test_nothing_is_taken_from_who_is_not_registered() -> None:
    async def scenario() -> None:
        async with network(1) as (center, nodes), raw_stub(center.address) as stub:
            stranger = await refused(anext(aiter(stub.Barrier(pb.BarrierRequest(run_id="run", node=7, point="p")))))
            assert stranger.details() == "node 7: is not registered"
            other = await refused(anext(aiter(stub.Barrier(pb.BarrierRequest(run_id="old", node=0, point="p")))))
            assert other.details() == "run 'old': this is run 'run'"
            session = await refused(anext(aiter(stub.Session(iter([pb.Status(node=7)])))))
            assert session.details() == "node 7: is not registered"
            second = await refused(anext(aiter(stub.Session(iter([pb.Status(node=0)])))))
            assert second.details() == "node 0: has a session already"
            assert not nodes[0].client.lost.is_set()
            assert center.seen.ended == []

    run(scenario())


# -- barriers --------------------------------------------------------------------------------------------------


def test_a_barrier_names_who_is_missing_on_both_sides() -> None:
    async def scenario() -> None:
        async with orchestrator(6) as center:
            nodes = [Node(center.address, index) for index in (0, 1, 2)]
            for node in nodes:
                await node.enter()
            await until(lambda: {status.node for status in center.seen.statuses} == {0, 1, 2})
            await nodes[2].client.close()
            await until(lambda: center.seen.ended == [2])
            with pytest.raises(TransportError, match=r"^nodes 1, 2 and 3 more did not come to 'ready' within 0.2 s$"):
                await nodes[0].client.barrier("ready", 0.2)
            with pytest.raises(RunnerError) as caught:
                await center.server.reached("ready", 0.1)
            text = "nodes 0, 1 and 4 more did not come to 'ready' within 0.1 s (0: preparing; 1: preparing)"
            assert str(caught.value) == text
            with pytest.raises(RunnerError, match=r"nodes 1, 2 and 5 .*\(1: preparing; 2: gone; 5: never registered\)"):
                await center.server.reached("other", 0.1, expected={NodeId(1), NodeId(2), NodeId(5)})
            await asyncio.gather(*(node.client.close() for node in nodes))

    run(scenario())


def test_who_leaves_a_barrier_is_missing_until_it_comes_back() -> None:
    async def scenario() -> None:
        async with network(2) as (center, nodes):
            first = asyncio.create_task(nodes[0].client.barrier("ready", WAIT_S))
            await until_at(center, "ready", 0)
            with pytest.raises(RunnerError, match=r"^node 1 did not come"):
                await center.server.reached("ready", 0.1)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await until_at(center, "ready")
            with pytest.raises(TransportError, match=r"^node 0 did not come"):
                await nodes[1].client.barrier("ready", 0.3)
            await until_at(center, "ready")
            with pytest.raises(RunnerError, match=r"^nodes 0 and 1 did not come"):
                await center.server.reached("ready", 0.1)
            both = asyncio.gather(*(node.client.barrier("ready", WAIT_S) for node in nodes))
            await center.server.reached("ready", WAIT_S)
            assert [len(addresses) for addresses in await both] == [2, 2]
            # Released once is released for good.
            assert len(await nodes[0].client.barrier("ready", WAIT_S)) == 2

    run(scenario())


def test_a_barrier_does_not_wait_for_the_dead() -> None:
    async def scenario() -> None:
        async with network(3) as (center, nodes):
            waiting = [asyncio.create_task(node.client.barrier("ready", WAIT_S)) for node in nodes[:2]]
            await until_at(center, "ready", 0, 1)
            with pytest.raises(RunnerError, match=r"^node 2 did not come"):
                await center.server.reached("ready", 0.1)
            center.server.forget(NodeId(2))
            await center.server.reached("ready", WAIT_S)
            assert [set(addresses) for addresses in await asyncio.gather(*waiting)] == [
                {0, 1, 2}
            ] * 2  # it may come back
            await until(nodes[2].client.lost.is_set)
            await until(lambda: center.seen.ended == [2])
            with pytest.raises(TransportError, match="node 2: is not registered"):
                await nodes[2].client.barrier("later", WAIT_S)

    run(scenario())


def test_a_node_that_is_given_up_while_it_waits_is_told() -> None:
    async def scenario() -> None:
        async with network(2) as (center, nodes):
            waiting = asyncio.create_task(nodes[0].client.barrier("ready", WAIT_S))
            await until_at(center, "ready", 0)
            with pytest.raises(RunnerError, match=r"^node 1 did not come"):
                await center.server.reached("ready", 0.1)
            center.server.forget(NodeId(0))
            with pytest.raises(TransportError, match="node 0 was given up"):
                await waiting

    run(scenario())


def test_a_slow_starter_is_waited_for() -> None:
    async def scenario() -> None:
        async with orchestrator(2) as center:
            nodes = [Node(center.address, index) for index in range(2)]
            await nodes[0].enter()
            first = asyncio.create_task(nodes[0].client.barrier("ready", WAIT_S))
            reached = asyncio.create_task(center.server.reached("ready", WAIT_S))
            await until_at(center, "ready", 0)
            assert not first.done()
            assert not reached.done()
            await nodes[1].enter()
            await asyncio.gather(first, reached, nodes[1].client.barrier("ready", WAIT_S))
            await asyncio.gather(*(node.client.close() for node in nodes))

    run(scenario())


def test_a_node_may_be_up_before_the_orchestrator() -> None:
    async def scenario() -> None:
        async with orchestrator(1) as center:
            address = center.address
        node = Node(address, 0)
        entering = asyncio.create_task(node.enter())
        await until(lambda: node.client._channel is not None)
        channel = node.client._channel
        assert channel is not None
        await until(lambda: channel.get_state() == grpc.ChannelConnectivity.TRANSIENT_FAILURE)
        assert not entering.done()
        seen = Seen()
        server = make_server(seen, 1)
        await server.start("127.0.0.1", int(address.rpartition(":")[2]))
        await entering
        await node.client.close()
        await server.stop(0)

    run(scenario())


# -- uploads ---------------------------------------------------------------------------------------------------


def damage(times: int, monkeypatch: pytest.MonkeyPatch, harm: Callable[[bytes], bytes]) -> None:
    """Harm the first piece of the next uploads."""
    whole, left = pieces_of, [times]

    def pieces(data: memoryview) -> Iterator[bytes]:
        for number, piece in enumerate(whole(data)):
            if number == 0 and left[0] > 0:
                left[0] -= 1
                yield harm(piece)
            else:
                yield piece

    monkeypatch.setattr(client_module, "pieces", pieces)
    monkeypatch.setattr(client_module, "UPLOAD_RETRY_S", 0.01)


HARMS = {
    "flipped": lambda piece: piece[:7] + bytes([piece[7] ^ 1]) + piece[8:],
    "short": lambda piece: piece[:-1],
    "long": lambda piece: piece + bytes(3),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_arrives_damaged_is_refused_and_sent_again(harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with network(1) as (center, nodes):
            damage(1, monkeypatch, HARMS[harm])
            params = np.arange(NUM_PARAMS, dtype=np.float32)
            await nodes[0].client.upload_snapshot(nodes[0].info(), params)
            [(_, arrived)] = center.seen.snapshots
            np.testing.assert_array_equal(arrived, params)
            damage(1, monkeypatch, HARMS[harm])
            await nodes[0].client.upload_records("messages", b"0123456789")
            assert center.seen.records == [(0, "messages", b"0123456789")]

            damage(100, monkeypatch, HARMS[harm])
            with pytest.raises(
                TransportError, match=r"snapshot: data loss: .* bytes with checksum .*: must be 360000 "
            ):
                await nodes[0].client.upload_snapshot(nodes[0].info(time_ns=6), params)
            assert len(center.seen.snapshots) == 1

    run(scenario())


def test_what_was_sent_twice_is_taken_once() -> None:
    """A receipt can be lost on its way."""

    async def scenario() -> None:
        async with network(1) as (center, nodes):
            params = np.zeros(NUM_PARAMS, np.float32)
            for time_ns in (5, 5, 6):
                await nodes[0].client.upload_snapshot(nodes[0].info(time_ns=time_ns), params)
            for data in (b"a", b"a", b"b"):
                await nodes[0].client.upload_records("messages", data)
            assert [info.time_ns for info, _ in center.seen.snapshots] == [5, 6]
            assert [data for _, _, data in center.seen.records] == [b"a", b"b"]

    run(scenario())


def test_an_upload_that_cannot_be_right_is_not_tried_again() -> None:
    async def scenario() -> None:
        async with network(1, records_bytes_max=1000) as (center, nodes), raw_stub(center.address) as stub:
            client = nodes[0].client
            with pytest.raises(TransportError, match="snapshot of 5 parameters: the model has 90000"):
                await client.upload_snapshot(nodes[0].info(), np.zeros(5, np.float32))
            with pytest.raises(TransportError, match="records 'messages' of 1001 bytes: must be at most 1000"):
                await client.upload_records("messages", bytes(1001))
            with pytest.raises(TransportError, match=r"records '../../etc': the name must be"):
                await client.upload_records("../../etc", b"")

            head = pb.SnapshotHead(run_id="run", node=0, num_params=NUM_PARAMS)
            for parts, text in (
                ([], "an upload must begin with its head"),
                ([pb.SnapshotPart(data=b"1")], "an upload must begin with its head"),
                ([pb.SnapshotPart(head=pb.SnapshotHead(run_id="old"))], "run 'old': this is run 'run'"),
                ([pb.SnapshotPart(head=pb.SnapshotHead(run_id="run", node=4))], "node 4: is not registered"),
                ([pb.SnapshotPart(head=head)], "purpose 0: unknown"),
            ):
                assert (await refused(stub.UploadSnapshot(iter(parts)))).details() == text
            assert (center.seen.snapshots, center.seen.records) == ([], [])

    run(scenario())


# -- statuses and commands that make no sense ------------------------------------------------------------------


def test_a_status_that_makes_no_sense_ends_nothing() -> None:
    async def scenario() -> None:
        async with network(2) as (center, nodes), raw_stub(center.address) as stub:
            await nodes[1].client.close()
            await until(lambda: center.seen.ended == [1])
            center.server.forget(NodeId(1))
            again = Node(center.address, 1)
            await again.client.connect(WAIT_S)
            await again.client.register("a:1", NUM_PARAMS, PLAN_ID)
            center.seen.statuses.clear()
            running = pb.Status.PHASE_RUNNING
            big = 2**64 - 1
            odd = [
                pb.Status(node=1),
                pb.Status(node=1, phase=77),  # type: ignore[arg-type]
                pb.Status(node=0, phase=running),
                pb.Status(node=2**32 - 1, phase=running),
                pb.Status(
                    node=1,
                    phase=running,
                    counters=pb.Counters(real={"train_loss": float("nan")}),
                    unreachable=[2**32 - 1, 0],
                ),
                pb.Status(
                    node=1, phase=running, time_ns=-(2**63), counters=pb.Counters(whole={"rounds": big, "cpu_ns": big})
                ),
                pb.Status(node=1, phase=running, messages_rejected={f"r\n{i}": big for i in range(1000)}),
                pb.Status(node=1, phase=running, failure="x\n" * 10**6),
                pb.Status(node=1, phase=running, counters=pb.Counters(whole={"rounds": 5})),
            ]
            call = stub.Session(iter(odd))
            await until(lambda: center.seen.ended == [1, 1])
            assert [s.counters.rounds for s in center.seen.statuses if s.node == 1] == [0, big, 0, 0, 5]
            assert await call.code() == grpc.StatusCode.OK
            # A message that is no protobuf ends its own call and nothing else.
            broken = stream_of_bytes(center.address, "/fragmesh.v1.Control/Session", [b"\xff\xff\xff"])
            assert "DecodeError" in ((await refused(broken)).details() or "")
            assert not nodes[0].client.lost.is_set()
            await again.client.close()

    run(scenario())


def test_a_command_that_makes_no_sense_is_left_out() -> None:
    async def scenario() -> None:
        async with network(1) as (center, nodes):
            queue = center.server._nodes[NodeId(0)].commands
            queue.put_nowait(pb.Command())
            queue.put_nowait(pb.Command.FromString(b"\x12\x00"))  # of an earlier version: field 2, empty
            center.server.command(MeasureCommand(3))
            await until(lambda: nodes[0].commands)
            assert nodes[0].commands == [MeasureCommand(3)]
            assert not nodes[0].client.lost.is_set()

    run(scenario())


@pytest.mark.parametrize("place", ["command", "status"])
def test_a_bug_in_a_callback_ends_the_node_and_does_not_hang_it(place: str) -> None:
    def fail(*_: object) -> Any:
        raise ZeroDivisionError

    async def scenario() -> None:
        async with orchestrator(1) as center:
            node = Node(center.address, 0)
            await node.client.connect(WAIT_S)
            await node.client.register("a:1", NUM_PARAMS, PLAN_ID)
            if place == "status":
                node.client.open_session(fail, node.commands.append, PERIOD_S)
            else:
                node.client.open_session(lambda: node.status, fail, PERIOD_S)
                center.server.command(MeasureCommand(3))
            await until(node.client.lost.is_set)
            await node.client.close()

    run(scenario())


def test_a_bug_in_a_servers_callback_ends_that_session_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with network(2) as (center, nodes):

            def on_status(status: NodeStatus) -> None:
                if status.node == 0:
                    raise ZeroDivisionError
                center.seen.statuses.append(status)

            center.server._listener.on_status = on_status
            await until(nodes[0].client.lost.is_set)
            assert center.seen.ended == [0]
            before = len(center.seen.statuses)
            await until(lambda: len(center.seen.statuses) > before + 1)
            assert not nodes[1].client.lost.is_set()

    run(scenario())
    assert "ZeroDivisionError" in caplog.text


# -- the other side is gone ------------------------------------------------------------------------------------


def test_the_nodes_end_when_the_server_stops() -> None:
    async def scenario() -> None:
        async with network(3) as (center, nodes):
            waiting = asyncio.create_task(nodes[0].client.barrier("never", WAIT_S))
            await until(lambda: len({status.node for status in center.seen.statuses}) == 3)
            await center.server.stop(60 * WAIT_S)  # which is not waited for
            for node in nodes:
                await asyncio.wait_for(node.client.lost.wait(), WAIT_S)
            with pytest.raises(TransportError, match=r"barrier 'never': .*the run is over|unavailable"):
                await waiting
            assert sorted(center.seen.ended) == [0, 1, 2]
            with pytest.raises(TransportError, match="snapshot: "):
                await nodes[1].client.upload_snapshot(nodes[1].info(), np.zeros(NUM_PARAMS, np.float32))

    run(scenario())


SERVE = """
import asyncio
from tests.integration.test_control import Seen, make_server

async def serve():
    print(await make_server(Seen(), 1, keepalive_s=0.2, keepalive_timeout_s=3.0).start("127.0.0.1", 0), flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""
JOIN = """
import asyncio, sys
from tests.integration.test_control import Node

async def join():
    await Node(sys.argv[1], 0).enter()
    await asyncio.Event().wait()

asyncio.run(join())
"""


@contextmanager
def process(code: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A Python process of its own, killed at the end whatever happens."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


KEEPALIVE = {"keepalive_s": 0.2, "keepalive_timeout_s": 3.0}
"""Frequent, but so that a host which does not let a process run for seconds does not make it a dead one."""
SILENCES_S = 1.0
"""Several times ``keepalive_s``."""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_node_learns_that_its_orchestrator_was_killed_or_froze(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CLOSE_TIMEOUT_S", 60 * WAIT_S)  # no farewell to the dead is waited for

    async def scenario(orchestrator: "subprocess.Popen[str]", address: str) -> None:
        node = Node(address, 0, **KEEPALIVE)
        await node.enter()
        waiting = asyncio.create_task(node.client.barrier("other", WAIT_S))
        assert len(await waiting) == 1
        await asyncio.sleep(SILENCES_S)
        assert not node.client.lost.is_set(), "an orchestrator that lives was given up"
        orchestrator.send_signal(number)
        await asyncio.wait_for(node.client.lost.wait(), WAIT_S)
        await node.client.close()

    with process(SERVE) as orchestrator:
        assert orchestrator.stdout is not None
        run(scenario(orchestrator, orchestrator.stdout.readline().strip()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_orchestrator_learns_that_a_node_was_killed_or_froze(number: signal.Signals) -> None:
    async def scenario() -> None:
        async with orchestrator(1, **KEEPALIVE) as center:
            with process(JOIN, center.address) as node:
                await until(lambda: len(center.seen.statuses) > 3)
                assert center.server.registered[NodeId(0)].pid == node.pid
                node.send_signal(number)
                await until(lambda: center.seen.ended)
            await asyncio.sleep(0.1)
            assert center.seen.ended == [0]

    run(scenario())


UPLOAD = """
import asyncio, sys
import grpc.aio
from node.transport.pb import control_pb2 as pb
from node.transport.pb.control_pb2_grpc import ControlStub
from tests.integration.test_control import Node, NUM_PARAMS

async def upload():
    await Node(sys.argv[1], 0).enter()

    async def parts():
        yield pb.SnapshotPart(head=pb.SnapshotHead(run_id="run", node=0, purpose=1, num_params=NUM_PARAMS))
        yield pb.SnapshotPart(data=bytes(1000))
        print("half way", flush=True)
        await asyncio.Event().wait()

    await ControlStub(grpc.aio.insecure_channel(sys.argv[1])).UploadSnapshot(parts())

asyncio.run(upload())
"""


@pytest.mark.parametrize("code", [JOIN, UPLOAD])
def test_a_node_killed_while_it_is_spoken_with_is_no_error_of_the_server(
    code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """More commands wait than the connection takes, or half an upload was taken."""
    long = StopCommand("x" * 500, 0, False)

    async def scenario() -> None:
        async with orchestrator(1) as center:
            with process(code, center.address) as node:
                if code is UPLOAD:
                    assert node.stdout is not None
                    await asyncio.to_thread(node.stdout.readline)
                await until(lambda: center.seen.statuses)
                for _ in range(40_000):
                    center.server.command(long, [NodeId(0)])
                await asyncio.sleep(0.05)
                node.kill()
                await until(lambda: center.seen.ended)
            await asyncio.sleep(0.1)
            assert (center.seen.ended, center.seen.snapshots) == ([0], [])

    run(scenario())
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_busy_orchestrator_is_not_a_dead_one() -> None:
    """Its interpreter is held for longer than the keepalive allows for silence, until this test lets it go."""
    code = SERVE.replace(
        "    await asyncio.Event().wait()",
        """    import ctypes, os, sys
    await asyncio.to_thread(sys.stdin.readline)
    print("held", flush=True)
    ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(1), 1)  # keeps the interpreter's lock
    await asyncio.Event().wait()""",
    )

    async def scenario(orchestrator: "subprocess.Popen[str]", address: str) -> None:
        assert orchestrator.stdin is not None
        assert orchestrator.stdout is not None
        node = Node(address, 0, keepalive_s=0.1, keepalive_timeout_s=1.0)
        await node.enter()
        orchestrator.stdin.write("\n")
        orchestrator.stdin.flush()
        assert await asyncio.to_thread(orchestrator.stdout.readline) == "held\n"
        await asyncio.sleep(3.0)
        assert not node.client.lost.is_set()
        orchestrator.stdin.write("\n")
        orchestrator.stdin.flush()
        assert len(await node.client.barrier("after it", WAIT_S)) == 1
        await node.client.close()

    with process(code) as orchestrator:
        assert orchestrator.stdout is not None
        run(scenario(orchestrator, orchestrator.stdout.readline().strip()))


# -- addresses and standard services ---------------------------------------------------------------------------


def test_a_port_that_is_taken_is_named() -> None:
    async def scenario() -> None:
        async with orchestrator(1) as center:
            host, _, port = center.address.rpartition(":")
            with pytest.raises(TransportError, match=f"^{center.address}: cannot be served: the port is taken"):
                await make_server(Seen(), 1).start(host, int(port))

    run(scenario())


def test_an_orchestrator_that_is_not_there_is_named() -> None:
    async def scenario() -> None:
        async with orchestrator(1) as center:
            address = center.address
        node = Node(address, 0)
        with pytest.raises(TransportError, match=f"^orchestrator at {address}: cannot be reached; tried for 0.3 s$"):
            await node.client.connect(0.3)
        await node.client.close()

    run(scenario())


def test_a_node_that_waits_for_its_orchestrator_leaves_the_cores_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty that asked as fast as they could kept an orchestrator from serving for minutes."""
    asked = []
    attempt = ControlClient._attempt

    async def counted(client: ControlClient) -> str:
        asked.append(client)
        return await attempt(client)

    monkeypatch.setattr(ControlClient, "_attempt", counted)

    async def scenario() -> None:
        async with orchestrator(1) as center:
            address = center.address
        node = Node(address, 0)
        with pytest.raises(TransportError, match="cannot be reached"):
            await node.client.connect(1.5)
        await node.client.close()

    run(scenario())
    assert 1 <= len(asked) <= 5  # once for each attempt of gRPC, which waits 1 s between two


def test_health_and_reflection_are_served() -> None:
    async def scenario() -> None:
        async with orchestrator(1) as center, grpc.aio.insecure_channel(center.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", "fragmesh.v1.Control"):
                reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
            ask = [reflection_pb2.ServerReflectionRequest(list_services="")]
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            listed = [answer async for answer in stub.ServerReflectionInfo(iter(ask))]
            names = {service.name for service in listed[0].list_services_response.service}
            assert {"fragmesh.v1.Control", "grpc.health.v1.Health"} <= names

    run(scenario())


# -- raw access ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def raw_stub(address: str) -> AsyncIterator[Any]:
    """The generated stub, for what the client would never send."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield ControlStub(channel)


async def stream_of_bytes(address: str, method: str, messages: list[bytes]) -> list[bytes]:
    """Call a method with messages as they are."""
    async with grpc.aio.insecure_channel(address) as channel:
        return [reply async for reply in channel.stream_stream(method)(iter(messages))]


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text
