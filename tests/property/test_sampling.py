"""Distinct draws are distinct, in range and uniform over ordered choices."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.sampling import sample_distinct


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_rows_are_distinct_and_in_range(data: st.DataObject) -> None:
    population = data.draw(st.integers(1, 150))
    k = data.draw(st.integers(0, min(population, 30)))
    rows = data.draw(st.integers(0, 20))
    drawn = sample_distinct(np.random.default_rng(data.draw(st.integers(0, 99))), population, rows, k)
    assert drawn.shape == (rows, k)
    assert drawn.dtype == np.int64
    for row in drawn.tolist():
        assert len(set(row)) == k
        assert all(0 <= value < population for value in row)


@pytest.mark.parametrize(("population", "k"), [(9, 3), (5, 3), (4, 2), (4, 4), (7, 1)])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_ordered_choice_is_equally_likely(population: int, k: int, seed: int) -> None:
    """Chi-square over all ordered choices; the bound is mean + 4 standard deviations of the statistic."""
    cells = dict.fromkeys(permutations(range(population), k), 0)
    count = 60 * len(cells)
    for row in sample_distinct(np.random.default_rng(seed), population, count, k).tolist():
        cells[tuple(row)] += 1
    statistic = sum((seen - 60) ** 2 / 60 for seen in cells.values())
    freedom = len(cells) - 1
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)
    assert statistic > freedom - 4 * np.sqrt(2 * freedom)
