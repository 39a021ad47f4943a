"""Mutual TLS between peers and with the orchestrator: who is let in, who is not, and what each is told."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import numpy as np
import pytest

from node.core.errors import TransportError
from node.host.credentials import Credentials, node_name, orchestrator_name
from node.transport import tls
from node.transport.frames import RejectReason
from node.transport.pb import control_pb2 as pb
from node.transport.pb.control_pb2_grpc import ControlStub
from node.transport.peer_server import METHOD
from orchestrator.runs.certificates import RunCredentials, issue_credentials
from tests.integration import test_control as control
from tests.integration import test_transport as peers
from tests.integration.test_transport import FRAME, ME, OTHER, PEER, VALUES, Receiver, Sender, until

HOUR_S = 3_600.0
"""Nobody waits so long: what ends a test with this deadline is not the deadline."""


def issued(run_id: str, valid: timedelta = timedelta(hours=1)) -> RunCredentials:
    return issue_credentials(run_id, 4, valid)


OURS, THEIRS = issued(peers.RUN), issued(peers.RUN)
"""Of this part of a run, and of another part."""
EXPIRED = issued(peers.RUN, timedelta(seconds=-1))
NOT_OURS = r"its certificate is none of this run's \(unable to get local issuer certificate\)"


def who_trusts(shown: Credentials, trusted: Credentials) -> Credentials:
    """Somebody who trusts one authority and shows what another one has certified."""
    return replace(shown, authority=trusted.authority)


# ---- peers


@asynccontextmanager
async def relay(address: str) -> AsyncIterator[tuple[str, bytearray]]:
    """A way to an address, and every byte that goes there."""
    seen = bytearray()
    host, port = address.rsplit(":", 1)

    async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter, kept: bytearray) -> None:
        while data := await source.read(2**16):
            kept += data
            to.write(data)
        to.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, far_writer, seen), copy(far_reader, writer, bytearray()))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield "{}:{}".format(*server.sockets[0].getsockname()), seen


@pytest.mark.parametrize("encrypted", [True, False])
def test_messages_arrive_and_nobody_between_can_read_them(encrypted: bool) -> None:
    mine, theirs = (OURS.nodes[ME], OURS.nodes[PEER]) if encrypted else (None, None)

    async def test() -> None:
        async with Receiver(credentials=theirs) as receiver, relay(receiver.address) as (address, seen):
            async with Sender({PEER: address}, credentials=mine) as sender:
                sent = [sender.send() for _ in range(20)]
                await until(lambda: len(sender.acknowledged) == 20)
            assert receiver.numbers == sent
            assert all(arrival.message.body.values.tobytes() == VALUES.tobytes() for arrival in receiver.arrivals)
            assert not receiver.server.rejected
            assert len(seen) > 20 * len(FRAME)
            assert (VALUES[100:120].tobytes() in seen) == (not encrypted)

    peers.run(test())


REFUSALS: dict[str, tuple[Credentials | None, Credentials | None, str]] = {
    "another part of the run": (THEIRS.nodes[ME], OURS.nodes[PEER], NOT_OURS),
    "a server of another authority": (
        OURS.nodes[ME],
        who_trusts(THEIRS.nodes[PEER], OURS.nodes[PEER]),
        NOT_OURS,
    ),
    "a client of another authority": (
        who_trusts(THEIRS.nodes[ME], OURS.nodes[ME]),
        OURS.nodes[PEER],
        "it hung up at once, perhaps because it does not accept this node's certificate",
    ),
    "expired": (
        EXPIRED.nodes[ME],
        EXPIRED.nodes[PEER],
        r"its certificate is none of this run's \(certificate has expired\)",
    ),
    "another node answers": (OURS.nodes[ME], OURS.nodes[OTHER], "its certificate is another one's"),
    "the orchestrator answers": (OURS.nodes[ME], OURS.orchestrator, "its certificate is another one's"),
    "plain text to TLS": (None, OURS.nodes[PEER], "it hung up at once, perhaps because it speaks TLS"),
    "TLS to plain text": (OURS.nodes[ME], None, "it does not speak TLS"),
}
"""(the sender's, the receiver's, what the sender is told)."""


@pytest.mark.parametrize(("mine", "theirs", "why"), REFUSALS.values(), ids=REFUSALS)
def test_a_stream_that_cannot_be_opened(
    mine: Credentials | None, theirs: Credentials | None, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its messages are lost at once, and one line says why."""

    async def test() -> None:
        async with Receiver(credentials=theirs) as receiver:
            async with Sender({PEER: receiver.address}, credentials=mine) as sender:
                number = sender.send(within_s=HOUR_S)
                await until(lambda: sender.lost)
                assert sender.lost == [(number, sender.client.troubles[PEER])]
                assert sender.client.unreachable == {PEER}
            assert receiver.server.frames == 0
            assert not receiver.server.rejected

    with caplog.at_level(logging.WARNING):
        peers.run(test())
    [line] = [record.message for record in caplog.records]
    assert re.fullmatch(rf"node {ME}: node {PEER} at 127.0.0.1:\d+: unavailable: {why}", line)


