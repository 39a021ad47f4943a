"""The place in an output: whatever a stream brought before it broke off, the rest is what is new, and all of it."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.units import NS_PER_S
from orchestrator.containers.engine import parse_instant
from orchestrator.containers.output_copy import OutputPlace

# Steps of up to 30 s from piece to piece, backwards by no more than two pieces written at the same time are.
STEPS = st.lists(
    st.one_of(st.integers(0, 3), st.integers(0, 30 * NS_PER_S), st.integers(-1000, 0)), min_size=1, max_size=60
)


def written(steps: Sequence[int]) -> list[tuple[int, bytes]]:
    now, pieces = 10**18, []
    for number, step in enumerate(steps):
        now += step
        pieces.append((now, b"%d\n" % number))
    return pieces


@given(STEPS, st.lists(st.integers(0, 60), max_size=6))
def test_the_rest_is_all_that_is_new(steps: Sequence[int], breaks: Sequence[int]) -> None:
    pieces = written(steps)
    place, copied = OutputPlace(), list[bytes]()
    for end in [*sorted(breaks), len(pieces)]:
        # Everything up to here was written by now; the engine leaves out what is before the place.
        there = [piece for piece in pieces[:end] if piece[0] >= place.since_ns]
        copied += place.rest_of(there)
    assert copied == [data for _, data in pieces]


def test_the_place_moves_on_so_that_little_is_read_again() -> None:
    place = OutputPlace()
    pieces = written([NS_PER_S] * 1000)
    assert len(list(place.rest_of(pieces))) == 1000
    assert place.since_ns >= pieces[-30][0]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-02T03:04:05.123456789Z", 1_767_323_045_123_456_789),
        ("2026-01-02T03:04:05.5Z", 1_767_323_045_500_000_000),
        ("2026-01-02T03:04:05Z", 1_767_323_045_000_000_000),
        ("hello", 0),
    ],
)
def test_instants_of_the_engine(text: str, instant: int) -> None:
    assert parse_instant(text) == instant
