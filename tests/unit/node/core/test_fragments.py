"""Fragment plans: cutting, restoring, counting."""

import numpy as np
import pytest

from node.core.errors import ConfigError
from node.core.fragments import FragmentLayout, FragmentRounding, fragment_plan, num_fragments


@pytest.mark.parametrize(
    ("omega", "floor", "ceil"),
    [
        (1.0, 1, 1),
        (0.7, 1, 2),
        (0.5, 2, 2),
        (0.3, 3, 4),
        (0.2, 5, 5),
        (0.1, 10, 10),
        (0.05, 20, 20),
        (1 / 3, 3, 3),
        (0.001, 1000, 1000),
    ],
)
def test_num_fragments(omega: float, floor: int, ceil: int) -> None:
    assert num_fragments(omega, FragmentRounding.FLOOR) == floor
    assert num_fragments(omega, FragmentRounding.CEIL) == ceil


@pytest.mark.parametrize("layout", FragmentLayout)
def test_cut_and_restore_are_inverse(layout: FragmentLayout) -> None:
    plan = fragment_plan((7, 12, 1), 3, layout, 5)
    params = np.random.default_rng(0).normal(size=20).astype(np.float32)
    ordered, pieces = plan.cut(params)
    np.testing.assert_array_equal(plan.restore(ordered), params)
    for fragment, piece in enumerate(pieces):
        np.testing.assert_array_equal(piece, params[plan.indices(fragment)])
        assert not piece.flags.writeable
    params[:] = 0
    assert ordered.any()  # a snapshot, not a view


def test_layouts() -> None:
    contiguous = fragment_plan((4, 6), 3, FragmentLayout.CONTIGUOUS, 0)
    strided = fragment_plan((4, 6), 3, FragmentLayout.STRIDED, 0)
    assert [contiguous.indices(f).tolist() for f in range(3)] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert [strided.indices(f).tolist() for f in range(3)] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


def test_a_small_tensor_lands_whole_in_the_last_fragment() -> None:
    plan = fragment_plan((40, 3), 4, FragmentLayout.RANDOM, 0)
    assert set(range(40, 43)) <= set(plan.indices(3).tolist())
    assert [len(plan.indices(f)) for f in range(4)] == [10, 10, 10, 13]


def test_the_seed_decides_the_random_plan_only() -> None:
    for layout in FragmentLayout:
        a, b = (fragment_plan((40,), 4, layout, seed).order for seed in (0, 1))
        assert np.array_equal(a, b) == (layout is not FragmentLayout.RANDOM)
        again = fragment_plan.__wrapped__((40,), 4, layout, 0).order
        np.testing.assert_array_equal(a, again)


@pytest.mark.parametrize("count", [0, 11])
def test_the_number_of_fragments_is_bounded(count: int) -> None:
    with pytest.raises(ConfigError, match=f"fragments={count}: must be between 1 and .* 10"):
        fragment_plan((4, 6), count, FragmentLayout.STRIDED, 0)
