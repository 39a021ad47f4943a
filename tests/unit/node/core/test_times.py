"""Times at equal distances, against what they are when they are written out."""

import pytest

from node.core.times import Times

FORMS = [
    Times(3, 2),
    Times(3, None),
    Times(3, 0),
    Times(0, 1, 5, 4),
    Times(2, 4, 5, 3),
    Times(7, 0, 3, 5),
]


@pytest.mark.parametrize("times", FORMS)
def test_any_instant_is_that_of_the_times_written_out(times: Times) -> None:
    spans = list(times)
    assert len(spans) == times.count
    for now in range(30):
        assert times.begun_at(now) == sum(begin <= now for begin, _ in spans)
        assert times.next_ns(now) == min((begin for begin, _ in spans if begin > now), default=None)
        held = [(begin, end) for begin, end in spans if begin <= now and (end is None or now < end)]
        assert times.holding(now) == (held[0] if held else None)
    assert times.are_instants == all(begin == end for begin, end in spans)
