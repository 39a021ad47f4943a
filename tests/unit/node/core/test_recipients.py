"""Drawing recipients: counts, distinctness, and what all nodes derive alike."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.bodies import NO_VALUES
from node.core.recipients import address, regular_graph, shared_recipients
from node.core.rng import stream
from tests.messages import Kind, make_message


@given(neighbors=st.integers(0, 9), messages=st.integers(0, 5), data=st.data())
def test_address_gives_each_message_distinct_neighbors(neighbors: int, messages: int, data: st.DataObject) -> None:
    each = data.draw(st.integers(1, max(1, neighbors)))
    candidates = np.arange(100, 100 + neighbors)
    made = [make_message(Kind.FRAGMENT, 0, NO_VALUES, index) for index in range(messages)]
    addressed = address(stream(1, "test"), candidates, made, each)
    if neighbors == 0:
        assert len(addressed) == 0
        return
    assert len(addressed) == messages * each
    for message in made:
        to = [peer for peer, m in addressed if m is message]
        assert len(set(to)) == len(to) == each
        assert set(to) <= set(candidates.tolist())


def test_address_shuffles_all_pairs() -> None:
    made = [make_message(Kind.FRAGMENT, 0, NO_VALUES, index) for index in range(5)]
    rng = stream(0, "test")
    first = Counter(address(rng, np.arange(9), made, 2)[0][1].body.fragment for _ in range(500))
    assert len(first) == 5
    assert max(first.values()) < 150  # 100 expected of each


@pytest.mark.parametrize(("nodes", "each"), [(2, 1), (7, 3), (7, 6)])
def test_shared_recipients_agree_on_both_ends(nodes: int, each: int) -> None:
    table = shared_recipients(nodes, each, 3, 8)
    pairs = {(node, peer) for node, (to, _) in enumerate(table) for peer in to}
    assert pairs == {(peer, node) for node, (_, heard) in enumerate(table) for peer in heard}
    assert len(pairs) == nodes * each
    assert all(a != b for a, b in pairs)
    assert all(list(heard) == sorted(heard) for _, heard in table)
    if each < nodes - 1:
        assert table != shared_recipients(nodes, each, 3, 9)


@pytest.mark.parametrize(("nodes", "degree"), [(2, 1), (8, 1), (9, 2), (10, 3), (16, 7), (60, 7), (9, 8)])
def test_regular_graph_is_regular(nodes: int, degree: int) -> None:
    graph = regular_graph(nodes, degree, 0, 5)
    assert [graph.degree(node) for node in range(nodes)] == [degree] * nodes
    assert regular_graph.__wrapped__(nodes, degree, 0, 5) == graph
    if degree < nodes - 1:
        assert any(regular_graph(nodes, degree, 0, round_) != graph for round_ in range(5))
