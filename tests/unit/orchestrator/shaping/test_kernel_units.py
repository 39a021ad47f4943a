"""Figures of an experiment and of the kernel."""

from math import ceil, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.errors import ConfigError
from orchestrator.shaping import kernel_units as units
from orchestrator.shaping.reading import parse_rate_bps, parse_size_bytes
from tests.unit.orchestrator.shaping.fake_kernel import kept_burst, print_rate, print_size

MTU = 1_500
RATES_BPS = st.one_of(
    st.floats(0.01, 10_000.0).map(lambda mbps: units.kernel_rate_bps(mbps, "a link")),
    st.sampled_from([8, units.PARKED_BPS, units.ASSURED_BPS, units.UNLIMITED_BPS]),
)


@given(st.floats(0.01, 10_000.0))
def test_a_rate_is_rounded_by_less_than_the_tolerance(mbps: float) -> None:
    bps = units.kernel_rate_bps(mbps, "a link")
    assert abs(bps - 1e6 * mbps) <= units.RATE_TOLERANCE * 1e6 * mbps
    assert bps % 8 == 0, "the kernel keeps bytes"


@given(RATES_BPS)
def test_a_rate_comes_back_as_it_was(bps: int) -> None:
    assert parse_rate_bps(print_rate(bps)) == bps


def test_rates_without_rounding_are_as_they_are() -> None:
    rates = {2: 2_000_000, 0.01: 10_000, 60: 60_000_000, 10_000: 10_000_000_000, inf: units.UNLIMITED_BPS}
    assert {mbps: units.kernel_rate_bps(mbps, "a link") for mbps in rates} == rates
    assert units.kernel_rate_bps(0, "a link") == units.PARKED_BPS
    assert units.kernel_rate_bps(10, "a link", time_dilation=4) == 2_500_000


@pytest.mark.parametrize(
    ("mbps", "dilation", "text"),
    [
        (0.009, 1, "a link: bandwidth_mbps=0.009: must be 0.01 to 10000 where the kernel shapes, 0 or unlimited"),
        (
            0.03,
            4,
            "a link: bandwidth_mbps=0.03: must be 0.04 to 40000 where the kernel shapes at time_dilation=4,"
            " 0 or unlimited",
        ),
        (10_001, 1, "a link: bandwidth_mbps=10001: must be 0.01 to 10000 where the kernel shapes, 0 or unlimited"),
    ],
)
def test_rates_out_of_bounds(mbps: float, dilation: float, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        units.kernel_rate_bps(mbps, "a link", dilation)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("mbps", "size"),
    [(0.01, 1_514), (2, 1_514), (6, 1_514), (10, 2_500), (60, 15_000), (1_000, 250_000), (10_000, 2_500_000)],
)
def test_a_burst_is_two_milliseconds_but_a_frame_at_least(mbps: float, size: int) -> None:
    assert units.burst_bytes(units.kernel_rate_bps(mbps, "a link"), MTU) == size


def test_a_burst_is_of_testbed_time() -> None:
    assert units.burst_bytes(10_000_000, MTU, time_dilation=4) == units.burst_bytes(40_000_000, MTU)


@given(RATES_BPS, st.floats(1.0, 1e4))
def test_a_burst_fits_the_kernel_and_comes_back_within_its_tolerance(bps: int, dilation: float) -> None:
    burst = units.burst_bytes(bps, MTU, dilation)
    back = parse_size_bytes(f"{print_size(kept_burst(burst, bps))}/1")
    assert abs(back - burst) <= units.burst_tolerance_bytes(burst, bps)
    assert units.burst_tolerance_bytes(burst, bps) < max(40, 0.01 * burst)


@given(
    st.integers(10_000, 10**10),
    st.integers(10_000, 10**10),
    st.integers(0, 10**7),
    st.integers(3_028, 2**24),
)
def test_a_delaying_queue_holds_what_is_on_its_way_and_what_waits(
    bps: int, reverse_bps: int, delay_us: int, queue_bytes: int
) -> None:
    limit = units.delay_limit_packets(bps, reverse_bps, delay_us, queue_bytes, MTU)
    frame = MTU + units.ETHERNET_HEADER_BYTES
    frames_on_the_way = bps * delay_us / 8e6 / frame
    acknowledgements_on_the_way = reverse_bps * delay_us / 8e6 / frame / 2
    assert limit >= frames_on_the_way + acknowledgements_on_the_way + queue_bytes / frame - 1e-6
    # ... and not so many that it were no bound.
    assert limit <= 2 * ceil(frames_on_the_way + acknowledgements_on_the_way) + ceil(queue_bytes / frame) + 1


def test_netems_default_of_1000_packets_would_have_dropped() -> None:
    assert units.delay_limit_packets(100_000_000, 100_000_000, 200_000, 65_536, MTU) > 1_651 + 43


def test_queues() -> None:
    assert units.queue_limit_bytes(100_000_000, MTU, None) == 3_125_000
    assert units.queue_limit_bytes(25_000_000, MTU, None, time_dilation=4) == 3_125_000, "bytes are not dilated"
    assert units.queue_limit_bytes(10_000, MTU, None) == units.QUEUE_BYTES_MIN
    assert units.queue_limit_bytes(units.UNLIMITED_BPS, MTU, None) == units.QUEUE_BYTES_MAX
    assert units.queue_limit_bytes(100_000_000, MTU, 100_000) == 100_000
    assert units.queue_limit_bytes(100_000_000, MTU, 0) == 3_028
    # What may be in flight has room four times.
    assert units.queue_limit_bytes(10_000, MTU, None, in_flight_bytes=50_000) == 200_000
    assert units.queue_limit_bytes(100_000_000, MTU, None, in_flight_bytes=50_000) == 3_125_000
    assert units.queue_limit_bytes(10_000, MTU, None, in_flight_bytes=2**31) == units.LIMIT_BYTES_MAX
    assert units.queue_limit_bytes(10_000, MTU, 4_000, in_flight_bytes=50_000) == 4_000


def test_packets_are_no_larger_than_a_burst() -> None:
    def segments(mbps: float, dilation: float = 1.0) -> int:
        return units.gso_segments(units.kernel_rate_bps(mbps, "a link"), MTU, dilation, each_packet_counts=False)

    assert [segments(mbps) for mbps in (0, 2, 10, 60, 100, 262)] == [1, 1, 1, 9, 16, 43]
    assert segments(300) == segments(inf) == units.GSO_SEGMENTS_MAX
    assert segments(10, dilation=6) == 9
    assert units.gso_segments(units.UNLIMITED_BPS, MTU, each_packet_counts=True) == 1


@pytest.mark.parametrize(
    ("text", "size"), [("1514b/1", 1_514), ("2Kb/8", 2_048), ("1Mb", 1_048_576), ("15000b/1mpu", 15_000)]
)
def test_sizes_as_tc_prints_them(text: str, size: int) -> None:
    assert parse_size_bytes(text) == size
