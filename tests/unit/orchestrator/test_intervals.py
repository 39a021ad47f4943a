"""Student's t against published tables, and means of few values by hand."""

from math import exp, inf, log, nan, sqrt

import numpy as np
import pytest

from orchestrator.intervals import mean_of, mean_ratio, t_probability, t_quantile

TABLE = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
    10: 2.228,
    15: 2.131,
    20: 2.086,
    29: 2.045,
    30: 2.042,
    60: 2.000,
    120: 1.980,
    100_001: 1.960,
}
"""Two-sided quantiles of 95 %, as in any textbook."""


@pytest.mark.parametrize(("degrees", "expected"), TABLE.items())
def test_the_quantiles_are_those_of_the_tables(degrees: int, expected: float) -> None:
    assert t_quantile(degrees) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(("degrees", "expected"), [(1, 63.657), (2, 9.925), (5, 4.032), (10, 3.169), (30, 2.750)])
def test_quantiles_of_another_confidence(degrees: int, expected: float) -> None:
    assert t_quantile(degrees, 0.99) == pytest.approx(expected, abs=6e-4)


def test_the_probability_is_the_integral_of_the_density() -> None:
    """Trapezoids over 1 / (sqrt(d) B(1/2, d/2)) (1 + x^2/d)^(-(d+1)/2), normalized by its own whole."""
    x = np.linspace(0, 4000, 4_000_001)
    for degrees in (2, 3, 4, 7):
        density = (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
        whole = np.trapezoid(density, x)
        for t in (0.5, 1.0, 2.0, 5.0):
            inside = np.trapezoid(density[x <= t], x[x <= t])
            assert t_probability(t, degrees) == pytest.approx(inside / whole, abs=2e-5)


def test_a_mean_and_its_interval_by_hand() -> None:
    """1, 2, 3: mean 2, standard deviation 1, half width 4.303 / sqrt(3)."""
    found = mean_of([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.n) == (2.0, 3)
    assert found.high == pytest.approx(2 + 4.303 / sqrt(3), abs=1e-3)
    assert found.low == pytest.approx(2 - 4.303 / sqrt(3), abs=1e-3)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    one = mean_of([5.0])
    assert one is not None
    assert (one.mean, one.low, one.high, one.n) == (5.0, None, None, 1)
    assert mean_of([]) is None
    assert mean_of([1.0, nan]) is None
    assert mean_of([1.0, inf]) is None


def test_ratios_have_a_geometric_mean() -> None:
    found = mean_ratio([2.0, 0.5])
    assert found is not None
    assert found.mean == pytest.approx(1.0)
    assert found.high is not None
    assert found.low is not None
    # Standard deviation of +-log 2 is sqrt(2) log 2.
    assert log(found.high) == pytest.approx(12.706 * log(2), rel=1e-3)
    assert found.low * found.high == pytest.approx(1.0)
    assert mean_ratio([]) is None
    assert mean_ratio([1.0, 0.0]) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = mean_ratio([3.0, 3.0, 3.0])
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((3.0, 3.0, 3.0))


def test_ratios_far_apart_have_a_finite_interval() -> None:
    found = mean_ratio([1e-300, 1e300])
    assert found is not None
    assert found.high is not None
    assert found.high < inf


REPEATS = 4_000


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_an_interval_holds_the_mean_as_often_as_it_says(n: int) -> None:
    """Of 4,000 repeats 95 % within three and a half standard errors, of values of any mean and spread."""
    rng = np.random.default_rng((7, n))
    held, ratios_held = 0, 0
    for _ in range(REPEATS):
        values = rng.normal(40.0, 12.0, n)
        found, ratio = mean_of(values.tolist()), mean_ratio(np.exp(values / 40).tolist())
        assert found is not None
        assert ratio is not None
        assert None not in (found.low, found.high, ratio.low, ratio.high)
        held += found.low <= 40.0 <= found.high
        ratios_held += ratio.low <= exp(1.0) <= ratio.high
    error = sqrt(0.95 * 0.05 / REPEATS)
    assert held / REPEATS == pytest.approx(0.95, abs=3.5 * error)
    assert ratios_held == held  # the logarithms are the same values