def test_a_client_without_a_certificate() -> None:
    async def test() -> None:
        async with Receiver(credentials=OURS.nodes[PEER]) as receiver:
            anonymous = grpc.ssl_channel_credentials(OURS.nodes[PEER].authority)
            options = [("grpc.ssl_target_name_override", node_name(peers.RUN, PEER))]
            async with grpc.aio.secure_channel(receiver.address, anonymous, options) as channel:
                call: Any = channel.stream_stream(METHOD)()  # type: ignore[var-annotated]
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    peers.run(test())


def test_a_node_cannot_speak_as_another_one(caplog: pytest.LogCaptureFixture) -> None:
    """Its certificate is the run's and valid, and it may send here: as itself."""

    async def test() -> None:
        async with Receiver(credentials=OURS.nodes[PEER]) as receiver:
            async with Sender({PEER: receiver.address}, credentials=OURS.nodes[OTHER]) as sender:
                for _ in range(2):
                    sender.send(within_s=HOUR_S)
                await until(lambda: len(sender.lost) == 2)
                assert sender.lost[0][1] == f"refused: sender {ME}: its certificate is of {node_name(peers.RUN, OTHER)}"
            assert not receiver.arrivals
            assert receiver.server.rejected == {RejectReason.IDENTITY: 1}
            async with Sender({PEER: receiver.address}, credentials=OURS.nodes[ME]) as sender:
                sender.send()
                await until(lambda: sender.acknowledged)

    with caplog.at_level(logging.WARNING):
        peers.run(test())
    said = [record.message for record in caplog.records if record.name.endswith("peer_server")]
    why = f"its certificate is of {node_name(peers.RUN, OTHER)}"
    assert said == [f"node {PEER}: dropped a message of node {ME} (identity): {why}"]


def test_a_peer_that_comes_back() -> None:
    async def test() -> None:
        async with Receiver(credentials=OURS.nodes[PEER]) as receiver:
            address = receiver.address
        async with Sender({PEER: address}, credentials=OURS.nodes[ME]) as sender:
            sender.send()
            await until(lambda: len(sender.lost) == 1)
            async with Receiver(address=address, credentials=OURS.nodes[PEER]):
                await until(lambda: sender.send() and sender.acknowledged)

    peers.run(test())


# ---- the orchestrator


RUN = issued("run")
"""Of the run that the tests of the control plane have."""


def test_a_node_lives_from_registration_to_its_records() -> None:
    async def scenario() -> None:
        async with control.orchestrator(2, credentials=RUN.orchestrator) as center:
            nodes = [control.Node(center.address, index, credentials=RUN.nodes[index]) for index in range(2)]
            for node in nodes:
                await node.enter()
            waiting = [asyncio.create_task(node.client.barrier("ready", control.WAIT_S)) for node in nodes]
            await center.server.reached("ready", control.WAIT_S)
            await asyncio.gather(*waiting)
            params = np.arange(control.NUM_PARAMS, dtype=np.float32)
            await nodes[1].client.upload_snapshot(nodes[1].info(), params)
            await nodes[1].client.upload_records("nothing", b"")
            [(info, arrived)] = center.seen.snapshots
            assert info.node == 1
            np.testing.assert_array_equal(arrived, params)
            await control.until(lambda: {status.node for status in center.seen.statuses} == {0, 1})
            await asyncio.gather(*(node.client.close() for node in nodes))
            await control.until(lambda: sorted(center.seen.ended) == [0, 1])

    control.run(scenario())


