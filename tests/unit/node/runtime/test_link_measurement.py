"""The measurement of the links before a run: exact where the host is, and honest where it is not."""

from collections.abc import Callable, Generator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from node.core.links import NetworkPlan
from node.core.schedule import LinkSpan, Overlay, Place, Schedule
from node.core.scheduled_network import scheduled
from node.core.types import NodeId
from node.core.units import NS_PER_S
from node.core.wire_values import WireDtype
from node.host.clock import Clock
from node.runtime.emulated_path import EmulatedPath
from node.runtime.link_measurement import (
    ANSWERED,
    ANSWERS,
    FIRST_NUMBER,
    PROBES,
    Measurement,
    Result,
    on_ring,
    requested_mbps,
    requested_round_trip_ms,
)
from node.runtime.outgoing import OutgoingFrames
from node.runtime.path import PROBE_BYTES
from node.sim.flows import Flow
from node.sim.fluid_network import FluidNetwork
from tests.simulation.build import network
from tests.virtual import EPOCH_NS, Host, Loop

MS = 1_000_000
SECOND = 1_000 * MS


class Sleep:
    """An awaitable that says for how long."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[float, None, None]:
        yield self.seconds


class Ring:
    """All nodes of a network measure at the same time.

    Args:
        plan: The links.
        dilation: Of time.
        message_bytes: Of the experiment.
        wake_ns: By how much a node learns late that a transfer ended; it begins the next one only then.
        arrival_ns: By how much arrivals are handed over late.
        times_messages: Whether a message and a burst are timed as well.
    """

    def __init__(
        self,
        plan: NetworkPlan,
        *,
        dilation: float = 1.0,
        message_bytes: int = 5_000,
        wake_ns: int = 0,
        arrival_ns: int = 0,
        times_messages: bool = False,
    ) -> None:
        self.host, self.clock = Host(), Clock(EPOCH_NS, dilation)
        self.wake_ns, self.arrival_ns = wake_ns, arrival_ns
        self.fluid = FluidNetwork(plan, self._schedule)
        self.results: list[Result] = []
        self.wire_bytes: list[int] = []
        self.paths = [
            EmulatedPath(
                node=NodeId(node),
                network=plan,
                seed=1,
                emulator_clock=self.clock,
                loop=Loop(self.host, node).as_loop(),
                uplink=_Uplink(self, node),
                streams=_Streams(self, node),
                frames=OutgoingFrames(NodeId(node), 0, WireDtype.FLOAT32, 1),
            )
            for node in range(plan.num_nodes)
        ]
        self.nodes = [
            Measurement(
                node=NodeId(node),
                network=plan,
                clock=self.clock,
                path=path,
                message_bytes=message_bytes,
                times_messages=times_messages,
            )
            for node, path in enumerate(self.paths)
        ]
        for node, path in zip(self.nodes, self.paths, strict=True):
            path.measure(node)

    def run(self, duration_ns: int = SECOND) -> list[Result]:
        with self.host.is_the_clock(), pytest.MonkeyPatch.context() as patch:
            patch.setattr("node.runtime.link_measurement.asyncio", SimpleNamespace(sleep=Sleep))
            for node in self.nodes:
                self._go_on(node.run(duration_ns))
            while len(self.results) < len(self.nodes):
                assert self.host.step(10**18)
        return sorted(self.results, key=lambda result: result.peer)

    def _go_on(self, work: Any) -> None:
        try:
            seconds = work.send(None)
        except StopIteration as end:
            self.results.append(end.value)
        else:
            self.after(round(seconds * NS_PER_S), lambda: self._go_on(work))

    def after(self, real_ns: int, callback: Callable[[], None]) -> None:
        self.host.plan(self.host.now_ns + real_ns, 0, 0, callback)

    def _schedule(self, finish_ns: int, flow: Flow) -> None:
        def finish() -> None:
            if self.fluid.finish(flow, finish_ns):
                self.after(self.wake_ns, lambda: self.paths[flow.source].transfer_ended(flow.number, finish_ns))

        self.host.plan(self.clock.monotonic_ns(finish_ns), 0, 0, finish)


class _Uplink:
    def __init__(self, ring: Ring, node: int) -> None:
        self._ring, self._node = ring, node

    def start(self, number: int, receiver: int, wire_bytes: int, ready_ns: int) -> None:
        assert number >= FIRST_NUMBER
        self._ring.wire_bytes.append(wire_bytes)
        at_ns = self._ring.clock.now_ns() if self._ring.wake_ns else ready_ns
        self._ring.fluid.start(at_ns, self._node, receiver, wire_bytes, None).number = number

    def abort(self, number: int) -> None:
        raise AssertionError("a measurement aborts nothing")


class _Streams:
    def __init__(self, ring: Ring, node: int) -> None:
        self._ring, self._node = ring, node

    def send(self, peer: NodeId, frame: bytes, number: int, due_ns: int, deadline_ns: int) -> None:
        raise AssertionError("a measurement sends no messages")

    def probe(self, peer: NodeId, sequence: int, sent_ns: int, padding_bytes: int, due_ns: int) -> None:
        receiver, sender = self._ring.nodes[peer], NodeId(self._node)
        late_ns = max(0, due_ns - self._ring.host.now_ns) + self._ring.arrival_ns
        self._ring.after(late_ns, lambda: receiver.probe_arrived(sender, sequence, padding_bytes))


LATENCY = np.random.default_rng(3).integers(1 * MS, 40 * MS, (4, 4))


@pytest.mark.parametrize("dilation", [1.0, 5.0])
@pytest.mark.parametrize("mbps", [[0.5, 1.0, 8.0, 60.0], [1.0, 1.0, 1.0, 1.0]])
def test_exact_links_give_what_was_requested(mbps: list[float], dilation: float) -> None:
    plan = network(4, mbps, latency_ns=LATENCY)
    for node, result in zip((3, 0, 1, 2), Ring(plan, dilation=dilation).run(), strict=True):
        assert result.peer == (node + 1) % 4
        assert len(result.round_trips_ms) == result.sent_probes == PROBES
        expected = requested_round_trip_ms(plan, node, result.peer)
        assert min(result.round_trips_ms) == pytest.approx(expected, abs=1e-3)
        assert np.median(result.round_trips_ms) == pytest.approx(expected, abs=1e-3)
        # A probe may share its sender's uplink with an answer for another node, a byte each.
        assert max(result.round_trips_ms) <= expected + 2 * 8e-3 / min(mbps)
        sender = (node - 1) % 4
        assert result.received_from == sender
        assert result.received_mbps == pytest.approx(requested_mbps(plan, sender, node), rel=1e-3)


def test_a_pair_that_is_slower_than_both_ends_is_what_is_measured() -> None:
    pair = np.full((3, 3), np.inf)
    pair[0, 1] = 0.25
    plan = network(3, 1.0, pair_mbps=pair)
    results = Ring(plan, message_bytes=2_000).run()
    assert requested_mbps(plan, 0, 1) == 0.25
    received = {(result.peer - 1) % 3: result.received_mbps for result in results}
    assert received[1] == pytest.approx(0.25, rel=1e-3)
    assert received[2] == pytest.approx(1.0, rel=1e-3)


def test_large_messages_are_made_smaller_so_that_enough_of_them_arrive() -> None:
    ring = Ring(network(2, 1.0), message_bytes=10**8)
    results = ring.run()
    assert 1_500 <= max(ring.wire_bytes) <= 0.6 * 125_000 / 10 * 1.1
    assert all(result.received_mbps == pytest.approx(1.0, rel=1e-3) for result in results)


def test_links_without_limit_have_no_rate_to_be_measured() -> None:
    for result in Ring(network(3, float("inf"), latency_ns=2 * MS)).run():
        assert result.received_mbps is None
        assert result.received_from == -1
        assert result.round_trips_ms[0] == pytest.approx(4.0, abs=1e-3)


def test_jitter_is_in_the_round_trips_and_two_measurements_agree() -> None:
    plan = network(2, 100.0, latency_ns=20 * MS, jitter_ns=2 * MS)
    first, again = Ring(plan).run(), Ring(plan).run()
    assert first == again
    assert np.std(first[0].round_trips_ms) == pytest.approx(2 * 2**0.5, rel=0.5)
    assert np.mean(first[0].round_trips_ms) == pytest.approx(40, abs=2)


def test_a_host_that_wakes_late_shows_in_the_rate() -> None:
    """6,250 bytes at 10 Mbit/s take 5 ms; with a pause of 1 ms between them, a sixth is missing."""
    results = Ring(network(2, 10.0), wake_ns=1 * MS).run()
    assert all(result.received_mbps == pytest.approx(10 * 5 / 6, rel=0.02) for result in results)


@pytest.mark.parametrize("dilation", [1.0, 10.0])
def test_a_host_that_hands_over_late_shows_in_the_round_trips_in_testbed_time(dilation: float) -> None:
    plan = network(2, 10.0, latency_ns=5 * MS)
    for result in Ring(plan, arrival_ns=3 * MS, dilation=dilation).run():
        expected = requested_round_trip_ms(plan, 0, 1) + 2 * 3 / dilation  # the probe and its answer
        assert np.median(result.round_trips_ms) == pytest.approx(expected, abs=1e-2)


def test_probes_without_an_answer_are_counted() -> None:
    ring = Ring(network(2, 10.0))
    arrived = ring.nodes[1].probe_arrived

    def only_answers(sender: NodeId, sequence: int, padding_bytes: int) -> None:
        if sequence >= ANSWERS:
            arrived(sender, sequence, padding_bytes)

    ring.nodes[1].probe_arrived = only_answers  # type: ignore[method-assign]
    results = {result.peer: result for result in ring.run()}
    assert results[1].sent_probes == PROBES
    assert results[1].round_trips_ms == []
    assert results[0].received_from == -1
    assert len(results[0].round_trips_ms) == PROBES


def test_a_short_measurement_still_asks_once() -> None:
    for result in Ring(network(2, 10.0)).run(duration_ns=1 * MS):
        assert result.sent_probes == len(result.round_trips_ms) == 1


@pytest.mark.parametrize("dilation", [1.0, 5.0])
def test_a_message_and_a_burst_take_what_rate_and_latency_say(dilation: float) -> None:
    plan = network(4, [0.5, 1.0, 8.0, 600.0], latency_ns=LATENCY)
    for node, result in zip((3, 0, 1, 2), Ring(plan, dilation=dilation, times_messages=True).run(), strict=True):
        mbps = requested_mbps(plan, node, result.peer)
        # 100 ms of the rate, and no more than a receiver takes; of the message no more than 0.15 s.
        assert result.answered_bytes == [min(5_000, int(mbps * 18_750)), min(int(mbps * 12_500), 1_000_000)]
        round_trip_ms = requested_round_trip_ms(plan, node, result.peer)
        for size, took_ms in zip(result.answered_bytes, result.answered_ms, strict=True):
            assert took_ms == pytest.approx(size * 8e-3 / mbps + round_trip_ms, abs=0.1)
        assert result.received_mbps == pytest.approx(requested_mbps(plan, (node - 1) % 4, node), rel=1e-3)


def test_nothing_is_timed_where_a_link_has_no_rate_or_nobody_asks() -> None:
    (unlimited, _), (unasked, _) = (
        Ring(network(2, float("inf")), times_messages=True).run(),
        Ring(network(2, 10.0)).run(),
    )
    assert unlimited.answered_ms == unasked.answered_ms == []


def test_a_message_without_an_answer_is_told() -> None:
    ring = Ring(network(2, 10.0), times_messages=True)
    arrived = ring.nodes[1].probe_arrived

    def no_messages(sender: NodeId, sequence: int, padding_bytes: int) -> None:
        if sequence < ANSWERED or sequence >= ANSWERS:
            arrived(sender, sequence, padding_bytes)

    ring.nodes[1].probe_arrived = no_messages  # type: ignore[method-assign]
    results = {result.peer: result for result in ring.run()}
    assert results[1].answered_ms == [None, None]
    assert None not in results[0].answered_ms


def test_links_are_measured_without_what_is_laid_over_them_and_nothing_passes_a_partition() -> None:
    """The ring of four is cut between 1 and 2 and between 3 and 0."""
    span = LinkSpan(0, None, Place("up", 0, -1), Overlay(latency_ns=500 * MS, jitter_ns=9 * MS, loss=0.5))
    plan = scheduled(network(4, 8.0, latency_ns=5 * MS), Schedule(links=(span,)))
    plan = replace(plan, partitions=((0, 0, 1, 1),))
    ring = Ring(plan)
    results = {(result.peer - 1) % 4: result for result in ring.run()}
    for node in (0, 2):
        assert len(results[node].round_trips_ms) == results[node].sent_probes
        assert max(results[node].round_trips_ms) < 11
        assert results[(node + 1) % 4].received_mbps == pytest.approx(8.0, rel=0.01)
        assert results[node].received_mbps is None
    for node in (1, 3):
        assert results[node].sent_probes > 0
        assert results[node].round_trips_ms == []
    assert [size for size in ring.wire_bytes if size > PROBE_BYTES]
    assert [requested_mbps(plan, node, (node + 1) % 4) for node in range(4)] == [8.0, 0.0, 8.0, 0.0]


@pytest.mark.parametrize("mbps", [[1.0, 5.0, 1.0, 5.0, 1.0, 5.0], [5.0, 5.0, 1.0, 1.0, 5.0, 1.0]])
def test_links_of_every_profile_are_measured(mbps: list[float]) -> None:
    plan = network(6, mbps)
    after = [on_ring(plan, node)[1] for node in range(6)]
    assert sorted(after) == [0, 1, 2, 3, 4, 5]
    assert [on_ring(plan, after[node])[0] for node in range(6)] == [0, 1, 2, 3, 4, 5]
    assert sorted(requested_mbps(plan, node, after[node]) for node in range(6)) == [1, 1, 1, 1, 5, 5]


def test_nodes_of_the_same_links_are_measured_in_order() -> None:
    assert [on_ring(network(4), node) for node in range(4)] == [(3, 1), (0, 2), (1, 3), (2, 0)]
    assert on_ring(network(2), 0) == (1, 1)
