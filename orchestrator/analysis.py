"""Analysis of a run's curves: time and bytes to a target, quantiles and histograms.

Pure: numpy only, no files. Runs are compared with each other in :mod:`orchestrator.comparison`.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from node.core.types import Float64Vector

Numbers: TypeAlias = npt.NDArray[np.float64] | npt.NDArray[np.int64]
"""Shape (k,): seconds, bytes, rounds or a test metric."""


def time_to_accuracy(
    times: Numbers, values: Float64Vector, target: float, *, higher_is_better: bool = True
) -> float | None:
    """Find when a curve first reaches a target, linearly interpolated between evaluations.

    Args:
        times: Where the curve was evaluated, shape (k,), ascending. Seconds, or bytes: see
            :func:`bytes_to_accuracy`.
        values: The curve, shape (k,). Values that are not numbers are passed over.
        target: The value to reach; a curve that only touches it has reached it.
        higher_is_better: False for an error such as the RMSE, which reaches its target from above.

    Returns:
        The first crossing in the unit of ``times``; None if there is none.
    """
    usable = ~np.isnan(values)
    at = np.asarray(times, dtype=np.float64)[usable]
    curve = values[usable] if higher_is_better else -values[usable]
    goal = target if higher_is_better else -target
    reached = np.flatnonzero(curve >= goal)
    if reached.size == 0:
        return None
    first = int(reached[0])
    if first == 0:
        return float(at[0])
    before, after = float(curve[first - 1]), float(curve[first])
    if not (np.isfinite(before) and np.isfinite(after)):
        return float(at[first])  # nothing to interpolate between: the loss was infinite a sample ago
    share = (goal - before) / (after - before)
    return float(at[first - 1] + share * (at[first] - at[first - 1]))


def bytes_to_accuracy(
    bytes_sent: Numbers, values: Float64Vector, target: float, *, higher_is_better: bool = True
) -> float | None:
    """Bytes sent by all nodes when a curve first reaches a target, interpolated like the time."""
    return time_to_accuracy(bytes_sent, values, target, higher_is_better=higher_is_better)


def best_index(values: Float64Vector, *, higher_is_better: bool) -> int | None:
    """Index of the best value, the earliest of equals; None where no value is a number."""
    if np.isnan(values).all():
        return None
    return int(np.nanargmax(values) if higher_is_better else np.nanargmin(values))


def quantiles(values: Numbers) -> dict[str, float | int | None]:
    """Count, mean, median, 95th percentile and maximum of any numbers; None for each where there are none."""
    if values.size == 0:
        return {"count": 0, "mean": None, "p50": None, "p95": None, "max": None}
    p50, p95 = np.percentile(values, (50, 95))
    return {
        "count": int(values.size),
        "mean": float(values.mean()),
        "p50": float(p50),
        "p95": float(p95),
        "max": float(values.max()),
    }


@dataclass(frozen=True, slots=True)
class Histogram:
    """Several groups counted over the same bins.

    Attributes:
        edges: Bin edges, shape (bins + 1,).
        shares: Per group, the share of its values in each bin, shape (bins,). Sums to 1 with ``above``.
        above: Per group, the share of its values above the last edge.
    """

    edges: Float64Vector
    shares: dict[str, Float64Vector]
    above: dict[str, float]


def histogram(
    groups: dict[str, Numbers], *, whole_numbers: bool, max_bins: int = 40, cover: float = 0.995
) -> Histogram | None:
    """Count groups of values over shared bins.

    A few extreme values would squeeze everything else into one bin, so that the bins cover only the share
    ``cover`` of all values; what lies above is told apart.

    Args:
        groups: Values by group name.
        whole_numbers: Centre the bins on whole numbers and make them whole numbers wide.
        max_bins: At most so many bins.
        cover: Share of all values, in (0, 1], that the bins must cover.

    Returns:
        None if all groups are empty.
    """
    everything = np.concatenate([np.zeros(0), *(np.asarray(values, dtype=np.float64) for values in groups.values())])
    if everything.size == 0:
        return None
    low, high = float(everything.min()), float(np.quantile(everything, cover, method="higher"))
    if whole_numbers:
        width = max(1, int(np.ceil((high - low + 1) / max_bins)))
        count = int((high - low) // width) + 1
        edges = low - 0.5 + width * np.arange(count + 1, dtype=np.float64)
    else:
        low = min(low, 0.0)
        edges = np.linspace(low, high if high > low else low + 1.0, max_bins + 1)
    shares: dict[str, Float64Vector] = {}
    above: dict[str, float] = {}
    for name, values in groups.items():
        counts, _ = np.histogram(values, bins=edges)
        total = max(1, values.size)
        shares[name] = counts / total
        above[name] = float(np.count_nonzero(values > edges[-1]) / total)
    return Histogram(edges, shares, above)
