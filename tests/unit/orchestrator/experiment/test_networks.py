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
from orchestrator.experiment.networks import NetworkConfig, build_network, presets
from orchestrator.experiment.networks.profiles import BUILT_IN
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


# -- measured access links -------------------------------------------------------------------------------------------


def profiles(folder: Path, shares: dict[str, float], nodes: int = 4, seed: int = 1, **more: Any) -> NetworkPlan:
    return build({"preset": {"kind": "profiles", "shares": shares, **more}}, nodes, folder, seed)


def test_every_profile_that_comes_along_names_its_sources() -> None:
    content = json.loads((Path(presets.__file__).parent / BUILT_IN).read_text())
    figures = [
        figure for profile in content["profiles"].values() for name, figure in profile.items() if name != "about"
    ]
    assert {figure["source"] for figure in figures} == set(content["sources"])
    assert all(len(text) > 40 and "." in text for text in content["sources"].values())
    assert all(profile["about"] for profile in content["profiles"].values())
    families = {name.split("_")[0] for name in content["profiles"]}
    assert families == {"residential", "mobile", "satellite"}


@pytest.mark.parametrize(
    ("profile", "up", "down", "rtt"),
    [
        ("residential_dsl", 0.384, 1.5, 50),
        ("residential_cable", 1, 5, 28),
        ("residential_fiber", 5, 20, 4),
        ("residential_median", 17.18, 115.22, 14),
        ("satellite_geo", 2.905, 18.93, 677),
        ("satellite_leo", 13.54, 87.25, 50),
        ("mobile_3g", 2.3, 11.5, 98.8),
        ("mobile_4g", 3.95, 21.5, 91.8),
        ("mobile_5g", 14.56, 196.43, 52),
    ],
)
def test_the_middle_of_each_profile(profile: str, up: float, down: float, rtt: float, tmp_path: Path) -> None:
    plan = profiles(tmp_path, {profile: 1}, figures="median")
    assert plan.up_mbps.tolist() == pytest.approx([up] * 4)
    assert plan.down_mbps.tolist() == pytest.approx([down] * 4)
    assert plan.latency_ns == pytest.approx(rtt * 1e6)  # half of both nodes' round trips, and one number for all
    assert (plan.jitter_ns != 0) == (profile in ("mobile_3g", "mobile_4g"))
    assert plan.stragglers == frozenset()


def test_figures_are_drawn_from_the_source_s_distribution(tmp_path: Path) -> None:
    plan = profiles(tmp_path, {"satellite_leo": 1}, nodes=2_000)
    down = np.sort(plan.down_mbps)
    assert (down[0], down[-1]) == (pytest.approx(46.63, abs=0.5), pytest.approx(146.58, abs=0.5))
    assert np.median(down) == pytest.approx(87.25, abs=2)
    assert set(plan.up_mbps.tolist()) == {13.54}
    assert isinstance(plan.latency_ns, np.ndarray)
    round_trips = np.diag(plan.latency_ns) / 1e6
    assert np.quantile(round_trips, [0, 0.25, 0.5, 1]) == pytest.approx([20, 40, 50, 60], abs=1.5)
    again, other = (profiles(tmp_path, {"satellite_leo": 1}, nodes=2_000, seed=seed) for seed in (1, 2))
    assert np.array_equal(again.down_mbps, plan.down_mbps)
    assert not np.array_equal(other.down_mbps, plan.down_mbps)


def test_the_rates_of_a_link_go_together(tmp_path: Path) -> None:
    plan = profiles(tmp_path, {"mobile_4g": 1}, nodes=200)
    assert np.array_equal(np.argsort(plan.up_mbps), np.argsort(plan.down_mbps))


def test_nodes_are_dealt_by_their_shares(tmp_path: Path) -> None:
    shares = {"residential_fiber": 2, "residential_dsl": 1, "residential_cable": 0.5}
    in_order = profiles(tmp_path, shares, nodes=10, placement="in_order")
    assert in_order.up_mbps.tolist() == [5] * 6 + [0.384] * 3 + [1]
    drawn = profiles(tmp_path, shares, nodes=10)
    assert sorted(drawn.up_mbps.tolist()) == sorted(in_order.up_mbps.tolist())
    assert drawn.up_mbps.tolist() != in_order.up_mbps.tolist()


