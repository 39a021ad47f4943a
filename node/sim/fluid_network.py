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
  bottleneck again (:mod:`node.sim.regions`). It is usually far smaller than all transfers that are
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
from typing import Any, ClassVar

from node.core.links import NetworkPlan
from node.sim.flows import UNKNOWN_LINK, Flow, FlowTable, insert
from node.sim.rates import NEVER, UNLIMITED, PairLimits, capacity_of
from node.sim.regions import fill_region


class FluidNetwork:
    """All transfers under way and their max-min fair rates.

    Args:
        plan: Capacities at the start; its ``changes`` are applied by the caller through the ``set_`` methods.
        schedule: Called with (finish_ns, flow): the caller calls :meth:`finish` with this flow at this time.

    Attributes:
        pairs: The limits of pairs.

    State:
        _table: The transfers by link, and the capacities.
        _shared_in: How many transfers into each node come from a sender with more than one.
        _sequence: The next transfer's.
        _epoch: The last filling of a region.
    """

    rebuilt_attributes: ClassVar[frozenset[str]] = frozenset({"_schedule"})

    def __init__(self, plan: NetworkPlan, schedule: Callable[[int, Flow], None]) -> None:
        self._schedule = schedule
        self.pairs = PairLimits(plan)
        self._table = FlowTable(
            [capacity_of(mbps) for mbps in plan.up_mbps.tolist()],
            [capacity_of(mbps) for mbps in plan.down_mbps.tolist()],
            pairs_limit=bool(self.pairs),
        )
        self._shared_in = [0] * plan.num_nodes
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
        table = self._table
        flow = Flow(source, destination, size, now_ns, token, self._sequence)
        self._sequence += 1
        cap = table.up[source]
        if table.pairs_limit or self.pairs:
            table.index_pairs()
            pair = self.pairs.of(source, destination)
            flow.pair = pair
            if pair < cap:
                cap = pair
            table.by_pair.setdefault(source * table.count + destination, []).append(flow)
        flow.cap = cap
        outgoing = table.outgoing[source]
        outgoing.append(flow)
        incoming = table.incoming[destination]
        if len(outgoing) > 1:
            if len(outgoing) == 2:
                self._shared_in[outgoing[0].destination] += 1
            self._shared_in[destination] += 1
            insert(incoming, flow)
            self._fill_region(table.links(flow), now_ns)
        elif incoming:
            insert(incoming, flow)
            if self._shared_in[destination]:
                self._fill_region(table.links(flow), now_ns)
            else:
                self._fill_star(destination, now_ns)
        else:
            incoming.append(flow)
            down = table.down[destination]
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
        table, capacity = self._table, capacity_of(mbps)
        table.up[node] = capacity
        for flow in table.outgoing[node]:
            flow.cap = min(capacity, flow.pair)
            incoming = table.incoming[flow.destination]
            incoming.remove(flow)
            insert(incoming, flow)
        self._fill_region((node,), now_ns)

    def set_down(self, node: int, mbps: float, now_ns: int) -> None:
        """Change a node's downlink; inf is unlimited, 0 parks its transfers."""
        self._table.down[node] = capacity_of(mbps)
        self._fill_region((self._table.count + node,), now_ns)

    def set_pair(self, source: int, destination: int, mbps: float, now_ns: int) -> None:
        """Change the capacity that transfers from ``source`` to ``destination`` share."""
        self.pairs.change(source, destination, mbps)
        self.pair_has_changed(source, destination, now_ns)

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
        return self._table.active()

    def outgoing(self, node: int) -> list[Flow]:
        """The transfers of a sender, in order of start."""
        return [*self._table.outgoing[node]]

    def transmitted(self, flow: Flow, now_ns: int) -> int:
        """Whole bytes of ``flow`` that have left the sender by ``now_ns``, at most its size."""
        left = flow.remaining
        if flow.active and now_ns > flow.updated_ns:
            left -= flow.rate * (now_ns - flow.updated_ns)
        return flow.size if left <= 0 else int(flow.size - left)

    def pair_has_changed(self, source: int, destination: int, now_ns: int) -> None:
        """Take in another capacity of a pair, which :attr:`pairs` has already."""
        table = self._table
        table.index_pairs()
        members = table.by_pair.get(source * table.count + destination, [])
        if not members:
            return
        capacity = self.pairs.of(source, destination)
        incoming = table.incoming[destination]
        for flow in members:
            flow.pair = capacity
            flow.cap = min(table.up[source], capacity)
            incoming.remove(flow)
            insert(incoming, flow)
        self._fill_region(table.links(members[0]), now_ns)

    def _remove(self, flow: Flow, now_ns: int) -> None:
        flow.active = False
        table, source, destination = self._table, flow.source, flow.destination
        outgoing = table.outgoing[source]
        incoming = table.incoming[destination]
        outgoing.remove(flow)
        incoming.remove(flow)
        if table.pairs_limit:
            key = source * table.count + destination
            same = table.by_pair[key]
            same.remove(flow)
            if not same:
                del table.by_pair[key]
        if outgoing:
            self._shared_in[destination] -= 1
            if len(outgoing) == 1:
                self._shared_in[outgoing[0].destination] -= 1
            self._fill_region(table.links(flow), now_ns)
        elif incoming:
            if self._shared_in[destination]:
                self._fill_region(table.links(flow), now_ns)
            else:
                self._fill_star(destination, now_ns)

    def _fill_star(self, destination: int, now_ns: int) -> None:
        """Share a downlink among transfers that share nothing else.

        In order of their own limits, each takes its limit or an equal share of what is left, whichever is
        less.
        """
        incoming = self._table.incoming[destination]
        left = self._table.down[destination]
        limited = left < UNLIMITED
        waiting = len(incoming)
        for flow in incoming:
            flow.bottleneck = UNKNOWN_LINK
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

    def _fill_region(self, touched: tuple[int, ...], now_ns: int) -> None:
        self._epoch += 1
        for flow in fill_region(self._table, touched, self._epoch):
            self._settle(flow, flow.target, now_ns)


def _ceil(value: float) -> int:
    whole = int(value)
    return whole + 1 if whole < value else whole
