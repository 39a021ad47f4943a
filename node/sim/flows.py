"""Transfers of :class:`~node.sim.fluid_network.FluidNetwork`, and the links that they share.

A link is a number: s for the uplink of s, n + d for the downlink of d, 2n + s * n + d for the pair (s, d).
"""

from typing import Any

from node.sim.rates import NEVER, UNLIMITED

UNKNOWN_LINK = -1
"""In the place of a link's number: which link holds the transfer back has not been found out."""

NO_LINK = -2
"""In the place of a link's number: none holds the transfer back."""


class Flow:
    """One transfer under way. Owned by the network: callers read it and hand it back.

    Attributes:
        source: The sending node.
        destination: The receiving node.
        size: Bytes on the wire.
        remaining: Bytes not yet transmitted at ``updated_ns``.
        rate: Bytes a nanosecond since ``updated_ns``; the last one, when it has ended.
        updated_ns: When ``remaining`` and ``rate`` were last settled.
        finish_ns: The end if nothing changes; :data:`NEVER` while the rate is zero.
        scheduled_ns: The event that counts, never later than ``finish_ns``; :data:`NEVER` if there is none.
        token: Whatever the caller wants to find again.
        number: A number of the caller's, for the same purpose; the network never looks at it.
        active: Whether it is still in the network.
        sequence: 0, 1, 2, ... in order of start.
        cap: The limit by uplink and pair, bytes a nanosecond.
        pair: The limit by the pair alone.
        links: The links it uses, once asked for; for the network's own use.
        bottleneck: The link that holds it back, where a region fill found it; for the network's own use.
        mark: The last region fill it belonged to; for the network's own use.
        target: The rate that a region fill proposes; for the network's own use.
    """

    __slots__ = (
        "active",
        "bottleneck",
        "cap",
        "destination",
        "finish_ns",
        "links",
        "mark",
        "number",
        "pair",
        "rate",
        "remaining",
        "scheduled_ns",
        "sequence",
        "size",
        "source",
        "target",
        "token",
        "updated_ns",
    )

    def __init__(self, source: int, destination: int, size: int, now_ns: int, token: Any, sequence: int) -> None:
        self.source = source
        self.destination = destination
        self.size = size
        self.remaining: float = size
        self.rate = 0.0
        self.updated_ns = now_ns
        self.finish_ns = NEVER
        self.scheduled_ns = NEVER
        self.token = token
        self.number = 0
        self.active = True
        self.sequence = sequence
        self.cap = 0.0
        self.pair = UNLIMITED
        self.links: tuple[int, ...] | None = None
        self.bottleneck = UNKNOWN_LINK
        self.mark = 0
        self.target = 0.0


class FlowTable:
    """Capacities of all links, and the transfers that use each.

    Attributes:
        up: Capacity of each uplink, bytes a nanosecond.
        down: Capacity of each downlink.
        outgoing: Transfers by sender, in order of start.
        incoming: Transfers by receiver, in order of (cap, start).
        by_pair: Transfers of each pair, by source * n + destination, and only where pairs can limit. No entry is empty.
        pairs_limit: Whether pairs can.
    """

    __slots__ = ("by_pair", "count", "down", "incoming", "outgoing", "pairs_limit", "up")

    def __init__(self, up: list[float], down: list[float], *, pairs_limit: bool) -> None:
        self.count = len(up)
        self.up = up
        self.down = down
        self.outgoing: list[list[Flow]] = [[] for _ in up]
        self.incoming: list[list[Flow]] = [[] for _ in down]
        self.by_pair: dict[int, list[Flow]] = {}
        self.pairs_limit = pairs_limit

    def active(self) -> list[Flow]:
        """Return the transfers under way, in order of start."""
        return sorted((flow for flows in self.outgoing for flow in flows), key=lambda flow: flow.sequence)

    def links(self, flow: Flow) -> tuple[int, ...]:
        """Return the links that a transfer uses."""
        links = flow.links
        if links is None:
            count = self.count
            links = (flow.source, count + flow.destination)
            if self.pairs_limit:
                links = (*links, 2 * count + flow.source * count + flow.destination)
            flow.links = links
        return links

    def members(self, link: int) -> list[Flow]:
        """Return the transfers that use a link; not to be modified."""
        count = self.count
        if link < count:
            return self.outgoing[link]
        if link < 2 * count:
            return self.incoming[link - count]
        return self.by_pair.get(link - 2 * count, [])

    def capacity(self, link: int) -> float:
        """Return the capacity of a link, bytes a nanosecond; a pair must have transfers."""
        count = self.count
        if link < count:
            return self.up[link]
        if link < 2 * count:
            return self.down[link - count]
        return self.by_pair[link - 2 * count][0].pair

    def index_pairs(self) -> None:
        """Begin to keep transfers by pair, where the plan had no limits of pairs."""
        if self.pairs_limit:
            return
        self.pairs_limit = True
        for flow in self.active():
            flow.links = None
            self.by_pair.setdefault(flow.source * self.count + flow.destination, []).append(flow)


def insert(incoming: list[Flow], flow: Flow) -> None:
    """Insert a transfer into those of its receiver, behind those of the same or a smaller cap."""
    cap = flow.cap
    position = len(incoming)
    while position and incoming[position - 1].cap > cap:
        position -= 1
    incoming.insert(position, flow)
