"""Presets, overrides and traces become the plan they describe; mistakes end in one line."""

import json
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from node.core.errors import ConfigError
from node.core.links import CapacityChange, NetworkPlan
from node.core.sender_policy import PER_PEER, SERIAL, parallel
from orchestrator.experiment.input_files import InputFiles
from orchestrator.experiment.networks import NetworkConfig, build_network
from orchestrator.experiment.trace_files import read_bandwidths


def build(fields: dict[str, Any], nodes: int = 4, base_dir: Path = Path(), seed: int = 1) -> NetworkPlan:
    return build_network(NetworkConfig.model_validate(fields), nodes, seed, InputFiles([base_dir]))


def test_the_default_is_a_uniform_serial_network() -> None:
    plan = build({})
    assert plan.model == "access"
    assert plan.up_mbps.tolist() == plan.down_mbps.tolist() == [60.0] * 4
    assert plan.pair_mbps is None
    assert (plan.latency_ns, plan.jitter_ns, plan.loss) == (1_000_000, 0, 0.0)
    assert (plan.sender, plan.transport, plan.header_bytes) == (SERIAL, "reliable", 64)
    assert plan.changes == ()
    assert plan.stragglers == frozenset()
    with pytest.raises(ValueError, match="read-only"):
        plan.up_mbps[0] = 1


def test_uniform() -> None:
    plan = build(
        {
            "preset": {
                "kind": "uniform",
                "bandwidth_mbps": None,
                "up_mbps": 10,
                "latency_ms": 2,
                "jitter_ms": 0.5,
                "loss_percent": 3,
            },
            "sender": {"kind": "parallel", "transfers": 3},
            "transport": "datagram",
            "message_header_bytes": 0,
        }
    )
    assert plan.up_mbps.tolist() == [10.0] * 4
    assert plan.down_mbps.tolist() == [inf] * 4
    assert (plan.latency_ns, plan.jitter_ns, plan.loss) == (2_000_000, 500_000, 0.03)
    assert (plan.sender, plan.transport, plan.header_bytes) == (parallel(3), "datagram", 0)
    assert build({"sender": {"kind": "serial"}}).sender == SERIAL
    assert build({"sender": {"kind": "per_peer"}}).sender == PER_PEER


def test_uniform_pairwise_gives_each_pair_its_own_link() -> None:
    plan = build({"model": "pairwise", "preset": {"kind": "uniform", "up_mbps": 10, "down_mbps": 20}})
    assert plan.model == "pairwise"
    assert plan.up_mbps.tolist() == plan.down_mbps.tolist() == [inf] * 4
    assert plan.pair(0, 1).bandwidth_mbps == 10
    assert plan.pair(0, 0).bandwidth_mbps is None


@pytest.mark.parametrize("placement", ["random", "lowest_ids"])
def test_stragglers(placement: str) -> None:
    preset = {"kind": "stragglers", "count": 7, "placement": placement}
    plan = build({"preset": preset}, 60)
    slow = sorted(plan.stragglers)
    assert (slow == list(range(7))) == (placement == "lowest_ids")
    others = [node for node in range(60) if node not in plan.stragglers]
    assert plan.up_mbps[others].tolist() == [60.0] * 53
    assert np.array_equal(plan.up_mbps, plan.down_mbps)
    bandwidths = plan.up_mbps[slow]
    assert np.array_equal(bandwidths, np.rint(bandwidths))
    assert np.all((bandwidths >= 8) & (bandwidths <= 16))
    again = build({"preset": preset}, 60)
    assert np.array_equal(again.up_mbps, plan.up_mbps)
    assert not np.array_equal(build({"preset": preset}, 60, seed=2).up_mbps, plan.up_mbps)


def test_straggler_bandwidths_have_the_stated_law() -> None:
    plan = build({"preset": {"kind": "stragglers", "count": 2000}}, 2000)
    assert plan.up_mbps.mean() == pytest.approx(12, abs=0.1)
    assert plan.up_mbps.std() == pytest.approx(np.sqrt(1 + 1 / 12), abs=0.05)


def test_stragglers_edge_cases() -> None:
    exact = build({"preset": {"kind": "stragglers", "count": 1, "bandwidth_mbps": 2, "jitter_mbps": 0}})
    assert min(exact.up_mbps.tolist()) == pytest.approx(0.4)
    slowest = build({"preset": {"kind": "stragglers", "count": 4, "factor": 60, "jitter_mbps": 5}})
    assert slowest.up_mbps.min() == 1
    few = build({"preset": {"kind": "stragglers", "count": 5}}, 60).stragglers
    assert few < build({"preset": {"kind": "stragglers", "count": 9}}, 60).stragglers
    pairs = build(
        {
            "model": "pairwise",
            "preset": {"kind": "stragglers", "count": 1, "jitter_mbps": 0, "placement": "lowest_ids"},
        }
    )
    assert pairs.pair(0, 1).bandwidth_mbps == pairs.pair(1, 0).bandwidth_mbps == 12
    assert pairs.pair(1, 2).bandwidth_mbps == 60
    slower = {"kind": "stragglers", "count": 1, "jitter_mbps": 0, "placement": "lowest_ids", "factor": 8}
    assert build({"preset": slower}).up_mbps.tolist() == [7.5, 60, 60, 60]
    with pytest.raises(ConfigError) as caught:
        build({"preset": {"kind": "stragglers", "count": 5}})
    assert str(caught.value) == "nodes=4: must be at least 5, as network.preset.count=5"
    with pytest.raises(ValidationError, match=r"jitter_mbps=1\.0: must be 0 where"):
        build({"preset": {"kind": "stragglers", "count": 1, "bandwidth_mbps": 2}})


