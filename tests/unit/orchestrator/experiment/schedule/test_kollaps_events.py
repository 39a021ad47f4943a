"""Events of Kollaps become what happens to nodes and links, or are refused."""

from math import isclose, sqrt
from pathlib import Path
from typing import Any

import pytest

from node.core.bounds import CHANGES_MAX
from node.core.errors import ConfigError
from node.core.links import CapacityChange
from node.core.schedule import LinkSpan, NodeSpan, Overlay, PartitionSpan, Place
from orchestrator.experiment.schedule import file_spans, resolve
from orchestrator.experiment.schedule.resolve import ResolvedSchedule
from tests.unit.orchestrator.experiment.schedule.entries import S, resolved

MS = 10**6


def told(folder: Path, *events: str, others: tuple[dict[str, Any], ...] = (), **fields: Any) -> ResolvedSchedule:
    """Resolve events of a star of two services, of six nodes and of two, whose links have 10 Mbit/s and 1 ms."""
    links = "".join(
        f'<link origin="{name}" dest="s" latency="1" jitter="3" drop="0.1" upload="10Mbps" download="10Mbps"/>'
        for name in ("a", "b")
    )
    (folder / "k.xml").write_text(
        '<experiment><services><service name="a" replicas="6"/><service name="b" replicas="2"/></services>\n'
        f'<bridges><bridge name="s"/></bridges><links>{links}'
        '<link origin="a" dest="b" latency="1" upload="5Mbps"/></links>'
        f"<dynamic>\n{chr(10).join(f'<schedule {event}/>' for event in events)}</dynamic></experiment>"
    )
    around = {name: fields.pop(name) for name in ("runtime", "time_s", "seed", "is_direct") if name in fields}
    return resolved({"action": "kollaps", "file": "k.xml", **fields}, *others, folder=folder, **around)


def downtimes(found: ResolvedSchedule) -> list[tuple[int, float, float | None]]:
    nodes = found.schedule.nodes
    assert {span.kind for span in nodes} <= {"down"}
    return [(span.node, span.begin_ns / S, None if span.end_ns is None else span.end_ns / S) for span in nodes]


# -- services --------------------------------------------------------------------------------------------------------


def test_replicas_leave_crash_and_join_again(tmp_path: Path) -> None:
    found = told(
        tmp_path,
        'name="b" time="0" action="join"',
        'name="b" time="2" action="join"',
        'name="b" time="5" action="leave" amount="2"',
        'name="b" time="8.5" action="join" amount="2"',
        'name="a" time="3" action="crash" amount="6"',
        model="common",
    )
    by_node = {node: [time for other, *time in downtimes(found) if other == node] for node in range(8)}
    assert all(by_node[node] == [[3, None]] for node in range(6))
    assert sorted((by_node[6], by_node[7]), key=len) == [[[5, 8.5]], [[0, 2], [5, 8.5]]]
    assert {span.model for span in found.schedule.nodes if span.end_ns is not None} == {"common"}
    assert found.entries[0].takes_down
    assert found.entries[0].nodes == tuple(range(8))


def test_which_replica_is_drawn_from_the_seed(tmp_path: Path) -> None:
    def crashed(seed: int) -> list[int]:
        return [
            node for node, *_ in downtimes(told(tmp_path, 'name="a" time="1" action="crash" amount="2"', seed=seed))
        ]

    assert crashed(1) == crashed(1)
    drawn = {tuple(crashed(seed)) for seed in range(10)}
    assert len(drawn) > 1
    assert all(set(nodes) < set(range(6)) and len(nodes) == 2 for nodes in drawn)


def test_a_replica_that_crashes_and_joins_at_once_is_restarted(tmp_path: Path) -> None:
    events = ('name="b" time="0" action="join" amount="2"', 'name="b" time="4" action="crash" amount="2"')
    found = told(tmp_path, *events, 'name="b" time="4" action="join" amount="2"')
    assert found.schedule.nodes == (NodeSpan(4 * S, 4 * S + 1, 6, "down"), NodeSpan(4 * S, 4 * S + 1, 7, "down"))


