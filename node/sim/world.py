"""The virtual-time driver: executes the effects of all nodes' algorithms and tells them what happened.

Training is real but takes the declared time; links are fluid; nothing else takes time. The world has no wall
clock, no files and no torch. Whoever drives it advances it from one instant to the next and looks at it in
between, so that evaluation costs no virtual time.

What happens to a message: queued in its sender's outbox, pulled from it when the sender policy lets it
begin, transmitted at the rate that the network grants, in flight for the link's latency, delivered. A round
ends with the local steps that it began with.

What happens to the nodes themselves is in :mod:`node.sim.node_faults`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any, ClassVar, assert_never

import numpy as np

from node.core.algorithm import Algorithm
from node.core.compute import ComputePlan, StepTimer
from node.core.counters import NetworkTotals, sum_counters
from node.core.delivery import DeliveryModel
from node.core.divergence import IN_SILENCE, check_outgoing
from node.core.effects import (
    Addressed,
    Aggregated,
    CancelQueued,
    Effect,
    Enqueue,
    ReplaceQueued,
    StartLocalSteps,
    StartTimer,
)
from node.core.errors import StalledError
from node.core.events import MessageReceived, Started, TimerFired
from node.core.links import NetworkPlan
from node.core.message_log import Trace
from node.core.messages import Message
from node.core.outbox import make_outbox
from node.core.recipients import distinct_messages
from node.core.training import Trainer
from node.core.types import NodeId
from node.core.wire_values import WireDtype
from node.sim.deadlock import at_rest, explain_deadlock
from node.sim.event_order import DELIVERY, LINK_CHANGE, NODE_CHANGE, STEPS_DONE, TIMER, TRANSFER_ENDED, Entry
from node.sim.local_steps import LocalSteps
from node.sim.network import Due, NetworkFlow, change_links, make_network
from node.sim.node_faults import NodeFates, NodeFaults, count_lost
from node.sim.simulated_node import SimulatedNode

NO_ROW = 0
"""Without a trace, messages are numbered from here on: the numbers mean nothing."""


class World:
    """All nodes of a simulated run, the network between them, and virtual time.

    Args:
        algorithms: One a node.
        trainer: Does the local steps.
        network: Links, sender policy and their changes over time.
        compute: How long each node's local steps take.
        seed: The experiment's seed.
        max_rounds: A node stops training after so many rounds; None for no limit.
        keep_messages: Keep the life of every message in :attr:`trace`; without it there are only counters.
        after_steps: Called after each block of local steps; for progress displays.
    """

    rebuilt_attributes: ClassVar[frozenset[str]] = frozenset({"_faults", "_plan", "sender", "stop_requested"})

    def __init__(
        self,
        *,
        algorithms: Sequence[Algorithm],
        trainer: Trainer,
        network: NetworkPlan,
        compute: ComputePlan,
        seed: int,
        max_rounds: int | None = None,
        keep_messages: bool = True,
        after_steps: Callable[[], None] | None = None,
    ) -> None:
        initial = trainer.initial_params()
        self.now_ns = 0
        self.nodes = [
            SimulatedNode(NodeId(i), algorithm, StepTimer(compute, i, seed), initial, make_outbox(network.sender))
            for i, algorithm in enumerate(algorithms)
        ]
        self.trace = Trace(network.header_bytes, network.wire_dtype) if keep_messages else None
        self.stop_requested = False
        self._plan, self.sender = network, network.sender
        self.max_transfers = network.sender.transfers_max(network.num_nodes)
        self._deliveries = DeliveryModel(network, seed)
        self._latency_ns = self._deliveries.common_latency_ns
        self._has_loss, self._has_framing = network.may_lose, network.framing is not None
        in_order = self._latency_ns is not None and not self._has_loss
        self._late_hand_over = in_order and all(algorithm.passive for algorithm in algorithms)
        self._size_tells_payload = not self._has_loss and all(map(_carries_only_values, algorithms))
        self._header_bytes, self._dtype = network.header_bytes, network.wire_dtype
        self._rounds_values = network.wire_dtype is not WireDtype.FLOAT32
        self._heap: list[Entry] = []
        self._sequence = 0
        self.network = make_network(network, self._schedule_network_event)
        self._started = False
        self._plan_link_change(0)
        self.steps = LocalSteps(self, trainer, max_rounds, after_steps)
        self._faults = NodeFaults(self, trainer, network, seed)

    def let_happen(self, fates: NodeFates) -> None:
        """Plan what happens to nodes. To be called before anything else, if at all."""
        self._late_hand_over = False
        self._faults.plan(fates)

    def hand_over(self) -> list[SimulatedNode]:
        """Return the nodes that are not down. Their models are the last that they have handed over."""
        alive = [node for node in self.nodes if not node.state.is_down]
        for node in alive:
            node.handed_over = node.params
        return alive

    @property
    def totals(self) -> NetworkTotals:
        """Messages and bytes so far, over all nodes."""
        return sum_counters([node.counters for node in self.nodes], self._header_bytes)

    # -- time ------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Every node has done all rounds that the stop rule allows."""
        return self.steps.unfinished == 0

    def advance(self, until_ns: int) -> bool:
        """Process all events up to and including an instant.

        Args:
            until_ns: Virtual time, not before the present.

        Returns:
            True when the instant was reached; False when the run ended before it, because every node finished
            or because ``stop_requested`` was set.

        Raises:
            StalledError: Every node waits for something that cannot come: a deadlock. The message says what each
                waits for.
            DivergedError: A node's model is not finite any more; the world is of use for its figures alone.
        """
        with np.errstate(**IN_SILENCE):
            if not self._started:
                self._started = True
                for node in self.nodes:
                    self.execute(node, node.algorithm.handle(Started(node.params), 0))
            try:
                return self._process(until_ns)
            finally:
                for node in self.nodes:
                    node.hand_over_arrivals(self.now_ns)
                    node.budget.count_until(self.now_ns)

    def _process(self, until_ns: int) -> bool:
        heap, nodes, ended = self._heap, self.nodes, self.network.finish
        while not self.stop_requested and self.steps.unfinished:
            if not heap or heap[0][0] > until_ns:
                if at_rest(nodes, self.network, heap):
                    raise StalledError(explain_deadlock(nodes, self.now_ns))
                self.now_ns = until_ns
                return True
            now_ns, event_class, index, _, payload = heappop(heap)
            self.now_ns = now_ns
            if event_class == TRANSFER_ENDED:
                for flow in ended(payload, now_ns):
                    self._transfer_ended(flow)
            elif event_class == LINK_CHANGE:
                change_links(self.network, self._plan.changes[payload][1], now_ns)
                self._plan_link_change(payload + 1)
            elif event_class == NODE_CHANGE:
                self._faults.change(nodes[index], payload)
            else:
                self._happens(nodes[index], event_class, payload)
        return False

    def _happens(self, node: SimulatedNode, event_class: int, payload: Any) -> None:
        """Tell a node of an event of its own."""
        if not node.runs:
            self._faults.withhold(node, event_class, payload)
        elif event_class == DELIVERY:
            self._deliver(node, payload)
        elif event_class == STEPS_DONE:
            if payload == node.life:
                self.steps.done(node)
        elif event_class == TIMER:
            timer, life = payload
            if life == node.life:
                node.hand_over_arrivals(self.now_ns)
                self.execute(node, node.algorithm.handle(TimerFired(timer), self.now_ns))
        else:
            self._faults.hear(node, *payload)

    def _plan_link_change(self, index: int) -> None:
        """Push one of the network's changes, if there are so many: all of them would make every other push slower."""
        if index < len(self._plan.changes):
            self.push(self._plan.changes[index][0], LINK_CHANGE, 0, index)

    def push(self, time_ns: int, event_class: int, node: int, payload: Any) -> None:
        self._sequence += 1
        heappush(self._heap, (time_ns, event_class, node, self._sequence, payload))

    # -- effects ---------------------------------------------------------------------------------------------

    def execute(self, node: SimulatedNode, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Enqueue(items=items):
                    self._enqueue(node, items)
                case StartLocalSteps(params=params, count=count):
                    self.steps.start(node, params, count)
                case Aggregated(deliveries=deliveries):
                    self._aggregated(node, deliveries)
                case CancelQueued(abort_in_flight=abort):
                    self.cancel(node, abort)
                case ReplaceQueued(old=old, new=new):
                    check_outgoing([new], self._dtype, node.index, node.counters, self.now_ns)
                    rows = node.outbox.replace(old, new)
                    if self.trace is not None:
                        self.trace.replaced(rows, new)
                case StartTimer(timer=timer, delay_ns=delay_ns):
                    self.push(self.now_ns + delay_ns, TIMER, node.index, (timer, node.life))
                case _:
                    assert_never(effect)
        if node.outbox.startable:
            self.pull(node)
        if not node.training or node.budget.activity != "computing":
            node.settle(self.now_ns)

    def _enqueue(self, node: SimulatedNode, items: Sequence[Addressed]) -> None:
        if items:
            check_outgoing(distinct_messages(items), self._dtype, node.index, node.counters, self.now_ns)
            node.counters.messages_queued += len(items)
            row = NO_ROW if self.trace is None else self.trace.queued(self.now_ns, node.index, items)
            node.outbox.append(items, row)

    def cancel(self, node: SimulatedNode, abort_in_flight: bool) -> None:
        node.counters.messages_cancelled += len(node.outbox)
        if self.trace is not None:
            for rows in node.outbox.numbers():
                self.trace.cancelled(rows, self.now_ns)
        node.outbox.clear()
        if abort_in_flight:
            for flow in self.network.outgoing(node.index):
                node.outbox.ended(flow.destination)
                self.abort(node, flow)

    def abort(self, node: SimulatedNode, flow: NetworkFlow) -> None:
        wasted = self.network.abort(flow, self.now_ns)
        if self._has_framing:
            wasted = self._plan.counted_bytes(flow.token.body.wire_bytes(self._dtype), wasted)
        count = node.counters
        count.messages_aborted += 1
        count.bytes_wasted += wasted
        count.bytes_sent += wasted
        if self.trace is not None:
            self.trace.aborted(flow.number, self.now_ns, wasted)

    def _aggregated(self, node: SimulatedNode, deliveries: Sequence[int]) -> None:
        node.counters.messages_aggregated += len(deliveries)
        if self.trace is not None:
            # The round being trained, or the one that has just ended.
            current = node.counters.rounds if node.training else node.counters.rounds - 1
            self.trace.aggregated(deliveries, self.now_ns, current)

    # -- messages --------------------------------------------------------------------------------------------

    def pull(self, node: SimulatedNode) -> None:
        """Start what the sender policy lets begin."""
        outbox, trace, now_ns = node.outbox, self.trace, self.now_ns
        dtype, header_bytes = self._dtype, self._header_bytes
        while outbox.startable and node.runs:
            (receiver, message), row = outbox.pop()
            if receiver in node.gone:
                self._faults.lose_at_once(node, receiver, row)
                continue
            link_bytes = message.body.wire_bytes(dtype) + header_bytes
            if self._has_framing or self._has_loss:
                body_bytes = link_bytes - header_bytes
                link_bytes = self._deliveries.link_bytes(body_bytes, node.index, receiver, now_ns)
                if trace is not None and self._has_loss:
                    trace.resent[row] = self._plan.counted_bytes(body_bytes, link_bytes)
            if trace is not None:
                trace.started.extend((row, now_ns))
            flow = self.network.start(now_ns, node.index, receiver, link_bytes, message)
            flow.number = row

    def _schedule_network_event(self, time_ns: int, what: Due) -> None:
        self._sequence = sequence = self._sequence + 1  # as in push, written out: it is called for every transfer
        heappush(self._heap, (time_ns, TRANSFER_ENDED, what.source, sequence, what))

    def _transfer_ended(self, flow: NetworkFlow) -> None:
        node = self.nodes[flow.source]
        message: Message = flow.token
        row, size, receiver = flow.number, flow.size, flow.destination
        node.outbox.ended(receiver)
        count = node.counters
        trace, now_ns = self.trace, self.now_ns
        if self._has_framing:
            size = flow.size = self._plan.counted_bytes(message.body.wire_bytes(self._dtype), size)
        count.messages_sent += 1
        count.bytes_sent += size
        if self._size_tells_payload:  # the message is in no cache by now and need not be read
            count.bytes_payload += size - self._header_bytes
        elif (body := message.body).is_control:
            count.messages_control += 1
        else:
            count.bytes_payload += body.payload_bytes(self._dtype)
            count.bytes_index += body.index_bytes + body.header_bytes
        latency_ns = self._latency_ns
        if latency_ns is None:
            latency_ns = self._deliveries.latency_ns(flow.source, receiver, now_ns)
        arrival_ns = now_ns + latency_ns
        if trace is not None:
            trace.sent.extend((row, now_ns, arrival_ns))
        if self._rounds_values:
            message = flow.token = replace(message, body=message.body.received(self._dtype))
        body_bytes = message.body.wire_bytes(self._dtype) if self._has_loss else 0
        if self._has_loss and self._deliveries.is_lost(body_bytes, flow.source, receiver, now_ns):
            count_lost(self.trace, node, size, row)
        elif self._late_hand_over:
            arrivals = self.nodes[receiver].arrivals
            arrivals.messages.append(message)
            arrivals.details.extend((arrival_ns, node.index, row, size))
        else:
            self.push(arrival_ns, DELIVERY, receiver, flow)
        if node.outbox.startable:
            self.pull(node)
        if node.budget.activity == "sending":  # else it goes on with what it does
            node.settle(now_ns)

    def _deliver(self, node: SimulatedNode, flow: NetworkFlow) -> None:
        count = node.counters
        count.messages_delivered += 1
        count.bytes_received += flow.size
        if self.trace is not None and flow.number in self.trace.held:
            self.trace.held[flow.number] = self.now_ns
        arrival = MessageReceived(flow.source, flow.token, flow.number)
        effects = node.algorithm.handle(arrival, self.now_ns)
        if effects:
            self.execute(node, effects)


def _carries_only_values(algorithm: Algorithm) -> bool:
    """Tell whether the bodies of all its messages are values, without positions or fields of their own."""
    kinds = algorithm.carries.values()
    return not any(kind.is_control or kind.index_bytes or kind.header_bytes for kind in kinds)
