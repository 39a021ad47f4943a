"""The load that an experiment puts on its links: what the algorithm sends in a round against what links carry.

The offered load decides what a comparison of algorithms shows, and it is the experiment's to choose. It is the time
that a node's messages of one round take on a fast uplink, divided by the time that a fast node computes in a round.
At a load of 0.2 a link five times slower is just full. Pure: values in, values out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, inf, isfinite

import numpy as np
import numpy.typing as npt

from node.algorithms.config import RoundTraffic
from node.core.compute import ComputePlan
from node.core.links import NetworkPlan
from node.core.topology import Topology
from node.core.types import Float64Vector
from node.core.units import NS_PER_S

SERIAL_SHARE = 0.5
"""Share of an uplink that a serial sender gets out of it at the least, where many send to many: while one receiver's
downlink is shared with others, the messages behind that one wait."""


@dataclass(frozen=True, eq=False)
class Load:
    """Demand on the links of an experiment, as shares of what they carry; above 1 a link cannot keep up.

    Attributes:
        offered: Seconds that a round's messages take on the fastest uplink, a second that a fast node computes; inf
            for an algorithm that always has something to send, 0 where nothing limits.
        models: Whole models that a node sends a round, mean over nodes.
        messages: Messages that carry them.
        round_bytes: Bytes of links that these take: with their headers, or with their framing.
        fast_mbps: Rate of the fastest uplink, or of the fastest pair where access is unlimited; inf without limits.
        round_s: Seconds that a fast node computes in a round.
        up: Demand on each node's uplink, shape (nodes,).
        down: Demand on each node's downlink, shape (nodes,), where recipients are drawn uniformly.
        pairs: Demand on each pair, shape (pairs,), of those that are limited and exchange messages; None without any.
        traffic: What each node sends a round, in node order.
    """

    offered: float
    models: float
    messages: float
    round_bytes: float
    fast_mbps: float
    round_s: float
    up: Float64Vector
    down: Float64Vector
    pairs: Float64Vector | None
    traffic: tuple[RoundTraffic, ...]

    @property
    def highest(self) -> float:
        """The demand on the link that has the most of it."""
        pairs = 0.0 if self.pairs is None else float(self.pairs.max(initial=0.0))
        return max(float(self.up.max()), float(self.down.max()), pairs)

    def figures(self) -> dict[str, float | None]:
        """For machines; None where there is no number."""
        named = {
            "offered": self.offered,
            "models_a_round": self.models,
            "messages_a_round": self.messages,
            "uplink_demand_max": float(self.up.max()),
            "downlink_demand_max": float(self.down.max()),
            "pair_demand_max": None if self.pairs is None else float(self.pairs.max()),
        }
        return {name: value if value is not None and isfinite(value) else None for name, value in named.items()}

    @property
    def keeps_queues(self) -> bool:
        """True where some node keeps messages for which its links had no time."""
        return any(traffic.queue == "kept" for traffic in self.traffic)


def offered_load(
    traffic: Sequence[RoundTraffic],
    num_params: int,
    network: NetworkPlan,
    compute: ComputePlan,
    topology: Topology,
    local_steps: int,
) -> Load:
    """The load that nodes put on their links while none of them waits.

    Args:
        traffic: What each node sends a round, in node order.
        num_params: Parameters of the model.
        network: The links, as they are at the start.
        compute: How long steps take.
        topology: Who sends to whom; recipients are taken to be drawn uniformly among neighbors.
        local_steps: Local steps in a round.
    """
    # Step 1: what each node sends in a second of computing.
    models = np.array([one.models for one in traffic])
    messages = np.array([one.messages for one in traffic])
    model_bytes = num_params * network.wire_dtype.value_bytes
    is_bounded = np.isfinite(models)
    sent_bytes = np.full(len(traffic), inf)
    sent_bytes[is_bounded] = _link_bytes(models[is_bounded] * model_bytes, messages[is_bounded], network)
    round_s = np.array(compute.step_ns) * local_steps / NS_PER_S
    mbps = sent_bytes * 8e-6 / round_s
    # Step 2: what arrives: a neighbor's traffic in equal parts.
    degrees = np.array([topology.degree(node) for node in range(topology.num_nodes)])
    part = np.divide(mbps, degrees, out=np.zeros_like(mbps), where=degrees > 0)
    if np.all(degrees == topology.num_nodes - 1):  # the full graph, whose edges would take long to walk
        arriving = np.full_like(part, part.sum()) - part if np.isfinite(part).all() else part
    else:
        arriving = np.array([part[list(neighbors)].sum() for neighbors in topology.adjacency])
    # Step 3: against what the links carry.
    pairs = None
    fast_mbps = float(network.up_mbps.max())
    limited = _limited_pairs(network, topology)
    if limited is not None and network.pair_mbps is not None:
        pairs = _share(np.broadcast_to(part[:, None], limited.shape)[limited], network.pair_mbps[limited])
        if not isfinite(fast_mbps):
            fast_mbps = float(network.pair_mbps[limited].max())
    mean_bytes, fast_s = float(sent_bytes.mean()), float(round_s.min())
    return Load(
        offered=float(_share(np.array([mean_bytes * 8e-6 / fast_s]), np.array([fast_mbps]))[0]),
        models=float(models.mean()),
        messages=float(messages.mean()),
        round_bytes=mean_bytes,
        fast_mbps=fast_mbps,
        round_s=fast_s,
        up=_share(mbps, network.up_mbps),
        down=_share(arriving, network.down_mbps),
        pairs=pairs,
        traffic=tuple(traffic),
    )


def _link_bytes(bodies: Float64Vector, messages: Float64Vector, network: NetworkPlan) -> Float64Vector:
    """Bytes of links that so many messages take whose bodies have so many bytes together, as if all were alike."""
    if network.framing is None:
        return bodies + messages * network.header_bytes
    means = np.divide(bodies, messages, out=np.zeros(len(bodies)), where=messages > 0)
    return messages * np.array([network.link_bytes(round(mean)) for mean in means.tolist()], dtype=np.float64)


def _limited_pairs(network: NetworkPlan, topology: Topology) -> npt.NDArray[np.bool_] | None:
    """The pairs that exchange messages and have a limit of their own, shape (nodes, nodes); None without any."""
    if network.pair_mbps is None:
        return None
    limited = np.isfinite(network.pair_mbps)
    if topology.num_edges < comb(topology.num_nodes, 2):
        is_edge = np.zeros_like(limited)
        for node, neighbors in enumerate(topology.adjacency):
            is_edge[node, list(neighbors)] = True
        limited &= is_edge
    np.fill_diagonal(limited, False)
    return limited if limited.any() else None


def _share(wanted: Float64Vector, carried: Float64Vector) -> Float64Vector:
    """Demand over capacity: 0 of nothing and of a link without limit, infinite of one that carries nothing."""
    share = np.divide(wanted, carried, out=np.full_like(wanted, inf), where=(carried > 0) & np.isfinite(carried))
    share[(wanted == 0) | ~np.isfinite(carried)] = 0.0
    return share


def describe_load(load: Load, stragglers: frozenset[int], *, is_serial: bool) -> dict[str, str]:
    """The load in words: what -> how, in the order of a table; ``warning`` only where there is something to warn of.

    Args:
        load: The load.
        stragglers: Nodes slowed on purpose.
        is_serial: Whether a node sends one message after the other, whoever it is for.
    """
    if load.models == 0 and load.messages == 0:
        return {"offered load": "0: nothing is sent"}
    notes = "".join(f"; {note}" for note in dict.fromkeys(traffic.note for traffic in load.traffic) if note)
    if not isfinite(load.models):
        return {"offered load": f"as much as the links carry{notes}"}
    sent = f"{load.models:.4g} models in {load.messages:.4g} messages a round{notes}"
    if not isfinite(load.fast_mbps):
        return {"offered load": f"0: {sent}; nothing limits the links"}
    times = f"{load.offered * load.round_s:.3g} s at {load.fast_mbps:g} Mbit/s over {load.round_s:.3g} s of local steps"
    rows = {"offered load": f"{load.offered:.2g}: {times}; {sent}"}
    rows["demand on links"] = _demand(load, stragglers)
    warning = _warning(load, is_serial=is_serial)
    if warning:
        rows["warning"] = warning
    return rows


def _demand(load: Load, stragglers: frozenset[int]) -> str:
    if load.pairs is not None:
        middle, most = float(np.median(load.pairs)), float(load.pairs.max())
        return f"{_percent(middle)} of the middle pair, {_percent(most)} of the slowest"
    count = load.up.size
    groups = {"fast nodes": [node for node in range(count) if node not in stragglers], "stragglers": sorted(stragglers)}
    shown = [
        f"{name if stragglers else 'all nodes'}: {_percent(float(load.up[nodes].mean()))} of the uplink,"
        f" {_percent(float(load.down[nodes].mean()))} of the downlink"
        for name, nodes in groups.items()
        if nodes
    ]
    return "; ".join(shown)


def _warning(load: Load, *, is_serial: bool) -> str:
    highest = load.highest
    if load.keeps_queues:
        if highest > 1:
            over = int(np.count_nonzero((load.up > 1) | (load.down > 1)))
            where = f"links of {over} of {load.up.size} nodes" if over else "some pairs"
            return (
                f"queues must grow: unsent messages are kept, and {where} are given up to {_percent(highest)} of what"
                " they carry"
            )
        if is_serial and load.offered > SERIAL_SHARE:
            return (
                f"queues must grow even on equal links: unsent messages are kept, and a serial sender gets about"
                f" {_percent(SERIAL_SHARE)} out of an uplink; see network.sender"
            )
        return ""
    if highest > 1 and any(traffic.queue == "waited_for" for traffic in load.traffic):
        return f"nodes wait for messages: a round takes up to {highest:.3g} times as long as its local steps"
    return ""


def _percent(share: float) -> str:
    return f"{100 * share:,.3g} %" if share < 10 else f"{100 * share:,.0f} %"
