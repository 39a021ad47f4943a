"""Transfers in virtual time: fluid flows that share links max-min fairly.

:class:`FluidNetwork` holds the transfers under way. A transfer from s to d is limited by the uplink of s,
the downlink of d and, where the plan has one, the capacity of the pair (s, d), which all transfers of this
pair share. Rates are the max-min fair allocation: no transfer can be made faster without slowing one that
is not faster. It models neither packets nor congestion control.

How it stays fast: a start or an end changes rates only among transfers that are connected through shared
links.

- Where every transfer into a node is its sender's only one, which is always so with serial senders, these
  transfers share one downlink and nothing else. Then the downlink is filled in one pass over a list sorted
  by the senders' limits (:meth:`FluidNetwork._fill_star`). The cost does not depend on the number of nodes.
- Otherwise a region around the change is filled progressively and grows until every transfer has a
  bottleneck again (:meth:`FluidNetwork._fill_region`). It is usually far smaller than all transfers that are
  connected; a transfer costs some fifty times as much as with serial senders, at any number of nodes.

A completion event is pushed when a transfer starts or its end moves *earlier*. When the end moves later
the old event stays, and :meth:`FluidNetwork.finish` pushes the next one when the old one comes up. So a
delivery costs a little more than one event, whatever happens to its rate meanwhile.

A simulation makes its calls in order of time. An emulation in real time learns late what happened, and may
make a call for a time before that of an earlier one. Then every transfer keeps its own order: the new rate holds
from the time given or from the transfer's own last change, whichever is later. The outcome is that of calls in
order, unless in between a transfer that the late call concerns has ended or changed its rate, or a capacity has
changed.

Everything ordered iterates over lists in an order that depends on the calls only.
"""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heapreplace
from typing import Any, ClassVar

from node.core.links import NetworkPlan
from node.sim.rates import NEVER, TOLERANCE, UNLIMITED, capacity_of

_UNKNOWN = -1
_NO_LINK = -2


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
        self.bottleneck = _UNKNOWN
        self.mark = 0
        self.target = 0.0


