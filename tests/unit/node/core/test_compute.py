"""How long blocks of local steps take."""

import numpy as np
import pytest

from node.core.compute import ComputePlan, StepTimer, time_for
from node.core.steps import Steps
from node.core.units import NEVER_NS


def test_without_jitter_a_block_takes_its_steps() -> None:
    timer = StepTimer(ComputePlan(step_ns=(10, 30)), 1, seed=0)
    assert [timer.duration_ns(count, 0) for count in (1, 4, 1)] == [30, 120, 30]


def test_jitter_is_normal_around_the_nominal_time_and_seeded_by_node() -> None:
    plan = ComputePlan(step_ns=(1000, 1000), jitter=0.2)

    def drawn(node: int, seed: int) -> list[int]:
        timer = StepTimer(plan, node, seed)
        return [timer.duration_ns(10, 0) for _ in range(4000)]

    durations = np.array(drawn(0, 3)) / 10_000
    assert abs(durations.mean() - 1) < 4.5 * 0.2 / np.sqrt(4000)
    assert abs(durations.std() - 0.2) < 0.01
    assert drawn(0, 3) == drawn(0, 3)
    assert len({tuple(drawn(node, seed)) for node, seed in ((0, 3), (1, 3), (0, 4))}) == 3


def test_a_block_never_takes_less_than_a_tenth() -> None:
    timer = StepTimer(ComputePlan(step_ns=(1000,), jitter=1.0), 0, seed=0)
    durations = [timer.duration_ns(10, 0) for _ in range(1000)]
    assert min(durations) == 1000
    assert max(durations) > 20_000


SPEED = Steps(1.0, (100, 200, 300), (0.5, 0.0, 2.0))


@pytest.mark.parametrize(
    ("work_ns", "at_ns", "expected_ns"),
    [
        (50, 0, 50),
        (100, 0, 100),
        (100, 50, 150),  # half at full speed, half at half of it
        (50, 100, 100),  # up to the instant at which it stands still, and no longer
        (60, 100, 205),  # stands still for 100, then the last 10 at double speed
        (40, 250, 70),
        (40, 300, 20),
    ],
)
def test_work_goes_on_at_changing_speed(work_ns: int, at_ns: int, expected_ns: int) -> None:
    assert time_for(work_ns, SPEED, at_ns) == expected_ns


def test_work_that_stands_still_for_ever_never_ends() -> None:
    assert time_for(10, Steps(1.0, (5,), (0.0,)), 0) == NEVER_NS
    assert time_for(5, Steps(1.0, (5,), (0.0,)), 0) == 5


def test_a_block_is_as_long_as_the_speed_of_its_node_makes_it() -> None:
    plan = ComputePlan(step_ns=(10, 10), speeds={1: Steps(1.0, (20,), (0.5,))})
    assert [StepTimer(plan, node, seed=1).duration_ns(4, 0) for node in range(2)] == [40, 60]
