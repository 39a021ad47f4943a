"""A check of the messages that a node queues, and a memory of when their values were beyond the wire's type."""

from collections import deque
from collections.abc import Iterable

from node.core.counters import NodeCounters
from node.core.divergence import check_outgoing
from node.core.messages import Message
from node.core.types import NodeId
from node.core.wire_values import WireDtype

SATURATED_KEPT = 2_000
"""Times at which values saturated that a node remembers: more than in the two seconds until it is told that the run
is over, with rounds of a millisecond."""


class OutgoingCheck:
    """Checks what one node is about to queue.

    Args:
        node: The node.
        dtype: How values travel.
        counters: Counts those that saturate.

    State:
        saturated: When values were beyond the wire's type, and how many; the last :data:`SATURATED_KEPT` times.
    """

    def __init__(self, node: NodeId, dtype: WireDtype, counters: NodeCounters) -> None:
        self.saturated: deque[tuple[int, int]] = deque(maxlen=SATURATED_KEPT)
        self._node = node
        self._dtype = dtype
        self._counters = counters

    def check(self, messages: Iterable[Message], at_ns: int) -> None:
        """Check different messages.

        Raises:
            DivergedError: One has a value that is not finite.
        """
        before = self._counters.values_saturated
        try:
            check_outgoing(messages, self._dtype, self._node, self._counters, at_ns)
        finally:
            if self._counters.values_saturated > before:
                self.saturated.append((at_ns, self._counters.values_saturated - before))