def test_a_path_meets_both_access_links(tmp_path: Path) -> None:
    figure = {"source": "s", "value": 8}
    given = {"down_mbps": figure, "up_mbps": figure, "rtt_ms": {"source": "s", "value": 20}}
    lossy = {"rtt_jitter_ms": {"source": "s", "value": 10}, "loss_percent": {"source": "s", "value": 10}}
    content = {"sources": {"s": "made up"}, "profiles": {"plain": given, "lossy": {**given, **lossy}}}
    (tmp_path / "p.json").write_text(json.dumps(content))
    plan = profiles(tmp_path, {"plain": 1, "lossy": 1}, nodes=4, file="p.json", placement="in_order")
    assert plan.path(0, 2).latency_ns == 20_000_000
    assert plan.path(0, 1).loss == 0
    assert plan.path(0, 2).loss == pytest.approx(0.1)
    assert plan.path(2, 3).loss == pytest.approx(0.19)
    assert plan.path(0, 2).jitter_ns == pytest.approx(10e6 / np.sqrt(2), rel=1e-6)
    assert plan.path(2, 3).jitter_ns == pytest.approx(10e6, rel=1e-6)
    there_and_back = np.hypot(plan.path(2, 0).jitter_ns, plan.path(0, 2).jitter_ns)
    assert there_and_back == pytest.approx(10e6, rel=1e-6), "that of the one link's round trip"


