"""Links whose transfers share one rate, and the filling that finds these rates. Used by :mod:`node.sim.level_network`.

In a max-min fair allocation each transfer is held back by one of its links, and all that a link holds back have the
same rate, the link's *level*. A transfer's rate is the least level of its links. So a level stands for the rates of
many transfers, and a link keeps the times at which they end in bytes of its own clock, which runs at the level: a level
that changes moves the ends of all transfers that the link holds back, and none of them is touched.
"""

from collections.abc import Mapping
from heapq import heapify, heappop, heappush, heapreplace
from math import frexp, inf, ldexp
from typing import Any

from node.sim.rates import NEVER, TOLERANCE, UNLIMITED

NEW = -1
"""In the place of a link's number: the transfer has begun, and no rate has been found for it yet."""

_FIXED = -2
_STALE_MIN = 64


class LevelFlow:
    """One transfer under way. Owned by the network: callers read it and hand it back.

    Attributes:
        source: The sending node.
        destination: The receiving node.
        size: Bytes on the wire.
        token: Whatever the caller wants to find again.
        number: A number of the caller's, for the same purpose; the network never looks at it.
        active: Whether it is still in the network.
        sequence: 0, 1, 2, ... in order of start.
        links: Numbers of the links it uses: uplink, downlink and, where the pair is limited, the pair.
        held: The link that holds it back, or :data:`NEW`.
        due: Reading of that link's clock at which it ends, bytes.
        since_ns: When it began, or went over to this link.
        left: Bytes not transmitted when it ended.
        choice: The link that a filling proposes to hold it back.
        overdue_ns: Its end, where that was past when the network was told of its start; else :data:`NEVER`.
    """

    __slots__ = (
        "active",
        "choice",
        "destination",
        "due",
        "held",
        "left",
        "links",
        "number",
        "overdue_ns",
        "sequence",
        "since_ns",
        "size",
        "source",
        "token",
    )

    def __init__(
        self, source: int, destination: int, size: int, now_ns: int, token: Any, sequence: int, links: tuple[int, ...]
    ) -> None:
        self.source = source
        self.destination = destination
        self.size = size
        self.token = token
        self.number = 0
        self.active = True
        self.sequence = sequence
        self.links = links
        self.held = NEW
        self.due = 0.0
        self.since_ns = now_ns
        self.left = 0.0
        self.choice = NEW
        self.overdue_ns = NEVER


class SharedLink:
    """One capacity that transfers share: an uplink, a downlink, or a pair of nodes.

    Attributes:
        source: Its number, by which events of one instant are ordered.
        capacity: Bytes a nanosecond; :data:`UNLIMITED` or more is no limit.
        level: Rate of the transfers that it holds back; without any, infinite, or :data:`UNLIMITED` on an uplink
            without limit.
        flows: The transfers that use it, by sequence number.
        exposed: Those that another link could hold back. Of a link that is no uplink, all: the same dictionary.
        holds: How many it holds back.
        active: Whether it can hold back a transfer. An uplink always counts as active.
        clock: Bytes that a transfer which it held back all the time would have got; at ``updated_ns``.
        updated_ns: When the clock was read last.
        heap: The ends of transfers by the clock: due, sequence, transfer. May hold outdated entries.
        scheduled_ns: The event that counts; :data:`NEVER` if there is none.
        ceiling: Of an uplink: a rate that none of its transfers exceeds, of few digits; 0 without transfers.
        potential: Of a downlink: the sum of the ceilings of its transfers' uplinks, each at most ``capacity_above``.
        capacity_above: The capacity, or a little more, of few digits.
        target: The level that a filling proposes.
    """

    __slots__ = (
        "active",
        "capacity",
        "capacity_above",
        "ceiling",
        "clock",
        "exposed",
        "flows",
        "heap",
        "holds",
        "level",
        "potential",
        "scheduled_ns",
        "source",
        "target",
        "updated_ns",
    )

    def __init__(self, number: int, capacity: float, *, is_uplink: bool, active: bool) -> None:
        self.source = number
        self.capacity = capacity
        self.capacity_above = few_digits(capacity)
        self.level = UNLIMITED if is_uplink and capacity >= UNLIMITED else inf
        self.flows: dict[int, LevelFlow] = {}
        self.exposed: dict[int, LevelFlow] = {} if is_uplink else self.flows
        self.holds = 0
        self.active = active
        self.clock = 0.0
        self.updated_ns = 0
        self.heap: list[tuple[float, int, LevelFlow]] = []
        self.scheduled_ns = NEVER
        self.ceiling = 0.0
        self.potential = 0.0
        self.target = inf

    def advance(self, now_ns: int) -> None:
        """Let the clock run until a time; nothing happens if that is past."""
        if now_ns > self.updated_ns:
            if self.holds:
                self.clock += self.level * (now_ns - self.updated_ns)
            self.updated_ns = now_ns

    def reading(self, time_ns: int) -> float:
        """The clock at a time, if the level stays until then; also at a time before its last reading."""
        if time_ns == self.updated_ns:
            return self.clock
        return self.clock + self.level * (time_ns - self.updated_ns)

    def hold(self, flow: LevelFlow, remaining: float, since_ns: int) -> None:
        """Hold a transfer back from now on, which at ``since_ns`` had ``remaining`` bytes to go.

        It goes on at this link's level since then, also where that was before the link's last change.
        """
        due = self.reading(since_ns) + remaining
        if due < self.clock and flow.overdue_ns == NEVER:
            flow.overdue_ns = self.finish_ns(due)
        flow.since_ns = since_ns
        flow.held = self.source
        flow.due = due
        self.holds += 1
        heappush(self.heap, (due, flow.sequence, flow))

    def finish_ns(self, due: float) -> int:
        """The end of a transfer that is due at a reading of the clock, if the level stays; the level is above 0."""
        exact = (due - self.clock) / self.level
        whole = int(exact)
        return self.updated_ns + (whole + 1 if whole < exact else whole)

    def next_finish_ns(self) -> int:
        """The end of the transfer that ends first; :data:`NEVER` where it holds back none, or the level is 0."""
        heap = self.heap
        while heap:
            due, _, flow = heap[0]
            if flow.held == self.source and flow.due == due and flow.active:
                if flow.overdue_ns != NEVER:
                    return flow.overdue_ns
                if self.level > 0.0:
                    return max(self.finish_ns(due), flow.since_ns + 1)
                return NEVER
            heappop(heap)
        return NEVER

    def tidy(self) -> None:
        """Drop outdated ends where there are many; start anew where it holds back no transfer."""
        if not self.holds:
            self.heap.clear()
            self.clock = 0.0
        elif len(self.heap) > 2 * self.holds + _STALE_MIN:
            number = self.source
            self.heap = [entry for entry in self.heap if entry[2].held == number and entry[2].due == entry[0]]
            self.heap = [entry for entry in self.heap if entry[2].active]
            heapify(self.heap)