def test_replicas_that_are_disconnected_are_set_apart_from_all(tmp_path: Path) -> None:
    found = told(
        tmp_path,
        'name="b" time="1" action="disconnect" amount="2"',
        'name="b" time="3" action="reconnect"',
        until_s=9,
    )
    first, second = found.schedule.partitions
    assert (first.begin_ns, first.end_ns, second.begin_ns, second.end_ns) == (S, 3 * S, S, 9 * S)
    assert sorted((first.groups, second.groups)) == [(0,) * 7 + (1,), (0,) * 6 + (1, 0)]
    both = told(tmp_path, 'name="b" time="1" action="disconnect" amount="2"').schedule.partitions
    assert both == (PartitionSpan(S, None, (0,) * 6 + (1, 2)),)


def test_nodes_may_be_named(tmp_path: Path) -> None:
    """The file's replicas are the nodes of the entry, in order."""
    (tmp_path / "k.xml").write_text(
        '<experiment><services><service name="a" replicas="2"/></services>'
        '<dynamic><schedule name="a" time="1" action="crash" amount="2"/></dynamic></experiment>'
    )
    entry = {"action": "kollaps", "file": "k.xml", "at_s": 2, "for_s": 4}
    found = resolved({**entry, "nodes": [7, 3]}, folder=tmp_path)
    assert downtimes(found) == [(3, 3, 6), (7, 3, 6)]
    with pytest.raises(ConfigError) as caught:
        resolved({**entry, "nodes": "0-2"}, folder=tmp_path)
    assert str(caught.value) == (
        "schedule[0].file=k.xml: services have 2 replicas: must be as many as the nodes of the entry, 3"
    )


# -- links -----------------------------------------------------------------------------------------------------------


def test_a_changed_access_link_is_that_of_each_node(tmp_path: Path) -> None:
    found = told(
        tmp_path,
        'origin="b" dest="s" time="2" upload="2Mbps" download="4Mbps"',
        'origin="b" dest="s" time="5" upload="10Mbps"',
    )
    slow, fast, down = (Overlay(base_mbps=mbps) for mbps in (2, 10, 4))
    assert found.schedule.links == (
        LinkSpan(2 * S, 5 * S, Place("up", 6, -1), slow),
        LinkSpan(2 * S, 5 * S, Place("up", 7, -1), slow),
        LinkSpan(5 * S, None, Place("up", 6, -1), fast),
        LinkSpan(5 * S, None, Place("up", 7, -1), fast),
        LinkSpan(2 * S, None, Place("down", -1, 6), down),
        LinkSpan(2 * S, None, Place("down", -1, 7), down),
    )
    assert found.network.changes == (
        (2 * S, CapacityChange("down", -1, 6, 4)),
        (2 * S, CapacityChange("down", -1, 7, 4)),
        (2 * S, CapacityChange("up", 6, -1, 2)),
        (2 * S, CapacityChange("up", 7, -1, 2)),
        (5 * S, CapacityChange("up", 6, -1, 10)),
        (5 * S, CapacityChange("up", 7, -1, 10)),
    )


def test_latency_jitter_and_loss_are_what_a_link_then_has(tmp_path: Path) -> None:
    found = told(tmp_path, 'origin="s" dest="b" time="2" latency="21" jitter="5" drop="0.55"', until_s=4)
    (one, _) = found.schedule.links
    assert (one.begin_ns, one.end_ns, one.place) == (2 * S, 4 * S, Place("down", -1, 6))
    assert one.overlay.base_mbps is None
    assert one.overlay.latency_ns == 20 * MS
    assert one.overlay.jitter_ns == pytest.approx(sqrt(5**2 - 3**2) * MS)
    assert isclose(1 - 0.9 * (1 - one.overlay.loss), 0.55)


def test_a_change_that_is_taken_back_leaves_nothing(tmp_path: Path) -> None:
    events = ('origin="b" dest="s" time="2" latency="9"', 'origin="b" dest="s" time="3" latency="1"')
    spans = told(tmp_path, *events).schedule.links
    assert [(span.begin_ns, span.end_ns) for span in spans] == [(2 * S, 3 * S)] * 2
    at_once = told(tmp_path, events[0], events[1].replace("3", "2"))
    assert at_once.schedule.links == ()


def test_a_link_that_leaves_carries_nothing_until_it_joins(tmp_path: Path) -> None:
    leave, join = 'origin="b" dest="s" time="2" action="leave"', 'origin="b" dest="s" time="3" action="join"'
    found = told(tmp_path, leave, join)
    assert {(span.place.kind, span.begin_ns, span.end_ns) for span in found.schedule.links} == {
        ("up", 2 * S, 3 * S),
        ("down", 2 * S, 3 * S),
    }
    assert {span.overlay for span in found.schedule.links} == {Overlay(base_mbps=0)}
    changed = told(tmp_path, leave, f'{join} upload="3Mbps" latency="2"').schedule.links
    assert (3 * S, None, Overlay(base_mbps=3, latency_ns=MS)) in {(s.begin_ns, s.end_ns, s.overlay) for s in changed}


