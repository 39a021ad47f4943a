"""The table of a node's phases, and the parts of its life that need no process."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from node.config import NodeConfig
from node.core.counters import NodeCounters
from node.core.training import TrainingResult
from node.core.types import NodeId, Vector
from node.runtime import process
from node.runtime.driver import Driver
from node.runtime.hand_over import HandOver
from node.runtime.process import TRANSITIONS, Happening
from node.runtime.side_tasks import SideTasks
from node.runtime.warm_up import WarmUp
from node.transport.control_client import ControlClient
from node.transport.control_values import ModelSnapshot, Phase, SnapshotPurpose

# --- phases ---------------------------------------------------------------------------------------------------


def test_the_table_names_every_phase_and_every_event_and_the_page_above_draws_them() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert {event for row in TRANSITIONS.values() for event in row} == set(Happening)
    assert process.__doc__ is not None
    for member in (*Phase, *Happening):
        assert member.name in process.__doc__


def test_every_phase_can_be_reached_and_only_failure_is_for_good() -> None:
    reached = {Phase.PREPARING}
    while more := {phase for known in reached for phase in TRANSITIONS[known].values()} - reached:
        reached |= more
    assert reached == set(Phase)
    assert [phase for phase, row in TRANSITIONS.items() if not row] == [Phase.FAILED]
    for phase in set(Phase) - {Phase.FAILED}:
        assert TRANSITIONS[phase][Happening.FAULT] is Phase.FAILED


def test_a_node_that_stops_neither_begins_nor_ends_its_time() -> None:
    assert set(TRANSITIONS[Phase.STOPPING]) == {Happening.FAULT}


# --- training for nothing -------------------------------------------------------------------------------------


class Trainer:
    """Is ready when it has been asked a few times."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []
        self.finished = self.resets = self._asked = 0

    def begin(self, node: NodeId, params: Vector, first_step: int, count: int) -> None:
        assert len(self.begun) == self.finished, "one block at a time"
        self.begun.append((first_step, count))
        self._asked = 0

    def ready(self, node: NodeId) -> bool:
        self._asked += 1
        return self._asked > 2

    def finish(self, node: NodeId) -> TrainingResult:
        self.finished += 1
        return TrainingResult(np.zeros(1, dtype=np.float32), 0.0)

    def reset_momentum(self, node: NodeId) -> None:
        assert len(self.begun) == self.finished
        self.resets += 1


def test_the_first_step_is_waited_for_and_leaves_no_momentum() -> None:
    trainer = Trainer()
    warm_up = WarmUp(NodeId(0), cast(Any, trainer), np.zeros(1, dtype=np.float32), block_steps=3, block_s=0.0)
    asyncio.run(warm_up.first_step())
    assert (trainer.begun, trainer.finished, trainer.resets) == ([(0, 1)], 1, 1)


@pytest.mark.parametrize("fails", [False, True])
def test_the_host_is_kept_busy_block_after_block_and_the_last_one_is_waited_for(fails: bool) -> None:
    trainer = Trainer()
    warm_up = WarmUp(NodeId(0), cast(Any, trainer), np.zeros(1, dtype=np.float32), block_steps=3, block_s=0.0)

    async def measure() -> None:
        async with warm_up.keep_host_busy():
            while len(trainer.begun) < 3:
                await asyncio.sleep(0)
            if fails:
                raise LookupError

    if fails:
        with pytest.raises(LookupError):
            asyncio.run(measure())
        return
    asyncio.run(measure())
    assert set(trainer.begun) == {(0, 3)}
    assert trainer.finished == len(trainer.begun)
    assert trainer.resets == 1


# --- handing over ---------------------------------------------------------------------------------------------


class Control:
    """Keeps what is uploaded."""

    def __init__(self) -> None:
        self.uploads: list[tuple[str, int]] = []

    async def upload_snapshot(self, snapshot: ModelSnapshot, params: Vector) -> None:
        self.uploads.append((snapshot.purpose.value, snapshot.time_ns))

    async def upload_records(self, name: str, data: bytes) -> None:
        self.uploads.append((name, len(data)))


def hand_over(control: Control, *, begin_ns: int = 0, end_ns: int | None = None) -> HandOver:
    config = SimpleNamespace(
        node=NodeId(1), evaluation_interval_ns=10, evaluate_after_training=False, begin_ns=begin_ns, end_ns=end_ns
    )

    model = np.zeros(1, dtype=np.float32)
    driver = SimpleNamespace(model=lambda *, after_training: model, books=SimpleNamespace(records=None))
    return HandOver(cast(NodeConfig, config), cast(Driver, driver), cast(ControlClient, control), NodeCounters)


@pytest.mark.parametrize(
    ("begin_ns", "end_ns", "instants"),
    [
        (0, 25, [0, 10, 20, 25, 25]),
        (0, None, [0, 10, 20, 30, 40]),
        (10, 25, [20, 25, 25, 25, 25]),  # that of its beginning has the part before
        (13, None, [20, 30, 40, 50, 60]),
        (21, 25, [25, 25, 25, 25, 25]),
    ],
)
def test_snapshots_are_wanted_at_every_interval_and_at_the_end(
    begin_ns: int, end_ns: int | None, instants: list[int]
) -> None:
    found = hand_over(Control(), begin_ns=begin_ns, end_ns=end_ns)
    times = [found.first_instant_ns(begin_ns)]
    while len(times) < len(instants):
        times.append(found.next_instant_ns(times[-1]))
    assert times == instants


def test_everything_is_handed_over_in_order_and_the_figures_last() -> None:
    control = Control()

    async def life() -> None:
        found = hand_over(control, end_ns=40)
        found.take_snapshot(0)
        found.take_snapshot(10)
        uploading = asyncio.create_task(found.upload_snapshots())
        await found.finish(99, lambda: {"a": len(control.uploads)}, final=True)
        uploading.cancel()

    asyncio.run(life())
    final = SnapshotPurpose.FINAL.value
    assert control.uploads == [("evaluation", 0), ("evaluation", 10), (final, 40), ("figures", len('{"a": 3}'))]


# --- side tasks -----------------------------------------------------------------------------------------------


def test_no_error_beside_the_main_course_is_silent() -> None:
    errors: list[str] = []

    async def main() -> None:
        side = SideTasks(lambda error: errors.append(str(error)))
        side.watch(asyncio.get_running_loop())

        async def fail() -> None:
            raise LookupError("in a task")

        def fail_in_callback() -> None:
            raise LookupError("in a callback")

        async def go_on() -> None:
            await asyncio.Event().wait()

        side.spawn(fail())
        side.spawn(go_on())
        asyncio.get_running_loop().call_soon(fail_in_callback)
        for _ in range(4):
            await asyncio.sleep(0)
        side.cancel()

    asyncio.run(main())
    assert sorted(errors) == ["in a callback", "in a task"]