def few_digits(rate: float) -> float:
    """The least number with four binary digits that is not below ``rate``, so that sums of such numbers are exact."""
    fraction, exponent = frexp(rate)
    scaled = fraction * 16.0
    whole = int(scaled)
    return ldexp((whole + 1 if whole < scaled else whole) / 16.0, exponent)


def fill(links: Mapping[int, SharedLink], region: dict[int, SharedLink]) -> list[LevelFlow]:
    """Find the ``target`` of each link of a region by progressive filling, and the ``choice`` of its transfers.

    Links join the region while it is filled, where its targets would be unfair or exceed a capacity there. Transfers
    that a link outside holds back keep their rates. An uplink in the region holds back all its transfers that are not
    exposed.

    Returns:
        The transfers under way that another link is to hold back than before.
    """
    while True:
        filling = _FillingPass(links, region)
        if filling.succeeds():
            return filling.moving
        # The region has grown by a link that should have been settled before others.


class _FillingPass:
    """One filling of a region, from the least level to the largest.

    State:
        _left: What the transfers settled so far leave of each limited link.
        _waiting: How many transfers share that.
        _heap: Share and number of each link. A share that has grown since is corrected when it comes up; one that has
            fallen, because a link joined, has a new entry.
        _least: The share of the least entry of each link that has one; larger ones do not count.
        _last: The level that was settled last.

    Attributes:
        moving: The transfers that another link is to hold back than before.
    """

    __slots__ = ("_heap", "_last", "_least", "_left", "_links", "_region", "_waiting", "moving")

    def __init__(self, links: Mapping[int, SharedLink], region: dict[int, SharedLink]) -> None:
        self._links = links
        self._region = region
        self._left: dict[int, float] = {}
        self._waiting: dict[int, int] = {}
        self._heap: list[tuple[float, int]] = []
        self._least: dict[int, float] = {}
        self._last = 0.0
        self.moving: list[LevelFlow] = []

    def succeeds(self) -> bool:
        """Fill; False where a link joined too late, and the filling must be repeated with it."""
        self._begin()
        region, left, waiting, heap, least = self._region, self._left, self._waiting, self._heap, self._least
        while heap:
            share, number = heap[0]
            count = waiting[number]
            if not count:
                heappop(heap)
                least.pop(number, None)
                continue
            if share > least[number]:
                heappop(heap)  # a lower one came later
                continue
            current = left[number] / count
            if current > share:
                least[number] = current
                heapreplace(heap, (current, number))
                continue
            if current < 0.0:
                current = 0.0
            link = region[number]
            holders = self._faster_than(current, link)
            if holders:
                if not self._join_all(holders):
                    return False
                self._push(number)
                continue
            heappop(heap)
            if not self._settle(number, link, current):
                return False
        return self._end()

    def _begin(self) -> None:
        """Count what the fixed transfers leave of each limited link, and how many share it."""
        links, region, left, waiting = self._links, self._region, self._left, self._waiting
        for number, link in region.items():
            capacity, count = link.capacity, len(link.flows)
            link.target = inf
            for flow in link.exposed.values():
                held = flow.held
                if held == NEW or held in region:
                    flow.choice = NEW
                else:
                    flow.choice = _FIXED
                    capacity -= links[held].level
                    count -= 1
            if link.capacity < UNLIMITED:
                left[number] = capacity
                waiting[number] = count
        self._least = {number: max(0.0, rest) / waiting[number] for number, rest in left.items() if waiting[number]}
        self._heap = [(share, number) for number, share in self._least.items()]
        heapify(self._heap)

    def _push(self, number: int) -> bool:
        """Enter a link's share anew; False where it is less than what was settled already, or too much is."""
        count, left = self._waiting[number], self._left[number]
        if not count:
            return left >= -TOLERANCE * self._region[number].capacity
        share = left / count if left > 0.0 else 0.0
        if share < self._least.get(number, inf):
            self._least[number] = share
            heappush(self._heap, (share, number))
        return share >= self._last * (1.0 - TOLERANCE)

    def _faster_than(self, share: float, link: SharedLink) -> dict[int, SharedLink]:
        """The links outside that give a transfer of ``link`` more than its share: it must be shared anew."""
        links = self._links
        holders = {}
        for flow in link.exposed.values():
            if flow.choice == _FIXED and share < (holder := links[flow.held]).level * (1.0 - TOLERANCE):
                holders[flow.held] = holder
        return holders

    def _settle(self, number: int, link: SharedLink, level: float) -> bool:
        """Give the transfers of a link that wait their final rate; False where that is too late for others."""
        left, waiting = self._left, self._waiting
        self._last = link.target = level
        waiting[number] = 0
        concerned: dict[int, SharedLink] = {}
        for flow in link.exposed.values():
            if flow.choice == NEW:
                flow.choice = number
                if flow.held != number and flow.held != NEW:
                    self.moving.append(flow)
                for other in flow.links:
                    if other == number:
                        continue
                    if other in left:
                        left[other] -= level
                        waiting[other] -= 1
                    elif self._concerns(other, flow, level):
                        concerned[other] = self._links[other]
        return self._join_all(concerned)

    def _join_all(self, joining: Mapping[int, SharedLink]) -> bool:
        in_time = True
        for link in joining.values():
            in_time = self._join(link) and in_time
        return in_time

    def _concerns(self, number: int, flow: LevelFlow, rate: float) -> bool:
        """Return whether a link outside must share its capacity anew: a transfer on it has another rate than before."""
        other = self._links[number]
        if number in self._region or not other.active or other.capacity >= UNLIMITED:
            return False
        before = self._region[flow.held].level  # a new transfer's links are all in the region
        return abs(rate - before) > TOLERANCE * max(rate, before) and (other.holds > 0 or rate > before)

    def _join(self, link: SharedLink) -> bool:
        """Take a link into the region; False where one that shares a transfer with it is settled already."""
        links, region, left = self._links, self._region, self._left
        joined = link.source
        region[joined] = link
        link.target = inf
        in_time = True
        capacity, count = link.capacity, len(link.flows)
        for flow in link.exposed.values():
            held = flow.held
            if held == joined:
                flow.choice = NEW
                for other in flow.links:
                    if other != joined and other in left:
                        left[other] += link.level
                        self._waiting[other] += 1
                        in_time = self._push(other) and in_time and region[other].target == inf
            elif held == NEW or held in region:
                if flow.choice != NEW:
                    capacity -= region[flow.choice].target
                    count -= 1
            else:
                flow.choice = _FIXED
                capacity -= links[held].level
                count -= 1
        if link.capacity < UNLIMITED:
            left[joined] = capacity
            self._waiting[joined] = count
            in_time = self._push(joined) and in_time
        return in_time

    def _end(self) -> bool:
        """Let their uplinks hold back the transfers that no link limits, at no limit."""
        in_time = True
        for link in [*self._region.values()]:
            if link.capacity < UNLIMITED:
                continue
            for flow in link.exposed.values():
                if flow.choice == NEW:
                    flow.choice = flow.links[0]
                    if flow.held != flow.choice and flow.held != NEW:
                        self.moving.append(flow)
                    for other in flow.links:
                        if self._concerns(other, flow, UNLIMITED):
                            self._region[other] = self._links[other]
                            in_time = False
            if link.exposed is not link.flows:
                link.target = UNLIMITED
        return in_time
