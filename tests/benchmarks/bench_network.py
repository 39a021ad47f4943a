"""Print what one transfer costs: ``python tests/benchmarks/bench_network.py [nodes ...]``.

Every uplink is always busy: when a transfer ends its sender starts the next one to a random node. The
figure includes the event heap. With serial senders it should not depend on the number of nodes.
"""

import sys
from heapq import heappop, heappush
from time import perf_counter

import numpy as np

from node.core import sender_policy
from node.core.links import NetworkPlan
from node.sim.flows import Flow
from node.sim.fluid_network import FluidNetwork


def microseconds(nodes: int, parallel: int, transfers: int, slow: int = 0) -> float:
    """Mean cost of one start and one finish."""
    up = np.full(nodes, 60.0)
    up[:slow] = 12.0
    plan = NetworkPlan(model="access", up_mbps=up, down_mbps=up.copy(), sender=sender_policy.parallel(parallel))
    heap: list[tuple[int, int, Flow]] = []
    order = 0

    def schedule(finish_ns: int, flow: Flow) -> None:
        nonlocal order
        order += 1
        heappush(heap, (finish_ns, order, flow))

    network = FluidNetwork(plan, schedule)
    rng = np.random.default_rng(0)
    hops = rng.integers(1, nodes, size=transfers + nodes * parallel).tolist()
    sizes = rng.integers(30_000, 40_000, size=transfers + nodes * parallel).tolist()
    for index in range(nodes * parallel):
        source = index % nodes
        network.start(0, source, (source + hops.pop()) % nodes, sizes.pop(), None)
    ended = 0
    begin = perf_counter()
    while ended < transfers:
        now, _, flow = heappop(heap)
        if network.finish(flow, now):
            ended += 1
            source = flow.source
            network.start(now, source, (source + hops.pop()) % nodes, sizes.pop(), None)
    return (perf_counter() - begin) / transfers * 1e6


def main() -> None:
    """Measure and print."""
    for nodes in [int(word) for word in sys.argv[1:]] or [100, 1000]:
        print(f"{nodes:5d} nodes  serial               {microseconds(nodes, 1, 200_000):8.2f} us/transfer")
        slowed = microseconds(nodes, 1, 200_000, slow=nodes // 2)
        print(f"{nodes:5d} nodes  serial, half slowed  {slowed:8.2f} us/transfer")
        print(f"{nodes:5d} nodes  6 parallel           {microseconds(nodes, 6, 300):8.2f} us/transfer")


if __name__ == "__main__":
    main()
