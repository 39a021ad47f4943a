"""Rates of lines that carry messages with their framing."""

from math import inf

import numpy as np
import pytest

from node.core.framing import Framing
from node.core.links import CapacityChange
from orchestrator.shaping.line_rates import line_rates, packet_segments
from orchestrator.shaping.node_shaping import plan_node
from tests.unit.orchestrator.shaping.networks import addresses, network, pairs

CHANGES = ((5, CapacityChange("up", 0, -1, 3.0)), (9, CapacityChange("down", -1, 1, 0.0)))


def test_messages_of_one_size_get_their_rate() -> None:
    """What a message takes on the line takes as long as what is counted of it takes at the rate that was asked for."""
    plain = network(up=[10, 20, inf], down=5, pair_mbps=pairs(3, inf, {(0, 1): 2}), changes=CHANGES)
    lines = line_rates(plain, {100_000: 3}, tls=True, mtu=1_500)
    taken = Framing(tls=True, segments=1).link_bytes(100_000) / 100_064
    assert lines.factor == lines.factor_min == lines.factor_max == pytest.approx(taken)
    assert 1.07 < taken < 1.08
    found = lines.network
    np.testing.assert_allclose(found.up_mbps, np.array([10, 20, inf]) * taken)
    np.testing.assert_allclose(found.down_mbps, 5 * taken)
    assert found.pair_mbps is not None
    assert found.pair_mbps[0, 1] == pytest.approx(2 * taken)
    assert np.isinf(found.pair_mbps[1, 0])
    assert [(at, change.kind, change.mbps) for at, change in found.changes] == [
        (5, "up", pytest.approx(3 * taken)),
        (9, "down", 0.0),
    ]
    assert plain.up_mbps.tolist() == [10, 20, inf], "the network itself stays"


def test_messages_of_several_sizes_take_the_time_that_they_should_together() -> None:
    messages = {500_000: 2, 4_000: 100, 0: 50}
    plain, framing = network(up=10, down=10), Framing(tls=False)
    lines = line_rates(plain, messages, tls=False, mtu=1_500)
    taken_s = sum(count * framing.link_bytes(body) for body, count in messages.items()) / lines.factor
    assert taken_s == pytest.approx(sum(count * (body + 64) for body, count in messages.items()))
    assert lines.factor_min == pytest.approx(framing.link_bytes(500_000) / 500_064)
    assert lines.factor_max == pytest.approx(framing.link_bytes(0) / 64)
    assert lines.factor_min < lines.factor < lines.factor_max


def test_values_alone_may_be_what_is_counted() -> None:
    lines = line_rates(network(up=10, down=10, header_bytes=0), {1_000: 1, 0: 3}, tls=False, mtu=1_500)
    framing = Framing(tls=False)
    assert lines.factor == pytest.approx((framing.link_bytes(1_000) + 3 * framing.link_bytes(0)) / 1_003)


def test_lines_that_are_meant_and_nodes_that_send_nothing_stay() -> None:
    framed = network(up=10, down=10, framing=Framing())
    assert line_rates(framed, {100: 1}, tls=True, mtu=1_500).network is framed
    silent = network(up=10, down=10)
    assert line_rates(silent, {}, tls=True, mtu=1_500).network is silent


def test_a_line_that_is_as_it_was_asked_for_is_measured_as_what_messages_get() -> None:
    """Whatever the size of the probes, and whatever the messages'."""
    for plain in (network(up=4, down=4), network(up=4, down=4, framing=Framing())):
        for messages in ({100_000: 1}, {500: 1}):
            lines = line_rates(plain, messages, tls=True, mtu=1_500)
            line_mbps = lines.network.up_mbps[0]
            for padding in (2_500, 60_000):
                probes_mbps = line_mbps * padding / Framing().queued_probe_bytes(padding)
                assert lines.messages_mbps(probes_mbps, padding) == pytest.approx(4)


@pytest.mark.parametrize("mbps", [0.0, 0.5, 2, 10, 12.112, 40, 100, 1_000, inf])
def test_packets_are_as_long_as_the_kernel_is_told(mbps: float) -> None:
    for other in ({}, {"jitter_ns": 1_000_000}, {"loss": 0.01}, {"changes": CHANGES}):
        plan = network(up=[mbps, inf, inf], down=inf, **other)  # type: ignore[arg-type]
        told = plan_node(plan, 0, addresses(3)).tree.gso_segments
        expected = 1 if "changes" in other else told
        assert packet_segments(plan, 1_500) == min(expected, 43)