def test_a_link_between_services_is_the_path_between_each_two_of_their_nodes(tmp_path: Path) -> None:
    found = told(tmp_path, 'origin="a" dest="b" time="2" upload="1Mbps"').schedule
    assert {span.place for span in found.links} == {Place("pair", a, b) for a in range(6) for b in (6, 7)}


# -- refused ---------------------------------------------------------------------------------------------------------

TRACE = {"action": "trace", "nodes": 7, "direction": "up", "file": "t"}
SLOW = 'origin="b" dest="s" time="2" upload="2Mbps"'


@pytest.mark.parametrize(
    ("events", "fields", "message"),
    [
        (
            ('name="b" time="21" action="crash"',),
            {},
            "[0].file=k.xml: its last time, 21 s after at_s=0, must not be beyond stop.time_s=20; for_s or until_s",
        ),
        (
            ('name="b" time="1" action="reconnect"',),
            {},
            "[0].file=k.xml:3: amount=1: must be at most 0, the replicas of b that can reconnect at 1 s",
        ),
        (
            ('name="b" time="1" action="crash" amount="2"', 'name="b" time="2" action="disconnect"'),
            {},
            "[0].file=k.xml:4: amount=1: must be at most 0, the replicas of b that can disconnect at 2 s",
        ),
        (('name="b" time="1" action="stop"',), {}, "[0].file=k.xml:3: action=stop: must be one of join"),
        (
            (SLOW,),
            {"others": (TRACE,)},
            "[1].file=t: must be apart from schedule[0], whose file the uplink of node 7 follows at 0 s",
        ),
        ((SLOW,), {"every_s": 4, "for_s": 2}, "[0].every_s=4: must be left out with a file that has its own times"),
        (
            (SLOW,),
            {"is_direct": True},
            "[0].action=kollaps: must be without changes of links with network.links=direct",
        ),
        (
            (SLOW,),
            {"runtime": "processes"},
            "[0].action=kollaps: must be without trace with runtime: processes, which cannot",
        ),
        (
            ('name="b" time="1" action="crash"',),
            {"runtime": "processes"},
            "[0].action=kollaps: must be without crash with runtime: processes, which cannot do it yet",
        ),
        (
            ('name="b" time="1" action="disconnect"',),
            {"runtime": "processes"},
            "[0].action=kollaps: must be without isolate with runtime: processes, which cannot do it yet",
        ),
    ],
    ids=str,
)
def test_what_cannot_be(
    events: tuple[str, ...], fields: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").write_text("time_s,bandwidth_mbps\n0,4\n")
    if "runtime" in fields:
        monkeypatch.setattr(resolve, "ABILITIES", {"processes": ("degrade",)})
    with pytest.raises(ConfigError) as caught:
        told(tmp_path, *events, **fields)
    assert str(caught.value).removeprefix("f.yaml: ").startswith(f"schedule{message}"), str(caught.value)


def test_a_node_has_one_access_link(tmp_path: Path) -> None:
    (tmp_path / "k.xml").write_text(
        '<experiment><services><service name="a" replicas="8"/></services>'
        '<bridges><bridge name="s"/><bridge name="t"/></bridges><links>'
        '<link origin="a" dest="s" latency="1" upload="1Mbps"/><link origin="t" dest="a" latency="1" upload="1Mbps"/>'
        '</links><dynamic>\n<schedule origin="a" dest="s" time="1" latency="4"/></dynamic></experiment>'
    )
    with pytest.raises(ConfigError) as caught:
        resolved({"action": "kollaps", "file": "k.xml"}, folder=tmp_path)
    assert str(caught.value) == (
        "schedule[0].file=k.xml:2: link a to s: must be the only one of a to a bridge, as nodes have one access link: "
        "it has 2"
    )


def test_too_many_changes_are_refused_before_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CHANGES_MAX == 1_000_000
    monkeypatch.setattr(file_spans, "CHANGES_MAX", 5)
    for event in ('origin="a" dest="s" time="1" latency="4"', 'name="b" time="1" action="disconnect"'):
        with pytest.raises(ConfigError, match=r"^schedule\[0\]\.file=k\.xml: must give fewer changes"):
            told(tmp_path, event)
