"""Who takes part in which round: two neighbors agree on the later of what they propose."""

from hypothesis import given
from hypothesis import strategies as st

from node.core.attendance import Attendance, is_far_behind
from node.core.types import NodeId

A, B, C = NodeId(4), NodeId(7), NodeId(9)


def test_all_take_part_from_the_beginning() -> None:
    peers = (A, B, C)
    assert Attendance().present(peers, 0) is peers


def test_one_that_has_ended_takes_part_in_no_round_until_it_is_back() -> None:
    attendance = Attendance()
    attendance.ended(B)
    assert attendance.present((A, B, C), 2**40) == [A, C]
    assert attendance.proposed(B, 6) == []
    assert attendance.is_back(B, 5) == (B, 5)
    assert attendance.present((A, B, C), 4) == [A, C]
    assert attendance.present((A, B, C), 5) == [A, B, C]


def test_rounds_that_are_left_out_are_told_to_those_that_would_wait() -> None:
    attendance = Attendance()
    attendance.ended(A)
    attendance.proposed(B, 9)
    assert attendance.left_out((A, B, C), 8) == [(C, 8)]
    assert attendance.present((A, B, C), 8) == [C]


def test_a_node_leaves_out_rounds_where_it_is_behind_by_more_than_one() -> None:
    assert [is_far_behind(4, proposed) for proposed in (3, 4, 5, 6)] == [False, False, False, True]


@given(
    known=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    proposals=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_two_agree_on_the_later_round_whatever_comes_first(
    known: tuple[int, int], proposals: list[tuple[bool, int]], order: object
) -> None:
    """Proposals of earlier lives are among them; one that each makes on its return is on its way as well."""
    sides = (Attendance(), Attendance())
    on_the_way = [(int(to_second), round_) for to_second, round_ in proposals]
    for side, round_ in enumerate(known):
        on_the_way.append((1 - side, sides[side].is_back(A, round_)[1]))
    for _ in range(1000):
        if not on_the_way:
            break
        receiver, round_ = on_the_way.pop(order.randrange(len(on_the_way)))  # type: ignore[attr-defined]
        on_the_way += [(1 - receiver, answer) for _, answer in sides[receiver].proposed(A, round_)]
    assert not on_the_way
    latest = max([*known, *(round_ for _, round_ in proposals)])
    assert [side._since[A] for side in sides] == [latest, latest]
