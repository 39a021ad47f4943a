"""Downlinks that could be full, told from those that surely have room, for :mod:`node.sim.level_network`.

A *ceiling* is a rate that no transfer of an uplink exceeds. It has few digits and changes seldom. The *potential* of a
downlink is the sum of the ceilings of its transfers' uplinks, kept at little cost and exact. A downlink of which the
potential is within its capacity has room: it is not active, and nothing else is known of it.
"""

from collections.abc import Mapping

from node.sim.levels import SharedLink, few_digits
from node.sim.rates import UNLIMITED

LOWER_AT = 0.75
"""A ceiling is lowered when no transfer comes nearer to it, and a downlink is left alone when no more can be used."""


def activate_if_needed(links: Mapping[int, SharedLink], downlink: SharedLink) -> bool:
    """Look at a downlink from now on if its transfers could fill it; returns whether this is new."""
    capacity = downlink.capacity
    if downlink.active or capacity >= UNLIMITED or (downlink.potential <= capacity and capacity > 0.0):
        return False
    downlink.active = True
    for flow in downlink.flows.values():
        links[flow.links[0]].exposed[flow.sequence] = flow
    return True


def leave_alone_if_possible(links: Mapping[int, SharedLink], downlink: SharedLink) -> None:
    """Look at a downlink no longer if its transfers are far from filling it."""
    if downlink.holds or not downlink.active or not downlink.capacity:
        return
    if downlink.potential <= LOWER_AT * downlink.capacity or not downlink.flows:
        downlink.active = False
        for flow in downlink.flows.values():
            if len(flow.links) == 2:
                links[flow.links[0]].exposed.pop(flow.sequence, None)


def set_ceiling(links: Mapping[int, SharedLink], uplink: SharedLink, rate: float) -> dict[int, SharedLink]:
    """Set an uplink's ceiling, and return the downlinks that could be full now and were not looked at."""
    before, after = uplink.ceiling, few_digits(rate)
    uplink.ceiling = after
    filled = {}
    for flow in uplink.flows.values():
        number = flow.links[1]
        downlink = links[number]
        above = downlink.capacity_above
        downlink.potential += (after if after < above else above) - (before if before < above else above)
        if not downlink.active and downlink.potential > downlink.capacity and activate_if_needed(links, downlink):
            filled[number] = downlink
    return filled
