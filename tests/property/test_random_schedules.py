"""Random schedules, from the experiment file on: whatever links and nodes do, nothing hangs and nothing is miscounted.

Instants are milliseconds, and local steps take one, so that entries begin and end within rounds and transfers.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.algorithms.registry import ALGORITHMS
from node.core.errors import ConfigError, StalledError
from node.core.links import NetworkPlan
from node.core.schedule import Schedule
from node.core.sender_policy import SenderPolicy
from node.core.time_budget import TIME_FIGURES
from node.sim.world import World
from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.input_files import InputFiles
from orchestrator.experiment.schedule import Surroundings, resolve_schedule
from orchestrator.experiment.schedule.abilities import ABILITIES
from tests.simulation.build import SENDERS, network, world
from tests.simulation.test_conservation import LOSS_TOLERANT, check_bytes

NODES = 6
END_MS = 60
LAST_CHANGE_MS = 2 * END_MS
"""Entries may end after the run has."""

ALL = (
    "degrade",
    "trace",
    "partition",
    "isolate",
    "crash",
    "restart",
    "pause",
    "slow_cpu",
    "availability",
    "kollaps",
)
WITHOUT_DEATHS = ("degrade", "trace", "partition", "isolate", "pause", "slow_cpu")

NODE = st.integers(0, NODES - 1)
RANGE = st.tuples(NODE, NODE).map(lambda ends: f"{min(ends)}-{max(ends)}")
FRACTION = st.fixed_dictionaries({"fraction": st.sampled_from([0.2, 0.5, 1]), "of": st.sampled_from(["all", "fast"])})
SELECTOR = st.one_of(NODE, RANGE, st.sampled_from(["all", "stragglers", "fast"]), FRACTION, st.lists(NODE, min_size=1))
PAIRS = st.lists(st.tuples(NODE, NODE).filter(lambda pair: pair[0] != pair[1]), min_size=1, max_size=3)
TARGETS = st.one_of(
    st.fixed_dictionaries({"nodes": SELECTOR, "direction": st.sampled_from(["up", "down", "both"])}),
    st.fixed_dictionaries({"pairs": PAIRS, "both_ways": st.booleans()}),
)
MS = st.integers(1, END_MS).map(lambda ms: ms / 1e3)
EFFECT = st.fixed_dictionaries(
    {"latency_ms": st.sampled_from([0, 0.5, 7])},
    optional={
        "bandwidth_factor": st.sampled_from([0.01, 0.5, 3]),
        "bandwidth_mbps": st.sampled_from([0, 0.05, 2]),
        "latency_factor": st.sampled_from([0, 5]),
        "jitter_ms": st.sampled_from([0, 2]),
        "loss_percent": st.sampled_from([0, 30, 90]),
    },
)
FILES = ("rate", "delay", "packets")
TRACE = st.fixed_dictionaries({"file": st.sampled_from(FILES), "at_end": st.sampled_from(["hold", "loop", "undo"])})
STAR = """<experiment><services><service name="a" replicas="4"/><service name="b"/></services>
<bridges><bridge name="s"/></bridges>
<links><link origin="a" dest="s" latency="1" upload="1Mbps" download="1Mbps"/></links>
<dynamic>
<schedule name="b" time="0.004" action="join" amount="2"/><schedule name="b" time="0.02" action="leave"/>
<schedule name="a" time="0.007" action="crash" amount="2"/><schedule name="a" time="0.009" action="disconnect"/>
<schedule name="a" time="0.013" action="reconnect"/><schedule origin="a" dest="s" time="0.005" action="leave"/>
<schedule origin="a" dest="s" time="0.008" action="join" upload="100Kbps" latency="6" jitter="2" drop="0.3"/>
</dynamic></experiment>"""
GROUPS = st.sampled_from([["0-1", "2-5"], [0, [1, 4], 5], [[0, 5], "1-3"], ["stragglers", "fast"]])
DOES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "degrade": st.tuples(TARGETS, EFFECT).map(lambda parts: parts[0] | parts[1]),
    "trace": st.tuples(TARGETS, TRACE).map(lambda parts: parts[0] | parts[1]),
    "partition": st.fixed_dictionaries({"groups": GROUPS}),
    "slow_cpu": st.fixed_dictionaries({"nodes": SELECTOR, "factor": st.sampled_from([1, 2.5, 1000])}),
    "availability": st.fixed_dictionaries(
        {
            "file": st.just("away.json"),
            "nodes": SELECTOR,
            "inactive": st.sampled_from(["crash", "pause"]),
            "clients": st.sampled_from(["in_order", "drawn"]),
            "speedup": st.sampled_from([0.5, 1, 3]),
        }
    ),
    "kollaps": st.fixed_dictionaries({"file": st.just("star.xml")}),
    **{action: st.fixed_dictionaries({"nodes": SELECTOR}) for action in ("isolate", "crash", "restart", "pause")},
}
MODELS = st.sampled_from(["last", "common", "peer"])


@st.composite
def entries(draw: st.DrawFn, actions: tuple[str, ...]) -> dict[str, Any]:
    """One entry, with a way of repeating and ending that its action can have."""
    action = draw(st.sampled_from(actions))
    entry = {"action": action, **draw(DOES[action]), "at_s": draw(MS) - 1e-3}
    if entry.get("file") == "packets":
        entry |= {"format": "mahimahi", "at_end": "loop", "interval_ms": draw(st.integers(1, 5))}
    if action == "restart":
        return entry | draw(st.sampled_from([{}, {"every_s": 0.02}])) | {"model": draw(MODELS)}
    endings: list[st.SearchStrategy[dict[str, Any]]] = [
        MS.map(lambda length: {"for_s": length}),
        MS.map(lambda length: {"until_s": entry["at_s"] + length}),
        MS.map(lambda every: {"every_s": every + 1e-3, "for_s": every}),
    ]
    if action != "pause":
        endings.append(st.just({}))
    entry |= draw(st.one_of(endings))
    if action == "crash" and ("for_s" in entry or "until_s" in entry):
        entry["model"] = draw(MODELS)
    return entry


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces")
    (path / "rate").write_text("time_s,bandwidth_mbps,loss_percent\n0,0.4,0\n0.003,0,0\n0.004,2,20\n0.011,0.1,0\n")
    (path / "delay").write_text("time_s,latency_ms\n0,4\n0.002,0\n0.009,1\n")
    (path / "away.json").write_text(
        '{"a": {"active": [0.001, 0.006], "inactive": [0.005, 0.013], "finish_time": 0.013},'
        ' "b": {"active": [0], "inactive": [0.02], "finish_time": 0.024}}'
    )
    (path / "star.xml").write_text(STAR)
    (path / "packets").write_text("".join(f"{instant}\n" for instant in (0, 1, 1, 4, 9, 9, 13)))
    return path


@pytest.fixture(autouse=True, scope="module")
def able() -> Iterator[None]:
    """Let the simulation execute every action."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cast("dict[str, tuple[str, ...]]", ABILITIES), "simulation", ALL)
        yield


