"""Named differences between what must be and what was found."""

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.shaping.batch import change_to
from orchestrator.shaping.differences import ShapingDifference, differences
from orchestrator.shaping.reading import NodeReading
from orchestrator.shaping.tree import FifoLeaf, NodeTree, peer_minor
from tests.unit.orchestrator.shaping.fake_kernel import FakeKernel
from tests.unit.orchestrator.shaping.networks import network, tree

MS = 1_000_000
WANTED = tree(network(up=10, down=20, latency_ns=20 * MS, jitter_ns=MS, loss=0.01))
PEER = peer_minor(1)


def found_as_wanted() -> NodeReading:
    kernel = FakeKernel()
    kernel.carry_out(change_to(WANTED, kernel.read(WANTED)))
    return kernel.read(WANTED)


def changed(side: str, part: str, minor: int, **values: Any) -> NodeReading:
    """What was found, with other values at one place."""
    found = found_as_wanted()
    device = getattr(found, side)
    items = dict(getattr(device.tree, part))
    items[minor] = replace(items[minor], **values)
    return replace(found, **{side: replace(device, tree=replace(device.tree, **{part: items}))})


def without(side: str, part: str, minor: int) -> NodeReading:
    """What was found, without one thing."""
    found = found_as_wanted()
    device = getattr(found, side)
    items = {key: item for key, item in getattr(device.tree, part).items() if key != minor}
    return replace(found, **{side: replace(device, tree=replace(device.tree, **{part: items}))})


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (changed("egress", "classes", 1, ceil_bps=9_000), "eth1 class fa01:1: ceil_bps=9000: must be 10000000"),
        (changed("egress", "classes", 1, rate_bps=9_000), "eth1 class fa01:1: rate_bps=9000: must be 10000000"),
        (changed("ingress", "classes", PEER, parent=0), "fm-eth1 class fa01:101: parent=fa01:0: must be fa01:1"),
        (changed("egress", "classes", 1, burst_bytes=2_530), "eth1 class fa01:1: burst_bytes=2530: must be 2500"),
        (changed("egress", "classes", 1, cburst_bytes=0), "eth1 class fa01:1: cburst_bytes=0: must be 2500"),
        (
            changed("egress", "classes", PEER, quantum_bytes=15_140),
            "eth1 class fa01:101: quantum_bytes=15140: must be 1514",
        ),
        (
            changed("egress", "leaves", PEER, limit_bytes=5),
            "eth1 leaf of fa01:101: limit_bytes=5: must be 312500",
        ),
        (
            changed("ingress", "leaves", PEER, limit_packets=1_000),
            "fm-eth1 leaf of fa01:101: limit_packets=1000: must be 473",
        ),
        (
            changed("ingress", "leaves", PEER, latency_us=20_010),
            "fm-eth1 leaf of fa01:101: latency_us=20010: must be 20000",
        ),
        (changed("ingress", "leaves", PEER, jitter_us=0), "fm-eth1 leaf of fa01:101: jitter_us=0: must be 1000"),
        (
            changed("ingress", "leaves", PEER, loss_percent=1.1),
            "fm-eth1 leaf of fa01:101: loss_percent=1.1: must be 1.0",
        ),
        (
            changed("ingress", "leaves", PEER, order_bps=0),
            "fm-eth1 leaf of fa01:101: order_bps=0: must be 100000000000",
        ),
        (without("egress", "classes", PEER), "eth1 class fa01:101: present=False: must be True"),
        (without("ingress", "leaves", PEER), "fm-eth1 leaf of fa01:101: present=False: must be True"),
        (without("ingress", "filters", PEER), "fm-eth1 filter to fa01:101: present=False: must be True"),
        (replace(found_as_wanted(), has_ifb=False), "fm-eth1: present=False: must be True"),
        (replace(found_as_wanted(), is_ifb_up=False), "fm-eth1: is_up=False: must be True"),
        (replace(found_as_wanted(), is_redirected=False), "eth1: is_redirected=False: must be True"),
        (replace(found_as_wanted(), gso_segments=65_535), "eth1: gso_max_segs=65535: must be 1"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_one_value_that_is_not_as_wanted(found: NodeReading, line: str) -> None:
    assert [str(item) for item in differences(WANTED, found)] == [line]


def test_nothing_differs_within_what_the_kernel_and_tc_round() -> None:
    assert not differences(WANTED, found_as_wanted())
    assert not differences(WANTED, changed("egress", "classes", 1, burst_bytes=2_499, cburst_bytes=2_510))
    assert not differences(WANTED, changed("ingress", "leaves", PEER, latency_us=19_999, loss_percent=1.000001))
    assert not differences(WANTED, changed("egress", "classes", 1, quantum_bytes=None))


def test_things_that_should_not_be_there() -> None:
    found = found_as_wanted()
    fewer = {minor: item for minor, item in WANTED.egress.filters.items() if minor != PEER}
    wanted = NodeTree(replace(WANTED.egress, filters=fewer), WANTED.ingress, WANTED.gso_segments)
    assert differences(wanted, found) == (ShapingDifference("eth1 filter to fa01:101", "present", False, True),)


def test_another_address_and_another_kind() -> None:
    found = found_as_wanted()
    moved = replace(WANTED.egress, filters=WANTED.egress.filters | {PEER: "10.9.9.9"})
    plain = replace(WANTED.ingress, leaves={**WANTED.ingress.leaves, PEER: FifoLeaf(65_536)})
    assert [str(item) for item in differences(NodeTree(moved, plain, WANTED.gso_segments), found)] == [
        "eth1 filter to fa01:101: dst_address=10.1.0.3: must be 10.9.9.9",
        "fm-eth1 leaf of fa01:101: kind=netem: must be bfifo",
    ]


def test_a_namespace_that_has_lost_its_shape() -> None:
    lines = [str(item) for item in differences(WANTED, FakeKernel().read(WANTED))]
    assert lines == [
        "eth1: gso_max_segs=65535: must be 1",
        "fm-eth1: present=False: must be True",
        "fm-eth1: is_up=False: must be True",
        "eth1: is_redirected=False: must be True",
        "eth1 root: present=False: must be True",
        "fm-eth1 root: present=False: must be True",
    ]
