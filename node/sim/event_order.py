"""The order of events in virtual time.

An entry of the heap is ``(time_ns, class, node, sequence, payload)``. Ties in time break by class, then by node, then
by the order of scheduling, so that the order is total and the same in every run.
"""

from typing import Any, TypeAlias

Entry: TypeAlias = tuple[int, int, int, int, Any]

LINK_CHANGE = 0
"""A link's bandwidth changes, or who reaches whom."""
NODE_CHANGE = 1
"""A node goes down or comes back, stands still or goes on, or its speed changes."""
TRANSFER_ENDED = 2
"""The last byte of a message left its sender."""
DELIVERY = 3
"""The last byte of a message arrived. Before STEPS_DONE: what arrives at this instant is averaged at once."""
NEWS = 4
"""A node learns that a neighbor has ended, or has begun again."""
TIMER = 5
"""A timer of an algorithm ran out."""
STEPS_DONE = 6
"""A node's local steps ended."""
