"""Testbed time on the monotonic clock."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.host.clock import Clock

DAY_NS = 86_400 * 10**9


@given(
    real_ns=st.integers(0, 100 * DAY_NS),
    dilation=st.floats(1, 10_000) | st.sampled_from([1.0, 1.5, 2.7, 3.0]),
    epoch_ns=st.integers(0, 1_000 * DAY_NS),
)
def test_an_instant_is_the_same_in_both_times(real_ns: int, dilation: float, epoch_ns: int) -> None:
    clock, time_ns = Clock(epoch_ns, dilation), int(real_ns / dilation)
    reading = clock.monotonic_ns(time_ns)
    assert clock.at_ns(reading) == time_ns
    assert time_ns == 0 or clock.at_ns(reading - 2) < time_ns


def test_time_passes_more_slowly_by_the_dilation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1_000, 4.0)
    for reading, expected in ((1_000, 0), (1_003, 0), (1_004, 1), (1_400, 100), (600, -100)):
        monkeypatch.setattr("node.host.clock.time", SimpleNamespace(monotonic_ns=lambda reading=reading: reading))
        assert clock.now_ns() == expected
