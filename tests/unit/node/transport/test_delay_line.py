"""The delay line."""

from hypothesis import given
from hypothesis import strategies as st

from node.transport.delay_line import DelayLine


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