def test_regions_constant_latency() -> None:
    plan = build({"model": "pairwise", "preset": {"kind": "regions"}}, 60)
    assert plan.pair_mbps is not None
    assert plan.up_mbps.tolist() == [inf] * 60
    assert plan.pair(0, 6).bandwidth_mbps == 26  # Cape Town to Tokyo
    assert plan.pair(24, 30).bandwidth_mbps == 405  # Stockholm to Milan
    assert plan.pair(0, 5).bandwidth_mbps == 1000
    assert plan.pair(0, 6).latency_ms == 1
    assert plan.pair(0, 5).latency_ms == 0.5
    between = [plan.pair_mbps[6 * i, 6 * j] for i in range(10) for j in range(i)]
    assert (min(between), float(np.median(between)), max(between)) == (21, 60, 405)
    assert np.array_equal(plan.pair_mbps, plan.pair_mbps.T)


def test_regions_rtt_and_options() -> None:
    plan = build(
        {
            "model": "pairwise",
            "preset": {
                "kind": "regions",
                "latency": "rtt",
                "intra_region_mbps": None,
                "intra_region_latency_ms": 0.1,
                "access_mbps": 100,
            },
        },
        25,
    )
    assert plan.pair(0, 24).latency_ms == 138.3
    assert plan.pair(0, 1).latency_ms == 0.1
    assert plan.pair(0, 1).bandwidth_mbps is None
    assert plan.up_mbps[3] == 100
    same = {"kind": "regions", "latency_ms": 0.5}
    assert build({"model": "pairwise", "preset": same}, 20).latency_ns == 500_000


def test_regions_have_one_source_of_latency() -> None:
    with pytest.raises(ValidationError, match=r"latency_ms=5\.0: must be left out with latency: rtt"):
        build({"model": "pairwise", "preset": {"kind": "regions", "latency": "rtt", "latency_ms": 5}})


def test_regions_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "two.json"
    fields = {"model": "pairwise", "preset": {"kind": "regions", "file": "two.json"}}
    path.write_text(json.dumps({"regions": ["a", "b"], "bandwidth_mbps": [[None, 5], [7, 50]]}))
    plan = build(fields, 4, tmp_path)
    assert plan.pair(0, 2).bandwidth_mbps == 5
    assert plan.pair(2, 0).bandwidth_mbps == 7
    assert plan.pair(0, 1).bandwidth_mbps == 1000
    assert plan.pair(2, 3).bandwidth_mbps == 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "two.json:1: must be JSON"),
        ("[]", "two.json: regions: must be a list"),
        ('{"regions": ["a"]}', "two.json: bandwidth_mbps: must be a matrix of 1 x 1"),
        ('{"regions": ["a"], "bandwidth_mbps": [[1, 2]]}', "two.json: bandwidth_mbps[0]: must be a row of 1"),
        (
            '{"regions": ["a"], "bandwidth_mbps": [[-1]]}',
            "two.json: bandwidth_mbps[0][0]=-1: must be a number",
        ),
        (None, "two.json: must be a readable text file"),
    ],
)
def test_regions_file_mistakes(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "two.json").write_text(content)
    with pytest.raises(ConfigError) as caught:
        build({"model": "pairwise", "preset": {"kind": "regions", "file": "two.json"}}, 4, tmp_path)
    assert str(caught.value).startswith(f"network.preset.file={message}")


def test_regions_need_the_pairwise_model() -> None:
    with pytest.raises(ValidationError, match=r"model=access: must be pairwise with preset.kind=regions"):
        build({"preset": {"kind": "regions"}})


