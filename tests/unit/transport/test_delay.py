"""The delay line and the count of lateness."""

from hypothesis import given
from hypothesis import strategies as st

from node.transport.delay import DelayLine, Lateness


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20))))
def test_what_is_due_comes_out_in_order_of_due_and_arrival(steps: list[tuple[bool, int]]) -> None:
    line: DelayLine[int] = DelayLine()
    held: list[tuple[int, int]] = []
    for index, (put, at) in enumerate(steps):
        if put:
            line.put(at, index)
            held.append((at, index))
        else:
            due = min((entry for entry in held if entry[0] <= at), default=None)
            assert line.pop_due(at) == (None if due is None else due[1])
            if due is not None:
                held.remove(due)
        assert len(line) == len(held)
        assert line.next_due_ns == min((entry[0] for entry in held), default=None)


@given(st.lists(st.integers(-(10**9), 10**13), min_size=1), st.data())
def test_a_percentile_is_a_bound_at_most_twice_too_large(late: list[int], data: st.DataObject) -> None:
    lateness = Lateness()
    for value in late:
        lateness.add(value)
    ordered = sorted(max(value, 0) for value in late)
    rank = data.draw(st.integers(1, len(late)))
    exact = ordered[rank - 1]
    bound = lateness.percentile_ns(rank / len(late))
    assert exact <= bound
    assert bound <= max(2 * exact, 1_000) or exact >= 2**24 * 1_000
    assert lateness.count == sum(lateness.histogram) == len(late)
    assert lateness.max_ns == max(ordered)


def test_nothing_was_late_before_anything_came() -> None:
    assert Lateness().percentile_ns(0.99) == 0
