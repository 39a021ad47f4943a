"""Rates as the networks of the simulator count them: bytes a nanosecond, with a number that stands for no limit."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from node.core.schedule import Groups, is_cut
from node.core.units import mbps_to_bytes_per_ns

UNLIMITED = 1e9
"""Bytes a nanosecond that stand for no limit. A transfer without limits ends one nanosecond after its start."""

NEVER = (1 << 63) - 1
"""The time of what is not planned; the end of a transfer whose rate is zero."""

TOLERANCE = 1e-12
"""Relative difference below which two rates count as equal, and a link as full."""


def capacity_of(mbps: float) -> float:
    """Megabits a second to bytes a nanosecond, with :data:`UNLIMITED` for what is more or infinite."""
    return min(mbps_to_bytes_per_ns(mbps), UNLIMITED)


def pair_capacity(
    source: int,
    destination: int,
    count: int,
    pair_mbps: npt.NDArray[np.float64] | None,
    changed: Mapping[int, float],
    partitions: Sequence[Groups],
) -> float:
    """The capacity of a pair, bytes a nanosecond.

    Args:
        source: The sender.
        destination: The receiver.
        count: Number of nodes.
        pair_mbps: The plan's; None: no pair is limited.
        changed: Those that have changed since, by source * count + destination, in bytes a nanosecond.
        partitions: Who does not reach each other.
    """
    if partitions and is_cut(partitions, source, destination):
        return 0.0
    known = changed.get(source * count + destination)
    if known is not None:
        return known
    return UNLIMITED if pair_mbps is None else capacity_of(float(pair_mbps[source, destination]))