def test_a_node_cannot_register_as_another_one() -> None:
    async def scenario() -> None:
        async with control.orchestrator(2, credentials=RUN.orchestrator) as center:
            node = control.Node(center.address, 0, credentials=RUN.nodes[1])
            why = f"refuses node 0: node 0: its certificate is of {node_name('run', 1)}"
            with pytest.raises(TransportError, match=f"^orchestrator at {center.address}: {why}$"):
                await node.enter()
            assert not center.server.registered
            await node.client.close()

    control.run(scenario())


def status(node: int) -> Iterator[pb.Status]:
    yield pb.Status(node=node, phase=pb.Status.PHASE_WAITING)


CALLS: dict[str, Callable[[Any], Any]] = {
    "barrier": lambda stub: stub.Barrier(pb.BarrierRequest(run_id="run", node=0, point="ready")).read(),
    "session": lambda stub: stub.Session(status(0)).read(),
    "snapshot": lambda stub: stub.UploadSnapshot(
        iter([pb.SnapshotPart(head=pb.SnapshotHead(run_id="run", node=0, num_params=control.NUM_PARAMS))])
    ),
    "records": lambda stub: stub.UploadRecords(
        iter([pb.RecordsPart(head=pb.RecordsHead(run_id="run", node=0, name="messages"))])
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_node_cannot_call_as_another_one(call: Callable[[Any], Any]) -> None:
    async def scenario() -> None:
        async with control.orchestrator(2, credentials=RUN.orchestrator) as center:
            node = control.Node(center.address, 0, credentials=RUN.nodes[0])
            await node.client.connect(control.WAIT_S)
            await node.client.register("a:1", control.NUM_PARAMS, control.PLAN_ID)
            async with tls.channel(center.address, orchestrator_name("run"), RUN.nodes[1], []) as channel:
                error = await control.refused(call(ControlStub(channel)))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert error.details() == f"node 0: its certificate is of {node_name('run', 1)}"
            assert not center.seen.statuses
            assert not center.seen.snapshots
            assert not center.seen.records
            await node.client.close()

    control.run(scenario())


@pytest.mark.parametrize(
    ("mine", "theirs", "why"),
    [
        (issued("run").nodes[0], RUN.orchestrator, NOT_OURS),
        (RUN.nodes[0], issued("run").orchestrator, NOT_OURS),
        (
            *(lambda old: (old.nodes[0], old.orchestrator))(issued("run", timedelta(seconds=-1))),
            r"its certificate is none of this run's \(certificate has expired\)",
        ),
        (RUN.nodes[0], RUN.nodes[1], "its certificate is another one's"),
        (RUN.nodes[0], None, "it does not speak TLS"),
    ],
    ids=["another part", "another orchestrator", "expired", "a node in its place", "plain text"],
)
def test_an_orchestrator_that_is_not_the_runs(mine: Credentials, theirs: Credentials | None, why: str) -> None:
    """Trying again would not help: the node ends at once, and says why in one line."""

    async def scenario() -> None:
        async with control.orchestrator(1, credentials=theirs) as center:
            node = control.Node(center.address, 0, credentials=mine)
            with pytest.raises(TransportError) as caught:
                await node.client.connect(HOUR_S)
            address = re.escape(center.address)
            assert re.fullmatch(f"orchestrator at {address}: cannot be reached; {why}", str(caught.value))

    control.run(scenario())


@pytest.mark.parametrize(
    ("mine", "why"),
    [
        (None, "it hung up at once, perhaps because it speaks TLS"),
        (
            who_trusts(issued("run").nodes[0], RUN.nodes[0]),
            "it hung up at once, perhaps because it does not accept this node's certificate",
        ),
    ],
    ids=["plain text", "another authority"],
)
def test_an_orchestrator_that_hangs_up(mine: Credentials | None, why: str) -> None:
    """It may be on its way to its end, so that it is tried again until the time is over."""

    async def scenario() -> None:
        async with control.orchestrator(1, credentials=RUN.orchestrator) as center:
            node = control.Node(center.address, 0, credentials=mine)
            with pytest.raises(TransportError, match=f"^orchestrator at {center.address}: cannot be reached; {why}$"):
                await node.client.connect(0.5)

    control.run(scenario())
