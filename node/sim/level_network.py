"""Transfers in virtual time for senders with many transfers at once: max-min fair rates, kept link by link.

The allocation of :class:`LevelNetwork` is that of :class:`~node.sim.fluid_network.FluidNetwork`, which keeps the rate
of each transfer. With a queue for each peer a node begins and ends some hundred transfers in a round, each of which
would change all the others' rates. Here a start or an end costs little more than with a serial sender while downlinks
have room. Where nearly all links are full it costs more, but far less than there:

- Transfers with the same bottleneck share one rate, the link's level, and the link has one event, for the one that
  ends first (:mod:`node.sim.levels`).
- Starts and ends at one instant lead to one filling. It is planned as an event of its own at this instant
  (:attr:`LevelNetwork.filling`), so that its owner's loop gets to it before time goes on.
- A downlink is not looked at while it surely has room (:mod:`node.sim.ceilings`).
- Only the links around a change are filled anew. The region grows until each transfer has a bottleneck again, which
  is what makes an allocation max-min fair.

Ends are whole nanoseconds and events come and go as in :class:`~node.sim.fluid_network.FluidNetwork`, and so is the
meaning of a call that is made late, for a time before that of an earlier one: every *link* keeps its own order, and a
transfer that begins late is given what it would have got at its link's level since then.

Everything ordered iterates over dictionaries in an order that depends on the calls only.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from node.core.links import NetworkPlan
from node.sim.ceilings import LOWER_AT, activate_if_needed, leave_alone_if_possible, set_ceiling
from node.sim.levels import NEW, LevelFlow, SharedLink, few_digits, fill
from node.sim.rates import NEVER, UNLIMITED, PairLimits, capacity_of


class Filling:
    """The event at which the rates after one instant's calls are found.

    Attributes:
        source: Orders it behind all transfers' ends of its instant.
    """

    __slots__ = ("source",)

    def __init__(self, source: int) -> None:
        self.source = source


class LevelNetwork:
    """All transfers under way and their max-min fair rates.

    Args:
        plan: Capacities at the start; its ``changes`` are applied by the caller through the ``set_`` methods.
        schedule: Called with (time_ns, what): the caller calls :meth:`finish` with these at this time.

    Attributes:
        pairs: The limits of pairs.

    State:
        _links: By number: s for the uplink of s, n + d for the downlink of d, 2n + s * n + d for the pair (s, d), which
            exists while it has transfers and was ever limited.
        _new: Transfers begun since the last filling, in order of start.
        _touched: Numbers of links of which the transfers or the capacity have changed since.
    """

    rebuilt_attributes: ClassVar[frozenset[str]] = frozenset({"_schedule"})

    def __init__(self, plan: NetworkPlan, schedule: Callable[[int, Any], None]) -> None:
        count = plan.num_nodes
        self.filling = Filling(3 * count * count + 3 * count)
        self._count = count
        self._schedule = schedule
        self.pairs = PairLimits(plan)
        self._links: dict[int, SharedLink] = {}
        for node, mbps in enumerate(plan.up_mbps.tolist()):
            self._links[node] = SharedLink(node, capacity_of(mbps), is_uplink=True, active=True)
        for node, mbps in enumerate(plan.down_mbps.tolist()):
            capacity = capacity_of(mbps)
            self._links[count + node] = SharedLink(count + node, capacity, is_uplink=False, active=capacity == 0.0)
        self._new: list[LevelFlow] = []
        self._touched: dict[int, None] = {}
        self._planned_ns = NEVER
        self._sequence = 0

    # -- called by the owner -----------------------------------------------------------------------------------

    def start(self, now_ns: int, source: int, destination: int, size: int, token: Any) -> LevelFlow:
        """See :meth:`node.sim.fluid_network.FluidNetwork.start`."""
        links, sequence = self._links, self._sequence
        numbers: tuple[int, ...] = (source, self._count + destination)
        if self.pairs:
            numbers += self._pair_link(source, destination)
        flow = LevelFlow(source, destination, size, now_ns, token, sequence, numbers)
        self._sequence = sequence + 1
        for number in numbers:
            links[number].flows[sequence] = flow
        self._new.append(flow)
        self._plan_filling(now_ns)
        return flow

    def finish(self, what: SharedLink | Filling, now_ns: int) -> Sequence[LevelFlow]:
        """Handle the event that was scheduled for ``what`` at ``now_ns``.

        Returns:
            The transfers that ended and were removed, in order of start; none where the event is stale or a filling.
        """
        if not isinstance(what, SharedLink):
            if self._planned_ns == now_ns:
                self._planned_ns = NEVER
                self._fill_around_changes(now_ns)
            return ()
        if what.scheduled_ns != now_ns:
            return ()
        what.scheduled_ns = NEVER
        ended: list[LevelFlow] = []
        while (finish_ns := what.next_finish_ns()) <= now_ns:
            flow = what.heap[0][2]
            flow.left = 0.0
            self._remove(flow)  # which makes its end outdated
            ended.append(flow)
        if not ended:
            if finish_ns != NEVER:
                what.scheduled_ns = finish_ns
                self._schedule(finish_ns, what)
            return ()
        self._plan_filling(now_ns)
        ended.sort(key=_sequence)
        return ended

    def abort(self, flow: LevelFlow, now_ns: int) -> int:
        """See :meth:`node.sim.fluid_network.FluidNetwork.abort`."""
        assert flow.active, "the transfer has already ended"
        sent = self.transmitted(flow, now_ns)
        flow.left = float(flow.size - sent)
        self._remove(flow)
        self._plan_filling(now_ns)
        return sent

    def set_up(self, node: int, mbps: float, now_ns: int) -> None:
        """Change a node's uplink; inf is unlimited, 0 parks its transfers."""
        self._set_capacity(self._links[node], capacity_of(mbps), now_ns)

    def set_down(self, node: int, mbps: float, now_ns: int) -> None:
        """Change a node's downlink; inf is unlimited, 0 parks its transfers."""
        link = self._links[self._count + node]
        self._set_capacity(link, capacity_of(mbps), now_ns)
        above = link.capacity_above
        counted = (flow for flow in link.flows.values() if flow.held != NEW)
        link.potential = sum(min(self._links[flow.links[0]].ceiling, above) for flow in counted)
        if activate_if_needed(self._links, link):
            self._touched[link.source] = None

    def set_pair(self, source: int, destination: int, mbps: float, now_ns: int) -> None:
        """Change the capacity that transfers from ``source`` to ``destination`` share."""
        self.pairs.change(source, destination, mbps)
        self.pair_has_changed(source, destination, now_ns)

    def rates(self) -> dict[int, float]:
        """The rate of every transfer under way in bytes a nanosecond, by sequence number."""
        if self._planned_ns != NEVER:
            self.finish(self.filling, self._planned_ns)
        return {flow.sequence: self._links[flow.held].level for flow in self.active()}

    def is_parked(self, flow: LevelFlow) -> bool:
        """Return whether a transfer does not move, for a link of it has no rate."""
        return flow.held != NEW and self._links[flow.held].level == 0.0

    def is_unlimited(self, flow: LevelFlow) -> bool:
        """Return whether no link limits a transfer, or none did when it ended."""
        return flow.held != NEW and self._links[flow.links[0]].capacity >= UNLIMITED and flow.held == flow.links[0]

    def active(self) -> list[LevelFlow]:
        """The transfers under way, in order of start."""
        uplinks = (self._links[node] for node in range(self._count))
        return sorted((flow for link in uplinks for flow in link.flows.values()), key=_sequence)

    def outgoing(self, node: int) -> list[LevelFlow]:
        """The transfers of a sender, in order of start."""
        return [*self._links[node].flows.values()]

    def transmitted(self, flow: LevelFlow, now_ns: int) -> int:
        """Whole bytes of ``flow`` that have left the sender by ``now_ns``, at most its size."""
        left = flow.left
        if flow.active:
            if flow.held == NEW:
                return 0
            link = self._links[flow.held]
            left = flow.due - link.clock
            if now_ns > link.updated_ns:
                left -= link.level * (now_ns - link.updated_ns)
        return flow.size if left <= 0 else min(flow.size, int(flow.size - left))

    # -- what has changed --------------------------------------------------------------------------------------

    def _plan_filling(self, now_ns: int) -> None:
        # At the latest of several times: no transfer is given a rate before it has begun.
        if self._planned_ns == NEVER or now_ns > self._planned_ns:
            self._planned_ns = now_ns
            self._schedule(now_ns, self.filling)

    def pair_has_changed(self, source: int, destination: int, now_ns: int) -> None:
        """Take in another capacity of a pair, which :attr:`pairs` has already."""
        number = 2 * self._count + source * self._count + destination
        link = self._links.get(number)
        if link is None:
            uplink = self._links[source]
            members = [flow for flow in uplink.flows.values() if flow.destination == destination]
            if not members or not (numbers := self._pair_link(source, destination)):
                return
            link = self._links[number]
            for flow in members:
                flow.links += numbers
                link.flows[flow.sequence] = uplink.exposed[flow.sequence] = flow
        self._set_capacity(link, self.pairs.of(source, destination), now_ns)

    def _set_capacity(self, link: SharedLink, capacity: float, now_ns: int) -> None:
        link.capacity = capacity
        link.capacity_above = few_digits(link.capacity)
        self._touched[link.source] = None
        for flow in link.flows.values():
            self._touched.update(dict.fromkeys(flow.links))
        self._plan_filling(now_ns)

    def _remove(self, flow: LevelFlow) -> None:
        links, sequence, numbers = self._links, flow.sequence, flow.links
        uplink, downlink = links[numbers[0]], links[numbers[1]]
        flow.active = False
        del uplink.flows[sequence], downlink.flows[sequence]
        uplink.exposed.pop(sequence, None)
        held = flow.held
        if held == NEW:
            self._new.remove(flow)
        else:
            links[held].holds -= 1
            self._touched[held] = None
            downlink.potential -= min(uplink.ceiling, downlink.capacity_above)
        if len(numbers) > 2:
            pair = links[numbers[2]]
            del pair.flows[sequence]
            if not pair.flows and held != numbers[2]:
                del links[numbers[2]]
        if downlink.active:
            self._touched.update((link.source, None) for link in (uplink, downlink) if link.holds)
            leave_alone_if_possible(links, downlink)
        if len(numbers) > 2:
            self._touched.update((link.source, None) for link in (uplink, pair) if link.holds)

    def _pair_link(self, source: int, destination: int) -> tuple[int, ...]:
        """The number of a pair's link, which is made if there is none; nothing where the pair is not limited."""
        number = 2 * self._count + source * self._count + destination
        if number not in self._links:
            capacity = self.pairs.of(source, destination)
            if capacity >= UNLIMITED:
                return ()
            self._links[number] = SharedLink(number, capacity, is_uplink=False, active=True)
        return (number,)

    # -- rates -------------------------------------------------------------------------------------------------

    def _fill_around_changes(self, now_ns: int) -> None:
        """Find the rates after the calls at one instant."""
        links, new, touched = self._links, self._new, self._touched
        # Step 1: the links around the changes. A new transfer counts at its downlink, by its uplink's ceiling so far.
        self._new = []
        for flow in new:
            numbers = flow.links
            uplink, downlink = links[numbers[0]], links[numbers[1]]
            touched[numbers[0]] = None
            flow.choice = numbers[0]
            downlink.potential += min(uplink.ceiling, downlink.capacity_above)
            if downlink.active or activate_if_needed(links, downlink):
                touched[numbers[1]] = None
                uplink.exposed[flow.sequence] = flow
            if len(numbers) > 2:
                touched[numbers[2]] = None
                uplink.exposed[flow.sequence] = flow
        region = {number: links[number] for number in touched if number in links and links[number].active}
        # Step 2: fill, and once more with the downlinks that this could fill and that were not looked at.
        while True:
            moving = fill(links, region)
            filled: dict[int, SharedLink] = {}
            for link in region.values():
                if link.source < self._count and (rate := min(link.target, link.capacity)) > link.ceiling:
                    filled.update(set_ceiling(links, link, rate))
            if not filled:
                break
            region.update(filled)
        self._touched = {}
        self._take_levels(region, new, moving, now_ns)

    def _take_levels(
        self, region: dict[int, SharedLink], new: list[LevelFlow], moving: list[LevelFlow], now_ns: int
    ) -> None:
        """Let the targets of a region's links be their levels from ``now_ns`` on."""
        links = self._links
        # Step 1: clocks run at the old levels until now, or until a later time that a link or transfer knows of.
        for link in region.values():
            link.advance(now_ns)
        moves = [(flow, flow.choice, float(flow.size), flow.since_ns) for flow in new]
        for flow in moving:
            old, choice = region[flow.held], flow.choice
            at_ns = max(old.updated_ns, region[choice].updated_ns, flow.since_ns)
            remaining = flow.due - old.reading(at_ns)
            if remaining < 0.0 and flow.overdue_ns == NEVER:
                flow.overdue_ns = old.finish_ns(flow.due)
            moves.append((flow, choice, remaining, at_ns))
            old.holds -= 1
        # Step 2: the new levels, and transfers go over to the link that holds them back now.
        for link in region.values():
            link.level = link.target
        for flow, choice, remaining, at_ns in moves:
            region[choice].hold(flow, remaining, at_ns)
        # Step 3: events, and what follows from the levels for links that need not be looked at.
        for link in region.values():
            link.tidy()
            finish_ns = link.next_finish_ns()
            if finish_ns < link.scheduled_ns:
                link.scheduled_ns = finish_ns
                self._schedule(finish_ns, link)
            if link.source < self._count:
                if not link.flows:
                    link.ceiling = 0.0
                elif (rate := min(link.level, link.capacity)) < LOWER_AT * link.ceiling:
                    set_ceiling(links, link, rate)
            elif link.source < 2 * self._count:
                leave_alone_if_possible(links, link)
            elif not link.flows:
                del links[link.source]


def _sequence(flow: LevelFlow) -> int:
    return flow.sequence
