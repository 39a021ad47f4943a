"""Drawing distinct peers, many rows at once and fast."""

import numpy as np
import numpy.typing as npt


def sample_distinct(rng: np.random.Generator, population: int, rows: int, k: int) -> npt.NDArray[np.int64]:
    """Draw, per row, k distinct integers from ``range(population)``; every ordered choice is equally likely.

    Small k: draw with repetition and draw rows with a repetition again, which leaves the others uniform;
    while ``k * k <= population`` at least six rows in ten pass. Large k: the order of random keys.

    Args:
        rng: The generator to draw from.
        population: How many values there are, >= k.
        rows: How many independent rows.
        k: How many distinct values a row has, >= 0.

    Returns:
        A new array, shape (rows, k), int64.
    """
    assert 0 <= k <= population, f"cannot draw {k} distinct values of {population}"
    if k * k > population:
        return rng.random((rows, population)).argsort(axis=1)[:, :k].copy()
    drawn = rng.integers(0, population, size=(rows, k))
    if k < 2:
        return drawn
    bad = _rows_with_repetition(drawn)
    while bad.size:
        again = rng.integers(0, population, size=(bad.size, k))
        drawn[bad] = again
        bad = bad[_rows_with_repetition(again)]
    return drawn


def _rows_with_repetition(drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    ordered = drawn.copy()
    ordered.sort(axis=1)
    repeated: npt.NDArray[np.intp] = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1).nonzero()[0]
    return repeated
