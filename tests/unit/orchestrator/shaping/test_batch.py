"""From what a namespace holds to what it must hold."""

from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.errors import RunnerError
from node.core.links import CapacityChange, NetworkPlan
from node.core.schedule import LinkSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.scheduled_network import scheduled
from orchestrator.shaping.batch import Batch, change_to, removal
from orchestrator.shaping.differences import differences
from orchestrator.shaping.node_shaping import KernelOptions, plan_node
from orchestrator.shaping.tree import NodeTree
from tests.unit.orchestrator.shaping.fake_kernel import FakeKernel, devices_of
from tests.unit.orchestrator.shaping.networks import addresses, network, networks, pairs, scheduled_networks, tree

GOLDEN = Path(__file__).parent / "testdata"
MS = 1_000_000
STRAGGLER = network(
    up=[12, 60, 60],
    down=[12, 60, 60],
    latency_ns=20 * MS,
    jitter_ns=pairs(3, 0, {(1, 0): 2 * MS}, np.int64),
    loss=pairs(3, 0, {(0, 2): 0.001, (2, 0): 0.001}),
)
REGIONS = network(pair_mbps=pairs(3, inf, {(0, 1): 123.4567, (0, 2): 0.5, (1, 0): 7}), latency_ns=50 * MS)
TRACE = network(
    up=100,
    down=100,
    latency_ns=5 * MS,
    changes=((1, CapacityChange("up", 0, -1, 2.0)), (2, CapacityChange("pair", 0, 1, 1.0))),
)


def applied(kernel: FakeKernel, wanted: NodeTree) -> Batch:
    batch = change_to(wanted, kernel.read(wanted))
    kernel.carry_out(batch)
    return batch


def text_of(batch: Batch) -> str:
    parts = (("ip", batch.links), ("tc", batch.shaping), ("ip", batch.links_after))
    return "".join(f"{program} {line}\n" for program, lines in parts for line in lines)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("straggler", tree(STRAGGLER)),
        ("straggler-without-netem", tree(STRAGGLER, netem=False)),
        ("regions", tree(REGIONS)),
        ("dilated", tree(TRACE, time_dilation=5)),
    ],
)
def test_approved_batches(name: str, wanted: NodeTree) -> None:
    kernel = FakeKernel()
    assert text_of(change_to(wanted, kernel.read(wanted))) == (GOLDEN / f"{name}.txt").read_text()


def test_an_approved_change_in_flight() -> None:
    kernel = FakeKernel()
    applied(kernel, tree(TRACE))
    assert text_of(applied(kernel, tree(TRACE, time_ns=1))) == (
        "tc class replace dev eth1 parent fa01: classid fa01:1 htb"
        " rate 2000000bit ceil 2000000bit burst 1514b cburst 1514b quantum 1514\n"
    )
    assert text_of(applied(kernel, tree(TRACE, time_ns=2))) == (
        "tc class replace dev eth1 parent fa01:1 classid fa01:101 htb"
        " rate 8000bit ceil 1000000bit burst 1514b cburst 1514b quantum 1514\n"
    )
    later = replace(TRACE, latency_ns=30 * MS, jitter_ns=1 * MS, loss=0.01)
    lines = applied(kernel, tree(later, time_ns=2)).shaping
    assert lines[0] == (
        "qdisc replace dev fm-eth1 parent fa01:101 handle 101: netem limit 2909 delay 30000us 1000us 0%"
        " distribution normal loss random 1% rate 100000000000bit"
    ), "with the full tuple"
    assert len(lines) == 2


SCHEDULED = scheduled(
    network(up=10, latency_ns=5 * MS),
    Schedule(
        links=(
            LinkSpan(1, 3, Place("pair", 1, 0), Overlay(latency_ns=25 * MS, jitter_ns=2 * MS, loss=0.01)),
            LinkSpan(2, 3, Place("up", 0, -1), Overlay(latency_factor=3.0, bandwidth_factor=0.5)),
        ),
        partitions=(PartitionSpan(4, 6, (0, 1, 0)), PartitionSpan(5, 7, (0, 1, 1))),
    ),
)
NETEM = "qdisc replace dev fm-eth1 parent fa01:101 handle 101: netem limit 11178 delay"
LAW = "0% distribution normal"
GATE = "qdisc replace dev eth1 parent fa01:10{0} handle 10{0}: tbf limit 312500b"
SHUT, OPEN = "rate 80bit burst 1514b", "rate 100000000000bit burst 2000000000b"


def test_an_approved_schedule() -> None:
    """A latency is one line with the full tuple, a cut or healed link another; nothing else is touched."""
    kernel = FakeKernel()
    first = text_of(applied(kernel, tree(SCHEDULED)))
    assert GATE.format(1) in first
    assert GATE.format(2) in first, "each peer that a partition ever cuts off"
    assert "netem limit 11178 delay 5000us 0us loss" in first, "as deep as for the longest"
    expected = {
        1: (f"{NETEM} 30000us 2000us {LAW} loss random 1% rate 100000000000bit",),
        2: ("class replace dev eth1 parent fa01: classid fa01:1 htb rate 5000000bit ceil 5000000bit burst 1514b",),
        3: (
            "class replace dev eth1 parent fa01: classid fa01:1 htb rate 10000000bit ceil 10000000bit burst 2500b",
            f"{NETEM} 5000us 0us loss random 0% rate 100000000000bit",
        ),
        4: (f"{GATE.format(1)} {SHUT}",),
        5: (f"{GATE.format(2)} {SHUT}",),
        6: (),
        7: (f"{GATE.format(1)} {OPEN}", f"{GATE.format(2)} {OPEN}"),
    }
    for time_ns, lines in expected.items():
        batch = applied(kernel, tree(SCHEDULED, time_ns=time_ns))
        assert len(batch.shaping) == len(lines)
        for found, begin in zip(batch.shaping, lines, strict=True):
            assert found.startswith(begin)
        assert batch.links == ()
        # What waits behind gates is looked at when the device sends something.
        assert batch.links_after == (("neigh replace 192.0.2.1 dev eth1 use",) if time_ns == 7 else ())


