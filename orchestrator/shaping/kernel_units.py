"""Conversion of an experiment's figures to the kernel's, with everything that is rounded on the way.

- The kernel keeps rates in whole bytes a second, and tc prints three more digits than its unit: 1,234,567 bit/s comes
  back as ``1234Kbit``. So rates are rounded to what comes back unchanged: multiples of 8 bit/s below 1 Mbit/s, of
  1 kbit/s below 1 Gbit/s, of 1 Mbit/s above. That is at most :data:`RATE_TOLERANCE`.
- A burst is kept as the time it takes at the class's rate, to a microsecond, and printed in Kb or Mb where that is
  nearly exact.
- Latency and jitter are rounded to microseconds, of which tc may lose one on the way back, and loss to the 32 bits of
  the kernel; tc prints six digits of each.
"""

from math import ceil, inf
from typing import Final

from node.core.errors import ConfigError
from node.core.framing import ETHERNET_HEADER_BYTES as ETHERNET_HEADER_BYTES

RATE_BPS_MIN: Final = 10_000
RATE_BPS_MAX: Final = 10_000_000_000
RATE_TOLERANCE: Final = 0.0005
"""Share by which a rounded rate may differ from the one asked for."""

UNLIMITED_BPS: Final = 100_000_000_000
"""A link without a limit: more than a pair of virtual devices carries."""

PARKED_BPS: Final = 8_000
"""A link of bandwidth 0. The kernel has no rate of 0, and a queue that stands still for minutes breaks connections; at
1,000 bytes a second they live, go on within two seconds once there is bandwidth again, and no model comes through."""

ASSURED_BPS: Final = 8_000
"""The most that a peer's class has without borrowing; all together they must not have more than their link."""

GATE_SHUT: Final = (80, 1_514)
"""Rate in bits a second and burst in bytes of a gate that is shut. One frame leaves it when it is shut, and another
each 150 s, which is nearly as slow as tc can say; a packet of more than a frame waits until it is opened."""

GATE_OPEN: Final = (UNLIMITED_BPS, 2_000_000_000)
"""The same of one that is open: more than any queue holds at once, which limits nothing."""

LATENCY_US_MAX: Final = 10_000_000
JITTER_US_MAX: Final = 2_000_000
"""Bound that the kernel sets itself: it cuts a jitter to 31 bits of nanoseconds, silently."""

BURST_US: Final = 2_000
"""Time of sending at full rate that a bucket holds, in testbed time.

Timers of the kernel are late, and a bucket that runs over meanwhile loses bandwidth for good. Each message after a
pause may be early by this time. Measured with a stream of TCP, as a share of what framing allows:

- On a host whose cores were taken by others all the time, at 100 and 1,000 Mbit/s, 0.2 to 4 ms: 97 to 100 % for all.
- In a virtual machine on that host, whose timers wait for a core, at 10 and 100 Mbit/s: 80 and 83 % with 1 ms, 90 and
  94 % with 2 ms, 99 and 89 % with 4 ms.

So 2 ms, which a message of 100 ms does not feel. It is testbed time because a time dilation is what gives a late host
more room."""

BURST_BYTES_MAX: Final = 2**30
"""Bound for links without a limit at a large time dilation: the kernel's sizes have 32 bits."""

TICK_NS: Final = 64
TICKS_MAX: Final = 2**32 - 1
LATENCY_TOLERANCE_US: Final = 1
LOSS_TOLERANCE_PERCENT: Final = 1e-7
"""Twice the kernel's step of loss."""
PRINTED_TOLERANCE: Final = 1e-5
"""Share by which figures that are printed with six digits may differ."""

QUEUE_US: Final = 250_000
QUEUE_BYTES_MIN: Final = 65_536
QUEUE_BYTES_MAX: Final = 16_777_216
"""A queue without a declared size holds :data:`QUEUE_US` of its link's rate, between these bounds: the usual rule of
one round trip, enough for one packet of the largest size, and not seconds of a fast link."""

LIMIT_BYTES_MAX: Final = 2**30
"""The largest queue of all; more than that is never in flight."""

GSO_BYTES_MAX: Final = 65_536
"""The largest packet of several segments."""
GSO_SEGMENTS_MAX: Final = 65_535
"""The kernel's own bound on segments, in force where nothing was asked for."""


