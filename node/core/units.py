"""The only unit conversions in the code.

Files speak human units (``_ms``, ``_s``, ``_mbps`` = megabits a second), the core speaks nanoseconds (int)
and bytes a nanosecond (float), metrics speak base units.
"""

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
NEVER_NS = 2**62
"""An instant that does not come, and the duration of what does not end: a century and a half."""


def ms_to_ns(milliseconds: float) -> int:
    """Milliseconds to whole nanoseconds, rounded to nearest."""
    return round(milliseconds * NS_PER_MS)


def s_to_ns(seconds: float) -> int:
    """Seconds to whole nanoseconds, rounded to nearest."""
    return round(seconds * NS_PER_S)


def ns_to_s(nanoseconds: int) -> float:
    """Nanoseconds to seconds."""
    return nanoseconds / NS_PER_S


def mbps_to_bytes_per_ns(mbps: float) -> float:
    """Megabits (10^6 bits) a second to bytes a nanosecond. 8 Mbit/s is 10^6 bytes a second."""
    return mbps / 8_000.0
