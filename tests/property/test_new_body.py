"""A body of messages that is new: one class, and an algorithm that sends it. Nothing else changes.

Chosen coordinates with their positions, as compressed algorithms send them: its indices are bytes that the fragments of
a plan do not have, and it has a field of its own before them.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.algorithm import Algorithm, NodeContext
from node.core.bodies import WHOLE_MODEL, BodyMismatchError, ModelShape
from node.core.compute import ComputePlan
from node.core.effects import Aggregated, Effect, Enqueue, StartLocalSteps
from node.core.events import Event, LocalStepsDone, MessageReceived, Started
from node.core.messages import Message, frozen
from node.core.topology import ring
from node.core.training import QuadraticTrainer
from node.core.types import IndexVector, NodeId, Vector
from node.core.wire_values import Buffer, WireDtype, from_wire, through_wire, to_wire
from node.sim.saved_world import restore_world, save_world
from node.sim.world import World
from node.transport.frames import HEADER_BYTES, FrameRejectedError, RejectReason, WireContext, decode, encode
from orchestrator.host.dilation import observe_traffic
from tests.simulation.build import network

PLAN_ID = 5
NUM_PARAMS = 12
CHOSEN = 4


@dataclass(frozen=True, slots=True)
class Chosen:
    """Some coordinates of a model: four bytes of a scale, a position of four bytes a value, the values."""

    layout: ClassVar[int] = 77
    fragment: ClassVar[int] = WHOLE_MODEL
    is_control: ClassVar[bool] = False
    header_bytes: ClassVar[int] = 4

    indices: IndexVector
    values: Vector
    scale: float = 1.0

    @property
    def index_bytes(self) -> int:
        return 4 * len(self.indices)

    def payload_bytes(self, dtype: WireDtype) -> int:
        return len(self.values) * dtype.value_bytes

    def wire_bytes(self, dtype: WireDtype) -> int:
        return self.size(len(self.values), dtype)

    @staticmethod
    def size(count: int, dtype: WireDtype) -> int:
        return 4 + count * (4 + dtype.value_bytes)

    def parts(self, dtype: WireDtype) -> tuple[Buffer, ...]:
        return struct.pack("<f", self.scale), self.indices.astype("<u4").tobytes(), to_wire(self.values, dtype)

    def received(self, dtype: WireDtype) -> "Chosen":
        return Chosen(self.indices, through_wire(self.values, dtype), self.scale)

    @classmethod
    def read(
        cls, data: Buffer, offset: int, count: int, fragment: int, dtype: WireDtype, shape: ModelShape
    ) -> "Chosen":
        (scale,) = struct.unpack_from("<f", data, offset)
        indices = np.frombuffer(data, "<u4", count, offset + 4).astype(np.int64)
        if fragment != WHOLE_MODEL or np.any(np.diff(indices) <= 0) or (count and indices[-1] >= shape.num_params):
            raise BodyMismatchError("positions must increase and lie in the model")
        return cls(indices, from_wire(data, count, dtype, offset + 4 + 4 * count), scale)


class SparseTag(IntEnum):
    TOP = 9


class Sparse(Algorithm):
    """Sends its largest coordinates to its neighbors, and takes over theirs."""

    carries = {SparseTag.TOP: Chosen}

    def __init__(self, context: NodeContext, config: None = None) -> None:
        super().__init__(context)
        self._received: list[MessageReceived] = []
        self._round = 0

    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        match event:
            case Started(params=params):
                return [StartLocalSteps(params, 1)]
            case LocalStepsDone(params=params):
                chosen = np.sort(np.argsort(-np.abs(params))[:CHOSEN])
                message = Message(SparseTag.TOP, self._round, Chosen(chosen, frozen(params[chosen])))
                self._round += 1
                mixed, taken = params.copy(), self._received
                for item in taken:
                    body = item.message.body
                    mixed[body.indices] = (mixed[body.indices] + body.values) / 2
                self._received = []
                return [
                    Enqueue([(peer, message) for peer in self.context.neighbors]),
                    Aggregated([item.delivery for item in taken]),
                    StartLocalSteps(frozen(mixed), 1),
                ]
            case MessageReceived():
                self._received.append(event)
        return ()


def context(dtype: WireDtype) -> WireContext:
    return WireContext(PLAN_ID, NUM_PARAMS, (), frozenset({NodeId(1)}), Sparse.carries, dtype=dtype)


@given(
    indices=st.sets(st.integers(0, NUM_PARAMS - 1)).map(sorted),
    values=st.data(),
    dtype=st.sampled_from(WireDtype),
)
def test_the_codec_takes_it(indices: list[int], values: st.DataObject, dtype: WireDtype) -> None:
    drawn = values.draw(st.lists(st.floats(-100, 100, width=16), min_size=len(indices), max_size=len(indices)))
    body = Chosen(np.array(indices, dtype=np.int64), frozen(np.array(drawn, dtype=np.float32)), 0.5)
    frame = encode(Message(SparseTag.TOP, 3, body, 8), NodeId(1), PLAN_ID, dtype)
    assert len(frame) == HEADER_BYTES + body.wire_bytes(dtype) <= context(dtype).frame_bytes_max
    assert body.wire_bytes(dtype) == body.payload_bytes(dtype) + body.index_bytes + body.header_bytes
    _, message = decode(frame, expected=context(dtype))
    assert (message.tag, message.round, message.exchange, message.body.scale) == (SparseTag.TOP, 3, 8, 0.5)
    np.testing.assert_array_equal(message.body.indices, indices)
    assert message.body.values.tobytes() == body.received(dtype).values.tobytes()


def test_bytes_that_do_not_fit_the_model_are_rejected() -> None:
    body = Chosen(np.array([2, NUM_PARAMS]), frozen(np.zeros(2, dtype=np.float32)))
    with pytest.raises(FrameRejectedError) as caught:
        decode(encode(Message(SparseTag.TOP, 0, body), NodeId(1), PLAN_ID), expected=context(WireDtype.FLOAT32))
    assert caught.value.reason is RejectReason.FRAGMENT


def world(dtype: WireDtype) -> World:
    targets = np.random.default_rng(0).standard_normal((4, NUM_PARAMS)).astype(np.float32)
    return World(
        algorithms=[Sparse(NodeContext(NodeId(i), ring(4), (NUM_PARAMS,), 1, 1)) for i in range(4)],
        trainer=QuadraticTrainer(targets, 0.1),
        network=network(4, header_bytes=40, loss=0.05, wire_dtype=dtype),
        compute=ComputePlan((1_000_000,) * 4),
        seed=1,
    )


@pytest.mark.parametrize("dtype", WireDtype)
def test_simulator_table_counters_and_checkpoint_take_it(dtype: WireDtype) -> None:
    w = world(dtype)
    w.advance(20_000_000)
    sent = w.totals.messages["sent"]
    assert sent > 50
    assert w.totals.bytes["payload"] == sent * CHOSEN * dtype.value_bytes
    assert w.totals.bytes["metadata"] == sent * (40 + 4 + 4 * CHOSEN)
    assert w.totals.bytes["retransmitted"] > 0
    assert w.totals.bytes["control"] == 0
    assert w.trace is not None
    table = w.trace.columns(w.now_ns)
    assert set(table["kind"]) == {SparseTag.TOP}
    at_least = table["payload_bytes"] + 40 + 4 + 4 * CHOSEN
    assert np.all((table["wire_bytes"] >= at_least)[table["started_ns"] >= 0])
    assert w.totals.messages["aggregated"] > 0
    restored = world(dtype)
    restore_world(restored, restored.steps._trainer, save_world(w, w.steps._trainer, None, ()), ())  # type: ignore[arg-type]
    for either in (w, restored):
        either.advance(40_000_000)
    assert [node.params.tobytes() for node in restored.nodes] == [node.params.tobytes() for node in w.nodes]


def test_the_advice_on_time_dilation_counts_its_bytes() -> None:
    algorithm = Sparse(NodeContext(NodeId(0), ring(4), (NUM_PARAMS,), 1, 1))
    assert observe_traffic(algorithm, NUM_PARAMS).payload_bytes == 4 + CHOSEN * 8
