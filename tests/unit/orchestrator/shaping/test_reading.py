"""What ip and tc print, recorded on Linux 7.2 with iproute2 of three releases of Debian."""

import json
import re
from math import inf
from pathlib import Path

import numpy as np
import pytest

from node.core.errors import RunnerError
from orchestrator.shaping.batch import change_to
from orchestrator.shaping.differences import differences
from orchestrator.shaping.node_shaping import KernelOptions, plan_node
from orchestrator.shaping.reading import QueueCounters, parse_namespace, parse_rate_bps, parse_size_bytes
from orchestrator.shaping.tree import GateLeaf, NetemLeaf, peer_minor
from tests.unit.orchestrator.shaping.fake_kernel import FakeKernel
from tests.unit.orchestrator.shaping.networks import network, pairs

TESTDATA = Path(__file__).parent / "testdata"
VERSIONS = ("5.9.0", "6.1.0", "6.15.0")
RECORDED = plan_node(
    network(
        nodes=4,
        up=[1.234568, 10, 0.01, 10_000],
        down=[1_234.5, 10, inf, 10],
        pair_mbps=pairs(4, inf, {(0, 1): 2.5, (0, 3): 0}),
        latency_ns=pairs(4, 0, {(1, 0): 20_123_000, (2, 0): 9_123_456_000, (3, 0): 5_000}, np.int64),
        jitter_ns=pairs(4, 0, {(1, 0): 1_500_000}, np.int64),
        loss=pairs(4, 0, {(2, 0): 0.015, (3, 0): 0.33}),
    ),
    0,
    {node: f"10.77.0.{10 + node}" for node in range(4)},
    KernelOptions(),
).tree
"""The plan that was applied when the texts were recorded."""


def recording(version: str) -> str:
    return (TESTDATA / f"tc-{version}.txt").read_text()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recorded_plan_is_read_as_it_was_applied(version: str) -> None:
    found = parse_namespace(recording(version), RECORDED)
    assert found is not None
    assert not differences(RECORDED, found)
    assert not change_to(RECORDED, found)
    assert found.egress.tree.filters == RECORDED.egress.filters
    assert len(found.ingress.tree.classes) == 5
    leaf = found.ingress.tree.leaves[peer_minor(3)]
    assert isinstance(leaf, NetemLeaf)
    assert leaf.loss_percent == 33


def test_counters() -> None:
    found = parse_namespace(recording("6.1.0"), RECORDED)
    assert found is not None
    assert found.egress.counters[2] == QueueCounters(sent_bytes=90, sent_packets=1, dropped_packets=0, backlog_bytes=0)
    assert set(found.egress.counters) == set(RECORDED.egress.leaves)


def test_the_fake_kernel_prints_as_the_real_one() -> None:
    """Classes to the letter; the rest of the text is read the same."""
    kernel = FakeKernel()
    kernel.carry_out(change_to(RECORDED, kernel.read(RECORDED)))
    mine, real = (
        sorted(re.findall(r"^class .*$", text, re.MULTILINE))
        for text in (kernel.print_all(RECORDED), recording("6.1.0"))
    )
    root = "class htb fa01:2 root "
    assert [
        line.replace(root, f"{root}leaf 2: ") if line.startswith(root) and "leaf" not in line else line for line in mine
    ] == real


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("ceil 1235Kbit", "ceil 1236Kbit", "eth1 class fa01:1: ceil_bps=1236000: must be 1235000"),
        ('"delay":9.12346', '"delay":9.12446', "fm-eth1 leaf of fa01:102: latency_us=9124460: must be 9123456"),
        ('"loss":0.33', '"loss":0.3', "fm-eth1 leaf of fa01:103: loss_percent=30.0: must be 33.0"),
        ('"jitter":0.001499', '"jitter":0', "fm-eth1 leaf of fa01:101: jitter_us=0: must be 1500"),
        ("0a4d000b/ffffffff at 16", "0a4d000b/ffffffff at 12", "eth1 filter to fa01:101: present=False: must be True"),
        ("0a4d000b/ffffffff at 16", "0a4d0000/ffffff00 at 16", "eth1 filter to fa01:101: present=False: must be True"),
        (
            "fh 800::3 order 3 key ht 800 bkt 0 *flowid fa01:102",
            "fh 800::3 order 3 key ht 800 bkt 0 *flowid fa01:1",
            "",
        ),
        ("Redirect to device fm-eth1", "Redirect to device lo", "eth1: is_redirected=False: must be True"),
        ("pref 64161 u32", "pref 64162 u32", "eth1: is_redirected=False: must be True"),
        ('"gso_max_segs":1,', '"gso_max_segs":16,', "eth1: gso_max_segs=16: must be 1"),
    ],
)
def test_every_value_is_read(old: str, new: str, line: str) -> None:
    text = recording("6.1.0")
    assert old in text
    found = parse_namespace(text.replace(old, new), RECORDED)
    assert found is not None
    lines = [str(item) for item in differences(RECORDED, found)]
    assert lines
    assert not line or lines[0] == line


