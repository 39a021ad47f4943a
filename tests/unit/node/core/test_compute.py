"""How long blocks of local steps take."""

import numpy as np

from node.core.compute import ComputePlan, StepTimer


def test_without_jitter_a_block_takes_its_steps() -> None:
    timer = StepTimer(ComputePlan(step_ns=(10, 30)), 1, seed=0)
    assert [timer.duration_ns(count) for count in (1, 4, 1)] == [30, 120, 30]


def test_jitter_is_normal_around_the_nominal_time_and_seeded_by_node() -> None:
    plan = ComputePlan(step_ns=(1000, 1000), jitter=0.2)

    def drawn(node: int, seed: int) -> list[int]:
        timer = StepTimer(plan, node, seed)
        return [timer.duration_ns(10) for _ in range(4000)]

    durations = np.array(drawn(0, 3)) / 10_000
    assert abs(durations.mean() - 1) < 4.5 * 0.2 / np.sqrt(4000)
    assert abs(durations.std() - 0.2) < 0.01
    assert drawn(0, 3) == drawn(0, 3)
    assert len({tuple(drawn(node, seed)) for node, seed in ((0, 3), (1, 3), (0, 4))}) == 3


def test_a_block_never_takes_less_than_a_tenth() -> None:
    timer = StepTimer(ComputePlan(step_ns=(1000,), jitter=1.0), 0, seed=0)
    durations = [timer.duration_ns(10) for _ in range(1000)]
    assert min(durations) == 1000
    assert max(durations) > 20_000
