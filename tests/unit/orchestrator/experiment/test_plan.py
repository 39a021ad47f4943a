"""From a file to a plan: what does not fit together, and that every experiment that ships is one."""

import json
from pathlib import Path
from typing import Any

import pytest

from node.algorithms.registry import ALGORITHMS
from node.core.errors import ConfigError
from node.core.links import CapacityChange
from node.core.schedule import Place
from node.core.steps import Steps
from orchestrator.experiment.config import parse_experiment, read_experiment
from orchestrator.experiment.plan import Plan, make_plan

EXPERIMENTS = sorted((Path(__file__).resolve().parents[4] / "deploy" / "experiments").glob("*.yaml"))


def plan(base_dir: Path = Path(), nodes: int = 8, place: str = "", **sections: Any) -> Plan:
    """A plan of local training, with other sections as given."""
    content = {
        "name": "t",
        "nodes": nodes,
        "algorithm": {"kind": "local"},
        "learning": {},
        "network": {},
        "stop": {"rounds": 1},
        **sections,
    }
    return make_plan(parse_experiment(content, "f.yaml"), base_dir, place)


def algorithm(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"kind": kind, kind: parameters}


def trace(**fields: Any) -> dict[str, Any]:
    return {"traces": [{"node": 0, "file": "t.csv", **fields}]}


FILES = {
    "apart.txt": "0 1\n2 3\n",
    "far.txt": "# a comment\n0 1\n1 99\n",
    "words.txt": "0 1\n1 two\n",
    "three.txt": "0 1 2\n",
    "self.txt": "0 1\n3 3\n",
    "t.csv": "time_s,bandwidth_mbps\n0,1\n2,3\n",
    "header.csv": "time,mbps\n0,1\n",
    "words.csv": "time_s,bandwidth_mbps\n0,1\n1,fast\n",
    "negative.csv": "time_s,bandwidth_mbps\n0,-1\n",
    "nan.csv": "time_s,bandwidth_mbps\n0,nan\n",
    "back.csv": "time_s,bandwidth_mbps\n1,1\n1,2\n",
    "none.csv": "time_s,bandwidth_mbps\n",
    "late.csv": "time_s,bandwidth_mbps\n1,1\n2,2\n",
    "bad.json": "{\n  oops\n}",
    "few.json": '{"regions": ["a", "b"], "bandwidth_mbps": [[null, -1], [1, null]]}',
}