def resolved(schedule: list[dict[str, Any]], plan: NetworkPlan, folder: Path, seed: int) -> Schedule:
    """What a schedule means, without the entries that do not go together with those before."""
    content = {"name": "t", "nodes": NODES, "learning": {}, "network": {}, "stop": {"time_s": END_MS / 1e3}}
    around = Surroundings(
        network=plan,
        is_direct=False,
        stragglers=frozenset({1, 4}),
        seed=seed,
        end_ns=END_MS * 10**6,
        runtime="simulation",
        files=InputFiles([folder]),
    )
    found = Schedule()
    kept: list[dict[str, Any]] = []
    for entry in schedule:
        with suppress(ConfigError):
            config = parse_experiment({**content, "schedule": [*kept, entry]}, "f")
            found = resolve_schedule(config.schedule, around).schedule
            kept.append(entry)
    return found


def run(w: World) -> None:
    """Run to the end, looking at it in between; a deadlock may be what a schedule makes of a run."""
    for instant_ms in range(0, END_MS + 1, 5):
        with suppress(StalledError):
            w.advance(instant_ms * 10**6)
        check_bytes(w)
        for node in w.nodes:
            node.algorithm.check_invariants()
            assert sum(getattr(node.counters, figure) for figure in TIME_FIGURES.values()) == w.now_ns


RATES = st.lists(st.sampled_from([0.1, 0.5, 3.0]), min_size=NODES, max_size=NODES)


@settings(max_examples=200, deadline=None, print_blob=True)
@given(
    kind=st.sampled_from(LOSS_TOLERANT),
    schedule=st.lists(entries(ALL), min_size=1, max_size=6),
    mbps=RATES,
    transport=st.sampled_from(["reliable", "datagram"]),
    sender=st.sampled_from(SENDERS),
    seed=st.integers(0, 2**31),
)
@example(
    kind="divshare",
    schedule=[
        {"action": action, "nodes": "all", "at_s": 0.005, "for_s": 0.01} for action in ("crash", "isolate", "pause")
    ],
    mbps=[0.5] * NODES,
    transport="datagram",
    sender=SENDERS[0],
    seed=1,
)
def test_nothing_hangs_and_every_message_has_one_fate(
    kind: str,
    schedule: list[dict[str, Any]],
    mbps: list[float],
    transport: str,
    sender: SenderPolicy,
    seed: int,
    folder: Path,
) -> None:
    plan = network(NODES, mbps, latency_ns=500_000, transport=transport, sender=sender)
    run(world(kind, network_plan=plan, seed=seed, schedule=resolved(schedule, plan, folder, seed)))


@settings(max_examples=50, deadline=None, print_blob=True)
@given(
    kind=st.sampled_from([kind for kind, entry in ALGORITHMS.items() if entry.config.needs_every_message]),
    schedule=st.lists(entries(WITHOUT_DEATHS), min_size=1, max_size=5),
    mbps=RATES,
    seed=st.integers(0, 2**31),
)
def test_algorithms_that_need_every_message_get_it_late(
    kind: str, schedule: list[dict[str, Any]], mbps: list[float], seed: int, folder: Path
) -> None:
    """Nothing is lost, neither to partitions nor to nodes that stand still."""
    plan = network(NODES, mbps, latency_ns=500_000)
    w = world(kind, network_plan=plan, seed=seed, schedule=resolved(schedule, plan, folder, seed))
    run(w)
    assert w.totals.messages["lost"] == 0


@settings(max_examples=30, deadline=None, print_blob=True)
@given(schedule=st.lists(entries(ALL), min_size=1, max_size=5), seed=st.integers(0, 2**31))
def test_a_schedule_is_the_same_whenever_it_is_read(schedule: list[dict[str, Any]], seed: int, folder: Path) -> None:
    plan = network(NODES, 1.0, latency_ns=500_000)
    assert resolved(schedule, plan, folder, seed) == resolved(schedule, plan, folder, seed)
