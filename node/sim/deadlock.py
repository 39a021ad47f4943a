"""Deadlock of a simulated run: when nothing can happen any more, and what each node waits for then."""

from collections.abc import Iterable, Sequence

from node.sim.event_order import DELIVERY, LINK_CHANGE, NEWS, NODE_CHANGE, TIMER, Entry
from node.sim.network import Network
from node.sim.simulated_node import SimulatedNode


def at_rest(nodes: Sequence[SimulatedNode], network: Network, schedule: Iterable[Entry]) -> bool:
    """Tell whether nothing will ever happen again.

    Nothing does without local steps, messages in flight or timers, and without a transfer that moves.

    Args:
        nodes: All nodes of the run.
        network: Their transfers.
        schedule: What is to come.
    """
    if any(node.training or node.arrivals for node in nodes):
        return False
    flows = [flow for node in nodes for flow in network.outgoing(node.index)]
    if not all(network.is_parked(flow) for flow in flows):
        return False
    # A change of links can wake transfers that are parked.
    wakers = (DELIVERY, NEWS, NODE_CHANGE, TIMER, *([LINK_CHANGE] if flows else []))
    return not any(entry[1] in wakers for entry in schedule)


def explain_deadlock(nodes: Sequence[SimulatedNode], now_ns: int) -> str:
    """Say in one line what the nodes wait for; four of them are named.

    Args:
        nodes: All nodes of the run, at rest.
        now_ns: Virtual time.
    """
    waits = [
        f"node {node.index} waits for {reason}"
        for node in nodes
        if not node.state.is_down and (reason := node.algorithm.waiting_for()) is not None
    ]
    if all(node.state.is_down for node in nodes):
        return f"all nodes are down at {now_ns / 1e9:.3f} s of virtual time, and none comes back"
    shown = "; ".join(waits[:4]) + (f"; and {len(waits) - 4} more" if len(waits) > 4 else "")
    return f"deadlock at {now_ns / 1e9:.3f} s of virtual time: {shown or 'no node has anything to do'}"