REFUSED: list[tuple[dict[str, Any], str]] = [
    # topologies
    ({"topology": {"kind": "edge_list", "file": "apart.txt"}}, "topology.kind=edge_list: must be connected, has 6"),
    ({"topology": {"kind": "edge_list", "file": "far.txt"}}, "topology.file=far.txt:3: edge=1 99: both ends must be"),
    ({"topology": {"kind": "edge_list", "file": "words.txt"}}, "topology.file=words.txt:2: edge=1 two: must be two"),
    ({"topology": {"kind": "edge_list", "file": "three.txt"}}, "topology.file=three.txt:1: edge=0 1 2: must be two"),
    ({"topology": {"kind": "edge_list", "file": "self.txt"}}, "topology.file=self.txt:2: edge=3 3: must join two"),
    ({"topology": {"kind": "edge_list", "file": "no.txt"}}, "topology.file=no.txt: must be a readable text file"),
    ({"topology": {"kind": "edge_list", "file": "a\0b"}}, "topology.file=a b: must be a readable text file"),
    ({"topology": {"kind": "torus"}, "nodes": 7}, "nodes=7: must be a product of two numbers >= 2"),
    ({"topology": {"kind": "torus", "rows": 3}}, "topology.rows"),
    (
        {"topology": {"kind": "k_regular", "degree": 3}, "nodes": 7},
        "topology.degree=3: nodes x degree = 21 must be even",
    ),
    ({"topology": {"kind": "k_regular", "degree": 8}}, "topology.degree=8: must be between 1 and nodes-1=7"),
    ({"topology": {"kind": "small_world", "degree": 3}}, "topology.degree=3: must be even"),
    ({"topology": {"kind": "ring"}, "nodes": 1}, "nodes=1: a ring needs at least 2"),
    ({"topology": {"kind": "star"}, "nodes": 1}, "nodes=1: a star needs at least 2"),
    ({"topology": {"kind": "erdos_renyi", "edge_probability": 0.001}}, "topology.edge_probability=0.001: "),
    # algorithms
    ({"algorithm": algorithm("divshare", recipients=8)}, "algorithm.divshare.recipients=8: must be at most 7"),
    ({"algorithm": algorithm("swift_divshare", recipients=8)}, "algorithm.swift_divshare.recipients=8: must be at"),
    ({"algorithm": algorithm("adpsgd_pingpong", recipients=8)}, "algorithm.adpsgd_pingpong.recipients=8: must be at"),
    ({"algorithm": algorithm("epidemic", recipients=8)}, "algorithm.epidemic.recipients=8: must be at most 7"),
    ({"algorithm": algorithm("divshare"), "topology": {"kind": "ring"}}, "algorithm.divshare.recipients=6: must be at"),
    ({"algorithm": algorithm("adpsgd")}, "algorithm.adpsgd.roles=bipartite: the topology must be bipartite"),
    (
        {"algorithm": algorithm("epidemic"), "topology": {"kind": "ring"}},
        "algorithm.kind=epidemic: the topology must be full",
    ),
    # networks
    (
        {"network": {"preset": {"kind": "stragglers", "count": 9}}},
        "nodes=8: must be at least 9, as network.preset.count=9",
    ),
    (
        {"network": {"overrides": [{"source": 0, "destination": 8, "latency_ms": 1}]}},
        "network.overrides[0].destination=8",
    ),
    ({"network": trace(file="no.csv")}, "network.traces[0].file=no.csv: must be a readable text file"),
    ({"network": trace(node=8)}, "network.traces[0].node=8: must be between 0 and 7"),
    ({"network": trace(node=None, pair=[0, 8])}, "network.traces[0].pair=[0, 8]: must be between 0 and 7"),
    ({"network": trace(file="header.csv")}, "network.traces[0].file=header.csv:1: header=time,mbps: must be time_s"),
    ({"network": trace(file="words.csv")}, "network.traces[0].file=words.csv:3: row=1,fast: must be two numbers"),
    ({"network": trace(file="negative.csv")}, "network.traces[0].file=negative.csv:2: bandwidth_mbps=-1.0: must be"),
    ({"network": trace(file="nan.csv")}, "network.traces[0].file=nan.csv:2: bandwidth_mbps=nan: must be a number"),
    ({"network": trace(file="back.csv")}, "network.traces[0].file=back.csv:3: time_s=1.0: must be above the row"),
    ({"network": trace(file="none.csv")}, "network.traces[0].file=none.csv: must have at least one row"),
    (
        {"network": trace(file="late.csv", repeat=True)},
        "network.traces[0].repeat=True: must have a first row at time 0",
    ),
    ({"network": trace(repeat=True, repeat_until_s=1e8)}, "network.traces[0].repeat_until_s=100000000.0: must give at"),
    (
        {"network": {"model": "pairwise", "preset": {"kind": "regions", "file": "bad.json"}}},
        "network.preset.file=bad.json:2: must be JSON",
    ),
    (
        {"network": {"model": "pairwise", "preset": {"kind": "regions", "file": "few.json"}}},
        "network.preset.file=few.json: bandwidth_mbps[0][1]=-1: must be a number above 0",
    ),
    # compute
    (
        {"compute": {"stragglers": {"count": 9, "factor": 2}}},
        "nodes=8: must be at least 9, as compute.stragglers.count=9",
    ),
    ({"compute": {"slowdown": {8: 2}}}, "compute.slowdown.8: must be a node between 0 and 7"),
    ({"compute": {"slowdown": {-1: 2}}}, "compute.slowdown.-1: must be a node between 0 and 7"),
    ({"compute": {"slowdown": {3: 0.5}}}, "compute.slowdown.3=0.5: must be at least 1"),
    # the schedule
    (
        {"schedule": [{"action": "isolate", "nodes": 8}]},
        "schedule[0].nodes=8: must be between 0 and 7",
    ),
    (
        {"schedule": [{"action": "isolate", "nodes": "stragglers"}]},
        "schedule[0].nodes=stragglers: must be nodes that are there",
    ),
    (
        {"schedule": [{"action": "isolate", "nodes": 0, "at_s": 5}], "stop": {"time_s": 4}},
        "schedule[0].at_s=5: must be below stop.time_s=4",
    ),
    (
        {"schedule": [{"action": "trace", "nodes": 0, "file": "back.csv"}]},
        "schedule[0].file=back.csv:3: time_s=1.0: must be above the row before, 1.0",
    ),
    (
        {
            "schedule": [{"action": "isolate", "nodes": 0}],
            "runtime": "processes",
            "network": {"links": "direct", "preset": {"kind": "uniform", "bandwidth_mbps": None, "latency_ms": 0}},
        },
        "schedule[0].action=isolate: must be absent with network.links=direct",
    ),
    (
        {
            "schedule": [
                {"action": "slow_cpu", "nodes": 3, "factor": 1e6},
                {"action": "slow_cpu", "nodes": 3, "factor": 1e4},
            ],
            "compute": {"step_time_ms": 1000},
        },
        "schedule: slow_cpu must have smaller factors: at speed 1e-10 a round of node 3 takes 1.6e+11 s, may take",
    ),
    # learning
    ({"learning": {"model": {"kind": "gn_lenet"}}}, "learning.model.kind=gn_lenet: needs images of 3x32x32"),
    (
        {"learning": {"dataset": {"kind": "movielens"}}},
        "learning.model.kind=cnn: learning.dataset.kind=movielens needs",
    ),
    ({"learning": {"partition": {"kind": "by_user"}}}, "learning.partition.kind=by_user: needs ratings"),
    ({"output": {"targets": [0.5, 90]}}, "output.targets[1]=90: must be an accuracy between 0 and 1"),
]
REFUSED += [
    (
        {
            "algorithm": algorithm(kind, **({"recipients": 2} if kind == "epidemic" else {})),
            "topology": {"kind": "complete_bipartite" if kind == "adpsgd" else "full"},
            "network": {"transport": "datagram", "preset": {"kind": "uniform", "loss_percent": 1}},
        },
        f"network.transport=datagram: {kind} stops for good when a message is lost",
    )
    for kind, entry in ALGORITHMS.items()
    if entry.config.needs_every_message
]
REFUSED.append(
    (
        {
            "algorithm": algorithm("dpsgd"),
            "network": {"transport": "datagram"},
            "schedule": [{"action": "degrade", "nodes": 0, "loss_percent": 1}],
        },
        "network.transport=datagram: dpsgd stops for good when a message is lost, as under schedule; must be reliable",
    )
)


