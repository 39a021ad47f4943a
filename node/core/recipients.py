"""Whom to send to: drawing the recipients of a round's messages."""

from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias, cast, overload

import numpy as np
import numpy.typing as npt

from node.core.effects import Addressed
from node.core.messages import Message
from node.core.rng import stream
from node.core.sampling import sample_distinct
from node.core.topology import Topology, from_edges, k_regular
from node.core.types import IndexVector, NodeId

Peers: TypeAlias = tuple[NodeId, ...]


class Fanout(Sequence[Addressed]):
    """Addressed messages in a few bytes each.

    A simulation of a thousand nodes holds a hundred thousand of them that will be sent or cancelled; as tuples they
    would crowd everything else out of the processor's cache.

    Attributes:
        messages: The different messages.
        receivers: Who gets each item, in order.
        which: Index in ``messages`` of each item, in order.
    """

    __slots__ = ("messages", "receivers", "which")

    def __init__(
        self, messages: Sequence[Message], receivers: npt.NDArray[np.int64], which: npt.NDArray[np.int64]
    ) -> None:
        self.messages = messages
        self.receivers = cast("Sequence[NodeId]", array("i", receivers.astype(np.intc).tobytes()))
        self.which = array("i", which.astype(np.intc).tobytes())

    def __len__(self) -> int:
        return len(self.which)

    @overload
    def __getitem__(self, index: int) -> Addressed: ...
    @overload
    def __getitem__(self, index: slice) -> list[Addressed]: ...
    def __getitem__(self, index: int | slice) -> Addressed | list[Addressed]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        return self.receivers[index], self.messages[self.which[index]]


def distinct_messages(items: Sequence[Addressed]) -> Iterable[Message]:
    """Return the different messages among addressed ones, each once."""
    if isinstance(items, Fanout):
        return items.messages
    return {id(message): message for _, message in items}.values()


def address(
    rng: np.random.Generator, neighbors: IndexVector, messages: Sequence[Message], each: int
) -> Sequence[Addressed]:
    """Give every message its own sample of distinct recipients and shuffle all the pairs.

    Args:
        rng: The stream to draw from: one draw of samples and one permutation a call.
        neighbors: Who can be drawn, shape (k,).
        messages: What is to be sent.
        each: Recipients of each message, at most k unless k is 0.

    Returns:
        ``len(messages) * each`` addressed messages; none when there are no neighbors.
    """
    if len(neighbors) == 0:
        return ()
    drawn = sample_distinct(rng, len(neighbors), len(messages), each)
    order = rng.permutation(drawn.size)
    return Fanout(messages, neighbors[drawn.ravel()[order]], order // each)


@lru_cache(maxsize=32)
def shared_recipients(num_nodes: int, each: int, seed: int, round_: int) -> tuple[tuple[Peers, Peers], ...]:
    """One round's recipients of all nodes, derived from the shared seed, so that everyone knows everyone's.

    Every node draws ``each`` distinct others, uniformly and independently. Cached: all nodes ask alike.

    Returns:
        Per node: whom it sends to, and, in increasing order, whom it receives from.
    """
    rng = stream(seed, "shared-recipients", index=round_)
    drawn = sample_distinct(rng, num_nodes - 1, num_nodes, each)
    drawn += drawn >= np.arange(num_nodes)[:, None]  # nobody draws itself
    senders: list[list[NodeId]] = [[] for _ in range(num_nodes)]
    for sender, recipients in enumerate(drawn.tolist()):
        for recipient in recipients:
            senders[recipient].append(NodeId(sender))
    return tuple((tuple(to), tuple(heard)) for to, heard in zip(drawn.tolist(), senders, strict=True))


@lru_cache(maxsize=32)
def regular_graph(num_nodes: int, degree: int, seed: int, round_: int) -> Topology:
    """One round's random regular undirected graph, derived from the shared seed.

    A random perfect matching for degree 1, a random cycle for degree 2, else a random connected graph.
    Cached: all nodes ask alike.

    Args:
        num_nodes: n.
        degree: Neighbors of each node, in [1, n-1]; n * degree must be even.
        seed: The experiment's seed.
        round_: The round; another one gives another graph.
    """
    rng = stream(seed, "regular-graph", index=round_)
    if degree > 2:
        return k_regular(num_nodes, degree=degree, rng=rng)
    order = rng.permutation(num_nodes).tolist()
    if degree == 1:
        return from_edges(num_nodes, zip(order[::2], order[1::2], strict=True))
    return from_edges(num_nodes, zip(order, [*order[1:], order[0]], strict=True))
