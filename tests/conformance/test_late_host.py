"""A host that wakes nodes late: what must hold all the same, and what must not add up."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.algorithm import Algorithm
from node.core.effects import Effect
from node.core.events import Event
from node.core.message_log import Column
from node.core.messages import MessageState
from node.core.sender_policy import SERIAL, SenderPolicy
from node.runtime.driver import LATE_NS
from tests.conformance.test_driver_equals_world import table_of_drivers
from tests.simulation.build import EVERY_ALGORITHM, SENDERS, network
from tests.virtual import Scenario, VirtualNetwork

MS = 1_000_000


class Late:
    """A random delay for each event, up to so much."""

    def __init__(self, most_ns: int, seed: int) -> None:
        self._most_ns = most_ns
        self._rng = np.random.default_rng(seed)

    def __call__(self) -> int:
        return int(self._rng.integers(0, self._most_ns + 1))


class Watched(Algorithm):
    """Passes events on, and checks that times never go back."""

    carries = {}

    def __init__(self, inner: Algorithm) -> None:
        super().__init__(inner.context)
        self._inner = inner
        self._last_ns = 0

    def handle(self, event: Event, now_ns: int) -> Sequence[Effect]:
        assert now_ns >= self._last_ns
        self._last_ns = now_ns
        effects = self._inner.handle(event, now_ns)
        self._inner.check_invariants()
        return effects


def run(scenario: Scenario, most_ns: int, until_ns: int, seed: int = 0) -> tuple[VirtualNetwork, dict[str, Column]]:
    net = VirtualNetwork(scenario, Late(most_ns, seed))
    for driver in net.drivers:
        driver._algorithm = Watched(driver._algorithm)
    net.advance(until_ns)
    return net, table_of_drivers(net)


def check_orders(net: VirtualNetwork, table: dict[str, Column], latency_ns: int, sender: SenderPolicy = SERIAL) -> None:
    started, sent, delivered = (table[f"{name}_ns"] >= 0 for name in ("started", "sent", "delivered"))
    assert np.all((table["started_ns"] - table["queued_ns"])[started] >= 0)
    assert np.all((table["sent_ns"] - table["started_ns"])[sent] > 0)
    assert np.all(((table["delivered_ns"] - table["sent_ns"]) >= latency_ns)[delivered])
    aggregated = table["aggregated_ns"] >= 0
    assert np.all(((table["aggregated_ns"] - table["delivered_ns"]) >= 0)[aggregated])
    for node, driver in enumerate(net.drivers):
        own = table["sender"] == node
        connections = [own & (table["receiver"] == peer) for peer in range(6)] if sender.per_peer else [own]
        for connection in connections:
            begin = np.sort(table["started_ns"][connection & sent])
            end = np.sort(table["sent_ns"][connection & sent])
            most = sender.transfers
            assert np.all(begin[most:] >= end[:-most]), "more transfers at a time than the sender may have"
        state, count = table["state"][own], driver.counters
        fates = {fate: int((state == fate).sum()) for fate in MessageState}
        assert count.messages_queued == len(state)
        assert fates[MessageState.QUEUED] == driver.current_counters(net.now_ns).queued_messages
        assert fates[MessageState.CANCELLED] == count.messages_cancelled
        assert fates[MessageState.ABORTED] == count.messages_aborted
        assert fates[MessageState.LOST] == count.messages_lost
        assert count.messages_sent == int((own & sent).sum())
        assert count.messages_delivered == int((delivered & (table["receiver"] == node)).sum())
        window = net.paths[node].window
        assert window.bytes_max <= window.bound_bytes


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(list(EVERY_ALGORITHM)),
    mbps=st.lists(st.floats(0.1, 20), min_size=6, max_size=6),
    latency_ns=st.integers(0, 4 * MS),
    late_ns=st.sampled_from([1_000, LATE_NS // 2, 3 * LATE_NS, 20 * LATE_NS]),
    flush=st.sampled_from(["queued_only", "all", "none"]),
    sender=st.sampled_from(SENDERS),
    seed=st.integers(0, 99),
)
def test_orders_and_counts_hold_on_any_host(
    kind: str, mbps: list[float], latency_ns: int, late_ns: int, flush: str, sender: SenderPolicy, seed: int
) -> None:
    plan = network(6, mbps, latency_ns=latency_ns, sender=sender)
    parameters: dict[str, object] = {"flush": flush} if kind == "divshare" else {}
    scenario = Scenario(kind, network=plan, seed=seed, parameters=parameters)
    net, table = run(scenario, late_ns, 60 * MS, seed)
    check_orders(net, table, latency_ns, sender)


@pytest.mark.parametrize("kind", ["divshare", "swift_divshare", "swift", "local"])
def test_small_delays_do_not_add_up(kind: str) -> None:
    """Wait-free nodes do as many rounds as with an ideal host, at the same times."""
    scenario = Scenario(kind, network=network(6, 1.6, latency_ns=700_000))
    net, _ = run(scenario, 1 * MS, 200 * MS)
    ideal = scenario.world()
    ideal.advance(200 * MS)
    for driver, node in zip(net.drivers, ideal.nodes, strict=True):
        assert node.counters.rounds - 1 <= driver.counters.rounds <= node.counters.rounds
        assert driver.counters.overruns == 0


def test_a_serial_sender_loses_nothing_to_small_delays() -> None:
    """A full outbox leaves at the rate of the link, however late each end is told."""
    # Uplinks of 0.4 Mbit/s carry 200 bytes in 4 ms; downlinks hold nobody back.
    plan = replace(network(6, 0.4), down_mbps=np.full(6, 100.0))
    net, _ = run(Scenario("swift_divshare", network=plan, parameters={"recipients": 5}), 1 * MS, 402 * MS)
    for driver in net.drivers:
        assert 98 <= driver.counters.messages_sent <= 100


def test_large_delays_are_counted_as_overruns() -> None:
    scenario = Scenario("local", step_ms=[5.0] * 6)
    net, _ = run(scenario, 4 * LATE_NS, 1_000 * MS)
    for driver in net.drivers:
        count = driver.counters
        # Late by up to 20 ms, equally likely: those beyond 5 ms, three quarters, are late by 12.5 ms.
        assert 0.55 < count.overruns / count.rounds < 0.95
        assert count.overrun_ns / count.overruns == pytest.approx(12.5 * MS, rel=0.25)
        assert count.declared_ns == count.rounds * 10 * MS
        assert count.rounds * 10 * MS + count.overrun_ns == pytest.approx(1_000 * MS, abs=40 * MS)