CRASH = {"schedule": [{"action": "isolate", "nodes": 1}, {"action": "crash", "nodes": 0, "at_s": 1, "for_s": 1}]}
REFUSED += [
    (
        {**CRASH, "algorithm": algorithm("dpsgd"), "stop": {"time_s": 9}},
        "schedule[1].action=crash: must be absent with algorithm.kind=dpsgd, which waits for every message and would"
        " stop for good; or set algorithm.dpsgd.on_missing_peer: skip",
    ),
    (
        {**CRASH, "algorithm": algorithm("dpsgd", on_missing_peer="skip"), "stop": {"time_s": 9, "rounds": 3}},
        "stop.rounds=3: must be left out with schedule[1].action=crash and algorithm.kind=dpsgd: a node that was away",
    ),
]


@pytest.mark.parametrize(("sections", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_what_does_not_fit_is_refused(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        plan(tmp_path, place="f.yaml", **sections)
    assert str(caught.value).startswith(f"f.yaml: {message}")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        plan(tmp_path, **sections)
    assert str(caught.value).startswith(message)


def test_a_model_with_fewer_parameters_than_fragments_is_refused_when_it_is_known() -> None:
    tiny = plan(algorithm=algorithm("divshare", omega=1e-6, recipients=2), place="f.yaml")
    with pytest.raises(ConfigError) as caught:
        tiny.algorithms((300, 10))
    assert str(caught.value).startswith("algorithm.divshare.omega=1e-06: gives 1000000 fragments, must be at most 300")


def test_compute_stragglers() -> None:
    lowest = plan(compute={"step_time_ms": 2, "stragglers": {"count": 3, "factor": 4, "placement": "lowest_ids"}})
    assert lowest.compute.step_ns == (8_000_000,) * 3 + (2_000_000,) * 5
    assert lowest.stragglers == {0, 1, 2}
    drawn = plan(compute={"stragglers": {"count": 3, "factor": 4}})
    assert sorted(drawn.compute.step_ns) == [20_000_000] * 5 + [80_000_000] * 3
    assert drawn.stragglers == plan(compute={"stragglers": {"count": 3, "factor": 2}}).stragglers
    network = {"preset": {"kind": "stragglers", "count": 2}}
    same = plan(network=network, compute={"stragglers": {"factor": 4, "placement": "same_as_network"}})
    assert same.compute.stragglers == same.network.stragglers == same.stragglers
    assert len(same.stragglers) == 2
    single = plan(compute={"slowdown": {5: 1.5, 6: 1}, "stragglers": {"count": 8, "factor": 2}})
    assert single.compute.step_ns[5] == 60_000_000
    assert plan(compute={"slowdown": {5: 1.5, 6: 1}}).stragglers == {5}


def test_a_schedule_is_within_the_network_and_the_compute_speed() -> None:
    made = plan(
        schedule=[
            {"action": "degrade", "nodes": "stragglers", "direction": "up", "bandwidth_factor": 0.5, "at_s": 1},
            {"action": "slow_cpu", "nodes": "stragglers", "factor": 4, "at_s": 2, "for_s": 1},
            {"action": "degrade", "pairs": [[0, 1]], "latency_ms": 9},
        ],
        compute={"stragglers": {"count": 1, "factor": 2, "placement": "lowest_ids"}},
        stop={"time_s": 10},
    )
    assert made.network.changes == ((10**9, CapacityChange("up", 0, -1, 30)),)
    assert made.network.path(0, 1).latency_ns == 10_000_000
    assert made.compute.speeds == {0: Steps(1.0, (2 * 10**9, 3 * 10**9), (0.25, 1.0))}
    assert [entry.nodes for entry in made.entries] == [(0,), (0,), ()]
    assert made.schedule.links[0].place == Place("up", 0, -1)
    assert made.describe()["schedule"] == "3 entries: 2 degrade, 1 slow_cpu"
    assert made.describe()["uplinks"] == "60 Mbit/s"
    assert plan().describe()["schedule"] == "none"
    assert not plan().schedule


@pytest.mark.parametrize("kind", [kind for kind, entry in ALGORITHMS.items() if entry.config.needs_every_message])
def test_nodes_may_end_where_algorithms_go_on_without_them(kind: str) -> None:
    """Only synchronous ones wait for nodes that have done more rounds."""
    entry = ALGORITHMS[kind].config
    given = algorithm(
        kind, **entry.small_run, on_missing_peer="skip", **({"roles": "parity"} if kind == "adpsgd" else {})
    )
    stop = {"time_s": 9} if entry.is_synchronous else {"time_s": 9, "rounds": 3}
    assert plan(algorithm=given, stop=stop, **CRASH).schedule.nodes


def test_loss_under_a_schedule_is_no_matter_where_it_is_made_good() -> None:
    lossy = [{"action": "degrade", "nodes": 0, "loss_percent": 1}]
    assert plan(algorithm=algorithm("dpsgd"), schedule=lossy).network.may_lose
    assert plan(network={"transport": "datagram"}, schedule=lossy).network.may_lose
    late = [{"action": "degrade", "nodes": 0, "latency_ms": 1}]
    assert not plan(algorithm=algorithm("dpsgd"), network={"transport": "datagram"}, schedule=late).network.may_lose


def devices(folder: Path, *sample_ms: float) -> Path:
    """Write a file of devices that take so long for a sample."""
    content = {str(number): {"computation": ms, "communication": 1e3 * ms} for number, ms in enumerate(sample_ms)}
    (folder / "d.json").write_text(json.dumps(content))
    return folder


def test_devices_take_the_time_of_their_samples(tmp_path: Path) -> None:
    """A local step is training, three times inference, of a batch."""
    folder = devices(tmp_path, 2, 5, 0.5)
    given = {"learning": {"batch_size": 4}, "compute": {"capacities": {"file": "d.json"}}}
    made = plan(base_dir=folder, **given)
    assert made.compute.step_ns == tuple(int(ms * 1e6) for ms in (24, 60, 6) * 2 + (24, 60))
    assert made.compute.stragglers == frozenset()
    assert [found.name for found in made.inputs] == ["d.json"]
    slow = {"capacities": {"file": "d.json", "factor": 1}, "slowdown": {1: 2}}
    made = plan(base_dir=folder, **{**given, "compute": slow})
    assert made.compute.step_ns[:3] == (8_000_000, 40_000_000, 2_000_000)
    assert made.compute.stragglers == {1}


def test_a_drawn_device_is_the_same_in_compute_and_network(tmp_path: Path) -> None:
    folder = devices(tmp_path, *range(1, 30))
    device = {"file": "d.json", "clients": "drawn"}
    made = plan(
        base_dir=folder,
        learning={"batch_size": 1},
        compute={"capacities": {**device, "factor": 1}},
        network={"preset": {"kind": "capacities", **device}},
    )
    assert [ns / 1e6 for ns in made.compute.step_ns] == made.network.up_mbps.tolist()
    assert len(set(made.compute.step_ns)) == 8
    assert made.describe()["compute"].startswith(f"{min(made.compute.step_ns) / 1e6:g} to ")


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"capacities": {"file": "x.json"}}, "compute.capacities.file=x.json: must be a readable text file ("),
        ({"capacities": {"file": "bad.json"}}, "compute.capacities.file=bad.json: client a: computation: missing"),
        (
            {"capacities": {"file": "d.json", "factor": 1e6}},
            "compute.capacities.factor=1e+06: must be less: a local step takes 8e+15 ms, may take 1e+12",
        ),
        (
            {"capacities": {"file": "d.json"}, "step_time_ms": 5},
            "compute.step_time_ms=5: must be left out with capacities, which set it",
        ),
        (
            {"capacities": {"file": "d.json", "clients": "all"}},
            "compute.capacities.clients=all: must be one of in_order or drawn",
        ),
    ],
    ids=str,
)
def test_devices_that_cannot_be(compute: dict[str, Any], message: str, tmp_path: Path) -> None:
    devices(tmp_path, 1e9)
    (tmp_path / "bad.json").write_text('{"a": {"communication": 5}}')
    with pytest.raises(ConfigError) as caught:
        plan(base_dir=tmp_path, compute=compute)
    assert str(caught.value).removeprefix("f.yaml: ").startswith(message), str(caught.value)