@given(scheduled_networks(), st.booleans(), st.booleans())
def test_any_schedule_is_found_as_it_was_applied_and_nothing_is_emptied(
    plan: NetworkPlan, netem: bool, backwards: bool
) -> None:
    """Between any two times, also in an order that no run has."""
    kernel = FakeKernel()
    applied(kernel, tree(plan, netem=netem))
    made = len(kernel.done)
    for second in sorted(range(5), reverse=backwards):
        wanted = tree(plan, netem=netem, time_ns=second * 10**9)
        applied(kernel, wanted)
        found = kernel.read(wanted)
        assert not differences(wanted, found)
        assert not change_to(wanted, found)
    later = kernel.done[made:]
    assert not [line for line in later if line.split()[:2] not in CHANGING], "values change in place"


CHANGING = [["class", "replace"], ["qdisc", "replace"], ["neigh", "replace"]]


@pytest.mark.parametrize("wanted", [tree(STRAGGLER), tree(REGIONS, netem=False), tree(network(nodes=1))])
def test_applied_twice_it_does_nothing(wanted: NodeTree) -> None:
    kernel = FakeKernel()
    assert applied(kernel, wanted)
    assert not applied(kernel, wanted)
    assert not differences(wanted, kernel.read(wanted))


@given(networks(), networks(), st.booleans())
def test_any_plan_is_found_as_it_was_applied_and_any_other_after_it(
    first: NetworkPlan, second: NetworkPlan, netem: bool
) -> None:
    kernel = FakeKernel()
    for plan in (first, second):
        wanted = tree(plan, netem=netem)
        applied(kernel, wanted)
        found = kernel.read(wanted)
        assert not differences(wanted, found)
        assert not change_to(wanted, found)
    assert not [line for line in kernel.done if " del " in line], "no queue is emptied"
    assert {device for line in kernel.done for device in devices_of(line)} <= {"eth1", "fm-eth1"}


@given(st.sets(st.integers(0, 8)), st.sets(st.integers(0, 8)), st.integers(0, 3))
def test_peers_come_and_go_and_move(before: set[int], after: set[int], moved: int) -> None:
    kernel = FakeKernel()
    known = addresses(9)
    options = KernelOptions()
    applied(kernel, plan_node(network(nodes=9), 0, {peer: known[peer] for peer in before}, options).tree)
    places = {peer: known[peer] if peer != moved else "10.9.9.9" for peer in after}
    wanted = plan_node(network(nodes=9), 0, places, options).tree
    lines = applied(kernel, wanted).shaping
    assert not differences(wanted, kernel.read(wanted))
    untouched = (before & after) - {moved}
    for peer in untouched - {0}:
        assert not [line for line in lines if f"fa01:{0x100 + peer:x} " in f"{line} "]


def test_the_backend_can_be_changed() -> None:
    kernel = FakeKernel()
    for netem in (False, True, False):
        wanted = tree(STRAGGLER, netem=netem)
        applied(kernel, wanted)
        assert not differences(wanted, kernel.read(wanted))


def test_a_root_of_somebody_elses_is_refused() -> None:
    wanted = tree(STRAGGLER)
    found = FakeKernel().read(wanted)
    found = replace(found, egress=replace(found.egress, foreign_root="htb 1:"))
    with pytest.raises(RunnerError, match=r"^eth1 has a root discipline that is not ours: htb 1:$"):
        change_to(wanted, found)


def test_a_batch_that_broke_off_anywhere_is_completed() -> None:
    wanted = tree(STRAGGLER)
    whole = change_to(wanted, FakeKernel().read(wanted))
    lines = [*((True, line) for line in whole.links), *((False, line) for line in whole.shaping)]
    for length in range(len(lines)):
        kernel = FakeKernel()
        done = lines[:length]
        kernel.carry_out(
            Batch(tuple(line for link, line in done if link), tuple(line for link, line in done if not link))
        )
        applied(kernel, wanted)
        assert not differences(wanted, kernel.read(wanted))


def test_removal_leaves_what_was_before() -> None:
    wanted = tree(STRAGGLER)
    kernel = FakeKernel()
    applied(kernel, wanted)
    batch = removal(wanted, kernel.read(wanted), gso_segments=65_535)
    assert batch == Batch(
        (),
        ("filter del dev eth1 ingress protocol ip prio 64161", "qdisc del dev eth1 root"),
        ("link del dev fm-eth1", "link set dev eth1 gso_max_segs 65535"),
    )
    kernel.carry_out(batch)
    assert not removal(wanted, kernel.read(wanted), gso_segments=65_535)
    assert set(kernel.devices) == {"eth1"}


def test_removal_where_nothing_is_ours() -> None:
    wanted = tree(STRAGGLER)
    found = FakeKernel().read(wanted)
    found = replace(found, egress=replace(found.egress, foreign_root="htb 1:"))
    assert not removal(wanted, found, gso_segments=65_535)