def test_a_namespace_without_the_device() -> None:
    assert parse_namespace('[{},{"ifname":"lo","flags":[]}]\n\n@@ ingress eth1\n', RECORDED) is None


@pytest.mark.parametrize(
    ("kind", "handle", "foreign"),
    [
        ("noqueue", "0:", ""),
        ("fq_codel", "0:", ""),
        ("htb", "fa01:", None),
        ("htb", "1:", "htb 1:"),
        ("fq_codel", "8001:", "fq_codel 8001:"),
        ("tbf", "0:", "tbf 0:"),
    ],
)
def test_whose_the_root_is(kind: str, handle: str, foreign: str | None) -> None:
    printed = f'[{{"ifname":"eth1"}}]\n@@ qdisc eth1\n[{{"kind":"{kind}","handle":"{handle}","root":true}}]\n'
    found = parse_namespace(printed, RECORDED)
    assert found is not None
    assert found.egress.has_root == (foreign is None)
    assert found.egress.foreign_root == (foreign or "")


@pytest.mark.parametrize("kind", ["ingress", "clsact"])
def test_an_ingress_of_any_kind(kind: str) -> None:
    printed = f'[{{"ifname":"eth1"}}]\n@@ qdisc eth1\n[{{"kind":"{kind}","handle":"ffff:","parent":"ffff:fff1"}}]\n'
    found = parse_namespace(printed, RECORDED)
    assert found is not None
    assert found.has_ingress


@pytest.mark.parametrize(
    ("printed", "text"),
    [
        ("Usage: ip", "ip -d -j link show: printed no JSON"),
        ('{"a": 1}', "ip -d -j link show: printed no list"),
        ('[{"ifname":"eth1"}]\n@@ qdisc eth1\n[{"kind":', "tc -j qdisc show: printed no JSON"),
        (recording("6.1.0").replace(" ceil ", " "), "tc class show: no 'ceil' in: class htb fa01:101 "),
        (recording("6.1.0").replace("2500Kbit", "2500furlongs"), "tc printed an unknown rate: 2500furlongs"),
        (recording("6.1.0").replace("1513b/1", "many"), "tc printed an unknown size: many"),
    ],
)
def test_text_that_is_none_of_theirs(printed: str, text: str) -> None:
    with pytest.raises(RunnerError) as caught:
        parse_namespace(printed, RECORDED)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_bits_and_bytes() -> None:
    assert parse_rate_bps("10Mbit") == 10_000_000
    assert parse_size_bytes("10Mb") == 10_485_760
    with pytest.raises(RunnerError):
        parse_rate_bps("10Mbps")  # megabytes, which tc prints where a user has asked for them


@pytest.mark.parametrize(
    ("options", "leaf"),
    [
        ('{"rate":10,"burst":1514,"lat":6402200000}', GateLeaf(65_536, is_shut=True)),
        ('{"rate":10,"burst":1514,"lat":24848700000}', GateLeaf(250_001, is_shut=True)),
        ('{"rate":10,"burst":1514,"lat":1677570200000}', GateLeaf(16_777_216, is_shut=True)),
        ('{"rate":12500000000,"burst":33550000,"limit":65536}', GateLeaf(65_536, is_shut=False)),
        ('{"rate":12500000000,"burst":"33550000b/1","limit":16777216}', GateLeaf(16_777_216, is_shut=False)),
    ],
)
def test_a_gate_is_read_as_iproute2_6_1_prints_it(options: str, leaf: GateLeaf) -> None:
    printed = json.dumps([{"ifname": "eth1", "flags": [], "gso_max_segs": 1}])
    root = '{"kind":"htb","handle":"fa01:","root":true,"options":{}}'
    printed += f'\n@@ qdisc eth1\n[{root},{{"kind":"tbf","handle":"101:","parent":"fa01:101","options":{options}}}]'
    found = parse_namespace(printed, RECORDED)
    assert found is not None
    assert found.egress.tree.leaves == {peer_minor(1): leaf}