def kernel_rate_bps(mbps: float, place: str, time_dilation: float = 1.0) -> int:
    """Return the rate to ask the kernel for.

    Args:
        mbps: 10^6 bits a testbed second; inf is no limit, 0 a link that stands still.
        place: Where the rate belongs, for a message.
        time_dilation: Real seconds a testbed second.

    Raises:
        ConfigError: The rate, neither 0 nor inf, is outside [0.01, 10000] Mbit in a real second.
    """
    if mbps == inf:
        return UNLIMITED_BPS
    if mbps == 0:
        return PARKED_BPS
    bps = mbps * 1e6 / time_dilation
    if not RATE_BPS_MIN <= bps <= RATE_BPS_MAX:
        least, most = (time_dilation * bound / 1e6 for bound in (RATE_BPS_MIN, RATE_BPS_MAX))
        at = "" if time_dilation == 1 else f" at time_dilation={time_dilation:g}"
        raise ConfigError(
            f"{place}: bandwidth_mbps={mbps:g}: must be {least:g} to {most:g} where the kernel shapes{at},"
            " 0 or unlimited"
        )
    return round_rate_bps(bps)


def round_rate_bps(bps: float) -> int:
    """Round to a rate that the kernel keeps and tc prints exactly; at least one byte a second."""
    step = 8 if bps < 1e6 else 1_000 if bps < 1e9 else 1_000_000
    return max(8, round(bps / step) * step)


def assured_rate_bps(link_bps: int, peers: int) -> int:
    """Rate that each peer's class is assured of: next to nothing, and all together no more than the link has."""
    return max(8, min(ASSURED_BPS, link_bps // max(1, peers)) // 8 * 8)


def burst_bytes(rate_bps: int, mtu: int, time_dilation: float = 1.0) -> int:
    """Size of a bucket: :data:`BURST_US` at its rate, at least a frame, at most what the kernel can keep."""
    kept_max = rate_bps * TICKS_MAX * TICK_NS // 8_000_000_000
    wanted = ceil(rate_bps * BURST_US * time_dilation / 8_000_000)
    return max(1, min(max(mtu + ETHERNET_HEADER_BYTES, wanted), BURST_BYTES_MAX, kept_max))


def queue_limit_bytes(
    rate_bps: int, mtu: int, declared: int | None, time_dilation: float = 1.0, in_flight_bytes: int = 0
) -> int:
    """Size of a queue.

    Args:
        rate_bps: Of its link.
        mtu: Size of a packet.
        declared: Size that is asked for; it becomes at least two frames. None lets it follow from the rest:
            :data:`QUEUE_US` of the rate in testbed time, between the bounds, and room for what may be in flight.
        time_dilation: Real seconds a testbed second.
        in_flight_bytes: The most that one node may have in flight to another. Four times of it has room, for what
            carries it, what is sent again, and acknowledgements of the other direction, which wait in the same queue:
            then nothing is lost but where loss is asked for.
    """
    if declared is not None:
        return max(declared, 2 * (mtu + ETHERNET_HEADER_BYTES))
    by_rate = min(max(round(rate_bps * time_dilation * QUEUE_US / 8e6), QUEUE_BYTES_MIN), QUEUE_BYTES_MAX)
    return max(by_rate, min(4 * in_flight_bytes, LIMIT_BYTES_MAX))


def delay_limit_packets(rate_bps: int, reverse_bps: int, delay_us: int, queue_bytes: int, mtu: int) -> int:
    """Packets that a delaying queue must hold so that it drops none while its own queue has room.

    netem counts those on their way too. Its default of 1,000 drops silently on a link of 100 Mbit/s and 200 ms.

    Args:
        rate_bps: The most that comes in.
        reverse_bps: The most that goes the other way. Each two frames of it are acknowledged by a packet this way.
        delay_us: The longest that a packet stays.
        queue_bytes: What may wait besides.
        mtu: Size of a packet.
    """
    frame_bits = 8 * (mtu + ETHERNET_HEADER_BYTES)
    on_the_way = ceil((rate_bps + reverse_bps / 2) * delay_us / 1e6 / frame_bits)
    # Twice, because not every packet is full.
    return 2 * on_the_way + ceil(8 * queue_bytes / frame_bits)


def gso_segments(slowest_bps: int, mtu: int, time_dilation: float = 1.0, *, each_packet_counts: bool) -> int:
    """Segments that may travel as one packet.

    A packet of 64 KB on a link of 2 Mbit/s leaves at once and then blocks the link for a quarter of a second, so a
    packet must not exceed a burst. Where packets are lost or delayed one by one, each has to be one segment.

    Args:
        slowest_bps: The slowest link that a packet of this node passes.
        mtu: Size of a segment.
        time_dilation: Real seconds a testbed second.
        each_packet_counts: Whether jitter or loss is shaped.
    """
    if each_packet_counts:
        return 1
    burst = burst_bytes(slowest_bps, mtu, time_dilation)
    return GSO_SEGMENTS_MAX if burst >= GSO_BYTES_MAX else burst // (mtu + ETHERNET_HEADER_BYTES)


def burst_tolerance_bytes(burst: int, rate_bps: int) -> float:
    """Bound on the change of a burst that is read back: two microseconds, and what tc's printing in Kb or Mb hides."""
    printed = 1_024 if burst >= 1_000_000 else 16
    return printed + 2 + 2 * rate_bps / 8e6
