"""Requests to stop: how many interrupts are one, and when there is nothing left to hurry."""

import pytest

from orchestrator.runs.stopping import ONE_SIGNAL_S, StopRequests


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_each_request_asks_for_a_faster_end(clock: Clock) -> None:
    requests = StopRequests(2, now_s=clock)
    assert (requests.requested, requests.in_a_hurry) == (False, False)
    requests.request()
    assert (requests.requested, requests.in_a_hurry) == (True, False)
    clock.now_s += 1.0
    requests.request()
    assert (requests.requested, requests.in_a_hurry) == (True, True)
    clock.now_s += 1.0
    with pytest.raises(KeyboardInterrupt):
        requests.request()


def test_a_signal_that_arrives_twice_is_one_request(clock: Clock) -> None:
    """The second request too: its echo must not drop everything."""
    requests = StopRequests(2, now_s=clock)
    for _ in range(2):
        requests.request()
        clock.now_s += ONE_SIGNAL_S / 2
        requests.request()
        clock.now_s += ONE_SIGNAL_S
    assert requests.count == 2


def test_a_run_with_one_level_is_dropped_by_the_second_request(clock: Clock) -> None:
    requests = StopRequests(1, one_signal_s=0.0, now_s=clock)
    requests.request()
    with pytest.raises(KeyboardInterrupt):
        requests.request()
