"""Values that change at instants."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.steps import Steps, steps_of


@dataclass(frozen=True)
class Held:
    begin_ns: int
    end_ns: int | None
    name: str


def names(held: object) -> str:
    return "".join(span.name for span in held)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("time_ns", "value"), [(-1, "a"), (9, "a"), (10, "b"), (19, "b"), (20, "c"), (10**9, "c")])
def test_a_change_holds_from_its_instant_on(time_ns: int, value: str) -> None:
    assert Steps("a", (10, 20), ("b", "c")).at(time_ns) == value


def test_changes_after_a_time() -> None:
    steps = Steps(0, (10, 20), (1, 2))
    assert list(steps.after(9)) == [(10, 1), (20, 2)]
    assert list(steps.after(10)) == [(20, 2)]
    assert list(steps.after(20)) == []


def test_spans_that_touch_leave_no_gap() -> None:
    """The rows of a trace: what ends at the instant at which the next begins never shows."""
    spans = [Held(0, 10, "a"), Held(10, 20, "b"), Held(20, None, "c"), Held(12, 15, "x")]
    assert list(steps_of(spans, names)) == [(0, "a"), (10, "b"), (12, "bx"), (15, "b"), (20, "c")]


def test_what_changes_nothing_is_no_change() -> None:
    spans = [Held(5, 10, "a"), Held(10, 20, "a")]
    assert steps_of(spans, names) == Steps("", (5, 20), ("a", ""))


@given(
    st.lists(st.tuples(st.integers(0, 30), st.none() | st.integers(1, 20), st.sampled_from("abcd")), max_size=12),
    st.integers(0, 60),
)
def test_the_value_is_that_of_the_spans_that_hold_then(drawn: list[tuple[int, int | None, str]], time_ns: int) -> None:
    spans = [Held(begin, None if length is None else begin + length, name) for begin, length, name in drawn]
    held = [each for each in spans if each.begin_ns <= time_ns and (each.end_ns is None or time_ns < each.end_ns)]
    assert steps_of(spans, names).at(time_ns) == names(held)
