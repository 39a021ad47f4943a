"""Rates as the networks of the simulator count them: bytes a nanosecond, with a number that stands for no limit."""

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