def test_an_algorithm_that_waits_is_refused_where_a_file_takes_nodes_away(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"1": {"active": [1], "inactive": [2], "finish_time": 3}}')
    entry = {"action": "availability", "file": "a.json", "nodes": [0], "for_s": 2}
    slow = {"action": "slow_cpu", "nodes": 0, "factor": 2}
    with pytest.raises(
        ConfigError, match=r"^schedule\[1\]\.action=availability: must be absent with algorithm.kind=dpsgd"
    ):
        plan(base_dir=tmp_path, algorithm=algorithm("dpsgd"), schedule=[slow, entry])
    made = plan(base_dir=tmp_path, algorithm=algorithm("dpsgd"), schedule=[slow, {**entry, "inactive": "pause"}])
    assert [found.name for found in made.inputs] == ["a.json"]
    assert made.describe()["schedule"] == "2 entries: 1 slow_cpu, 1 availability"


def test_the_plan_in_words() -> None:
    rows = plan(
        algorithm=algorithm("divshare", recipients=2),
        network={
            "preset": {"kind": "stragglers", "count": 2, "jitter_mbps": 0},
            "sender": {"kind": "parallel", "transfers": 3},
        },
        stop={"time_s": 5, "rounds": 2},
    ).describe()
    assert rows["algorithm"].startswith("divshare (omega 0.1, recipients 2")
    assert rows["topology"] == "full, degree 7"
    assert rows["uplinks"] == "12 to 60 Mbit/s"
    assert rows["sender"] == "3 parallel transfers, reliable transport"
    assert rows["stop"] == "5 s or 2 rounds"
    assert len(rows["stragglers"].split(", ")) == 2
    assert plan(network={"preset": {"kind": "uniform", "bandwidth_mbps": None}}).describe()["uplinks"] == "unlimited"
    assert plan().sizes(1000)["a whole model"] == "4,000 bytes"


def test_experiments_ship() -> None:
    assert {file.stem for file in EXPERIMENTS} >= {"quickstart", "cifar10-stragglers"}


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
@pytest.mark.parametrize("kind", ALGORITHMS)
def test_every_experiment_has_a_plan_for_every_algorithm(kind: str, file: Path) -> None:
    """Changing one key turns an experiment into its baseline."""
    made = make_plan(read_experiment(file, [f"algorithm.kind={kind}"]), file.parent)
    assert len(made.algorithms((10_000,))) == made.config.nodes
    assert made.describe()["algorithm"].startswith(kind)


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_experiment_says_what_it_is(file: Path) -> None:
    first = file.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 40
    assert read_experiment(file).name == file.stem
