"""The path through the emulator: at which time what is laid over links counts, and the bound of the bytes in flight."""

from dataclasses import replace
from typing import Any

import pytest

from node.core.links import CapacityChange, NetworkPlan
from node.core.messages import Message
from node.core.schedule import LinkSpan, Overlay, Place, Schedule
from node.core.scheduled_network import scheduled
from node.core.types import NodeId
from node.core.wire_values import WireDtype
from node.host.clock import Clock
from node.runtime.emulated_path import EmulatedPath
from node.runtime.outgoing import OutgoingFrames
from tests.simulation.build import network
from tests.unit.node.runtime.test_direct_path import SIZE, Recorder, message
from tests.virtual import EPOCH_NS, Host, Loop

MS = 1_000_000
SECOND = 1_000 * MS
PEER = NodeId(1)


class Bench:
    """The path of node 0; the emulator's time began at EPOCH_NS."""

    def __init__(self, plan: NetworkPlan, dilation: float) -> None:
        self.host = Host()
        self.emulator = Clock(EPOCH_NS, dilation)
        self.transfers: list[tuple[int, int]] = []  # bytes on the link, and when it was ready by the emulator's time
        self.due_ns: list[int] = []  # by the host's clock
        self.path = EmulatedPath(
            node=NodeId(0),
            network=plan,
            seed=1,
            emulator_clock=self.emulator,
            loop=Loop(self.host, 0).as_loop(),
            uplink=self,
            streams=self,
            frames=OutgoingFrames(NodeId(0), 99, WireDtype.FLOAT32, SIZE),
        )

    def start(self, number: int, receiver: int, wire_bytes: int, ready_ns: int) -> None:
        self.transfers.append((wire_bytes, ready_ns))

    def abort(self, number: int) -> None:
        raise AssertionError("nothing is aborted")

    def send(self, peer: NodeId, frame: bytes, number: int, due_ns: int, deadline_ns: int) -> None:
        self.due_ns.append(due_ns)

    def probe(self, peer: NodeId, sequence: int, sent_ns: int, padding_bytes: int, due_ns: int) -> None:
        self.due_ns.append(due_ns)


class Probes:
    def probe_sent(self, number: int, at_ns: int) -> None: ...


def laid_over(*spans: LinkSpan, **links: Any) -> NetworkPlan:
    return scheduled(network(4, 8.0, latency_ns=10 * MS, **links), Schedule(links=spans))


def over(begin_ns: int, end_ns: int, **overlay: Any) -> LinkSpan:
    return LinkSpan(begin_ns, end_ns, Place("up", 0, -1), Overlay(**overlay))


@pytest.mark.parametrize("dilation", [1.0, 2.5])
def test_a_part_that_goes_on_meets_what_holds_at_its_time_in_the_whole_experiment(dilation: float) -> None:
    """It begins at 40 s of the experiment, 3 s of the emulator's time; the overlay holds from 41 to 42 s."""
    bench = Bench(laid_over(over(41 * SECOND, 42 * SECOND, latency_ns=100 * MS)), dilation)
    begun = Clock(bench.emulator.monotonic_ns(3 * SECOND) - int(40 * SECOND * dilation), dilation)
    with bench.host.is_the_clock():
        bench.path.measure(Probes())
        bench.path.probe(1 << 62, PEER, 0, 0, 0)
        bench.path.transfer_ended(1 << 62, 2 * SECOND)  # which would be 39 s
        assert bench.due_ns.pop() == bench.emulator.monotonic_ns(2 * SECOND + 10 * MS)
        bench.path.begin(Recorder(), begun)
        for number, (at_ns, latency_ns) in enumerate(
            [(40 * SECOND, 10 * MS), (41 * SECOND, 110 * MS), (42 * SECOND - 1, 110 * MS), (42 * SECOND, 10 * MS)]
        ):
            bench.path.send(number, PEER, message(), at_ns)
            assert bench.transfers[-1][1] == at_ns - 37 * SECOND
            bench.path.transfer_ended(number, at_ns - 37 * SECOND)
            assert abs(bench.due_ns[-1] - begun.monotonic_ns(at_ns + latency_ns)) <= dilation


def test_probes_meet_no_overlay_even_where_one_holds_from_the_beginning() -> None:
    bench = Bench(laid_over(over(0, 9 * SECOND, latency_ns=100 * MS, jitter_ns=5 * MS)), 1.0)
    with bench.host.is_the_clock():
        bench.path.measure(Probes())
        bench.path.probe(1 << 62, PEER, 0, 0, 0)
        bench.path.transfer_ended(1 << 62, 5 * MS)
    assert bench.due_ns == [EPOCH_NS + 15 * MS]


def test_loss_is_that_of_the_time_at_which_a_message_begins() -> None:
    bench = Bench(laid_over(over(SECOND, 2 * SECOND, loss=0.9)), 1.0)
    with bench.host.is_the_clock():
        bench.path.begin(Recorder(), bench.emulator)
        for number, at_ns in enumerate((SECOND - 1, SECOND, 2 * SECOND)):
            bench.path.send(number, PEER, message(), at_ns)
    sizes = [size for size, _ in bench.transfers]
    assert sizes[0] == sizes[2] < sizes[1], "its packets are sent again and again"


def in_flight(plan: NetworkPlan) -> int:
    """Bytes that may be in flight."""
    bench = Bench(plan, 1.0)
    with bench.host.is_the_clock():
        bench.path.begin(Recorder(), bench.emulator)
        large: Message = message(size=SIZE)
        assert bench.path.has_room(PEER, large)
    return bench.path.window.bound_bytes


def test_nothing_that_a_simulation_lets_pass_is_held_back_at_any_time() -> None:
    """The bound follows from the most that rate and round trip ever are."""
    usual = int(1.5 * 1e6 * 0.02)
    assert in_flight(laid_over()) == usual
    assert in_flight(laid_over(over(SECOND, 2 * SECOND, latency_ns=80 * MS))) == 5 * usual
    assert in_flight(laid_over(over(SECOND, 2 * SECOND, bandwidth_factor=4.0))) == 4 * usual
    assert in_flight(laid_over(over(SECOND, 2 * SECOND, bandwidth_factor=0.25))) == usual
    faster = replace(laid_over(), changes=((SECOND, CapacityChange("up", 0, -1, 24.0)),))
    assert in_flight(faster) == 3 * usual
    assert in_flight(replace(faster, changes=((SECOND, CapacityChange("up", 2, -1, 24.0)),))) == usual