FIGURE = {"source": "s", "value": 1}
PROFILE = {"down_mbps": FIGURE, "up_mbps": FIGURE, "rtt_ms": FIGURE}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "1: must be JSON (Expecting property name enclosed in double quotes)"),
        ("[]", " sources: must be an object"),
        ({"sources": {}}, " profiles: must be an object"),
        ({"sources": {}, "profiles": {}}, " profiles: must be 1 to 5,000, are 0"),
        ({"p": 3}, " p: must be an object, is 3"),
        ({"p": {**PROFILE, "mtu": FIGURE}}, " p: mtu: unknown figure; known are about, down_mbps, up_mbps, rtt_ms,"),
        ({"p": {"down_mbps": FIGURE, "up_mbps": FIGURE}}, " p: rtt_ms: missing"),
        ({"p": {**PROFILE, "rtt_ms": 3}}, " p: rtt_ms=3: must be an object with source, and value or quantiles"),
        ({"p": {**PROFILE, "rtt_ms": {"value": 3}}}, " p: rtt_ms={'value': 3}: must be an object with source, and"),
        (
            {"p": {**PROFILE, "rtt_ms": {"value": 3, "source": "x"}}},
            " p: rtt_ms.source=x: must be one of the file's sources",
        ),
        (
            {"p": {**PROFILE, "up_mbps": {"value": 0, "source": "s"}}},
            " p: up_mbps.value=0: must be a number, at least 1e-06 and at most 1e+09",
        ),
        (
            {"p": {**PROFILE, "loss_percent": {"value": "1", "source": "s"}}},
            " p: loss_percent.value=1: must be a number, at least 0 and at most 99",
        ),
        (
            {"p": {**PROFILE, "rtt_ms": {"quantiles": [], "source": "s"}}},
            " p: rtt_ms.quantiles=[]: must be a list of [share, value]",
        ),
        (
            {"p": {**PROFILE, "rtt_ms": {"quantiles": [[0, 1], 2], "source": "s"}}},
            " p: rtt_ms.quantiles[1]=2: must be [share, value]",
        ),
        (
            {"p": {**PROFILE, "rtt_ms": {"quantiles": [[1.5, 1]], "source": "s"}}},
            " p: rtt_ms.quantiles[0]=1.5: must be a number, at least 0 and at most 1",
        ),
        (
            {"p": {**PROFILE, "rtt_ms": {"quantiles": [[0.5, 1], [0.5, 2]], "source": "s"}}},
            " p: rtt_ms.quantiles[1]=[0.5, 2]: must have a share above the one before, 0.5",
        ),
        (
            {"p": {**PROFILE, "rtt_ms": {"quantiles": [[0.5, 3], [1, 2]], "source": "s"}}},
            " p: rtt_ms.quantiles[1]=[1, 2]: must have a value at least that of the one before, 3",
        ),
        ({"q": PROFILE}, None),
    ],
    ids=str,
)
def test_a_wrong_file_of_profiles(content: Any, message: str | None, tmp_path: Path) -> None:
    if isinstance(content, dict) and "sources" not in content:
        content = {"sources": {"s": "made up"}, "profiles": content}
    (tmp_path / "p.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        profiles(tmp_path, {"p": 1}, file="p.json")
    expected = f"preset.file=p.json:{message}" if message else "preset.shares.p: must be one of q"
    assert str(caught.value).startswith(f"network.{expected}"), str(caught.value)


def test_shares_that_cannot_be(tmp_path: Path) -> None:
    for shares in ({}, {"mobile_4g": 0}, {"mobile_4g": -1}):
        with pytest.raises(ValidationError):
            profiles(tmp_path, shares)


# -- regions ---------------------------------------------------------------------------------------------------------


def test_regions_with_pinged_round_trips() -> None:
    plan = build({"model": "pairwise", "preset": {"kind": "regions", "latency": "pinged"}}, 60)
    assert plan.path(0, 6).latency_ns == 176_500_000  # Cape Town to Tokyo: half of 353 ms
    assert plan.path(6, 0).latency_ns == 179_000_000  # and back: half of 358 ms
    assert plan.path(48, 54).latency_ns == 26_000_000  # Ohio to Oregon
    assert plan.path(0, 1).latency_ns == 500_000
    with pytest.raises(ValidationError, match=r"latency_ms=3\.0: must be left out with latency: pinged"):
        build({"model": "pairwise", "preset": {"kind": "regions", "latency": "pinged", "latency_ms": 3}})


# -- capacities of devices -------------------------------------------------------------------------------------------


def test_capacities_of_devices(tmp_path: Path) -> None:
    content = {str(client): {"computation": 50, "communication": 1000 * client} for client in (5, 2, 9)}
    (tmp_path / "d.json").write_text(json.dumps(content))
    preset = {"kind": "capacities", "file": "d.json", "latency_ms": 7, "jitter_ms": 2, "loss_percent": 3}
    plan = build({"preset": preset}, 4, tmp_path)
    assert plan.up_mbps.tolist() == plan.down_mbps.tolist() == [5, 2, 9, 5]
    assert (plan.latency_ns, plan.jitter_ns, plan.loss) == (7_000_000, 2_000_000, 0.03)
    drawn = build({"preset": {**preset, "clients": "drawn"}}, 3, tmp_path).up_mbps.tolist()
    assert sorted(drawn) == [2, 5, 9]
    assert {tuple(build({"preset": {**preset, "clients": "drawn"}}, 3, tmp_path, s).up_mbps) for s in range(9)} > {
        tuple(drawn)
    }
    (tmp_path / "d.json").write_text('{"1": {"computation": 1}}')
    with pytest.raises(ConfigError) as caught:
        build({"preset": preset}, 4, tmp_path)
    assert str(caught.value) == "network.preset.file=d.json: client 1: communication: missing"


# -- experiments of Kollaps ------------------------------------------------------------------------------------------

STAR = """<experiment><services><service name="a" replicas="2"/><service name="b"/></services>
<bridges><bridge name="s"/></bridges><links>
<link origin="a" dest="s" latency="5" jitter="3" drop="0.1" upload="10Mbps" download="20Mbps"/>
<link origin="b" dest="s" latency="1" upload="500Kbps" download="2Mbps"/></links></experiment>"""


def star(folder: Path, text: str = STAR, nodes: int = 3, **more: Any) -> NetworkPlan:
    (folder / "k.xml").write_text(text)
    return build({"preset": {"kind": "kollaps", "file": "k.xml"}, **more}, nodes, folder)


def test_the_star_of_a_kollaps_experiment(tmp_path: Path) -> None:
    plan = star(tmp_path)
    assert plan.up_mbps.tolist() == [10, 10, 0.5]
    assert plan.down_mbps.tolist() == [20, 20, 2]
    assert (plan.path(0, 1).latency_ns, plan.path(0, 2).latency_ns) == (10_000_000, 6_000_000)
    assert plan.path(0, 1).jitter_ns == pytest.approx(np.sqrt(18) * 1e6, rel=1e-6)
    assert plan.path(0, 1).loss == pytest.approx(0.19)
    assert plan.path(2, 1).loss == pytest.approx(0.1)
    pairwise = star(tmp_path, model="pairwise")
    assert pairwise.pair(0, 2).bandwidth_mbps == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<experiment>", "<experiment", "1: must be XML"),
        ('replicas="2"', 'replicas="3"', " services have 4 replicas: must be as many as nodes=3"),
        ("</bridges>", '<bridge name="t"/></bridges>', " bridges: must be one that all services share, are 2"),
        (
            "</links>",
            '<link origin="a" dest="b" latency="1" upload="1Mbps"/></links>',
            " link a to b: must begin or end at",
        ),
        (' download="2Mbps"', "", " link s to b: missing: each service must have both ways"),
        ("500Kbps", "0Kbps", " link b to s: must have a bandwidth above 0"),
    ],
)
def test_a_kollaps_experiment_that_is_no_star(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        star(tmp_path, STAR.replace(old, new))
    assert str(caught.value).startswith(f"network.preset.file=k.xml:{message}"), str(caught.value)
