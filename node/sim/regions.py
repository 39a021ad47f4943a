"""The region of transfers that a change reaches, and their max-min fair rates. Used by :mod:`node.sim.fluid_network`.

An allocation is max-min fair exactly when each transfer has a bottleneck: a full link on which no transfer is faster.
So it is enough to fill a region of transfers anew, with the others' rates taken off the capacities, and to look whether
a bottleneck broke at the region's border. If so the transfers concerned join it.
"""

from heapq import heapify, heappop, heapreplace

from node.sim.flows import NO_LINK, UNKNOWN_LINK, Flow, FlowTable
from node.sim.rates import TOLERANCE, UNLIMITED


def fill_region(table: FlowTable, touched: tuple[int, ...], epoch: int) -> list[Flow]:
    """Find the rates that a change of the ``touched`` links reaches, and no others.

    Args:
        table: All transfers under way, and the capacities.
        touched: Numbers of links.
        epoch: Number of this filling; larger than those before it.

    Returns:
        The transfers concerned; the ``target`` of each is its rate from now on.
    """
    region: list[Flow] = []
    for link in touched:
        for flow in table.members(link):
            if flow.mark != epoch:
                flow.mark = epoch
                region.append(flow)
    joining = region
    while joining:
        border = _fill_against_others(table, region, epoch)
        joining = _broken(table, border, epoch)
        for flow in joining:
            flow.mark = epoch
        region.extend(joining)
    return region


def _fill_against_others(table: FlowTable, region: list[Flow], epoch: int) -> list[int]:
    """Set ``target`` and ``bottleneck`` of the region's transfers by progressive filling.

    Returns:
        The limited links that the region shares with other transfers.
    """
    # Step 1: count the region's transfers on each of its links.
    left: dict[int, float] = {}
    waiting: dict[int, int] = {}
    for flow in region:
        flow.target = -1.0
        for link in table.links(flow):
            if link in waiting:
                waiting[link] += 1
            else:
                waiting[link] = 1
                capacity = table.capacity(link)
                if capacity < UNLIMITED:
                    left[link] = capacity
    # Step 2: transfers outside the region keep their rates, so that the region shares what they leave.
    border = []
    for link in left:
        members = table.members(link)
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
        for flow in table.members(link):
            if flow.mark == epoch and flow.target < 0.0:
                flow.target = current
                flow.bottleneck = link
                for other in table.links(flow):
                    if other in left:
                        left[other] -= current
                        waiting[other] -= 1
    # Step 4: transfers that no link limits.
    for flow in region:
        if flow.target < 0.0:
            flow.target = UNLIMITED
            flow.bottleneck = NO_LINK
    return border


def _broken(table: FlowTable, border: list[int], epoch: int) -> list[Flow]:
    """The transfers beside the region that must join it, for the region's targets would be unfair or
    wasteful."""
    joining: dict[int, Flow] = {}
    for link in border:
        members = table.members(link)
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
        full = total >= table.capacity(link) * (1.0 - TOLERANCE)
        for flow in members:
            if flow.mark == epoch:
                continue
            rate = flow.rate
            if rate * (1.0 - TOLERANCE) > lowest:
                joining[flow.sequence] = flow
            elif flow.bottleneck == link or flow.bottleneck == UNKNOWN_LINK:
                if full and rate >= top * (1.0 - TOLERANCE):
                    flow.bottleneck = link
                else:
                    joining[flow.sequence] = flow
    return list(joining.values())
