"""How a node opens the streams to its peers: a few at a time, beginning with those after itself."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from node.core.errors import TransportError
from node.core.types import NodeId
from node.runtime.peers import OPENED_AT_ONCE, Peers


class Opening:
    """What a node's :class:`Peers` uses to open streams; a peer answers in the next turn of the loop.

    Attributes:
        asked: The peers in the order in which they were asked.
        most: How many were waited for at a time, at most.
    """

    def __init__(self, node: int, peers: int, silent: frozenset[int] = frozenset()) -> None:
        self.asked: list[int] = []
        self.most = 0
        self._waiting: set[int] = set()
        self._silent = silent
        self._config = SimpleNamespace(node=NodeId(node))
        self._unopened: set[int] = set()
        self._to_open = lambda: {NodeId(peer) for peer in range(peers) if peer != node}
        self.client: Any = self
        self.troubles: dict[int, str] = {}

        self._loop = self
        self._now_s = 0.0

    def time(self) -> float:
        """A clock that goes on by a step whenever somebody looks, so that no host is too slow."""
        self._now_s += 0.05
        return self._now_s

    def probe(self, peer: int, *more: int) -> None:
        self.asked.append(peer)
        self._waiting.add(peer)
        self.most = max(self.most, len(self._waiting))
        if peer not in self._silent:
            asyncio.get_running_loop().call_soon(self._answer, peer)

    def _answer(self, peer: int) -> None:
        self._waiting.discard(peer)
        self._unopened.discard(peer)

    def run(self, within_s: float = 5.0) -> None:
        asyncio.run(Peers.open_streams(self, within_s))  # type: ignore[arg-type]


def test_a_few_at_a_time_beginning_after_itself() -> None:
    opening = Opening(20, 60)
    opening.run()
    assert opening.asked == [*range(21, 60), *range(20)]
    assert opening.most == OPENED_AT_ONCE


def test_one_that_is_silent_holds_nobody_else_up_and_is_named() -> None:
    opening = Opening(0, 30, silent=frozenset({3}))
    opening.troubles[3] = "no answer: 10 s passed"
    with pytest.raises(TransportError, match=r"^node 3 cannot be reached \(3: no answer: 10 s passed\)$"):
        opening.run()
    assert sorted(set(opening.asked)) == list(range(1, 30))