def test_overrides_touch_one_direction_of_one_pair() -> None:
    plan = build(
        {
            "overrides": [
                {"source": 0, "destination": 1, "bandwidth_mbps": 5, "loss_percent": 50},
                {"source": 1, "destination": 0, "latency_ms": 9, "jitter_ms": 2},
            ]
        }
    )
    there, back, other = plan.pair(0, 1), plan.pair(1, 0), plan.pair(2, 3)
    assert (there.bandwidth_mbps, there.latency_ms, there.loss_percent) == (5, 1, 50)
    assert (back.bandwidth_mbps, back.latency_ms, back.jitter_ms) == (None, 9, 2)
    assert (other.bandwidth_mbps, other.latency_ms, other.jitter_ms, other.loss_percent) == (None, 1, 0, 0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"source": 0, "destination": 0, "latency_ms": 1}, "destination=0: must differ from source"),
        ({"source": 0, "destination": 1}, "override: must set one of"),
        ({"source": 0, "destination": 1, "loss_percent": 100}, "less than 100"),
    ],
)
def test_override_mistakes(override: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        build({"overrides": [override]})


def test_overrides_name_existing_pairs_once() -> None:
    one = {"source": 0, "destination": 1, "latency_ms": 1}
    with pytest.raises(ValidationError, match=r"overrides: pair \[0, 1\] must be given only once"):
        build({"overrides": [one, one]})
    with pytest.raises(ConfigError) as caught:
        build({"overrides": [one, {"source": 0, "destination": 4, "latency_ms": 1}]})
    assert str(caught.value) == "network.overrides[1].destination=4: must be between 0 and 3"


def test_traces(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time_s,bandwidth_mbps\n0,10\n1.5,0\n\n2,20\n")
    plan = build({"traces": [{"node": 2, "file": "t.csv"}]}, 4, tmp_path)
    assert plan.changes == (
        (0, CapacityChange("up", 2, -1, 10)),
        (0, CapacityChange("down", -1, 2, 10)),
        (1_500_000_000, CapacityChange("up", 2, -1, 0)),
        (1_500_000_000, CapacityChange("down", -1, 2, 0)),
        (2_000_000_000, CapacityChange("up", 2, -1, 20)),
        (2_000_000_000, CapacityChange("down", -1, 2, 20)),
    )
    several = [
        {"node": 0, "direction": "up", "file": "t.csv"},
        {"node": 1, "direction": "down", "file": "t.csv"},
        {"pair": [2, 3], "file": "t.csv", "repeat": True, "repeat_until_s": 3},
    ]
    changes = build({"traces": several}, 4, tmp_path).changes
    assert [at for at, _ in changes] == sorted(at for at, _ in changes)
    assert {change.kind for _, change in changes} == {"up", "down", "pair"}
    pair = [(at / 1e9, change.mbps) for at, change in changes if change.kind == "pair"]
    assert pair == [(0, 10), (1.5, 0), (2, 10), (3.5, 0)]
    assert CapacityChange("pair", 2, 3, 10) in [change for _, change in changes]


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        ({}, "node=None, pair=None: must give exactly one"),
        ({"node": 1, "pair": [0, 1]}, "must give exactly one"),
        ({"pair": [1, 1]}, r"pair=\[1, 1\]: must be two different nodes"),
        ({"pair": [0, 1], "direction": "up"}, "direction=up: must be left out with pair"),
    ],
)
def test_trace_mistakes_in_the_config(trace: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        build({"traces": [{"file": "t.csv", **trace}]})


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        ({"node": 4}, "traces[0].node=4: must be between 0 and 3"),
        ({"pair": [0, 4]}, "traces[0].pair=[0, 4]: must be between 0 and 3"),
        ({"node": 1, "file": "no.csv"}, "traces[0].file=no.csv: must be a readable text file"),
        (
            {"node": 1, "repeat": True},
            "traces[0].repeat=True: must have a first row at time 0 and a later one",
        ),
    ],
)
def test_trace_mistakes_in_the_plan(trace: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time_s,bandwidth_mbps\n1,10\n")
    with pytest.raises(ConfigError) as caught:
        build({"traces": [{"file": "t.csv", **trace}]}, 4, tmp_path)
    assert str(caught.value).startswith("network." + message)


def test_an_endless_repetition_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time_s,bandwidth_mbps\n0,10\n0.001,20\n")
    with pytest.raises(ConfigError, match=r"repeat_until_s=3600.0: must give at most 1000000 changes"):
        build({"traces": [{"node": 0, "file": "t.csv", "repeat": True}]}, 4, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv:1: header=: must be time_s,bandwidth_mbps"),
        ("time,rate\n0,1\n", "t.csv:1: header=time,rate: must be time_s,bandwidth_mbps"),
        ("time_s,bandwidth_mbps\n", "t.csv: must have at least one row"),
        ("time_s,bandwidth_mbps\n0,fast\n", "t.csv:2: row=0,fast: must be two numbers"),
        ("time_s,bandwidth_mbps\n0,1,2\n", "t.csv:2: row=0,1,2: must be two numbers"),
        ("time_s,bandwidth_mbps\n-1,1\n", "t.csv:2: time_s=-1.0: must be a number >= 0"),
        ("time_s,bandwidth_mbps\n0,-1\n", "t.csv:2: bandwidth_mbps=-1.0: must be a number >= 0"),
        ("time_s,bandwidth_mbps\n0,inf\n", "t.csv:2: bandwidth_mbps=inf: must be a number >= 0"),
        ("time_s,bandwidth_mbps\n1,1\n1,2\n", "t.csv:3: time_s=1.0: must be above the row before, 1.0"),
    ],
)
def test_a_trace_names_file_and_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_bandwidths(text, place="t.csv")
    assert str(caught.value) == message
