"""The bound on bytes in flight."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.transport.window import Window, bound_bytes


def test_bound_is_two_messages_where_the_path_is_short() -> None:
    assert bound_bytes(36_000, bandwidth_mbps=10.0, round_trip_ms=1.0) == 72_000
    assert bound_bytes(36_000, transfers=3, bandwidth_mbps=10.0, round_trip_ms=1.0) == 4 * 36_000


def test_bound_is_one_and_a_half_bandwidth_delay_products_where_it_is_long() -> None:
    # 100 Mbit/s for 200 ms is 2.5 MB.
    assert bound_bytes(36_000, bandwidth_mbps=100.0, round_trip_ms=200.0) == 3_750_000


def test_an_unlimited_link_is_bounded_by_messages() -> None:
    assert bound_bytes(36_000, bandwidth_mbps=None, round_trip_ms=1_000.0) == 72_000


@given(st.integers(1, 10**8), st.integers(1, 9), st.floats(0, 1e5), st.floats(0, 1e4))
def test_bound_is_the_larger_of_both(message: int, transfers: int, mbps: float, rtt_ms: float) -> None:
    bound = bound_bytes(message, transfers=transfers, bandwidth_mbps=mbps, round_trip_ms=rtt_ms)
    product = mbps * 1e6 / 8 * rtt_ms / 1e3
    assert bound >= (transfers + 1) * message
    assert bound >= 1.5 * product * (1 - 1e-12) - 1
    assert bound <= max((transfers + 1) * message, 1.5 * product * (1 + 1e-12))


def test_what_is_larger_than_the_bound_goes_alone() -> None:
    window = Window(10)
    assert window.fits(11)
    window.add(0, 11)
    assert not window.fits(0)
    assert window.remove(0) == 11
    window.add(1, 4)
    assert window.fits(6)
    assert not window.fits(7)
    assert not window.fits(11)


class Against(RuleBasedStateMachine):
    """A window beside the obvious bookkeeping."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(100)
        self.sizes: dict[int, int] = {}
        self.number = self.most = 0

    @rule(size=st.integers(0, 60))
    def send(self, size: int) -> None:
        if self.window.fits(size):
            self.window.add(self.number, size)
            self.sizes[self.number] = size
            self.number += 1
            self.most = max(self.most, sum(self.sizes.values()))

    @rule(number=st.integers(0, 50))
    def end(self, number: int) -> None:
        assert self.window.remove(number) == self.sizes.pop(number, 0)

    @invariant()
    def agrees(self) -> None:
        assert self.window.bytes == sum(self.sizes.values()) <= self.window.bound_bytes
        assert len(self.window) == len(self.sizes)
        assert self.window.bytes_max == self.most


TestAgainst = Against.TestCase