class FluidNetwork:
    """All transfers under way and their max-min fair rates.

    Args:
        plan: Capacities at the start; its ``changes`` are applied by the caller through the ``set_`` methods.
        schedule: Called with (finish_ns, flow): the caller calls :meth:`finish` with this flow at this time.
    """

    rebuilt_attributes: ClassVar[frozenset[str]] = frozenset({"_schedule", "_pair_mbps"})

    def __init__(self, plan: NetworkPlan, schedule: Callable[[int, Flow], None]) -> None:
        count = plan.num_nodes
        self._count = count
        self._schedule = schedule
        self._up = [capacity_of(mbps) for mbps in plan.up_mbps.tolist()]
        self._down = [capacity_of(mbps) for mbps in plan.down_mbps.tolist()]
        self._pair_mbps = plan.pair_mbps
        # Capacities of pairs that were changed, by source * count + destination; they override the plan's.
        self._pair_changed: dict[int, float] = {}
        # Transfers of each pair, by source * count + destination, and only where pairs can limit.
        self._by_pair: dict[int, list[Flow]] = {}
        self._pairs_limit = plan.pair_mbps is not None
        # Transfers by sender in order of start, and by receiver in order of (cap, start).
        self._out: list[list[Flow]] = [[] for _ in range(count)]
        self._in: list[list[Flow]] = [[] for _ in range(count)]
        # How many transfers into a node come from a sender with more than one.
        self._shared_in = [0] * count
        self._sequence = 0
        self._epoch = 0

    def start(self, now_ns: int, source: int, destination: int, size: int, token: Any) -> Flow:
        """Begin a transfer.

        Args:
            now_ns: The time; see the module's text where it lies before that of an earlier call.
            source: The sending node.
            destination: The receiving node, another one.
            size: Bytes on the wire, >= 1.
            token: Kept on the flow.
        """
        flow = Flow(source, destination, size, now_ns, token, self._sequence)
        self._sequence += 1
        cap = self._up[source]
        if self._pairs_limit:
            pair = self._pair_capacity(source, destination)
            flow.pair = pair
            if pair < cap:
                cap = pair
            self._by_pair.setdefault(source * self._count + destination, []).append(flow)
        flow.cap = cap
        outgoing = self._out[source]
        outgoing.append(flow)
        incoming = self._in[destination]
        if len(outgoing) > 1:
            if len(outgoing) == 2:
                self._shared_in[outgoing[0].destination] += 1
            self._shared_in[destination] += 1
            _insert(incoming, flow)
            self._fill_region(self._links(flow), now_ns)
        elif incoming:
            _insert(incoming, flow)
            if self._shared_in[destination]:
                self._fill_region(self._links(flow), now_ns)
            else:
                self._fill_star(destination, now_ns)
        else:
            incoming.append(flow)
            down = self._down[destination]
            rate = cap if cap < down else down
            if rate:
                flow.rate = rate
                finish = now_ns + _ceil(size / rate)
                flow.finish_ns = flow.scheduled_ns = finish
                self._schedule(finish, flow)
        return flow

    def finish(self, flow: Flow, now_ns: int) -> Sequence[Flow]:
        """Handle the event that was scheduled for ``flow`` at ``now_ns``.

        Returns:
            The transfer, if it ended and was removed; nothing when the event is stale. If the end has moved later, the
            next event was scheduled.
        """
        if not flow.active or flow.scheduled_ns != now_ns:
            return ()
        finish = flow.finish_ns
        if finish > now_ns:
            flow.scheduled_ns = finish
            if finish != NEVER:
                self._schedule(finish, flow)
            return ()
        flow.remaining = 0.0
        flow.updated_ns = now_ns
        self._remove(flow, now_ns)
        return (flow,)

    def abort(self, flow: Flow, now_ns: int) -> int:
        """Remove a transfer before its end.

        Returns:
            Whole bytes transmitted so far, which were wasted.
        """
        assert flow.active, "the transfer has already ended"
        sent = self.transmitted(flow, now_ns)
        flow.remaining = float(flow.size - sent)
        flow.updated_ns = now_ns
        self._remove(flow, now_ns)
        return sent

    def set_up(self, node: int, mbps: float, now_ns: int) -> None:
        """Change a node's uplink; inf is unlimited, 0 parks its transfers."""
        capacity = capacity_of(mbps)
        self._up[node] = capacity
        for flow in self._out[node]:
            flow.cap = min(capacity, flow.pair)
            incoming = self._in[flow.destination]
            incoming.remove(flow)
            _insert(incoming, flow)
        self._fill_region((node,), now_ns)

    def set_down(self, node: int, mbps: float, now_ns: int) -> None:
        """Change a node's downlink; inf is unlimited, 0 parks its transfers."""
        self._down[node] = capacity_of(mbps)
        self._fill_region((self._count + node,), now_ns)

    def set_pair(self, source: int, destination: int, mbps: float, now_ns: int) -> None:
        """Change the capacity that transfers from ``source`` to ``destination`` share."""
        self._index_pairs()
        key = source * self._count + destination
        capacity = capacity_of(mbps)
        self._pair_changed[key] = capacity
        members = self._by_pair.get(key, [])
        if not members:
            return
        incoming = self._in[destination]
        for flow in members:
            flow.pair = capacity
            flow.cap = min(self._up[source], capacity)
            incoming.remove(flow)
            _insert(incoming, flow)
        self._fill_region(self._links(members[0]), now_ns)

    def rates(self) -> dict[int, float]:
        """The rate of every transfer under way in bytes a nanosecond, by sequence number."""
        return {flow.sequence: flow.rate for flow in self.active()}

    def is_parked(self, flow: Flow) -> bool:
        """Return whether a transfer does not move, for a link of it has no rate."""
        return flow.rate == 0.0

    def is_unlimited(self, flow: Flow) -> bool:
        """Return whether no link limits a transfer, or none did when it ended."""
        return flow.rate == UNLIMITED

    def active(self) -> list[Flow]:
        """The transfers under way, in order of start."""
        return sorted((flow for flows in self._out for flow in flows), key=lambda flow: flow.sequence)

    def outgoing(self, node: int) -> list[Flow]:
        """The transfers of a sender, in order of start."""
        return [*self._out[node]]

    def transmitted(self, flow: Flow, now_ns: int) -> int:
        """Whole bytes of ``flow`` that have left the sender by ``now_ns``, at most its size."""
        left = flow.remaining
        if flow.active and now_ns > flow.updated_ns:
            left -= flow.rate * (now_ns - flow.updated_ns)
        return flow.size if left <= 0 else int(flow.size - left)

    def _remove(self, flow: Flow, now_ns: int) -> None:
        flow.active = False
        source, destination = flow.source, flow.destination
        outgoing = self._out[source]
        incoming = self._in[destination]
        outgoing.remove(flow)
        incoming.remove(flow)
        if self._pairs_limit:
            key = source * self._count + destination
            same = self._by_pair[key]
            same.remove(flow)
            if not same:
                del self._by_pair[key]
        if outgoing:
            self._shared_in[destination] -= 1
            if len(outgoing) == 1:
                self._shared_in[outgoing[0].destination] -= 1
            self._fill_region(self._links(flow), now_ns)
        elif incoming:
            if self._shared_in[destination]:
                self._fill_region(self._links(flow), now_ns)
            else:
                self._fill_star(destination, now_ns)

    def _fill_star(self, destination: int, now_ns: int) -> None:
        """Share a downlink among transfers that share nothing else.

        In order of their own limits, each takes its limit or an equal share of what is left, whichever is
        less.
        """
        incoming = self._in[destination]
        left = self._down[destination]
        limited = left < UNLIMITED
        waiting = len(incoming)
        for flow in incoming:
            flow.bottleneck = _UNKNOWN
            rate = flow.cap
            if limited:
                share = left / waiting
                if share < rate:
                    rate = share
                left -= rate
                waiting -= 1
            old = flow.rate
            if rate != old:
                # As in _settle, written out: this is the innermost loop of a simulation.
                since = flow.updated_ns
                remaining = flow.remaining
                if since < now_ns:
                    remaining -= old * (now_ns - since)
                    if remaining < 0.0:
                        remaining = 0.0
                    flow.remaining = remaining
                    flow.updated_ns = since = now_ns
                flow.rate = rate
                if rate:
                    exact = remaining / rate
                    whole = int(exact)
                    finish = since + (whole + 1 if whole < exact else whole)
                    flow.finish_ns = finish
                    if finish < flow.scheduled_ns:
                        flow.scheduled_ns = finish
                        self._schedule(finish, flow)
                else:
                    flow.finish_ns = NEVER

    def _settle(self, flow: Flow, rate: float, now_ns: int) -> None:
        """Book what was transmitted at the old rate, take the new one and move the end."""
        if rate == flow.rate:
            return
        if flow.updated_ns < now_ns:
            flow.remaining = max(0.0, flow.remaining - flow.rate * (now_ns - flow.updated_ns))
            flow.updated_ns = now_ns
        flow.rate = rate
        if rate == 0.0:
            flow.finish_ns = NEVER
            return
        finish = flow.updated_ns + _ceil(flow.remaining / rate)
        flow.finish_ns = finish
        if finish < flow.scheduled_ns:
            flow.scheduled_ns = finish
            self._schedule(finish, flow)

    # Links are numbers: s for the uplink of s, n + d for the downlink of d, 2n + s * n + d for the pair
    # (s, d).

    def _links(self, flow: Flow) -> tuple[int, ...]:
        links = flow.links
        if links is None:
            count = self._count
            links = (flow.source, count + flow.destination)
            if self._pairs_limit:
                links = (*links, 2 * count + flow.source * count + flow.destination)
            flow.links = links
        return links

    def _members(self, link: int) -> list[Flow]:
        count = self._count
        if link < count:
            return self._out[link]
        if link < 2 * count:
            return self._in[link - count]
        return self._by_pair.get(link - 2 * count, [])

    def _capacity_of(self, link: int) -> float:
        count = self._count
        if link < count:
            return self._up[link]
        if link < 2 * count:
            return self._down[link - count]
        return self._by_pair[link - 2 * count][0].pair

    def _fill_region(self, touched: tuple[int, ...], now_ns: int) -> None:
        """Recompute the rates that a change of the ``touched`` links reaches, and no others.

        An allocation is max-min fair exactly when each transfer has a bottleneck: a full link on which no
        transfer is faster. So it is enough to fill a region of transfers anew, with the others' rates
        taken off the capacities, and to look whether a bottleneck broke at the region's border. If so the
        transfers concerned join it.
        """
        self._epoch += 1
        epoch = self._epoch
        region: list[Flow] = []
        for link in touched:
            for flow in self._members(link):
                if flow.mark != epoch:
                    flow.mark = epoch
                    region.append(flow)
        joining = region
        while joining:
            border = self._fill_against_others(region, epoch)
            joining = self._broken(border, epoch)
            for flow in joining:
                flow.mark = epoch
            region.extend(joining)
        for flow in region:
            self._settle(flow, flow.target, now_ns)

    def _fill_against_others(self, region: list[Flow], epoch: int) -> list[int]:
        """Set ``target`` and ``bottleneck`` of the region's transfers by progressive filling.

        Returns:
            The limited links that the region shares with other transfers.
        """
        # Step 1: count the region's transfers on each of its links.
        left: dict[int, float] = {}
        waiting: dict[int, int] = {}
        for flow in region:
            flow.target = -1.0
            for link in self._links(flow):
                if link in waiting:
                    waiting[link] += 1
                else:
                    waiting[link] = 1
                    capacity = self._capacity_of(link)
                    if capacity < UNLIMITED:
                        left[link] = capacity
        # Step 2: transfers outside the region keep their rates, so that the region shares what they leave.
        border = []
        for link in left:
            members = self._members(link)
            if len(members) != waiting[link]:
                border.append(link)
                left[link] -= sum([flow.rate for flow in members if flow.mark != epoch])
        # Step 3: fill. The least share of all links is final. A link's share never falls while others are settled, so
        # an outdated entry of the heap is too small, comes up early and is corrected then.
        heap = [(capacity / waiting[link], link) for link, capacity in left.items()]
        heapify(heap)
        while heap:
            share, link = heap[0]
            if not waiting[link]:
                heappop(heap)
                continue
            current = max(0.0, left[link]) / waiting[link]
            if current > share:
                heapreplace(heap, (current, link))
                continue
            heappop(heap)
            for flow in self._members(link):
                if flow.mark == epoch and flow.target < 0.0:
                    flow.target = current
                    flow.bottleneck = link
                    for other in self._links(flow):
                        if other in left:
                            left[other] -= current
                            waiting[other] -= 1
        # Step 4: transfers that no link limits.
        for flow in region:
            if flow.target < 0.0:
                flow.target = UNLIMITED
                flow.bottleneck = _NO_LINK
        return border

    def _broken(self, border: list[int], epoch: int) -> list[Flow]:
        """The transfers beside the region that must join it, for the region's targets would be unfair or
        wasteful."""
        joining: dict[int, Flow] = {}
        for link in border:
            members = self._members(link)
            total = top = 0.0
            lowest = UNLIMITED  # the slowest transfer of the region that this link holds back
            for flow in members:
                if flow.mark == epoch:
                    rate = flow.target
                    if flow.bottleneck == link and rate < lowest:
                        lowest = rate
                else:
                    rate = flow.rate
                total += rate
                if rate > top:
                    top = rate
            full = total >= self._capacity_of(link) * (1.0 - TOLERANCE)
            for flow in members:
                if flow.mark == epoch:
                    continue
                rate = flow.rate
                if rate * (1.0 - TOLERANCE) > lowest:
                    joining[flow.sequence] = flow
                elif flow.bottleneck == link or flow.bottleneck == _UNKNOWN:
                    if full and rate >= top * (1.0 - TOLERANCE):
                        flow.bottleneck = link
                    else:
                        joining[flow.sequence] = flow
        return list(joining.values())

    def _pair_capacity(self, source: int, destination: int) -> float:
        changed = self._pair_changed.get(source * self._count + destination)
        if changed is not None:
            return changed
        if self._pair_mbps is None:
            return UNLIMITED
        return capacity_of(float(self._pair_mbps[source, destination]))

    def _index_pairs(self) -> None:
        """Begin to keep transfers by pair, where the plan had no limits of pairs."""
        if self._pairs_limit:
            return
        self._pairs_limit = True
        for flow in self.active():
            flow.links = None
            self._by_pair.setdefault(flow.source * self._count + flow.destination, []).append(flow)


def _ceil(value: float) -> int:
    whole = int(value)
    return whole + 1 if whole < value else whole


def _insert(incoming: list[Flow], flow: Flow) -> None:
    """Insert behind the flows of the same or a smaller cap."""
    cap = flow.cap
    position = len(incoming)
    while position and incoming[position - 1].cap > cap:
        position -= 1
    incoming.insert(position, flow)
