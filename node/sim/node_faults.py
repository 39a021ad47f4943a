"""Faults of nodes in virtual time: what becomes of a node to which something happens, and what others learn of it.

A node that stands still begins no transfer, and its local steps make no progress; transfers under way go on, and what
happens to it meanwhile happens when it goes on. A node that goes down loses its queue, its transfers, its local steps
and its algorithm's state; what arrives while it is down is lost. It comes back with a model and nothing else.

A neighbor learns of either after the latency of the way to it, and if a partition keeps the two apart, after that has
ended: as it would by the end of a connection. From then on what it sends to a node that is down is lost at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from node.core.algorithm import Algorithm
from node.core.effects import Effect
from node.core.events import PeerDown, PeerUp, Started
from node.core.links import NetworkPlan
from node.core.message_log import NEVER, Trace
from node.core.outbox import make_outbox
from node.core.rng import stream
from node.core.schedule import Comeback, NodeState, is_cut
from node.core.steps import Steps
from node.core.training import Trainer
from node.core.types import NodeId, Vector
from node.core.units import NEVER_NS
from node.sim.event_order import DELIVERY, NEWS, NODE_CHANGE
from node.sim.network import Network, NetworkFlow
from node.sim.simulated_node import SimulatedNode


def _cannot_come_back(node: NodeId, life: int) -> Algorithm:
    raise AssertionError(f"node {node} has no algorithm to come back with")


@dataclass(frozen=True)
class NodeFates:
    """All that happens to nodes.

    Attributes:
        states: What each node is to which something happens, at any time.
        make_algorithm: Makes the algorithm of a node that comes back, from its number and how often it has.
    """

    states: Mapping[int, Steps[NodeState]]
    make_algorithm: Callable[[NodeId, int], Algorithm]


class FaultyWorld(Protocol):
    """The use of a :class:`~node.sim.world.World`."""

    now_ns: int
    nodes: list[SimulatedNode]
    trace: Trace | None
    network: Network

    def push(self, time_ns: int, event_class: int, node: int, payload: Any) -> None: ...
    def execute(self, node: SimulatedNode, effects: Sequence[Effect]) -> None: ...
    def cancel(self, node: SimulatedNode, abort_in_flight: bool) -> None: ...
    def abort(self, node: SimulatedNode, flow: NetworkFlow) -> None: ...
    def pull(self, node: SimulatedNode) -> None: ...


class NodeFaults:
    """Does to the nodes of a world what their fates say. It has no state of its own.

    Args:
        world: In which they live; at its beginning.
        trainer: Its trainer.
        plan: Its network.
        seed: The experiment's.
    """

    def __init__(self, world: FaultyWorld, trainer: Trainer, plan: NetworkPlan, seed: int) -> None:
        self._world = world
        self._trainer = trainer
        self._plan = plan
        self._separations = plan.separations()
        self._make_algorithm: Callable[[NodeId, int], Algorithm] = _cannot_come_back
        self._seed = seed

    def plan(self, fates: NodeFates) -> None:
        """Take what is to happen, once and before it does."""
        self._make_algorithm = fates.make_algorithm
        for node, steps in sorted(fates.states.items()):
            for time_ns, state in steps:
                self._world.push(time_ns, NODE_CHANGE, node, state)

    def change(self, node: SimulatedNode, state: NodeState) -> None:
        """Let a node have another state from now on."""
        before, node.state = node.state, state
        node.runs = not (state.is_down or state.is_paused)
        if state.is_down and not before.is_down:
            self._goes_down(node)
            self._tell_neighbors(node, PeerDown(node.index))
        elif before.is_down and not state.is_down:
            self._comes_back(node, before.model)
            self._tell_neighbors(node, PeerUp(node.index))
        if node.runs and node.held:
            # Again in the order of the events of one instant.
            for event_class, payload in node.held:
                self._world.push(self._world.now_ns, event_class, node.index, payload)
            node.held = []
        if node.outbox.startable:
            self._world.pull(node)
        node.settle(self._world.now_ns)

    def _goes_down(self, node: SimulatedNode) -> None:
        """End a node: all that it holds is lost."""
        if node.training:
            self._trainer.finish(node.index)  # of no use to anybody
            node.training = False
        self._world.cancel(node, abort_in_flight=True)
        held, node.held = node.held, []
        node.life += 1
        for event_class, payload in held:
            self.withhold(node, event_class, payload)

    def _comes_back(self, node: SimulatedNode, model: Comeback) -> None:
        """Begin a node anew: with a model, and an algorithm and an outbox that know of nothing."""
        self._trainer.reset_momentum(node.index)
        node.algorithm = self._make_algorithm(node.index, node.life)
        node.outbox = make_outbox(self._plan.sender)
        node.params = node.handed_over = self._model_for(node, model)
        node.trained = None
        node.gone, node.heard_of = {}, dict.fromkeys(node.algorithm.context.neighbors, self._world.now_ns)
        self._world.execute(node, node.algorithm.handle(Started(node.params), self._world.now_ns))
        for peer in node.algorithm.context.neighbors:
            if self._world.nodes[peer].state.is_down:
                news = PeerDown(peer), self._world.now_ns
                self._world.push(self._heard_ns(peer, node.index), NEWS, node.index, news)

    def _model_for(self, node: SimulatedNode, model: Comeback) -> Vector:
        match model:
            case "last":
                return node.handed_over
            case "common":
                return self._trainer.initial_params()
            case "peer":
                peers = [peer for peer in node.algorithm.context.neighbors if not self._world.nodes[peer].state.is_down]
                if not peers:
                    return node.handed_over
                chosen = stream(self._seed, f"comeback.{node.life}", node.index).integers(len(peers))
                return self._world.nodes[peers[int(chosen)]].handed_over

    def withhold(self, node: SimulatedNode, event_class: int, payload: Any) -> None:
        """Take an event of a node that does not run: it happens later, or is lost."""
        if not node.state.is_down:
            node.held.append((event_class, payload))
            if event_class == DELIVERY and self._world.trace is not None:
                self._world.trace.held[payload.number] = NEVER
        elif event_class == DELIVERY:
            flow: NetworkFlow = payload
            count_lost(self._world.trace, self._world.nodes[flow.source], flow.size, flow.number)

    def _tell_neighbors(self, node: SimulatedNode, news: PeerDown | PeerUp) -> None:
        for peer in node.algorithm.context.neighbors:
            self._world.push(self._heard_ns(node.index, peer), NEWS, peer, (news, self._world.now_ns))

    def _heard_ns(self, source: int, destination: int) -> int:
        """Return when a node learns of what has happened to another one now."""
        at_ns = self._world.now_ns
        if is_cut(self._separations.at(at_ns), source, destination):
            later = self._separations.after(at_ns)
            at_ns = next((time_ns for time_ns, cuts in later if not is_cut(cuts, source, destination)), NEVER_NS)
        return at_ns + self._plan.path(source, destination, at_ns).latency_ns

    def hear(self, node: SimulatedNode, news: PeerDown | PeerUp, happened_ns: int) -> None:
        """Tell a node what has happened to a neighbor at a time, unless it knows that or something later."""
        peer = news.peer
        if happened_ns < node.heard_of.get(peer, 0):
            return  # a way that has become shorter: what came first arrives last
        node.heard_of[peer] = happened_ns
        node.hand_over_arrivals(self._world.now_ns)
        if isinstance(news, PeerUp):
            if peer not in node.gone:  # of whose end it has not heard: one does not come without the other
                self._tell(node, PeerDown(peer))
            node.gone.pop(peer, None)
        elif peer in node.gone:
            return  # it has heard of it already, when it came back
        else:
            node.gone[peer] = None
            for flow in self._world.network.outgoing(node.index):
                if flow.destination == peer:
                    node.outbox.ended(peer)
                    self._world.abort(node, flow)
        self._tell(node, news)

    def _tell(self, node: SimulatedNode, news: PeerDown | PeerUp) -> None:
        self._world.execute(node, node.algorithm.handle(news, self._world.now_ns))

    def lose_at_once(self, node: SimulatedNode, receiver: NodeId, row: int) -> None:
        """Lose a message whose sender knows that its receiver is down: it takes nothing of any link."""
        node.outbox.ended(receiver)
        if self._world.trace is not None:
            self._world.trace.started.extend((row, self._world.now_ns))
        count_lost(self._world.trace, node, 0, row)


def count_lost(trace: Trace | None, sender: SimulatedNode, size: int, row: int) -> None:
    """Count a message that does not arrive, of which so many bytes had left."""
    sender.counters.messages_lost += 1
    sender.counters.bytes_lost += size
    if trace is not None:
        trace.lost(row)
