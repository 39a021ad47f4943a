"""Time dilation: how much slower than testbed time a host must run an experiment to keep up with it.

The host has to train all nodes at once and to move their messages. What both take is estimated from above: a
step's time is measured, the number of messages follows from the algorithm and the links, and what a message and a
round's end take of this host is given (:class:`~orchestrator.host.costs.HostCosts`). Time dilation makes room for the
rest, so that :data:`LOAD_MAX` of the cores is used at most.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Final

import numpy as np

from node.core.algorithm import Algorithm
from node.core.effects import Effect, Enqueue, StartLocalSteps
from node.core.errors import ConfigError
from node.core.events import LocalStepsDone, MessageReceived, Started
from node.core.messages import Message, frozen
from node.core.types import Float64Vector
from node.core.units import ns_to_s
from node.core.wire_values import WireDtype
from orchestrator.checks import TOLERANCES
from orchestrator.experiment.plan import Plan
from orchestrator.host.costs import HostCosts

LOAD_MAX: Final = 0.6
"""Share of all cores that training and messages may take on average. Both come in bursts, and a node that has to
wait for a core is late."""
NODE_LOAD_MAX: Final = 0.8
"""Share of its declared time that a node's own training may take of one core: the rest is for the node itself."""
LATE_SHARE: Final = 0.8
"""Part of the tolerated lateness of arrivals that rounds which end together may take."""
STEPS: Final = (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
"""The dilations that are recommended, and these times a power of ten."""
DILATION_MAX: Final = 10_000.0
"""Largest dilation that an experiment file may ask for."""

_ROUNDS: Final = 3
"""Rounds that an algorithm is watched for; the first ones of some send nothing."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The least time dilation at which the host keeps up.

    Attributes:
        dilation: Real seconds a testbed second, >= 1; one of :data:`STEPS` times a power of ten.
        training_cores: Cores that training takes without dilation.
        message_cores: Cores that messages take at most without dilation.
        cores: Cores that there are.
        reasons: How it was found, a sentence each; the last one names what bounds it.
    """

    dilation: float
    training_cores: float
    message_cores: float
    cores: int
    reasons: tuple[str, ...]

    @property
    def demand_cores(self) -> float:
        """Cores that the experiment takes without dilation."""
        return self.training_cores + self.message_cores


@dataclass(frozen=True, slots=True)
class Traffic:
    """Traffic that one node sends.

    Attributes:
        messages_per_round: Messages that it queues when its local steps end, mean of a few rounds.
        payload_bytes: Mean of these messages' bodies; 0 without messages.
        bodies: Bytes of a body -> how many of these messages have such a one.
        answered: Share of them that is answered, in [0, 1].
        chains: Whether an answer makes it ask again at once, so that rounds are no bound of what it sends.
    """

    messages_per_round: float
    payload_bytes: float
    bodies: Counter[int]
    answered: float
    chains: bool


def recommend(
    plan: Plan, tensor_sizes: tuple[int, ...], *, step_seconds: float, cores: int, costs: HostCosts
) -> Recommendation:
    """Choose a time dilation for a host. Pure.

    Args:
        plan: The experiment.
        tensor_sizes: Of the model; see :class:`node.core.training.Trainer`.
        step_seconds: What a local step takes on one core; see :mod:`orchestrator.host.step_time`.
        cores: Cores that may be used, >= 1.
        costs: What messages and rounds take of the host.

    Raises:
        ConfigError: No dilation that an experiment may have is enough.
    """
    # Step 1: the demand. Training and messages share the cores, so that their sum counts.
    step_s = [ns_to_s(ns) for ns in plan.compute.step_ns]
    training = sum(step_seconds / seconds for seconds in step_s)
    rates, at_once, cost_s = _messages(plan, tensor_sizes, costs)
    messages = float(rates @ cost_s)
    demand = training + messages
    # Step 2: the least dilation by each bound alone. They do not add up: each is a moment of its own.
    bounds = [_by_cores(training, messages, cores), _by_node(step_seconds, min(step_s))]
    if plan.config.network.links == "emulated":  # nothing is requested of direct links, so that nothing can be late
        # Nodes that end their rounds together also begin to send together: each as many messages as its sender may have
        # under way, which then end together as well.
        first_messages_s = float((at_once * cost_s).max()) if rates.any() else 0.0
        end_s = costs.round_cpu_s + costs.round_param_cpu_s * sum(tensor_sizes) + first_messages_s
        bounds += [_by_rounds(plan, end_s, cores), _by_path(plan, costs)]
    # Step 3: the strictest bound decides. Refuse what no dilation helps before anything is said of it.
    strictest = max(bounds, key=lambda bound: bound.dilation)
    if strictest.dilation > DILATION_MAX:
        raise ConfigError(
            f"compute.step_time_ms={plan.config.compute.step_time_ms:g}: this host takes {1e3 * step_seconds:.3g} ms a"
            f" step and would need time_dilation {strictest.dilation:.3g}: must be at most {DILATION_MAX:g}"
        )
    # Step 4: the reasons, the demand first and the bound that decided last: whoever shows one line shows the last.
    if strictest.dilation > 1:
        deciding = f"{strictest.reason}: {strictest.dilation:.3g}, rounded up"
    else:
        deciding = f"nothing bounds it: {demand:.2f} of {_count(cores, 'core')} are needed"
    reasons = (
        f"training: {_count(len(step_s), 'node')}, {1e3 * step_seconds:.3g} ms a step on one core against"
        f" {1e3 * min(step_s):.3g} ms declared: {training:.2f} cores",
        f"messages: at most {rates.sum():,.0f} a testbed second: {messages:.2f} cores",
        deciding,
    )
    return Recommendation(round_up(strictest.dilation), training, messages, cores, reasons)


# --- bounds -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _LeastDilation:
    """The least dilation that something allows by itself, and why, in words."""

    dilation: float
    reason: str


def _by_cores(training: float, messages: float, cores: int) -> _LeastDilation:
    """The bound by all cores together, of which training and messages take so many without dilation."""
    demand, usable = training + messages, cores * LOAD_MAX
    most = "training" if training >= messages else "messages"
    return _LeastDilation(
        demand / usable,
        f"the host's cores bound it, mostly by {most}: {demand:.2f} are needed and {usable:.2f} of {cores} can be used",
    )


def _by_node(step_seconds: float, declared_s: float) -> _LeastDilation:
    """The bound by one node's training, which cannot take more than a core."""
    return _LeastDilation(
        step_seconds / (NODE_LOAD_MAX * declared_s),
        f"one node's training bounds it: a step must fit into {NODE_LOAD_MAX:.0%} of its declared time on one core",
    )


def _by_rounds(plan: Plan, end_s: float, cores: int) -> _LeastDilation:
    """The bound by nodes whose rounds end together; the end of one, with its first messages, takes ``end_s``."""
    together = Counter(plan.compute.step_ns).most_common(1)[0][1] if plan.compute.jitter == 0 else 1
    burst_s = together * end_s / cores
    late_ms = LATE_SHARE * TOLERANCES.late_ms
    return _LeastDilation(
        1e3 * burst_s / late_ms,
        f"rounds that end together bound it: what {_count(together, 'node')} do then takes {1e3 * burst_s:.3g} ms"
        f" of {_count(cores, 'core')} and may take {late_ms:g} ms, or arrivals are late",
    )


def _by_path(plan: Plan, costs: HostCosts) -> _LeastDilation:
    """The bound by the shortest round trip, which must be within its tolerance."""
    nodes, round_trip_ns = plan.network.num_nodes, plan.network.round_trip_ns
    reason = (
        f"links without latency bound it: the host takes {1e3 * costs.path_s:.3g} ms from node to node and back,"
        f" and a round trip may take {TOLERANCES.rtt_ms:g} ms more than requested"
    )
    if nodes < 2:
        return _LeastDilation(1.0, reason)
    if not isinstance(round_trip_ns, int):
        round_trip_ns = int(round_trip_ns[~np.eye(nodes, dtype=bool)].min())
    return _LeastDilation(1e3 * costs.path_s / (LATE_SHARE * TOLERANCES.rtt_ms + 1e3 * ns_to_s(round_trip_ns)), reason)


def round_up(dilation: float) -> float:
    """The next of :data:`STEPS`, times a power of ten; at least 1 and at most :data:`DILATION_MAX`."""
    power = 1.0
    while power <= DILATION_MAX:
        for step in STEPS:
            if step * power >= dilation:
                return min(step * power, DILATION_MAX)
        power *= 10
    return DILATION_MAX


def real_seconds(plan: Plan, dilation: float) -> tuple[float, bool]:
    """Estimate how long a run takes in real time, without what comes before and after it.

    Returns:
        Real seconds, and whether they are only the least: a run that rounds end lasts at least as long as its slowest
        node computes for them.
    """
    rounds, end_ns = plan.config.stop.rounds, plan.end_ns
    computing_s = inf
    if rounds is not None:
        computing_s = ns_to_s(rounds * plan.config.algorithm.local_steps * max(plan.compute.step_ns))
    end_s = inf if end_ns is None else ns_to_s(end_ns)
    return dilation * min(computing_s, end_s), computing_s < end_s


# --- messages -----------------------------------------------------------------------------------------------


def _messages(
    plan: Plan, tensor_sizes: tuple[int, ...], costs: HostCosts
) -> tuple[Float64Vector, Float64Vector, Float64Vector]:
    """Messages for each node: how many are made at most a testbed second, how many begin at once when a round ends, and
    what one costs; shape (num_nodes,) each.

    An answer is counted at the node that asked.
    """
    uplinks = _uplink_mbps(plan)
    transfers = plan.network.sender.transfers_max(plan.network.num_nodes)
    rates, at_once, costs_s = np.zeros((3, plan.config.nodes))
    for node, algorithm in enumerate(plan.algorithms(tensor_sizes)):
        traffic = observe_traffic(algorithm, sum(tensor_sizes), plan.config.wire.dtype)
        round_s = ns_to_s(plan.compute.step_ns[node] * plan.config.algorithm.local_steps)
        wire_bytes = traffic.payload_bytes + plan.network.header_bytes
        by_link = uplinks[node] * 1e6 / 8 / max(1.0, plan.network.link_bytes(round(traffic.payload_bytes)))
        by_round = traffic.messages_per_round / round_s
        sent = by_link if traffic.chains and isfinite(by_link) else min(by_link, by_round)
        rates[node] = sent * (1 + traffic.answered)
        at_once[node] = max(1.0, min(transfers, traffic.messages_per_round))
        costs_s[node] = costs.message_cpu_s + costs.byte_cpu_s * wire_bytes
    return rates, at_once, costs_s


def observe_traffic(algorithm: Algorithm, num_params: int, dtype: WireDtype = WireDtype.FLOAT32) -> Traffic:
    """Count what a node sends when its local steps end. Nobody else sends, but its questions are answered.

    Args:
        algorithm: A fresh one; it is used up.
        num_params: Length of its flat model.
        dtype: How values travel.
    """
    params = frozen(np.zeros(num_params, dtype=np.float32))
    sent: list[Message] = []
    effects: Sequence[Effect] = algorithm.handle(Started(params), 0)
    rounds = answered = 0
    chains = False
    while rounds < _ROUNDS and any(isinstance(effect, StartLocalSteps) for effect in effects):
        rounds += 1
        effects = list(algorithm.handle(LocalStepsDone(params), 2 * rounds))
        items = [item for effect in effects if isinstance(effect, Enqueue) for item in effect.items]
        sent += [message for _, message in items]
        for peer, question in items:
            if question.tag not in algorithm.answers:
                continue
            answer = replace(question, tag=algorithm.answers[question.tag])
            answered += 1
            reaction = algorithm.handle(MessageReceived(peer, answer, answered), 2 * rounds + 1)
            chains = chains or any(isinstance(effect, Enqueue) for effect in reaction)
            effects += reaction  # training that waited for the answer goes on
    bodies = Counter(message.body.wire_bytes(dtype) for message in sent)
    return Traffic(
        messages_per_round=len(sent) / max(1, rounds),
        payload_bytes=sum(size * count for size, count in bodies.items()) / max(1, len(sent)),
        bodies=bodies,
        answered=answered / max(1, len(sent)),
        chains=chains,
    )


def _uplink_mbps(plan: Plan) -> Float64Vector:
    """The most that each node may ever send, Mbit/s, shape (num_nodes,); inf is unlimited."""
    network = plan.network
    up = network.up_mbps.copy()
    pairs = None if network.pair_mbps is None else network.pair_mbps.copy()
    for _, change in network.capacity_changes():
        if change.kind == "up":
            up[change.source] = max(up[change.source], change.mbps)
        elif change.kind == "pair" and pairs is not None:
            pairs[change.source, change.destination] = max(pairs[change.source, change.destination], change.mbps)
    if pairs is not None and pairs.shape[0] > 1:
        np.fill_diagonal(pairs, 0.0)
        fastest = np.sort(pairs, axis=1)[:, -network.sender.transfers_max(network.num_nodes) :]
        up = np.minimum(up, fastest.sum(axis=1))
    return up


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
